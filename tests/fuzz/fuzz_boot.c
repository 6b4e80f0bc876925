/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A kernel image of somebody else's making: probe it, and load what the probe took.
 *
 * The first byte of the input says what is fuzzed: the rest as a file of its own, or one of the
 * small good images with patches {16-bit offset, length, bytes} applied and cut off at the end. The
 * first byte's upper bits choose the guest's memory and whether there is an initrd.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/lib/boot_images.h"
#include "vmm/base/fd.h"
#include "vmm/boot.h"
#include "vmm/layout.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FILE_MAX 65536u

static struct fuzz_state {
	struct gmem mem[2]; /* the smallest guest, and one that the good images fit into */
	int kernel_fd, initrd_fd;
} state = {.kernel_fd = -1};

static void init(void)
{
	static const uint64_t sizes[2] = {MIB(1), MIB(32)};

	if (state.kernel_fd >= 0)
		return;
	for (unsigned i = 0; i < 2; i++) {
		struct gmem_region r[2];
		unsigned n = layout_ram(sizes[i], r);

		if (gmem_init(&state.mem[i], r, n, GMEM_ANON, false, NULL) < 0)
			abort();
	}
	state.kernel_fd = memfd_create("kernel", MFD_CLOEXEC);
	state.initrd_fd = memfd_create("initrd", MFD_CLOEXEC);
	if (state.kernel_fd < 0 || ftruncate(state.initrd_fd, 5000) < 0)
		abort();
}

static void patch(struct image *img, const uint8_t *data, size_t size)
{
	while (size >= 3) {
		size_t at = (size_t)(data[0] | data[1] << 8), n = MIN((size_t)data[2], size - 3);

		if (at >= img->len) { /* the last word: where the file ends */
			img->len = at % (img->len + 1);
			return;
		}
		memcpy(img->byte + at, data + 3, MIN(n, img->len - at));
		data += 3 + n;
		size -= 3 + n;
	}
}

static size_t make_file(uint8_t kind, const uint8_t *data, size_t size, uint8_t *file)
{
	struct image img;

	switch (kind % 5) {
	case 1:
		make_elf(&img);
		break;
	case 2:
		make_elf(&img);
		put(&img, 24, 8, 0); /* PVH */
		break;
	case 3:
		make_elf32(&img);
		break;
	case 4:
		make_bzimage(&img);
		break;
	default:
		size = MIN(size, (size_t)FILE_MAX);
		memcpy(file, data, size);
		return size;
	}
	patch(&img, data, size);
	memcpy(file, img.byte, img.len);
	return img.len;
}

/* What vmm/boot.h promises of a plan. */
static void check_plan(const struct boot_plan *p)
{
	bool found = false;

	assert(p->count >= 1 && p->count <= BOOT_SEGMENTS_MAX);
	assert(p->setup_header_len <= BOOT_SETUP_HEADER_MAX);
	for (unsigned i = 0; i < p->count; i++) {
		const struct boot_segment *s = &p->segment[i];

		assert(s->filesz <= s->memsz && s->memsz);
		assert(range_within(s->gpa, s->memsz, LAYOUT_MAPPED));
		assert(s->gpa + s->memsz <= p->end);
		found |= p->entry >= s->gpa && p->entry - s->gpa < s->filesz;
		for (unsigned j = 0; j < i; j++)
			assert(s->gpa + s->memsz <= p->segment[j].gpa ||
			       p->segment[j].gpa + p->segment[j].memsz <= s->gpa);
	}
	assert(found);
}

static void check_loaded(const struct boot_plan *p, const struct gmem *m, const uint8_t *file)
{
	for (unsigned i = 0; i < p->count; i++) {
		const struct boot_segment *s = &p->segment[i];

		if (s->filesz)
			assert(!memcmp(gmem_at(m, s->gpa, s->filesz), file + s->offset, s->filesz));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t file[FILE_MAX];
	struct boot_params_in in = {.cmdline = "console=ttyS0", .rsdp = LAYOUT_ACPI};
	struct boot_entry entry;
	struct boot_plan plan;
	struct gmem *m;
	struct err e;
	size_t len;

	init();
	if (!size)
		return 0;
	len = make_file(data[0] & 7, data + 1, size - 1, file);
	m = &state.mem[data[0] >> 3 & 1];
	in.kernel_fd = state.kernel_fd;
	in.initrd_fd = data[0] & 16 ? state.initrd_fd : -1;
	if (ftruncate(in.kernel_fd, 0) < 0 || pwrite(in.kernel_fd, file, len, 0) != (ssize_t)len)
		abort();
	e.msg[0] = 0;
	if (boot_probe(in.kernel_fd, &plan, &e) < 0) {
		assert(e.msg[0]);
		return 0;
	}
	check_plan(&plan);
	if (boot_load(&plan, &in, m, &entry, &e) < 0) {
		assert(e.msg[0]);
	} else {
		assert(entry.rip == plan.entry);
		check_loaded(&plan, m, file);
	}
	madvise(m->region[0].host, m->region[0].len, MADV_DONTNEED);
	return 0;
}
