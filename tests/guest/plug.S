/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver of memory hotplug, the first virtio device, whose region is at 4 GiB: says "ready" and waits
 * until some is requested; then plugs two blocks and unplugs one, writes to the other, says what it
 * finds, and unplugs that one too. After each line it waits for a byte of input.
 */
#include "guest.inc"
#define DEVICE 0xc0001000
#define REGION 0x100000000
#define BLOCK  0x200000

	/* Request: type and number of blocks, from block \first on. Prints the answer. */
	.macro ask type, first, blocks
	movw $\type, request
	mov $(REGION + \first * BLOCK), %rax
	mov %rax, request + 8
	movw $\blocks, request + 16
	incw available + 2
	mfence
	reg 0x50, $0
	mov available + 2, %ax
778:	cmp %ax, used + 2
	jne 778b
	movzwl answer, %eax
	puthex
	.endm

start:	map_mmio
	map_gib 4			/* the region's first */
	negotiate DEVICE, 2		/* UNPLUGGED_INACCESSIBLE */
	drive 2
	puts ready
2:	mov 0x130(%r8), %eax		/* requested_size */
	test %eax, %eax
	jz 2b

	mov $REGION, %r9
	ask 0, 0, 2
	movl $0x64636261, (%r9)
	movl $0x68676665, BLOCK(%r9)
	ask 1, 1, 1
	mov (%r9), %eax
	puthex
	getc
	mov (%r9), %eax
	puthex
	mov 0x128(%r8), %eax		/* plugged_size */
	puthex
	ask 1, 0, 1
	mov (%r9), %eax			/* nothing is there any more */
	puthex
	getc
	reset
ready:	.asciz "ready\n"

	.pushsection .data
	.balign 16
descriptors:
	.quad request
	.long 24
	.word 1, 1			/* NEXT */
	.quad answer
	.long 10
	.word 2, 0			/* WRITE */
available:
	.word 0, 0, 0, 0, 0
	.balign 8
request: .skip 24
	.popsection
	.pushsection .bss
used:	.skip 64
answer:	.skip 16
	.popsection
