/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints what ports and windows answer that a kernel polls: RTC, keyboard status, an unclaimed
 * port, then the first registers of the first virtio window and an unclaimed MMIO address.
 */
#include "guest.inc"
start:	xor %eax, %eax
	in $0x71, %al
	puthex
	xor %eax, %eax
	in $0x64, %al
	puthex
	xor %eax, %eax
	mov $0x1234, %dx
	in %dx, %al
	puthex
	map_mmio
	mov $0xc0001000, %rbx
	mov 0(%rbx), %eax	/* MagicValue */
	puthex
	mov 4(%rbx), %eax	/* Version */
	puthex
	mov 8(%rbx), %eax	/* DeviceID */
	puthex
	mov $0xd0000000, %rbx
	mov 0(%rbx), %eax
	puthex
	reset
