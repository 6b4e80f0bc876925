/* SPDX-License-Identifier: Apache-2.0 */
/* Prints ECX of CPUID leaf 1 and the low half of MSR 0x277 (PAT), then resets. */
#include "guest.inc"
start:	mov $1, %eax
	xor %ecx, %ecx
	cpuid
	mov %ecx, %eax
	puthex
	mov $0x277, %ecx
	rdmsr
	puthex
	reset
