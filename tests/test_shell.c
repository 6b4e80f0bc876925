/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>

#include "vmm/shell.h"

static struct err e;

TestSuite(shell, .timeout = 30);

Test(shell, the_option_in_any_order)
{
	struct shell_config s;

	cr_assert_eq(shell_parse(&s, "vcpus=2,mem_mib=128", &e), 0, "%s", e.msg);
	cr_expect_eq(s.vcpus, 2);
	cr_expect_eq(s.mem_mib, 128);
	cr_expect_eq(s.devices, 4);
	cr_expect_not(s.track_dirty_pages || s.pit);
	cr_assert_eq(shell_parse(&s, "pit,mem_mib=1,devices=0,track_dirty_pages,vcpus=32", &e), 0,
		     "%s", e.msg);
	cr_expect_eq(s.vcpus, 32);
	cr_expect_eq(s.devices, 0);
	cr_expect(s.track_dirty_pages && s.pit);
}

Test(shell, what_is_wrong_is_named)
{
	static const struct {
		const char *text, *part;
	} wrong[] = {
		{"", "unknown"},
		{"vcpus=1", "mem_mib: missing"},
		{"mem_mib=1", "vcpus: missing"},
		{"vcpus=0,mem_mib=1", "vcpus: not a number within 1..32"},
		{"vcpus=33,mem_mib=1", "vcpus: not a number"},
		{"vcpus=-1,mem_mib=1", "vcpus: not a number"},
		{"vcpus=18446744073709551617,mem_mib=1", "vcpus: not a number"},
		{"vcpus=1x,mem_mib=1", "vcpus: not a number"},
		{"vcpus,mem_mib=1", "vcpus: needs a value"},
		{"vcpus=1,mem_mib=", "mem_mib: not a number"},
		{"vcpus=1,mem_mib=1,", "unknown"},
		{"vcpus=1,,mem_mib=1", "unknown"},
		{"vcpus=1,mem_mib=1,pit=1", "pit: takes no value"},
		{"vcpus=1,mem_mib=1,devices=99", "devices: not a number"},
		{"vcpus=1,mem_mib=1,net", "'net': unknown"},
		{"vcpu=1,mem_mib=1", "'vcpu': unknown"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct shell_config s;

		cr_expect_eq(shell_parse(&s, wrong[i].text, &e), -EINVAL, "%s", wrong[i].text);
		cr_expect(strstr(e.msg, wrong[i].part), "'%s': '%s' is not in '%s'", wrong[i].text,
			  wrong[i].part, e.msg);
	}
}

Test(shell, what_fits)
{
	static struct vm vm = {.config.machine = {.vcpu_count = 2, .mem_size_mib = 64}};
	struct shell_need need = {.vcpus = 2, .mem_size = MIB(64)};

	cr_expect_eq(shell_fits(&vm, &need, &e), 0);
	need.pit = true;
	cr_expect_eq(shell_fits(&vm, &need, &e), -EINVAL);
	vm.config.machine.pit = true;
	cr_expect_eq(shell_fits(&vm, &need, &e), 0);
	need.hotplug = true;
	cr_expect_eq(shell_fits(&vm, &need, &e), -EINVAL);
	need.hotplug = false;
	need.mem_size += 4096;
	cr_expect_eq(shell_fits(&vm, &need, &e), -EINVAL);
	need.mem_size -= 4096;
	need.vcpus = 1;
	cr_expect_eq(shell_fits(&vm, &need, &e), -EINVAL);
	cr_expect(strstr(e.msg, "2 vCPUs and 64 MiB, the snapshot needs 1 and 64"), "%s", e.msg);
}
