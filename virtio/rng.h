/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-entropy (virtio 1.2 section 5.4): random bytes of the host's kernel.
 */
#pragma once

#include "virtio/device.h"
#include "virtio/limiter.h"
#include "vmm/base/metric.h"

/* A buffer gets at most this many bytes, however long it is. */
#define RNG_REQUEST_MAX KIB(64)

/* What Firecracker's metrics call "entropy", as far as it has a meaning here. */
struct rng_metrics {
	struct metric entropy_event_count; /* notifications */
	struct metric entropy_event_fails; /* broken rings, and requests without room for a byte */
	struct metric entropy_bytes;
	struct metric entropy_rate_limiter_throttled; /* times that a request had to wait */
	struct metric rate_limiter_event_count;	      /* ... and its time had come */
	struct metric activate_fails;		      /* never: there is nothing that could fail */
	struct metric host_rng_fails; /* the kernel gave nothing, or less than there was room for */
};

/* NULL with `e` filled on failure. Main thread. */
struct virtio_device *rng_create(const struct virtio_env *env, struct err *e);

/* Limits it from now on, at first to nothing; buckets are full. Main thread, lock held. */
void rng_set_limit(struct virtio_device *d, const struct limiter_config *limit);

/* Counters of a device made by rng_create(); they live as long as it does. */
struct rng_metrics *rng_metrics(struct virtio_device *d);
