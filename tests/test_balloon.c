/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/lib/driver.h"
#include "virtio/balloon.h"
#include "vmm/base/fd.h"
#include "vmm/base/wire.h"

#define F_STATS	    2u
#define F_OOM	    4u
#define F_HINTING   8u
#define F_REPORTING 32u

#define NUM_PAGES (VIRTIO_MMIO_CONFIG + 0)
#define ACTUAL	  (VIRTIO_MMIO_CONFIG + 4)
#define HINT_CMD  (VIRTIO_MMIO_CONFIG + 8)

static struct driver g;
static struct balloon_metrics *count;
static const struct balloon_state *state;

static void start(void)
{
	driver_init(&g);
}

static void finish(void)
{
	driver_finish(&g);
}

TestSuite(balloon, .init = start, .fini = finish, .timeout = 30);

static void with(struct balloon_setup cfg, uint64_t features)
{
	driver_attach(&g, balloon_create(&cfg, &g.env, NULL));
	driver_start(&g, VIRTIO_FEATURES_COMMON | features);
	count = balloon_metrics(g.mmio.dev);
	state = balloon_state(g.mmio.dev);
}

static void all(void)
{
	with((struct balloon_setup){.deflate_on_oom = true,
				    .hinting = true,
				    .reporting = true,
				    .stats_interval_s = 1},
	     F_STATS | F_OOM | F_HINTING | F_REPORTING);
}

/* A page of guest memory with something in it. */
static gpa_t page(unsigned i)
{
	gpa_t at = DRIVER_HIGH + 0x40000 + (gpa_t)i * 4096;

	memset(driver_ptr(&g, at, 4096), 0x5a, 4096);
	return at;
}

static bool gone(gpa_t at)
{
	const uint8_t *p = driver_ptr(&g, at, 4096);

	return p[0] == 0 && p[4095] == 0;
}

static void inflate(const uint32_t *pfn, unsigned n)
{
	gpa_t at = driver_alloc(&g, n * 4);

	memcpy(driver_ptr(&g, at, n * 4), pfn, n * 4);
	driver_add(&g, 0, (struct driver_buf[]){{at, n * 4, false}}, 1);
	driver_kick(&g, 0);
	cr_assert(driver_used(&g, 0, NULL, NULL));
}

Test(balloon, identity)
{
	with((struct balloon_setup){.amount_mib = 3}, 0);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_DEVICE_ID), 5);
	cr_assert_eq(driver_offered(&g), VIRTIO_FEATURES_COMMON);
	cr_assert_eq(g.mmio.dev->num_queues, 2);
	cr_assert_eq(driver_read(&g, NUM_PAGES), 768);
	driver_write(&g, ACTUAL, 77);
	cr_assert_eq(driver_read(&g, ACTUAL), 77);
	cr_assert_eq(state->actual_pages, 77);
	driver_write(&g, NUM_PAGES, 1);
	driver_write(&g, HINT_CMD, 1);
	cr_assert_eq(driver_read(&g, NUM_PAGES), 768, "not the driver's to write");
	cr_assert_eq(driver_read(&g, HINT_CMD), 0);
	balloon_set_target(g.mmio.dev, 5);
	cr_assert_eq(driver_read(&g, NUM_PAGES), 1280);
	cr_assert(driver_irq(&g));
	cr_assert_neq(balloon_hint_start(g.mmio.dev, true, NULL), 0);
	cr_assert_neq(balloon_set_interval(g.mmio.dev, 1, NULL), 0);
}

Test(balloon, everything_offered)
{
	all();
	cr_assert_eq(driver_offered(&g),
		     VIRTIO_FEATURES_COMMON | F_STATS | F_OOM | F_HINTING | F_REPORTING);
	cr_assert_eq(g.mmio.dev->num_queues, 5);
}

Test(balloon, inflated_pages_are_gone_and_their_neighbours_are_not)
{
	uint32_t pfn[6];

	all();
	for (unsigned i = 0; i < 12; i++)
		page(i);
	/* Up, down, alone, and one twice. */
	for (unsigned i = 0; i < 6; i++)
		pfn[i] = (uint32_t)(page((const unsigned[]){1, 2, 6, 5, 9, 9}[i]) >> 12);
	inflate(pfn, 6);
	for (unsigned i = 0; i < 12; i++)
		cr_assert_eq(gone(DRIVER_HIGH + 0x40000 + i * 4096),
			     i == 1 || i == 2 || i == 5 || i == 6 || i == 9, "page %u", i);
	cr_assert_eq(metric_take(&count->inflate_count), 1);
	cr_assert_eq(metric_take(&count->event_fails), 0);
}

Test(balloon, pages_that_are_none)
{
	const uint32_t pfn[] = {(uint32_t)(DRIVER_LOW_END >> 12), UINT32_MAX, 0x7ffff,
				(uint32_t)(page(0) >> 12)};
	gpa_t at = driver_alloc(&g, 16);

	all();
	inflate(pfn, 4);
	cr_assert(gone(DRIVER_HIGH + 0x40000));
	cr_assert_eq(metric_take(&count->event_fails), 3);
	/* Half a number, and nothing at all. */
	driver_add(&g, 0, (struct driver_buf[]){{at, 3, false}}, 1);
	driver_add(&g, 0, (struct driver_buf[]){{at, 16, true}}, 1);
	driver_add(&g, 1, (struct driver_buf[]){{at, 4, false}}, 1);
	driver_kick(&g, 0);
	driver_kick(&g, 1);
	cr_assert(driver_used(&g, 0, NULL, NULL));
	cr_assert(driver_used(&g, 0, NULL, NULL));
	cr_assert(driver_used(&g, 1, NULL, NULL));
	cr_assert_eq(metric_take(&count->deflate_count), 1);
	cr_assert_not(driver_broken(&g));
}

Test(balloon, reported_pages_are_gone)
{
	gpa_t a = page(0), b = page(3);

	all();
	page(1);
	/* Of the second only a whole page in its middle. */
	page(4);
	page(5);
	driver_add(&g, 4,
		   (struct driver_buf[]){{a, 4096, true}, {b + 100, 8192, true}, {a, 10, true}}, 3);
	driver_kick(&g, 4);
	cr_assert(driver_used(&g, 4, NULL, NULL));
	cr_assert(gone(a));
	cr_assert_not(gone(a + 4096));
	cr_assert_not(gone(b));
	cr_assert(gone(b + 4096));
	cr_assert_not(gone(b + 8192));
	cr_assert_eq(metric_take(&count->free_page_report_count), 1);
	cr_assert_eq(metric_take(&count->free_page_report_freed), 8192);
}

/* A driver that does not take a feature has no queue for it: those behind it move up. */
Test(balloon, queues_without_gaps)
{
	gpa_t a = page(0);

	with((struct balloon_setup){.stats_interval_s = 1, .hinting = true, .reporting = true},
	     F_REPORTING);
	driver_add(&g, 2, (struct driver_buf[]){{a, 4096, true}}, 1);
	driver_kick(&g, 2);
	cr_assert(driver_used(&g, 2, NULL, NULL));
	cr_assert(gone(a));
	cr_assert_eq(metric_take(&count->free_page_report_count), 1);
}

static void hint(uint32_t id)
{
	gpa_t at = driver_alloc(&g, 4);

	memcpy(driver_ptr(&g, at, 4), &id, 4);
	driver_add(&g, 3, (struct driver_buf[]){{at, 4, false}}, 1);
	driver_kick(&g, 3);
	cr_assert(driver_used(&g, 3, NULL, NULL));
}

static void hint_page(gpa_t at)
{
	driver_add(&g, 3, (struct driver_buf[]){{at, 4096, true}}, 1);
	driver_kick(&g, 3);
	cr_assert(driver_used(&g, 3, NULL, NULL));
}

Test(balloon, hinting)
{
	all();
	hint_page(page(0));
	cr_assert_not(gone(DRIVER_HIGH + 0x40000), "nobody asked");
	cr_assert_eq(balloon_hint_start(g.mmio.dev, true, NULL), 0);
	cr_assert_eq(driver_read(&g, HINT_CMD), 2);
	cr_assert(driver_irq(&g));
	hint_page(page(0));
	cr_assert_not(gone(DRIVER_HIGH + 0x40000), "the guest has not begun");
	hint(2);
	cr_assert_eq(state->hint_guest, 2);
	hint_page(page(0));
	cr_assert(gone(DRIVER_HIGH + 0x40000));
	hint(0);
	cr_assert_eq(driver_read(&g, HINT_CMD), 1, "acknowledged");
	hint_page(page(1));
	cr_assert_not(gone(DRIVER_HIGH + 0x41000), "too late");
	cr_assert_eq(balloon_hint_start(g.mmio.dev, false, NULL), 0);
	hint(3);
	hint(0);
	cr_assert_eq(driver_read(&g, HINT_CMD), 3, "not acknowledged");
	cr_assert_eq(balloon_hint_stop(g.mmio.dev, NULL), 0);
	cr_assert_eq(driver_read(&g, HINT_CMD), 1);
	hint(1);
	hint_page(page(1));
	cr_assert_not(gone(DRIVER_HIGH + 0x41000), "1 is no sweep");
	cr_assert_eq(metric_take(&count->free_page_hint_freed), 4096);
}

struct __attribute__((packed)) stat_entry {
	uint16_t tag;
	uint64_t value;
};

static uint64_t killed;

static void on_out_of_memory(void *arg, uint64_t kills)
{
	(void)arg;
	killed += kills;
}

static void tell_kills(uint64_t total)
{
	const struct stat_entry s = {BALLOON_OOM_KILL, total};
	gpa_t at = driver_alloc(&g, sizeof(s));

	memcpy(driver_ptr(&g, at, sizeof(s)), &s, sizeof(s));
	driver_add(&g, 2, (struct driver_buf[]){{at, sizeof(s), false}}, 1);
	driver_kick(&g, 2);
	g.loop.timers->at_ns = 0;
	driver_run(&g); /* the buffer comes back */
}

Test(balloon, out_of_memory_is_told_once_for_each_kill)
{
	with((struct balloon_setup){.stats_interval_s = 1, .out_of_memory = on_out_of_memory},
	     F_STATS);
	tell_kills(0);
	cr_assert_eq(killed, 0);
	tell_kills(2);
	cr_assert_eq(killed, 2);
	tell_kills(2);
	cr_assert_eq(killed, 2);
	tell_kills(1); /* it lies, or has begun anew */
	cr_assert_eq(killed, 2);
	tell_kills(3);
	cr_assert_eq(killed, 4);
}

Test(balloon, statistics)
{
	const struct stat_entry s[] = {{4, 1000}, {5, 2000}, {15, 7}, {16, 9}, {0xffff, 9}};
	gpa_t at = driver_alloc(&g, sizeof(s));

	all();
	memcpy(driver_ptr(&g, at, sizeof(s)), s, sizeof(s));
	driver_add(&g, 2, (struct driver_buf[]){{at, sizeof(s) + 3, false}}, 1);
	driver_kick(&g, 2);
	cr_assert_not(driver_used(&g, 2, NULL, NULL), "kept until the time is over");
	cr_assert_eq(state->stats_known, 1u << 4 | 1u << 5 | 1u << 15);
	cr_assert_eq(state->stats[BALLOON_FREE_MEMORY], 1000);
	cr_assert_eq(state->stats[BALLOON_DIRECT_RECLAIM], 7);
	cr_assert(g.loop.timers);
	g.loop.timers->at_ns = 0;
	driver_run(&g);
	cr_assert(driver_used(&g, 2, NULL, NULL), "asked for more");
	cr_assert(driver_irq(&g));
	cr_assert(g.loop.timers, "and again");
	cr_assert_eq(balloon_set_interval(g.mmio.dev, 1000, NULL), 0);
	cr_assert_gt(g.loop.timers->at_ns, now_ns() + 900000000000ull);
	cr_assert_neq(balloon_set_interval(g.mmio.dev, 0, NULL), 0);
	driver_add(&g, 2, (struct driver_buf[]){{at, 5, false}}, 1);
	driver_kick(&g, 2);
	cr_assert_eq(state->stats_known, 0);
	cr_assert_eq(metric_take(&count->stats_updates_count), 1);
	cr_assert_eq(metric_take(&count->stats_update_fails), 1);
	/* After a reset nothing is polled. */
	driver_write(&g, VIRTIO_MMIO_STATUS, 0);
	g.loop.timers->at_ns = 0;
	driver_run(&g);
	cr_assert_null(g.loop.timers);
}

Test(balloon, broken_rings)
{
	for (unsigned q = 0; q < 5; q++) {
		if (q == 0)
			all();
		else
			driver_start(&g, VIRTIO_FEATURES_COMMON | F_STATS | F_OOM | F_HINTING |
						 F_REPORTING);
		driver_publish(&g, q, DRIVER_QUEUE_SIZE);
		driver_kick(&g, q);
		cr_assert(driver_broken(&g), "queue %u", q);
	}
	cr_assert_eq(metric_take(&count->event_fails), 5);
}

Test(balloon, saved_and_restored)
{
	const struct virtio_ops *ops;
	uint32_t space[4] = {0};
	struct balloon_state was;
	struct wire w, r;

	all();
	ops = g.mmio.dev->ops;
	balloon_set_target(g.mmio.dev, 9);
	driver_write(&g, ACTUAL, 4);
	cr_assert_eq(balloon_hint_start(g.mmio.dev, true, NULL), 0);
	hint(2);
	was = *state;
	memcpy(space, g.mmio.dev->config, sizeof(space));
	wire_writer(&w, 1);
	ops->wire(g.mmio.dev, &w);
	balloon_set_target(g.mmio.dev, 1);
	driver_write(&g, VIRTIO_MMIO_STATUS, 0);
	wire_reader(&r, w.buf, w.pos, 1);
	ops->wire(g.mmio.dev, &r);
	cr_assert_eq(wire_end(&r), 0);
	cr_assert_eq(ops->check(g.mmio.dev, space, sizeof(space), NULL), 0);
	virtio_mmio_show_all(g.mmio.dev);
	cr_assert_arr_eq(state, &was, sizeof(was));
	cr_assert_eq(driver_read(&g, NUM_PAGES), 9 * 256);
	space[0]++;
	cr_assert_neq(ops->check(g.mmio.dev, space, sizeof(space), NULL), 0);
	((struct balloon_state *)(uintptr_t)state)->target_pages = UINT32_MAX;
	cr_assert_neq(ops->check(g.mmio.dev, space, sizeof(space), NULL), 0);
	wire_finish(&w);
}

/* Pages of [p, p + 16 pages) that are memory of this process, and no file's. */
static unsigned own_pages(const char *p)
{
	cleanup_fd int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry[16];
	unsigned n = 0;

	cr_assert_eq(pread(fd, entry, sizeof(entry), (off_t)((uintptr_t)p / 4096 * 8)),
		     (ssize_t)sizeof(entry));
	for (unsigned i = 0; i < 16; i++)
		n += entry[i] >> 63 && !(entry[i] >> 61 & 1);
	return n;
}

/* What gmem_discard() leaves of pages of each kind. */
static void discard(enum gmem_backing backing, char left)
{
	const struct gmem_region region = {.gpa = 0, .len = 16 * 4096};
	struct gmem m;
	char *p;

	if (backing == GMEM_FILE) {
		int fd = memfd_create("file", MFD_CLOEXEC);
		char buf[4096];

		memset(buf, 'f', sizeof(buf));
		for (unsigned i = 0; i < 16; i++)
			cr_assert_eq(pwrite(fd, buf, sizeof(buf), i * 4096), 4096);
		cr_assert_eq(gmem_init_file(&m, &region, 1, fd, NULL), 0);
	} else {
		cr_assert_eq(gmem_init(&m, &region, 1, backing, false, NULL), 0);
	}
	p = gmem_at(&m, 0, 16 * 4096);
	memset(p, 'x', 16 * 4096);
	cr_assert_eq(own_pages(p), backing == GMEM_MEMFD ? 0 : 16);
	cr_assert_eq(gmem_discard(&m, p + 4096, 8192), 8192);
	cr_assert_eq(own_pages(p), backing == GMEM_MEMFD ? 0 : 14, "given back");
	cr_assert_eq(gmem_discard(&m, p + 4095, 4098), 4096);
	cr_assert_eq(gmem_discard(&m, p + 1, 4095), 0);
	cr_assert_eq(gmem_discard(&m, p + 5000, 0), 0);
	cr_assert_eq(p[4095], 'x');
	cr_assert_eq(p[4096], left);
	cr_assert_eq(p[3 * 4096 - 1], left);
	cr_assert_eq(p[3 * 4096], 'x');
	gmem_finish(&m);
}

Test(balloon, discarding_each_kind_of_memory)
{
	all();
	discard(GMEM_ANON, 0);
	discard(GMEM_MEMFD, 0);
	discard(GMEM_FILE, 'f');
}

/* Linux notifies the statistics queue before DRIVER_OK, and never again. */
Test(balloon, statistics_that_came_before_driver_ok)
{
	const struct balloon_setup cfg = {.stats_interval_s = 1};
	const struct stat_entry s = {5, 2000};
	gpa_t at = driver_alloc(&g, sizeof(s));

	driver_attach(&g, balloon_create(&cfg, &g.env, NULL));
	cr_assert(driver_negotiate(&g, VIRTIO_FEATURES_COMMON | F_STATS));
	for (unsigned q = 0; q < 3; q++) {
		driver_place_queue(&g, q, DRIVER_QUEUE_SIZE);
		cr_assert(driver_set_queue(&g, q));
	}
	memcpy(driver_ptr(&g, at, sizeof(s)), &s, sizeof(s));
	driver_add(&g, 2, (struct driver_buf[]){{at, sizeof(s), false}}, 1);
	driver_kick(&g, 2);
	cr_assert_eq(balloon_state(g.mmio.dev)->stats_known, 0);
	cr_assert(driver_ok(&g));
	driver_run(&g);
	cr_assert_eq(balloon_state(g.mmio.dev)->stats_known, 1u << 5);
	cr_assert(g.loop.timers);
}
