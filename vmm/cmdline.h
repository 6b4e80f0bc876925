/* SPDX-License-Identifier: Apache-2.0 */
/* The guest kernel's command line. Pure. */
#pragma once

#include "vmm/config.h"
#include "vmm/layout.h"

/*
 * The user's boot arguments (or BOOT_ARGS_DEFAULT), then the root device, then one
 * `virtio_mmio.device=` for each of the `virtio_count` windows, for kernels that do not read
 * ACPI. Words behind "--" are init's: what spore adds goes before them. 0, or -E2BIG when
 * LAYOUT_CMDLINE_MAX bytes do not hold it.
 */
int cmdline_build(const struct config *c, unsigned virtio_count, char buf[LAYOUT_CMDLINE_MAX],
		  struct err *e);
