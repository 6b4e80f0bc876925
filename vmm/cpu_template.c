/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cpu_template.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

int cpu_bits_parse(struct cpu_bits *b, unsigned width, const char *text, struct err *e)
{
	unsigned digits = 0;

	*b = (struct cpu_bits){0};
	if (strncmp(text, "0b", 2) != 0 || !text[2])
		return err_set(e, EINVAL, "bitmap '%.80s' does not begin with 0b and a digit",
			       text);
	for (const char *p = text + 2; *p; p++) {
		if (*p == '_')
			continue;
		if (*p != '0' && *p != '1' && *p != 'x')
			return err_set(e, EINVAL, "bitmap '%.80s': only 0, 1, x and _ are digits",
				       text);
		if (++digits > width)
			return err_set(e, EINVAL, "bitmap '%.80s': more than %u digits", text,
				       width);
		b->mask = b->mask << 1 | (*p != 'x');
		b->value = b->value << 1 | (*p == '1');
	}
	return 0;
}

void cpu_bits_print(const struct cpu_bits *b, unsigned width, char *buf)
{
	strcpy(buf, "0b");
	for (unsigned i = 0; i < width; i++) {
		uint64_t bit = 1ull << (width - 1 - i);

		buf[2 + i] = !(b->mask & bit) ? 'x' : b->value & bit ? '1' : '0';
	}
	buf[2 + width] = '\0';
}

static uint64_t change(uint64_t old, const struct cpu_bits *b)
{
	return (old & ~b->mask) | b->value;
}

int cpu_template_check_kvm(const struct cpu_template *t, struct kvm *k, struct err *e)
{
	for (unsigned i = 0; t && i < t->cap_count; i++)
		if (!t->cap[i].removed && ioctl(k->fd, KVM_CHECK_EXTENSION, t->cap[i].number) <= 0)
			return err_set(e, ENOTSUP, "cpu-config: KVM has no capability %u",
				       t->cap[i].number);
	return 0;
}

static struct kvm_cpuid_entry2 *find_entry(struct x86_cpuid *c, const struct cpuid_modifier *m)
{
	for (uint32_t i = 0; i < c->nent; i++)
		if (c->entry[i].function == m->leaf && c->entry[i].index == m->subleaf)
			return &c->entry[i];
	return NULL;
}

int cpu_template_apply_cpuid(const struct cpu_template *t, struct x86_cpuid *c, struct err *e)
{
	for (unsigned i = 0; t && i < t->cpuid_count; i++) {
		const struct cpuid_modifier *m = &t->cpuid[i];
		struct kvm_cpuid_entry2 *n = find_entry(c, m);

		if (!n)
			return err_set(e, ENOTSUP,
				       "cpu-config: CPUID leaf 0x%x, subleaf 0x%x is not one that "
				       "KVM supports here",
				       m->leaf, m->subleaf);
		n->eax = (uint32_t)change(n->eax, &m->reg[CPU_EAX]);
		n->ebx = (uint32_t)change(n->ebx, &m->reg[CPU_EBX]);
		n->ecx = (uint32_t)change(n->ecx, &m->reg[CPU_ECX]);
		n->edx = (uint32_t)change(n->edx, &m->reg[CPU_EDX]);
	}
	return 0;
}

static int change_msr(const struct msr_modifier *m, struct vcpu *v, struct err *e)
{
	struct { /* struct kvm_msrs with room for its entry */
		uint32_t count, pad;
		struct kvm_msr_entry entry;
	} list = {.count = 1, .entry.index = m->index};
	int r = ioctl(v->fd, KVM_GET_MSRS, &list);

	if (r == 1) {
		list.entry.data = change(list.entry.data, &m->bits);
		r = ioctl(v->fd, KVM_SET_MSRS, &list);
		if (r == 1)
			return 0;
	}
	if (r < 0)
		return err_sys(e, "cpu-config: MSR 0x%x", m->index);
	return err_set(e, ENOTSUP, "cpu-config: KVM refused MSR 0x%x", m->index);
}

int cpu_template_apply_msrs(const struct cpu_template *t, struct vcpu *v, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; t && r == 0 && i < t->msr_count; i++)
		r = change_msr(&t->msr[i], v, e);
	return r;
}
