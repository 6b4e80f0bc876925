/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>

#include "virtio/limiter.h"

#define SECOND 1000000000ull

TestSuite(limiter, .timeout = 60);

/* A device that always has something to do, for `ns`. Returns the bytes that went. */
static uint64_t run(struct limiter *l, uint64_t start, uint64_t ns, uint64_t bytes, uint64_t *ops)
{
	uint64_t now = start, sum = 0;

	*ops = 0;
	while (now < start + ns) {
		uint64_t wait = limiter_wait(l, now, bytes);

		if (wait) {
			now += wait;
			continue;
		}
		limiter_charge(l, bytes);
		sum += bytes;
		++*ops;
	}
	return sum;
}

static bool within(uint64_t got, uint64_t want, double part)
{
	double low = (double)want * (1 - part), high = (double)want * (1 + part);

	return (double)got >= low && (double)got <= high;
}

Test(limiter, off_is_never_asked)
{
	static const struct limiter_config odd[] = {
		{.bandwidth = {0, 100, 7}, .ops = {100, 0, 7}},
		{.bandwidth = {0, 0, 0}, .ops = {0, 0, 0}},
	};
	struct limiter l;

	limiter_set(&l, NULL, 5);
	cr_assert_not(limiter_active(&l));
	for (unsigned i = 0; i < ARRAY_SIZE(odd); i++) {
		limiter_set(&l, &odd[i], 5);
		cr_assert_not(limiter_active(&l));
		limiter_charge(&l, UINT64_MAX);
		cr_assert_eq(limiter_wait(&l, 5, UINT64_MAX), 0);
	}
}

Test(limiter, ten_seconds_within_five_percent)
{
	static const struct {
		uint64_t size, refill_ms, frame;
	} rate[] = {
		{1000000, 1000, 1500},	   {1000000, 1000, 65562}, {125000, 100, 1514},
		{12500000, 100, 65562},	   {3000, 7, 1500},	   {10000, 333, 4096},
		{100000, 100, 60},	   {1 << 20, 1, 65562},	   {1000, 10, 65562},
		{1250000000, 1000, 65562}, {65536, 100, 65536},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rate); i++) {
		const struct limiter_config c = {
			.bandwidth = {rate[i].size, rate[i].refill_ms, 0},
		};
		struct limiter l;
		uint64_t ops, got, want = rate[i].size * 10000 / rate[i].refill_ms;

		limiter_set(&l, &c, 12345);
		run(&l, 12345, SECOND, rate[i].frame, &ops); /* the full bucket is gone */
		got = run(&l, 12345 + SECOND, 10 * SECOND, rate[i].frame, &ops);
		cr_assert(within(got, want, 0.05), "case %u: %llu bytes, expected %llu", i,
			  (unsigned long long)got, (unsigned long long)want);
	}
}

Test(limiter, operations_count_whatever_their_size)
{
	const struct limiter_config c = {.ops = {100, 100, 0}};
	struct limiter l;
	uint64_t ops;

	limiter_set(&l, &c, 0);
	run(&l, 0, SECOND, 1, &ops);
	cr_assert(within(ops, 1100, 0.01), "a full bucket and a second of refill: %llu",
		  (unsigned long long)ops);
	run(&l, SECOND, 10 * SECOND, 1 << 20, &ops);
	cr_assert(within(ops, 10000, 0.01));
}

Test(limiter, the_tighter_bucket_decides)
{
	const struct limiter_config c = {.bandwidth = {1000, 1000, 0}, .ops = {10, 1000, 0}};
	struct limiter l;
	uint64_t ops;

	limiter_set(&l, &c, 0);
	run(&l, 0, SECOND, 1, &ops);
	run(&l, SECOND, 10 * SECOND, 10, &ops);
	cr_assert(within(ops, 100, 0.05), "%llu", (unsigned long long)ops);
	run(&l, 11 * SECOND, 10 * SECOND, 500, &ops);
	cr_assert(within(ops, 20, 0.05), "%llu", (unsigned long long)ops);
}

Test(limiter, burst_is_spent_first_and_once)
{
	const struct limiter_config c = {.bandwidth = {1000, 1000, 5000}};
	struct limiter l;

	limiter_set(&l, &c, 0);
	for (unsigned i = 0; i < 6; i++) {
		cr_assert_eq(limiter_wait(&l, 0, 1000), 0, "%u", i);
		limiter_charge(&l, 1000);
	}
	cr_assert_eq(limiter_wait(&l, 0, 1000), SECOND);
	cr_assert_eq(limiter_wait(&l, 100 * SECOND, 1000), 0);
	limiter_charge(&l, 1000);
	cr_assert_eq(limiter_wait(&l, 100 * SECOND, 1), SECOND / 1000, "no second burst");
}

Test(limiter, burst_and_bucket_together_serve_one_request)
{
	const struct limiter_config c = {.bandwidth = {1000, 1000, 300}};
	struct limiter l;

	limiter_set(&l, &c, 0);
	cr_assert_eq(limiter_wait(&l, 0, 1300), 0);
	limiter_charge(&l, 1300);
	cr_assert_eq(limiter_wait(&l, 0, 1000), SECOND);
}

Test(limiter, the_wait_it_names_is_exact)
{
	const struct limiter_config c = {.bandwidth = {3, 10, 0}};
	struct limiter l;

	limiter_set(&l, &c, 0);
	limiter_charge(&l, 3);
	cr_assert_eq(limiter_wait(&l, 0, 1), 3333334);
	cr_assert_eq(limiter_wait(&l, 3333333, 1), 1);
	cr_assert_eq(limiter_wait(&l, 3333334, 1), 0);
	limiter_charge(&l, 1);
	cr_assert_eq(limiter_wait(&l, 6666666, 1), 1, "the rounding is not lost");
	cr_assert_eq(limiter_wait(&l, 6666667, 1), 0);
}

Test(limiter, more_than_a_bucket_holds_waits_for_a_full_one_and_is_paid_back)
{
	const struct limiter_config c = {.bandwidth = {1000, 1000, 0}};
	struct limiter l;

	limiter_set(&l, &c, 0);
	cr_assert_eq(limiter_wait(&l, 0, 10000), 0);
	limiter_charge(&l, 10000);
	cr_assert_eq(limiter_wait(&l, 0, 1), 9 * SECOND + SECOND / 1000);
	cr_assert_eq(limiter_wait(&l, 0, 10000), 10 * SECOND);
	cr_assert_eq(limiter_wait(&l, 10 * SECOND, 10000), 0);
}

Test(limiter, a_bucket_never_overflows)
{
	const struct limiter_config c = {.bandwidth = {1000, 1000, 0}};
	struct limiter l;

	limiter_set(&l, &c, 0);
	cr_assert_eq(limiter_wait(&l, 1000 * SECOND, 1000), 0);
	limiter_charge(&l, 1000);
	cr_assert_eq(limiter_wait(&l, 1000 * SECOND, 1), SECOND / 1000);
}

Test(limiter, setting_again_fills_the_buckets)
{
	struct limiter_config c = {.bandwidth = {1000, 1000, 0}};
	struct limiter l;

	limiter_set(&l, &c, 0);
	limiter_charge(&l, 50000);
	c.bandwidth.size = 2000;
	limiter_set(&l, &c, SECOND);
	cr_assert_eq(limiter_wait(&l, SECOND, 2000), 0);
	limiter_charge(&l, 2000);
	cr_assert_eq(limiter_wait(&l, SECOND, 2000), SECOND);
}

Test(limiter, extremes_neither_wrap_nor_stop_for_ever)
{
	const struct limiter_config huge = {
		.bandwidth = {UINT64_MAX, UINT64_MAX, UINT64_MAX},
		.ops = {UINT64_MAX, 1, 0},
	};
	const struct limiter_config tiny = {.bandwidth = {1, UINT64_MAX, 0}};
	struct limiter l;

	limiter_set(&l, &huge, UINT64_MAX - 5);
	for (unsigned i = 0; i < 1000; i++) {
		limiter_wait(&l, UINT64_MAX, UINT64_MAX);
		limiter_charge(&l, UINT64_MAX);
	}
	cr_assert_gt(limiter_wait(&l, UINT64_MAX, 1), 0);
	limiter_set(&l, &tiny, 0);
	limiter_charge(&l, 1);
	cr_assert_eq(limiter_wait(&l, UINT64_MAX, 1), 0);
	cr_assert_eq(limiter_wait(&l, 0, 1), 0, "time going backwards takes nothing away");
	for (unsigned i = 0; i < 1000; i++)
		limiter_charge(&l, UINT64_MAX);
	cr_assert_leq(limiter_wait(&l, 0, 1), (uint64_t)INT64_MAX);
}
