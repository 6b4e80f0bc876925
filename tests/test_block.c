/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/lib/driver.h"
#include "virtio/block.h"

/* As the specification has them (section 5.2), on purpose not shared with the device. */
enum { IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8, DISCARD = 11 };
enum { OK = 0, IOERR = 1, UNSUPP = 2, UNTOUCHED = 0xee };
#define F_SEG_MAX (1ull << 2)
#define F_RO	  (1ull << 5)
#define F_FLUSH	  (1ull << 9)

#define SECTORS 64u
#define DISK	(SECTORS * 512u)

struct header {
	uint32_t type, reserved;
	uint64_t sector;
};

static struct driver g;
static struct block_metrics *count;
static int disk = -1; /* the test's own fd; the device has another */

/* A disk in memory in which every byte tells its sector. */
static void make_disk(uint64_t size)
{
	disk = memfd_create("disk", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	cr_assert_geq(disk, 0);
	cr_assert_eq(ftruncate(disk, (off_t)size), 0);
	for (uint64_t off = 0; off < size; off++) {
		uint8_t b = (uint8_t)(off / 512 + 1);

		cr_assert_eq(pwrite(disk, &b, 1, (off_t)off), 1);
	}
}

static void attach(struct block_config cfg, uint64_t features)
{
	struct virtio_device *d;
	struct err e = {0};

	driver_init(&g);
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

/* The same disk behind another device. */
static void again(struct block_config cfg)
{
	driver_finish(&g);
	attach(cfg, UINT64_MAX);
}

TestSuite(block, .init = start, .fini = finish, .timeout = 30);

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
	driver_kick(&g, 0);
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

Test(block, identity_and_configuration)
{
	uint64_t capacity;

	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_DEVICE_ID), 2);
	cr_assert_eq(driver_offered(&g), VIRTIO_FEATURES_COMMON | F_SEG_MAX | F_FLUSH);
	driver_read_bytes(&g, 0x100, &capacity, 8);
	cr_assert_eq(capacity, SECTORS);
	cr_assert_eq(driver_read(&g, 0x108), 0);
	cr_assert_eq(driver_read(&g, 0x10c), 254, "seg_max");
	driver_write(&g, 0x100, 5);
	cr_assert_eq(driver_read(&g, 0x100), SECTORS, "nothing is writable");
}

Test(block, features_follow_the_configuration)
{
	again((struct block_config){.id = "a"});
	cr_assert_eq(driver_offered(&g), VIRTIO_FEATURES_COMMON | F_SEG_MAX);
	again((struct block_config){.id = "a", .read_only = true});
	cr_assert_eq(driver_offered(&g), VIRTIO_FEATURES_COMMON | F_SEG_MAX | F_RO);
}

Test(block, read)
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

Test(block, write)
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

Test(block, whole_disk_and_its_last_sector)
{
	cr_assert_eq(run(IN, 0, DISK, NULL), OK);
	cr_assert_eq(run(IN, SECTORS - 1, 512, NULL), OK);
	cr_assert_eq(run(OUT, SECTORS - 1, 512, NULL), OK);
	cr_assert_eq(run(IN, SECTORS, 0, NULL), OK, "nothing, at the end");
}

Test(block, outside_of_the_disk)
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

Test(block, data_must_be_whole_sectors)
{
	const uint32_t lens[] = {1, 511, 513, 1000};

	for (unsigned i = 0; i < ARRAY_SIZE(lens); i++) {
		cr_assert_eq(run(IN, 0, lens[i], NULL), IOERR);
		cr_assert_eq(run(OUT, 0, lens[i], NULL), IOERR);
	}
	cr_assert_eq(disk_byte(0), 1);
}

Test(block, read_only)
{
	again((struct block_config){.id = "ro", .read_only = true});
	cr_assert_eq(run(OUT, 0, 512, NULL), IOERR);
	cr_assert_eq(disk_byte(0), 1);
	cr_assert_eq(run(IN, 0, 512, NULL), OK);
}

Test(block, flush_with_writeback)
{
	struct request r;

	cr_assert_eq(run(FLUSH, 0, 0, &r), OK);
	cr_assert_eq(r.used, 1);
	cr_assert_eq(metric_take(&count->flush_count), 1);
}

Test(block, flush_is_unsupported_when_unsafe_or_not_negotiated)
{
	driver_start(&g, VIRTIO_FEATURES_COMMON);
	cr_assert_eq(run(FLUSH, 0, 0, NULL), UNSUPP);
	again((struct block_config){.id = "unsafe"});
	cr_assert_eq(run(FLUSH, 0, 0, NULL), UNSUPP);
	cr_assert_eq(metric_take(&count->flush_count), 0);
}

Test(block, get_id)
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

Test(block, unknown_types)
{
	const uint32_t types[] = {2, 3, DISCARD, 13, 0x80000000, UINT32_MAX};

	for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
		struct request r;

		cr_assert_eq(run(types[i], 0, 512, &r), UNSUPP);
		cr_assert_eq(r.used, 1);
	}
	cr_assert_eq(metric_take(&count->invalid_reqs_count), ARRAY_SIZE(types));
}

/* Layouts: section 2.7.4.1 leaves the cutting to the driver. */

Test(block, header_in_pieces_and_status_behind_the_data)
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

Test(block, header_and_data_in_one_buffer)
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

Test(block, many_segments)
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

Test(block, malformed_requests_are_answered)
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

Test(block, header_of_a_write_that_carries_no_data)
{
	struct request r = make(OUT, 0, 0);
	const struct driver_buf buf[] = {{r.header, 16, false}, {r.status, 1, true}};

	driver_add(&g, 0, buf, 2);
	cr_assert_eq(finish_request(&r), OK);
	cr_assert_eq(disk_byte(0), 1);
}

/* The host's failures. */

Test(block, file_that_became_shorter)
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

Test(block, write_that_the_host_refuses)
{
	cr_assert_eq(fcntl(disk, F_ADD_SEALS, F_SEAL_WRITE), 0);
	cr_assert_eq(run(OUT, 0, 512, NULL), IOERR);
	cr_assert_eq(metric_take(&count->execute_fails), 1);
	cr_assert_eq(metric_take(&count->write_count), 0);
	cr_assert_eq(run(IN, 0, 512, NULL), OK);
}

Test(block, buffer_beyond_memory_breaks_the_ring)
{
	struct request r = make(IN, 0, 512);
	const struct driver_buf buf[] = {
		{r.header, 16, false}, {DRIVER_HIGH_END - 256, 512, true}, {r.status, 1, true}};

	driver_add(&g, 0, buf, 3);
	driver_kick(&g, 0);
	cr_assert(driver_broken(&g));
	cr_assert_eq(status_of(&r), UNTOUCHED);
	cr_assert_not(driver_used(&g, 0, NULL, NULL));
	cr_assert_eq(metric_take(&count->event_fails), 1);
	driver_start(&g, VIRTIO_FEATURES_COMMON);
	cr_assert_eq(run(IN, 0, 512, NULL), OK, "as new after a reset");
}

/* Batches. */

Test(block, one_interrupt_for_a_batch)
{
	struct request r[DRIVER_QUEUE_SIZE];

	driver_used_event(&g, 0, 0);
	for (unsigned i = 0; i < DRIVER_QUEUE_SIZE; i++) {
		const struct driver_buf buf[] = {{(r[i] = make(IN, i, 512)).header, 16, false},
						 {r[i].data, 512, true},
						 {r[i].status, 1, true}};

		driver_add_indirect(&g, 0, buf, 3, NULL);
	}
	driver_kick(&g, 0);
	for (unsigned i = 0; i < DRIVER_QUEUE_SIZE; i++) {
		cr_assert(driver_used(&g, 0, NULL, NULL));
		cr_assert_eq(status_of(&r[i]), OK);
		cr_assert_eq(*(uint8_t *)driver_ptr(&g, r[i].data, 1), i + 1);
	}
	cr_assert(driver_irq(&g));
	cr_assert_eq(metric_take(&count->queue_event_count), 1);
	cr_assert_eq(metric_take(&count->no_avail_buffer), 0);
}

Test(block, kick_for_nothing)
{
	driver_kick(&g, 0);
	cr_assert_not(driver_irq(&g));
	cr_assert_eq(metric_take(&count->no_avail_buffer), 1);
}

Test(block, reset_with_a_request_pending)
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

Test(block, size_is_rounded_down)
{
	cr_assert_eq(ftruncate(disk, 5 * 512 + 511), 0);
	again((struct block_config){.id = "odd"});
	cr_assert_eq(driver_read(&g, 0x100), 5);
	cr_assert_eq(run(IN, 5, 512, NULL), IOERR);
}

Test(block, empty_disk)
{
	cr_assert_eq(ftruncate(disk, 0), 0);
	again((struct block_config){.id = "empty"});
	cr_assert_eq(driver_read(&g, 0x100), 0);
	cr_assert_eq(run(IN, 0, 512, NULL), IOERR);
	cr_assert_eq(run(IN, 0, 0, NULL), OK);
}

Test(block, create_fails_without_a_file)
{
	struct block_config cfg = {.id = "root", .fd = -1};
	struct err e = {0};

	cr_assert_null(block_create(&cfg, &g.env, &e));
	cr_assert_eq(e.code, EBADF);
	cr_assert_not_null(strstr(e.msg, "'root'"), "%s", e.msg);
}

Test(block, takes_its_file_descriptor)
{
	int before = fcntl(disk, F_DUPFD_CLOEXEC, 0), after;

	close(before);
	again((struct block_config){.id = "root"});
	after = fcntl(disk, F_DUPFD_CLOEXEC, 0);
	close(after);
	cr_assert_eq(before, after, "the first device closed its fd");
}
