/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/x86.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/layout.h"

_Static_assert(offsetof(struct x86_cpuid, entry) == offsetof(struct kvm_cpuid2, entries),
	       "struct x86_cpuid is struct kvm_cpuid2 with room");

/* --- CPUID --- */

enum { LEVEL_SMT = 1, LEVEL_CORE = 2 }; /* leaves 0xb and 0x1f, ECX[15:8] */

/* The first letters of the vendor, leaf 0 EBX. */
#define VENDOR_AMD   0x68747541u /* "Auth" */
#define VENDOR_HYGON 0x6f677948u /* "Hygo" */

/* Leaf 0x80000001 ECX: counters of the core, the northbridge and the last-level cache. */
#define AMD_PERF_COUNTERS (1u << 23 | 1u << 24 | 1u << 28)

int x86_cpuid_supported(struct kvm *k, struct x86_cpuid *c, struct err *e)
{
	*c = (struct x86_cpuid){.nent = X86_CPUID_MAX - 8}; /* room for topology levels */
	if (ioctl(k->fd, KVM_GET_SUPPORTED_CPUID, c) < 0)
		return err_sys(e, "ask KVM for its CPUID (KVM_GET_SUPPORTED_CPUID)");
	return 0;
}

static void set_field(uint32_t *reg, unsigned low, unsigned width, uint32_t value)
{
	uint32_t mask = (width == 32 ? ~0u : (1u << width) - 1) << low;

	*reg = (*reg & ~mask) | ((value << low) & mask);
}

/* Bits of the APIC id that number `n` things. */
static uint32_t id_bits(unsigned n)
{
	return n <= 1 ? 0 : 32 - (uint32_t)__builtin_clz(n - 1);
}

static void drop_leaf(struct x86_cpuid *c, uint32_t leaf)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < c->nent; i++)
		if (c->entry[i].function != leaf)
			c->entry[kept++] = c->entry[i];
	c->nent = kept;
}

/*
 * Extended topology. KVM reports the host's levels, or none: replaced as a whole. A leaf that the
 * host lacks stays out, since guests take its presence from the highest basic leaf.
 */
static void shape_levels(struct x86_cpuid *c, uint32_t leaf, const struct x86_topology *t,
			 unsigned index)
{
	unsigned threads = t->smt && t->vcpus > 1 ? 2 : 1;
	const struct {
		uint32_t shift, count, type;
	} level[] = {
		{id_bits(threads), threads, LEVEL_SMT},
		{id_bits(t->vcpus), t->vcpus, LEVEL_CORE},
		{0, 0, 0},
	};

	drop_leaf(c, leaf);
	for (uint32_t i = 0; i < ARRAY_SIZE(level) && c->nent < X86_CPUID_MAX; i++)
		c->entry[c->nent++] = (struct kvm_cpuid_entry2){
			.function = leaf,
			.index = i,
			.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			.eax = level[i].shift,
			.ebx = level[i].count,
			.ecx = i | level[i].type << 8,
			.edx = index,
		};
}

static void shape_entry(struct kvm_cpuid_entry2 *n, const struct x86_topology *t, unsigned index,
			bool tsc_deadline)
{
	unsigned threads = t->smt && t->vcpus > 1 ? 2 : 1;
	uint32_t level = n->eax >> 5 & 7; /* of a cache, in leaf 4 */
	uint32_t sharing = level >= 3 ? t->vcpus : threads;

	switch (n->function) {
	case 0x1:
		set_field(&n->ebx, 24, 8, index);
		set_field(&n->ebx, 16, 8, t->vcpus);
		set_field(&n->ecx, 24, 1, tsc_deadline);
		set_field(&n->ecx, 31, 1, 1);		 /* under a hypervisor */
		set_field(&n->edx, 28, 1, t->vcpus > 1); /* HTT: EBX[23:16] is valid */
		break;
	case 0x4:
		if (n->eax & 0x1f) {
			set_field(&n->eax, 14, 12, (1u << id_bits(sharing)) - 1);
			set_field(&n->eax, 26, 6, (1u << id_bits(t->vcpus / threads)) - 1);
		}
		break;
	case 0xa: /* performance counters: not virtualized */
		n->eax = n->ebx = n->ecx = n->edx = 0;
		break;
	}
}

/* Leaves that mean something else, or nothing, on an Intel processor. */
static void shape_amd_entry(struct kvm_cpuid_entry2 *n, const struct x86_topology *t,
			    unsigned index)
{
	unsigned threads = t->smt && t->vcpus > 1 ? 2 : 1;
	uint32_t level = n->eax >> 5 & 7;

	switch (n->function) {
	case 0x80000001:
		set_field(&n->ecx, 1, 1, t->vcpus > 1); /* CmpLegacy */
		n->ecx &= ~AMD_PERF_COUNTERS;
		break;
	case 0x80000008:
		set_field(&n->ecx, 0, 8, t->vcpus - 1);
		set_field(&n->ecx, 12, 4, id_bits(t->vcpus));
		break;
	case 0x8000001d:
		if (n->eax & 0x1f)
			set_field(&n->eax, 14, 12, (level >= 3 ? t->vcpus : threads) - 1);
		break;
	case 0x8000001e:
		n->eax = index;
		n->ebx = index / threads | (threads - 1) << 8;
		n->ecx = 0; /* one node, number 0 */
		break;
	case 0x80000022: /* more performance counters */
		n->eax = n->ebx = n->ecx = n->edx = 0;
		break;
	}
}

void x86_cpuid_shape(struct x86_cpuid *c, const struct x86_topology *t, unsigned index,
		     bool tsc_deadline)
{
	uint32_t highest = 0;
	bool amd = false;

	for (uint32_t i = 0; i < c->nent; i++) {
		if (c->entry[i].function != 0)
			continue;
		highest = c->entry[i].eax;
		amd = c->entry[i].ebx == VENDOR_AMD || c->entry[i].ebx == VENDOR_HYGON;
	}
	for (uint32_t i = 0; i < c->nent; i++) {
		shape_entry(&c->entry[i], t, index, tsc_deadline);
		if (amd)
			shape_amd_entry(&c->entry[i], t, index);
	}
	if (highest >= 0xb)
		shape_levels(c, 0xb, t, index);
	if (highest >= 0x1f)
		shape_levels(c, 0x1f, t, index);
}

uint64_t x86_phys_end(const struct x86_cpuid *c)
{
	uint32_t bits = 36; /* of every processor with long mode that does not say */

	for (uint32_t i = 0; i < c->nent; i++)
		if (c->entry[i].function == 0x80000008)
			bits = c->entry[i].eax & 0xff;
	return bits < 64 ? 1ull << bits : UINT64_MAX;
}

/* --- MSRs --- */

#define MSR_IA32_MISC_ENABLE	0x1a0u
#define MISC_ENABLE_FAST_STRING 1u
#define MSR_MTRR_DEF_TYPE	0x2ffu
#define MTRR_ENABLED_WRITE_BACK (1u << 11 | 6u)

static const struct {
	uint32_t index;
	uint64_t value;
	const char *name;
} boot_msrs[] = {
	/* Linux trusts `rep movsb` to be fast only with this bit. */
	{MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING, "IA32_MISC_ENABLE"},
	/* All memory is write-back; nobody programs the other MTRRs. */
	{MSR_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK, "IA32_MTRR_DEF_TYPE"},
};

static int set_msrs(struct vcpu *v, struct err *e)
{
	struct { /* struct kvm_msrs with room for its entries */
		uint32_t count, pad;
		struct kvm_msr_entry entry[ARRAY_SIZE(boot_msrs)];
	} list = {.count = ARRAY_SIZE(boot_msrs)};
	int n;

	for (size_t i = 0; i < ARRAY_SIZE(boot_msrs); i++)
		list.entry[i] = (struct kvm_msr_entry){.index = boot_msrs[i].index,
						       .data = boot_msrs[i].value};
	n = ioctl(v->fd, KVM_SET_MSRS, &list);
	if (n < 0)
		return err_sys(e, "set MSRs (KVM_SET_MSRS)");
	/* KVM stops at the first one that it refuses and says how many went before. */
	if ((size_t)n < ARRAY_SIZE(boot_msrs))
		return err_set(e, EINVAL, "KVM refused MSR 0x%x (%s) = 0x%llx", boot_msrs[n].index,
			       boot_msrs[n].name, (unsigned long long)boot_msrs[n].value);
	return 0;
}

/* --- registers --- */

#define CR0_PE	 (1u << 0)
#define CR0_ET	 (1u << 4)
#define CR0_PG	 (1u << 31)
#define CR4_PAE	 (1u << 5)
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)

#define RFLAGS_FIXED 2u /* bit 1 is always set; interrupts are off */

/* A flat segment; `type` 11: execute/read, 3: read/write, both accessed. */
static struct kvm_segment flat_segment(uint16_t selector, uint8_t type, bool long_mode)
{
	return (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.s = 1,
		.g = 1,
		.l = type == 11 && long_mode,
		.db = !(type == 11 && long_mode),
	};
}

static void boot_sregs(struct kvm_sregs *s, bool long_mode)
{
	struct kvm_segment data = flat_segment(BOOT_SEL_DATA, 3, long_mode);

	s->cs = flat_segment(BOOT_SEL_CODE, 11, long_mode);
	s->ds = s->es = s->fs = s->gs = s->ss = data;
	/* VM entry demands a busy task state segment, which nothing uses. */
	s->tr = (struct kvm_segment){
		.limit = 0x67, .selector = BOOT_SEL_TSS, .type = 11, .present = 1};
	s->gdt.base = LAYOUT_GDT;
	s->gdt.limit = BOOT_GDT_ENTRIES * 8 - 1;
	s->idt.base = 0;
	s->idt.limit = 0;
	s->cr0 = CR0_PE | CR0_ET;
	if (!long_mode)
		return;
	s->cr0 |= CR0_PG;
	s->cr3 = LAYOUT_PAGE_TABLE;
	s->cr4 |= CR4_PAE;
	s->efer |= EFER_LME | EFER_LMA;
}

static int set_registers(struct vcpu *v, const struct boot_entry *entry, struct err *e)
{
	bool pvh = entry->format == BOOT_ELF_PVH;
	struct kvm_regs regs = {.rflags = RFLAGS_FIXED, .rip = entry->rip};
	struct kvm_sregs sregs;

	if (pvh) {
		regs.rbx = entry->params;
	} else {
		regs.rsi = entry->params;
		regs.rsp = regs.rbp = LAYOUT_STACK;
	}
	if (ioctl(v->fd, KVM_GET_SREGS, &sregs) < 0)
		return err_sys(e, "read special registers (KVM_GET_SREGS)");
	boot_sregs(&sregs, !pvh);
	if (ioctl(v->fd, KVM_SET_SREGS, &sregs) < 0)
		return err_sys(e, "set special registers (KVM_SET_SREGS)");
	if (ioctl(v->fd, KVM_SET_REGS, &regs) < 0)
		return err_sys(e, "set registers (KVM_SET_REGS)");
	return 0;
}

/* --- local APIC --- */

#define APIC_LVT_LINT0	0x350u
#define APIC_LVT_LINT1	0x360u
#define APIC_LVT_EXTINT (7u << 8)
#define APIC_LVT_NMI	(4u << 8)

/* Virtual wire mode: what firmware leaves behind, for a kernel that uses the 8259. */
static int set_lint(struct vcpu *v, struct err *e)
{
	struct kvm_lapic_state lapic;
	uint32_t lint0 = APIC_LVT_EXTINT, lint1 = APIC_LVT_NMI;

	if (ioctl(v->fd, KVM_GET_LAPIC, &lapic) < 0)
		return err_sys(e, "read the local APIC (KVM_GET_LAPIC)");
	memcpy(lapic.regs + APIC_LVT_LINT0, &lint0, sizeof(lint0));
	memcpy(lapic.regs + APIC_LVT_LINT1, &lint1, sizeof(lint1));
	if (ioctl(v->fd, KVM_SET_LAPIC, &lapic) < 0)
		return err_sys(e, "set the local APIC (KVM_SET_LAPIC)");
	return 0;
}

int x86_set_cpuid(struct vcpu *v, const struct x86_cpuid *c, struct err *e)
{
	size_t size = offsetof(struct x86_cpuid, entry) + c->nent * sizeof(c->entry[0]);

	if (ioctl(v->fd, KVM_SET_CPUID2, c) < 0)
		return err_sys(e, "set CPUID (KVM_SET_CPUID2)");
	free(v->cpuid);
	v->cpuid = malloc(size);
	if (!v->cpuid)
		return err_set(e, ENOMEM, "out of memory");
	memcpy(v->cpuid, c, size);
	return 0;
}

int x86_setup_vcpu(struct vcpu *v, const struct x86_cpuid *c, const struct boot_entry *entry,
		   struct err *e)
{
	int r;

	r = x86_set_cpuid(v, c, e);
	if (r == 0)
		r = set_msrs(v, e);
	if (r == 0 && v->index == 0)
		r = set_registers(v, entry, e);
	if (r == 0 && v->index == 0)
		r = set_lint(v, e);
	return r < 0 ? err_wrap(e, "vCPU %u", v->index) : 0;
}
