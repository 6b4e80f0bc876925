/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small kernel images made in code: for the boot tests, and as what the fuzzer starts from.
 */
#pragma once

#include <asm/bootparam.h>
#include <elf.h>
#include <string.h>

#include "vmm/base/util.h"

/*
 * The ELF image of these tests: two segments, the second with BSS, and notes. Each byte of the
 * segments tells its offset, so that a wrong copy shows.
 */
#define ELF_SEG0  0x1000u
#define ELF_SEG1  0x2000u
#define ELF_NOTES 0x2800u
#define ELF_LEN	  0x2840u
#define ELF_BASE  0x1000000u
#define ELF_BASE1 0x1002000u
#define ELF_END	  0x1004000u
#define PVH_ENTRY 0x1000010u
#define PH(n)	  (64u + (n)*56u) /* file offset of program header n */
#define PH_TYPE	  0u
#define PH_OFFSET 8u
#define PH_PADDR  24u
#define PH_FILESZ 32u
#define PH_MEMSZ  40u

/* And the bzImage: one sector of setup code, 8 KiB of protected-mode code. */
#define BZ_CODE 0x400u
#define BZ_LEN	(BZ_CODE + 0x2000u)
#define BZ_BASE 0x1000000u
#define BZ_INIT 0x300000u

struct image {
	uint8_t byte[ELF_LEN > BZ_LEN ? ELF_LEN : BZ_LEN];
	size_t len;
};

static inline uint8_t pattern(size_t at)
{
	return (uint8_t)(at * 7 + (at >> 8));
}

static inline void put_note(uint8_t **at, uint32_t type, const char *name, const void *desc,
			    uint32_t len)
{
	Elf64_Nhdr n = {.n_namesz = (uint32_t)strlen(name) + 1, .n_descsz = len, .n_type = type};

	memcpy(*at, &n, sizeof(n));
	memcpy(*at + sizeof(n), name, n.n_namesz);
	memcpy(*at + sizeof(n) + align_up(n.n_namesz, 4), desc, len);
	*at += sizeof(n) + align_up(n.n_namesz, 4) + align_up(len, 4);
}

/* One note of somebody else's before ours, and one with our type but another's name. */
static inline void put_notes(struct image *img)
{
	uint8_t *at = img->byte + ELF_NOTES;
	uint32_t entry = PVH_ENTRY;

	memset(at, 0, ELF_LEN - ELF_NOTES);
	put_note(&at, 18, "XenY", "wrong", 5);
	put_note(&at, 18, "Xen", &entry, 4);
}

static inline void make_elf(struct image *img)
{
	Elf64_Ehdr h = {
		.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_entry = ELF_BASE,
		.e_phoff = PH(0),
		.e_ehsize = sizeof(h),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 3,
	};
	const Elf64_Phdr ph[3] = {
		{.p_type = PT_LOAD,
		 .p_offset = ELF_SEG0,
		 .p_vaddr = 0xffffffff81000000,
		 .p_paddr = ELF_BASE,
		 .p_filesz = 0x1000,
		 .p_memsz = 0x1000},
		{.p_type = PT_LOAD,
		 .p_offset = ELF_SEG1,
		 .p_vaddr = 0xffffffff81002000,
		 .p_paddr = ELF_BASE1,
		 .p_filesz = 0x800,
		 .p_memsz = 0x2000},
		{.p_type = PT_NOTE, .p_offset = ELF_NOTES, .p_filesz = ELF_LEN - ELF_NOTES},
	};

	img->len = ELF_LEN;
	for (size_t i = 0; i < img->len; i++)
		img->byte[i] = pattern(i);
	memcpy(img->byte, &h, sizeof(h));
	memcpy(img->byte + PH(0), ph, sizeof(ph));
	put_notes(img);
}

static inline void make_elf32(struct image *img)
{
	Elf32_Ehdr h = {
		.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
		.e_type = ET_EXEC,
		.e_machine = EM_386,
		.e_entry = ELF_BASE,
		.e_phoff = sizeof(h),
		.e_phentsize = sizeof(Elf32_Phdr),
		.e_phnum = 2,
	};
	const Elf32_Phdr ph[2] = {
		{.p_type = PT_NOTE, .p_offset = ELF_NOTES, .p_filesz = ELF_LEN - ELF_NOTES},
		{.p_type = PT_LOAD,
		 .p_offset = ELF_SEG0,
		 .p_vaddr = 0xc1000000,
		 .p_paddr = ELF_BASE,
		 .p_filesz = 0x1000,
		 .p_memsz = 0x3000},
	};

	make_elf(img);
	memcpy(img->byte, &h, sizeof(h));
	memcpy(img->byte + sizeof(h), ph, sizeof(ph));
}

static inline void make_bzimage(struct image *img)
{
	struct setup_header h = {
		.setup_sects = 1,
		.syssize = (BZ_LEN - BZ_CODE) / 16,
		.vid_mode = 0xffff,
		.boot_flag = 0xaa55,
		.jump = 0x6aeb, /* jmp +0x6a: the header ends at 0x202 + 0x6a */
		.header = 0x53726448,
		.version = 0x020f,
		.loadflags = LOADED_HIGH,
		.initrd_addr_max = 0x7fffffff,
		.kernel_alignment = 0x200000,
		.relocatable_kernel = 1,
		.xloadflags = XLF_KERNEL_64,
		.cmdline_size = 2047,
		.payload_offset = 0x300,
		.payload_length = 0x1000,
		.pref_address = BZ_BASE,
		.init_size = BZ_INIT,
		.kernel_info_offset = 0x1234,
	};

	img->len = BZ_LEN;
	for (size_t i = 0; i < img->len; i++)
		img->byte[i] = pattern(i);
	memcpy(img->byte + 0x1f1, &h, sizeof(h));
}

static inline void put(struct image *img, size_t at, unsigned bytes, uint64_t value)
{
	memcpy(img->byte + at, &value, bytes);
}
