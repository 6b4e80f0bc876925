/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "vmm/config.h"
#include "vmm/vm.h"

static struct config c;
static struct err e;

static void start(void)
{
	config_init(&c);
}

TestSuite(hotplug, .init = start, .timeout = 30);

static int set(uint64_t total, uint64_t slot, uint64_t block)
{
	const struct hotplug_config h = {
		.total_size_mib = total, .slot_size_mib = slot, .block_size_mib = block};

	return config_set_hotplug(&c, &h, &e);
}

Test(hotplug, sizes)
{
	struct hotplug_config h;

	hotplug_config_init(&h);
	cr_expect_eq(h.slot_size_mib, 128);
	cr_expect_eq(h.block_size_mib, 2);
	cr_expect_eq(set(1024, 128, 2), 0);
	cr_expect(c.hotplug.configured);
	cr_expect_eq(set(1152, 384, 128), 0, "a slot need be no power of two");
	cr_expect_eq(c.hotplug.total_size_mib, 1152);
	cr_expect_eq(set(1024, 128, 1), -EINVAL);
	cr_expect_eq(set(1024, 128, 3), -EINVAL);
	cr_expect_eq(set(1024, 128, 0), -EINVAL);
	cr_expect_eq(set(1024, 64, 2), -EINVAL);
	cr_expect_eq(set(1024, 192, 128), -EINVAL);
	cr_expect_eq(set(0, 128, 2), -EINVAL);
	cr_expect_eq(set(100, 128, 2), -EINVAL);
	cr_expect_eq(set(2 * CONFIG_MEM_MIB_MAX, 128, 2), -EINVAL);
	cr_expect_eq(c.hotplug.total_size_mib, 1152, "as it was");
}

Test(hotplug, above_ram)
{
	struct gmem_region r[3];

	cr_expect_eq(hotplug_layout(&c, r, &e), 1);
	cr_assert_eq(set(1024, 256, 4), 0);
	cr_assert_eq(hotplug_layout(&c, r, &e), 2);
	cr_expect_eq(r[0].block, 0);
	cr_expect_eq(r[1].gpa, GIB(4));
	cr_expect_eq(r[1].len, GIB(1));
	cr_expect_eq(r[1].block, MIB(4));
	cr_expect_eq(r[1].part, MIB(256));
	c.machine.mem_size_mib = 3072 + 10;
	cr_assert_eq(hotplug_layout(&c, r, &e), 3);
	cr_expect_eq(r[2].gpa, GIB(4) + MIB(128));
	cr_assert_eq(set(8192, 4096, 4096), 0);
	cr_assert_eq(hotplug_layout(&c, r, &e), 3);
	cr_expect_eq(r[2].gpa, GIB(8), "aligned to its blocks");
}

Test(hotplug, with_what_it_cannot_be)
{
	struct gmem_region r[3];

	cr_assert_eq(set(1024, 128, 2), 0);
	c.machine.huge_pages = HUGE_PAGES_2M;
	cr_expect_eq(hotplug_layout(&c, r, &e), -EINVAL);
	cr_expect(strstr(e.msg, "huge_pages"), "%s", e.msg);
	c.machine.huge_pages = HUGE_PAGES_TRANSPARENT;
	cr_expect_eq(hotplug_layout(&c, r, &e), 2);
	c.machine.mem_size_mib = CONFIG_MEM_MIB_MAX;
	cr_expect_eq(hotplug_layout(&c, r, &e), -EINVAL);
	cr_expect(strstr(e.msg, "mem_size_mib"), "%s", e.msg);
}

Test(hotplug, a_machine_that_has_none)
{
	struct hotplug_status s;
	struct vm vm = {0};

	cr_expect_eq(vm_hotplug_set(&vm, 2, &e), -EINVAL);
	cr_expect_eq(vm_hotplug_get(&vm, &s, &e), -EINVAL);
	cr_expect_str_eq(e.msg, "there is no memory hotplug");
}
