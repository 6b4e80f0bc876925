/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-balloon (virtio 1.2 section 5.5): memory that the guest does without goes back to the
 * host. Four ways: a target that the guest is asked to give up, pages that it gives up by
 * itself as they become free (reporting), one sweep over its free pages (hinting), and statistics
 * to decide by.
 */
#pragma once

#include "virtio/device.h"
#include "vmm/base/metric.h"

#define BALLOON_MIB_MAX (UINT32_MAX >> 8) /* 4 KiB pages are counted in 32 bits */

struct balloon_setup {
	uint32_t amount_mib; /* at most BALLOON_MIB_MAX */
	bool deflate_on_oom; /* the guest may take pages back before it kills a process */
	bool hinting, reporting;
	uint32_t stats_interval_s; /* 0: no statistics, ever */
	/* The statistics say that the guest killed `kills` more for want of memory. NULL: no matter. */
	void (*out_of_memory)(void *arg, uint64_t kills);
	void *arg;
};

/* What Firecracker's metrics call "balloon". Main thread. */
struct balloon_metrics {
	struct metric activate_fails;		    /* never: there is nothing that could fail */
	struct metric inflate_count, deflate_count; /* requests of the guest */
	struct metric event_fails;		    /* broken rings, pages that are none */
	struct metric stats_updates_count, stats_update_fails;
	struct metric free_page_report_count, free_page_report_fails, free_page_report_freed;
	struct metric free_page_hint_count, free_page_hint_fails, free_page_hint_freed;
};

/* Statistics by their tags (section 5.5.6.3 and later additions): bytes, or counts. */
enum balloon_stat {
	BALLOON_SWAP_IN,
	BALLOON_SWAP_OUT,
	BALLOON_MAJOR_FAULTS,
	BALLOON_MINOR_FAULTS,
	BALLOON_FREE_MEMORY,
	BALLOON_TOTAL_MEMORY,
	BALLOON_AVAILABLE_MEMORY,
	BALLOON_DISK_CACHES,
	BALLOON_HUGETLB_ALLOCATIONS,
	BALLOON_HUGETLB_FAILURES,
	BALLOON_OOM_KILL,
	BALLOON_ALLOC_STALL,
	BALLOON_ASYNC_SCAN,
	BALLOON_DIRECT_SCAN,
	BALLOON_ASYNC_RECLAIM,
	BALLOON_DIRECT_RECLAIM,
	BALLOON_STATS,
};

/* What a snapshot keeps; also what the API tells. */
struct balloon_state {
	uint32_t target_pages;	   /* of 4 KiB, that the guest is asked for */
	uint32_t actual_pages;	   /* ... that it has given */
	uint32_t stats_interval_s; /* 0: no statistics */
	uint32_t hint_host;	   /* sweep asked for: 0 never, 1 done or stopped, else its id */
	uint32_t hint_guest;	   /* what the guest said last */
	uint32_t hint_last;	   /* id of the last sweep */
	uint8_t hint_done;	   /* 1: a sweep that ends is acknowledged */
	uint32_t stats_known;	   /* a bit for each that the guest has told */
	uint64_t stats[BALLOON_STATS];
};

/* NULL with `e` filled on failure. Main thread. */
struct virtio_device *balloon_create(const struct balloon_setup *cfg, const struct virtio_env *env,
				     struct err *e);

/* All of these: of a device made by balloon_create(); main thread, lock held. */
struct balloon_metrics *balloon_metrics(struct virtio_device *d);
const struct balloon_state *balloon_state(struct virtio_device *d);
/* Asks the guest for so much; at most BALLOON_MIB_MAX. */
void balloon_set_target(struct virtio_device *d, uint32_t mib);
/* -EINVAL when that would turn statistics on or off. */
int balloon_set_interval(struct virtio_device *d, uint32_t seconds, struct err *e);
/*
 * Has the guest go through its free pages once. `acknowledge`: tell it at the end of the sweep that
 * it may use them again; otherwise it may after balloon_hint_stop(). -EINVAL without hinting.
 */
int balloon_hint_start(struct virtio_device *d, bool acknowledge, struct err *e);
int balloon_hint_stop(struct virtio_device *d, struct err *e);
