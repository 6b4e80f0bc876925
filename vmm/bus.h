/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bus: address ranges of guest accesses (I/O ports or MMIO) and the devices behind them.
 *
 * Slots are added by the main thread before the guest runs and stay for the bus's life, so vCPU
 * threads find them without a lock. Each slot has one mutex. It is taken in two places only: here
 * around a device's access functions, and by the event loop around its callbacks (the source's
 * `lock`). Devices contain no locks.
 *
 * What no slot claims reads as all ones and ignores writes, as on a PC.
 */
#pragma once

#include <pthread.h>

#include "vmm/base/err.h"

/*
 * A guest's access of `len` bytes at `off` from the slot's base, wholly inside it. 1 to 8 bytes: KVM
 * cuts an access that crosses a page into two of any length.
 * vCPU thread, slot lock held.
 */
struct bus_ops {
	void (*read)(void *dev, uint64_t off, void *data, unsigned len);
	void (*write)(void *dev, uint64_t off, const void *data, unsigned len);
};

struct bus_slot {
	uint64_t base, len;	   /* [I] */
	const struct bus_ops *ops; /* [I] */
	void *dev;		   /* [I] borrowed */
	pthread_mutex_t lock;
};

#define BUS_SLOTS_MAX 32

struct bus {
	struct bus_slot slot[BUS_SLOTS_MAX];
	unsigned count;
};

void bus_init(struct bus *b);
void bus_finish(struct bus *b);

/*
 * Claims [base, base + len) for `dev`. Overlaps and a full bus are bugs of the caller (assert).
 * Returns the slot's lock, for the device's loop sources.
 */
pthread_mutex_t *bus_add(struct bus *b, uint64_t base, uint64_t len, const struct bus_ops *ops,
			 void *dev);

/* Dispatches an access. Any vCPU thread. */
void bus_read(struct bus *b, uint64_t addr, void *data, unsigned len);
void bus_write(struct bus *b, uint64_t addr, const void *data, unsigned len);
