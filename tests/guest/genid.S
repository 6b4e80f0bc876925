/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waits until its generation id (VMGenID, vmm/layout.h) is another than at the start, prints the new one and sleeps for
 * ever: a clone that tells who it is.
 */
#include "guest.inc"
#define VMGENID 0xfe000
start:	mov $VMGENID, %r9
	mov (%r9), %r8
	puts msg
1:	pause
	cmp (%r9), %r8
	je 1b
	mov (%r9), %eax
	puthex
	mov 4(%r9), %eax
	puthex
	mov 8(%r9), %eax
	puthex
	mov 12(%r9), %eax
	puthex
	cli
2:	hlt
	jmp 2b
msg:	.asciz "ready\n"
