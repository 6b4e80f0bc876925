/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where things are in the guest physical address space and on its interrupt lines. One place, so
 * that memory, boot, ACPI, the MP table, the buses and snapshots cannot disagree.
 *
 *	0x0000_0500  GDT for the 64-bit entry		    0x0000_0000..0x0009_fc00  RAM
 *	0x0000_6000  PVH start info			    0x0009_fc00..0x000a_0000  EBDA (reserved)
 *	0x0000_7000  zero page (struct boot_params)	    0x000e_0000..0x0010_0000  ACPI (reserved)
 *	0x0000_8ff0  stack of the boot processor	    0x0010_0000..3 GiB	      RAM, kernel
 *	0x0000_9000  page tables, three pages		    3 GiB..4 GiB	      MMIO gap
 *	0x0002_0000  kernel command line		    4 GiB..		      RAM
 *	0x0002_1000  setup_data: the seed for the guest's random numbers
 *
 * Above RAM, each at the next multiple of LAYOUT_ABOVE_ALIGN: memory that comes and goes, at a
 * multiple of its block size too; then the files of pmem devices, in the order of the configuration. All of it follows from the configuration, so that a restored guest finds
 * everything where it was.
 */
#pragma once

#include "vmm/base/gmem.h"

/* RAM and the hole in it. */
#define LAYOUT_GAP_START GIB(3)
#define LAYOUT_GAP_END	 GIB(4)
#define LAYOUT_PAGE_SIZE 4096u
#define LAYOUT_RAM_MIN	 MIB(1)
#define LAYOUT_RAM_MAX	 GIB(1024)

/* Low memory as the 64-bit boot protocol and PVH leave it to us. */
#define LAYOUT_GDT	   0x500u
#define LAYOUT_PVH_INFO	   0x6000u
#define LAYOUT_ZERO_PAGE   0x7000u
#define LAYOUT_STACK	   0x8ff0u
#define LAYOUT_PAGE_TABLE  0x9000u /* PML4, PDPT, PD: three pages */
#define LAYOUT_MAPPED	   GIB(1)  /* what they map, identically; the kernel has to be in it */
#define LAYOUT_CMDLINE	   0x20000u
#define LAYOUT_CMDLINE_MAX 2048u /* with its terminating zero */
#define LAYOUT_SETUP_DATA  0x21000u
#define LAYOUT_EBDA	   0x9fc00u
#define LAYOUT_MPTABLE	   LAYOUT_EBDA /* 1 KiB; also where a kernel without ACPI looks for it */
#define LAYOUT_EBDA_END	   0xa0000u
#define LAYOUT_ACPI	   0xe0000u /* RSDP first, the other tables behind it */
#define LAYOUT_VMGENID	   0xfe000u /* 16 bytes, behind the tables */
#define LAYOUT_VMCLOCK	   0xff000u /* one page */
#define LAYOUT_ACPI_END	   0x100000u
#define LAYOUT_HIGH_RAM	   0x100000u

/* MMIO gap. The boot timer and virtio windows are where Firecracker has them. */
#define LAYOUT_BOOT_TIMER   0xc0000000u
#define LAYOUT_VIRTIO	    0xc0001000u
#define LAYOUT_VIRTIO_SIZE  0x1000u
#define LAYOUT_IOAPIC	    0xfec00000u
#define LAYOUT_LAPIC	    0xfee00000u
#define LAYOUT_KVM_IDENTITY 0xfffbc000u /* one page for KVM's real-mode identity map (Intel) */
#define LAYOUT_KVM_TSS	    0xfffbd000u /* three pages for KVM's task state segment (Intel) */

/* I/O ports. */
#define LAYOUT_COM1	     0x3f8u
#define LAYOUT_RTC	     0x70u
#define LAYOUT_I8042_DATA    0x60u
#define LAYOUT_I8042_COMMAND 0x64u
#define LAYOUT_PVPANIC	     0x505u
#define LAYOUT_ACPI_SLEEP    0x600u /* sleep control; sleep status is the next byte */

/* Global system interrupts: pins of the one IOAPIC. */
#define LAYOUT_GSI_I8042    1u
#define LAYOUT_GSI_COM1	    4u
#define LAYOUT_GSI_VIRTIO   5u
#define LAYOUT_GSI_MAX	    23u
#define LAYOUT_GSI_RESERVED 2u			 /* the last two lines are for what is not virtio */
#define LAYOUT_GSI_IDENTITY (LAYOUT_GSI_MAX - 1) /* VMGenID and VMClock */
#define LAYOUT_VIRTIO_MAX   (LAYOUT_GSI_MAX - LAYOUT_GSI_VIRTIO + 1 - LAYOUT_GSI_RESERVED)
#define LAYOUT_VCPU_MAX	    32u
#define LAYOUT_IOAPIC_ID    LAYOUT_VCPU_MAX /* no local APIC has it: theirs are the vCPU indexes */

/*
 * Fills region[] with the RAM of a guest of `size` bytes: up to the gap, and the rest from 4 GiB
 * on. Returns how many regions that takes (1 or 2). `size` is a multiple of the page size and
 * within LAYOUT_RAM_MIN..LAYOUT_RAM_MAX.
 */
static inline unsigned layout_ram(uint64_t size, struct gmem_region region[2])
{
	uint64_t low = MIN(size, LAYOUT_GAP_START);

	region[0] = (struct gmem_region){.gpa = 0, .len = low};
	if (size == low)
		return 1;
	region[1] = (struct gmem_region){.gpa = LAYOUT_GAP_END, .len = size - low};
	return 2;
}

/* A section of memory as Linux counts it: what comes and goes shares none with RAM. */
#define LAYOUT_ABOVE_ALIGN MIB(128)
/* Nothing is beyond this; a processor may address less. */
#define LAYOUT_END	   GIB(16384)

/* The first address for something above what ends at `end`. */
static inline gpa_t layout_above(gpa_t end)
{
	return align_up(end > LAYOUT_GAP_END ? end : LAYOUT_GAP_END, LAYOUT_ABOVE_ALIGN);
}

/* One virtio-mmio device as the guest is told about it (ACPI, MP table, command line). */
struct layout_virtio {
	gpa_t base;
	uint32_t gsi;
};

static inline struct layout_virtio layout_virtio_slot(unsigned index)
{
	return (struct layout_virtio){
		.base = LAYOUT_VIRTIO + (gpa_t)index * LAYOUT_VIRTIO_SIZE,
		.gsi = LAYOUT_GSI_VIRTIO + index,
	};
}
