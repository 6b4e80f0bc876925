/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI tables for a hardware-reduced platform (ACPI 6.5 section 4.1): RSDP, XSDT, FADT, MADT and
 * a DSDT that names COM1, the keyboard controller, what is in acpi_machine and every virtio-mmio window. Pure functions over
 * bytes: the unit tests have `iasl` decompile what they produce. Main thread, before the guest
 * runs.
 *
 * A guest powers itself off by a byte to the sleep control port. It restarts through the keyboard
 * controller: the FADT has no reset register, as that would come first.
 */
#pragma once

#include "vmm/layout.h"

struct acpi_machine {
	unsigned vcpus;	       /* 1..LAYOUT_VCPU_MAX; APIC id = index (see x86.h) */
	unsigned virtio_count; /* devices in slots 0..count-1 (layout_virtio_slot) */
	bool i8042;	       /* a keyboard controller answers at 0x60 and 0x64 */
	bool identity;	       /* VMGenID and VMClock (identity.h) */
	bool pvpanic;	       /* at LAYOUT_PVPANIC */
};

/*
 * Sleep registers (section 4.8.3.7), one byte each. A guest clears WAK_STS by writing 0x80 to the
 * status port and then writes SLP_TYP (bits 2 to 4) and SLP_EN (bit 5) to the control port. Only
 * \_S5 is defined: what is not ACPI_SLEEP_S5 means nothing. Both ports read as 0.
 */
#define ACPI_SLEEP_CONTROL LAYOUT_ACPI_SLEEP
#define ACPI_SLEEP_STATUS  (LAYOUT_ACPI_SLEEP + 1u)
#define ACPI_SLEEP_S5_TYPE 5u
#define ACPI_SLEEP_ENABLE  0x20u
#define ACPI_SLEEP_S5	   (ACPI_SLEEP_S5_TYPE << 2 | ACPI_SLEEP_ENABLE)

/*
 * Builds all tables for guest address LAYOUT_ACPI into buf[size], RSDP first. Returns the bytes
 * used, or -ENOSPC with `e` filled when they do not fit; 8 KiB are enough for every machine.
 */
int acpi_build(const struct acpi_machine *m, uint8_t *buf, size_t size, struct err *e);
