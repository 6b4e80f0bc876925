/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>

#include "tests/lib/driver.h"
#include "virtio/rng.h"

static struct driver g;
static struct rng_metrics *count;

static void start(void)
{
	struct virtio_device *d;

	driver_init(&g);
	d = rng_create(&g.env, NULL);
	driver_attach(&g, d);
	driver_start(&g, VIRTIO_FEATURES_COMMON);
	count = rng_metrics(d);
}

static void finish(void)
{
	driver_finish(&g);
}

TestSuite(rng, .init = start, .fini = finish, .timeout = 30);

static unsigned zeros(gpa_t gpa, uint32_t len)
{
	const uint8_t *p = driver_ptr(&g, gpa, len);
	unsigned n = 0;

	for (uint32_t i = 0; i < len; i++)
		n += p[i] == 0;
	return n;
}

Test(rng, identity)
{
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_DEVICE_ID), 4);
	cr_assert_eq(driver_offered(&g), VIRTIO_FEATURES_COMMON);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_CONFIG), 0, "no configuration space");
}

Test(rng, fills_every_buffer_and_nothing_else)
{
	gpa_t at = driver_alloc(&g, 8192);
	const struct driver_buf buf[] = {{at, 1000, true}, {at + 2000, 24, true}};
	uint32_t head, len;
	uint16_t want = driver_add(&g, 0, buf, 2);

	driver_kick(&g, 0);
	cr_assert(driver_used(&g, 0, &head, &len));
	cr_assert_eq(head, want);
	cr_assert_eq(len, 1024);
	cr_assert(driver_irq(&g));
	cr_assert_lt(zeros(at, 1000), 100);
	cr_assert_lt(zeros(at + 2000, 24), 24);
	cr_assert_eq(zeros(at + 1000, 1000), 1000);
	cr_assert_eq(zeros(at + 2024, 1000), 1000);
	cr_assert_eq(metric_take(&count->entropy_bytes), 1024);
	cr_assert_eq(metric_take(&count->entropy_event_count), 1);
	cr_assert_eq(metric_take(&count->host_rng_fails), 0);
}

Test(rng, two_answers_differ)
{
	gpa_t a = driver_alloc(&g, 32), b = driver_alloc(&g, 32);

	driver_add(&g, 0, (struct driver_buf[]){{a, 32, true}}, 1);
	driver_add(&g, 0, (struct driver_buf[]){{b, 32, true}}, 1);
	driver_kick(&g, 0);
	cr_assert_arr_neq(driver_ptr(&g, a, 32), driver_ptr(&g, b, 32), 32);
}

Test(rng, at_most_64_kib_in_one_request)
{
	gpa_t at = driver_alloc(&g, 3 * 40000);
	const struct driver_buf buf[] = {
		{at, 40000, true}, {at + 40000, 40000, true}, {at + 80000, 40000, true}};
	uint32_t len;

	driver_add(&g, 0, buf, 3);
	driver_kick(&g, 0);
	cr_assert(driver_used(&g, 0, NULL, &len));
	cr_assert_eq(len, 65536);
	cr_assert_eq(zeros(at + 65536, 120000 - 65536), 120000 - 65536);
}

Test(rng, long_queues_are_served_in_turns)
{
	gpa_t at = driver_alloc(&g, 64);

	for (unsigned i = 0; i < DRIVER_QUEUE_SIZE; i++)
		driver_add(&g, 0, (struct driver_buf[]){{at, 8, true}}, 1);
	driver_kick(&g, 0);
	for (unsigned i = 0; i < DRIVER_QUEUE_SIZE; i++)
		cr_assert(driver_used(&g, 0, NULL, NULL), "request %u", i);
	cr_assert_gt(metric_take(&count->entropy_event_count), 1);
}

Test(rng, request_without_room_is_given_back_empty)
{
	gpa_t at = driver_alloc(&g, 64);
	uint32_t len;

	driver_add(&g, 0, (struct driver_buf[]){{at, 64, false}}, 1);
	driver_add(&g, 0, (struct driver_buf[]){{at, 0, true}}, 1);
	driver_add(&g, 0, (struct driver_buf[]){{at, 16, false}, {at + 32, 16, true}}, 2);
	driver_kick(&g, 0);
	cr_assert(driver_used(&g, 0, NULL, &len));
	cr_assert_eq(len, 0);
	cr_assert(driver_used(&g, 0, NULL, &len));
	cr_assert_eq(len, 0);
	cr_assert(driver_used(&g, 0, NULL, &len));
	cr_assert_eq(len, 16);
	cr_assert_eq(zeros(at, 32), 32);
	cr_assert_eq(metric_take(&count->entropy_event_fails), 2);
	cr_assert_not(driver_broken(&g));
}

Test(rng, broken_ring_publishes_what_came_before_it)
{
	gpa_t at = driver_alloc(&g, 64);

	driver_add(&g, 0, (struct driver_buf[]){{at, 8, true}}, 1);
	driver_publish(&g, 0, DRIVER_QUEUE_SIZE);
	driver_kick(&g, 0);
	cr_assert(driver_used(&g, 0, NULL, NULL));
	cr_assert_not(driver_used(&g, 0, NULL, NULL));
	cr_assert(driver_broken(&g));
	cr_assert_eq(metric_take(&count->entropy_event_fails), 1);
	driver_start(&g, VIRTIO_FEATURES_COMMON);
	driver_add(&g, 0, (struct driver_buf[]){{at, 8, true}}, 1);
	driver_kick(&g, 0);
	cr_assert(driver_used(&g, 0, NULL, NULL), "as new after a reset");
}

Test(rng, limited_in_bytes)
{
	const struct limiter_config limit = {.bandwidth = {.size = 100, .refill_ms = 3600000}};
	gpa_t at = driver_alloc(&g, 256);

	rng_set_limit(g.mmio.dev, &limit);
	driver_add(&g, 0, (struct driver_buf[]){{at, 60, true}}, 1);
	driver_add(&g, 0, (struct driver_buf[]){{at + 64, 60, true}}, 1);
	driver_kick(&g, 0);
	cr_assert(driver_used(&g, 0, NULL, NULL));
	cr_assert_not(driver_used(&g, 0, NULL, NULL), "not before its time");
	cr_assert(g.loop.timers);
	driver_kick(&g, 0);
	cr_assert_not(driver_used(&g, 0, NULL, NULL), "a kick does not help");
	cr_assert_eq(metric_take(&count->entropy_rate_limiter_throttled), 1);
	/* Without a limit it goes at once, and nothing is left to wait for. */
	rng_set_limit(g.mmio.dev, &(struct limiter_config){0});
	driver_run(&g);
	cr_assert(driver_used(&g, 0, NULL, NULL));
	cr_assert_null(g.loop.timers);
	cr_assert_eq(metric_take(&count->rate_limiter_event_count), 1);
	cr_assert_eq(zeros(at + 128, 128), 128);
}

Test(rng, a_reset_while_a_request_waits)
{
	const struct limiter_config limit = {.ops = {.size = 1, .refill_ms = 3600000}};
	gpa_t at = driver_alloc(&g, 64);

	rng_set_limit(g.mmio.dev, &limit);
	driver_add(&g, 0, (struct driver_buf[]){{at, 8, true}}, 1);
	driver_add(&g, 0, (struct driver_buf[]){{at, 8, true}}, 1);
	driver_kick(&g, 0);
	driver_write(&g, VIRTIO_MMIO_STATUS, 0);
	g.loop.timers->at_ns = 0;
	driver_run(&g);
	cr_assert_null(g.loop.timers);
}
