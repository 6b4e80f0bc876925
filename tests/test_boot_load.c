/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boot_load(): what a guest finds in its memory.
 */
#define _GNU_SOURCE
#include "vmm/boot.h"

#include <criterion/criterion.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/lib/boot_images.h"
#include "vmm/base/fd.h"
#include "vmm/layout.h"

/* A file of `len` bytes; the caller closes it. */
static int file_of(const void *bytes, size_t len)
{
	int fd = memfd_create("image", MFD_CLOEXEC);

	cr_assert_geq(fd, 0);
	cr_assert_eq(fd_write_full(fd, bytes, len), 0);
	return fd;
}

static int file_of_size(uint64_t len)
{
	int fd = memfd_create("sparse", MFD_CLOEXEC);

	cr_assert_eq(ftruncate(fd, (off_t)len), 0);
	return fd;
}

static void make_mem(struct gmem *m, uint64_t size)
{
	struct gmem_region r[2];
	unsigned n = layout_ram(size, r);

	cr_assert_eq(gmem_init(m, r, n, GMEM_ANON, false, NULL), 0);
}

static bool all_zero(const struct gmem *m, gpa_t gpa, uint64_t len)
{
	const uint8_t *p = gmem_at(m, gpa, len);

	cr_assert_not_null(p);
	return p[0] == 0 && !memcmp(p, p + 1, len - 1);
}

static struct boot_params *zero_page(const struct gmem *m)
{
	return gmem_at(m, LAYOUT_ZERO_PAGE, sizeof(struct boot_params));
}

/* Probes and loads; the probe has to be fine. */
static int load(const struct image *img, int initrd_fd, const char *cmdline, const struct gmem *m,
		struct boot_entry *entry, struct err *e)
{
	cleanup_fd int fd = file_of(img->byte, img->len);
	struct boot_params_in in = {
		.kernel_fd = fd, .initrd_fd = initrd_fd, .cmdline = cmdline, .rsdp = LAYOUT_ACPI};
	struct boot_plan plan;

	*e = (struct err){0};
	cr_assert_eq(boot_probe(fd, &plan, e), 0, "%s", e->msg);
	return boot_load(&plan, &in, m, entry, e);
}

static void check_copy(const struct image *img, size_t at, const struct gmem *m, gpa_t gpa,
		       size_t len)
{
	cr_assert_eq(memcmp(img->byte + at, gmem_at(m, gpa, len), len), 0);
}

Test(boot_load, elf_load)
{
	struct boot_entry entry;
	struct boot_params *zp;
	struct image img;
	struct gmem m;
	struct err e;

	make_elf(&img);
	make_mem(&m, MIB(32));
	cr_assert_eq(load(&img, -1, "console=ttyS0 quiet", &m, &entry, &e), 0, "%s", e.msg);
	cr_assert_eq(entry.format, BOOT_ELF64);
	cr_assert_eq(entry.rip, ELF_BASE);
	cr_assert_eq(entry.params, LAYOUT_ZERO_PAGE);
	check_copy(&img, ELF_SEG0, &m, ELF_BASE, 0x1000);
	check_copy(&img, ELF_SEG1, &m, ELF_BASE1, 0x800);
	cr_assert(all_zero(&m, ELF_BASE1 + 0x800, 0x1800));
	cr_assert_str_eq(gmem_at(&m, LAYOUT_CMDLINE, 32), "console=ttyS0 quiet");
	zp = zero_page(&m);
	cr_assert_eq(zp->hdr.boot_flag, 0xaa55);
	cr_assert_eq(zp->hdr.header, 0x53726448);
	cr_assert_eq(zp->hdr.type_of_loader, 0xff);
	cr_assert_eq(zp->hdr.cmd_line_ptr, LAYOUT_CMDLINE);
	cr_assert_eq(zp->hdr.ramdisk_size, 0);
	cr_assert_eq(zp->hdr.loadflags, LOADED_HIGH);
	cr_assert_eq(*(uint64_t *)((uint8_t *)zp + 0x70), LAYOUT_ACPI, "acpi_rsdp_addr");
	cr_assert_eq(zp->sentinel, 0);
	gmem_finish(&m);
}

/* What the 64-bit protocol asks for: flat selectors 0x10 and 0x18, everything mapped to itself. */
Test(boot_load, cpu_tables)
{
	const uint64_t *gdt, *pml4, *pdpt, *pd;
	struct boot_entry entry;
	struct image img;
	struct gmem m;
	struct err e;

	make_elf(&img);
	make_mem(&m, MIB(32));
	cr_assert_eq(load(&img, -1, "", &m, &entry, &e), 0);
	gdt = gmem_at(&m, LAYOUT_GDT, 48);
	cr_assert_eq(gdt[0], 0);
	cr_assert_eq(gdt[2], BOOT_GDT_CODE64);
	cr_assert_eq(gdt[3], BOOT_GDT_DATA);
	pml4 = gmem_at(&m, LAYOUT_PAGE_TABLE, 4096);
	cr_assert_eq(pml4[0], (LAYOUT_PAGE_TABLE + 0x1000) | 3);
	cr_assert_eq(pml4[1], 0);
	pdpt = gmem_at(&m, LAYOUT_PAGE_TABLE + 0x1000, 4096);
	cr_assert_eq(pdpt[0], (LAYOUT_PAGE_TABLE + 0x2000) | 3);
	cr_assert_eq(pdpt[1], 0);
	pd = gmem_at(&m, LAYOUT_PAGE_TABLE + 0x2000, 4096);
	for (unsigned i = 0; i < 512; i++)
		cr_assert_eq(pd[i], (uint64_t)i << 21 | 0x83);
	gmem_finish(&m);
}

Test(boot_load, seed_is_fresh)
{
	uint8_t first[32] = {0};
	struct boot_entry entry;
	struct image img;
	struct err e;

	make_elf(&img);
	for (unsigned i = 0; i < 2; i++) {
		const struct setup_data *d;
		struct gmem m;

		make_mem(&m, MIB(32));
		cr_assert_eq(load(&img, -1, "", &m, &entry, &e), 0);
		cr_assert_eq(zero_page(&m)->hdr.setup_data, LAYOUT_SETUP_DATA);
		d = gmem_at(&m, LAYOUT_SETUP_DATA, sizeof(*d) + 32);
		cr_assert_eq(d->next, 0);
		cr_assert_eq(d->type, 9);
		cr_assert_eq(d->len, 32);
		cr_assert_neq(memcmp(first, d->data, 32), 0);
		memcpy(first, d->data, 32);
		gmem_finish(&m);
	}
}

struct range {
	uint64_t addr, end;
	uint32_t type;
};

static void check_map(uint64_t size, const struct range *want, unsigned n)
{
	struct boot_entry entry;
	struct boot_params *zp;
	struct image img;
	struct gmem m;
	struct err e;

	make_elf(&img);
	put(&img, PH(0) + PH_PADDR, 8, 0x10000);
	put(&img, PH(1) + PH_PADDR, 8, 0x12000);
	put(&img, 24, 8, 0x10000);
	make_mem(&m, size);
	cr_assert_eq(load(&img, -1, "", &m, &entry, &e), 0, "%s", e.msg);
	cr_assert_eq(entry.rip, 0x10000);
	zp = zero_page(&m);
	cr_assert_eq(zp->e820_entries, n);
	for (unsigned i = 0; i < n; i++) {
		cr_assert_eq(zp->e820_table[i].addr, want[i].addr, "entry %u", i);
		cr_assert_eq(zp->e820_table[i].size, want[i].end - want[i].addr, "entry %u", i);
		cr_assert_eq(zp->e820_table[i].type, want[i].type, "entry %u", i);
	}
	gmem_finish(&m);
}

Test(boot_load, memory_map)
{
	struct range map[] = {
		{0, 0x9fc00, 1},	 {0x9fc00, 0xa0000, 2}, {0xe0000, 0x100000, 3},
		{0x100000, MIB(128), 1}, {GIB(4), GIB(6), 1},
	};

	check_map(MIB(1), map, 3);
	check_map(MIB(128), map, 4);
	map[3].end = GIB(3);
	check_map(GIB(3), map, 4);
	check_map(GIB(5), map, 5);
}

/* Layout of start_info by its ABI, not by our struct. */
static uint64_t field(const uint8_t *p, size_t at, unsigned bytes)
{
	uint64_t v = 0;

	memcpy(&v, p + at, bytes);
	return v;
}

Test(boot_load, pvh)
{
	cleanup_fd int initrd = file_of("initrd", 6);
	const uint8_t *info, *map, *module;
	struct boot_entry entry;
	struct image img;
	struct gmem m;
	struct err e;

	make_elf(&img);
	put(&img, 24, 8, 0); /* e_entry: none */
	make_mem(&m, MIB(32));
	cr_assert_eq(load(&img, initrd, "quiet", &m, &entry, &e), 0, "%s", e.msg);
	cr_assert_eq(entry.format, BOOT_ELF_PVH);
	cr_assert_eq(entry.rip, PVH_ENTRY);
	cr_assert_eq(entry.params, LAYOUT_PVH_INFO);
	info = gmem_at(&m, entry.params, 56);
	cr_assert_eq(field(info, 0, 4), 0x336ec578);
	cr_assert_eq(field(info, 4, 4), 1, "version");
	cr_assert_eq(field(info, 8, 4), 0, "flags");
	cr_assert_eq(field(info, 12, 4), 1, "modules");
	cr_assert_eq(field(info, 24, 8), LAYOUT_CMDLINE);
	cr_assert_eq(field(info, 32, 8), LAYOUT_ACPI);
	module = gmem_at(&m, field(info, 16, 8), 32);
	cr_assert_eq(field(module, 0, 8), MIB(32) - 0x1000);
	cr_assert_eq(field(module, 8, 8), 6);
	cr_assert_eq(field(info, 48, 4), 4, "map entries");
	map = gmem_at(&m, field(info, 40, 8), 4 * 24);
	cr_assert_eq(field(map, 8, 8), 0x9fc00);
	cr_assert_eq(field(map, 2 * 24 + 16, 4), 3, "ACPI");
	cr_assert_eq(field(map, 3 * 24, 8), MIB(1));
	cr_assert_eq(field(map, 3 * 24 + 8, 8), MIB(31));
	cr_assert_eq(field(gmem_at(&m, LAYOUT_GDT + BOOT_SEL_CODE, 8), 0, 8), BOOT_GDT_CODE32);
	cr_assert(all_zero(&m, LAYOUT_ZERO_PAGE, 0x1000));
	gmem_finish(&m);
}

Test(boot_load, bzimage_load)
{
	struct boot_entry entry;
	struct boot_params *zp;
	struct image img;
	struct gmem m;
	struct err e;

	make_bzimage(&img);
	make_mem(&m, MIB(19));
	cr_assert_eq(load(&img, -1, "quiet", &m, &entry, &e), 0, "%s", e.msg);
	cr_assert_eq(entry.format, BOOT_BZIMAGE);
	cr_assert_eq(entry.rip, BZ_BASE + 0x200);
	cr_assert_eq(entry.params, LAYOUT_ZERO_PAGE);
	check_copy(&img, BZ_CODE, &m, BZ_BASE, BZ_LEN - BZ_CODE);
	cr_assert(all_zero(&m, BZ_BASE + BZ_LEN - BZ_CODE, 0x1000));
	zp = zero_page(&m);
	cr_assert_eq(zp->hdr.type_of_loader, 0xff);
	cr_assert_eq(zp->hdr.kernel_alignment, 0x200000);
	cr_assert_eq(zp->hdr.kernel_info_offset, 0x1234);
	cr_assert_eq(zp->hdr.xloadflags, XLF_KERNEL_64);
	cr_assert_eq(zp->hdr.cmd_line_ptr, LAYOUT_CMDLINE);
	cr_assert_eq(zp->sentinel, 0);
	cr_assert_eq(((uint8_t *)zp)[0x26c], 0, "copied more than the header");
	cr_assert_eq(zp->e820_entries, 4);
	gmem_finish(&m);
}

/* Loading fails with `message`, and nothing was written where something would have been. */
static void expect_unloaded(const struct image *img, int initrd_fd, const char *cmdline,
			    uint64_t ram, const char *message)
{
	struct boot_entry entry;
	struct gmem m;
	struct err e;

	make_mem(&m, ram);
	cr_assert_lt(load(img, initrd_fd, cmdline, &m, &entry, &e), 0);
	cr_assert_not_null(strstr(e.msg, message), "want '%s', got '%s'", message, e.msg);
	cr_assert(all_zero(&m, 0, LAYOUT_HIGH_RAM));
	if (ram > ELF_BASE)
		cr_assert(all_zero(&m, ELF_BASE, ram - ELF_BASE));
	gmem_finish(&m);
}

Test(boot_load, too_little_memory)
{
	cleanup_fd int initrd = file_of_size(MIB(15) + 1);
	struct boot_entry entry;
	struct image img;
	struct gmem m;
	struct err e;

	make_elf(&img);
	expect_unloaded(&img, -1, "", MIB(1), "it needs 17 MiB, the guest has 1 MiB");
	expect_unloaded(&img, -1, "", MIB(16), "it needs 17 MiB, the guest has 16 MiB");
	expect_unloaded(&img, initrd, "", MIB(20),
			"need 32 MiB of guest memory beside this kernel");
	make_mem(&m, MIB(32)); /* what the message said */
	cr_assert_eq(load(&img, initrd, "", &m, &entry, &e), 0, "%s", e.msg);
	gmem_finish(&m);
	make_bzimage(&img);
	expect_unloaded(&img, -1, "", MIB(18), "it needs 19 MiB, the guest has 18 MiB");
}

/* The same without any guest memory. */
Test(boot_load, fit)
{
	cleanup_fd int initrd = file_of_size(MIB(15) + 1), huge = file_of_size(GIB(4));
	struct boot_plan plan = {
		.end = MIB(16) + 1, .initrd_max = UINT32_MAX, .cmdline_max = 2047, .count = 1};
	struct err e;

	plan.segment[0] = (struct boot_segment){.gpa = MIB(2), .memsz = MIB(14) + 1};
	cr_assert_eq(boot_fit(&plan, -1, MIB(17), &e), 0);
	cr_assert_eq(boot_fit(&plan, -1, MIB(16), &e), -ENOMEM);
	cr_assert_not_null(strstr(e.msg, "it needs 17 MiB, the guest has 16 MiB"));
	cr_assert_eq(boot_fit(&plan, initrd, MIB(32), &e), 0);
	cr_assert_eq(boot_fit(&plan, initrd, MIB(31), &e), -ENOMEM);
	cr_assert_not_null(strstr(e.msg, "need 32 MiB of guest memory"), "%s", e.msg);
	cr_assert_eq(boot_fit(&plan, huge, GIB(64), &e), -EFBIG);
	cr_assert_not_null(strstr(e.msg, "do not fit below 0xc0000000"), "%s", e.msg);
}

Test(boot_load, command_line_length)
{
	char line[LAYOUT_CMDLINE_MAX + 1];
	struct boot_entry entry;
	struct image img;
	struct gmem m;
	struct err e;

	memset(line, 'x', sizeof(line));
	line[2048] = 0;
	make_elf(&img);
	expect_unloaded(&img, -1, line, MIB(32), "command line of 2048 bytes, at most 2047");
	line[2047] = 0;
	make_mem(&m, MIB(32));
	cr_assert_eq(load(&img, -1, line, &m, &entry, &e), 0, "%s", e.msg);
	cr_assert_str_eq(gmem_at(&m, LAYOUT_CMDLINE, 2048), line);
	gmem_finish(&m);
	make_bzimage(&img);
	put(&img, 0x238, 4, 255);
	line[256] = 0;
	expect_unloaded(&img, -1, line, MIB(32),
			"command line of 256 bytes, but this kernel takes at most 255");
}

static void check_initrd(const struct image *img, uint64_t ram, uint64_t len, gpa_t want)
{
	cleanup_fd int fd = file_of_size(len);
	struct boot_entry entry;
	struct boot_params *zp;
	struct gmem m;
	struct err e;

	cr_assert_eq(pwrite(fd, "first", 5, 0), 5);
	cr_assert_eq(pwrite(fd, "last", 4, (off_t)len - 4), 4);
	make_mem(&m, ram);
	cr_assert_eq(load(img, fd, "", &m, &entry, &e), 0, "%s", e.msg);
	zp = zero_page(&m);
	cr_assert_eq(zp->hdr.ramdisk_image, want, "at 0x%x, want 0x%lx", zp->hdr.ramdisk_image,
		     want);
	cr_assert_eq(zp->hdr.ramdisk_size, len);
	cr_assert_eq(memcmp(gmem_at(&m, want, 5), "first", 5), 0);
	cr_assert_eq(memcmp(gmem_at(&m, want + len - 4, 4), "last", 4), 0);
	gmem_finish(&m);
}

Test(boot_load, initrd_place)
{
	struct image img;

	make_elf(&img);
	check_initrd(&img, MIB(32), 12345, MIB(32) - 0x4000);
	check_initrd(&img, MIB(32), MIB(15), MIB(17));
	check_initrd(&img, MIB(17), MIB(15), MIB(1)); /* only below the kernel */
	check_initrd(&img, MIB(17), 0x1000, MIB(17) - 0x1000);
	check_initrd(&img, GIB(5), 0x1000, GIB(3) - 0x1000);
	make_bzimage(&img);
	check_initrd(&img, GIB(5), 0x1800, GIB(2) - 0x2000); /* initrd_addr_max */
	put(&img, 0x22c, 4, MIB(24) - 2);
	check_initrd(&img, MIB(32), 0x1000, MIB(24) - 0x2000);
}

Test(boot_load, initrd_refused)
{
	cleanup_fd int empty = file_of_size(0), big = file_of_size(MIB(20)),
		       huge = file_of_size(GIB(8));
	struct image img;

	make_bzimage(&img);
	expect_unloaded(&img, empty, "", MIB(32), "initrd: the file is empty");
	expect_unloaded(&img, huge, "", MIB(32), "do not fit below 0x80000000 beside this kernel");
	expect_unloaded(&img, big, "", MIB(32), "need 39 MiB of guest memory");
	put(&img, 0x22c, 4, MIB(24));
	expect_unloaded(&img, big, "", MIB(64), "do not fit below 0x1800001 beside this kernel");
	put(&img, 0x22c, 4, 0);
	expect_unloaded(&img, big, "", MIB(64), "do not fit below 0x1 beside this kernel");
}

Test(boot_load, file_shrinks_after_the_probe)
{
	struct boot_params_in in = {.initrd_fd = -1, .cmdline = ""};
	cleanup_fd int fd = -1;
	struct boot_entry entry;
	struct boot_plan plan;
	struct image img;
	struct gmem m;
	struct err e;

	make_elf(&img);
	fd = in.kernel_fd = file_of(img.byte, img.len);
	cr_assert_eq(boot_probe(fd, &plan, &e), 0);
	cr_assert_eq(ftruncate(fd, ELF_SEG1 + 10), 0);
	make_mem(&m, MIB(32));
	cr_assert_eq(boot_load(&plan, &in, &m, &entry, &e), -ENODATA);
	cr_assert_not_null(strstr(e.msg, "became shorter"));
	gmem_finish(&m);
}
