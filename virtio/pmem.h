/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-pmem (virtio 1.2 section 5.19): a file of the host that the guest finds in its memory.
 *
 * The file itself is a region of guest memory (gmem_add_file()) before the device is made: reading
 * and writing it concerns nobody here. The device tells where it is, and brings what was written to
 * the host's disk when the guest asks for that.
 */
#pragma once

#include "virtio/device.h"
#include "virtio/limiter.h"
#include "vmm/base/metric.h"

struct pmem_setup {
	const char *id;			      /* shown in messages. Copied */
	int fd;				      /* the file that is mapped */
	gpa_t start;			      /* where it is in env->mem */
	uint64_t len;			      /* bytes of the region */
	uint64_t file_len;		      /* bytes of it that are the file's; behind: memory */
	bool read_only;			      /* a flush has nothing to do */
	const struct limiter_config *limiter; /* of flushes; NULL: no limits. Copied */
};

/* What Firecracker's metrics call "pmem" and "pmem_<id>"; the last three are ours. */
struct pmem_metrics {
	struct metric queue_event_count;	     /* notifications */
	struct metric event_fails;		     /* ... that met a broken ring */
	struct metric activate_fails, cfg_fails;     /* Firecracker's; cannot happen here */
	struct metric rate_limiter_event_count;	     /* times that the limit let go on */
	struct metric rate_limiter_throttled_events; /* flushes that had to wait for it */
	struct metric flush_count;		     /* flushes that were asked for ... */
	struct metric execute_fails;		     /* ... and failed */
	struct metric invalid_reqs_count;	     /* requests that are none */
};

/*
 * Creates the device and takes setup->fd; on failure returns NULL with `e` filled and it is still the
 * caller's. Main thread.
 */
struct virtio_device *pmem_create(const struct pmem_setup *setup, const struct virtio_env *env,
				  struct err *e);

struct pmem_metrics *pmem_metrics(struct virtio_device *d);
/* New limits, with full buckets. Main thread, lock held. */
void pmem_set_limiter(struct virtio_device *d, const struct limiter_config *cfg);
