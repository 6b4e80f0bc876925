/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads from the first virtio device, a disk of at least 256 KiB, as fast as it can, for ever: 64
 * requests of 256 KiB at a time, all into the same buffer. Says "r" when the first have come.
 */
#include "guest.inc"
#define DEVICE	 0xc0001000
#define REQUESTS 64
#define ENTRIES	 256
#define BYTES	 0x40000

start:	map_mmio
	negotiate DEVICE
	drive ENTRIES

	/* Chains of header, data and status, and a ring that names each of them four times. */
	lea descriptors(%rip), %rdi
	xor %ecx, %ecx
1:	lea 1(%ecx), %eax
	movq $header, (%rdi)
	movl $16, 8(%rdi)
	movw $1, 12(%rdi)		/* NEXT */
	mov %ax, 14(%rdi)
	inc %eax
	movq $data, 16(%rdi)
	movl $BYTES, 24(%rdi)
	movw $3, 28(%rdi)		/* NEXT, WRITE */
	mov %ax, 30(%rdi)
	movq $status, 32(%rdi)
	movl $1, 40(%rdi)
	movw $2, 44(%rdi)		/* WRITE */
	add $48, %rdi
	add $3, %ecx
	cmp $(3 * REQUESTS), %ecx
	jne 1b
	lea (available + 4)(%rip), %rdi
	xor %ecx, %ecx
2:	mov %ecx, %eax
	and $(REQUESTS - 1), %eax
	lea (%rax, %rax, 2), %eax
	mov %ax, (%rdi)
	add $2, %rdi
	inc %ecx
	cmp $ENTRIES, %ecx
	jne 2b
	movw $1, available(%rip)	/* no interrupts */
	mov $'r', %r9d
	xor %ebx, %ebx

3:	add $REQUESTS, %bx
	mov %bx, (available + 2)(%rip)
	reg 0x50, $0
4:	pause
	cmp %bx, (used + 2)(%rip)
	jne 4b
	test %r9d, %r9d
	jz 3b
	putc $'r'
	xor %r9d, %r9d
	jmp 3b

	.bss
	.balign 4096
descriptors: .skip 16 * ENTRIES
available:   .skip 4 + 2 * ENTRIES + 2
	.balign 4096
used:	.skip 4 + 8 * ENTRIES + 2	/* in this page nobody else writes */
	.balign 4096
header:	.skip 16
status:	.skip 16
	.balign 4096
data:	.skip BYTES
