/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cpu_template.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "api-sock/body.h"
#include "api-sock/cpuconfig.h"

static struct cpu_template t;
static struct err e;

TestSuite(cpu_template, .timeout = 30);

static int read_template(const char *text)
{
	json_t *json = body_parse(text, strlen(text), &e);
	int r;

	cr_assert_not_null(json, "%s", e.msg);
	t = (struct cpu_template){0};
	r = cpuconfig_read(json, &t, &e);
	json_decref(json);
	return r;
}

static void refused(const char *text, const char *part)
{
	cr_expect_eq(read_template(text), -EINVAL, "%s", text);
	cr_expect(strstr(e.msg, part), "'%s' is not in '%s'", part, e.msg);
}

Test(cpu_template, bitmaps)
{
	struct cpu_bits b;
	char text[67];

	cr_assert_eq(cpu_bits_parse(&b, 32, "0b1x0", &e), 0);
	cr_expect(b.mask == 5 && b.value == 4);
	cpu_bits_print(&b, 32, text);
	cr_expect_str_eq(text, "0bxxxxxxxxxxxxxxxxxxxxxxxxxxxxx1x0");
	cr_assert_eq(cpu_bits_parse(&b, 8, "0b1111_0000", &e), 0);
	cr_expect(b.mask == 0xff && b.value == 0xf0);
	cr_assert_eq(cpu_bits_parse(&b, 64,
				    "0b1111111111111111111111111111111111111111111111111111111111"
				    "111110",
				    &e),
		     0);
	cr_expect(b.mask == UINT64_MAX && b.value == UINT64_MAX - 1);
	cpu_bits_print(&b, 64, text);
	cr_expect_eq(strlen(text), 66);
	cr_expect_eq(cpu_bits_parse(&b, 8, "0b111111110", &e), -EINVAL);
	cr_expect_eq(cpu_bits_parse(&b, 8, "1", &e), -EINVAL);
	cr_expect_eq(cpu_bits_parse(&b, 8, "0b", &e), -EINVAL);
	cr_expect_eq(cpu_bits_parse(&b, 8, "0b12", &e), -EINVAL);
	cr_expect_eq(cpu_bits_parse(&b, 8, "", &e), -EINVAL);
}

#define WHOLE                                                                              \
	"{\"kvm_capabilities\":[\"121\",\"!56\"],\"cpuid_modifiers\":[{\"leaf\":\"0x1\","  \
	"\"subleaf\":\"0x0\",\"flags\":0,\"modifiers\":[{\"register\":\"ecx\",\"bitmap\":" \
	"\"0bxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx0\"}]}],\"msr_modifiers\":[{\"addr\":"         \
	"\"0x10a\",\"bitmap\":\"0bxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"    \
	"xxxxxxxxxx1x\"}]}"

Test(cpu_template, what_is_printed_can_be_read)
{
	json_t *json;
	char *text;

	cr_assert_eq(read_template(WHOLE), 0, "%s", e.msg);
	cr_expect(t.cap_count == 2 && t.cap[0].number == 121 && !t.cap[0].removed);
	cr_expect(t.cap[1].number == 56 && t.cap[1].removed);
	cr_expect(t.cpuid_count == 1 && t.cpuid[0].leaf == 1);
	cr_expect(t.cpuid[0].reg[CPU_ECX].mask == 1 && t.cpuid[0].reg[CPU_ECX].value == 0);
	cr_expect(t.msr_count == 1 && t.msr[0].index == 0x10a && t.msr[0].bits.value == 2);
	json = cpuconfig_print(&t);
	text = json_dumps(json, JSON_COMPACT);
	cr_expect_str_eq(text, WHOLE);
	free(text);
	json_decref(json);
	cr_expect_eq(read_template("{}"), 0);
	cr_expect_eq(read_template("{\"reg_modifiers\":[],\"vcpu_features\":null}"), 0);
}

#define LEAF(text) "{\"cpuid_modifiers\":[{" text "}]}"
#define REG(text) \
	LEAF("\"leaf\":\"0x1\",\"subleaf\":\"0x0\",\"flags\":0,\"modifiers\":[{" text "}]")

Test(cpu_template, errors_name_list_item_and_field)
{
	refused("{\"kvm_capabilities\":[\"1\",2]}", "field `kvm_capabilities`, item 2: expected");
	refused("{\"kvm_capabilities\":[\"x\"]}", "'x' is not like");
	refused("{\"kvm_capabilities\":[\"!\"]}", "is not like");
	refused("{\"reg_modifiers\":[{}]}", "aarch64");
	refused("{\"vcpu_features\":[{}]}", "aarch64");
	refused("{\"msr_modifiers\":[7]}", "not an object");
	refused("{\"msr_modifiers\":[{}]}", "missing field `addr`");
	refused("{\"msr_modifiers\":[{\"addr\":\"1\"}]}", "field `addr`: '1'");
	refused("{\"msr_modifiers\":[{\"addr\":\"0x100000000\"}]}", "field `addr`");
	refused("{\"msr_modifiers\":[{\"addr\":\"0x\"}]}", "field `addr`");
	refused("{\"msr_modifiers\":[{\"addr\":\"0b2\"}]}", "field `addr`");
	refused("{\"msr_modifiers\":[{\"addr\":\"\"}]}", "field `addr`");
	refused("{\"msr_modifiers\":[{\"addr\":\"0x1\",\"bitmap\":1}]}", "field `bitmap`");
	refused(LEAF("\"leaf\":1"), "field `leaf`: expected a string");
	refused(LEAF("\"leaf\":\"0x1\",\"subleaf\":\"0x0\""), "field `flags`");
	refused(LEAF("\"leaf\":\"0x1\",\"subleaf\":\"0b11\",\"flags\":-1"), "field `flags`");
	refused(LEAF("\"leaf\":\"0x1\",\"subleaf\":\"0x0\",\"flags\":1"), "field `modifiers`");
	refused(REG("\"register\":\"rax\""), "'rax' is not eax");
	refused(REG("\"register\":\"eax\",\"bitmap\":\"0b2\""), "bitmap '0b2'");
	refused(REG("\"register\":\"eax\""), "missing field `bitmap`");
}

Test(cpu_template, lists_have_an_end)
{
	char text[4096] = "{\"kvm_capabilities\":[\"1\"";

	for (unsigned i = 1; i < CPU_TEMPLATE_CAPS_MAX; i++)
		strcat(text, ",\"1\"");
	strcat(text, "]}");
	cr_expect_eq(read_template(text), 0);
	strcpy(text + strlen(text) - 2, ",\"1\"]}");
	refused(text, "more than 32 items");
}

Test(cpu_template, cpuid)
{
	struct x86_cpuid c = {.nent = 2};

	c.entry[0] = (struct kvm_cpuid_entry2){.function = 7, .index = 1, .eax = ~0u};
	c.entry[1] = (struct kvm_cpuid_entry2){.function = 1, .eax = 1, .ecx = ~0u, .edx = 8};
	cr_assert_eq(read_template(WHOLE), 0);
	cr_assert_eq(cpu_template_apply_cpuid(&t, &c, &e), 0);
	cr_expect_eq(c.entry[1].ecx, ~1u);
	cr_expect(c.entry[1].eax == 1 && c.entry[1].edx == 8 && c.entry[0].eax == ~0u);
	t.cpuid[0].subleaf = 3;
	cr_expect_eq(cpu_template_apply_cpuid(&t, &c, &e), -ENOTSUP);
	cr_expect(strstr(e.msg, "leaf 0x1, subleaf 0x3"));
	cr_expect_eq(cpu_template_apply_cpuid(NULL, &c, &e), 0);
	cr_expect_eq(cpu_template_apply_msrs(NULL, NULL, &e), 0);
	cr_expect_eq(cpu_template_check_kvm(NULL, NULL, &e), 0);
}
