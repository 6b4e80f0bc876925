/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver of two devices that may be placeholders: a drive, the first virtio device, and a network
 * interface, the second. Says "ready", and for each byte of input six numbers: the drive's interrupt
 * status, which it acknowledges, its capacity, the answer to a read of its first sector and the
 * beginning of what was read; then interrupt status and link status of the interface. Ends at a 'q'.
 */
#include "guest.inc"
#define DRIVE 0xc0001000
#define NET   0xc0002000

	/* Prints the interrupt status, acknowledged. */
	.macro interrupts
	mov 0x60(%r8), %eax
	mov %eax, 0x64(%r8)
	puthex
	.endm

start:	map_mmio
	negotiate NET, 0x10000			/* STATUS */
	reg 0x70, $15
	negotiate DRIVE, 0
	drive 4
	puts ready

next:	getc
	cmp $'q', %al
	je end

	mov $DRIVE, %r8d
	interrupts
	mov 0x100(%r8), %eax
	puthex
	movl $0, data
	movb $0xee, answer
	incw available + 2
	mfence
	reg 0x50, $0
	mov available + 2, %ax
1:	cmp %ax, used + 2
	jne 1b
	movzbl answer, %eax
	puthex
	mov data, %eax
	puthex
	/* Of the request, so that the next status is about something else. */
	reg 0x64, $1
	mov $NET, %r8d
	interrupts
	movzwl 0x106(%r8), %eax
	puthex
	jmp next
end:	reset
ready:	.asciz "ready\n"

	.pushsection .data
	.balign 16
descriptors:
	.quad request
	.long 16
	.word 1, 1			/* NEXT */
	.quad data
	.long 512
	.word 3, 2			/* NEXT, WRITE */
	.quad answer
	.long 1
	.word 2, 0			/* WRITE */
available:
	.word 0, 0, 0, 0, 0, 0
	.balign 16
request: .skip 16			/* read, sector 0 */
	.popsection
	.pushsection .bss
	.balign 4096
used:	.skip 64
data:	.skip 512
answer:	.skip 16
	.popsection
