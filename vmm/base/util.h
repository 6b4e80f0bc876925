/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small helpers that every file may use: arithmetic that cannot wrap, scoped
 * ownership, time. Knows nothing of KVM, virtio or HTTP.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#define ARRAY_SIZE(a)			(sizeof(a) / sizeof((a)[0]))
#define KIB(n)				((uint64_t)(n) << 10)
#define MIB(n)				((uint64_t)(n) << 20)
#define GIB(n)				((uint64_t)(n) << 30)
#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
#define PRINTF_LIKE(f, a)		__attribute__((format(printf, f, a)))

/* Each use has names of its own, so that one may stand inside another. */
#define MIN(a, b)	   MIN_NAMED(a, b, __COUNTER__)
#define MIN_NAMED(a, b, n) MIN_AS(a, b, n)
#define MIN_AS(a, b, n)                                        \
	({                                                     \
		__auto_type min_a_##n = (a);                   \
		__typeof__(min_a_##n) min_b_##n = (b);         \
		min_a_##n < min_b_##n ? min_a_##n : min_b_##n; \
	})

/* An owned array; what the items are, its user says. Zeroed: empty. */
struct vector {
	void *item; /* malloc'ed */
	unsigned count;
};

/* Rounds `n` up to a multiple of `align`, a power of two; the caller knows that it fits. */
static inline uint64_t align_up(uint64_t n, uint64_t align)
{
	return (n + align - 1) & ~(align - 1);
}

static inline bool is_power_of_two(uint64_t n)
{
	return n && !(n & (n - 1));
}

/* True when [off, off + len) lies within [0, size). Never wraps. */
static inline bool range_within(uint64_t off, uint64_t len, uint64_t size)
{
	return len <= size && off <= size - len;
}

/* CLOCK_MONOTONIC in nanoseconds. */
static inline uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Scoped ownership: `cleanup_free char *s = ...;` frees s at the end of its scope. */
static inline void util_freep(void *p)
{
	free(*(void **)p);
}
#define cleanup_free __attribute__((cleanup(util_freep)))

/* Hands the value on and leaves `empty` behind, so that a cleanup does not see it any more. */
#define TAKE_AS(p, empty)                  \
	({                                 \
		__typeof__(p) take_ = (p); \
		(p) = (empty);             \
		take_;                     \
	})
#define TAKE(p)	    TAKE_AS(p, NULL)
#define TAKE_FD(fd) TAKE_AS(fd, -1)
