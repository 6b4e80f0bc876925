/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>

#include "vmm/identity.h"
#include "vmm/layout.h"
#include "vmm/pvpanic.h"

static struct gmem mem;

static void start(void)
{
	const struct gmem_region ram = {.gpa = 0, .len = MIB(1)};

	cr_assert_eq(gmem_init(&mem, &ram, 1, GMEM_ANON, false, NULL), 0);
	cr_assert_eq(identity_begin(&mem, NULL), 0);
}

static void finish(void)
{
	gmem_finish(&mem);
}

TestSuite(identity, .init = start, .fini = finish);

static uint64_t clock_at(unsigned off, unsigned len)
{
	uint64_t v = 0;

	cr_assert_eq(gmem_read(&mem, LAYOUT_VMCLOCK + off, &v, len), 0);
	return v;
}

Test(identity, as_a_new_guest_finds_it)
{
	cr_assert_eq(clock_at(0, 4), 0x4b4c4356);
	cr_assert_eq(clock_at(4, 4), 4096);
	cr_assert_eq(clock_at(8, 2), 1);
	cr_assert_eq(clock_at(10, 1), 0xff);
	cr_assert_eq(clock_at(12, 4), 0);
	cr_assert_eq(clock_at(24, 8), 0x300);
}

Test(identity, everything_changes_after_a_restore)
{
	uint8_t seen[3][16];

	for (unsigned i = 0; i < 3; i++) {
		gmem_read(&mem, LAYOUT_VMGENID, seen[i], 16);
		for (unsigned k = 0; k < i; k++)
			cr_assert_arr_neq(seen[i], seen[k], 16);
		cr_assert_eq(clock_at(12, 4), 2 * i, "even: it may be read");
		cr_assert_eq(clock_at(16, 8), i);
		cr_assert_eq(clock_at(104, 8), i);
		cr_assert_eq(identity_renew(&mem, NULL), 0);
	}
}

Test(identity, a_guest_that_wrote_there_itself)
{
	const uint32_t odd = UINT32_MAX;

	gmem_write(&mem, LAYOUT_VMCLOCK + 12, &odd, 4);
	cr_assert_eq(identity_renew(&mem, NULL), 0);
	cr_assert_eq(clock_at(12, 4), 0);
}

Test(identity, touching_changes_nothing)
{
	static uint8_t before[LAYOUT_VMCLOCK + 4096], after[sizeof(before)];

	gmem_read(&mem, 0, before, sizeof(before));
	identity_touch(&mem);
	gmem_read(&mem, 0, after, sizeof(after));
	cr_assert_arr_eq(before, after, sizeof(before));
}

static struct event_log events;
static struct loop loop;

Test(pvpanic, each_event_once)
{
	static const uint8_t writes[] = {0xfc, 0, 1, 1, 2, 3};
	struct pvpanic p = {.events = &events};
	char text[1000] = "";
	uint64_t at = 0;
	uint8_t v = 0;

	cr_assert_eq(loop_init(&loop, NULL), 0);
	cr_assert_eq(event_init(&events, &loop, NULL), 0);
	pvpanic_bus_ops.read(&p, 0, &v, 1);
	cr_assert_eq(v, 3);
	for (unsigned i = 0; i < sizeof(writes); i++)
		pvpanic_bus_ops.write(&p, 0, &writes[i], 1);
	text[event_read(&events, &at, text, sizeof(text) - 1)] = '\0';
	cr_assert_not_null(strstr(text, "\"seq\":1"), "%s", text);
	cr_assert_not_null(strstr(text, "\"event\":\"guest_panicked\""));
	cr_assert_not_null(strstr(text, "\"event\":\"guest_crash_loaded\""));
	cr_assert_null(strstr(text, "\"seq\":3"), "%s", text);
	event_finish(&events);
	loop_finish(&loop);
}
