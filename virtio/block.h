/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-blk (virtio 1.2 section 5.2) over a raw file, a block device, or an overlay of one
 * (virtio/overlay.h).
 */
#pragma once

#include "virtio/device.h"
#include "virtio/limiter.h"
#include "vmm/base/metric.h"

#define BLOCK_SECTOR	 512u
#define BLOCK_ID_LEN	 20u
#define BLOCK_QUEUES_MAX 4u

struct block_config {
	const char *id; /* shown in messages; its first 20 bytes are what GET_ID answers. Copied */
	int fd;		/* open for reading, and for writing unless read_only; -1: none yet */
	bool overlay;	/* fd is an overlay file of base_fd; not with read_only */
	int base_fd;	/* open for reading; ignored without `overlay` */
	bool read_only;
	bool writeback;	 /* cache type Writeback: the guest may flush. Else Unsafe: it cannot */
	bool async;	 /* io_uring instead of preadv and pwritev */
	unsigned queues; /* 1..BLOCK_QUEUES_MAX; 0 is 1 */
	const struct limiter_config *limiter; /* NULL: no limits. Copied */
};

/*
 * What Firecracker's metrics call "block" and "block_<id>", as far as it has a meaning here; the
 * rest is ours. Bumped by the main thread, or under the slot's lock.
 */
struct block_metrics {
	struct metric queue_event_count; /* notifications */
	struct metric no_avail_buffer;	 /* ... that found nothing to do */
	struct metric event_fails;	 /* ... that met a broken ring */
	struct metric
		invalid_reqs_count;  /* requests against the specification or the disk's size */
	struct metric execute_fails; /* requests that the host could not carry out */
	struct metric remaining_reqs_count;	 /* turns that ended before the queue was empty */
	struct metric activate_fails, cfg_fails; /* Firecracker's; cannot happen here */
	struct metric flush_count;
	struct metric read_count, read_bytes;
	struct metric write_count, write_bytes;
	struct metric discard_count, discard_bytes;
	struct metric write_zeroes_count, write_zeroes_bytes;
	struct metric rate_limiter_event_count;	     /* times that the limit let go on */
	struct metric rate_limiter_throttled_events; /* requests that had to wait for it */
	struct metric io_engine_throttled_events; /* turns that ended since too much is in flight */
	struct metric update_count, update_fails; /* block_set_file(), block_set_limiter() */
	struct metric overlay_read_bytes;	  /* read from the overlay ... */
	struct metric overlay_base_bytes;	  /* ... and from its base */
	struct metric overlay_flush_count;	  /* flushes that wrote a part of the map */
	struct metric_agg read_agg, write_agg;	  /* from request to answer */
};

/*
 * Creates the device and takes cfg->fd (and base_fd); on failure returns NULL with `e` filled and they
 * are still the caller's. The size of the file is rounded down to sectors; the caller tells the
 * user when something is cut off. Main thread.
 */
struct virtio_device *block_create(const struct block_config *cfg, const struct virtio_env *env,
				   struct err *e);

/* Counters of a device made by block_create(); they live as long as it does. */
struct block_metrics *block_metrics(struct virtio_device *d);
/* Bytes that the overlay holds; 0 without one. Lock held. */
uint64_t block_overlay_bytes(const struct virtio_device *d);

/*
 * Puts another file, open as the device needs it, in the place of the present one and tells the
 * guest the new size. -1: no file from now on; the capacity is 0, and requests for data are answered
 * with IOERR. Takes `fd` when it returns 0. Not for overlays. Main thread, lock held.
 */
int block_set_file(struct virtio_device *d, int fd, struct err *e);
/* New limits, with full buckets. Main thread, lock held. */
void block_set_limiter(struct virtio_device *d, const struct limiter_config *cfg);

/*
 * Completes everything that is in flight, and brings an overlay's map into its file: what the guest
 * was told to be written is found by whoever opens the file now. 0, or the -errno of that. Main thread, lock held.
 */
int block_drain(struct virtio_device *d);
