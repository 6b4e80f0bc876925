/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables are taken apart twice: by hand where the addresses and checksums are concerned, and by
 * iasl (acpica-tools), which has to decompile them without a complaint, to show what was meant,
 * and to compile its own output to the same bytes.
 */
#include "vmm/acpi.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/aml.h"

#define AREA 8192u

static const char *const table_names[] = {"FACP", "APIC", "DSDT"};

struct tables {
	uint8_t buf[AREA];
	int len;
	const uint8_t *at[3]; /* like table_names */
	char dir[32];
};

static uint64_t le(const uint8_t *p, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = bytes; i-- > 0;)
		v = v << 8 | p[i];
	return v;
}

static unsigned sum(const uint8_t *p, size_t len)
{
	unsigned s = 0;

	while (len--)
		s += *p++;
	return s & 0xff;
}

/* A table by its guest address; checks signature, bounds and checksum. */
static const uint8_t *table_at(const struct tables *t, uint64_t gpa, const char *signature)
{
	const uint8_t *p;

	cr_assert(gpa >= LAYOUT_ACPI && gpa - LAYOUT_ACPI < (unsigned)t->len);
	p = t->buf + (gpa - LAYOUT_ACPI);
	cr_assert_eq(memcmp(p, signature, 4), 0, "%s at 0x%lx", signature, gpa);
	cr_assert(range_within(gpa - LAYOUT_ACPI, le(p + 4, 4), (unsigned)t->len));
	cr_assert_eq(sum(p, le(p + 4, 4)), 0, "checksum of %s", signature);
	cr_assert_eq(memcmp(p + 10, "SPORE ", 6), 0);
	return p;
}

/* Builds, and follows the pointers from the RSDP on as a guest does. `all`: with all devices. */
static void build(struct tables *t, unsigned vcpus, unsigned devices, bool all)
{
	struct acpi_machine m = {.vcpus = vcpus,
				 .virtio_count = devices,
				 .i8042 = all,
				 .identity = all,
				 .pvpanic = all};
	const uint8_t *xsdt;

	memset(t, 0xa5, sizeof(*t)); /* nothing may depend on zeroed memory */
	t->len = acpi_build(&m, t->buf, sizeof(t->buf), NULL);
	cr_assert_gt(t->len, 0);
	cr_assert_eq(memcmp(t->buf, "RSD PTR ", 8), 0);
	cr_assert_eq(t->buf[15], 2, "RSDP revision");
	cr_assert_eq(sum(t->buf, 20), 0);
	cr_assert_eq(sum(t->buf, 36), 0);
	xsdt = table_at(t, le(t->buf + 24, 8), "XSDT");
	cr_assert_eq(le(xsdt + 4, 4), 36 + 2 * 8);
	t->at[0] = table_at(t, le(xsdt + 36, 8), "FACP");
	t->at[1] = table_at(t, le(xsdt + 44, 8), "APIC");
	t->at[2] = table_at(t, le(t->at[0] + 140, 8), "DSDT");
}

static void save(const struct tables *t, const char *name, const uint8_t *table)
{
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", t->dir, name);
	f = fopen(path, "w");
	cr_assert_not_null(f);
	cr_assert_eq(fwrite(table, 1, le(table + 4, 4), f), le(table + 4, 4));
	cr_assert_eq(fclose(f), 0);
}

/* Runs `command` in the directory of the tables and returns all that it says. */
static void run(const struct tables *t, const char *command, char *out, size_t size)
{
	char line[256];
	size_t n;
	FILE *p;
	int rc;

	snprintf(line, sizeof(line), "cd '%s' && %s 2>&1", t->dir, command);
	p = popen(line, "r");
	cr_assert_not_null(p);
	n = fread(out, 1, size - 1, p);
	out[n] = 0;
	rc = pclose(p);
	cr_assert(WIFEXITED(rc) && WEXITSTATUS(rc) == 0, "'%s' failed:\n%s", command, out);
}

/* What iasl says when something is wrong with a table. */
static void check_quiet(const char *out)
{
	static const char *const bad[] = {
		"Error",  "Warning", "rror:",	 "arning:",  "ncorrect", "nvalid",
		"nknown", "annot",   "ould not", "checksum", "Checksum", "xternal"};
	char copy[16384];

	/* The line that sums a compilation up is fine when it counts zero of each. */
	snprintf(copy, sizeof(copy), "%s", out);
	for (char *line = strtok(copy, "\n"); line; line = strtok(NULL, "\n")) {
		if (strstr(line, "0 Errors, 0 Warnings, 0 Remarks"))
			continue;
		for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
			cr_assert_null(strstr(line, bad[i]), "iasl says:\n%s", out);
	}
}

/* The recompiled table differs in nothing but who compiled it (checksum, creator). */
static void check_same(const struct tables *t, unsigned i)
{
	size_t len = le(t->at[i] + 4, 4);
	uint8_t again[AREA];
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "%s/new-%s.aml", t->dir, table_names[i]);
	f = fopen(path, "r");
	cr_assert_not_null(f);
	cr_assert_eq(fread(again, 1, sizeof(again), f), len);
	fclose(f);
	cr_assert_eq(memcmp(again, t->at[i], 9), 0);
	cr_assert_eq(memcmp(again + 10, t->at[i] + 10, 18), 0);
	cr_assert_eq(memcmp(again + 36, t->at[i] + 36, len - 36), 0);
}

/* Saves the tables; has iasl decompile each and compile it again. */
static void decompile(struct tables *t)
{
	char out[16384], command[128];

	if (system("iasl -v >/dev/null 2>&1") != 0)
		cr_skip_test("iasl is not installed (acpica-tools)");
	strcpy(t->dir, "/tmp/spore-acpi-XXXXXX");
	cr_assert_not_null(mkdtemp(t->dir));
	for (unsigned i = 0; i < ARRAY_SIZE(table_names); i++) {
		const char *name = table_names[i];

		save(t, name, t->at[i]);
		snprintf(command, sizeof(command), "iasl -d -p %s %s", name, name);
		run(t, command, out, sizeof(out));
		check_quiet(out);
		/* -oa: no optimizations; what it would shorten is none of its business here. */
		snprintf(command, sizeof(command), "iasl -oa -p new-%s %s.dsl", name, name);
		run(t, command, out, sizeof(out));
		check_quiet(out);
		check_same(t, i);
	}
}

/* The lines of a decompiled table without indentation, comments and empty lines. */
static void read_source(const struct tables *t, const char *name, char *out, size_t size)
{
	char command[128];

	snprintf(command, sizeof(command),
		 "sed -e 's://.*::' -e 's/^ *//' -e 's/ *$//' -e '/^$/d' %s.dsl", name);
	run(t, command, out, size);
}

static void clean(const struct tables *t)
{
	char out[256];

	run(t, "rm -f FACP* APIC* DSDT* new-*", out, sizeof(out));
	cr_assert_eq(rmdir(t->dir), 0);
}

static unsigned count(const char *text, const char *what)
{
	unsigned n = 0;

	for (const char *p = text; (p = strstr(p, what)); p += strlen(what))
		n++;
	return n;
}

/* What iasl prints for a data table: "[010h 0016   4]   Name : value"; blanks do not matter. */
static bool says(const char *source, const char *name, const char *value)
{
	char copy[32768];

	snprintf(copy, sizeof(copy), "%s", source);
	for (char *line = strtok(copy, "\n"); line; line = strtok(NULL, "\n")) {
		char *colon = strstr(line, " : "), *at = strstr(line, name);

		if (colon && at && at + strlen(name) <= colon && !strcmp(colon + 3, value) &&
		    strspn(at + strlen(name), " ") >= (size_t)(colon - (at + strlen(name))))
			return true;
	}
	return false;
}

static void check_device(const char *dsl, unsigned i)
{
	struct layout_virtio v = layout_virtio_slot(i);
	char want[512];

	snprintf(want, sizeof(want), "Device (VR%02u)\n{\nName (_HID, \"LNRO0005\")", i);
	cr_assert_eq(count(dsl, want), 1, "%s in\n%s", want, dsl);
	snprintf(want, sizeof(want),
		 "Memory32Fixed (ReadWrite,\n0x%08X,\n0x%08X,\n)\n"
		 "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, )\n{\n0x%08X,\n}",
		 (unsigned)v.base, LAYOUT_VIRTIO_SIZE, v.gsi);
	cr_assert_eq(count(dsl, want), 1, "%s in\n%s", want, dsl);
}

static void check_machine(unsigned vcpus, unsigned devices, bool i8042)
{
	static struct tables t;
	static char dsl[32768];

	build(&t, vcpus, devices, i8042);
	decompile(&t);
	read_source(&t, "DSDT", dsl, sizeof(dsl));
	cr_assert_eq(count(dsl, "LNRO0005"), devices);
	for (unsigned i = 0; i < devices; i++)
		check_device(dsl, i);
	cr_assert_eq(count(dsl, "Scope (\\_SB)"), 1);
	cr_assert_eq(count(dsl, "EisaId (\"PNP0501\")"), 1);
	cr_assert_eq(count(dsl, "IO (Decode16,\n0x03F8,\n0x03F8,\n0x01,\n0x08,\n)"), 1);
	cr_assert_eq(count(dsl, "EisaId (\"PNP0303\")"), i8042);
	cr_assert_eq(count(dsl, "0x0060,"), i8042 * 2u);
	cr_assert_eq(count(dsl, "0x0064,"), i8042 * 2u);
	cr_assert_eq(count(dsl, "Device (PEVT)\n{\nName (_HID, \"QEMU0001\")"), i8042);
	cr_assert_eq(count(dsl, "IO (Decode16,\n0x0505,\n0x0505,\n0x01,\n0x01,\n)"), i8042);
	cr_assert_eq(count(dsl, "Name (ADDR, Package (0x02)\n{\n0x000FE000,\nZero\n})"), i8042);
	cr_assert_eq(count(dsl, "Memory32Fixed (ReadWrite,\n0x000FF000,\n0x00001000,\n)"), i8042);
	cr_assert_eq(count(dsl, "Method (_EVT, 1, Serialized)\n{\nIf ((Arg0 == 0x16))\n{\n"
				"Notify (VGEN, 0x80)\nNotify (VCLK, 0x80)\n}\n}"),
		     i8042, "%s", dsl);
	cr_assert_eq(count(dsl, "Name (_S5, Package (0x04)\n{\n0x05,\nZero,\nZero,\nZero\n})"), 1);
	read_source(&t, "APIC", dsl, sizeof(dsl));
	cr_assert_eq(count(dsl, "[Processor Local APIC]"), vcpus);
	cr_assert_eq(count(dsl, "[I/O APIC]"), 1);
	clean(&t);
}

Test(acpi, smallest_machine)
{
	check_machine(1, 0, false);
}

Test(acpi, ordinary_machine)
{
	check_machine(2, 6, true);
}

Test(acpi, largest_machine)
{
	check_machine(LAYOUT_VCPU_MAX, LAYOUT_VIRTIO_MAX, true);
}

Test(acpi, fadt)
{
	static struct tables t;
	static char dsl[32768];

	build(&t, 1, 1, true);
	cr_assert_eq(le(t.at[0] + 4, 4), 276);
	cr_assert_eq(t.at[0][8], 6, "revision");
	cr_assert_eq(t.at[0][131], 5, "minor revision");
	decompile(&t);
	read_source(&t, "FACP", dsl, sizeof(dsl));
	cr_assert(says(dsl, "Hardware Reduced (V5)", "1"), "%s", dsl);
	cr_assert(says(dsl, "Control Method Power Button (V1)", "1"));
	cr_assert(says(dsl, "Control Method Sleep Button (V1)", "1"));
	cr_assert(says(dsl, "Reset Register Supported (V2)", "0"));
	cr_assert(says(dsl, "8042 Present on ports 60/64 (V2)", "1"));
	cr_assert(says(dsl, "VGA Not Present (V4)", "1"));
	cr_assert(says(dsl, "MSI Not Supported (V4)", "1"));
	cr_assert(says(dsl, "CMOS RTC Not Present (V5)", "1"));
	cr_assert_eq(count(dsl, "Space ID : 01 [SystemIO]"), 2, "sleep registers only");
	cr_assert_eq(count(dsl, "Encoded Access Width : 01 [Byte Access:8]"), 2);
	cr_assert(says(dsl, "Address", "0000000000000600"));
	cr_assert(says(dsl, "Address", "0000000000000601"));
	clean(&t);

	build(&t, 1, 1, false);
	cr_assert_eq(le(t.at[0] + 109, 2) & 2, 0, "no keyboard controller");
}

Test(acpi, madt)
{
	static struct tables t;
	const uint8_t *p;

	build(&t, 3, 0, false);
	cr_assert_eq(le(t.at[1] + 36, 4), 0xfee00000u);
	cr_assert_eq(le(t.at[1] + 40, 4), 0, "no PIC");
	p = t.at[1] + 44;
	cr_assert_eq(p[0], 1);
	cr_assert_eq(p[2], LAYOUT_IOAPIC_ID);
	cr_assert_eq(le(p + 4, 4), 0xfec00000u);
	cr_assert_eq(le(p + 8, 4), 0);
	for (unsigned i = 0; i < 3; i++) {
		const uint8_t *cpu = p + 12 + 8 * i;

		cr_assert_eq(cpu[0], 0);
		cr_assert_eq(cpu[2], i);
		cr_assert_eq(cpu[3], i);
		cr_assert_eq(le(cpu + 4, 4), 1);
	}
	cr_assert_eq(le(t.at[1] + 4, 4), 44 + 12 + 3 * 8);
}

/* SLP_TYP in bits 2 to 4, SLP_EN in bit 5 (ACPI 6.5 section 4.8.3.7). */
Test(acpi, sleep_value)
{
	cr_assert_eq(ACPI_SLEEP_S5, 0x34);
}

Test(acpi, needs_room)
{
	struct acpi_machine m = {.vcpus = 1,
				 .virtio_count = LAYOUT_VIRTIO_MAX,
				 .i8042 = true,
				 .identity = true,
				 .pvpanic = true};
	static uint8_t buf[AREA], again[AREA + 1];
	struct err e = {0};
	int len = acpi_build(&m, buf, sizeof(buf), NULL);

	cr_assert_gt(len, 0);
	memset(again, 0xa5, sizeof(again));
	for (size_t size = 0; size < (size_t)len; size++) {
		cr_assert_eq(acpi_build(&m, again, size, &e), -ENOSPC, "%zu", size);
		cr_assert_eq(again[size], 0xa5, "wrote behind %zu bytes", size);
	}
	cr_assert_neq(strstr(e.msg, "ACPI tables"), NULL);
	cr_assert_eq(acpi_build(&m, again, (size_t)len, &e), len);
	cr_assert_eq(memcmp(buf, again, (size_t)len), 0);
}

/* PkgLength at its steps: 1 byte up to 63, 2 up to 4095, 3 above; itself included. */
Test(acpi, aml_package_length)
{
	static const struct {
		size_t body; /* bytes behind the name */
		uint8_t want[3];
	} cases[] = {
		{0, {5, 'A', 'B'}},	    {58, {63, 'A', 'B'}},
		{59, {0x41, 0x04, 'A'}},    /* 65 */ {4089, {0x4f, 0xff, 'A'}},
		{4090, {0x81, 0x00, 0x01}}, /* 4097 */
	};
	static uint8_t buf[8192];

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct aml a;
		size_t dev;

		aml_init(&a, buf, sizeof(buf));
		dev = aml_device(&a, "ABCD");
		for (size_t n = 0; n < cases[i].body; n++)
			aml_integer(&a, 0);
		aml_end(&a, dev);
		cr_assert_not(a.full);
		cr_assert_eq(memcmp(buf + 2, cases[i].want, 3), 0, "%02x %02x %02x", buf[2], buf[3],
			     buf[4]);
	}
}

Test(acpi, aml_values)
{
	static const uint8_t want[] = {0x00, 0x01, 0x0a, 0x02, 0x0a, 0xff, 0x0b, 0x00,
				       0x01, 0x0c, 0x00, 0x00, 0x01, 0x00, 0x0e, 0,
				       0,    0,	   0,	 1,    0,    0,	   0,	 0x0d,
				       'h',  0x00, 0x0c, 0x41, 0xd0, 0x05, 0x01};
	static const uint64_t values[] = {0, 1, 2, 0xff, 0x100, 0x10000, 1ull << 32};
	uint8_t buf[64];
	struct aml a;

	aml_init(&a, buf, sizeof(buf));
	for (unsigned i = 0; i < ARRAY_SIZE(values); i++)
		aml_integer(&a, values[i]);
	aml_string(&a, "h");
	aml_eisaid(&a, "PNP0501");
	cr_assert_eq(a.len, sizeof(want));
	cr_assert_eq(memcmp(buf, want, sizeof(want)), 0);
}
