/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads and writes the first word of files in memory at 4 GiB and at 4 GiB + 128 MiB, and says
 * what is there before and after; then a word behind the end of the first one. Then it writes to the
 * second one in the ways that a kernel does, and says what is there after each.
 */
#include "guest.inc"
start:	map_gib 4
	mov $0x100000000, %r8
	mov $0x108000000, %r9
	mov $0x1001ff000, %r10
	mov (%r8), %eax
	puthex
	mov (%r9), %eax
	puthex
	movl $0x64636261, (%r8)
	movl $0x64636261, (%r9)
	movl $0x64636261, (%r10)
	mov (%r8), %eax
	puthex
	mov (%r9), %eax
	puthex
	mov (%r10), %eax
	puthex

	.macro then code:vararg
	\code
	mov (%r9), %eax
	puthex
	.endm
	/* SSE. */
	mov %cr0, %rax
	and $~4, %rax
	or $2, %rax
	mov %rax, %cr0
	mov %cr4, %rax
	or $0x200, %rax
	mov %rax, %cr4
	movups ones, %xmm0
	mov $0x5554535251504f4e, %rbx
	then movb %bl, (%r9)
	then movw %bx, (%r9)
	then mov %rbx, (%r9)
	/* Across a page. */
	then mov %rbx, 4092(%r9)
	then movnti %rbx, (%r9)
	then movups %xmm0, (%r9)
	then movntdq %xmm0, (%r9)
	mov %rbx, %rdx
	then xchg %rdx, (%r9)
	mov (%r9), %rax
	then lock cmpxchg %rbx, (%r9)
	then lock orl $1, (%r9)
	then lock incl (%r9)
	mov %r9, %rdi
	mov $directories_of_4, %rsi
	mov $5000, %ecx
	then rep movsb
	mov %r9, %rdi
	mov $600, %ecx
	mov %rbx, %rax
	then rep stosq
	then clflush (%r9)
	reset
	.pushsection .data
	.balign 16
ones:	.skip 16, 0xff
	.popsection
