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

	.macro reg offset, value
	movl \value, \offset(%r8)
	.endm

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
777:	cmp %ax, used + 2
	jne 777b
	movzwl answer, %eax
	puthex
	.endm

	.macro wait_input
778:	mov $COM1_LSR, %dx
	in %dx, %al
	test $1, %al
	jz 778b
	mov $COM1, %dx
	in %dx, %al
	.endm

start:	map_mmio
	/* The first GiB of the region, behind what map_mmio has made. */
	mov $(REGION | 0x83), %rax
	mov $region_directory, %rdi
	mov $512, %ecx
1:	mov %rax, (%rdi)
	add $BLOCK, %rax
	add $8, %rdi
	dec %ecx
	jnz 1b
	mov %cr3, %rax
	mov (%rax), %rdi
	and $~0xfff, %rdi
	mov $(region_directory + 3), %rax
	mov %rax, 32(%rdi)
	mov %cr3, %rax
	mov %rax, %cr3

	mov $DEVICE, %r8d
	reg 0x70, $0
	reg 0x70, $1
	reg 0x70, $3
	reg 0x24, $1
	reg 0x20, $1			/* VIRTIO_F_VERSION_1 */
	reg 0x24, $0
	reg 0x20, $2			/* UNPLUGGED_INACCESSIBLE */
	reg 0x70, $11
	reg 0x30, $0
	reg 0x38, $2
	reg 0x80, $descriptors
	reg 0x84, $0
	reg 0x90, $available
	reg 0x94, $0
	reg 0xa0, $used
	reg 0xa4, $0
	reg 0x44, $1
	reg 0x70, $15
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
	wait_input
	mov (%r9), %eax
	puthex
	mov 0x128(%r8), %eax		/* plugged_size */
	puthex
	ask 1, 0, 1
	mov (%r9), %eax			/* nothing is there any more */
	puthex
	wait_input
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
	.balign 4096
region_directory: .skip 4096
used:	.skip 64
answer:	.skip 16
	.popsection
