/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts, and notices when anything that it has counted is lost, repeated or changed. For each number: writes
 * it to a sector of the first virtio device, a disk of 32 KiB; reads the sector of the number before;
 * keeps it in SSE registers too; looks whether the TSC and the local APIC's timer go on; says the next
 * letter. "BAD" and a letter is a complaint. A byte of input ends
 * it, with the number.
 */
#include "guest.inc"
#define DEVICE	 0xc0001000
#define APIC	 0xfee00000
#define ENTRIES	 8
#define SECTORS	 64

	/* Submits the chain that begins at descriptor \first and waits until the device is done with it. */
	.macro request first
	mov %r9d, %eax
	and $(ENTRIES - 1), %eax
	movw $\first, available + 4(, %rax, 2)
	inc %r9w
	mov %r9w, available + 2
	reg 0x50, $0
778:	pause
	cmp %r9w, used + 2
	jne 778b
	cmpb $0, status
	jne bad_disk
	movb $0xff, status
	.endm

	.macro descriptor number, address, len, flags, next
	movq $\address, descriptors + 16 * \number
	movl $\len, descriptors + 16 * \number + 8
	movw $\flags, descriptors + 16 * \number + 12
	movw $\next, descriptors + 16 * \number + 14
	.endm

start:	map_mmio
	mov %cr4, %rax
	or $0x600, %eax			/* OSFXSR, OSXMMEXCPT */
	mov %rax, %cr4
	mov %cr0, %rax
	and $~4, %eax			/* no emulation */
	mov %rax, %cr0
	negotiate DEVICE
	drive ENTRIES
	descriptor 0, header_out, 16, 1, 1
	descriptor 1, data_out, 512, 1, 2
	descriptor 2, status, 1, 2, 0
	descriptor 3, header_in, 16, 1, 4
	descriptor 4, data_in, 512, 3, 5
	descriptor 5, status, 1, 2, 0
	movl $1, header_out		/* VIRTIO_BLK_T_OUT */
	movw $1, available		/* no interrupts */
	movb $0xff, status
	xor %r9d, %r9d			/* requests */
	xor %r10d, %r10d		/* the number */
	xor %r11d, %r11d		/* TSC */
	/* The timer, masked: it counts down from its beginning again and again. */
	mov $APIC, %r12d
	movl $0x1ff, 0xf0(%r12)
	movl $0x3, 0x3e0(%r12)		/* divided by 16 */
	movl $0x30020, 0x320(%r12)
	movl $0x7fffffff, 0x380(%r12)
	movdqu zero, %xmm0
	movdqu zero, %xmm5
	movdqu zero, %xmm15

next:	inc %r10
	mov %r10, %rax
	mov $data_out, %edi
	mov $64, %ecx
	rep stosq
	mov %r10, %rax
	and $(SECTORS - 1), %eax
	mov %rax, header_out + 8
	request 0

	mov %r10, %rbx
	dec %rbx
	jz 1f
	mov %rbx, %rax
	and $(SECTORS - 1), %eax
	mov %rax, header_in + 8
	movq $0, data_in
	movq $0, data_in + 504
	request 3
	cmp %rbx, data_in
	jne bad_disk
	cmp %rbx, data_in + 504
	jne bad_disk

	/* SSE registers have the number of before in all bytes; only moves are interpreted everywhere. */
1:	movdqu %xmm0, registers
	movdqu %xmm5, registers + 16
	movdqu %xmm15, registers + 32
	mov $registers, %edi
	mov $6, %ecx
4:	cmp %rbx, (%rdi)
	jne bad_register
	add $8, %rdi
	dec %ecx
	jnz 4b
	movdqu data_out, %xmm0
	movdqu data_out, %xmm5
	movdqu data_out, %xmm15

	rdtsc
	shl $32, %rdx
	or %rdx, %rax
	cmp %r11, %rax
	jb bad_clock
	mov %rax, %r11

	mov 0x390(%r12), %ebx
	mov $1000000, %ecx
2:	mov 0x390(%r12), %eax
	cmp %eax, %ebx
	jne 3f
	dec %ecx
	jnz 2b
	jmp bad_timer

3:	mov %r10, %rax
	xor %edx, %edx
	mov $26, %ecx
	div %rcx
	lea 'a'(%rdx), %ebx
	putc %bl

	mov $COM1_LSR, %dx
	in %dx, %al
	test $1, %al
	jz next
	putc $'\n'
	mov %r10d, %eax
	puthex
	reset

	.macro complain letter
	puts bad
	putc \letter
	reset
	.endm
bad_disk: complain $'d'
bad_register: complain $'r'
bad_clock: complain $'c'
bad_timer: complain $'t'
bad:	.asciz "BAD "

	.bss
	.balign 4096
descriptors: .skip 16 * ENTRIES
available:   .skip 4 + 2 * ENTRIES + 2
	.balign 4096
used:	.skip 4 + 8 * ENTRIES + 2
	.balign 16
header_out: .skip 16
header_in: .skip 16
registers: .skip 48
zero:	.skip 16
status:	.skip 8
	.balign 512
data_out: .skip 512
data_in: .skip 512
