/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts in each page from 2 MiB to 18 MiB, one after the other, for ever, and looks first whether the page
 * has what it left there the last time: memory that is not of one moment shows at once, and so does a
 * page that was lost. Says "ready" behind the first round, and "broken" if it found that. An input byte 'q' ends it;
 * it says every other one again.
 */
#include "guest.inc"
#define FIRST 0x200000
#define LAST  0x1200000
start:	xor %r8d, %r8d
1:	mov $FIRST, %edi
2:	cmp %r8, (%rdi)
	jne broken
	cmp %r8, 2048(%rdi)
	jne broken
	incq (%rdi)
	incq 2048(%rdi)
	add $4096, %edi
	cmp $LAST, %edi
	jae 3f
	test $0x3ffff, %edi
	jnz 2b
	mov $COM1_LSR, %dx
	in %dx, %al
	test $1, %al
	jz 2b
	mov $COM1, %dx
	in %dx, %al
	cmp $'q', %al
	je end
	out %al, %dx
	jmp 2b
3:	inc %r8
	cmp $1, %r8
	jne 1b
	puts ready
	jmp 1b
broken:	puts bad
end:	reset
ready:	.asciz "ready\n"
bad:	.asciz "broken\n"
