/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/mptable.h"

#include <assert.h>

#define PACKED __attribute__((packed))

/* Section 4.1 */
struct mp_floating {
	char signature[4];
	uint32_t table;
	uint8_t length, revision, checksum, feature[5];
} PACKED;

/* Section 4.2 */
struct mp_header {
	char signature[4];
	uint16_t length;
	uint8_t revision, checksum;
	char oem[8], product[12];
	uint32_t oem_table;
	uint16_t oem_table_size, entries;
	uint32_t lapic;
	uint16_t ext_length;
	uint8_t ext_checksum, reserved;
} PACKED;

/* Section 4.3: entries in the order of their types. */
enum { MP_PROCESSOR, MP_BUS, MP_IOAPIC, MP_INTERRUPT, MP_LOCAL_INTERRUPT };

struct mp_processor {
	uint8_t type, apic_id, apic_version, flags;
	uint32_t signature, features;
	uint64_t reserved;
} PACKED;

struct mp_bus {
	uint8_t type, id;
	char name[6];
} PACKED;

struct mp_ioapic {
	uint8_t type, id, version, flags;
	uint32_t address;
} PACKED;

struct mp_interrupt {
	uint8_t type, kind;
	uint16_t flags;
	uint8_t bus, line, apic_id, pin;
} PACKED;

#define PINS (LAYOUT_GSI_MAX + 1)

struct mp_rest {
	struct mp_bus bus;
	struct mp_ioapic ioapic;
	struct mp_interrupt pin[PINS];
	struct mp_interrupt lint[2];
} PACKED;

struct mp_table {
	struct mp_floating floating;
	struct mp_header header;
	struct mp_processor cpu[]; /* one for each vCPU, then struct mp_rest */
} PACKED;

static_assert(sizeof(struct mp_table) == 16 + 44, "ABI");
static_assert(sizeof(struct mp_table) + LAYOUT_VCPU_MAX * sizeof(struct mp_processor) +
			      sizeof(struct mp_rest) <=
		      LAYOUT_EBDA_END - LAYOUT_MPTABLE,
	      "layout");

enum { KIND_INT, KIND_NMI, KIND_SMI, KIND_EXTINT };
enum { FLAGS_EDGE_HIGH = 1 << 2 | 1 };

static uint8_t checksum(const void *table, size_t len)
{
	const uint8_t *p = table;
	uint8_t sum = 0;

	while (len--)
		sum = (uint8_t)(sum + *p++);
	return (uint8_t)-sum;
}

/* Signature and features are of no use to a kernel that has CPUID: an i686 with FPU and APIC. */
static struct mp_processor processor(unsigned index)
{
	return (struct mp_processor){
		.type = MP_PROCESSOR,
		.apic_id = (uint8_t)index,
		.apic_version = 0x14,
		.flags = index == 0 ? 3 : 1, /* enabled; the first is the boot processor */
		.signature = 0x600,
		.features = 1 << 9 | 1,
	};
}

static void fill_rest(struct mp_rest *r)
{
	r->bus = (struct mp_bus){.type = MP_BUS, .name = "ISA   "};
	r->ioapic = (struct mp_ioapic){
		.type = MP_IOAPIC,
		.id = LAYOUT_IOAPIC_ID,
		.version = 0x11,
		.flags = 1, /* usable */
		.address = LAYOUT_IOAPIC,
	};
	for (unsigned i = 0; i < PINS; i++)
		r->pin[i] = (struct mp_interrupt){
			.type = MP_INTERRUPT,
			.kind = KIND_INT,
			.flags = FLAGS_EDGE_HIGH,
			.line = (uint8_t)i,
			.apic_id = LAYOUT_IOAPIC_ID,
			.pin = (uint8_t)i,
		};
	/* The PIC's output on LINT0 of the boot processor, NMI on everyone's LINT1. */
	r->lint[0] = (struct mp_interrupt){.type = MP_LOCAL_INTERRUPT, .kind = KIND_EXTINT};
	r->lint[1] = (struct mp_interrupt){
		.type = MP_LOCAL_INTERRUPT, .kind = KIND_NMI, .apic_id = 0xff, .pin = 1};
}

static void fill_header(struct mp_header *h, unsigned vcpus, size_t len)
{
	memcpy(h->signature, "PCMP", 4);
	h->length = (uint16_t)len;
	h->revision = 4;
	memcpy(h->oem, "SPORE   ", 8);
	memcpy(h->product, "MICROVM     ", 12);
	h->entries = (uint16_t)(vcpus + 2 + PINS + 2);
	h->lapic = LAYOUT_LAPIC;
	h->checksum = checksum(h, len);
}

int mptable_build(unsigned vcpus, uint8_t *buf, size_t size, struct err *e)
{
	struct mp_table *t = (struct mp_table *)buf;
	size_t len = sizeof(*t) + vcpus * sizeof(t->cpu[0]) + sizeof(struct mp_rest);

	assert(vcpus >= 1 && vcpus <= LAYOUT_VCPU_MAX);
	if (len > size)
		return err_set(e, ENOSPC, "MP table of %zu bytes does not fit into %zu", len, size);
	memset(buf, 0, len);
	for (unsigned i = 0; i < vcpus; i++)
		t->cpu[i] = processor(i);
	fill_rest((struct mp_rest *)&t->cpu[vcpus]);
	fill_header(&t->header, vcpus, len - sizeof(t->floating));
	memcpy(t->floating.signature, "_MP_", 4);
	t->floating.table = LAYOUT_MPTABLE + sizeof(t->floating);
	t->floating.length = 1; /* in units of 16 bytes */
	t->floating.revision = 4;
	t->floating.checksum = checksum(&t->floating, sizeof(t->floating));
	return (int)len;
}
