/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An overlay file by a stranger: opened, read through a device's eyes, marked, flushed, committed.
 *
 * Byte 0: bit 0 repairs the header's checksum, so that its numbers are reached; bit 1 starts from a
 * good file; the upper bits are the size of the base. Then patches: where (2 bytes: header and map, or
 * anywhere), length (1), bytes.
 *
 * What must hold: no crash; runs cover the disk exactly and their data lies within what the file has
 * to be; what opens can be flattened and opened again.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "tests/fuzz/input.h"
#include "virtio/overlay.h"

static void repair(int fd)
{
	for (unsigned slot = 0; slot < 2; slot++) {
		uint8_t h[80] = {0};
		uint64_t sum;

		if (pread(fd, h, sizeof(h), slot * 4096) != sizeof(h))
			return;
		sum = XXH64(h, 72, 0);
		must(pwrite(fd, &sum, 8, slot * 4096 + 72) == 8, "repair");
	}
}

static void patch(int fd, const uint8_t *p, const uint8_t *end)
{
	while (end - p > 3) {
		uint64_t at = (uint64_t)(p[0] | p[1] << 8);
		size_t len = p[2];

		p += 3;
		len = MIN(len, (size_t)(end - p));
		must(pwrite(fd, p, len, (off_t)at) == (ssize_t)len, "patch");
		p += len;
	}
}

static void look(struct overlay *o, int fd)
{
	uint64_t sectors = overlay_size(o) / OVERLAY_SECTOR, own = 0;
	struct stat st;

	fstat(fd, &st);
	for (uint64_t at = 0; at < sectors;) {
		struct overlay_run run = overlay_run(o, at, sectors - at);

		must(run.sectors > 0 && run.sectors <= sectors - at, "runs lie on the disk");
		must(overlay_offset(o, (at + run.sectors) * OVERLAY_SECTOR) <= (uint64_t)st.st_size,
		     "data lies in the file");
		own += run.own ? run.sectors : 0;
		at += run.sectors;
	}
	must(own * OVERLAY_SECTOR == overlay_own_bytes(o), "bits are counted");
}

static void use(struct overlay *o, int fd, int base)
{
	uint64_t sectors = overlay_size(o) / OVERLAY_SECTOR;
	int out = memfd_create("out", MFD_CLOEXEC);
	struct err e;

	look(o, fd);
	must(overlay_flatten(o, base, out, &e) == 0, "what opens can be flattened");
	if (sectors > 9)
		overlay_mark(o, sectors / 2, sectors / 3);
	must(overlay_flush(o) == 0 && !overlay_dirty(o), "a flush");
	look(o, fd);
	close(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int base = memfd_create("base", MFD_CLOEXEC), fd = memfd_create("overlay", MFD_CLOEXEC);
	uint8_t how = size ? data[0] : 0;
	struct overlay *o;
	struct err e;

	must(ftruncate(base, (how >> 2) * 3000) == 0, "a base");
	if (how & 2)
		must(overlay_format(fd, base, &e) == 0, "a new overlay");
	if (size > 1)
		patch(fd, data + 1, data + size);
	if (how & 1)
		repair(fd);
	o = overlay_open(fd, base, &e);
	if (o) {
		use(o, fd, base);
		overlay_close(o);
		o = overlay_open(fd, base, &e);
		must(o, "it opens again");
		must(overlay_commit(o, base, &e) == 0, "commit");
		must(overlay_own_bytes(o) == 0, "a committed overlay is empty");
	}
	overlay_close(o);
	o = overlay_open(fd, -1, &e);
	overlay_close(o);
	close(fd);
	close(base);
	return 0;
}
