/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes a number into each page from 2 MiB to 50 MiB in order, then the next number, for ever. At
 * every moment some pages have one number and all behind them the one before: a copy of memory
 * that is not of one moment shows. Tells when it has begun the second number; every input byte ends
 * it.
 */
#include "guest.inc"
#define FIRST 0x200000
#define LAST  0x3200000
start:	mov $1, %r8d
1:	mov $FIRST, %edi
2:	mov %r8, (%rdi)
	add $4096, %edi
	cmp $LAST, %edi
	jb 2b
	inc %r8
	cmp $2, %r8d
	jne 3f
	puts msg
3:	mov $COM1_LSR, %dx
	in %dx, %al
	test $1, %al
	jz 1b
	reset
msg:	.asciz "ready\n"
