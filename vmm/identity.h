/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a guest learns that it is not the one that it was: restored from a snapshot, maybe one of
 * several that were.
 *
 *	VMGenID (Microsoft's "Virtual Machine Generation ID")  16 random bytes, new each time
 *	VMClock (version 1, Linux include/uapi/linux/vmclock-abi.h)  two counters that go on
 *
 * Both are pages of guest memory that ACPI names (\_SB.VGEN, \_SB.VCLK), and one interrupt line,
 * whose event handler notifies both. Main thread.
 */
#pragma once

#include "vmm/base/gmem.h"

/* A new guest: fills both pages. -errno when there is no randomness. */
int identity_begin(const struct gmem *mem, struct err *e);
/* Before it is known when: the pages that it will write to are there. Nothing changes. */
void identity_touch(const struct gmem *mem);
/*
 * A restored one, before its vCPUs run: both change. The caller then tells the guest, by an edge on
 * LAYOUT_GSI_IDENTITY.
 */
int identity_renew(const struct gmem *mem, struct err *e);
/* The same of one that goes on in another process: VMGenID stays, its clock may not be right. */
void identity_moved(const struct gmem *mem);
