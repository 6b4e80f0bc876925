/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/driver.h"
#include "virtio/block_impl.h"

/* As the specification has them (section 5.2), on purpose not shared with the device. */
enum { IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8, DISCARD = 11, ZEROES = 13 };
enum { OK = 0, IOERR = 1, UNSUPP = 2, UNTOUCHED = 0xee };
#define F_SEG_MAX (1ull << 2)
#define F_RO	  (1ull << 5)
#define F_FLUSH	  (1ull << 9)
#define F_MQ	  (1ull << 12)
#define F_DISCARD (1ull << 13)
#define F_ZEROES  (1ull << 14)

#define SECTORS 64u
#define DISK	(SECTORS * 512u)

struct header {
	uint32_t type, reserved;
	uint64_t sector;
};

static struct driver g;
static struct block_metrics *count;
static bool async;
static int disk = -1; /* the test's own fd; the device has another */

/* A disk in memory in which every byte tells its sector. */
static void make_disk(uint64_t size)
{
	uint8_t sector[512];

	disk = memfd_create("disk", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	cr_assert_geq(disk, 0);
	for (uint64_t off = 0; off < size; off += sizeof(sector)) {
		memset(sector, (uint8_t)(off / 512 + 1), sizeof(sector));
		cr_assert_eq(pwrite(disk, sector, sizeof(sector), (off_t)off), 512);
	}
}

static void attach(struct block_config cfg, uint64_t features)
{
	struct virtio_device *d;
	struct err e = {0};

	driver_init(&g);
	cfg.async = async;
	cfg.fd = fcntl(disk, F_DUPFD_CLOEXEC, 0);
	d = block_create(&cfg, &g.env, &e);
	cr_assert_not_null(d, "%s", e.msg);
	driver_attach(&g, d);
	count = block_metrics(d);
	driver_start(&g, features & driver_offered(&g));
}

static void finish(void)
{
	driver_finish(&g);
	close(disk);
}

static void start(void)
{
	make_disk(DISK);
	attach((struct block_config){.id = "root", .writeback = true}, UINT64_MAX);
}

static void start_async(void)
{
	async = true;
	start();
}

/* Kicks and waits for what is in flight. */
static void kick(void)
{
	driver_kick(&g, 0);
	pthread_mutex_lock(&g.lock);
	cr_assert_eq(block_drain(g.mmio.dev), 0);
	pthread_mutex_unlock(&g.lock);
}

/* The same disk behind another device. */
static void again(struct block_config cfg)
{
	driver_finish(&g);
	attach(cfg, UINT64_MAX);
}

TestSuite(block, .init = start, .fini = finish, .timeout = 30);
TestSuite(block_async, .init = start_async, .fini = finish, .timeout = 30);

/* A test of both engines. */
#define Both(name)                   \
	static void do_##name(void); \
	Test(block, name)            \
	{                            \
		do_##name();         \
	}                            \
	Test(block_async, name)      \
	{                            \
		do_##name();         \
	}                            \
	static void do_##name(void)

/* A request in guest memory: header, data and status, each where a driver would have it. */
struct request {
	gpa_t header, data, status;
	uint32_t used; /* what the device says to have written */
};

static struct request make(uint32_t type, uint64_t sector, uint32_t data_len)
{
	struct request r = {
		.header = driver_alloc(&g, sizeof(struct header)),
		.data = driver_alloc(&g, data_len + 1),
		.status = driver_alloc(&g, 1),
	};
	const struct header h = {type, 0, sector};

	memcpy(driver_ptr(&g, r.header, sizeof(h)), &h, sizeof(h));
	*(uint8_t *)driver_ptr(&g, r.status, 1) = UNTOUCHED;
	return r;
}

static uint8_t status_of(const struct request *r)
{
	return *(uint8_t *)driver_ptr(&g, r->status, 1);
}

/* Kicks and waits for one answer. */
static uint8_t finish_request(struct request *r)
{
	kick();
	cr_assert(driver_used(&g, 0, NULL, &r->used));
	return status_of(r);
}

/* The usual three-part request; the data is writable for the device unless it is a write. */
static uint8_t run(uint32_t type, uint64_t sector, uint32_t data_len, struct request *out)
{
	struct request r = make(type, sector, data_len);
	const struct driver_buf buf[] = {
		{r.header, 16, false},
		{r.data, data_len, type != OUT},
		{r.status, 1, true},
	};
	uint8_t status;

	if (type == OUT)
		memset(driver_ptr(&g, r.data, data_len + 1), 0xaa, data_len);
	driver_add_indirect(&g, 0, buf, 3, NULL);
	status = finish_request(&r);
	if (out)
		*out = r;
	return status;
}

static uint8_t disk_byte(uint64_t off)
{
	uint8_t b = 0;

	cr_assert_eq(pread(disk, &b, 1, (off_t)off), 1);
	return b;
}

Both(identity_and_configuration)
{
	uint64_t capacity;

	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_DEVICE_ID), 2);
	cr_assert_eq(driver_offered(&g),
		     VIRTIO_FEATURES_COMMON | F_SEG_MAX | F_FLUSH | F_DISCARD | F_ZEROES);
	driver_read_bytes(&g, 0x100, &capacity, 8);
	cr_assert_eq(capacity, SECTORS);
	cr_assert_eq(driver_read(&g, 0x108), 0);
	cr_assert_eq(driver_read(&g, 0x10c), 254, "seg_max");
	driver_write(&g, 0x100, 5);
	cr_assert_eq(driver_read(&g, 0x100), SECTORS, "nothing is writable");
}

Both(features_follow_the_configuration)
{
	again((struct block_config){.id = "a"});
	cr_assert_eq(driver_offered(&g), VIRTIO_FEATURES_COMMON | F_SEG_MAX | F_DISCARD | F_ZEROES);
	again((struct block_config){.id = "a", .read_only = true});
	cr_assert_eq(driver_offered(&g), VIRTIO_FEATURES_COMMON | F_SEG_MAX | F_RO);
}

Both(read)
{
	struct request r;

	cr_assert_eq(run(IN, 3, 1024, &r), OK);
	cr_assert_eq(r.used, 1025);
	cr_assert_eq(*(uint8_t *)driver_ptr(&g, r.data, 1), 4);
	cr_assert_eq(*(uint8_t *)driver_ptr(&g, r.data + 1023, 1), 5);
	cr_assert_eq(*(uint8_t *)driver_ptr(&g, r.data + 1024, 1), 0);
	cr_assert(driver_irq(&g));
	cr_assert_eq(metric_take(&count->read_count), 1);
	cr_assert_eq(metric_take(&count->read_bytes), 1024);
	cr_assert_eq(metric_take(&count->queue_event_count), 1);
	cr_assert_eq(metric_take(&count->invalid_reqs_count), 0);
}

Both(write)
{
	struct request r;

	cr_assert_eq(run(OUT, 2, 512, &r), OK);
	cr_assert_eq(r.used, 1);
	cr_assert_eq(disk_byte(1023), 2);
	cr_assert_eq(disk_byte(1024), 0xaa);
	cr_assert_eq(disk_byte(1535), 0xaa);
	cr_assert_eq(disk_byte(1536), 4);
	cr_assert_eq(metric_take(&count->write_count), 1);
	cr_assert_eq(metric_take(&count->write_bytes), 512);
}

Both(whole_disk_and_its_last_sector)
{
	cr_assert_eq(run(IN, 0, DISK, NULL), OK);
	cr_assert_eq(run(IN, SECTORS - 1, 512, NULL), OK);
	cr_assert_eq(run(OUT, SECTORS - 1, 512, NULL), OK);
	cr_assert_eq(run(IN, SECTORS, 0, NULL), OK, "nothing, at the end");
}

Both(outside_of_the_disk)
{
	const struct {
		uint64_t sector;
		uint32_t len;
	} cases[] = {
		{SECTORS, 512},
		{SECTORS - 1, 1024},
		{0, DISK + 512},
		{SECTORS + 1, 0},
		{UINT64_MAX, 512},
		{UINT64_MAX / 512 + 1, 512}, /* times 512 is 0 */
		{(uint64_t)INT64_MAX, 1024},
		{1ull << 55, 512},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct request r;

		cr_assert_eq(run(IN, cases[i].sector, cases[i].len, &r), IOERR, "read %u", i);
		cr_assert_eq(r.used, 1);
		cr_assert_eq(run(OUT, cases[i].sector, cases[i].len, NULL), IOERR, "write %u", i);
	}
	cr_assert_eq(metric_take(&count->invalid_reqs_count), 2 * ARRAY_SIZE(cases));
	cr_assert_eq(lseek(disk, 0, SEEK_END), DISK);
	cr_assert_not(driver_broken(&g));
}

Both(data_must_be_whole_sectors)
{
	const uint32_t lens[] = {1, 511, 513, 1000};

	for (unsigned i = 0; i < ARRAY_SIZE(lens); i++) {
		cr_assert_eq(run(IN, 0, lens[i], NULL), IOERR);
		cr_assert_eq(run(OUT, 0, lens[i], NULL), IOERR);
	}
	cr_assert_eq(disk_byte(0), 1);
}

Both(read_only)
{
	again((struct block_config){.id = "ro", .read_only = true});
	cr_assert_eq(run(OUT, 0, 512, NULL), IOERR);
	cr_assert_eq(disk_byte(0), 1);
	cr_assert_eq(run(IN, 0, 512, NULL), OK);
}

Both(flush_with_writeback)
{
	struct request r;

	cr_assert_eq(run(FLUSH, 0, 0, &r), OK);
	cr_assert_eq(r.used, 1);
	cr_assert_eq(metric_take(&count->flush_count), 1);
}

Both(flush_is_unsupported_when_unsafe_or_not_negotiated)
{
	driver_start(&g, VIRTIO_FEATURES_COMMON);
	cr_assert_eq(run(FLUSH, 0, 0, NULL), UNSUPP);
	again((struct block_config){.id = "unsafe"});
	cr_assert_eq(run(FLUSH, 0, 0, NULL), UNSUPP);
	cr_assert_eq(metric_take(&count->flush_count), 0);
}

Both(get_id)
{
	static const char root[20] = "root";
	struct request r;

	cr_assert_eq(run(GET_ID, 0, 20, &r), OK);
	cr_assert_eq(r.used, 21);
	cr_assert_arr_eq(driver_ptr(&g, r.data, 20), root, 20);
	cr_assert_eq(run(GET_ID, 0, 19, NULL), IOERR);

	again((struct block_config){.id = "a-name-of-more-than-twenty-bytes"});
	cr_assert_eq(run(GET_ID, 0, 20, &r), OK);
	cr_assert_arr_eq(driver_ptr(&g, r.data, 20), "a-name-of-more-than-", 20);
}

Both(unknown_types)
{
	const uint32_t types[] = {2, 3, 12, 14, 0x80000000, UINT32_MAX};

	for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
		struct request r;

		cr_assert_eq(run(types[i], 0, 512, &r), UNSUPP);
		cr_assert_eq(r.used, 1);
	}
	cr_assert_eq(metric_take(&count->invalid_reqs_count), ARRAY_SIZE(types));
}

/* Layouts: section 2.7.4.1 leaves the cutting to the driver. */

Both(header_in_pieces_and_status_behind_the_data)
{
	struct request r = make(IN, 5, 512);
	const struct driver_buf buf[] = {
		{r.header, 1, false}, {r.header + 1, 7, false}, {r.header + 8, 8, false},
		{r.data, 500, true},  {r.data + 500, 13, true}, /* 12 of data, then status */
	};
	uint8_t *p;

	driver_add(&g, 0, buf, 5);
	finish_request(&r);
	p = driver_ptr(&g, r.data, 513);
	cr_assert_eq(p[0], 6);
	cr_assert_eq(p[511], 6);
	cr_assert_eq(p[512], OK);
	cr_assert_eq(r.used, 513);
	cr_assert_eq(status_of(&r), UNTOUCHED);
}

Both(header_and_data_in_one_buffer)
{
	struct request r = make(OUT, 7, 512);
	gpa_t both = driver_alloc(&g, 16 + 512);
	const struct driver_buf buf[] = {{both, 16 + 512, false}, {r.status, 1, true}};

	memcpy(driver_ptr(&g, both, 16), driver_ptr(&g, r.header, 16), 16);
	memset(driver_ptr(&g, both + 16, 512), 0xbb, 512);
	driver_add(&g, 0, buf, 2);
	cr_assert_eq(finish_request(&r), OK);
	cr_assert_eq(disk_byte(7 * 512), 0xbb);
	cr_assert_eq(disk_byte(8 * 512 - 1), 0xbb);
}

Both(many_segments)
{
	struct request r = make(IN, 0, DISK);
	struct driver_buf buf[256] = {{r.header, 16, false}};

	/* Backwards, so that nothing is adjacent. */
	for (unsigned i = 0; i < 254; i++)
		buf[1 + i] = (struct driver_buf){r.data + (253 - i) * 128, 128, true};
	buf[1 + 252].len = 0;
	buf[1 + 253].len = 0; /* 252 * 128 bytes are 63 sectors */
	buf[255] = (struct driver_buf){r.status, 1, true};
	driver_add_indirect(&g, 0, buf, 256, NULL);
	cr_assert_eq(finish_request(&r), OK);
	cr_assert_eq(r.used, 63 * 512 + 1);
	cr_assert_eq(*(uint8_t *)driver_ptr(&g, r.data + 253 * 128, 1), 1);
	cr_assert_eq(*(uint8_t *)driver_ptr(&g, r.data + 2 * 128, 1), 63);
}

Both(malformed_requests_are_answered)
{
	struct request r = make(IN, 0, 512);
	const struct driver_buf no_status[] = {{r.header, 16, false}};
	const struct driver_buf no_header[] = {{r.status, 1, true}};
	const struct driver_buf half_header[] = {{r.header, 15, false}, {r.status, 1, true}};
	const struct driver_buf nothing[] = {{0, 0, false}};

	driver_add(&g, 0, no_status, 1);
	finish_request(&r);
	cr_assert_eq(r.used, 0);
	driver_add(&g, 0, nothing, 1);
	finish_request(&r);
	cr_assert_eq(r.used, 0);
	driver_add(&g, 0, no_header, 1);
	cr_assert_eq(finish_request(&r), IOERR);
	cr_assert_eq(r.used, 1);
	driver_add(&g, 0, half_header, 2);
	cr_assert_eq(finish_request(&r), IOERR);
	cr_assert_eq(metric_take(&count->invalid_reqs_count), 4);
	cr_assert_not(driver_broken(&g));
	cr_assert_eq(run(IN, 0, 512, NULL), OK, "goes on");
}

Both(header_of_a_write_that_carries_no_data)
{
	struct request r = make(OUT, 0, 0);
	const struct driver_buf buf[] = {{r.header, 16, false}, {r.status, 1, true}};

	driver_add(&g, 0, buf, 2);
	cr_assert_eq(finish_request(&r), OK);
	cr_assert_eq(disk_byte(0), 1);
}

/* The host's failures. */

Both(file_that_became_shorter)
{
	struct request r;

	cr_assert_eq(ftruncate(disk, 1000), 0);
	cr_assert_eq(run(IN, 0, 2048, &r), IOERR);
	cr_assert_eq(r.used, 1001);
	cr_assert_eq(run(IN, 10, 512, &r), IOERR);
	cr_assert_eq(r.used, 1);
	cr_assert_eq(metric_take(&count->execute_fails), 2);
	cr_assert_eq(run(IN, 0, 512, NULL), OK);
}

Both(write_that_the_host_refuses)
{
	cr_assert_eq(fcntl(disk, F_ADD_SEALS, F_SEAL_WRITE), 0);
	cr_assert_eq(run(OUT, 0, 512, NULL), IOERR);
	cr_assert_eq(metric_take(&count->execute_fails), 1);
	cr_assert_eq(metric_take(&count->write_count), 0);
	cr_assert_eq(run(IN, 0, 512, NULL), OK);
}

Both(buffer_beyond_memory_breaks_the_ring)
{
	struct request r = make(IN, 0, 512);
	const struct driver_buf buf[] = {
		{r.header, 16, false}, {DRIVER_HIGH_END - 256, 512, true}, {r.status, 1, true}};

	driver_add(&g, 0, buf, 3);
	kick();
	cr_assert(driver_broken(&g));
	cr_assert_eq(status_of(&r), UNTOUCHED);
	cr_assert_not(driver_used(&g, 0, NULL, NULL));
	cr_assert_eq(metric_take(&count->event_fails), 1);
	driver_start(&g, VIRTIO_FEATURES_COMMON);
	cr_assert_eq(run(IN, 0, 512, NULL), OK, "as new after a reset");
}

/* Batches. */

Both(one_interrupt_for_a_batch)
{
	struct request r[DRIVER_QUEUE_SIZE];

	driver_used_event(&g, 0, 0);
	for (unsigned i = 0; i < DRIVER_QUEUE_SIZE; i++) {
		const struct driver_buf buf[] = {{(r[i] = make(IN, i, 512)).header, 16, false},
						 {r[i].data, 512, true},
						 {r[i].status, 1, true}};

		driver_add_indirect(&g, 0, buf, 3, NULL);
	}
	kick();
	for (unsigned i = 0; i < DRIVER_QUEUE_SIZE; i++) {
		cr_assert(driver_used(&g, 0, NULL, NULL));
		cr_assert_eq(status_of(&r[i]), OK);
		cr_assert_eq(*(uint8_t *)driver_ptr(&g, r[i].data, 1), i + 1);
	}
	cr_assert(driver_irq(&g));
	cr_assert_eq(metric_take(&count->queue_event_count), 1);
	cr_assert_eq(metric_take(&count->no_avail_buffer), 0);
}

Both(large_requests_are_served_in_turns)
{
	enum { N = 8, MANY = 80 }; /* 8 requests of 80 times the whole disk are 20 MiB */
	struct driver_buf buf[MANY + 2];
	struct request r;

	close(disk);
	make_disk((uint64_t)MANY * DISK);
	again((struct block_config){.id = "large"});
	r = make(IN, 0, DISK);
	buf[0] = (struct driver_buf){r.header, 16, false};
	for (unsigned i = 0; i < MANY; i++)
		buf[1 + i] = (struct driver_buf){r.data, DISK, true};
	buf[MANY + 1] = (struct driver_buf){r.status, 1, true};
	for (unsigned i = 0; i < N; i++)
		driver_add_indirect(&g, 0, buf, MANY + 2, NULL);
	kick();
	for (unsigned i = 0; i < N; i++)
		cr_assert(driver_used(&g, 0, NULL, NULL), "request %u", i);
	cr_assert_eq(status_of(&r), OK);
	cr_assert_geq(metric_take(&count->queue_event_count), 2, "a slow disk ends a turn too");
}

Both(kick_for_nothing)
{
	kick();
	cr_assert_not(driver_irq(&g));
	cr_assert_eq(metric_take(&count->no_avail_buffer), 1);
}

Both(reset_with_a_request_pending)
{
	struct request r = make(OUT, 0, 512);
	const struct driver_buf buf[] = {
		{r.header, 16, false}, {r.data, 512, false}, {r.status, 1, true}};

	driver_add(&g, 0, buf, 3);
	driver_write(&g, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	driver_write(&g, VIRTIO_MMIO_STATUS, 0);
	driver_run(&g);
	cr_assert_eq(status_of(&r), UNTOUCHED);
	cr_assert_eq(disk_byte(0), 1);
}

/* Creation. */

Both(size_is_rounded_down)
{
	cr_assert_eq(ftruncate(disk, 5 * 512 + 511), 0);
	again((struct block_config){.id = "odd"});
	cr_assert_eq(driver_read(&g, 0x100), 5);
	cr_assert_eq(run(IN, 5, 512, NULL), IOERR);
}

Both(empty_disk)
{
	cr_assert_eq(ftruncate(disk, 0), 0);
	again((struct block_config){.id = "empty"});
	cr_assert_eq(driver_read(&g, 0x100), 0);
	cr_assert_eq(run(IN, 0, 512, NULL), IOERR);
	cr_assert_eq(run(IN, 0, 0, NULL), OK);
}

Both(create_fails_without_a_file)
{
	struct block_config cfg = {.id = "root", .fd = 1 << 20};
	struct err e = {0};

	cr_assert_null(block_create(&cfg, &g.env, &e));
	cr_assert_eq(e.code, EBADF);
	cr_assert_not_null(strstr(e.msg, "'root'"), "%s", e.msg);
}

Both(takes_its_file_descriptor)
{
	int before = fcntl(disk, F_DUPFD_CLOEXEC, 0), after;

	close(before);
	again((struct block_config){.id = "root"});
	after = fcntl(disk, F_DUPFD_CLOEXEC, 0);
	close(after);
	cr_assert_eq(before, after, "the first device closed its fd");
}

/* DISCARD and WRITE_ZEROES, section 5.2.6. */

struct range {
	uint64_t sector;
	uint32_t sectors, flags;
};

static uint8_t run_ranges(uint32_t type, const void *range, uint32_t len)
{
	struct request r = make(type, 0, 4096);
	const struct driver_buf buf[] = {
		{r.header, 16, false}, {r.data, len, false}, {r.status, 1, true}};

	memcpy(driver_ptr(&g, r.data, 4096), range, len);
	driver_add_indirect(&g, 0, buf, 3, NULL);
	return finish_request(&r);
}

static void attach_zeroed_disk(uint64_t size)
{
	close(disk);
	make_disk(size);
	again((struct block_config){.id = "large", .writeback = true});
}

Both(discard_and_write_zeroes_space)
{
	cr_assert_eq(driver_read(&g, 0x124), 128 << 11, "max_discard_sectors");
	cr_assert_eq(driver_read(&g, 0x128), 16, "max_discard_seg");
	cr_assert_eq(driver_read(&g, 0x12c), 8, "discard_sector_alignment");
	cr_assert_eq(driver_read(&g, 0x130), 8 << 11, "max_write_zeroes_sectors");
	cr_assert_eq(driver_read(&g, 0x134), 16, "max_write_zeroes_seg");
	cr_assert_eq(driver_read(&g, 0x138) & 0xff, 1, "write_zeroes_may_unmap");
	cr_assert_eq(driver_read(&g, 0x13c), 0, "the end");
}

Both(discard_frees_the_host)
{
	const struct range r[] = {{0, 256, 0}, {1024, 256, 0}};
	struct stat before, after;

	attach_zeroed_disk(MIB(1));
	fstat(disk, &before);
	cr_assert_eq(run_ranges(DISCARD, r, sizeof(r)), OK);
	fstat(disk, &after);
	cr_assert_eq(before.st_blocks - after.st_blocks, 512);
	cr_assert_eq(after.st_size, MIB(1));
	cr_assert_eq(disk_byte(0), 0);
	cr_assert_eq(disk_byte(256 * 512), 1, "sector 256 keeps its contents");
	cr_assert_eq(disk_byte(1280 * 512 - 1), 0);
	cr_assert_eq(metric_take(&count->discard_count), 1);
	cr_assert_eq(metric_take(&count->discard_bytes), 512 * 512);
}

Both(write_zeroes_with_and_without_unmap)
{
	struct stat before, after;

	attach_zeroed_disk(MIB(1));
	fstat(disk, &before);
	cr_assert_eq(run_ranges(ZEROES, &(struct range){1, 16, 0}, 16), OK);
	fstat(disk, &after);
	cr_assert_eq(before.st_blocks, after.st_blocks, "not deallocated");
	cr_assert_eq(disk_byte(511), 1);
	cr_assert_eq(disk_byte(512), 0);
	cr_assert_eq(disk_byte(17 * 512 - 1), 0);
	cr_assert_eq(disk_byte(17 * 512), 18);
	cr_assert_eq(run_ranges(ZEROES, &(struct range){128, 128, 1}, 16), OK);
	fstat(disk, &after);
	cr_assert_lt(after.st_blocks, before.st_blocks);
	cr_assert_eq(disk_byte(128 * 512), 0);
	cr_assert_eq(metric_take(&count->write_zeroes_count), 2);
}

Both(ranges_that_are_wrong)
{
	static const struct {
		uint32_t type;
		struct range r;
		uint8_t status;
	} cases[] = {
		{DISCARD, {0, SECTORS + 1, 0}, IOERR}, {DISCARD, {SECTORS, 1, 0}, IOERR},
		{DISCARD, {UINT64_MAX, 2, 0}, IOERR},  {DISCARD, {0, UINT32_MAX, 0}, IOERR},
		{DISCARD, {0, 1, 1}, UNSUPP},	       {DISCARD, {0, 1, 2}, UNSUPP},
		{ZEROES, {0, 1, 2}, UNSUPP},	       {ZEROES, {0, 1, 0x80000001}, UNSUPP},
		{ZEROES, {SECTORS - 1, 2, 1}, IOERR},  {ZEROES, {0, 0, 0}, OK},
		{DISCARD, {SECTORS, 0, 0}, OK},
	};
	const struct range good_then_bad[] = {{0, 8, 0}, {SECTORS, 8, 0}};
	struct range many[17] = {0};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
		cr_expect_eq(run_ranges(cases[i].type, &cases[i].r, 16), cases[i].status, "case %u",
			     i);
	cr_expect_eq(run_ranges(DISCARD, good_then_bad, sizeof(good_then_bad)), IOERR);
	cr_expect_eq(disk_byte(0), 1, "nothing is done when one of them is wrong");
	cr_expect_eq(run_ranges(DISCARD, many, 15), IOERR);
	cr_expect_eq(run_ranges(DISCARD, many, 0), IOERR);
	cr_expect_eq(run_ranges(ZEROES, many, sizeof(many)), IOERR, "17 segments");
	cr_expect_eq(run_ranges(ZEROES, many, 16 * 16), OK);
}

Both(one_range_has_a_limit)
{
	close(disk);
	disk = memfd_create("disk", MFD_CLOEXEC);
	cr_assert_eq(ftruncate(disk, (off_t)MIB(256)), 0);
	again((struct block_config){.id = "large"});
	cr_assert_eq(run_ranges(DISCARD, &(struct range){0, 128 << 11, 0}, 16), OK);
	cr_assert_eq(run_ranges(DISCARD, &(struct range){0, (128 << 11) + 1, 0}, 16), IOERR);
	cr_assert_eq(run_ranges(ZEROES, &(struct range){0, (8 << 11) + 1, 1}, 16), IOERR);
}

Both(discard_needs_negotiation_and_a_writable_disk)
{
	const struct range r = {0, 8, 0};

	driver_start(&g, VIRTIO_FEATURES_COMMON);
	cr_assert_eq(run_ranges(DISCARD, &r, sizeof(r)), UNSUPP);
	cr_assert_eq(run_ranges(ZEROES, &r, sizeof(r)), UNSUPP);
	again((struct block_config){.id = "ro", .read_only = true});
	cr_assert_eq(run_ranges(DISCARD, &r, sizeof(r)), UNSUPP);
	cr_assert_eq(disk_byte(0), 1);
}

/* Several queues. */

Both(four_queues)
{
	again((struct block_config){.id = "mq", .queues = 4});
	cr_assert(driver_offered(&g) & F_MQ);
	cr_assert_eq(driver_read(&g, 0x120) >> 16, 4, "num_queues");
	driver_start(&g, driver_offered(&g));
	for (unsigned q = 0; q < 4; q++) {
		struct request r = make(IN, q, 512);
		const struct driver_buf buf[] = {
			{r.header, 16, false}, {r.data, 512, true}, {r.status, 1, true}};

		driver_add(&g, q, buf, 3);
		driver_kick(&g, q);
		pthread_mutex_lock(&g.lock);
		block_drain(g.mmio.dev);
		pthread_mutex_unlock(&g.lock);
		cr_assert(driver_used(&g, q, NULL, NULL));
		cr_assert_eq(*(uint8_t *)driver_ptr(&g, r.data, 1), q + 1);
		cr_assert(driver_irq(&g));
	}
	again((struct block_config){.id = "one", .queues = 1});
	cr_assert_not(driver_offered(&g) & F_MQ);
}

/* Rate limits: the clock of the test never reaches the next token, or is waited for. */

static void add_read(struct request *r)
{
	const struct driver_buf buf[] = {{(*r = make(IN, 0, 512)).header, 16, false},
					 {r->data, 512, true},
					 {r->status, 1, true}};

	driver_add_indirect(&g, 0, buf, 3, NULL);
}

static void set_limiter(const struct limiter_config *cfg)
{
	pthread_mutex_lock(&g.lock);
	block_set_limiter(g.mmio.dev, cfg);
	pthread_mutex_unlock(&g.lock);
}

Both(limit_of_operations)
{
	const struct limiter_config two = {.ops = {.size = 2, .refill_ms = 3600000}};
	struct request r[3];

	again((struct block_config){.id = "slow", .limiter = &two});
	for (unsigned i = 0; i < 3; i++)
		add_read(&r[i]);
	kick();
	cr_assert_eq(status_of(&r[1]), OK);
	cr_assert_eq(status_of(&r[2]), UNTOUCHED);
	cr_assert_eq(metric_take(&count->rate_limiter_throttled_events), 1);
	kick();
	cr_assert_eq(status_of(&r[2]), UNTOUCHED, "a kick does not help");
	cr_assert_eq(metric_take(&count->rate_limiter_throttled_events), 0);
	set_limiter(NULL);
	driver_run(&g);
	kick();
	cr_assert_eq(status_of(&r[2]), OK, "new limits are in force at once");
	cr_assert_eq(metric_take(&count->rate_limiter_event_count), 1);
}

Both(limit_of_bytes_lets_go_on_by_itself)
{
	const struct limiter_config cfg = {.bandwidth = {.size = 512, .refill_ms = 1}};
	struct request r[4];

	again((struct block_config){.id = "slow", .limiter = &cfg});
	for (unsigned i = 0; i < 4; i++)
		add_read(&r[i]);
	driver_kick(&g, 0);
	while (status_of(&r[3]) == UNTOUCHED) {
		cr_assert_eq(loop_run_once(&g.loop, -1), 0);
		kick();
	}
	cr_assert_eq(status_of(&r[3]), OK);
	cr_assert_geq(metric_take(&count->rate_limiter_event_count), 1);
}

Both(no_timer_without_limits)
{
	struct request r;

	add_read(&r);
	kick();
	cr_assert_null(g.loop.timers);
}

Both(reset_while_throttled)
{
	const struct limiter_config one = {.ops = {.size = 1, .refill_ms = 3600000}};
	struct request r[2];

	again((struct block_config){.id = "slow", .limiter = &one});
	add_read(&r[0]);
	add_read(&r[1]);
	kick();
	driver_start(&g, VIRTIO_FEATURES_COMMON);
	set_limiter(NULL);
	driver_run(&g);
	cr_assert_eq(status_of(&r[1]), UNTOUCHED, "the reset queue is forgotten");
	cr_assert_eq(run(IN, 0, 512, NULL), OK);
}

/* Another file. */

static int set_file(int fd, struct err *e)
{
	int r;

	pthread_mutex_lock(&g.lock);
	r = block_set_file(g.mmio.dev, fd, e);
	pthread_mutex_unlock(&g.lock);
	return r;
}

Both(another_file)
{
	int old = disk;
	struct request r;
	struct err e;

	driver_irq(&g);
	make_disk(2 * DISK);
	cr_assert_eq(pwrite(disk, "new", 3, 0), 3);
	cr_assert_eq(set_file(fcntl(disk, F_DUPFD_CLOEXEC, 0), &e), 0);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_IRQ_CONFIG);
	cr_assert_eq(driver_read(&g, 0x100), 2 * SECTORS);
	cr_assert_neq(driver_read(&g, VIRTIO_MMIO_CONFIG_GENERATION), 0);
	cr_assert(driver_irq(&g));
	cr_assert_eq(run(IN, 0, 512, &r), OK);
	cr_assert_eq(*(uint8_t *)driver_ptr(&g, r.data, 1), 'n');
	cr_assert_eq(run(OUT, 2 * SECTORS - 1, 512, NULL), OK);
	cr_assert_eq(disk_byte(2 * DISK - 1), 0xaa);
	cr_assert_eq(metric_take(&count->update_count), 1);
	close(old);
}

Both(another_file_that_is_none)
{
	struct err e = {0};

	cr_assert_eq(set_file(1 << 20, &e), -EBADF);
	cr_assert_not_null(strstr(e.msg, "'root'"), "%s", e.msg);
	cr_assert_eq(metric_take(&count->update_fails), 1);
	cr_assert_eq(run(IN, 0, 512, NULL), OK);
}

static uint8_t flush(void)
{
	struct request r = make(FLUSH, 0, 0);
	const struct driver_buf buf[] = {{r.header, 16, false}, {r.status, 1, true}};

	driver_add(&g, 0, buf, 2);
	return finish_request(&r);
}

/* A slot without a file answers everything but its name with an error, whatever is asked. */
static void expect_empty(void)
{
	static const uint32_t types[] = {IN, OUT, DISCARD, ZEROES};

	cr_assert_eq(driver_read(&g, 0x100), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
		cr_assert_eq(run(types[i], 0, 512, NULL), IOERR, "type %u", types[i]);
		cr_assert_eq(run(types[i], 0, 0, NULL), IOERR, "type %u, no data", types[i]);
		cr_assert_eq(run(types[i], UINT64_MAX, 512, NULL), IOERR, "type %u", types[i]);
	}
	cr_assert_eq(flush(), IOERR, "nothing is safe any more");
	cr_assert_eq(run(GET_ID, 0, 20, NULL), OK);
	cr_assert_not(driver_broken(&g));
}

Both(a_file_that_goes_and_comes_again)
{
	struct err e;

	cr_assert_eq(flush(), OK);
	driver_irq(&g);
	cr_assert_eq(set_file(-1, &e), 0);
	cr_assert(driver_irq(&g), "told of it");
	cr_assert_eq(CONTAINER_OF(g.mmio.dev, struct block, dev)->fd, -1, "closed");
	expect_empty();
	cr_assert_gt(metric_take(&count->invalid_reqs_count), 0);
	cr_assert_eq(disk_byte(0), 1, "nobody wrote");
	cr_assert_eq(set_file(fcntl(disk, F_DUPFD_CLOEXEC, 0), &e), 0);
	cr_assert_eq(driver_read(&g, 0x100), SECTORS);
	cr_assert_eq(run(OUT, 0, 512, NULL), OK);
	cr_assert_eq(disk_byte(0), 0xaa);
	cr_assert_eq(metric_take(&count->update_count), 2);
}

Both(declared_without_a_file)
{
	int all = disk;

	disk = -1;
	again((struct block_config){.id = "slot", .writeback = true});
	disk = all;
	expect_empty();
	cr_assert_eq(set_file(fcntl(disk, F_DUPFD_CLOEXEC, 0), NULL), 0);
	cr_assert_eq(run(IN, 1, 512, NULL), OK);
	cr_assert_eq(flush(), OK);
}

/* What only the asynchronous engine has: requests in flight. A pipe stands for a slow disk. */

static struct block *block(void)
{
	return CONTAINER_OF(g.mmio.dev, struct block, dev);
}

/* A request that cannot be answered before something is written to p[1], or that is closed. */
static void begin_slow_read(struct request *r, int p[2])
{
	int disk_fd = block()->fd;

	cr_assert_eq(pipe(p), 0);
	block()->fd = p[0];
	add_read(r);
	driver_kick(&g, 0);
	block()->fd = disk_fd;
	cr_assert_eq(block()->ring.in_flight, 1);
}

static void wait_for_ring(void)
{
	poll(&(struct pollfd){.fd = uring_fd(&block()->ring), .events = POLLIN}, 1, -1);
	driver_run(&g);
}

Test(block_async, a_completion_that_comes_later)
{
	struct request r;
	int p[2];

	begin_slow_read(&r, p);
	cr_assert_not(driver_used(&g, 0, NULL, NULL));
	cr_assert_eq(write(p[1], (char[512]){"late"}, 512), 512);
	wait_for_ring();
	cr_assert(driver_used(&g, 0, NULL, &r.used));
	cr_assert_eq(r.used, 513);
	cr_assert_eq(status_of(&r), OK);
	cr_assert_str_eq(driver_ptr(&g, r.data, 5), "late");
	cr_assert(driver_irq(&g));
	close(p[0]);
	close(p[1]);
}

Test(block_async, a_short_transfer_is_completed)
{
	struct request r;
	int p[2];

	begin_slow_read(&r, p);
	cr_assert_eq(write(p[1], (char[100]){"short"}, 100), 100);
	wait_for_ring();
	cr_assert(driver_used(&g, 0, NULL, &r.used));
	cr_assert_eq(status_of(&r), OK);
	cr_assert_str_eq(driver_ptr(&g, r.data, 6), "short");
	cr_assert_eq(*(uint8_t *)driver_ptr(&g, r.data + 100, 1), 1, "the rest is the file's");
	close(p[0]);
	close(p[1]);
}

Test(block_async, a_file_that_goes_waits_for_what_is_in_flight)
{
	struct request r;
	int p[2];

	begin_slow_read(&r, p);
	close(p[1]);
	cr_assert_eq(set_file(-1, NULL), 0);
	cr_assert_eq(block()->ring.in_flight, 0);
	cr_assert(driver_used(&g, 0, NULL, NULL), "answered");
	cr_assert_eq(run(IN, 0, 512, NULL), IOERR);
	close(p[0]);
}

Test(block_async, reset_waits_for_what_is_in_flight)
{
	struct request r;
	int p[2];

	begin_slow_read(&r, p);
	close(p[1]);
	driver_write(&g, VIRTIO_MMIO_STATUS, 0);
	cr_assert_eq(block()->ring.in_flight, 0);
	close(p[0]);
}

Test(block_async, destroy_with_a_request_in_flight)
{
	struct request r;
	int p[2];

	begin_slow_read(&r, p);
	close(p[1]);
	again((struct block_config){.id = "next"});
	cr_assert_eq(run(IN, 0, 512, NULL), OK);
	close(p[0]);
}

Test(block_async, more_than_may_be_in_flight)
{
	struct block_request *all = block()->free;
	struct request r;

	/* As if everything were in flight. */
	block()->free = NULL;
	add_read(&r);
	driver_kick(&g, 0);
	cr_assert_not(driver_used(&g, 0, NULL, NULL));
	cr_assert_eq(metric_take(&count->io_engine_throttled_events), 1);
	cr_assert(block()->stalled);
	block()->free = all;
	block()->ring_source.ready(&block()->ring_source, EPOLLIN);
	kick();
	cr_assert_eq(status_of(&r), OK);
}

Test(block_async, one_enter_for_a_batch)
{
	struct request r[DRIVER_QUEUE_SIZE];
	unsigned before = *block()->ring.ring.sq.khead;

	for (unsigned i = 0; i < DRIVER_QUEUE_SIZE; i++)
		add_read(&r[i]);
	kick();
	for (unsigned i = 0; i < DRIVER_QUEUE_SIZE; i++)
		cr_assert_eq(status_of(&r[i]), OK);
	cr_assert_eq(*block()->ring.ring.sq.khead - before, DRIVER_QUEUE_SIZE, "all by the ring");
}

Test(block_async, the_ring_opens_nothing)
{
	struct io_uring *ring = &block()->ring.ring;
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	io_uring_prep_openat(sqe, AT_FDCWD, "/", O_RDONLY, 0);
	io_uring_sqe_set_data(sqe, NULL);
	cr_assert_eq(io_uring_submit_and_wait(ring, 1), 1);
	cr_assert_eq(io_uring_wait_cqe(ring, &cqe), 0);
	cr_assert_eq(cqe->res, -EACCES);
	io_uring_cqe_seen(ring, cqe);
}
