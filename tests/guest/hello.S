/* SPDX-License-Identifier: Apache-2.0 */
/* Says hello and resets the machine through the keyboard controller: exit code 0. */
#include "guest.inc"
start:	puts msg
	reset
msg:	.asciz "hello from the guest\n"
