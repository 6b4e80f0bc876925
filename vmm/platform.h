/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The few registers of a PC that are too small for a file of their own: the RTC's ports, the ACPI
 * sleep registers and the boot timer.
 */
#pragma once

#include "vmm/bus.h"
#include "vmm/event.h"

/*
 * Ports 0x70 and 0x71. There is no RTC (the FADT says so, the guest has kvm-clock), but a kernel
 * that reads the update-in-progress bit as 1 waits for it with 40,000 exits: everything reads 0.
 */
#define RTC_SIZE 2u
extern const struct bus_ops rtc_bus_ops; /* `dev` is not used */

/*
 * Sleep control and status registers of hardware-reduced ACPI (ACPI 6.5 section 4.8.3.7): writing
 * the S5 sleep type with SLP_EN powers the machine off. Other sleep types do nothing.
 */
#define POWER_SIZE 2u
struct power {
	void (*off)(void *arg); /* [I] vCPU thread */
	void *arg;
};
extern const struct bus_ops power_bus_ops; /* `dev` is a struct power */

/*
 * The boot timer (--boot-timer): the guest's init writes the byte 123 to the first byte of the
 * window, and the log gets the time that has passed since vm_start() was called.
 */
#define BOOT_TIMER_SIZE 0x1000u
struct boot_timer {
	uint64_t start_ns;	  /* [I] CLOCK_MONOTONIC */
	uint64_t start_cpu_ns;	  /* [I] CLOCK_PROCESS_CPUTIME_ID */
	struct event_log *events; /* [I] told "guest_booted" once; or NULL */
	bool told;		  /* [s] */
};
void boot_timer_init(struct boot_timer *t, struct event_log *events);
extern const struct bus_ops boot_timer_bus_ops; /* `dev` is a struct boot_timer */
