/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/lib/driver.h"
#include "virtio/block_impl.h"

#define SECTORS 2048u
#define DISK	(SECTORS * 512u)

static struct err e;
static int base, file; /* of the test */

/* --- the crash model's view of fdatasync(): see below --- */

static void (*on_sync)(int fd);

/* The libc's is a weak name for the system call; this one is asked first. */
int fdatasync(int fd)
{
	if (on_sync)
		on_sync(fd);
	return (int)syscall(SYS_fdatasync, fd);
}

/* A base in which every sector begins with its number + 1. */
static void start(void)
{
	base = memfd_create("base", MFD_CLOEXEC);
	file = memfd_create("overlay", MFD_CLOEXEC);
	for (uint32_t i = 0; i < SECTORS; i++) {
		uint32_t sector[128] = {i + 1};

		cr_assert_eq(pwrite(base, sector, 512, (off_t)i * 512), 512);
	}
	cr_assert_eq(overlay_format(file, base, &e), 0, "%s", e.msg);
}

static void finish(void)
{
	on_sync = NULL;
	close(base);
	close(file);
}

TestSuite(overlay, .init = start, .fini = finish, .timeout = 60);

static struct overlay *reopen(void)
{
	struct overlay *o = overlay_open(file, base, &e);

	cr_assert_not_null(o, "%s", e.msg);
	return o;
}

static void refused(const char *why)
{
	struct overlay *o = overlay_open(file, base, &e);

	cr_expect_null(o);
	overlay_close(o);
	cr_expect(strstr(e.msg, why), "'%s' is not in '%s'", why, e.msg);
}

/* Overwrites `len` bytes of the file at `off`. */
static void poke(const void *data, size_t len, uint64_t off)
{
	cr_assert_eq(pwrite(file, data, len, (off_t)off), (ssize_t)len);
}

static void copy_file(int from, int to)
{
	char buf[4096];
	ssize_t n;

	cr_assert_eq(ftruncate(to, 0), 0);
	for (off_t at = 0; (n = pread(from, buf, sizeof(buf), at)) > 0; at += n)
		cr_assert_eq(pwrite(to, buf, (size_t)n, at), n);
}

/* --- format --- */

Test(overlay, a_new_one_is_empty_and_sparse)
{
	struct overlay *o = reopen();
	struct overlay_run run = overlay_run(o, 0, SECTORS);
	struct stat st;

	fstat(file, &st);
	cr_assert_lt(st.st_blocks * 512, 16384);
	cr_assert_eq(overlay_size(o), DISK);
	cr_assert_eq(overlay_own_bytes(o), 0);
	cr_assert_not(run.own);
	cr_assert_eq(run.sectors, SECTORS);
	overlay_close(o);
}

Test(overlay, runs)
{
	static const struct {
		uint64_t at, max, sectors;
		bool own;
	} cases[] = {
		{0, SECTORS, 7, false},	    {0, 3, 3, false},	      {7, 100, 1, true},
		{8, 100, 55, false},	    {63, 1000, 129, true},    {64, 1000, 128, true},
		{100, 5, 5, true},	    {192, 9999, 1855, false}, {SECTORS - 1, 1, 1, true},
		{SECTORS - 2, 2, 1, false},
	};
	struct overlay *o = reopen();

	overlay_mark(o, 7, 1);
	overlay_mark(o, 63, 129);
	overlay_mark(o, SECTORS - 1, 1);
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct overlay_run run = overlay_run(o, cases[i].at, cases[i].max);

		cr_expect_eq(run.own, cases[i].own, "case %u", i);
		cr_expect_eq(run.sectors, cases[i].sectors, "case %u: %lu", i, run.sectors);
	}
	cr_expect_eq(overlay_own_bytes(o), 131 * 512);
	overlay_mark(o, 0, SECTORS);
	cr_expect_eq(overlay_own_bytes(o), DISK);
	overlay_close(o);
}

Test(overlay, what_was_flushed_is_there_and_the_rest_is_not)
{
	struct overlay *o = reopen();

	overlay_mark(o, 5, 3);
	cr_assert(overlay_dirty(o));
	cr_assert_eq(overlay_flush(o), 0);
	cr_assert_not(overlay_dirty(o));
	overlay_mark(o, 5, 3);
	cr_assert_not(overlay_dirty(o), "nothing new");
	overlay_mark(o, 100, 3);
	overlay_close(o);
	o = reopen();
	cr_assert_eq(overlay_own_bytes(o), 3 * 512);
	cr_assert(overlay_run(o, 5, 1).own);
	overlay_close(o);
}

Test(overlay, only_what_changed_of_the_map_is_in_memory_and_file)
{
	struct overlay *o;
	struct stat before, after;

	/* 1 TiB has a map of 256 MiB. */
	cr_assert_eq(ftruncate(base, 1ll << 40), 0);
	cr_assert_eq(ftruncate(file, 0), 0);
	cr_assert_eq(overlay_format(file, base, &e), 0, "%s", e.msg);
	o = reopen();
	overlay_mark(o, 1ull << 30, 1);
	fstat(file, &before);
	cr_assert_eq(overlay_flush(o), 0);
	fstat(file, &after);
	cr_assert_eq(after.st_blocks - before.st_blocks, 8);
	overlay_close(o);
	o = reopen();
	cr_assert(overlay_run(o, 1ull << 30, 1).own);
	cr_assert_eq(overlay_own_bytes(o), 512);
	overlay_close(o);
}

Test(overlay, a_base_without_sectors)
{
	struct overlay *o;

	cr_assert_eq(ftruncate(base, 511), 0);
	cr_assert_eq(ftruncate(file, 0), 0);
	cr_assert_eq(overlay_format(file, base, &e), 0);
	o = reopen();
	cr_assert_eq(overlay_size(o), 0);
	cr_assert_eq(overlay_flush(o), 0);
	overlay_close(o);
}

Test(overlay, the_wrong_base)
{
	const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1}};
	char ch = 'x';

	cr_assert_eq(futimens(base, times), 0);
	overlay_close(reopen()); /* a copy: another time, the same contents */
	cr_assert_eq(pwrite(base, &ch, 1, 1024), 1);
	refused("changed since");
	cr_assert_eq(ftruncate(base, DISK + 512), 0);
	refused("bytes");
}

Test(overlay, not_an_overlay)
{
	cr_assert_eq(overlay_format(file, base, &e), -EEXIST);
	cr_assert_eq(ftruncate(file, 100), 0);
	refused("not an overlay");
	cr_assert_eq(ftruncate(file, 0), 0);
	refused("not an overlay");
}

Test(overlay, one_header_slot_is_enough)
{
	struct overlay *o = reopen();
	char junk[80];

	memset(junk, 'x', sizeof(junk));
	overlay_close(o);
	poke(junk, sizeof(junk), 0); /* the first header is in the second slot */
	overlay_close(reopen());
	poke(junk, sizeof(junk), 4096);
	refused("damaged");
}

Test(overlay, every_number_is_checked)
{
	static const uint64_t values[] = {0, 1, 511, DISK + 1, UINT32_MAX, 1ull << 62, UINT64_MAX};

	for (uint64_t at = 0; at < 80; at += 8) {
		uint64_t old;

		cr_assert_eq(pread(file, &old, 8, (off_t)(4096 + at)), 8);
		for (unsigned i = 0; i < ARRAY_SIZE(values); i++) {
			if (values[i] == old)
				continue;
			poke(&values[i], 8, 4096 + at);
			refused("damaged"); /* the checksum finds it; the fuzzer repairs that */
		}
		poke(&old, 8, 4096 + at);
	}
	overlay_close(reopen());
}

Test(overlay, a_truncated_file)
{
	cr_assert_eq(ftruncate(file, 65536 + DISK - 1), 0);
	refused("truncated");
}

Test(overlay, bits_behind_the_end)
{
	uint8_t bit = 1;

	poke(&bit, 1, 8192 + SECTORS / 8);
	refused("behind the disk's end");
}

/* --- commit and flatten --- */

static void write_sectors(struct overlay *o, uint32_t sector, uint32_t count, uint32_t tag)
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t data[128] = {tag};

		poke(data, 512, overlay_offset(o, (sector + i) * 512ull));
	}
	overlay_mark(o, sector, count);
}

static uint32_t tag_in(int fd, uint32_t sector)
{
	uint32_t tag = 0;

	cr_assert_eq(pread(fd, &tag, 4, (off_t)sector * 512), 4);
	return tag;
}

Test(overlay, commit)
{
	struct overlay *o = reopen();
	struct stat st;

	write_sectors(o, 3, 2, 777);
	write_sectors(o, SECTORS - 1, 1, 778);
	cr_assert_eq(overlay_flush(o), 0);
	cr_assert_eq(overlay_commit(o, base, &e), 0, "%s", e.msg);
	cr_assert_eq(tag_in(base, 2), 3);
	cr_assert_eq(tag_in(base, 3), 777);
	cr_assert_eq(tag_in(base, 4), 777);
	cr_assert_eq(tag_in(base, 5), 6);
	cr_assert_eq(tag_in(base, SECTORS - 1), 778);
	overlay_close(o);
	o = reopen();
	cr_assert_eq(overlay_own_bytes(o), 0);
	fstat(file, &st);
	cr_assert_lt(st.st_blocks * 512, 16384);
	overlay_close(o);
}

Test(overlay, an_interrupted_commit_is_repeated)
{
	struct overlay *o = reopen();
	int ro;
	char path[40];

	write_sectors(o, 3, 2, 777);
	cr_assert_eq(overlay_flush(o), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", base);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	cr_assert_eq(overlay_commit(o, ro, &e), -EBADF, "stops at the first write");
	close(ro);
	overlay_close(o);
	refused("interrupted");
	o = overlay_open(file, -1, &e);
	cr_assert_not_null(o, "%s", e.msg);
	cr_assert_eq(overlay_commit(o, base, &e), 0, "%s", e.msg);
	cr_assert_eq(tag_in(base, 3), 777);
	overlay_close(o);
	overlay_close(reopen());
}

Test(overlay, flatten)
{
	int out = memfd_create("out", MFD_CLOEXEC);
	struct overlay *o = reopen();

	write_sectors(o, 64, 1, 777);
	cr_assert_eq(overlay_flatten(o, base, out, &e), 0, "%s", e.msg);
	cr_assert_eq(lseek(out, 0, SEEK_END), DISK);
	for (uint32_t i = 0; i < SECTORS; i++)
		cr_assert_eq(tag_in(out, i), i == 64 ? 777 : i + 1);
	cr_assert_eq(tag_in(base, 64), 65);
	overlay_close(o);
	close(out);
}

/* --- the device over an overlay --- */

enum { IN = 0, OUT = 1, FLUSH = 4, DISCARD = 11 };

#define AT KIB(128) /* between rings and what the driver allocates */

static struct driver g;
static bool async;

static void attach(bool writeback)
{
	struct block_config cfg = {
		.id = "root",
		.overlay = true,
		.fd = fcntl(file, F_DUPFD_CLOEXEC, 0),
		.base_fd = fcntl(base, F_DUPFD_CLOEXEC, 0),
		.writeback = writeback,
		.async = async,
	};
	struct virtio_device *d;

	driver_init(&g);
	d = block_create(&cfg, &g.env, &e);
	cr_assert_not_null(d, "%s", e.msg);
	driver_attach(&g, d);
	driver_start(&g, driver_offered(&g));
}

static void start_device(void)
{
	start();
	attach(true);
}

static void start_async(void)
{
	async = true;
	start_device();
}

static void finish_device(void)
{
	driver_finish(&g);
	finish();
}

TestSuite(overlay_disk, .init = start_device, .fini = finish_device, .timeout = 60);
TestSuite(overlay_disk_async, .init = start_async, .fini = finish_device, .timeout = 60);

#define Both(name)                     \
	static void do_##name(void);   \
	Test(overlay_disk, name)       \
	{                              \
		do_##name();           \
	}                              \
	Test(overlay_disk_async, name) \
	{                              \
		do_##name();           \
	}                              \
	static void do_##name(void)

/* One request at fixed places of memory; returns its status, the data is at `data`. */
static uint8_t request(uint32_t type, uint64_t sector, uint32_t len)
{
	const gpa_t head = AT, status = head + 16, data = head + 4096;
	const struct driver_buf buf[] = {
		{head, 16, false}, {data, len, type == IN}, {status, 1, true}};
	struct block *b = CONTAINER_OF(g.mmio.dev, struct block, dev);

	memcpy(driver_ptr(&g, head, 4), &type, 4);
	memcpy(driver_ptr(&g, head + 8, 8), &sector, 8);
	*(uint8_t *)driver_ptr(&g, status, 1) = 0xee;
	driver_add_indirect(&g, 0, buf, 3, NULL);
	driver_kick(&g, 0);
	/* Not block_drain(), which would flush. */
	pthread_mutex_lock(&g.lock);
	if (async)
		uring_wait(&b->ring);
	virtio_queue_end(&b->dev, &b->queue[0]);
	pthread_mutex_unlock(&g.lock);
	cr_assert(driver_used(&g, 0, NULL, NULL));
	return *(uint8_t *)driver_ptr(&g, status, 1);
}

static uint32_t *data_at(uint32_t sector)
{
	return driver_ptr(&g, AT + 4096 + sector * 512, 512);
}

static void disk_write(uint64_t sector, uint32_t count, uint32_t tag)
{
	for (uint32_t i = 0; i < count; i++)
		for (unsigned j = 0; j < 128; j++)
			data_at(i)[j] = tag;
	cr_assert_eq(request(OUT, sector, count * 512), 0);
}

static uint32_t disk_tag(uint64_t sector)
{
	cr_assert_eq(request(IN, sector, 512), 0);
	return *data_at(0);
}

static uint8_t discard(uint64_t sector, uint32_t count)
{
	memcpy(data_at(0), &sector, 8);
	memcpy((char *)data_at(0) + 8, &count, 4);
	memset((char *)data_at(0) + 12, 0, 4);
	return request(DISCARD, 0, 16);
}

Both(writes_leave_the_base_alone)
{
	disk_write(10, 3, 777);
	cr_assert_eq(disk_tag(9), 10);
	cr_assert_eq(disk_tag(10), 777);
	cr_assert_eq(disk_tag(12), 777);
	cr_assert_eq(disk_tag(13), 14);
	cr_assert_eq(tag_in(base, 10), 11);
}

Both(a_read_that_spans_both)
{
	struct block_metrics *count = block_metrics(g.mmio.dev);

	/* 2 stretches, then 3, then one for each sector. */
	disk_write(4, 4, 777);
	cr_assert_eq(request(IN, 0, 8 * 512), 0);
	for (uint32_t i = 0; i < 8; i++)
		cr_expect_eq(*data_at(i), i < 4 ? i + 1 : 777, "sector %u", i);
	cr_assert_eq(metric_take(&count->overlay_base_bytes), 4 * 512);
	cr_assert_eq(metric_take(&count->overlay_read_bytes), 4 * 512);
	cr_assert_eq(request(IN, 2, 10 * 512), 0);
	for (uint32_t i = 0; i < 10; i++)
		cr_expect_eq(*data_at(i), i >= 2 && i < 6 ? 777 : i + 3, "sector %u", i);
	for (uint32_t i = 101; i < 164; i += 2)
		disk_write(i, 1, 778);
	cr_assert_eq(request(IN, 100, 64 * 512), 0);
	for (uint32_t i = 0; i < 64; i++)
		cr_expect_eq(*data_at(i), i % 2 ? 778 : i + 101, "sector %u", i);
	cr_assert_eq(request(IN, 0, 1024 * 512), 0);
	cr_assert_eq(*data_at(1023), 1024);
}

Both(discard_reads_as_zeros)
{
	disk_write(16, 8, 777);
	cr_assert_eq(discard(16, 16), 0);
	cr_assert_eq(disk_tag(15), 16);
	cr_assert_eq(disk_tag(16), 0);
	cr_assert_eq(disk_tag(31), 0, "also what was the base's");
	cr_assert_eq(disk_tag(32), 33);
	cr_assert_eq(tag_in(base, 16), 17);
}

Both(flushed_data_survives_and_unflushed_does_not_appear)
{
	struct overlay *o;

	disk_write(1, 1, 777);
	cr_assert_eq(request(FLUSH, 0, 0), 0);
	cr_assert_eq(metric_take(&block_metrics(g.mmio.dev)->overlay_flush_count), 1);
	disk_write(2, 1, 778);
	/* As if the process were killed here. */
	o = reopen();
	cr_assert(overlay_run(o, 1, 1).own);
	cr_assert_not(overlay_run(o, 2, 1).own);
	overlay_close(o);
	cr_assert_eq(request(FLUSH, 0, 0), 0);
	cr_assert_eq(request(FLUSH, 0, 0), 0);
	cr_assert_eq(metric_take(&block_metrics(g.mmio.dev)->overlay_flush_count), 1,
		     "the map did not change between the last two");
}

Both(unsafe_writes_the_map_with_each_batch)
{
	struct overlay *o;

	driver_finish(&g);
	attach(false);
	disk_write(2, 1, 778);
	driver_kick(&g, 0); /* ends the batch in which an asynchronous write was completed */
	o = reopen();
	cr_assert(overlay_run(o, 2, 1).own);
	overlay_close(o);
	driver_finish(&g);
	attach(false);
	cr_assert_eq(disk_tag(2), 778);
}

Both(destroy_and_drain_keep_everything)
{
	struct overlay *o;

	disk_write(2, 1, 778);
	pthread_mutex_lock(&g.lock);
	cr_assert_eq(block_drain(g.mmio.dev), 0);
	pthread_mutex_unlock(&g.lock);
	o = reopen();
	cr_assert(overlay_run(o, 2, 1).own);
	overlay_close(o);
	disk_write(3, 1, 779);
	driver_finish(&g);
	attach(true);
	cr_assert_eq(disk_tag(2), 778);
	cr_assert_eq(disk_tag(3), 779);
	cr_assert_eq(block_overlay_bytes(g.mmio.dev), 1024);
}

Both(a_failed_write_shows_what_was_there)
{
	/* A file of our own with a seal: every write fails. */
	int sealed = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	copy_file(file, sealed);
	driver_finish(&g);
	close(file);
	file = sealed;
	cr_assert_eq(fcntl(file, F_ADD_SEALS, F_SEAL_WRITE), 0);
	attach(true);
	*data_at(0) = 777;
	cr_assert_eq(request(OUT, 5, 512), 1);
	cr_assert_eq(disk_tag(5), 6);
	cr_assert_eq(discard(5, 1), 1);
	cr_assert_eq(disk_tag(5), 6);
}

Both(the_base_cannot_be_swapped)
{
	int other = memfd_create("other", MFD_CLOEXEC);

	pthread_mutex_lock(&g.lock);
	cr_assert_eq(block_set_file(g.mmio.dev, other, &e), -EINVAL);
	pthread_mutex_unlock(&g.lock);
	close(other);
}

/* --- crashes of the host ---
 *
 * Random writes, discards and flushes; at each fdatasync() the host may crash instead. Then the
 * file is what it was after the last sync, plus any of the sectors (of 512 bytes, each whole) that
 * were written since. Whatever subset that is, the overlay must open, and every sector of the disk
 * must hold what was last flushed, or something written to it since.
 */

#define HISTORY 4096u
#define CRASHES 6u

static struct {
	uint32_t flushed[SECTORS]; /* tag that the last flush made sure of */
	struct {
		uint32_t sector, tag;
	} since[HISTORY];
	unsigned since_len;
	uint8_t *durable, *image;
	size_t len;
	unsigned syncs, crashes;
	uint64_t seed;
} model;

static uint64_t random_next(void)
{
	model.seed ^= model.seed << 13;
	model.seed ^= model.seed >> 7;
	model.seed ^= model.seed << 17;
	return model.seed;
}

static bool may_be(uint32_t sector, uint32_t tag)
{
	if (tag == model.flushed[sector])
		return true;
	for (unsigned i = 0; i < model.since_len; i++)
		if (model.since[i].sector == sector && model.since[i].tag == tag)
			return true;
	return false;
}

/* Opens what is in `image` and compares it with the model. */
static void check_image(void)
{
	int fd = memfd_create("crashed", MFD_CLOEXEC);
	struct overlay *o;

	cr_assert_eq(write(fd, model.image, model.len), (ssize_t)model.len);
	o = overlay_open(fd, base, &e);
	cr_assert_not_null(o, "after a crash: %s", e.msg);
	for (uint32_t s = 0; s < SECTORS; s++) {
		uint32_t data[128], tag;
		bool own = overlay_run(o, s, 1).own;
		uint64_t at = own ? overlay_offset(o, s * 512ull) : s * 512ull;

		cr_assert_eq(pread(own ? fd : base, data, 512, (off_t)at), 512);
		tag = data[0];
		cr_assert(may_be(s, tag), "sector %u: %u, flushed was %u", s, tag,
			  model.flushed[s]);
		cr_assert(!own || data[127] == tag, "sector %u is torn", s);
	}
	overlay_close(o);
	close(fd);
}

/* Called before a sync takes place. */
static void crash(int fd)
{
	uint8_t *now = malloc(model.len);

	(void)fd;
	cr_assert_eq(pread(file, now, model.len, 0), (ssize_t)model.len);
	for (unsigned i = 0; i < CRASHES; i++) {
		/* None, all, or any of them. */
		unsigned odds = i == 0 ? 0 : i == 1 ? 4 : 1 + (unsigned)(random_next() % 3);

		memcpy(model.image, model.durable, model.len);
		for (size_t at = 0; at < model.len; at += 512)
			if (random_next() % 4 < odds)
				memcpy(model.image + at, now + at, 512);
		check_image();
		model.crashes++;
	}
	memcpy(model.durable, now, model.len);
	model.syncs++;
	free(now);
}

static void wrote(uint32_t sector, uint32_t count, uint32_t tag)
{
	for (uint32_t i = 0; i < count; i++) {
		cr_assert_lt(model.since_len, HISTORY);
		model.since[model.since_len].sector = sector + i;
		model.since[model.since_len++].tag = tag;
	}
}

static void flushed(void)
{
	for (unsigned i = 0; i < model.since_len; i++)
		model.flushed[model.since[i].sector] = model.since[i].tag;
	model.since_len = 0;
	/* A flush by the ring is not seen by the hook. */
	cr_assert_eq(pread(file, model.durable, model.len, 0), (ssize_t)model.len);
}

static void random_step(uint32_t tag)
{
	uint32_t sector = (uint32_t)(random_next() % (SECTORS - 32));
	uint32_t count = 1 + (uint32_t)(random_next() % 31);

	switch (random_next() % 8) {
	case 0:
		cr_assert_eq(request(FLUSH, 0, 0), 0);
		flushed();
		break;
	case 1:
		cr_assert_eq(discard(sector, count), 0);
		wrote(sector, count, 0);
		break;
	default:
		wrote(sector, count, tag);
		disk_write(sector, count, tag);
	}
}

Both(a_crash_of_the_host_at_any_time)
{
	model.len = (size_t)lseek(file, 0, SEEK_END);
	model.durable = malloc(model.len);
	model.image = malloc(model.len);
	model.seed = 0x9e3779b97f4a7c15;
	cr_assert_eq(pread(file, model.durable, model.len, 0), (ssize_t)model.len);
	for (uint32_t s = 0; s < SECTORS; s++)
		model.flushed[s] = s + 1;
	on_sync = crash;
	for (uint32_t i = 0; i < 400; i++)
		random_step(10000 + i);
	on_sync = NULL;
	cr_assert_gt(model.crashes, 100);
	free(model.durable);
	free(model.image);
}
