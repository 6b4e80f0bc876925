/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-mem (virtio 1.2 section 5.15): memory that the guest takes and gives back in blocks, up to a
 * size that we ask it for.
 *
 * The blocks are those of the region that gmem_hotplug() finds. KVM is told of them in parts
 * (region->part bytes each) by whoever creates the device: a part is there while a block of it is.
 */
#pragma once

#include "virtio/device.h"
#include "vmm/base/metric.h"

struct mem_setup {
	/*
	 * Lets the guest reach part `n` of the region, or keeps it from that. Main thread, lock held,
	 * while the guest runs. 0 or -errno; what is to be kept away is away in any case.
	 */
	int (*map)(void *arg, unsigned n, bool on);
	void *arg;
};

/* What Firecracker's metrics call "memory_hotplug". */
struct mem_metrics {
	struct metric queue_event_count; /* notifications */
	struct metric queue_event_fails; /* ... that met a broken ring, or a request that is none */
	struct metric activate_fails;	 /* Firecracker's; cannot happen here */
	struct metric plug_count, plug_bytes, plug_fails;
	struct metric unplug_count, unplug_bytes, unplug_fails;
	struct metric unplug_discard_fails; /* the host did not take its memory back */
	struct metric unplug_all_count, unplug_all_fails;
	struct metric state_count, state_fails;
	struct metric_agg plug_agg, unplug_agg, unplug_all_agg, state_agg;
};

/* NULL with `e` filled on failure; env->mem has such a region, without a block in use. Main thread. */
struct virtio_device *mem_create(const struct mem_setup *setup, const struct virtio_env *env,
				 struct err *e);

struct mem_metrics *mem_metrics(struct virtio_device *d);
/* Bytes that the guest has, and shall have. Lock held. */
uint64_t mem_plugged(const struct virtio_device *d);
uint64_t mem_requested(const struct virtio_device *d);
/* Asks the guest to have `bytes`, a multiple of the block's size and within the region. Lock held. */
void mem_request(struct virtio_device *d, uint64_t bytes);
