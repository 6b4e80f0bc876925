/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counters that any thread may bump and the main thread reads when metrics are written.
 * The type of a counter tells the writer what to print: an increment since the last time.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

struct metric {
	_Atomic uint64_t value;
	uint64_t written; /* [m] value at the last write */
};

static inline void metric_add(struct metric *m, uint64_t n)
{
	atomic_fetch_add_explicit(&m->value, n, memory_order_relaxed);
}

static inline void metric_inc(struct metric *m)
{
	metric_add(m, 1);
}

/* What came since the last call. Main thread. */
static inline uint64_t metric_take(struct metric *m)
{
	uint64_t now = atomic_load_explicit(&m->value, memory_order_relaxed);
	uint64_t delta = now - m->written;

	m->written = now;
	return delta;
}

/* How long something took: the extremes since the start (0: never) and the sum to be taken. */
struct metric_agg {
	_Atomic uint64_t min_us, max_us;
	struct metric sum_us;
};

/* Two threads at the same instant may lose an extreme, never a part of the sum. */
static inline void metric_agg_add(struct metric_agg *a, uint64_t us)
{
	uint64_t min = atomic_load_explicit(&a->min_us, memory_order_relaxed);

	if (min == 0 || us < min)
		atomic_store_explicit(&a->min_us, us, memory_order_relaxed);
	if (us > atomic_load_explicit(&a->max_us, memory_order_relaxed))
		atomic_store_explicit(&a->max_us, us, memory_order_relaxed);
	metric_add(&a->sum_us, us);
}
