/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes to each page of its memory, up to 8 GiB, from 16 MiB on, and says "ready". For every byte of input
 * it then writes to 2560 pages, 10 MiB, from all over it, and says "done". Ends at a 'q'.
 */
#include "guest.inc"
#define FIRST	    0x1000000
#define DIRECTORIES 7
#define SOME	    2560
#define E820_COUNT  0x1e8
#define E820_TABLE  0x2d0

	/* Writes %r8 to every %r9-th byte; counts in %r10. */
	.macro walk
	movzbl E820_COUNT(%r15), %ecx
	lea E820_TABLE(%r15), %rbx
780:	cmpl $1, 16(%rbx)
	jne 783f
	mov (%rbx), %rdi
	mov %rdi, %rdx
	add 8(%rbx), %rdx
	cmp $FIRST, %rdi
	jae 781f
	mov $FIRST, %edi
781:	cmp %rdx, %rdi
	jae 783f
	mov %r8, (%rdi)
	add %r9, %rdi
	inc %r10
	jmp 781b
783:	add $20, %rbx
	dec %ecx
	jnz 780b
	.endm

start:	mov %rsi, %r15
	mov $(0x40000000 | 0x83), %rax	/* 1 GiB and on, with 2 MiB pages */
	mov $directories, %rdi
	mov $(DIRECTORIES * 512), %ecx
1:	mov %rax, (%rdi)
	add $0x200000, %rax
	add $8, %rdi
	dec %ecx
	jnz 1b
	mov %cr3, %rax
	mov (%rax), %rdi
	and $~0xfff, %rdi
	mov $(directories + 3), %rax
	mov $DIRECTORIES, %ecx
2:	add $8, %rdi
	mov %rax, (%rdi)
	add $4096, %rax
	dec %ecx
	jnz 2b
	mov %cr3, %rax
	mov %rax, %cr3

	mov $1, %r8d
	mov $4096, %r9d
	xor %r10d, %r10d
	walk
	mov %r10, %rax
	xor %edx, %edx
	mov $SOME, %ecx
	div %rcx
	shl $12, %rax
	mov %rax, %r9
	puts ready

3:	mov $COM1_LSR, %dx
	in %dx, %al
	test $1, %al
	jz 3b
	mov $COM1, %dx
	in %dx, %al
	cmp $'q', %al
	je 4f
	inc %r8
	walk
	puts done
	jmp 3b
4:	reset
ready:	.asciz "ready\n"
done:	.asciz "done\n"

	.bss
	.balign 4096
directories:
	.skip 4096 * DIRECTORIES
