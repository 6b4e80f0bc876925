/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/boot.h"

#include <assert.h>

#include "vmm/base/fd.h"
#include "vmm/boot_image.h"

/* What a kernel segment must not touch: boot_params_write() or the tables' builders write there. */
static const struct {
	gpa_t start, end;
	const char *what;
} reserved[] = {
	{LAYOUT_GDT, LAYOUT_GDT + BOOT_GDT_ENTRIES * 8, "the GDT"},
	{LAYOUT_PVH_INFO, LAYOUT_ZERO_PAGE, "the PVH start info"},
	{LAYOUT_ZERO_PAGE, LAYOUT_ZERO_PAGE + LAYOUT_PAGE_SIZE, "the zero page"},
	{LAYOUT_ZERO_PAGE + LAYOUT_PAGE_SIZE, LAYOUT_PAGE_TABLE, "the stack"},
	{LAYOUT_PAGE_TABLE, LAYOUT_PAGE_TABLE + 3 * LAYOUT_PAGE_SIZE, "the page tables"},
	{LAYOUT_CMDLINE, LAYOUT_CMDLINE + LAYOUT_CMDLINE_MAX, "the command line"},
	{LAYOUT_SETUP_DATA, LAYOUT_SETUP_DATA + LAYOUT_PAGE_SIZE, "the setup data"},
	{LAYOUT_EBDA, LAYOUT_EBDA_END, "the EBDA"},
	{LAYOUT_ACPI, LAYOUT_ACPI_END, "the ACPI tables"},
};

static bool overlap(gpa_t a, gpa_t a_end, gpa_t b, gpa_t b_end)
{
	return a < b_end && b < a_end;
}

/* `end` is the segment's, known not to wrap. */
static int check_place(const struct boot_plan *plan, gpa_t start, gpa_t end, struct err *e)
{
	for (unsigned i = 0; i < ARRAY_SIZE(reserved); i++)
		if (overlap(start, end, reserved[i].start, reserved[i].end))
			return err_set(
				e, EINVAL,
				"address range 0x%lx..0x%lx collides with %s at 0x%lx..0x%lx",
				start, end, reserved[i].what, reserved[i].start, reserved[i].end);
	for (unsigned i = 0; i < plan->count; i++) {
		gpa_t other = plan->segment[i].gpa, other_end = other + plan->segment[i].memsz;

		if (overlap(start, end, other, other_end))
			return err_set(e, EINVAL,
				       "address range 0x%lx..0x%lx overlaps an earlier segment's "
				       "0x%lx..0x%lx",
				       start, end, other, other_end);
	}
	return 0;
}

int boot_plan_add(const struct boot_image *img, struct boot_plan *plan,
		  const struct boot_segment *s, struct err *e)
{
	int rc;

	if (!range_within(s->offset, s->filesz, img->size))
		return err_set(e, EINVAL,
			       "%lu bytes at offset 0x%lx go beyond the end of the file (%lu "
			       "bytes)",
			       s->filesz, s->offset, img->size);
	if (s->filesz > s->memsz)
		return err_set(e, EINVAL, "%lu bytes in the file are more than its %lu in memory",
			       s->filesz, s->memsz);
	if (!range_within(s->gpa, s->memsz, LAYOUT_MAPPED))
		return err_set(e, EINVAL,
			       "%lu bytes at address 0x%lx are not within the first %lu MiB of "
			       "guest memory, where a kernel has to be",
			       s->memsz, s->gpa, LAYOUT_MAPPED >> 20);
	rc = check_place(plan, s->gpa, s->gpa + s->memsz, e);
	if (rc < 0)
		return rc;
	if (plan->count == BOOT_SEGMENTS_MAX)
		return err_set(e, EINVAL, "more than %d segments to load", BOOT_SEGMENTS_MAX);
	plan->segment[plan->count++] = *s;
	if (plan->end < s->gpa + s->memsz)
		plan->end = s->gpa + s->memsz;
	return 0;
}

/* What people hand over instead of a kernel, by the bytes at `at`. */
static const struct {
	unsigned at, len;
	const char *magic, *advice;
} impostors[] = {
	{0, 2, "\x1f\x8b", "a gzip file? unpack it first"},
	{0, 6,
	 "\xfd"
	 "7zXZ",
	 "an xz file? unpack it first"},
	{0, 4, "\x28\xb5\x2f\xfd", "a zstd file? unpack it first"},
	{0, 4, "\x02\x21\x4c\x18", "an LZ4 file? unpack it first"},
	{0, 4, "\x04\x22\x4d\x18", "an LZ4 file? unpack it first"},
	{0, 3, "BZh", "a bzip2 file? unpack it first"},
	{0, 6, "070701", "a cpio archive: the initrd?"},
	{0x38, 4, "ARM\x64", "a kernel for aarch64, need x86-64"},
	{0x38, 4, "RSC\x05", "a kernel for RISC-V, need x86-64"},
	{0, 2, "#!", "a script"},
};

static int unknown_format(const struct boot_image *img, struct err *e)
{
	const char *advice = "what is it?";

	for (unsigned i = 0; i < ARRAY_SIZE(impostors); i++)
		if (!memcmp(img->head + impostors[i].at, impostors[i].magic, impostors[i].len)) {
			advice = impostors[i].advice;
			break;
		}
	return err_set(e, EINVAL,
		       "not an ELF vmlinux or a bzImage: %lu bytes, the first are %02x %02x %02x "
		       "%02x (%s)",
		       img->size, img->head[0], img->head[1], img->head[2], img->head[3], advice);
}

int boot_probe(int kernel_fd, struct boot_plan *plan, struct err *e)
{
	struct boot_image img = {.fd = kernel_fd};
	int64_t size = fd_size(kernel_fd);
	int rc;

	*plan = (struct boot_plan){0};
	if (size < 0)
		return err_set(e, (int)-size, "size of the file: %s", strerror((int)-size));
	if (size == 0)
		return err_set(e, EINVAL, "the file is empty");
	img.size = (uint64_t)size;
	rc = fd_pread_full(kernel_fd, img.head, MIN(img.size, sizeof(img.head)), 0);
	if (rc < 0)
		return err_set(e, -rc, "read its first bytes: %s", strerror(-rc));
	if (!memcmp(img.head, "\177ELF", 4))
		return boot_elf_probe(&img, plan, e);
	if (!memcmp(img.head + 0x202, "HdrS", 4))
		return boot_bzimage_probe(&img, plan, e);
	return unknown_format(&img, e);
}

static uint64_t mib_up(uint64_t bytes)
{
	return (bytes + MIB(1) - 1) >> 20;
}

/* The highest page-aligned place for `len` bytes in [1 MiB, limit) that no segment takes, or 0. */
static gpa_t find_room(const struct boot_plan *plan, uint64_t len, gpa_t limit)
{
	while (limit >= LAYOUT_HIGH_RAM && len <= limit - LAYOUT_HIGH_RAM) {
		gpa_t gpa = (limit - len) & ~(gpa_t)(LAYOUT_PAGE_SIZE - 1);
		unsigned i;

		for (i = 0; i < plan->count; i++) {
			const struct boot_segment *s = &plan->segment[i];

			if (overlap(gpa, gpa + len, s->gpa, s->gpa + s->memsz))
				break;
		}
		if (i == plan->count)
			return gpa;
		limit = plan->segment[i].gpa;
	}
	return 0;
}

static int place_initrd(const struct boot_plan *plan, int fd, uint64_t ram, struct boot_initrd *in,
			struct err *e)
{
	gpa_t limit = MIN(plan->initrd_max, LAYOUT_GAP_START - 1) + 1;
	int64_t size = fd_size(fd);
	uint64_t need;

	if (size < 0)
		return err_set(e, (int)-size, "initrd: size of the file: %s", strerror((int)-size));
	if (size == 0)
		return err_set(e, EINVAL, "initrd: the file is empty");
	in->len = (uint64_t)size;
	in->gpa = find_room(plan, in->len, MIN(limit, ram));
	if (in->gpa)
		return 0;
	if (!find_room(plan, in->len, limit))
		return err_set(e, EFBIG,
			       "initrd: its %lu bytes do not fit below 0x%lx beside this kernel",
			       in->len, limit);
	need = align_up(plan->end, LAYOUT_PAGE_SIZE);
	if (need < LAYOUT_HIGH_RAM)
		need = LAYOUT_HIGH_RAM;
	return err_set(e, ENOMEM,
		       "initrd: its %lu bytes need %lu MiB of guest memory beside this kernel, the "
		       "guest has %lu MiB",
		       in->len, mib_up(need + align_up(in->len, LAYOUT_PAGE_SIZE)), ram >> 20);
}

static int check_cmdline(const struct boot_plan *plan, const char *cmdline, struct err *e)
{
	size_t len = strlen(cmdline);

	if (len > LAYOUT_CMDLINE_MAX - 1)
		return err_set(e, EINVAL, "command line of %zu bytes, at most %u are possible", len,
			       LAYOUT_CMDLINE_MAX - 1);
	if (len > plan->cmdline_max)
		return err_set(e, EINVAL,
			       "command line of %zu bytes, but this kernel takes at most %u", len,
			       plan->cmdline_max);
	return 0;
}

/* `ram` is what the guest has below the gap. */
static int place(const struct boot_plan *plan, int initrd_fd, uint64_t ram,
		 struct boot_initrd *initrd, struct err *e)
{
	*initrd = (struct boot_initrd){0};
	if (plan->end > ram)
		return err_set(e, ENOMEM,
			       "kernel takes memory up to 0x%lx: it needs %lu MiB, the guest has "
			       "%lu MiB",
			       plan->end, mib_up(plan->end), ram >> 20);
	return initrd_fd < 0 ? 0 : place_initrd(plan, initrd_fd, ram, initrd, e);
}

int boot_fit(const struct boot_plan *plan, int initrd_fd, uint64_t ram, struct err *e)
{
	struct boot_initrd initrd;

	return place(plan, initrd_fd, MIN(ram, LAYOUT_GAP_START), &initrd, e);
}

/* Straight from the page cache to where the guest runs it; BSS is zero already. */
static int copy_in(int fd, const struct gmem *mem, const struct boot_segment *s, const char *what,
		   struct err *e)
{
	void *to = s->filesz ? gmem_at(mem, s->gpa, s->filesz) : NULL;
	int rc;

	if (!s->filesz)
		return 0;
	assert(to); /* the plan was held against this memory */
	rc = fd_pread_full(fd, to, s->filesz, s->offset);
	if (rc == -ENODATA)
		return err_set(e, -rc, "%s became shorter while it was being read", what);
	if (rc < 0)
		return err_set(e, -rc, "read %lu bytes of %s at offset 0x%lx: %s", s->filesz, what,
			       s->offset, strerror(-rc));
	return 0;
}

static int copy_images(const struct boot_plan *plan, const struct boot_params_in *in,
		       const struct gmem *mem, const struct boot_initrd *initrd, struct err *e)
{
	struct boot_segment whole = {.filesz = initrd->len, .gpa = initrd->gpa};

	for (unsigned i = 0; i < plan->count; i++) {
		int rc = copy_in(in->kernel_fd, mem, &plan->segment[i], "the kernel image", e);

		if (rc < 0)
			return rc;
	}
	return copy_in(in->initrd_fd, mem, &whole, "the initrd", e);
}

int boot_load(const struct boot_plan *plan, const struct boot_params_in *in, const struct gmem *mem,
	      struct boot_entry *entry, struct err *e)
{
	uint64_t ram = mem->region[0].len;
	struct boot_initrd initrd;
	int rc;

	assert(mem->count && mem->region[0].gpa == 0 && ram >= LAYOUT_RAM_MIN);
	rc = check_cmdline(plan, in->cmdline, e);
	if (rc == 0)
		rc = place(plan, in->initrd_fd, ram, &initrd, e);
	if (rc == 0)
		rc = copy_images(plan, in, mem, &initrd, e);
	if (rc == 0)
		rc = boot_params_write(plan, in, mem, &initrd, &entry->params, e);
	if (rc < 0)
		return rc;
	entry->format = plan->format;
	entry->rip = plan->entry;
	return 0;
}
