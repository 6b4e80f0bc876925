/* SPDX-License-Identifier: Apache-2.0 */
/* Powers the machine off through the ACPI sleep control register: exit code 3. */
#include "guest.inc"
start:	puts msg
	mov $ACPI_SLEEP, %dx
	mov $S5, %al
	out %al, %dx
1:	hlt
	jmp 1b
msg:	.asciz "powering off\n"
