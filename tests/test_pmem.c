/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/lib/driver.h"
#include "virtio/mmio_state.h"
#include "virtio/pmem.h"
#include "vmm/base/fd.h"

#define START	 GIB(4)
#define FILE_LEN 10000u
#define LEN	 MIB(2)

static struct driver g;
static struct pmem_metrics *count;
static int file;

static int new_file(void)
{
	int fd = memfd_create("file", MFD_CLOEXEC);

	cr_assert(fd >= 0 && ftruncate(fd, FILE_LEN) == 0);
	return fd;
}

static struct pmem_setup setup_of(int fd)
{
	return (struct pmem_setup){
		.id = "p",
		.fd = dup(fd),
		.start = START,
		.len = LEN,
		.file_len = FILE_LEN,
	};
}

static void attach(struct pmem_setup s)
{
	struct virtio_device *d = pmem_create(&s, &g.env, NULL);

	driver_attach(&g, d);
	count = pmem_metrics(d);
	driver_start(&g, VIRTIO_FEATURES_COMMON);
}

static void start(void)
{
	file = new_file();
	driver_init(&g);
	cr_assert_eq(gmem_add_file(&g.mem, START, file, FILE_LEN, false, NULL), 0);
}

static void finish(void)
{
	driver_finish(&g);
	close(file);
}

TestSuite(pmem, .init = start, .fini = finish, .timeout = 30);

/* Until the loop has had everything that it is going to have. */
static void settle(void)
{
	for (unsigned i = 0; i < 200; i++) {
		driver_run(&g);
		poll(NULL, 0, 1);
	}
}

static bool answered(uint32_t *head, uint32_t *len)
{
	for (unsigned i = 0; i < 5000; i++) {
		if (driver_used(&g, 0, head, len))
			return true;
		driver_run(&g);
		poll(NULL, 0, 1);
	}
	return false;
}

/* A flush in these two pieces; the result starts as 0x55. */
static gpa_t add(uint32_t type, uint32_t readable, uint32_t writable)
{
	gpa_t at = driver_alloc(&g, 64);
	const struct driver_buf buf[] = {{at, readable, false}, {at + 32, writable, true}};

	memcpy(driver_ptr(&g, at, 4), &type, 4);
	memset(driver_ptr(&g, at + 32, 32), 0x55, 32);
	driver_add(&g, 0, buf, 2);
	return at + 32;
}

static uint32_t result(gpa_t at)
{
	uint32_t r;

	memcpy(&r, driver_ptr(&g, at, 4), 4);
	return r;
}

Test(pmem, identity)
{
	uint64_t space[2] = {0};

	attach(setup_of(file));
	cr_expect_eq(driver_read(&g, VIRTIO_MMIO_DEVICE_ID), 27);
	cr_expect_eq(driver_offered(&g), VIRTIO_FEATURES_COMMON);
	for (unsigned i = 0; i < 4; i++)
		driver_read_bytes(&g, VIRTIO_MMIO_CONFIG + 4 * i, (uint8_t *)space + 4 * i, 4);
	cr_expect_eq(space[0], START);
	cr_expect_eq(space[1], LEN);
	cr_expect_eq(driver_read(&g, VIRTIO_MMIO_CONFIG + 16), 0, "its end");
	cr_expect_eq(driver_read(&g, VIRTIO_MMIO_QUEUE_NUM_MAX), 256);
}

Test(pmem, a_flush_is_answered)
{
	uint32_t len;
	gpa_t at;

	attach(setup_of(file));
	memcpy(gmem_at(&g.mem, START + 8, 4), "text", 4);
	at = add(0, 4, 4);
	driver_kick(&g, 0);
	cr_assert(answered(NULL, &len));
	cr_expect_eq(len, 4);
	cr_expect_eq(result(at), 0);
	cr_expect(driver_irq(&g));
	cr_expect_eq(metric_take(&count->flush_count), 1);
	cr_expect_eq(metric_take(&count->execute_fails), 0);
}

Test(pmem, in_one_byte_pieces_and_indirect)
{
	struct driver_buf buf[9];
	gpa_t at, table;
	uint32_t len;

	attach(setup_of(file));
	at = driver_alloc(&g, 64);
	memset(driver_ptr(&g, at + 32, 8), 0x55, 8);
	for (unsigned i = 0; i < 4; i++) {
		buf[i] = (struct driver_buf){at + i, 1, false};
		buf[4 + i] = (struct driver_buf){at + 32 + i, 1, true};
	}
	buf[8] = (struct driver_buf){at + 36, 4, true};
	driver_add_indirect(&g, 0, buf, 9, &table);
	driver_kick(&g, 0);
	cr_assert(answered(NULL, &len));
	cr_expect_eq(len, 4);
	cr_expect_eq(result(at + 32), 0);
	cr_expect_eq(result(at + 36), 0x55555555u, "what is no result stays");
}

Test(pmem, many_are_answered_by_few_syncs)
{
	gpa_t at[DRIVER_QUEUE_SIZE / 2 * 3];

	attach(setup_of(file));
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < DRIVER_QUEUE_SIZE / 2; i++)
			at[i] = add(0, 4, 4);
		driver_kick(&g, 0);
		for (unsigned i = 0; i < DRIVER_QUEUE_SIZE / 2; i++)
			cr_assert(answered(NULL, NULL), "request %u", i);
		for (unsigned i = 0; i < DRIVER_QUEUE_SIZE / 2; i++)
			cr_expect_eq(result(at[i]), 0);
	}
	cr_expect_eq(metric_take(&count->flush_count), DRIVER_QUEUE_SIZE / 2 * 3);
}

/* As many as one sync answers, and with them what comes while it runs. */
Test(pmem, a_full_queue)
{
	gpa_t at, table;

	attach(setup_of(file));
	for (unsigned round = 0; round < 4; round++) {
		for (unsigned i = 0; i < DRIVER_QUEUE_SIZE; i++) {
			at = driver_alloc(&g, 64);
			driver_add_indirect(
				&g, 0, (struct driver_buf[]){{at, 4, false}, {at + 32, 4, true}}, 2,
				&table);
			driver_write(&g, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
			if (i % 5 == 0)
				driver_run(&g);
		}
		for (unsigned i = 0; i < DRIVER_QUEUE_SIZE; i++)
			cr_assert(answered(NULL, NULL), "round %u, request %u", round, i);
	}
	cr_expect_eq(metric_take(&count->flush_count), 4 * DRIVER_QUEUE_SIZE);
	cr_expect_not(driver_used(&g, 0, NULL, NULL));
}

Test(pmem, requests_that_are_none)
{
	gpa_t type, shorter, room, none;
	uint32_t len;

	attach(setup_of(file));
	type = add(1, 4, 4);
	shorter = add(0, 3, 4);
	room = add(0, 4, 3);
	none = add(0, 4, 0);
	driver_kick(&g, 0);
	cr_assert(answered(NULL, &len));
	cr_expect_eq(len, 4);
	cr_expect_eq(result(type), UINT32_MAX);
	cr_assert(answered(NULL, &len));
	cr_expect_eq(result(shorter), UINT32_MAX);
	cr_assert(answered(NULL, &len));
	cr_expect_eq(len, 0);
	cr_expect_eq(result(room), 0x55555555u);
	cr_assert(answered(NULL, &len));
	cr_expect_eq(len, 0);
	cr_expect_eq(result(none), 0x55555555u);
	cr_expect_eq(metric_take(&count->invalid_reqs_count), 4);
	cr_expect_eq(metric_take(&count->flush_count), 0);
	cr_expect_not(driver_broken(&g));
}

/* A descriptor that nobody can sync: one end of a pipe. */
Test(pmem, the_host_fails)
{
	struct pmem_setup s = setup_of(file);
	int ends[2];
	gpa_t at;

	close(s.fd);
	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	close(ends[0]);
	s.fd = ends[1];
	attach(s);
	at = add(0, 4, 4);
	driver_kick(&g, 0);
	cr_assert(answered(NULL, NULL));
	cr_expect_eq(result(at), UINT32_MAX);
	cr_expect_eq(metric_take(&count->execute_fails), 1);
	cr_expect_lt(g.mmio.dev->ops->drain(g.mmio.dev, &(struct err){0}), 0);
}

Test(pmem, read_only_has_nothing_to_flush)
{
	struct pmem_setup s = setup_of(file);
	gpa_t at;

	s.read_only = true;
	close(s.fd);
	s.fd = -1;
	attach(s);
	at = add(0, 4, 4);
	driver_kick(&g, 0);
	cr_assert(answered(NULL, NULL));
	cr_expect_eq(result(at), 0);
}

Test(pmem, a_broken_ring_publishes_what_came_before_it)
{
	gpa_t at;

	attach(setup_of(file));
	at = add(0, 4, 4);
	driver_publish(&g, 0, 999);
	driver_kick(&g, 0);
	cr_assert(answered(NULL, NULL));
	cr_expect_eq(result(at), 0);
	cr_expect(driver_broken(&g));
	cr_expect_eq(metric_take(&count->event_fails), 1);
	driver_start(&g, VIRTIO_FEATURES_COMMON);
	at = add(0, 4, 4);
	driver_kick(&g, 0);
	cr_assert(answered(NULL, NULL), "as new after a reset");
	cr_expect_eq(result(at), 0);
}

Test(pmem, a_reset_while_a_flush_is_on_its_way)
{
	gpa_t at;

	attach(setup_of(file));
	for (unsigned i = 0; i < 50; i++) {
		at = add(0, 4, 4);
		driver_write(&g, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
		driver_run(&g);
		driver_write(&g, VIRTIO_MMIO_STATUS, 0);
		memset(driver_ptr(&g, at, 4), 0x77, 4);
		driver_start(&g, VIRTIO_FEATURES_COMMON);
		driver_run(&g);
		cr_assert_eq(result(at), 0x77777777u, "written after the reset");
		cr_assert_not(driver_used(&g, 0, NULL, NULL));
	}
}

Test(pmem, limited)
{
	struct pmem_setup s = setup_of(file);
	const struct limiter_config limit = {.ops = {.size = 1, .refill_ms = 3600000}};

	s.limiter = &limit;
	attach(s);
	add(0, 4, 4);
	add(0, 4, 4);
	driver_kick(&g, 0);
	cr_assert(answered(NULL, NULL));
	driver_kick(&g, 0);
	settle();
	cr_expect_not(driver_used(&g, 0, NULL, NULL), "a kick does not help");
	cr_expect_eq(metric_take(&count->rate_limiter_throttled_events), 1);
	pmem_set_limiter(g.mmio.dev, &(struct limiter_config){0});
	cr_expect(answered(NULL, NULL));
	cr_expect_eq(metric_take(&count->rate_limiter_event_count), 1);
	cr_expect_null(g.loop.timers);
}

Test(pmem, a_kick_for_nothing)
{
	attach(setup_of(file));
	driver_kick(&g, 0);
	settle();
	cr_expect_not(driver_used(&g, 0, NULL, NULL));
	cr_expect_not(driver_irq(&g));
}

Test(pmem, what_it_took_is_closed)
{
	struct pmem_setup s = setup_of(file);
	int before = open("/dev/null", O_RDONLY | O_CLOEXEC), after;

	close(before);
	attach(s);
	virtio_mmio_finish(&g.mmio);
	cr_expect_eq(fcntl(s.fd, F_GETFD), -1);
	after = open("/dev/null", O_RDONLY | O_CLOEXEC);
	cr_expect_leq(after, before);
	close(after);
	attach(setup_of(file));
}

/* --- snapshots --- */

static struct virtio_mmio_state saved;
static struct wire own;

static void save(void)
{
	struct err e = {0};

	cr_assert_eq(virtio_mmio_save(&saved, &g.mmio, &e), 0, "%s", e.msg);
	wire_writer(&own, 1);
	g.mmio.dev->ops->wire(g.mmio.dev, &own);
	cr_assert_eq(wire_end(&own), 0);
}

/* Into a new machine over a file of `file_len` bytes at `gpa`; 0 or what was said. */
static int restore(gpa_t gpa, uint64_t file_len, struct err *e)
{
	struct pmem_setup s = setup_of(file);
	struct wire w;
	int r;

	s.start = gpa;
	s.file_len = file_len;
	virtio_mmio_finish(&g.mmio);
	driver_attach(&g, pmem_create(&s, &g.env, NULL));
	wire_reader(&w, own.buf, own.pos, 1);
	g.mmio.dev->ops->wire(g.mmio.dev, &w);
	r = wire_end(&w);
	if (r < 0)
		return err_set(e, -r, "malformed");
	return virtio_mmio_restore(&g.mmio, &saved, e);
}

Test(pmem, a_snapshot_keeps_what_is_behind_the_file)
{
	uint8_t *tail = gmem_at(&g.mem, START + 12288, LEN - 12288);
	struct err e = {0};
	gpa_t at;

	attach(setup_of(file));
	tail[0] = 'a';
	tail[4000] = 'z';
	at = add(0, 4, 4);
	driver_write(&g, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	driver_run(&g);
	save();
	cr_expect_eq(result(at), 0, "drained");
	cr_expect_eq(own.pos, 12 + 4001);
	memset(tail, 0, LEN - 12288);
	cr_assert_eq(restore(START, FILE_LEN, &e), 0, "%s", e.msg);
	cr_expect_eq(tail[0], 'a');
	cr_expect_eq(tail[4000], 'z');
	wire_finish(&own);
}

Test(pmem, a_snapshot_over_something_else_is_refused)
{
	struct err e = {0};
	uint32_t bad = LEN;

	attach(setup_of(file));
	save();
	cr_expect_lt(restore(START, FILE_LEN - 1, &e), 0);
	cr_expect(strstr(e.msg, "its file has 9999 bytes, and had 10000"), "%s", e.msg);
	cr_assert_eq(gmem_add_file(&g.mem, START + GIB(1), file, FILE_LEN, false, NULL), 0);
	cr_expect_lt(restore(START + GIB(1), FILE_LEN, &e), 0);
	cr_expect(strstr(e.msg, "not where the guest knows it"), "%s", e.msg);
	memcpy(own.buf + 8, &bad, 4);
	cr_expect_lt(restore(START, FILE_LEN, &e), 0);
	cr_expect_str_eq(e.msg, "malformed");
	bad = 100;
	memcpy(own.buf + 8, &bad, 4);
	cr_expect_lt(restore(START, FILE_LEN, &e), 0);
	cr_expect_str_eq(e.msg, "malformed");
	wire_finish(&own);
}
