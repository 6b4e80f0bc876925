/* SPDX-License-Identifier: Apache-2.0 */
#include "api-sock/cpuconfig.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *const register_name[CPU_REGISTERS] = {"eax", "ebx", "ecx", "edx"};

/* A member that must be a text; NULL with `e` filled. */
static const char *text_of(const json_t *object, const char *key, struct err *e)
{
	const json_t *v = json_object_get(object, key);

	if (!json_is_object(object))
		err_set(e, EINVAL, "an item of the list is not an object");
	else if (!v)
		err_set(e, EINVAL, "missing field `%s`", key);
	else if (!json_is_string(v))
		err_set(e, EINVAL, "field `%s`: expected a string", key);
	return json_string_value(v);
}

/* A number as a text: "0x..." or "0b...", as Firecracker writes them. */
static int number_of(const json_t *object, const char *key, uint32_t *out, struct err *e)
{
	const char *text = text_of(object, key, e);
	int base = text && strncmp(text, "0x", 2) == 0 ? 16 : 2;
	unsigned long long n;
	char *end;

	if (!text)
		return -EINVAL;
	n = strtoull(text + 2 * (text[0] == '0' && text[1]), &end, base);
	if ((base == 2 && strncmp(text, "0b", 2) != 0) || !isxdigit((unsigned char)text[2]) ||
	    *end || n > UINT32_MAX)
		return err_set(e, EINVAL,
			       "field `%s`: '%.40s' is not a number of 32 bits with 0x or 0b", key,
			       text);
	*out = (uint32_t)n;
	return 0;
}

static int bits_of(const json_t *object, struct cpu_bits *b, unsigned width, struct err *e)
{
	const char *text = text_of(object, "bitmap", e);

	return text ? cpu_bits_parse(b, width, text, e) : -EINVAL;
}

static int read_register(const json_t *json, struct cpuid_modifier *m, struct err *e)
{
	const char *name = text_of(json, "register", e);

	if (!name)
		return -EINVAL;
	for (unsigned i = 0; i < CPU_REGISTERS; i++)
		if (strcmp(name, register_name[i]) == 0)
			return bits_of(json, &m->reg[i], 32, e);
	return err_set(e, EINVAL, "field `register`: '%.40s' is not eax, ebx, ecx or edx", name);
}

static int read_cpuid(const json_t *json, struct cpu_template *t, struct err *e)
{
	struct cpuid_modifier *m = &t->cpuid[t->cpuid_count];
	const json_t *flags = json_object_get(json, "flags");
	const json_t *list = json_object_get(json, "modifiers");
	int r = t->cpuid_count++ < CPU_TEMPLATE_CPUID_MAX
			? number_of(json, "leaf", &m->leaf, e)
			: err_set(e, EINVAL, "more than %d items", CPU_TEMPLATE_CPUID_MAX);

	if (r == 0)
		r = number_of(json, "subleaf", &m->subleaf, e);
	if (r < 0)
		return r;
	if (!json_is_integer(flags) || json_integer_value(flags) < 0 ||
	    json_integer_value(flags) > UINT32_MAX)
		return err_set(e, EINVAL, "field `flags`: expected an integer of 32 bits");
	m->flags = (uint32_t)json_integer_value(flags);
	if (!json_is_array(list))
		return err_set(e, EINVAL, "field `modifiers`: expected an array");
	for (size_t i = 0; r == 0 && i < json_array_size(list); i++)
		r = read_register(json_array_get(list, i), m, e);
	return r;
}

static int read_msr(const json_t *json, struct cpu_template *t, struct err *e)
{
	struct msr_modifier *m = &t->msr[t->msr_count];
	int r = t->msr_count++ < CPU_TEMPLATE_MSRS_MAX
			? number_of(json, "addr", &m->index, e)
			: err_set(e, EINVAL, "more than %d items", CPU_TEMPLATE_MSRS_MAX);

	return r == 0 ? bits_of(json, &m->bits, 64, e) : r;
}

static int read_capability(const json_t *json, struct cpu_template *t, struct err *e)
{
	struct cpu_capability *c = &t->cap[t->cap_count];
	const char *text = json_string_value(json);
	unsigned long long n;
	char *end;

	if (t->cap_count++ == CPU_TEMPLATE_CAPS_MAX)
		return err_set(e, EINVAL, "more than %d items", CPU_TEMPLATE_CAPS_MAX);
	if (!text)
		return err_set(e, EINVAL, "expected a string, like \"121\" or \"!121\"");
	c->removed = text[0] == '!';
	text += c->removed;
	n = strtoull(text, &end, 10);
	if (!isdigit((unsigned char)text[0]) || *end || n > UINT32_MAX)
		return err_set(e, EINVAL, "'%.40s' is not like \"121\" or \"!121\"", text);
	c->number = (unsigned)n;
	return 0;
}

/* What only an aarch64 processor has; an empty list asks for nothing. */
static int refuse_arm(const json_t *json, struct cpu_template *t, struct err *e)
{
	(void)json;
	(void)t;
	return err_set(e, EINVAL, "only aarch64 has it, this is an x86-64 monitor");
}

static const struct {
	const char *key;
	int (*read)(const json_t *json, struct cpu_template *t, struct err *e);
} lists[] = {
	{"kvm_capabilities", read_capability}, {"cpuid_modifiers", read_cpuid},
	{"msr_modifiers", read_msr},	       {"reg_modifiers", refuse_arm},
	{"vcpu_features", refuse_arm},
};

int cpuconfig_read(const json_t *json, struct cpu_template *t, struct err *e)
{
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		const json_t *list = json_object_get(json, lists[i].key);

		for (size_t n = 0; n < json_array_size(list); n++)
			if (lists[i].read(json_array_get(list, n), t, e) < 0)
				return err_wrap(e, "field `%s`, item %zu", lists[i].key, n + 1);
	}
	return 0;
}

static json_t *print_number(uint32_t n)
{
	char text[16];

	snprintf(text, sizeof(text), "0x%x", n);
	return json_string(text);
}

static json_t *print_bits(const struct cpu_bits *b, unsigned width)
{
	char text[67];

	cpu_bits_print(b, width, text);
	return json_string(text);
}

static json_t *print_cpuid(const struct cpuid_modifier *m)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < CPU_REGISTERS; i++)
		if (m->reg[i].mask)
			json_array_append_new(list,
					      json_pack("{s:s, s:o}", "register", register_name[i],
							"bitmap", print_bits(&m->reg[i], 32)));
	return json_pack("{s:o, s:o, s:I, s:o}", "leaf", print_number(m->leaf), "subleaf",
			 print_number(m->subleaf), "flags", (json_int_t)m->flags, "modifiers",
			 list);
}

json_t *cpuconfig_print(const struct cpu_template *t)
{
	json_t *caps = json_array(), *cpuid = json_array(), *msrs = json_array();

	for (unsigned i = 0; i < t->cap_count; i++) {
		char text[16];

		snprintf(text, sizeof(text), "%s%u", t->cap[i].removed ? "!" : "",
			 t->cap[i].number);
		json_array_append_new(caps, json_string(text));
	}
	for (unsigned i = 0; i < t->cpuid_count; i++)
		json_array_append_new(cpuid, print_cpuid(&t->cpuid[i]));
	for (unsigned i = 0; i < t->msr_count; i++)
		json_array_append_new(msrs,
				      json_pack("{s:o, s:o}", "addr", print_number(t->msr[i].index),
						"bitmap", print_bits(&t->msr[i].bits, 64)));
	return json_pack("{s:o, s:o, s:o}", "kvm_capabilities", caps, "cpuid_modifiers", cpuid,
			 "msr_modifiers", msrs);
}
