/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Direct Linux boot: reads a kernel image, puts it into guest memory with everything that the
 * kernel expects to find there, and says in which state the boot processor starts.
 *
 * In steps, so that a bad image is an error before KVM is touched:
 *	boot_probe()  reads headers only and judges them: format, architecture, sizes, entry
 *	boot_fit()    is the guest's memory enough?
 *	boot_load()   copies
 *
 * Formats
 *	ELF64	 vmlinux for x86-64, entered by the 64-bit boot protocol. Segments go to their
 *		 physical addresses. e_entry is a physical address, or a virtual one inside a
 *		 segment. No relocation is applied.
 *	ELF_PVH	 entered by the note XEN_ELFNOTE_PHYS32_ENTRY when there is no other way: a 32-bit
 *		 ELF file, or a 64-bit one whose e_entry is 0 or outside of what is loaded.
 *	BZIMAGE	 entered 0x200 bytes into its protected-mode part (XLF_KERNEL_64). It is put at its
 *		 pref_address also when it calls itself relocatable: the 64-bit decompressor never
 *		 unpacks to below that address, so a lower one would only hide a lack of memory.
 *
 * Where segments may go: anywhere in [0, LAYOUT_MAPPED) that is RAM, but not on top of each other
 * nor of what spore writes below 1 MiB: the GDT, 0x6000..0xc000 (PVH start info, zero page, stack,
 * page tables), the command line, setup_data, EBDA and ACPI area (vmm/layout.h).
 *
 * Sources: Linux Documentation/arch/x86/boot.rst and zero-page.rst, the ELF-64 specification, Xen's
 * public/arch-x86/hvm/start_info.h for PVH.
 *
 * Images are hostile input: every offset, size and address is checked. Main thread. The system
 * calls used are fstat, pread64 and getrandom.
 */
#pragma once

#include "vmm/base/gmem.h"

enum boot_format { BOOT_ELF64, BOOT_ELF_PVH, BOOT_BZIMAGE };

#define BOOT_SEGMENTS_MAX     16
#define BOOT_SETUP_HEADER_MAX 159 /* the zero page has room from 0x1f1 to 0x290 */

/* A piece of the file and where it goes: `filesz` bytes at `offset`, then zeroes up to `memsz`. */
struct boot_segment {
	uint64_t offset;
	uint64_t filesz;
	uint64_t memsz;
	gpa_t gpa;
};

/* What boot_probe() found. No pointers into anything. */
struct boot_plan {
	enum boot_format format;
	gpa_t entry; /* address of the first instruction (RIP or EIP) */
	gpa_t end;   /* first free byte behind the kernel, its BSS and init_size included */
	unsigned count;
	struct boot_segment segment[BOOT_SEGMENTS_MAX];
	gpa_t initrd_max;     /* last address that an initrd may occupy */
	uint32_t cmdline_max; /* bytes of command line that the kernel takes, without the zero */
	uint32_t setup_header_len;		     /* bzImage: bytes in setup_header[], else 0 */
	uint8_t setup_header[BOOT_SETUP_HEADER_MAX]; /* copied from the image at 0x1f1 */
};

/* How the boot processor starts. vmm/x86.h turns it into registers. */
struct boot_entry {
	enum boot_format format; /* long mode with paging (ELF64, BZIMAGE) or 32-bit flat (PVH) */
	gpa_t rip;
	gpa_t params; /* RSI: zero page (64-bit boot protocol), or EBX: start info (PVH) */
};

/*
 * The GDT that boot_load() writes to LAYOUT_GDT. The selectors are the 64-bit boot protocol's; the
 * hidden parts of the segment registers must agree with the descriptors. The TSS is the one
 * that PVH asks for (base 0, limit 0x67, busy); its descriptor takes two slots in long mode.
 */
enum boot_selector { BOOT_SEL_CODE = 0x10, BOOT_SEL_DATA = 0x18, BOOT_SEL_TSS = 0x20 };
#define BOOT_GDT_ENTRIES 6u
#define BOOT_GDT_CODE64	 0x00af9b000000ffffull
#define BOOT_GDT_CODE32	 0x00cf9b000000ffffull /* PVH has it in the place of CODE64 */
#define BOOT_GDT_DATA	 0x00cf93000000ffffull
#define BOOT_GDT_TSS	 0x00008b0000000067ull

/*
 * Judges the image in `kernel_fd` (a regular file opened for reading). The message names what was
 * wrong and at which offset, not the file: the caller does. 0 or -errno.
 */
int boot_probe(int kernel_fd, struct boot_plan *plan, struct err *e);

/*
 * Judges whether kernel and initrd (-1: none) go into a guest of `ram` bytes, as boot_load() will
 * once more: the message says how much is needed. Needs neither guest memory nor KVM.
 */
int boot_fit(const struct boot_plan *plan, int initrd_fd, uint64_t ram, struct err *e);

struct boot_params_in {
	int kernel_fd;
	int initrd_fd;	     /* -1: none */
	const char *cmdline; /* at most LAYOUT_CMDLINE_MAX - 1 bytes */
	gpa_t rsdp;	     /* where the ACPI tables are; 0: none */
};

/*
 * Copies kernel and initrd, writes command line, GDT and identity page tables (LAYOUT_MAPPED),
 * zero page with the e820 map (or PVH start info with its memory map) and a fresh random seed for
 * Linux 6.0 and later.
 *
 * `mem` is new: region 0 starts at 0, and what is to be zero (BSS, the rest of the zero page) is
 * zero already and is not written. Fails, without having written anything, when the
 * pieces do not fit into the guest's memory, and says how much memory is needed. A file that
 * cannot be read to its end any more fails half-way: `mem` is useless then.
 */
int boot_load(const struct boot_plan *plan, const struct boot_params_in *in, const struct gmem *mem,
	      struct boot_entry *entry, struct err *e);
