/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/mptable.h"

#include <criterion/criterion.h>

#define AREA (LAYOUT_EBDA_END - LAYOUT_MPTABLE)

static unsigned sum(const uint8_t *p, size_t len)
{
	unsigned s = 0;

	while (len--)
		s += *p++;
	return s & 0xff;
}

static uint32_t le(const uint8_t *p, unsigned bytes)
{
	uint32_t v = 0;

	for (unsigned i = bytes; i-- > 0;)
		v = v << 8 | p[i];
	return v;
}

/* Walks the entries as Linux does; counts them by type. */
static void walk(const uint8_t *t, size_t len, unsigned count[5])
{
	size_t at = 44;

	memset(count, 0, 5 * sizeof(*count));
	while (at < len) {
		cr_assert_leq(t[at], 4, "entry type %u at %zu", t[at], at);
		count[t[at]]++;
		at += t[at] == 0 ? 20 : 8;
	}
	cr_assert_eq(at, len);
}

static int build(unsigned vcpus, uint8_t buf[AREA])
{
	int len;

	memset(buf, 0xa5, AREA); /* nothing may depend on zeroed memory */
	len = mptable_build(vcpus, buf, AREA, NULL);
	cr_assert_gt(len, 0);
	return len;
}

Test(mptable, checksums_and_entries)
{
	static const unsigned vcpus[] = {1, 2, 31, LAYOUT_VCPU_MAX};
	uint8_t buf[AREA];
	unsigned count[5];

	for (unsigned i = 0; i < ARRAY_SIZE(vcpus); i++) {
		size_t len = (size_t)build(vcpus[i], buf);
		const uint8_t *t = buf + 16;

		cr_assert_eq(memcmp(buf, "_MP_", 4), 0);
		cr_assert_eq(le(buf + 4, 4), LAYOUT_MPTABLE + 16);
		cr_assert_eq(sum(buf, 16), 0);
		cr_assert_eq(memcmp(t, "PCMP", 4), 0);
		cr_assert_eq(le(t + 4, 2), len - 16);
		cr_assert_eq(sum(t, len - 16), 0);
		cr_assert_eq(le(t + 36, 4), 0xfee00000u);
		walk(t, len - 16, count);
		cr_assert_eq(count[0], vcpus[i]);
		cr_assert_eq(count[1], 1);
		cr_assert_eq(count[2], 1);
		cr_assert_eq(count[3], LAYOUT_GSI_MAX + 1);
		cr_assert_eq(count[4], 2);
		cr_assert_eq(le(t + 34, 2), vcpus[i] + 28, "entry count");
	}
}

Test(mptable, fields)
{
	uint8_t buf[AREA];
	const uint8_t *cpu = buf + 16 + 44, *bus = cpu + 2 * 20, *ioapic = bus + 8;

	build(2, buf);
	cr_assert_eq(cpu[1], 0);
	cr_assert_eq(cpu[3], 3, "enabled, boot processor");
	cr_assert_eq(cpu[20 + 1], 1);
	cr_assert_eq(cpu[20 + 3], 1, "enabled");
	cr_assert_eq(memcmp(bus + 2, "ISA   ", 6), 0);
	cr_assert_eq(ioapic[1], LAYOUT_IOAPIC_ID);
	cr_assert_eq(ioapic[3], 1);
	cr_assert_eq(le(ioapic + 4, 4), 0xfec00000u);
	for (unsigned i = 0; i <= LAYOUT_GSI_MAX; i++) {
		const uint8_t *irq = ioapic + 8 + i * 8;

		cr_assert_eq(irq[1], 0, "INT");
		cr_assert_eq(le(irq + 2, 2), 5, "active high, edge");
		cr_assert_eq(irq[4], bus[1]);
		cr_assert_eq(irq[5], i);
		cr_assert_eq(irq[6], LAYOUT_IOAPIC_ID);
		cr_assert_eq(irq[7], i);
	}
}

Test(mptable, needs_room)
{
	uint8_t buf[AREA];
	struct err e = {0};
	int len = build(1, buf);

	cr_assert_eq(mptable_build(1, buf, (size_t)len, NULL), len);
	memset(buf, 0xa5, sizeof(buf));
	cr_assert_eq(mptable_build(1, buf, (size_t)len - 1, &e), -ENOSPC);
	cr_assert_neq(strstr(e.msg, "MP table"), NULL);
	cr_assert_eq(buf[0], 0xa5, "nothing written");
}
