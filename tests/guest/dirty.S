/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes to memory from 2 MiB to 18 MiB for ever, a word here and there, some of them zero: what
 * snapshots are taken of. Tells when it has begun, and every input byte ends it.
 */
#include "guest.inc"
#define FIRST 0x200000
#define PAGES 4096
start:	puts msg
	mov $88172645463325252, %r8
	mov $6364136223846793005, %r9
1:	imul %r9, %r8
	add $1442695041, %r8
	mov %r8, %rax
	shr $33, %rax
	mov %rax, %rbx
	and $(PAGES - 1), %eax
	shl $12, %rax
	add $FIRST, %rax
	xor %ecx, %ecx
	test $0x70000, %ebx
	cmovnz %r8, %rcx
	mov %rcx, (%rax)
	test $0xfff000, %ebx
	jnz 1b
	mov $COM1_LSR, %dx
	in %dx, %al
	test $1, %al
	jz 1b
	reset
msg:	.asciz "ready\n"
