/* SPDX-License-Identifier: Apache-2.0 */
/* Echoes what comes on the serial line until a q comes: for input, pause and resume. */
#include "guest.inc"
start:	puts msg
wait:	getc
	cmp $'q', %al
	je quit
	out %al, %dx
	jmp wait
quit:	reset
msg:	.asciz "ready\n"
