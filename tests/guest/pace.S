/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes to the pages from 2 MiB to 66 MiB one after the other, for ever, one every so many ticks of the time stamp
 * counter: the number that its command line begins with. Says '.' every 2560 of them, which are 10 MiB.
 */
#include "guest.inc"
#define FIRST 0x200000
#define LAST  0x4200000
start:	mov 0x228(%rsi), %esi
	xor %r8d, %r8d
1:	movzbl (%rsi), %eax
	sub $'0', %eax
	cmp $9, %eax
	ja 2f
	imul $10, %r8, %r8
	add %rax, %r8
	inc %esi
	jmp 1b
2:	rdtsc
	shl $32, %rdx
	or %rax, %rdx
	mov %rdx, %r9
	mov $2560, %r11d
3:	mov $FIRST, %edi
4:	incq (%rdi)
	dec %r11d
	jnz 5f
	mov $2560, %r11d
	putc $'.'
	putc $'\n'
5:	add %r8, %r9
6:	pause
	rdtsc
	shl $32, %rdx
	or %rax, %rdx
	cmp %r9, %rdx
	jb 6b
	add $4096, %edi
	cmp $LAST, %edi
	jb 4b
	jmp 3b
