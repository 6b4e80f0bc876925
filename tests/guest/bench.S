/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests/bench: its first instruction exits, its second one says "b". The same bytes do the same
 * in 64-bit mode, where spore enters it, and in 32-bit mode, where QEMU does by the PVH note.
 */
#include "guest.inc"
start:	out %al, $0x80
	putc $'b'
	reset

	.section .note.Xen, "a", @note
	.balign 4
	.long 4, 4, 18		/* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long start
