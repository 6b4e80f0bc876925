/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/acpi.h"

#include <assert.h>
#include <stdio.h>

#include "vmm/aml.h"

#define PACKED __attribute__((packed))

/* Section 5.2.6 */
struct sdt_header {
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem_id[6], oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} PACKED;

/* Section 5.2.5.3 */
struct rsdp {
	char signature[8];
	uint8_t checksum; /* of the 20 bytes that ACPI 1.0 had */
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
	uint8_t checksum_all, reserved[3];
} PACKED;

struct xsdt {
	struct sdt_header h;
	uint64_t entry[2];
} PACKED;

/* Generic address structure, section 5.2.3.2 */
struct gas {
	uint8_t space, bit_width, bit_offset, access_size;
	uint64_t address;
} PACKED;

/* Section 5.2.9; what a hardware-reduced platform leaves zero has no names here. */
struct fadt {
	struct sdt_header h;
	uint8_t legacy[109 - 36];
	uint16_t iapc_boot_arch;
	uint8_t reserved;
	uint32_t flags;
	struct gas reset_reg;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor_version;
	uint64_t x_firmware_ctrl, x_dsdt;
	struct gas x_legacy[8];
	struct gas sleep_control, sleep_status;
	uint64_t hypervisor;
} PACKED;

/* Section 5.2.12 */
struct madt_lapic {
	uint8_t type, length, uid, apic_id;
	uint32_t flags;
} PACKED;

struct madt_ioapic {
	uint8_t type, length, id, reserved;
	uint32_t address, gsi_base;
} PACKED;

struct madt {
	struct sdt_header h;
	uint32_t lapic_address, flags;
	struct madt_ioapic ioapic;
	struct madt_lapic lapic[]; /* one for each vCPU */
} PACKED;

static_assert(sizeof(struct sdt_header) == 36, "ABI");
static_assert(sizeof(struct rsdp) == 36, "ABI");
static_assert(sizeof(struct fadt) == 276, "ABI");
static_assert(offsetof(struct fadt, x_dsdt) == 140, "ABI");

/* Where the tables are, from LAYOUT_ACPI on. The MADT has room for every vCPU. */
#define AT_XSDT 0x040u
#define AT_FADT 0x080u
#define AT_MADT 0x1a0u
#define AT_DSDT 0x300u

static_assert(AT_FADT + sizeof(struct fadt) <= AT_MADT, "layout");
static_assert(AT_MADT + sizeof(struct madt) + LAYOUT_VCPU_MAX * sizeof(struct madt_lapic) <=
		      AT_DSDT,
	      "layout");

/* IAPC_BOOT_ARCH, section 5.2.9.3 */
enum { BOOT_8042 = 1 << 1, BOOT_NO_VGA = 1 << 2, BOOT_NO_MSI = 1 << 3, BOOT_NO_RTC = 1 << 5 };

/* FADT flags, section 5.2.9: WBINVD works; neither power nor sleep button is there as fixed hardware */
enum {
	FADT_WBINVD = 1 << 0,
	FADT_NO_POWER_BUTTON = 1 << 4,
	FADT_NO_SLEEP_BUTTON = 1 << 5,
	FADT_HW_REDUCED = 1 << 20,
};

static uint8_t checksum(const void *table, size_t len)
{
	const uint8_t *p = table;
	uint8_t sum = 0;

	while (len--)
		sum = (uint8_t)(sum + *p++);
	return (uint8_t)-sum;
}

/* The header comes last, because of the checksum over the whole table. */
static void finish_table(struct sdt_header *h, const char *signature, uint8_t revision, size_t len)
{
	memcpy(h->signature, signature, 4);
	h->length = (uint32_t)len;
	h->revision = revision;
	memcpy(h->oem_id, "SPORE ", 6);
	memcpy(h->oem_table_id, "MICROVM ", 8);
	h->oem_revision = 1;
	memcpy(h->creator_id, "SPOR", 4);
	h->creator_revision = 1;
	h->checksum = checksum(h, len);
}

static void build_rsdp(uint8_t *buf)
{
	struct rsdp *r = (struct rsdp *)buf;

	memcpy(r->signature, "RSD PTR ", 8);
	memcpy(r->oem_id, "SPORE ", 6);
	r->revision = 2;
	r->length = sizeof(*r);
	r->xsdt = LAYOUT_ACPI + AT_XSDT;
	r->checksum = checksum(r, 20);
	r->checksum_all = checksum(r, sizeof(*r));
}

static void build_xsdt(uint8_t *buf)
{
	struct xsdt *x = (struct xsdt *)(buf + AT_XSDT);

	x->entry[0] = LAYOUT_ACPI + AT_FADT;
	x->entry[1] = LAYOUT_ACPI + AT_MADT;
	finish_table(&x->h, "XSDT", 1, sizeof(*x));
}

static struct gas port_byte(uint16_t port)
{
	return (struct gas){.space = 1, .bit_width = 8, .access_size = 1, .address = port};
}

/*
 * BOOT_8042: Linux binds its i8042 driver when the DSDT has a PNP0303 device, whatever this bit
 * says; the bit only decides whether ports are probed without such a device (clear: they are not,
 * which saves 10,000 exits on ports where nobody answers). Both tell the same here.
 */
static void build_fadt(const struct acpi_machine *m, uint8_t *buf)
{
	struct fadt *f = (struct fadt *)(buf + AT_FADT);

	f->iapc_boot_arch =
		(uint16_t)(BOOT_NO_VGA | BOOT_NO_MSI | BOOT_NO_RTC | (m->i8042 ? BOOT_8042 : 0));
	f->flags = FADT_WBINVD | FADT_NO_POWER_BUTTON | FADT_NO_SLEEP_BUTTON | FADT_HW_REDUCED;
	f->minor_version = 5;
	f->x_dsdt = LAYOUT_ACPI + AT_DSDT;
	f->sleep_control = port_byte(ACPI_SLEEP_CONTROL);
	f->sleep_status = port_byte(ACPI_SLEEP_STATUS);
	finish_table(&f->h, "FACP", 6, sizeof(*f));
}

/*
 * No interrupt source overrides: each ISA line is the IOAPIC pin of its number, edge, active high.
 * PCAT_COMPAT is clear, or else Linux would use the PIC that a reduced platform does not have.
 */
static void build_madt(unsigned vcpus, uint8_t *buf)
{
	struct madt *t = (struct madt *)(buf + AT_MADT);

	t->lapic_address = LAYOUT_LAPIC;
	t->ioapic = (struct madt_ioapic){
		.type = 1,
		.length = sizeof(t->ioapic),
		.id = LAYOUT_IOAPIC_ID,
		.address = LAYOUT_IOAPIC,
	};
	for (unsigned i = 0; i < vcpus; i++)
		t->lapic[i] = (struct madt_lapic){
			.length = sizeof(t->lapic[i]),
			.uid = (uint8_t)i,
			.apic_id = (uint8_t)i,
			.flags = 1, /* enabled */
		};
	finish_table(&t->h, "APIC", 5, sizeof(*t) + vcpus * sizeof(t->lapic[0]));
}

static void name_integer(struct aml *a, const char *name, uint64_t v)
{
	aml_name(a, name);
	aml_integer(a, v);
}

static void dsdt_com1(struct aml *a)
{
	size_t dev = aml_device(a, "COM1"), crs;

	aml_name(a, "_HID");
	aml_eisaid(a, "PNP0501");
	name_integer(a, "_UID", 1);
	crs = aml_resources(a);
	aml_io(a, LAYOUT_COM1, 8);
	aml_interrupt(a, LAYOUT_GSI_COM1);
	aml_resources_end(a, crs);
	aml_end(a, dev);
}

/*
 * Needed even where BOOT_8042 is enough for probing: without a PIC, Linux has no IRQ 1 unless a
 * device's _CRS asks for it. Linux takes the first port for data and the second for commands, and
 * no PNP0F13 beside it for "no mouse".
 */
static void dsdt_keyboard(struct aml *a)
{
	size_t dev = aml_device(a, "KBD_"), crs;

	aml_name(a, "_HID");
	aml_eisaid(a, "PNP0303");
	crs = aml_resources(a);
	aml_io(a, LAYOUT_I8042_DATA, 1);
	aml_io(a, LAYOUT_I8042_COMMAND, 1);
	aml_interrupt(a, LAYOUT_GSI_I8042);
	aml_resources_end(a, crs);
	aml_end(a, dev);
}

static void dsdt_virtio(struct aml *a, unsigned index)
{
	struct layout_virtio v = layout_virtio_slot(index);
	char name[5];
	size_t dev, crs;

	snprintf(name, sizeof(name), "VR%02u", index % 100);
	dev = aml_device(a, name);
	aml_name(a, "_HID");
	aml_string(a, "LNRO0005");
	name_integer(a, "_UID", index);
	name_integer(a, "_CCA", 1); /* DMA is cache-coherent */
	crs = aml_resources(a);
	aml_memory(a, (uint32_t)v.base, LAYOUT_VIRTIO_SIZE);
	aml_interrupt(a, v.gsi);
	aml_resources_end(a, crs);
	aml_end(a, dev);
}

/*
 * VMGenID: ADDR gives the address of its bytes, in two halves. Guests look for one of the _CIDs; the
 * _HID is ours, since neither of them has the form of one.
 */
static void dsdt_vmgenid(struct aml *a)
{
	size_t dev = aml_device(a, "VGEN"), package;

	aml_name(a, "_HID");
	aml_string(a, "SPOR0001");
	aml_name(a, "_CID");
	package = aml_package(a, 2);
	aml_string(a, "VM_Gen_Counter");
	aml_string(a, "VMGENCTR");
	aml_end(a, package);
	aml_name(a, "_DDN");
	aml_string(a, "VM_Gen_Counter");
	aml_name(a, "ADDR");
	package = aml_package(a, 2);
	aml_integer(a, LAYOUT_VMGENID);
	aml_integer(a, 0);
	aml_end(a, package);
	aml_end(a, dev);
}

static void dsdt_vmclock(struct aml *a)
{
	size_t dev = aml_device(a, "VCLK"), crs;

	aml_name(a, "_HID");
	aml_string(a, "AMZNC10C");
	aml_name(a, "_CID");
	aml_string(a, "VMCLOCK");
	aml_name(a, "_DDN");
	aml_string(a, "VMCLOCK");
	crs = aml_resources(a);
	aml_memory(a, LAYOUT_VMCLOCK, LAYOUT_PAGE_SIZE);
	aml_resources_end(a, crs);
	aml_end(a, dev);
}

/* The generic event device: what takes the place of a reduced platform's missing GPEs. */
static void dsdt_events(struct aml *a)
{
	size_t dev = aml_device(a, "GED_"), crs, method, condition;

	aml_name(a, "_HID");
	aml_string(a, "ACPI0013");
	name_integer(a, "_UID", 0);
	crs = aml_resources(a);
	aml_interrupt(a, LAYOUT_GSI_IDENTITY);
	aml_resources_end(a, crs);
	method = aml_method(a, "_EVT", 1);
	condition = aml_if_arg0_is(a, LAYOUT_GSI_IDENTITY);
	aml_notify(a, "VGEN", 0x80);
	aml_notify(a, "VCLK", 0x80);
	aml_end(a, condition);
	aml_end(a, method);
	aml_end(a, dev);
}

static void dsdt_pvpanic(struct aml *a)
{
	size_t dev = aml_device(a, "PEVT"), crs;

	aml_name(a, "_HID");
	aml_string(a, "QEMU0001");
	crs = aml_resources(a);
	aml_io(a, LAYOUT_PVPANIC, 1);
	aml_resources_end(a, crs);
	aml_end(a, dev);
}

/* \_S5: the first element is SLP_TYP; a reduced platform uses no other. */
static void dsdt_s5(struct aml *a)
{
	size_t package;

	aml_name(a, "_S5_");
	package = aml_package(a, 4);
	aml_integer(a, ACPI_SLEEP_S5_TYPE);
	for (unsigned i = 1; i < 4; i++)
		aml_integer(a, 0);
	aml_end(a, package);
}

/* Returns the table's length, or 0 when it does not fit into size bytes. */
static size_t build_dsdt(const struct acpi_machine *m, struct sdt_header *h, size_t size)
{
	struct aml a;
	size_t sb;

	aml_init(&a, (uint8_t *)(h + 1), size - sizeof(*h));
	dsdt_s5(&a);
	sb = aml_scope(&a, "_SB_");
	dsdt_com1(&a);
	if (m->i8042)
		dsdt_keyboard(&a);
	for (unsigned i = 0; i < m->virtio_count; i++)
		dsdt_virtio(&a, i);
	if (m->identity) {
		dsdt_vmgenid(&a);
		dsdt_vmclock(&a);
		dsdt_events(&a);
	}
	if (m->pvpanic)
		dsdt_pvpanic(&a);
	aml_end(&a, sb);
	if (a.full)
		return 0;
	finish_table(h, "DSDT", 2, sizeof(*h) + a.len);
	return h->length;
}

int acpi_build(const struct acpi_machine *m, uint8_t *buf, size_t size, struct err *e)
{
	size_t dsdt = 0;

	assert(m->vcpus >= 1 && m->vcpus <= LAYOUT_VCPU_MAX);
	assert(m->virtio_count <= LAYOUT_VIRTIO_MAX);
	if (size > AT_DSDT + sizeof(struct sdt_header)) {
		memset(buf, 0, AT_DSDT + sizeof(struct sdt_header));
		dsdt = build_dsdt(m, (struct sdt_header *)(buf + AT_DSDT), size - AT_DSDT);
	}
	if (!dsdt)
		return err_set(e, ENOSPC, "ACPI tables do not fit into %zu bytes", size);
	build_rsdp(buf);
	build_xsdt(buf);
	build_fadt(m, buf);
	build_madt(m->vcpus, buf);
	return (int)(AT_DSDT + dsdt);
}
