/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MultiProcessor Specification 1.4 tables (chapter 4) for kernels without ACPI: floating pointer,
 * configuration header, processors, ISA bus, IOAPIC, one interrupt entry for each IOAPIC pin,
 * LINT0 and LINT1. Linux looks for the floating pointer in the last KiB of base memory.
 *
 * Every pin is an "ISA" line of the same number, edge and active high, also those above 15: that is
 * what makes Linux take `virtio_mmio.device=...:<gsi>` on the command line. Pure. Main thread.
 */
#pragma once

#include "vmm/layout.h"

/*
 * Builds for guest address LAYOUT_MPTABLE into buf[size], for 1..LAYOUT_VCPU_MAX vCPUs with APIC id
 * = index. Bytes used, or -ENOSPC; LAYOUT_EBDA_END - LAYOUT_MPTABLE is always enough.
 */
int mptable_build(unsigned vcpus, uint8_t *buf, size_t size, struct err *e);
