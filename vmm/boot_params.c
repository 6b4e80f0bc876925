/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a kernel finds in the first MiB. All of it is written in place: the guest does not run yet
 * and its memory is zero.
 */
#include <asm/bootparam.h>
#include <assert.h>
#include <sys/random.h>

#include "vmm/boot_image.h"

/* Types of memory map entries, the same in e820 and PVH. */
#define MAP_RAM	     1u
#define MAP_RESERVED 2u
#define MAP_ACPI     3u

/* Three below 1 MiB, and each region's RAM. */
#define MAP_MAX (3 + GMEM_RAM_MAX)

#define SEED_LEN 32u /* what Linux feeds its ChaCha20 generator with */

/* Xen public/arch-x86/hvm/start_info.h */
struct pvh_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
	uint32_t memmap_entries, reserved;
};

struct pvh_module {
	uint64_t paddr, size, cmdline_paddr, reserved;
};

struct pvh_memmap_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};

struct pvh_page {
	struct pvh_start_info info;
	struct pvh_module initrd;
	struct pvh_memmap_entry map[MAP_MAX];
};

#define PVH_MAGIC 0x336ec578u

static_assert(sizeof(struct boot_params) == LAYOUT_PAGE_SIZE, "ABI");
static_assert(sizeof(struct pvh_start_info) == 56, "ABI");
static_assert(sizeof(struct pvh_page) <= LAYOUT_ZERO_PAGE - LAYOUT_PVH_INFO, "layout");
static_assert(BOOT_SETUP_HEADER_MAX == offsetof(struct boot_params, edd_mbr_sig_buffer) -
					       offsetof(struct boot_params, hdr),
	      "ABI");
static_assert(sizeof(struct setup_header) <= BOOT_SETUP_HEADER_MAX, "ABI");
static_assert(LAYOUT_CMDLINE + LAYOUT_CMDLINE_MAX <= LAYOUT_SETUP_DATA, "layout");

/*
 * The memory map. The ACPI area is type 3 (tables, free for use once they have been read): that
 * is what a kernel expects tables in, and kexec passes such ranges on to the next kernel. From
 * 0xa0000 to 0xe0000 there is nothing, as on a PC.
 */
static unsigned fill_map(const struct gmem *mem, struct boot_e820_entry map[MAP_MAX])
{
	const struct boot_e820_entry low[] = {
		{0, LAYOUT_EBDA, MAP_RAM},
		{LAYOUT_EBDA, LAYOUT_EBDA_END - LAYOUT_EBDA, MAP_RESERVED},
		{LAYOUT_ACPI, LAYOUT_ACPI_END - LAYOUT_ACPI, MAP_ACPI},
	};
	unsigned n = ARRAY_SIZE(low);

	memcpy(map, low, sizeof(low));
	for (unsigned i = 0; i < mem->count; i++) {
		gpa_t start = i ? mem->region[i].gpa : LAYOUT_HIGH_RAM;
		gpa_t end = mem->region[i].gpa + mem->region[i].len;

		/* Memory that may come is told of by its device. */
		if (end > start && !mem->region[i].block)
			map[n++] = (struct boot_e820_entry){start, end - start, MAP_RAM};
	}
	return n;
}

/* 64-bit boot protocol: GDT, and a first GiB mapped to itself in 2 MiB pages. */
static void write_cpu_tables(uint8_t *low, enum boot_format format)
{
	const uint64_t gdt[BOOT_GDT_ENTRIES] = {
		[BOOT_SEL_CODE / 8] = format == BOOT_ELF_PVH ? BOOT_GDT_CODE32 : BOOT_GDT_CODE64,
		[BOOT_SEL_DATA / 8] = BOOT_GDT_DATA,
		[BOOT_SEL_TSS / 8] = BOOT_GDT_TSS,
	};
	const uint64_t present_writable = 3, large_page = 0x80;
	uint64_t *table = (uint64_t *)(void *)(low + LAYOUT_PAGE_TABLE);

	memcpy(low + LAYOUT_GDT, gdt, sizeof(gdt));
	table[0] = (LAYOUT_PAGE_TABLE + LAYOUT_PAGE_SIZE) | present_writable;
	table[512] = (LAYOUT_PAGE_TABLE + 2 * LAYOUT_PAGE_SIZE) | present_writable;
	for (unsigned i = 0; i < LAYOUT_MAPPED / MIB(2); i++)
		table[1024 + i] = i * MIB(2) | large_page | present_writable;
}

/*
 * A seed for the guest's random numbers, so that they are good from the first one on (Linux 6.0
 * and later; earlier ones skip what they do not know). The kernel overwrites it with zeroes
 * once it is used. It goes from the host kernel straight to the guest: no copy stays with us.
 */
static int write_seed(uint8_t *low, struct err *e)
{
	struct setup_data *d = (struct setup_data *)(void *)(low + LAYOUT_SETUP_DATA);

	d->type = SETUP_RNG_SEED;
	d->len = SEED_LEN;
	if (getrandom(d->data, SEED_LEN, 0) != (ssize_t)SEED_LEN)
		return err_sys(e, "random seed for the guest");
	return 0;
}

static int write_zero_page(uint8_t *low, const struct boot_plan *plan,
			   const struct boot_params_in *in, const struct gmem *mem,
			   const struct boot_initrd *initrd, struct err *e)
{
	struct boot_params *zp = (struct boot_params *)(void *)(low + LAYOUT_ZERO_PAGE);
	struct setup_header *h = &zp->hdr;

	/* From the page, not from `h`: a newer kernel's header may be longer than our struct. */
	memcpy((uint8_t *)zp + offsetof(struct boot_params, hdr), plan->setup_header,
	       plan->setup_header_len);
	if (!plan->setup_header_len) { /* an ELF file has none: what a kernel looks at */
		h->boot_flag = 0xaa55;
		memcpy(&h->header, "HdrS", 4);
		h->version = 0x020f;
		h->kernel_alignment = MIB(16);
		h->cmdline_size = plan->cmdline_max;
	}
	h->type_of_loader = 0xff; /* none with a number of its own */
	h->loadflags |= LOADED_HIGH;
	h->cmd_line_ptr = LAYOUT_CMDLINE;
	h->ramdisk_image = (uint32_t)initrd->gpa;
	h->ramdisk_size = (uint32_t)initrd->len;
	h->setup_data = LAYOUT_SETUP_DATA;
	zp->acpi_rsdp_addr = in->rsdp;
	zp->e820_entries = (uint8_t)fill_map(mem, zp->e820_table);
	return write_seed(low, e);
}

static void write_pvh(uint8_t *low, const struct boot_params_in *in, const struct gmem *mem,
		      const struct boot_initrd *initrd)
{
	struct pvh_page *p = (struct pvh_page *)(void *)(low + LAYOUT_PVH_INFO);
	struct boot_e820_entry map[MAP_MAX];
	unsigned n = fill_map(mem, map);

	p->info.magic = PVH_MAGIC;
	p->info.version = 1;
	p->info.cmdline_paddr = LAYOUT_CMDLINE;
	p->info.rsdp_paddr = in->rsdp;
	p->info.memmap_paddr = LAYOUT_PVH_INFO + offsetof(struct pvh_page, map);
	p->info.memmap_entries = n;
	for (unsigned i = 0; i < n; i++) {
		p->map[i].addr = map[i].addr;
		p->map[i].size = map[i].size;
		p->map[i].type = map[i].type;
	}
	if (!initrd->len)
		return;
	p->info.nr_modules = 1;
	p->info.modlist_paddr = LAYOUT_PVH_INFO + offsetof(struct pvh_page, initrd);
	p->initrd.paddr = initrd->gpa;
	p->initrd.size = initrd->len;
}

int boot_params_write(const struct boot_plan *plan, const struct boot_params_in *in,
		      const struct gmem *mem, const struct boot_initrd *initrd, gpa_t *params,
		      struct err *e)
{
	uint8_t *low = gmem_at(mem, 0, LAYOUT_HIGH_RAM);

	assert(low); /* LAYOUT_RAM_MIN */
	strcpy((char *)low + LAYOUT_CMDLINE, in->cmdline);
	write_cpu_tables(low, plan->format);
	if (plan->format == BOOT_ELF_PVH) {
		*params = LAYOUT_PVH_INFO;
		write_pvh(low, in, mem, initrd);
		return 0;
	}
	*params = LAYOUT_ZERO_PAGE;
	return write_zero_page(low, plan, in, mem, initrd, e);
}
