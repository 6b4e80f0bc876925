/* SPDX-License-Identifier: Apache-2.0 */
/* Writes to 100 MiB of its memory, from 16 MiB on, and says "ready". Ends at a byte of input. */
#include "guest.inc"
#define FIRST 0x1000000
#define LAST  (FIRST + (100 << 20))
start:	mov $FIRST, %edi
1:	mov %rdi, (%rdi)
	add $4096, %rdi
	cmp $LAST, %rdi
	jb 1b
	puts ready
	getc
	reset
ready:	.asciz "ready\n"
