/* SPDX-License-Identifier: Apache-2.0 */
/* Echoes what comes on the serial line until a q comes: for input, pause and resume. */
#include "guest.inc"
start:	puts msg
wait:	mov $COM1_LSR, %dx
	in %dx, %al
	test $1, %al
	jz wait
	mov $COM1, %dx
	in %dx, %al
	cmp $'q', %al
	je quit
	out %al, %dx
	jmp wait
quit:	reset
msg:	.asciz "ready\n"
