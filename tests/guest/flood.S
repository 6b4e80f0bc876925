/* SPDX-License-Identifier: Apache-2.0 */
/* Writes to the console as fast as it can, for ever: a slow reader must not stop anything. */
#include "guest.inc"
start:	mov $COM1, %dx
	mov $'x', %al
1:	out %al, %dx
	jmp 1b
