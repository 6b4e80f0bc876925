/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads and writes the first word of files in memory at 4 GiB and at 4 GiB + 128 MiB, and says
 * what is there before and after; then a word behind the end of the first one.
 */
#include "guest.inc"
start:	mov $0x100000083, %rax
	mov $page_directory, %rdi
	mov $512, %ecx
1:	mov %rax, (%rdi)
	add $0x200000, %rax
	add $8, %rdi
	dec %ecx
	jnz 1b
	mov %cr3, %rax
	mov (%rax), %rdi
	and $~0xfff, %rdi
	mov $(page_directory + 3), %rax
	mov %rax, 32(%rdi)
	mov %cr3, %rax
	mov %rax, %cr3
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
	reset
	.pushsection .bss
	.balign 4096
page_directory:
	.skip 4096
	.popsection
