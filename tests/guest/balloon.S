/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver of a balloon, the first virtio device, in a guest of at least 1152 MiB: says "ready", and
 * does what each byte of input says: 't' writes to each page of the GiB from 128 MiB on and says "f";
 * 'c' gives all of them up, 256 in a request as Linux does, in ascending order, and 's' every other one
 * and then the others; both say "d". Ends at a 'q'.
 */
#include "guest.inc"
#define DEVICE	0xc0001000
#define FIRST	0x8000
#define PAGES	0x40000
#define REQUEST 256

	/* From page \first on every \step-th one. */
	.macro inflate first, step
	mov $\first, %r11d
	mov $\step, %r10d
	mov $(PAGES / REQUEST / \step), %r12d
	call give_up
	.endm

start:	map_mmio
	map_gib 1
	negotiate DEVICE
	drive 2
	puts ready

next:	getc
	cmp $'t', %al
	je touch
	cmp $'c', %al
	je ascending
	cmp $'s', %al
	je scattered
	cmp $'q', %al
	jne next
	reset

touch:	mov $(FIRST << 12), %rdi
	mov $PAGES, %ecx
1:	mov %rdi, (%rdi)
	add $4096, %rdi
	dec %ecx
	jnz 1b
	puts filled
	jmp next

ascending:
	inflate FIRST, 1
	puts done
	jmp next

scattered:
	inflate FIRST, 2
	inflate FIRST + 1, 2
	puts done
	jmp next

give_up:
	mov $pages, %rdi
	mov $REQUEST, %ecx
1:	mov %r11d, (%rdi)
	add %r10d, %r11d
	add $4, %rdi
	dec %ecx
	jnz 1b
	incw available + 2
	mfence
	reg 0x50, $0
	mov available + 2, %ax
2:	pause
	cmp %ax, used + 2
	jne 2b
	dec %r12d
	jnz give_up
	ret

ready:	.asciz "ready\n"
filled:	.asciz "f\n"
done:	.asciz "d\n"

	.pushsection .data
	.balign 16
descriptors:
	.quad pages
	.long 4 * REQUEST
	.word 0, 0
	.skip 16
available:
	.word 1, 0, 0, 0, 0		/* no interrupts */
	.popsection
	.pushsection .bss
pages:	.skip 4 * REQUEST
used:	.skip 64
	.popsection
