/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Load on a block device from inside a guest; linked statically, for an image that has no libraries.
 *
 *	blkload verify DEV SECONDS SEED   random writes, reads, discards and flushes, 512 bytes to
 *					  256 KiB, direct; every sector read is compared
 *	blkload stamp DEV COUNT SEED	  writes COUNT 4 KiB blocks in random places, syncing after
 *					  each 16; prints "synced N" when N of them are safe
 *	blkload stamped DEV N SEED	  the first N of these are there
 *	blkload read DEV DEPTH COUNT	  4 KiB random reads, DEPTH of them in flight; prints
 *					  "reads N us T"
 *
 * Exit status 0: all is as it has to be.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SECTOR	  512u
#define BLOCK	  4096u
#define SPAN_MAX  512u /* sectors in one request */
#define DEPTH_MAX 256u

static uint64_t seed;
static char *buf;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void die(const char *what)
{
	printf("blkload: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int open_disk(const char *path, uint64_t *sectors)
{
	int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	uint64_t bytes;

	if (fd < 0)
		fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &bytes) < 0)
		die(path);
	*sectors = bytes / SECTOR;
	return fd;
}

static void fill(char *at, uint64_t sector, uint32_t stamp)
{
	uint64_t *word = (uint64_t *)(void *)at;

	for (unsigned i = 0; i < SECTOR / 8; i++)
		word[i] = sector << 32 | stamp;
}

static void check(const char *at, uint64_t sector, uint32_t stamp)
{
	const uint64_t *word = (const uint64_t *)(const void *)at;
	uint64_t want = stamp ? sector << 32 | stamp : 0;

	for (unsigned i = 0; i < SECTOR / 8; i++) {
		if (word[i] == want)
			continue;
		printf("blkload: sector %llu word %u: %llx, expected %llx\n",
		       (unsigned long long)sector, i, (unsigned long long)word[i],
		       (unsigned long long)want);
		exit(1);
	}
}

static int verify(const char *path, unsigned seconds)
{
	uint64_t sectors, end = now_us() + seconds * 1000000ull, ops = 0;
	int fd = open_disk(path, &sectors);
	uint32_t *stamp = calloc(sectors, sizeof(*stamp)), next = 1;
	uint8_t *known = calloc(sectors, 1); /* what was there before us is not */

	if (sectors < SPAN_MAX || !stamp || !known)
		die("too small");
	for (; now_us() < end; ops++) {
		uint64_t n = 1 + rnd() % (rnd() % 4 ? 16 : SPAN_MAX - 1);
		uint64_t at = rnd() % (sectors - n), i;
		uint64_t range[2] = {at * SECTOR, n * SECTOR};
		unsigned what = (unsigned)(rnd() % 16);

		if (what < 8) {
			for (i = 0; i < n; i++)
				fill(buf + i * SECTOR, at + i, next);
			if (pwrite(fd, buf, n * SECTOR, (off_t)(at * SECTOR)) !=
			    (ssize_t)(n * SECTOR))
				die("write");
			for (i = 0; i < n; i++) {
				stamp[at + i] = next;
				known[at + i] = 1;
			}
			next++;
		} else if (what < 14) {
			if (pread(fd, buf, n * SECTOR, (off_t)(at * SECTOR)) !=
			    (ssize_t)(n * SECTOR))
				die("read");
			for (i = 0; i < n; i++)
				if (known[at + i])
					check(buf + i * SECTOR, at + i, stamp[at + i]);
		} else if (what == 14) {
			if (ioctl(fd, BLKZEROOUT, range) < 0)
				die("BLKZEROOUT");
			memset(stamp + at, 0, n * sizeof(*stamp));
			memset(known + at, 1, n);
		} else if (ops % 8 == 0 && fsync(fd) < 0) {
			die("fsync");
		}
	}
	for (uint64_t at = 0; at < sectors; at += SPAN_MAX) {
		uint64_t n = sectors - at < SPAN_MAX ? sectors - at : SPAN_MAX;

		if (pread(fd, buf, n * SECTOR, (off_t)(at * SECTOR)) != (ssize_t)(n * SECTOR))
			die("read");
		for (uint64_t i = 0; i < n; i++)
			if (known[at + i])
				check(buf + i * SECTOR, at + i, stamp[at + i]);
	}
	printf("verified %llu\n", (unsigned long long)ops);
	return 0;
}

static int stamp(const char *path, uint64_t count, int only_check)
{
	uint64_t sectors;
	int fd = open_disk(path, &sectors);

	/* Block k is at a place that a step prime to any power of two visits once. */
	for (uint64_t k = 0, blocks = sectors / 8; k < count && k < blocks; k++) {
		uint64_t block = (k * 40503 + seed) % blocks;
		off_t off = (off_t)(block * BLOCK);

		if (only_check) {
			if (pread(fd, buf, BLOCK, off) != BLOCK)
				die("read");
			for (unsigned i = 0; i < 8; i++)
				check(buf + i * SECTOR, block * 8 + i, (uint32_t)k + 1);
			continue;
		}
		for (unsigned i = 0; i < 8; i++)
			fill(buf + i * SECTOR, block * 8 + i, (uint32_t)k + 1);
		if (pwrite(fd, buf, BLOCK, off) != BLOCK)
			die("write");
		if (k % 16 == 15) {
			if (fsync(fd) < 0)
				die("fsync");
			printf("synced %llu\n", (unsigned long long)k + 1);
			fflush(stdout);
		}
	}
	printf("%s %llu\n", only_check ? "found" : "stamped", (unsigned long long)count);
	return 0;
}

static int read_load(const char *path, unsigned depth, uint64_t count)
{
	uint64_t sectors, sent = 0, done = 0, start;
	int fd = open_disk(path, &sectors);
	struct iocb cb[DEPTH_MAX], *list[DEPTH_MAX];
	struct io_event event[DEPTH_MAX];
	aio_context_t ctx = 0;
	unsigned free_count = depth;

	if (depth < 1 || depth > DEPTH_MAX || syscall(SYS_io_setup, depth, &ctx) < 0)
		die("io_setup");
	for (unsigned i = 0; i < depth; i++)
		list[i] = &cb[i];
	start = now_us();
	while (done < count) {
		long n = 0;

		for (unsigned i = 0; i < free_count; i++) {
			struct iocb *c = list[i];

			memset(c, 0, sizeof(*c));
			c->aio_lio_opcode = IOCB_CMD_PREAD;
			c->aio_fildes = (uint32_t)fd;
			c->aio_buf = (uintptr_t)(buf + (size_t)(c - cb) * BLOCK);
			c->aio_nbytes = BLOCK;
			c->aio_offset = (int64_t)(rnd() % (sectors / 8) * BLOCK);
		}
		if (free_count)
			n = syscall(SYS_io_submit, ctx, (long)free_count, list);
		if (n < (long)free_count)
			die("io_submit");
		sent += free_count;
		n = syscall(SYS_io_getevents, ctx, 1L, (long)depth, event, NULL);
		if (n < 1)
			die("io_getevents");
		for (long i = 0; i < n; i++) {
			if (event[i].res != BLOCK)
				die("short read");
			list[i] = (struct iocb *)(uintptr_t)event[i].obj;
		}
		done += (uint64_t)n;
		free_count = (unsigned)n;
	}
	printf("reads %010llu us %010llu\n", (unsigned long long)done,
	       (unsigned long long)(now_us() - start));
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t n = argc == 5 ? strtoull(argv[3], NULL, 10) : 0;
	uint64_t m = argc == 5 ? strtoull(argv[4], NULL, 10) : 0;

	if (argc != 5 || posix_memalign((void **)&buf, BLOCK, DEPTH_MAX * BLOCK))
		return 2;
	seed = m + 1;
	if (strcmp(argv[1], "verify") == 0)
		return verify(argv[2], (unsigned)n);
	if (strcmp(argv[1], "stamp") == 0)
		return stamp(argv[2], n, 0);
	if (strcmp(argv[1], "stamped") == 0)
		return stamp(argv[2], n, 1);
	if (strcmp(argv[1], "read") == 0)
		return read_load(argv[2], (unsigned)n, m);
	return 2;
}
