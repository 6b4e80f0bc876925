/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/limiter.h"

#define NS_PER_MS     1000000u
/* Longer periods are as good as this one (146 years), and size * period fits into 127 bits. */
#define PERIOD_MAX_NS (UINT64_MAX / 4)
/* Debts end here, so that charging can be repeated for ever. */
#define DEBT_MAX      ((__int128)1 << 126)

static __int128 full(const struct limiter_bucket *b)
{
	return (__int128)b->size * b->period_ns;
}

static void set_bucket(struct limiter_bucket *b, const struct limiter_bucket_config *c,
		       uint64_t now_ns)
{
	*b = (struct limiter_bucket){.last_ns = now_ns};
	if (c->size == 0 || c->refill_ms == 0)
		return;
	/* The sign bit of a level is worth more than rates beyond 2^63 bytes. */
	b->size = MIN(c->size, (uint64_t)INT64_MAX);
	b->period_ns =
		c->refill_ms > PERIOD_MAX_NS / NS_PER_MS ? PERIOD_MAX_NS : c->refill_ms * NS_PER_MS;
	b->burst = c->burst;
	b->level = full(b);
}

void limiter_set(struct limiter *l, const struct limiter_config *cfg, uint64_t now_ns)
{
	static const struct limiter_config none;

	if (!cfg)
		cfg = &none;
	set_bucket(&l->bandwidth, &cfg->bandwidth, now_ns);
	set_bucket(&l->ops, &cfg->ops, now_ns);
}

static void refill(struct limiter_bucket *b, uint64_t now_ns)
{
	__int128 gain, room = full(b) - b->level;

	if (now_ns <= b->last_ns)
		return;
	gain = (__int128)(now_ns - b->last_ns) * b->size;
	b->level += MIN(gain, room);
	b->last_ns = now_ns;
}

static uint64_t wait_bucket(struct limiter_bucket *b, uint64_t now_ns, uint64_t tokens)
{
	uint64_t need = tokens > b->burst ? tokens - b->burst : 0;
	__int128 missing;

	if (b->size == 0)
		return 0;
	refill(b, now_ns);
	missing = (__int128)MIN(need, b->size) * b->period_ns - b->level;
	if (missing <= 0 || need == 0)
		return 0;
	missing = (missing + b->size - 1) / b->size;
	return missing > INT64_MAX ? INT64_MAX : (uint64_t)missing;
}

uint64_t limiter_wait(struct limiter *l, uint64_t now_ns, uint64_t bytes)
{
	uint64_t a = wait_bucket(&l->bandwidth, now_ns, bytes);
	uint64_t b = wait_bucket(&l->ops, now_ns, 1);

	return a > b ? a : b;
}

static void charge_bucket(struct limiter_bucket *b, uint64_t tokens)
{
	uint64_t from_burst = MIN(tokens, b->burst);
	__int128 cost = (__int128)(tokens - from_burst) * b->period_ns;

	if (b->size == 0)
		return;
	b->burst -= from_burst;
	b->level = cost > b->level + DEBT_MAX ? -DEBT_MAX : b->level - cost;
}

void limiter_charge(struct limiter *l, uint64_t bytes)
{
	charge_bucket(&l->bandwidth, bytes);
	charge_bucket(&l->ops, 1);
}
