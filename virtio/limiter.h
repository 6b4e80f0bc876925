/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A rate limiter: two token buckets, for operations and for bytes, as Firecracker's API has them.
 *
 * A bucket holds at most `size` tokens and regains `size` of them in `refill_ms`, evenly; it starts
 * full. `burst` tokens more are there once, are spent first and never come back. An operation may
 * go when both buckets have what it needs; one that needs more than a bucket can ever hold may go
 * when that bucket is full. What it took is charged afterwards and may leave the bucket in debt, so
 * that a device which learns a frame's size only by reading it is limited just as exactly:
 *
 *	wait = limiter_wait(l, now_ns(), bytes);
 *	if (wait)
 *		loop_timer_set(loop, &resume, wait);	(and serve again when it expires)
 *	else
 *		limiter_charge(l, bytes spent);
 *
 * The arithmetic is exact: a level counts token-nanoseconds of the refill period, nothing is ever
 * rounded, so over any time the sum is what the buckets gave. Time is an argument, and with both
 * buckets off (limiter_active() false) nobody has to ask for it, and no timer is ever armed.
 * The owner's lock protects it; no function here allocates or blocks.
 */
#pragma once

#include "vmm/base/util.h"

/* As the API has it. size 0 or refill_ms 0: no limit. */
struct limiter_bucket_config {
	uint64_t size;	    /* tokens */
	uint64_t refill_ms; /* in which an empty bucket becomes full */
	uint64_t burst;	    /* tokens */
};

struct limiter_config {
	struct limiter_bucket_config bandwidth; /* tokens are bytes */
	struct limiter_bucket_config ops;	/* a token is one operation */
};

struct limiter_bucket {
	uint64_t size;	    /* 0: no limit */
	uint64_t period_ns; /* in which `size` tokens come */
	uint64_t burst;	    /* what is left of it */
	__int128 level;	    /* tokens * period_ns; negative: debt */
	uint64_t last_ns;   /* when level was right */
};

struct limiter {
	struct limiter_bucket bandwidth, ops;
};

/* Full buckets, at time `now_ns`. NULL cfg: no limits. Also how a running one is changed. */
void limiter_set(struct limiter *l, const struct limiter_config *cfg, uint64_t now_ns);

static inline bool limiter_active(const struct limiter *l)
{
	return l->bandwidth.size || l->ops.size;
}

/*
 * 0: one operation of `bytes` may go now. Otherwise how long until it may, in ns, if nothing else
 * is charged meanwhile. `now_ns` never goes backwards; if it does, no tokens come.
 */
uint64_t limiter_wait(struct limiter *l, uint64_t now_ns, uint64_t bytes);
/* Charges one operation of `bytes` that went. */
void limiter_charge(struct limiter *l, uint64_t bytes);
