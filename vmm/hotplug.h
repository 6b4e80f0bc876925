/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that comes and goes, as the user asked for it, and what the API does with it in a running
 * microVM (virtio/mem.h): PUT, PATCH and GET of /hotplug/memory and "memory-hotplug" of the config
 * file (vmm/config.h tells the rules). Field names are Firecracker's. Main thread.
 *
 * The region lies above RAM (vmm/layout.h) and behind it in the host's mapping, where nothing is
 * there until the guest has plugged and touched it. So snapshots and the dirty log see one more
 * region of RAM, of which most is a hole. Nothing is mapped PROT_NONE: KVM has no memory slot
 * over a part without a plugged block, and devices have gmem_at(). An mprotect() for each part would be
 * a system call that the filters do without, and a guest that unplugs the memory of a ring would end
 * its monitor.
 */
#pragma once

#include "virtio/device.h"

struct config;
struct vm;
struct vm_machine;

struct hotplug_config {
	bool configured;
	uint64_t total_size_mib; /* a multiple of slot_size_mib */
	uint64_t slot_size_mib;	 /* of what KVM is told at once; a multiple of block_size_mib */
	uint64_t block_size_mib; /* of what the guest plugs; a power of two */
};

#define HOTPLUG_SLOT_MIB_MIN  128u
#define HOTPLUG_BLOCK_MIB_MIN 2u

/* With the defaults, which are the least. */
void hotplug_config_init(struct hotplug_config *h);
int config_set_hotplug(struct config *c, const struct hotplug_config *piece, struct err *e);

/*
 * Fills region[] with all of the guest's RAM, in ascending order: what it boots with, and above that what
 * it may plug. Returns how many regions that takes (1 to 3), or -errno with `e` filled.
 */
int hotplug_layout(const struct config *c, struct gmem_region region[3], struct err *e);
/* The device. NULL with `e` filled. */
struct virtio_device *hotplug_create(struct vm_machine *m, const struct virtio_env *env,
				     struct err *e);

/* Has KVM log the dirty pages of what is plugged, or no longer: as m->log_dirty says. */
int hotplug_log_dirty(struct vm_machine *m, struct err *e);

/* What GET tells; sizes in MiB. */
struct hotplug_status {
	uint64_t total_size_mib, slot_size_mib, block_size_mib;
	uint64_t plugged_size_mib, requested_size_mib;
};
/* Both: -EINVAL with `e` filled when there is none, or the size is none. */
int vm_hotplug_set(struct vm *vm, uint64_t requested_size_mib, struct err *e);
int vm_hotplug_get(struct vm *vm, struct hotplug_status *s, struct err *e);
