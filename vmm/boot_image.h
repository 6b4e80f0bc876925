/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of vmm/boot.h share among themselves; nobody else includes it.
 */
#pragma once

#include "vmm/boot.h"
#include "vmm/layout.h"

/* The file's first bytes, zeroes behind its end. Both formats keep their first header in them. */
#define BOOT_HEAD_LEN 1024

struct boot_image {
	int fd;
	uint64_t size; /* of the file, not 0 */
	uint8_t head[BOOT_HEAD_LEN];
};

/* Each fills a zeroed plan for an image whose magic number is known to be right. */
int boot_elf_probe(const struct boot_image *img, struct boot_plan *plan, struct err *e);
int boot_bzimage_probe(const struct boot_image *img, struct boot_plan *plan, struct err *e);

/*
 * Adds a segment to the plan once its bytes are known to be in the file, and its place to be free:
 * below LAYOUT_MAPPED, apart from other segments and from what boot_params_write() writes.
 */
int boot_plan_add(const struct boot_image *img, struct boot_plan *plan,
		  const struct boot_segment *s, struct err *e);

/* Where the initrd is in guest memory; len 0: none. */
struct boot_initrd {
	gpa_t gpa;
	uint64_t len;
};

/*
 * Writes everything but kernel and initrd into the guest's first MiB, `low`: command line, GDT,
 * page tables, zero page or PVH start info. `mem` tells the memory map. Returns the
 * address of the zero page or start info in *params.
 */
int boot_params_write(const struct boot_plan *plan, const struct boot_params_in *in,
		      const struct gmem *mem, const struct boot_initrd *initrd, gpa_t *params,
		      struct err *e);
