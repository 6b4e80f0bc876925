/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bzImage: boot sector, real-mode setup code (both unused here), then the protected-mode part
 * that unpacks the kernel. Offsets are those of boot.rst, "The Real-Mode Kernel Header".
 */
#include <asm/bootparam.h>

#include "vmm/boot_image.h"

#define HEADER_AT   0x1f1u
#define HEADER_BASE 0x202u /* the byte at 0x201 is the length of the header from here on */
#define HEADER_END  0x264u /* behind init_size, the last field that is needed */
#define SECTOR	    512u
#define ENTRY_64    0x200u

/* The first protocol with xloadflags. Linux 3.8 came with it. */
#define VERSION_MIN 0x020cu

static int check_header(const struct setup_header *h, struct err *e)
{
	if (h->boot_flag != 0xaa55)
		return err_set(e, EINVAL, "bzImage boot flag at offset 0x1fe is 0x%04x, not 0xaa55",
			       h->boot_flag);
	if (h->version < VERSION_MIN)
		return err_set(e, EINVAL,
			       "bzImage boot protocol at offset 0x206 is %u.%02u, need 2.12 (Linux "
			       "3.8) or later",
			       h->version >> 8, h->version & 0xffu);
	if (!(h->loadflags & LOADED_HIGH))
		return err_set(e, EINVAL,
			       "a zImage (load flags at offset 0x211 are 0x%02x), need a bzImage",
			       h->loadflags);
	if (!(h->xloadflags & XLF_KERNEL_64))
		return err_set(e, EINVAL,
			       "bzImage of a 32-bit kernel (flags at offset 0x236 are 0x%04x), "
			       "need x86-64",
			       h->xloadflags);
	return 0;
}

/* The protected-mode part: where in the file it is, where it goes and what it contains. */
static int check_body(const struct boot_image *img, const struct setup_header *h,
		      struct boot_plan *plan, struct err *e)
{
	unsigned setup_sects = h->setup_sects ? h->setup_sects : 4;
	struct boot_segment s = {
		.offset = (setup_sects + 1) * SECTOR,
		.filesz = (uint64_t)h->syssize * 16,
		.memsz = h->init_size,
		.gpa = h->pref_address,
	};
	int rc;

	if (s.filesz <= ENTRY_64)
		return err_set(e, EINVAL,
			       "bzImage size at offset 0x1f4 is %lu bytes: no room for the entry "
			       "at 0x%x",
			       s.filesz, ENTRY_64);
	if (!range_within(h->payload_offset, h->payload_length, s.filesz))
		return err_set(e, EINVAL,
			       "bzImage payload at offset 0x248 (%u bytes at 0x%x) is outside of "
			       "the %lu bytes of code",
			       h->payload_length, h->payload_offset, s.filesz);
	if (s.gpa < LAYOUT_HIGH_RAM)
		return err_set(e, EINVAL,
			       "bzImage load address at offset 0x258 is 0x%lx, need 1 MiB or more",
			       s.gpa);
	if (s.memsz < s.filesz)
		s.memsz = s.filesz;
	rc = boot_plan_add(img, plan, &s, e);
	return rc < 0 ? err_wrap(e, "bzImage protected-mode code") : 0;
}

int boot_bzimage_probe(const struct boot_image *img, struct boot_plan *plan, struct err *e)
{
	uint32_t end = HEADER_BASE + img->head[HEADER_BASE - 1];
	struct setup_header h;
	int rc;

	if (img->size < HEADER_END)
		return err_set(e, EINVAL, "bzImage header takes %u bytes, the file has %lu",
			       HEADER_END, img->size);
	if (end < HEADER_END)
		return err_set(e, EINVAL,
			       "bzImage header ends at 0x%x by the byte at offset 0x201, need "
			       "0x%x or more",
			       end, HEADER_END);
	memcpy(&h, img->head + HEADER_AT, sizeof(h));
	rc = check_header(&h, e);
	if (rc == 0)
		rc = check_body(img, &h, plan, e);
	if (rc < 0)
		return rc;
	plan->format = BOOT_BZIMAGE;
	plan->entry = h.pref_address + ENTRY_64;
	plan->initrd_max = h.initrd_addr_max;
	plan->cmdline_max = h.cmdline_size;
	/* Fields that we do not know yet are the kernel's own and go along, as far as there is room. */
	plan->setup_header_len = MIN(end - HEADER_AT, (uint32_t)BOOT_SETUP_HEADER_MAX);
	memcpy(plan->setup_header, img->head + HEADER_AT, plan->setup_header_len);
	return 0;
}
