/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts every other processor by INIT and start-up IPI; each adds one to a counter, and the boot
 * processor prints the sum when three have come: run it with four vCPUs.
 */
#include "guest.inc"
#define TRAMPOLINE 0x30000
#define COUNTER	   0x31000
start:	mov $trampoline, %rsi
	mov $TRAMPOLINE, %rdi
	mov $(trampoline_end - trampoline), %ecx
	rep movsb
	movl $0, COUNTER
	map_mmio
	mov $0xfee00000, %rbx
	movl $0x1ff, 0xf0(%rbx)		/* APIC on */
	movl $0xc4500, 0x300(%rbx)	/* INIT to all but self */
	movl $(0xc4600 | TRAMPOLINE >> 12), 0x300(%rbx)
1:	cmpl $3, COUNTER
	jne 1b
	puts msg
	reset
msg:	.asciz "three more processors\n"

	.code16
trampoline:
	mov $(COUNTER >> 4), %ax
	mov %ax, %ds
	lock incl 0
1:	hlt
	jmp 1b
trampoline_end:
	.code64
