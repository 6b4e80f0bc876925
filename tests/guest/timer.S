/* SPDX-License-Identifier: Apache-2.0 */
/* Writes to the boot timer, as an init does when it is reached. */
#include "guest.inc"
start:	map_mmio
	mov $0xc0000000, %rbx
	movb $123, (%rbx)
	reset
