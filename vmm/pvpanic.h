/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pvpanic (QEMU docs/specs/pvpanic.rst; ACPI device QEMU0001): one I/O port that a guest kernel
 * writes to when it panics, before whatever it does about that. The event log is told
 * "guest_panicked", or "guest_crash_loaded" when a crash kernel takes over; each once, so that a
 * guest cannot push the other events out.
 */
#pragma once

#include "vmm/bus.h"
#include "vmm/event.h"

#define PVPANIC_SIZE	     1u
#define PVPANIC_PANICKED     1u
#define PVPANIC_CRASH_LOADED 2u

struct pvpanic {
	struct event_log *events; /* [I] or NULL */
	uint8_t told;		  /* [s] bits that it has been told of */
};

extern const struct bus_ops pvpanic_bus_ops; /* `dev` is a struct pvpanic */
