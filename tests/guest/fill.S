/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes to each page of its memory, up to 8 GiB, from 16 MiB on, and says "ready". For every byte of input
 * it then writes to 2560 pages, 10 MiB, from all over it, and says "done": a 'z' makes them zero. Ends at a 'q'.
 */
#include "guest.inc"
#define FIRST	    0x1000000
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
	map_gib 1, 7

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

3:	getc
	cmp $'q', %al
	je 4f
	cmp $'z', %al
	jne 5f
	mov $-1, %r8
5:	inc %r8
	walk
	puts done
	jmp 3b
4:	reset
ready:	.asciz "ready\n"
done:	.asciz "done\n"
