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

struct identity {
	const struct gmem *mem; /* [I] borrowed */
	int irq_fd;		/* [I] eventfd for LAYOUT_GSI_IDENTITY, or -1; owned */
};

int identity_init(struct identity *id, const struct gmem *mem, struct err *e);
/* Also of one that was not initialised but has irq_fd -1. */
void identity_finish(struct identity *id);

/* A new guest: fills both pages. -errno when there is no randomness. */
int identity_begin(struct identity *id, struct err *e);
/* Before it is known when: the pages that it will write to are there. Nothing changes. */
void identity_touch(struct identity *id);
/* A restored one, before its vCPUs run: both change, and the guest is told. */
int identity_renew(struct identity *id, struct err *e);
/* One that goes on in another process, before its vCPUs run: VMGenID stays, its clock may not be right. */
void identity_moved(struct identity *id);
