/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/lib/driver.h"
#include "vmm/base/fd.h"

#define BUF   (DRIVER_HIGH + 0x1000) /* one page of buffers */
#define TABLE (DRIVER_HIGH + 0x8004) /* an indirect table, not aligned */
#define NEXT  VIRTQ_DESC_F_NEXT
#define WRITE VIRTQ_DESC_F_WRITE
#define INDIR VIRTQ_DESC_F_INDIRECT

static struct driver g;
static struct virtq queue;
static struct virtio_device device;
static struct virtq_chain chain;

/* The device does nothing: tests call the verbs themselves. */
static bool idle(struct virtio_device *d, unsigned q)
{
	(void)d;
	(void)q;
	return false;
}

static void nothing_to_free(struct virtio_device *d)
{
	(void)d;
}

static const struct virtio_ops idle_ops = {.notify = idle, .destroy = nothing_to_free};

static void start(uint64_t features)
{
	driver_init(&g);
	virtq_init(&queue, VIRTQ_SIZE_MAX);
	device = (struct virtio_device){
		.ops = &idle_ops,
		.name = "idle",
		.features = VIRTIO_FEATURES_COMMON,
		.queue = &queue,
		.num_queues = 1,
		.env = g.env,
	};
	driver_attach(&g, &device);
	driver_start(&g, features);
}

static void start_all(void)
{
	start(VIRTIO_FEATURES_COMMON);
}

static void finish(void)
{
	driver_finish(&g);
}

TestSuite(queue, .init = start_all, .fini = finish, .timeout = 60);

/* Begins again with other features. */
static void restart(uint64_t features)
{
	finish();
	start(features);
}

Test(queue, chain_splits_into_readable_and_writable)
{
	const struct driver_buf buf[] = {
		{BUF, 10, false}, {BUF + 100, 20, false}, {BUF + 200, 30, true}};
	uint16_t head = driver_add(&g, 0, buf, 3);

	cr_assert_eq(virtq_get(&queue, &chain), 1);
	cr_assert_eq(chain.head, head);
	cr_assert_eq(chain.count, 3);
	cr_assert_eq(chain.split, 2);
	cr_assert_eq(chain.readable, 30);
	cr_assert_eq(chain.writable, 30);
	cr_assert_eq(chain.iov[1].iov_base, driver_ptr(&g, BUF + 100, 20));
	cr_assert_eq(chain.iov[2].iov_len, 30);
	cr_assert_eq(virtq_get(&queue, &chain), 0);
}

Test(queue, indirect_table_takes_the_place_of_its_descriptor)
{
	const struct driver_buf buf[] = {{BUF, 16, false}, {BUF + 64, 512, true}};
	gpa_t table;

	driver_add_indirect(&g, 0, buf, 2, &table);
	cr_assert_eq(virtq_get(&queue, &chain), 1);
	cr_assert_eq(chain.count, 2);
	cr_assert_eq(chain.readable, 16);
	cr_assert_eq(chain.writable, 512);
}

Test(queue, indirect_may_end_a_direct_chain_and_its_write_flag_means_nothing)
{
	const struct virtq_desc inner = {BUF, 8, 0, 0};

	driver_desc(&g, 0, 0, (struct virtq_desc){BUF, 4, NEXT, 5});
	driver_desc(&g, 0, 5, (struct virtq_desc){TABLE, 16, INDIR | WRITE, 0});
	memcpy(driver_ptr(&g, TABLE, 16), &inner, 16);
	driver_publish(&g, 0, 0);
	cr_assert_eq(virtq_get(&queue, &chain), 1);
	cr_assert_eq(chain.readable, 12);
	cr_assert_eq(chain.writable, 0);
}

Test(queue, largest_indirect_table)
{
	struct driver_buf buf[VIRTQ_SIZE_MAX];

	for (unsigned i = 0; i < VIRTQ_SIZE_MAX; i++)
		buf[i] = (struct driver_buf){BUF + 8 * i, 8, i >= 100};
	driver_add_indirect(&g, 0, buf, VIRTQ_SIZE_MAX, NULL);
	cr_assert_eq(virtq_get(&queue, &chain), 1);
	cr_assert_eq(chain.count, VIRTQ_SIZE_MAX);
	cr_assert_eq(chain.split, 100);
}

Test(queue, empty_buffers_are_left_out)
{
	const struct driver_buf buf[] = {
		{BUF, 0, false}, {BUF, 4, false}, {UINT64_MAX, 0, true}, {BUF, 1, true}};
	const struct driver_buf none[] = {{0, 0, false}};

	driver_add(&g, 0, buf, 4);
	cr_assert_eq(virtq_get(&queue, &chain), 1);
	cr_assert_eq(chain.count, 2);
	driver_add(&g, 0, none, 1);
	cr_assert_eq(virtq_get(&queue, &chain), 1);
	cr_assert_eq(chain.count, 0);
	cr_assert_eq(chain.readable + chain.writable, 0);
}

Test(queue, used_entries_appear_at_the_end_of_the_batch)
{
	const struct driver_buf buf[] = {{BUF, 8, true}};
	uint32_t head, len;
	uint16_t first = driver_add(&g, 0, buf, 1);
	uint16_t second = driver_add(&g, 0, buf, 1);

	cr_assert_eq(virtq_get(&queue, &chain), 1);
	cr_assert_eq(virtq_get(&queue, &chain), 1);
	virtq_release(&queue, second, 7);
	virtq_release(&queue, first, 3);
	cr_assert_not(driver_used(&g, 0, &head, &len));
	cr_assert(virtq_end(&queue));
	cr_assert(driver_used(&g, 0, &head, &len));
	cr_assert(head == second && len == 7);
	cr_assert(driver_used(&g, 0, &head, &len));
	cr_assert(head == first && len == 3);
	cr_assert_not(driver_used(&g, 0, NULL, NULL));
	cr_assert_not(virtq_end(&queue), "nothing new, no interrupt");
}

/* `n` chains through the queue in one batch; the interrupt decision. */
static bool batch(unsigned n)
{
	const struct driver_buf buf[] = {{BUF, 8, true}};

	for (unsigned i = 0; i < n; i++)
		driver_add(&g, 0, buf, 1);
	while (virtq_get(&queue, &chain) > 0)
		virtq_release(&queue, chain.head, 8);
	return virtq_end(&queue);
}

Test(queue, interrupts_without_event_idx_follow_the_flag)
{
	restart(VIRTIO_F_VERSION_1);
	driver_used_event(&g, 0, 1000);
	cr_assert(batch(1));
	*(uint16_t *)driver_ptr(&g, g.queue[0].avail, 2) = VIRTQ_AVAIL_F_NO_INTERRUPT;
	cr_assert_not(batch(2));
}

Test(queue, interrupts_with_event_idx_when_the_mark_is_in_the_batch)
{
	*(uint16_t *)driver_ptr(&g, g.queue[0].avail, 2) = VIRTQ_AVAIL_F_NO_INTERRUPT;
	driver_used_event(&g, 0, 0);
	cr_assert(batch(1), "the flag means nothing now; entries 0");
	cr_assert_not(batch(3), "entries 1..3, mark behind");
	driver_used_event(&g, 0, 6);
	cr_assert_not(batch(2), "entries 4..5, mark ahead");
	cr_assert(batch(1), "entry 6");
	driver_used_event(&g, 0, 12);
	cr_assert(batch(10), "entries 7..16");
	driver_used_event(&g, 0, 17);
	cr_assert(batch(1), "mark is the first of the batch");
}

Test(queue, indices_wrap_at_65536)
{
	uint16_t used = 0;

	for (unsigned i = 0; i < 9000; i++) {
		bool wanted = i % 3 == 0;

		driver_used_event(&g, 0, (uint16_t)(wanted ? used + 7 : used - 1));
		cr_assert_eq(batch(8), wanted, "batch %u", i);
		used = (uint16_t)(used + 8);
		for (unsigned k = 0; k < 8; k++)
			cr_assert(driver_used(&g, 0, NULL, NULL));
		cr_assert_not(driver_used(&g, 0, NULL, NULL));
	}
}

Test(queue, notifications_are_armed_only_when_the_ring_is_empty)
{
	const struct driver_buf buf[] = {{BUF, 8, true}};

	driver_add(&g, 0, buf, 1);
	cr_assert(driver_wants_kick(&g, 0), "the very first");
	driver_add(&g, 0, buf, 1);
	cr_assert_eq(virtq_get(&queue, &chain), 1);
	driver_add(&g, 0, buf, 1);
	cr_assert_not(driver_wants_kick(&g, 0), "the device is at work");
	cr_assert_eq(virtq_get(&queue, &chain), 1);
	cr_assert_eq(virtq_get(&queue, &chain), 1);
	cr_assert_eq(virtq_get(&queue, &chain), 0);
	driver_add(&g, 0, buf, 1);
	cr_assert(driver_wants_kick(&g, 0));
}

Test(queue, a_queue_that_is_not_live_does_nothing)
{
	struct virtq q;

	virtq_init(&q, 16);
	cr_assert_eq(virtq_get(&q, &chain), 0);
	virtq_release(&q, 3, 5);
	cr_assert_eq(q.state.next_used, 0);
	cr_assert_not(virtq_end(&q));
}

/* Copying. */

Test(queue, copies_across_buffers)
{
	const struct driver_buf buf[] = {{BUF, 3, false},
					 {BUF + 16, 1, false},
					 {BUF + 32, 4, false},
					 {BUF + 64, 2, true},
					 {BUF + 128, 5, true}};
	char out[8] = "";

	memcpy(driver_ptr(&g, BUF, 3), "abc", 3);
	memcpy(driver_ptr(&g, BUF + 16, 1), "d", 1);
	memcpy(driver_ptr(&g, BUF + 32, 4), "efgh", 4);
	driver_add(&g, 0, buf, 5);
	cr_assert_eq(virtq_get(&queue, &chain), 1);

	cr_assert_eq(virtq_chain_read(&chain, 2, out, 5), 0);
	cr_assert_arr_eq(out, "cdefg\0", 6);
	cr_assert_eq(virtq_chain_read(&chain, 8, out, 0), 0);
	cr_assert_eq(virtq_chain_read(&chain, 4, out, 5), -EINVAL);
	cr_assert_eq(virtq_chain_read(&chain, UINT32_MAX, out, 2), -EINVAL);

	cr_assert_eq(virtq_chain_write(&chain, 1, "xyz", 3), 0);
	cr_assert_arr_eq(driver_ptr(&g, BUF + 64, 2), "\0x", 2);
	cr_assert_arr_eq(driver_ptr(&g, BUF + 128, 5), "yz\0\0\0", 5);
	cr_assert_eq(virtq_chain_write(&chain, 6, "!", 1), 0);
	cr_assert_arr_eq(driver_ptr(&g, BUF + 128, 5), "yz\0\0!", 5);
	cr_assert_eq(virtq_chain_write(&chain, 7, "!", 1), -EINVAL);
	cr_assert_eq(virtq_chain_write(&chain, 0, "12345678", 8), -EINVAL);
}

Test(queue, slices_name_the_same_bytes)
{
	const struct driver_buf buf[] = {
		{BUF, 8, false}, {BUF + 100, 8, false}, {BUF + 200, 8, true}, {BUF + 300, 8, true}};
	struct iovec iov[VIRTQ_SIZE_MAX];

	driver_add(&g, 0, buf, 4);
	cr_assert_eq(virtq_get(&queue, &chain), 1);
	cr_assert_eq(virtq_chain_slice(&chain, VIRTQ_READABLE, 4, 8, iov), 2);
	cr_assert_eq(iov[0].iov_base, driver_ptr(&g, BUF + 4, 1));
	cr_assert(iov[0].iov_len == 4 && iov[1].iov_len == 4);
	cr_assert_eq(virtq_chain_slice(&chain, VIRTQ_READABLE, 8, 8, iov), 1);
	cr_assert_eq(iov[0].iov_base, driver_ptr(&g, BUF + 100, 1));
	cr_assert_eq(virtq_chain_slice(&chain, VIRTQ_WRITABLE, 0, 15, iov), 2);
	cr_assert_eq(iov[1].iov_base, driver_ptr(&g, BUF + 300, 1));
	cr_assert_eq(iov[1].iov_len, 7);
	cr_assert_eq(virtq_chain_slice(&chain, VIRTQ_WRITABLE, 16, 0, iov), 0);
	cr_assert_eq(virtq_chain_slice(&chain, VIRTQ_WRITABLE, 15, 2, iov), -EINVAL);
	cr_assert_eq(virtq_chain_slice(&chain, VIRTQ_READABLE, 1, UINT32_MAX, iov), -EINVAL);
}

/* Set-up. */

Test(queue, check_vets_size_alignment_and_addresses)
{
	const uint64_t low_end = DRIVER_LOW_END, high_end = DRIVER_HIGH_END;
	const struct {
		struct virtq_state s;
		int want;
	} cases[] = {
		{{.desc = 0, .driver = 0x2000, .device = 0x3000, .size = 256}, 0},
		{{.desc = 16, .driver = 2, .device = 4, .size = 1}, 0},
		{{.size = 0}, -EINVAL},
		{{.size = 3}, -EINVAL},
		{{.size = 512}, -EINVAL},
		{{.size = 32768}, -EINVAL},
		{{.desc = 8, .size = 16}, -EINVAL},
		{{.driver = 1, .size = 16}, -EINVAL},
		{{.device = 2, .size = 16}, -EINVAL},
		{{.desc = low_end - 256, .size = 16}, 0},
		{{.desc = low_end - 240, .size = 16}, -EFAULT},
		{{.desc = low_end, .size = 16}, -EFAULT},
		{{.desc = UINT64_MAX - 15, .size = 16}, -EFAULT},
		{{.driver = high_end - 38, .size = 16}, 0},
		{{.driver = high_end - 36, .size = 16}, -EFAULT},
		{{.device = high_end - 136, .size = 16}, 0}, /* needs 134 */
		{{.device = high_end - 132, .size = 16}, -EFAULT},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct virtq q = {.state = cases[i].s, .max = VIRTQ_SIZE_MAX};
		int want = cases[i].want;

		cr_assert_eq(virtq_check(&q, &g.mem), want, "case %u", i);
		cr_assert_eq(virtq_start(&q, &g.mem, 0), want, "case %u", i);
		cr_assert_eq(q.desc == NULL, want != 0, "case %u", i);
	}
}

/* Lies. */

struct lie {
	const char *what;
	int want;
	uint16_t head;
	struct virtq_desc d[3];
	struct virtq_desc inner[3]; /* at TABLE */
};

static const struct lie lies[] = {
	{"head beyond the table", -EINVAL, DRIVER_QUEUE_SIZE, {{0}}, {{0}}},
	{"head far beyond", -EINVAL, UINT16_MAX, {{0}}, {{0}}},
	{"loop of one", -ELOOP, 0, {{BUF, 4, NEXT, 0}}, {{0}}},
	{"loop of two", -ELOOP, 0, {{BUF, 4, NEXT, 1}, {BUF, 4, NEXT, 0}}, {{0}}},
	{"loop of empty buffers", -ELOOP, 0, {{BUF, 0, NEXT, 0}}, {{0}}},
	{"next beyond the table", -EINVAL, 0, {{BUF, 4, NEXT, DRIVER_QUEUE_SIZE}}, {{0}}},
	{"in the hole", -EFAULT, 0, {{DRIVER_LOW_END, 4, 0, 0}}, {{0}}},
	{"into the hole", -EFAULT, 0, {{DRIVER_LOW_END - 4, 8, 0, 0}}, {{0}}},
	{"over the hole", -EFAULT, 0, {{DRIVER_LOW_END - 4, MIB(3) + 8, 0, 0}}, {{0}}},
	{"behind memory", -EFAULT, 0, {{DRIVER_HIGH_END - 4, 5, WRITE, 0}}, {{0}}},
	{"end wraps in 64 bits", -EFAULT, 0, {{UINT64_MAX - 3, 8, 0, 0}}, {{0}}},
	{"4 GiB - 1 long", -EFAULT, 0, {{BUF, UINT32_MAX, 0, 0}}, {{0}}},
	{"lengths add up to 4 GiB",
	 -EMSGSIZE,
	 0,
	 {{BUF, 1, NEXT, 1}, {BUF, UINT32_MAX, 0, 0}},
	 {{0}}},
	{"and with the other part",
	 -EMSGSIZE,
	 0,
	 {{BUF, 1, NEXT, 1}, {BUF, UINT32_MAX, WRITE, 0}},
	 {{0}}},
	{"readable behind writable",
	 -EINVAL,
	 0,
	 {{BUF, 4, WRITE | NEXT, 1}, {BUF, 4, 0, 0}},
	 {{0}}},
	{"empty table", -EINVAL, 0, {{TABLE, 0, INDIR, 0}}, {{0}}},
	{"table of half a descriptor", -EINVAL, 0, {{TABLE, 24, INDIR, 0}}, {{BUF, 4, 0, 0}}},
	{"table too long", -EINVAL, 0, {{TABLE, 257 * 16, INDIR, 0}}, {{BUF, 4, 0, 0}}},
	{"table of 4 GiB", -EINVAL, 0, {{TABLE, UINT32_MAX - 15, INDIR, 0}}, {{BUF, 4, 0, 0}}},
	{"table in the hole", -EFAULT, 0, {{DRIVER_LOW_END - 16, 32, INDIR, 0}}, {{0}}},
	{"table and next",
	 -EINVAL,
	 0,
	 {{TABLE, 16, INDIR | NEXT, 1}, {BUF, 4, 0, 0}},
	 {{BUF, 4, 0, 0}}},
	{"table in a table", -EINVAL, 0, {{TABLE, 16, INDIR, 0}}, {{TABLE, 16, INDIR, 0}}},
	{"loop in a table",
	 -ELOOP,
	 0,
	 {{TABLE, 32, INDIR, 0}},
	 {{BUF, 4, NEXT, 1}, {BUF, 4, NEXT, 0}}},
	{"next beyond its table",
	 -EINVAL,
	 0,
	 {{TABLE, 32, INDIR, 0}},
	 {{BUF, 4, NEXT, 2}, {BUF, 4, 0, 0}, {BUF, 4, 0, 0}}},
	{"readable in a table behind writable",
	 -EINVAL,
	 0,
	 {{BUF, 4, WRITE | NEXT, 1}, {TABLE, 16, INDIR, 0}},
	 {{BUF, 4, 0, 0}}},
};

Test(queue, lies_break_the_ring_and_consume_nothing)
{
	for (unsigned i = 0; i < ARRAY_SIZE(lies); i++) {
		const struct lie *lie = &lies[i];

		restart(VIRTIO_FEATURES_COMMON);
		for (uint16_t k = 0; k < 3; k++)
			driver_desc(&g, 0, k, lie->d[k]);
		memcpy(driver_ptr(&g, TABLE, sizeof(lie->inner)), lie->inner, sizeof(lie->inner));
		driver_publish(&g, 0, lie->head);
		cr_assert_eq(virtq_get(&queue, &chain), lie->want, "%s", lie->what);
		cr_assert_eq(virtq_get(&queue, &chain), lie->want, "%s again", lie->what);
		cr_assert_eq(queue.state.next_avail, 0, "%s", lie->what);
	}
}

Test(queue, indirect_must_have_been_negotiated)
{
	const struct driver_buf buf[] = {{BUF, 16, false}};

	restart(VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX);
	driver_add_indirect(&g, 0, buf, 1, NULL);
	cr_assert_eq(virtq_get(&queue, &chain), -EINVAL);
}

Test(queue, too_many_buffers)
{
	struct driver_buf buf[VIRTQ_SIZE_MAX];
	gpa_t table;

	for (unsigned i = 0; i < VIRTQ_SIZE_MAX; i++)
		buf[i] = (struct driver_buf){BUF, 1, false};
	driver_add_indirect(&g, 0, buf, VIRTQ_SIZE_MAX, &table);
	driver_desc(&g, 0, 0, (struct virtq_desc){BUF, 1, NEXT, 1});
	driver_desc(&g, 0, 1, (struct virtq_desc){table, 256 * 16, INDIR, 0});
	cr_assert_eq(virtq_get(&queue, &chain), -E2BIG);
}

Test(queue, available_index_may_not_jump_further_than_the_size)
{
	uint16_t *idx = driver_ptr(&g, g.queue[0].avail + 2, 2);

	driver_desc(&g, 0, 0, (struct virtq_desc){BUF, 1, 0, 0});
	*idx = DRIVER_QUEUE_SIZE + 1;
	cr_assert_eq(virtq_get(&queue, &chain), -EINVAL);
	*idx = UINT16_MAX;
	cr_assert_eq(virtq_get(&queue, &chain), -EINVAL);
	*idx = DRIVER_QUEUE_SIZE;
	cr_assert_eq(virtq_get(&queue, &chain), 1);
}

Test(queue, never_more_chains_in_flight_than_entries)
{
	driver_desc(&g, 0, 0, (struct virtq_desc){BUF, 1, 0, 0});
	for (unsigned i = 0; i < DRIVER_QUEUE_SIZE; i++) {
		driver_publish(&g, 0, 0);
		cr_assert_eq(virtq_get(&queue, &chain), 1);
	}
	driver_publish(&g, 0, 0);
	cr_assert_eq(virtq_get(&queue, &chain), -EINVAL);
}

Test(queue, what_changes_after_get_does_not_matter)
{
	const struct driver_buf buf[] = {{BUF, 16, false}, {BUF + 64, 16, true}};
	uint16_t head = driver_add(&g, 0, buf, 2);

	cr_assert_eq(virtq_get(&queue, &chain), 1);
	driver_desc(&g, 0, head, (struct virtq_desc){UINT64_MAX, UINT32_MAX, NEXT, UINT16_MAX});
	cr_assert_eq(chain.readable, 16);
	cr_assert_eq(chain.iov[0].iov_base, driver_ptr(&g, BUF, 16));
	cr_assert_eq(chain.iov[0].iov_len, 16);
	virtq_release(&queue, chain.head, 0);
	cr_assert(virtq_end(&queue));
}

/* Our own used entries become descriptors and available heads: nonsense, but never outside. */
Test(queue, rings_over_each_other)
{
	for (gpa_t shift = 0; shift < 512; shift += 4) {
		restart(VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX);
		queue.state = (struct virtq_state){
			.desc = 0x4000, .driver = 0x4000 + shift, .device = 0x4000, .size = 16};
		cr_assert_eq(virtq_start(&queue, &g.mem, VIRTIO_FEATURES_COMMON), 0);
		driver_desc(&g, 0, 0, (struct virtq_desc){BUF, 1, 0, 0});
		*(uint16_t *)driver_ptr(&g, 0x4000 + shift + 2, 2) = 8;
		for (unsigned i = 0; i < 64 && virtq_get(&queue, &chain) > 0; i++) {
			for (unsigned k = 0; k < chain.count; k++) {
				uint64_t off = (uint64_t)((uint8_t *)chain.iov[k].iov_base -
							  g.mem.region[0].host);

				cr_assert(
					range_within(off, chain.iov[k].iov_len, gmem_size(&g.mem)));
			}
			virtq_release(&queue, chain.head, UINT32_MAX);
			virtq_end(&queue);
		}
	}
}

/*
 * The instant between two of our accesses: the page of the used ring is read-only, so that our
 * store to it faults, and the handler acts as a driver on another CPU before the store happens.
 */
static void (*at_the_store)(void);

static void on_fault(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)info;
	(void)context;
	mprotect(driver_ptr(&g, g.queue[0].used, 1), 4096, PROT_READ | PROT_WRITE);
	at_the_store();
}

static void catch_store(void (*act)(void))
{
	struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};

	at_the_store = act;
	cr_assert_eq(g.queue[0].used % 4096, 0);
	cr_assert_eq(sigaction(SIGSEGV, &sa, NULL), 0);
	cr_assert_eq(mprotect(driver_ptr(&g, g.queue[0].used, 1), 4096, PROT_READ), 0);
}

static void add_one(void)
{
	driver_add(&g, 0, (struct driver_buf[]){{BUF, 8, true}}, 1);
	at_the_store = NULL;
}

Test(queue, looks_again_after_arming)
{
	cr_assert(batch(1));
	catch_store(add_one);
	cr_assert_eq(virtq_get(&queue, &chain), 1, "added before the mark was there");
	cr_assert_null(at_the_store);
}

static void mark_the_first(void)
{
	driver_used_event(&g, 0, 0);
	at_the_store = NULL;
}

Test(queue, reads_the_mark_after_publishing)
{
	driver_used_event(&g, 0, 100);
	add_one();
	cr_assert_eq(virtq_get(&queue, &chain), 1);
	virtq_release(&queue, chain.head, 8);
	catch_store(mark_the_first);
	cr_assert(virtq_end(&queue), "the driver marked before it could see the entry");
	cr_assert_null(at_the_store);
}

/*
 * Both sides at once, each sleeping whenever EVENT_IDX lets it: a wake-up lost in the window
 * between "mark" and "look again" ends in the poll timeout.
 */
#define RACE_TURNS 20000u

static int kick_fd;

static bool wait_for(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, 20000) == 1 && fd_event_drain(fd);
}

static void *serve_race(void *arg)
{
	unsigned served = 0;

	(void)arg;
	while (served < RACE_TURNS && wait_for(kick_fd)) {
		while (virtq_get(&queue, &chain) > 0) {
			virtq_release(&queue, chain.head, 1);
			served++;
		}
		if (virtq_end(&queue))
			fd_event_signal(g.irq_fd);
	}
	return NULL;
}

/* The driver's half of EVENT_IDX: mark, fence, look again. */
static unsigned collect_race(void)
{
	unsigned n = 0;

	while (driver_used(&g, 0, NULL, NULL))
		n++;
	driver_used_event(&g, 0, g.queue[0].used_idx);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	while (driver_used(&g, 0, NULL, NULL))
		n++;
	return n;
}

Test(queue, no_wake_up_is_lost)
{
	const struct driver_buf buf[] = {{BUF, 8, true}};
	unsigned added = 0, done = 0;
	pthread_t thread;

	kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	cr_assert_eq(pthread_create(&thread, NULL, serve_race, NULL), 0);
	while (done < RACE_TURNS) {
		unsigned got;

		/* In ones, so that both sides run dry all the time. */
		for (unsigned i = 0; i < 1 + added % 3 && added < RACE_TURNS; i++) {
			if (added - done >= DRIVER_QUEUE_SIZE)
				break;
			driver_add(&g, 0, buf, 1);
			added++;
			__atomic_thread_fence(__ATOMIC_SEQ_CST);
			if (driver_wants_kick(&g, 0))
				fd_event_signal(kick_fd);
		}
		got = collect_race();
		done += got;
		if (got == 0)
			cr_assert(wait_for(g.irq_fd), "lost after %u of %u", done, added);
	}
	pthread_join(thread, NULL);
	cr_assert_eq(done, RACE_TURNS);
	close(kick_fd);
}
