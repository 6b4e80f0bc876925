/* SPDX-License-Identifier: Apache-2.0 */
/* Sleeps for ever: what an idle microVM costs. */
#include "guest.inc"
start:	puts msg
	cli
1:	hlt
	jmp 1b
msg:	.asciz "idle\n"
