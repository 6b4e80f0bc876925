/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-blk (virtio 1.2 section 5.2): one queue over a raw file or block device.
 */
#pragma once

#include "virtio/device.h"
#include "vmm/base/metric.h"

#define BLOCK_SECTOR 512u

struct block_config {
	const char *id; /* shown in messages; its first 20 bytes are what GET_ID answers. Copied */
	int fd;		/* open for reading, and for writing unless read_only */
	bool read_only;
	bool writeback; /* cache type Writeback: the guest may flush. Else Unsafe: it cannot */
};

/*
 * What Firecracker's metrics call "block" and "block_<id>", as far as it has a meaning here.
 * Bumped by the main thread.
 */
struct block_metrics {
	struct metric queue_event_count; /* notifications */
	struct metric no_avail_buffer;	 /* ... that found nothing to do */
	struct metric event_fails;	 /* ... that met a broken ring */
	struct metric
		invalid_reqs_count;  /* requests against the specification or the disk's size */
	struct metric execute_fails; /* requests that the host could not carry out */
	struct metric flush_count;
	struct metric read_count, read_bytes;
	struct metric write_count, write_bytes;
	struct metric_agg read_agg, write_agg; /* time in the host's file system */
};

/*
 * Creates the device and takes cfg->fd; on failure returns NULL with `e` filled and the fd is still
 * the caller's. The size of the file is rounded down to sectors; the caller tells the user when
 * something is cut off. Main thread.
 */
struct virtio_device *block_create(const struct block_config *cfg, const struct virtio_env *env,
				   struct err *e);

/* Counters of a device made by block_create(); they live as long as it does. */
struct block_metrics *block_metrics(struct virtio_device *d);
