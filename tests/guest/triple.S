/* SPDX-License-Identifier: Apache-2.0 */
/* An exception without an IDT: a triple fault, exit code 1. */
#include "guest.inc"
start:	puts msg
	lidt empty(%rip)
	ud2
msg:	.asciz "faulting\n"
empty:	.word 0
	.quad 0
