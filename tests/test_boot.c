/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boot_probe(): what images are taken, and what is said about the others.
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

static int probe(const struct image *img, struct boot_plan *plan, struct err *e)
{
	cleanup_fd int fd = file_of(img->byte, img->len);

	*e = (struct err){0};
	return boot_probe(fd, plan, e);
}

static void expect_bad(const struct image *img, const char *message)
{
	struct boot_plan plan;
	struct err e;
	int rc = probe(img, &plan, &e);

	cr_assert_lt(rc, 0, "taken although: %s", message);
	cr_assert_eq(rc, -e.code);
	cr_assert_not_null(strstr(e.msg, message), "want '%s', got '%s'", message, e.msg);
}

Test(boot, elf_plan)
{
	struct boot_plan plan;
	struct image img;
	struct err e;

	make_elf(&img);
	cr_assert_eq(probe(&img, &plan, &e), 0, "%s", e.msg);
	cr_assert_eq(plan.format, BOOT_ELF64);
	cr_assert_eq(plan.entry, ELF_BASE);
	cr_assert_eq(plan.end, ELF_END);
	cr_assert_eq(plan.count, 2);
	cr_assert_eq(plan.setup_header_len, 0);

	put(&img, 24, 8, 0xffffffff81002100); /* e_entry: virtual */
	cr_assert_eq(probe(&img, &plan, &e), 0, "%s", e.msg);
	cr_assert_eq(plan.entry, ELF_BASE1 + 0x100);

	put(&img, 16, 2, ET_DYN);
	cr_assert_eq(probe(&img, &plan, &e), 0, "%s", e.msg);
}

Test(boot, elf_malformed)
{
	static const struct {
		size_t at;
		unsigned bytes;
		uint64_t value;
		const char *message;
	} cases[] = {
		{4, 1, 3, "ELF class at offset 4 is 3"},
		{5, 1, 2, "ELF byte order at offset 5 is 2"},
		{16, 2, ET_REL, "ELF type at offset 16 is 1"},
		{16, 2, ET_CORE, "ELF type at offset 16 is 4"},
		{18, 2, EM_AARCH64, "image is for aarch64 (ELF machine 183), need x86-64"},
		{18, 2, EM_386, "image is for 32-bit x86 (ELF machine 3), need x86-64"},
		{18, 2, 0x1234, "image is for another architecture (ELF machine 4660)"},
		{32, 8, ELF_LEN - 100, "go beyond the end of the file"},
		{32, 8, UINT64_MAX - 8, "go beyond the end of the file"},
		{54, 2, 32, "ELF program headers are 32 bytes each, need 56"},
		{56, 2, 0, "ELF has 0 program headers, need 1 to 64"},
		{56, 2, 0xffff, "ELF has 65535 program headers, need 1 to 64"},
		{PH(1) + PH_OFFSET, 8, 0x2500,
		 "ELF program header 1 at offset 0x78: 2048 bytes at offset 0x2500 go beyond the "
		 "end of the file (10304 bytes)"},
		{PH(1) + PH_OFFSET, 8, UINT64_MAX, "go beyond the end of the file"},
		{PH(1) + PH_FILESZ, 8, UINT64_MAX, "go beyond the end of the file"},
		{PH(1) + PH_MEMSZ, 8, 0x7ff, "2048 bytes in the file are more than its 2047"},
		{PH(1) + PH_MEMSZ, 8, UINT64_MAX, "not within the first 1024 MiB"},
		{PH(1) + PH_MEMSZ, 8, GIB(1), "not within the first 1024 MiB"},
		{PH(1) + PH_PADDR, 8, GIB(1) - 0x1000, "not within the first 1024 MiB"},
		{PH(1) + PH_PADDR, 8, UINT64_MAX, "not within the first 1024 MiB"},
		{PH(1) + PH_PADDR, 8, ELF_BASE + 0xfff, "overlaps an earlier segment's"},
		{PH(1) + PH_PADDR, 8, ELF_BASE - 0x1fff, "overlaps an earlier segment's"},
		{PH(1) + PH_PADDR, 8, 0, "collides with the GDT"},
		{PH(1) + PH_PADDR, 8, 0x6fff, "collides with the PVH start info"},
		{PH(1) + PH_PADDR, 8, 0x7000, "collides with the zero page"},
		{PH(1) + PH_PADDR, 8, 0x8ff0, "collides with the stack"},
		{PH(1) + PH_PADDR, 8, 0xb000, "collides with the page tables"},
		{PH(1) + PH_PADDR, 8, 0x1f000, "collides with the command line"},
		{PH(1) + PH_PADDR, 8, 0x21000, "collides with the setup data"},
		{PH(1) + PH_PADDR, 8, 0x9e000, "collides with the EBDA"},
		{PH(1) + PH_PADDR, 8, 0xfff00, "collides with the ACPI tables"},
		{PH(2) + PH_TYPE, 4, PT_INTERP, "an ELF program for user space"},
	};
	struct image img;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		make_elf(&img);
		put(&img, cases[i].at, cases[i].bytes, cases[i].value);
		expect_bad(&img, cases[i].message);
	}
	make_elf(&img);
	put(&img, PH(0) + PH_TYPE, 4, PT_NULL);
	put(&img, PH(1) + PH_TYPE, 4, PT_NULL);
	expect_bad(&img, "ELF has no segment to load");
}

Test(boot, elf_segment_count)
{
	struct image img;
	Elf64_Phdr ph = {.p_type = PT_LOAD, .p_offset = 0, .p_filesz = 16, .p_memsz = 16};
	struct boot_plan plan;
	struct err e;

	make_elf(&img);
	put(&img, 32, 8, ELF_SEG0);
	for (unsigned i = 0; i < 17; i++) {
		ph.p_paddr = ELF_BASE + i * 16;
		memcpy(img.byte + ELF_SEG0 + i * sizeof(ph), &ph, sizeof(ph));
	}
	put(&img, 56, 2, 16);
	cr_assert_eq(probe(&img, &plan, &e), 0, "%s", e.msg);
	cr_assert_eq(plan.count, 16);
	put(&img, 56, 2, 17);
	expect_bad(&img, "ELF program header 16 at offset 0x1380: more than 16 segments");
}

/* However short the file is: an error with words, never a plan. */
static void check_truncation(struct image *img, size_t upto)
{
	for (size_t len = 0; len < upto; len += len < 0x400 ? 1 : 61) {
		img->len = len;
		expect_bad(img, "");
	}
	img->len = upto - 1;
	expect_bad(img, "");
}

Test(boot, truncated)
{
	struct image img;

	make_elf(&img);
	check_truncation(&img, ELF_NOTES);
	make_elf(&img);
	put(&img, 24, 8, 0); /* entry by the note, which is the last that the file has */
	check_truncation(&img, ELF_LEN);
	make_elf32(&img);
	check_truncation(&img, ELF_LEN);
	make_bzimage(&img);
	check_truncation(&img, BZ_LEN);
}

Test(boot, truncated_messages)
{
	struct image img;

	make_elf(&img);
	img.len = 0;
	expect_bad(&img, "the file is empty");
	img.len = 15;
	expect_bad(&img, "ELF header is cut off: the file has 15 bytes");
	img.len = 63;
	expect_bad(&img, "ELF header takes 64 bytes, the file has 63");
	img.len = PH(3) - 1;
	expect_bad(&img, "ELF program headers (168 bytes at offset 0x40) go beyond the end of the "
			 "file (231 bytes)");
	make_bzimage(&img);
	img.len = 0x210;
	expect_bad(&img, "bzImage header takes 612 bytes, the file has 528");
	img.len = BZ_LEN - 1;
	expect_bad(&img,
		   "bzImage protected-mode code: 8192 bytes at offset 0x400 go beyond the end "
		   "of the file (9215 bytes)");
}

Test(boot, not_an_image)
{
	static const struct {
		size_t at;
		const char *bytes, *message;
	} cases[] = {
		{0, "\x1f\x8b\x08", "the first are 1f 8b 08 00 (a gzip file? unpack it first)"},
		{0,
		 "\xfd"
		 "7zXZ",
		 "an xz file"},
		{0, "\x28\xb5\x2f\xfd", "a zstd file"},
		{0, "070701", "the initrd?"},
		{0, "#!/bin/sh", "a script"},
		{0x38, "ARM\x64", "a kernel for aarch64, need x86-64"},
		{0, "hello", "not an ELF vmlinux or a bzImage: 100 bytes"},
	};
	struct image img;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		memset(&img, 0, sizeof(img));
		img.len = 100;
		memcpy(img.byte + cases[i].at, cases[i].bytes, strlen(cases[i].bytes));
		expect_bad(&img, cases[i].message);
	}
}

Test(boot, pvh_only_when_there_is_no_other_way)
{
	struct boot_plan plan;
	struct image img;
	struct err e;

	make_elf32(&img);
	cr_assert_eq(probe(&img, &plan, &e), 0, "%s", e.msg);
	cr_assert_eq(plan.format, BOOT_ELF_PVH);
	cr_assert_eq(plan.entry, PVH_ENTRY);
	cr_assert_eq(plan.end, ELF_BASE + 0x3000);

	make_elf(&img);
	put(&img, 24, 8, ELF_END); /* e_entry behind everything */
	cr_assert_eq(probe(&img, &plan, &e), 0, "%s", e.msg);
	cr_assert_eq(plan.format, BOOT_ELF_PVH);
	put(&img, 24, 8, ELF_BASE1 + 0x800); /* e_entry in the BSS: no instruction there */
	cr_assert_eq(probe(&img, &plan, &e), 0, "%s", e.msg);
	cr_assert_eq(plan.format, BOOT_ELF_PVH);
}

Test(boot, pvh_malformed)
{
	const size_t note = ELF_NOTES + 12 + 8 + 8; /* the second one */
	struct image img;

	make_elf(&img);
	put(&img, 24, 8, 1);
	put(&img, note + 8, 4, 17);
	expect_bad(&img, "ELF entry point 0x1 is in no segment, and there is no PVH note");
	make_elf32(&img);
	put(&img, note + 8, 4, 17);
	expect_bad(&img, "32-bit ELF without a PVH entry note");
	make_elf32(&img);
	put(&img, note, 4, UINT32_MAX); /* n_namesz */
	expect_bad(&img, "32-bit ELF without a PVH entry note");
	make_elf32(&img);
	put(&img, note, 4, 3); /* n_namesz: not "Xen" with its zero */
	expect_bad(&img, "32-bit ELF without a PVH entry note");
	make_elf32(&img);
	put(&img, note + 4, 4, UINT32_MAX); /* n_descsz */
	expect_bad(&img, "32-bit ELF without a PVH entry note");
	make_elf32(&img);
	put(&img, note + 16, 4, ELF_BASE + 0x1000);
	expect_bad(&img, "PVH entry point 0x1001000 is in no segment");
	make_elf(&img);
	put(&img, 24, 8, 0);
	put(&img, PH(2) + PH_FILESZ, 8, 16385);
	expect_bad(&img, "notes of 16385 bytes at offset 0x2800, need at most 16384");
	put(&img, PH(2) + PH_FILESZ, 8, 0x41);
	expect_bad(&img, "notes of 65 bytes at offset 0x2800");
}

Test(boot, bzimage_header_variants)
{
	struct boot_plan plan;
	struct image img;
	struct err e;

	make_bzimage(&img);
	img.byte[0x201] = 0xff; /* a header longer than there is room for it */
	cr_assert_eq(probe(&img, &plan, &e), 0, "%s", e.msg);
	cr_assert_eq(plan.setup_header_len, BOOT_SETUP_HEADER_MAX);
	img.byte[0x201] = 0x62; /* ends behind init_size */
	cr_assert_eq(probe(&img, &plan, &e), 0, "%s", e.msg);
	cr_assert_eq(plan.setup_header_len, 0x264 - 0x1f1);
	put(&img, 0x260, 4, 0); /* init_size smaller than the code */
	cr_assert_eq(probe(&img, &plan, &e), 0, "%s", e.msg);
	cr_assert_eq(plan.end, BZ_BASE + 0x2000);
	put(&img, 0x1f1, 1, 0); /* setup_sects: 0 is 4 */
	put(&img, 0x1f4, 4, (BZ_LEN - 5 * 512) / 16);
	cr_assert_eq(probe(&img, &plan, &e), 0, "%s", e.msg);
	cr_assert_eq(plan.segment[0].offset, 5 * 512);
}

Test(boot, bzimage_malformed)
{
	static const struct {
		size_t at;
		unsigned bytes;
		uint64_t value;
		const char *message;
	} cases[] = {
		{0x1fe, 2, 0x55aa, "boot flag at offset 0x1fe is 0x55aa"},
		{0x201, 1, 0x61, "header ends at 0x263"},
		{0x206, 2, 0x020b, "boot protocol at offset 0x206 is 2.11, need 2.12"},
		{0x211, 1, 0, "a zImage"},
		{0x236, 2, 0x3e, "bzImage of a 32-bit kernel (flags at offset 0x236 are 0x003e)"},
		{0x1f1, 1, 64, "go beyond the end of the file (9216 bytes)"},
		{0x1f4, 4, 0x201, "8208 bytes at offset 0x400 go beyond the end"},
		{0x1f4, 4, UINT32_MAX, "68719476720 bytes at offset 0x400 go beyond the end"},
		{0x1f4, 4, 0x20, "no room for the entry"},
		{0x1f4, 4, 0, "no room for the entry"},
		{0x248, 4, 0x1001, "payload at offset 0x248 (4096 bytes at 0x1001)"},
		{0x24c, 4, UINT32_MAX, "payload at offset 0x248"},
		{0x258, 8, 0x10000, "load address at offset 0x258 is 0x10000"},
		{0x258, 8, GIB(1), "not within the first 1024 MiB"},
		{0x258, 8, UINT64_MAX, "not within the first 1024 MiB"},
		{0x260, 4, UINT32_MAX, "not within the first 1024 MiB"},
	};
	struct image img;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		make_bzimage(&img);
		put(&img, cases[i].at, cases[i].bytes, cases[i].value);
		expect_bad(&img, cases[i].message);
	}
}

Test(boot, unreadable_file)
{
	struct boot_plan plan;
	struct err e;

	cr_assert_eq(boot_probe(-1, &plan, &e), -EBADF);
	cr_assert_not_null(strstr(e.msg, "Bad file descriptor"));
}
