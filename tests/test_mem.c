/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/lib/driver.h"
#include "virtio/mem.h"
#include "virtio/mmio_state.h"

#define AT	 GIB(4)
#define BLOCK	 MIB(2)
#define PART	 MIB(8)
#define SIZE	 MIB(1024)
#define REQUIRED (1ull << 1)
#define FEATURES (VIRTIO_FEATURES_COMMON | REQUIRED)

enum { PLUG, UNPLUG, UNPLUG_ALL, STATE };
enum { ACK, NACK, BUSY, ERROR };

struct request {
	uint16_t type, padding[3];
	uint64_t addr;
	uint16_t blocks, padding2[3];
};

static struct driver g;
static struct mem_metrics *count;
static bool mapped[SIZE / PART];
static unsigned map_calls, map_fails_at; /* the n-th call from 1; 0: none */

static int map(void *arg, unsigned n, bool on)
{
	cr_assert_eq(arg, &g);
	cr_assert_lt(n, SIZE / PART);
	if (on && ++map_calls == map_fails_at)
		return -ENOMEM;
	mapped[n] = on;
	return 0;
}

static void attach(void)
{
	const struct mem_setup s = {.map = map, .arg = &g};

	driver_attach(&g, mem_create(&s, &g.env, NULL));
	count = mem_metrics(g.mmio.dev);
}

static void start(void)
{
	const struct gmem_region region[] = {
		{.gpa = 0, .len = DRIVER_LOW_END},
		{.gpa = DRIVER_HIGH, .len = DRIVER_HIGH_END - DRIVER_HIGH},
		{.gpa = AT, .len = SIZE, .block = BLOCK, .part = PART},
	};

	driver_init(&g);
	gmem_finish(&g.mem);
	cr_assert_eq(gmem_init(&g.mem, region, ARRAY_SIZE(region), GMEM_ANON, false, NULL), 0);
	attach();
	driver_start(&g, FEATURES);
}

static void finish(void)
{
	driver_finish(&g);
}

TestSuite(mem, .init = start, .fini = finish, .timeout = 30);

/* Puts a request into the ring, cut as a driver would. */
static gpa_t put(uint16_t type, uint64_t addr, uint16_t blocks)
{
	const struct request q = {.type = type, .addr = addr, .blocks = blocks};
	gpa_t at = driver_alloc(&g, 64);
	const struct driver_buf buf[] = {{at, sizeof(q), false}, {at + 32, 10, true}};

	memcpy(driver_ptr(&g, at, sizeof(q)), &q, sizeof(q));
	memset(driver_ptr(&g, at + 32, 10), 0x55, 10);
	driver_add(&g, 0, buf, 2);
	return at;
}

/* Sends a request; *state is what STATE tells. */
static uint16_t ask(uint16_t type, uint64_t addr, uint16_t blocks, uint16_t *state)
{
	gpa_t at = put(type, addr, blocks);
	uint16_t answer;
	uint32_t len;

	driver_kick(&g, 0);
	cr_assert(driver_used(&g, 0, NULL, &len));
	cr_assert_eq(len, 10);
	memcpy(&answer, driver_ptr(&g, at + 32, 2), 2);
	if (state)
		memcpy(state, driver_ptr(&g, at + 40, 2), 2);
	return answer;
}

static uint64_t config64(uint64_t off)
{
	uint64_t v;

	driver_read_bytes(&g, VIRTIO_MMIO_CONFIG + off, &v, 4);
	driver_read_bytes(&g, VIRTIO_MMIO_CONFIG + off + 4, (uint8_t *)&v + 4, 4);
	return v;
}
#define USABLE	  config64(32)
#define PLUGGED	  config64(40)
#define REQUESTED config64(48)

static void request(uint64_t bytes)
{
	pthread_mutex_lock(&g.lock);
	mem_request(g.mmio.dev, bytes);
	pthread_mutex_unlock(&g.lock);
}

Test(mem, identity)
{
	cr_expect_eq(driver_read(&g, VIRTIO_MMIO_DEVICE_ID), 24);
	cr_expect_eq(driver_offered(&g), FEATURES);
	cr_expect_eq(config64(0), BLOCK);
	cr_expect_eq(config64(8), 0, "no node");
	cr_expect_eq(config64(16), AT);
	cr_expect_eq(config64(24), SIZE);
	cr_expect_eq(PLUGGED, 0);
	cr_expect_eq(REQUESTED, 0);
	cr_expect_eq(driver_read(&g, VIRTIO_MMIO_CONFIG + 56), 0, "its end");
	cr_expect_not(driver_negotiate(&g, VIRTIO_FEATURES_COMMON), "UNPLUGGED_INACCESSIBLE");
	cr_expect(driver_negotiate(&g, FEATURES));
}

Test(mem, nothing_is_there_before_it_is_plugged)
{
	cr_expect_null(gmem_at(&g.mem, AT, 1));
	cr_expect_eq(ask(PLUG, AT, 1, NULL), NACK, "nobody has asked for it");
	cr_expect_eq(map_calls, 0);
	cr_expect_eq(metric_take(&count->plug_fails), 1);
}

Test(mem, plugged_and_unplugged)
{
	uint32_t generation = driver_read(&g, VIRTIO_MMIO_CONFIG_GENERATION);

	request(MIB(16));
	cr_expect(driver_irq(&g), "told");
	cr_expect_neq(driver_read(&g, VIRTIO_MMIO_CONFIG_GENERATION), generation);
	cr_expect_eq(REQUESTED, MIB(16));
	cr_expect_geq(USABLE, MIB(16));
	cr_expect_eq(ask(PLUG, AT + PART - BLOCK, 2, NULL), ACK);
	cr_expect(mapped[0] && mapped[1] && !mapped[2]);
	cr_expect_eq(PLUGGED, 2 * BLOCK);
	cr_expect_eq(mem_plugged(g.mmio.dev), 2 * BLOCK);
	cr_expect_null(gmem_at(&g.mem, AT + PART - BLOCK - 1, 2));
	cr_assert_not_null(gmem_at(&g.mem, AT + PART - BLOCK, 2 * BLOCK));
	cr_expect_null(gmem_at(&g.mem, AT + PART - BLOCK, 2 * BLOCK + 1));
	memset(gmem_at(&g.mem, AT + PART - BLOCK, 2 * BLOCK), 7, 2 * BLOCK);
	cr_expect_eq(ask(UNPLUG, AT + PART - BLOCK, 1, NULL), ACK);
	cr_expect(!mapped[0] && mapped[1]);
	cr_expect_null(gmem_at(&g.mem, AT + PART - BLOCK, 1));
	cr_expect_not_null(gmem_at(&g.mem, AT + PART, BLOCK));
	cr_expect_eq(PLUGGED, BLOCK);
	cr_expect_eq(metric_take(&count->plug_bytes), 2 * BLOCK);
	cr_expect_eq(metric_take(&count->unplug_bytes), BLOCK);
	cr_expect_eq(metric_take(&count->plug_count), 1);
	cr_expect_eq(metric_take(&count->unplug_count), 1);
	cr_expect_eq(metric_take(&count->unplug_fails), 0);
}

Test(mem, what_is_unplugged_is_given_back)
{
	unsigned char resident[2 * BLOCK / GMEM_PAGE];
	uint8_t *host = g.mem.region[2].host;

	request(MIB(4));
	cr_assert_eq(ask(PLUG, AT, 2, NULL), ACK);
	memset(host, 7, 2 * BLOCK);
	cr_assert_eq(ask(UNPLUG, AT + BLOCK, 1, NULL), ACK);
	cr_assert_eq(mincore(host, 2 * BLOCK, resident), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(resident); i++)
		cr_assert_eq(resident[i] & 1, i < BLOCK / GMEM_PAGE, "page %u", i);
	cr_expect_eq(host[0], 7);
}

Test(mem, lies)
{
	static const struct {
		uint64_t addr;
		uint16_t blocks;
	} bad[] = {
		{AT - BLOCK, 1},
		{AT - BLOCK, 2},
		{AT + 1, 1},
		{AT + BLOCK / 2, 1},
		{AT, 0},
		{AT + SIZE, 1},
		{AT + SIZE - BLOCK, 2},
		{0, 1},
		{UINT64_MAX, 1},
		{UINT64_MAX - BLOCK + 1, 2},
		{AT, UINT16_MAX},
	};

	request(SIZE);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		for (uint16_t type = PLUG; type <= STATE; type++)
			if (type != UNPLUG_ALL)
				cr_expect_eq(ask(type, bad[i].addr, bad[i].blocks, NULL), ERROR,
					     "type %u, case %u", type, i);
	cr_expect_eq(PLUGGED, 0);
	cr_assert_eq(ask(PLUG, AT + BLOCK, 2, NULL), ACK);
	cr_expect_eq(ask(PLUG, AT + BLOCK, 1, NULL), ERROR, "twice");
	cr_expect_eq(ask(PLUG, AT, 2, NULL), ERROR, "one of them twice");
	cr_expect_eq(ask(UNPLUG, AT, 2, NULL), ERROR, "one of them is not there");
	cr_expect_eq(ask(UNPLUG, AT + 2 * BLOCK, 2, NULL), ERROR);
	cr_expect_eq(PLUGGED, 2 * BLOCK);
	cr_expect_eq(ask(UNPLUG, AT + BLOCK, 2, NULL), ACK);
	cr_expect_eq(ask(UNPLUG, AT + BLOCK, 2, NULL), ERROR, "twice");
	cr_expect_eq(PLUGGED, 0);
	for (unsigned i = 0; i < SIZE / PART; i++)
		cr_assert_not(mapped[i]);
	cr_expect_not(driver_broken(&g));
}

Test(mem, not_beyond_what_was_requested)
{
	request(MIB(8));
	cr_expect_eq(ask(PLUG, AT, 5, NULL), NACK);
	cr_expect_eq(ask(PLUG, AT, 4, NULL), ACK);
	cr_expect_eq(ask(PLUG, AT + MIB(8), 1, NULL), NACK);
	/* Asked for less, it may still have more, but get no more. */
	request(MIB(4));
	cr_expect_eq(ask(PLUG, AT + MIB(8), 1, NULL), NACK);
	cr_expect_eq(ask(UNPLUG, AT, 3, NULL), ACK);
	cr_expect_eq(ask(PLUG, AT + MIB(8), 1, NULL), ACK);
	cr_expect_eq(ask(PLUG, AT + MIB(10), 1, NULL), NACK);
}

/* So that no guest gets at every part by plugging one block of each. */
Test(mem, not_beyond_what_is_usable)
{
	uint64_t usable;

	request(MIB(8));
	usable = USABLE;
	cr_expect_leq(usable, MIB(8) + MIB(256) + PART);
	cr_expect_eq(ask(PLUG, AT + usable - BLOCK, 1, NULL), ACK);
	cr_expect_eq(ask(PLUG, AT + usable, 1, NULL), ERROR);
	request(SIZE);
	cr_expect_eq(USABLE, SIZE, "never more than the region");
	cr_expect_eq(ask(PLUG, AT + SIZE - BLOCK, 1, NULL), ACK);
	request(0);
	cr_expect_eq(USABLE, SIZE, "blocks may be there");
	cr_expect_eq(ask(UNPLUG_ALL, 0, 0, NULL), ACK);
	cr_expect_eq(PLUGGED, 0);
	cr_expect_lt(USABLE, SIZE);
	cr_expect_null(gmem_at(&g.mem, AT + SIZE - BLOCK, 1));
	for (unsigned i = 0; i < SIZE / PART; i++)
		cr_assert_not(mapped[i]);
}

Test(mem, state)
{
	uint16_t state;

	request(MIB(16));
	cr_expect_eq(ask(STATE, AT, 4, &state), ACK);
	cr_expect_eq(state, 1, "unplugged");
	cr_assert_eq(ask(PLUG, AT, 2, NULL), ACK);
	cr_expect_eq(ask(STATE, AT, 2, &state), ACK);
	cr_expect_eq(state, 0, "plugged");
	cr_expect_eq(ask(STATE, AT, 4, &state), ACK);
	cr_expect_eq(state, 2, "mixed");
	cr_expect_eq(ask(STATE, AT + 2 * BLOCK, 2, &state), ACK);
	cr_expect_eq(state, 1, "unplugged");
	cr_expect_eq(metric_take(&count->state_count), 4);
}

Test(mem, the_host_has_no_more)
{
	request(SIZE);
	map_fails_at = 2;
	cr_expect_eq(ask(PLUG, AT, PART / BLOCK + 1, NULL), NACK);
	cr_expect(!mapped[0] && !mapped[1], "taken back");
	cr_expect_eq(PLUGGED, 0);
	cr_expect_null(gmem_at(&g.mem, AT, 1));
	cr_expect_eq(ask(PLUG, AT, PART / BLOCK + 1, NULL), ACK);
	cr_expect(mapped[0] && mapped[1]);
}

/* Parts of other requests stay when one fails. */
Test(mem, what_was_there_stays_when_the_host_has_no_more)
{
	request(SIZE);
	cr_assert_eq(ask(PLUG, AT, 1, NULL), ACK);
	map_fails_at = 2;
	cr_expect_eq(ask(PLUG, AT + BLOCK, PART / BLOCK, NULL), NACK);
	cr_expect(mapped[0] && !mapped[1]);
	cr_expect_eq(PLUGGED, BLOCK);
}

Test(mem, requests_that_are_none)
{
	gpa_t at = driver_alloc(&g, 256);
	const struct driver_buf shapes[][2] = {
		{{at, 24, false}, {at + 32, 9, true}},	{{at, 24, false}, {at + 32, 0, true}},
		{{at, 23, false}, {at + 32, 10, true}}, {{at, 1, false}, {at + 32, 10, true}},
		{{at, 0, false}, {at + 32, 10, true}},
	};
	const struct request plug = {.type = PLUG, .addr = AT, .blocks = 1};
	uint32_t len;

	request(SIZE);
	memcpy(driver_ptr(&g, at, 24), &plug, 24);
	for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++) {
		driver_add(&g, 0, shapes[i], 2);
		driver_kick(&g, 0);
		cr_assert(driver_used(&g, 0, NULL, &len));
		cr_expect_eq(len, i < 2 ? 0 : 10, "case %u", i);
	}
	cr_expect_eq(PLUGGED, 0);
	cr_expect_eq(ask(4, AT, 1, NULL), ERROR);
	cr_expect_eq(ask(0xffff, AT, 1, NULL), ERROR);
	cr_expect_eq(metric_take(&count->queue_event_fails), 7);
	cr_expect_not(driver_broken(&g));
}

Test(mem, in_one_byte_pieces)
{
	gpa_t at = driver_alloc(&g, 64);
	const struct request plug = {.type = PLUG, .addr = AT, .blocks = 1};
	struct driver_buf buf[34];
	gpa_t table;

	request(SIZE);
	memcpy(driver_ptr(&g, at, 24), &plug, 24);
	for (unsigned i = 0; i < ARRAY_SIZE(buf); i++)
		buf[i] = (struct driver_buf){at + i, 1, i >= 24};
	driver_add_indirect(&g, 0, buf, ARRAY_SIZE(buf), &table);
	driver_kick(&g, 0);
	cr_assert(driver_used(&g, 0, NULL, NULL));
	cr_expect_eq(PLUGGED, BLOCK);
}

Test(mem, blocks_outlive_a_reset)
{
	request(MIB(16));
	cr_assert_eq(ask(PLUG, AT, 1, NULL), ACK);
	driver_write(&g, VIRTIO_MMIO_STATUS, 0);
	cr_expect_not_null(gmem_at(&g.mem, AT, 1));
	driver_start(&g, FEATURES);
	cr_expect_eq(PLUGGED, BLOCK);
	cr_expect_eq(ask(UNPLUG_ALL, 0, 0, NULL), ACK);
	cr_expect_null(gmem_at(&g.mem, AT, 1));
}

/* One turn of the queue. True: there is more to do. */
static bool turn(void)
{
	bool more;

	pthread_mutex_lock(&g.lock);
	more = g.mmio.dev->ops->notify(g.mmio.dev, 0);
	pthread_mutex_unlock(&g.lock);
	return more;
}

static uint64_t plugged_by_the_map(void)
{
	uint64_t size = 0;

	for (uint64_t off = 0; off < SIZE; off += BLOCK)
		size += gmem_all_plugged(&g.mem.region[2], off, BLOCK) ? BLOCK : 0;
	return size;
}

static uint64_t resident(void)
{
	static unsigned char page[SIZE / GMEM_PAGE];
	uint64_t size = 0;

	cr_assert_eq(mincore(g.mem.region[2].host, SIZE, page), 0);
	for (uint64_t i = 0; i < ARRAY_SIZE(page); i++)
		size += page[i] & 1 ? GMEM_PAGE : 0;
	return size;
}

static void plug_everything(void)
{
	request(SIZE);
	cr_assert_eq(ask(PLUG, AT, SIZE / BLOCK, NULL), ACK);
	cr_assert_eq(PLUGGED, SIZE);
	for (uint64_t off = 0; off < SIZE; off += BLOCK)
		g.mem.region[2].host[off] = 1;
}

/* The main thread has other things to do. */
Test(mem, a_large_request_takes_many_turns)
{
	uint64_t last = 0, now;
	unsigned turns = 1;

	request(SIZE);
	put(PLUG, AT, SIZE / BLOCK);
	for (; turn(); turns++, last = now) {
		now = plugged_by_the_map();
		cr_assert(now <= last + PART, "no more than a part at once");
		cr_assert_eq(PLUGGED, now);
		cr_assert(now == SIZE || !driver_used(&g, 0, NULL, NULL), "not done yet");
	}
	cr_expect_geq(turns, SIZE / PART);
	cr_expect(driver_used(&g, 0, NULL, NULL));
	for (uint64_t off = 0; off < SIZE; off += BLOCK)
		g.mem.region[2].host[off] = 1;
	for (uint16_t type = UNPLUG; type <= UNPLUG_ALL; type++) {
		put(type, AT, SIZE / BLOCK);
		last = resident();
		cr_assert_eq(last, SIZE / BLOCK * GMEM_PAGE);
		for (turns = 1; turn(); turns++, last = now) {
			now = resident();
			cr_assert(now + MIB(64) / BLOCK * GMEM_PAGE >= last, "too much at once");
			cr_assert_eq(PLUGGED, plugged_by_the_map());
		}
		cr_expect_geq(turns, SIZE / MIB(64));
		cr_expect_eq(PLUGGED, 0);
		cr_expect_eq(resident(), 0);
		cr_expect(driver_used(&g, 0, NULL, NULL));
		cr_expect_eq(metric_take(&count->unplug_bytes), SIZE);
		plug_everything();
	}
}

Test(mem, a_reset_in_the_middle_of_a_request)
{
	for (unsigned turns = 1; turns < 12; turns++) {
		plug_everything();
		put(UNPLUG, AT, SIZE / BLOCK);
		for (unsigned i = 0; i < turns; i++)
			cr_assert(turn());
		driver_write(&g, VIRTIO_MMIO_STATUS, 0);
		driver_start(&g, FEATURES);
		cr_assert_eq(PLUGGED, plugged_by_the_map());
		cr_assert(PLUGGED > 0 && PLUGGED < SIZE);
		/* What was unplugged and not yet given back is, before anything else. */
		driver_kick(&g, 0);
		cr_assert_eq(resident(), PLUGGED / BLOCK * GMEM_PAGE);
		cr_assert_eq(ask(UNPLUG_ALL, 0, 0, NULL), ACK);
		cr_assert_eq(resident(), 0);
		put(PLUG, AT, SIZE / BLOCK);
		for (unsigned i = 0; i < turns; i++)
			cr_assert(turn());
		driver_write(&g, VIRTIO_MMIO_STATUS, 0);
		driver_start(&g, FEATURES);
		cr_assert_eq(PLUGGED, plugged_by_the_map());
		cr_assert_eq(ask(UNPLUG_ALL, 0, 0, NULL), ACK);
		cr_assert_eq(PLUGGED, 0);
	}
}

Test(mem, a_broken_ring)
{
	driver_publish(&g, 0, 999);
	driver_kick(&g, 0);
	cr_expect(driver_broken(&g));
	cr_expect_eq(metric_take(&count->queue_event_fails), 1);
	driver_start(&g, FEATURES);
	cr_expect_eq(ask(UNPLUG_ALL, 0, 0, NULL), ACK);
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

static int restore(struct err *e)
{
	struct wire w;

	virtio_mmio_finish(&g.mmio);
	gmem_set_plugged(&g.mem.region[2], 0, SIZE, false);
	memset(mapped, 0, sizeof(mapped));
	attach();
	wire_reader(&w, own.buf, own.pos, 1);
	g.mmio.dev->ops->wire(g.mmio.dev, &w);
	if (wire_end(&w) < 0)
		return err_set(e, EBADMSG, "malformed");
	return virtio_mmio_restore(&g.mmio, &saved, e);
}

Test(mem, a_snapshot_knows_what_was_plugged)
{
	struct err e = {0};

	request(MIB(32));
	cr_assert_eq(ask(PLUG, AT + BLOCK, 2, NULL), ACK);
	cr_assert_eq(ask(PLUG, AT + 3 * PART, 1, NULL), ACK);
	save();
	cr_assert_eq(restore(&e), 0, "%s", e.msg);
	cr_expect(mapped[0] && !mapped[1] && !mapped[2] && mapped[3]);
	cr_expect_eq(PLUGGED, 3 * BLOCK);
	cr_expect_eq(REQUESTED, MIB(32));
	cr_expect_not_null(gmem_at(&g.mem, AT + BLOCK, 2 * BLOCK));
	cr_expect_null(gmem_at(&g.mem, AT, 1));
	cr_expect_not_null(gmem_at(&g.mem, AT + 3 * PART, BLOCK));
	wire_finish(&own);
}

Test(mem, a_snapshot_in_the_middle_of_a_request)
{
	struct err e = {0};

	plug_everything();
	put(UNPLUG, AT, SIZE / BLOCK);
	cr_assert(turn());
	cr_assert(!driver_used(&g, 0, NULL, NULL));
	save();
	cr_expect(driver_used(&g, 0, NULL, NULL), "carried out to its end");
	cr_expect_eq(PLUGGED, 0);
	cr_assert_eq(restore(&e), 0, "%s", e.msg);
	cr_expect_eq(PLUGGED, 0);
	wire_finish(&own);
}

Test(mem, a_snapshot_that_lies)
{
	static const struct {
		unsigned word;
		uint64_t value;
	} lie[] = {
		{0, SIZE + BLOCK},
		{0, BLOCK},
		{0, BLOCK + 1},
		{1, BLOCK},
		{1, UINT64_MAX},
		{2, SIZE * 2},
		{2, 1},
		{3, 7},
		{3, 9},
		{3, UINT64_MAX},
		{4, 7},
		{4, 0},
		{11, 1ull << 63},
	};
	struct err e = {0};

	request(MIB(32));
	cr_assert_eq(ask(PLUG, AT, 2, NULL), ACK);
	save();
	cr_assert_eq(own.pos, (4 + SIZE / BLOCK / 64) * 8);
	for (unsigned i = 0; i < ARRAY_SIZE(lie); i++) {
		uint64_t was;

		memcpy(&was, own.buf + 8 * lie[i].word, 8);
		memcpy(own.buf + 8 * lie[i].word, &lie[i].value, 8);
		cr_expect_lt(restore(&e), 0, "case %u", i);
		cr_expect_null(gmem_at(&g.mem, AT, 1));
		memcpy(own.buf + 8 * lie[i].word, &was, 8);
	}
	map_calls = 0;
	map_fails_at = 1;
	cr_expect_lt(restore(&e), 0);
	cr_expect(strstr(e.msg, "map its memory"), "%s", e.msg);
	map_fails_at = 0;
	cr_expect_eq(restore(&e), 0, "%s", e.msg);
	wire_finish(&own);
}
