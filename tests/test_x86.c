/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/x86.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm/base/fd.h"
#include "vmm/layout.h"

/* --- tables as KVM would give them --- */

static void put(struct x86_cpuid *c, uint32_t leaf, uint32_t index, uint32_t a, uint32_t b,
		uint32_t x, uint32_t d)
{
	c->entry[c->nent++] = (struct kvm_cpuid_entry2){
		.function = leaf, .index = index, .eax = a, .ebx = b, .ecx = x, .edx = d};
}

/* A server processor with hyper-threads; the host's own topology in every leaf. */
static void intel(struct x86_cpuid *c)
{
	*c = (struct x86_cpuid){0};
	put(c, 0, 0, 0x1f, 0x756e6547, 0x6c65746e, 0x49656e69); /* GenuineIntel */
	put(c, 1, 0, 0x606a6, 0x7f400800, 0x7ffafbff, 0xafebfbff);
	put(c, 4, 0, 0xfc004121, 0x2c0003f, 63, 0); /* L1 data, 2 threads */
	put(c, 4, 1, 0xfc004122, 0x1c0003f, 63, 0); /* L1 code */
	put(c, 4, 2, 0xfc004143, 0x4c0003f, 1023, 0);
	put(c, 4, 3, 0xfc1fc163, 0x2c0003f, 57343, 4); /* L3, 128 threads */
	put(c, 4, 4, 0, 0, 0, 0);
	put(c, 7, 0, 2, 0xf3bfb7ef, 0x41de, 0xfc184410);
	put(c, 0xa, 0, 0x8300805, 0, 0xf, 0x8604);
	put(c, 0xb, 0, 1, 2, 0x100, 0x7f);
	put(c, 0xb, 1, 7, 128, 0x201, 0x7f);
	put(c, 0xb, 2, 0, 0, 2, 0x7f);
	put(c, 0x1f, 0, 1, 2, 0x100, 0x7f);
	put(c, 0x1f, 1, 7, 128, 0x201, 0x7f);
	put(c, 0x1f, 2, 8, 256, 0x502, 0x7f); /* die */
	put(c, 0x1f, 3, 0, 0, 3, 0x7f);
	put(c, 0x40000000, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
	put(c, 0x80000000, 0, 0x80000008, 0, 0, 0);
	put(c, 0x80000001, 0, 0, 0, 0x121, 0x2c100800);
	put(c, 0x80000008, 0, 0x3039, 0, 0, 0);
}

static void amd(struct x86_cpuid *c)
{
	*c = (struct x86_cpuid){0};
	put(c, 0, 0, 0x10, 0x68747541, 0x444d4163, 0x69746e65); /* AuthenticAMD */
	put(c, 1, 0, 0xa10f11, 0x5f400800, 0x7ef8320b, 0x178bfbff);
	put(c, 0xb, 0, 1, 2, 0x100, 0x5f);
	put(c, 0xb, 1, 7, 128, 0x201, 0x5f);
	put(c, 0x80000000, 0, 0x80000022, 0x68747541, 0x444d4163, 0x69746e65);
	put(c, 0x80000001, 0, 0xa10f11, 0x40000000, 0x75c237ff, 0x2fd3fbff);
	put(c, 0x80000008, 0, 0x3030, 0x111ef657, 0x707f, 0x10007);
	put(c, 0x8000001d, 0, 0x4121, 0x1c0003f, 0x3f, 0);
	put(c, 0x8000001d, 1, 0x4122, 0x1c0003f, 0x3f, 0);
	put(c, 0x8000001d, 2, 0x4143, 0x1c0003f, 0x7ff, 2);
	put(c, 0x8000001d, 3, 0x3c163, 0x3c0003f, 0x7fff, 1);
	put(c, 0x8000001d, 4, 0, 0, 0, 0);
	put(c, 0x8000001e, 0, 0x5f, 0x12f, 0x301, 0);
	put(c, 0x80000022, 0, 0x7, 0x1046, 0, 0);
}

static const struct kvm_cpuid_entry2 *leaf(const struct x86_cpuid *c, uint32_t function,
					   uint32_t index)
{
	const struct kvm_cpuid_entry2 *found = NULL;

	for (uint32_t i = 0; i < c->nent; i++) {
		if (c->entry[i].function != function || c->entry[i].index != index)
			continue;
		cr_assert_null(found, "leaf 0x%x.%u twice", function, index);
		found = &c->entry[i];
	}
	return found;
}

static uint32_t bits(uint32_t v, unsigned low, unsigned width)
{
	return v >> low & ((1u << width) - 1);
}

static unsigned log2_up(unsigned n)
{
	unsigned bit = 0;

	while (1u << bit < n)
		bit++;
	return bit;
}

static const struct shape {
	struct x86_topology t;
	unsigned threads; /* of a core */
} shapes[] = {
	{{1, false}, 1}, {{2, false}, 1}, {{3, false}, 1}, {{4, false}, 1}, {{32, false}, 1},
	{{1, true}, 1},	 {{2, true}, 2},  {{4, true}, 2},  {{32, true}, 2},
};

/* Calls `check` with the table of every vCPU of every shape. */
static void each(void (*fill)(struct x86_cpuid *),
		 void (*check)(const struct x86_cpuid *, const struct shape *, unsigned))
{
	static struct x86_cpuid c;

	for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++) {
		fill(&c);
		/* One table goes through all vCPUs, as the caller does it. */
		for (unsigned v = 0; v < shapes[i].t.vcpus; v++) {
			x86_cpuid_shape(&c, &shapes[i].t, v, true);
			check(&c, &shapes[i], v);
		}
	}
}

/* --- what both vendors have --- */

static void check_leaf_1(const struct x86_cpuid *c, const struct shape *s, unsigned index)
{
	const struct kvm_cpuid_entry2 *e = leaf(c, 1, 0);

	cr_assert_eq(bits(e->ebx, 24, 8), index);
	cr_assert_eq(bits(e->ebx, 16, 8), s->t.vcpus);
	cr_assert_eq(bits(e->ebx, 0, 16), 0x0800, "CLFLUSH size is the host's");
	cr_assert(bits(e->ecx, 24, 1), "TSC deadline");
	cr_assert(bits(e->ecx, 31, 1), "hypervisor");
	cr_assert_eq(bits(e->edx, 28, 1), s->t.vcpus > 1, "HTT");
}

/* Linux splits an APIC id at these shifts: SMT first, then core, then it is the package. */
static void check_levels(const struct x86_cpuid *c, uint32_t function, const struct shape *s,
			 unsigned index)
{
	const struct kvm_cpuid_entry2 *smt = leaf(c, function, 0), *core = leaf(c, function, 1);

	cr_assert_eq(smt->eax, log2_up(s->threads));
	cr_assert_eq(smt->ebx, s->threads);
	cr_assert_eq(smt->ecx, 0x100);
	cr_assert_eq(core->eax, log2_up(s->t.vcpus));
	cr_assert_eq(core->ebx, s->t.vcpus);
	cr_assert_eq(core->ecx, 0x201);
	cr_assert_eq(index >> core->eax, 0, "all in one package");
	cr_assert_eq(leaf(c, function, 2)->ecx, 2, "level type 0 ends the list");
	cr_assert_eq(leaf(c, function, 2)->ebx, 0);
	cr_assert_null(leaf(c, function, 3), "the host's levels are gone");
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(leaf(c, function, i)->edx, index);
		cr_assert_eq(leaf(c, function, i)->flags, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
	}
}

/* --- Intel --- */

static void check_intel(const struct x86_cpuid *c, const struct shape *s, unsigned index)
{
	unsigned cores = s->t.vcpus / s->threads;

	check_leaf_1(c, s, index);
	check_levels(c, 0xb, s, index);
	check_levels(c, 0x1f, s, index);
	for (unsigned i = 0; i < 4; i++) {
		const struct kvm_cpuid_entry2 *e = leaf(c, 4, i);
		unsigned sharing = i == 3 ? s->t.vcpus : s->threads;

		cr_assert_eq(bits(e->eax, 14, 12) + 1, 1u << log2_up(sharing));
		cr_assert_eq(bits(e->eax, 26, 6) + 1, 1u << log2_up(cores));
		cr_assert_eq(bits(e->eax, 0, 14), (i == 0   ? 0x121u
						   : i == 1 ? 0x122u
						   : i == 2 ? 0x143u
							    : 0x163u));
	}
	cr_assert_eq(leaf(c, 4, 4)->eax, 0, "the end of the list stays");
	cr_assert_eq(leaf(c, 0xa, 0)->eax | leaf(c, 0xa, 0)->edx, 0, "no PMU");
	cr_assert_eq(leaf(c, 7, 0)->ebx, 0xf3bfb7ef, "other leaves stay");
	cr_assert_eq(leaf(c, 0x80000001, 0)->ecx, 0x121, "CmpLegacy is reserved on Intel");
	cr_assert_eq(leaf(c, 0x80000008, 0)->ecx, 0, "so is the core count");
}

Test(x86, intel_topology)
{
	each(intel, check_intel);
}

/* --- AMD --- */

static void check_amd(const struct x86_cpuid *c, const struct shape *s, unsigned index)
{
	const struct kvm_cpuid_entry2 *e;

	check_leaf_1(c, s, index);
	check_levels(c, 0xb, s, index);
	cr_assert_null(leaf(c, 0x1f, 0), "beyond the highest basic leaf");
	e = leaf(c, 0x80000001, 0);
	cr_assert_eq(bits(e->ecx, 1, 1), s->t.vcpus > 1, "CmpLegacy");
	cr_assert(bits(e->ecx, 22, 1), "topology extensions stay");
	cr_assert_not(bits(e->ecx, 23, 1) || bits(e->ecx, 24, 1) || bits(e->ecx, 28, 1), "no PMU");
	cr_assert_eq(leaf(c, 0x80000022, 0)->eax, 0, "no PMU");
	e = leaf(c, 0x80000008, 0);
	cr_assert_eq(bits(e->ecx, 0, 8) + 1, s->t.vcpus);
	cr_assert_eq(1u << bits(e->ecx, 12, 4), 1u << log2_up(s->t.vcpus));
	cr_assert_eq(e->eax, 0x3030, "address sizes are the host's");
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(bits(leaf(c, 0x8000001d, i)->eax, 14, 12) + 1,
			     i == 3 ? s->t.vcpus : s->threads);
	cr_assert_eq(leaf(c, 0x8000001d, 4)->eax, 0);
	e = leaf(c, 0x8000001e, 0);
	cr_assert_eq(e->eax, index);
	cr_assert_eq(bits(e->ebx, 0, 8), index / s->threads, "core");
	cr_assert_eq(bits(e->ebx, 8, 8) + 1, s->threads);
	cr_assert_eq(e->ecx, 0, "one node");
}

Test(x86, amd_topology)
{
	each(amd, check_amd);
}

/* --- the table itself --- */

Test(x86, shaping_again_changes_nothing)
{
	static const struct x86_topology t = {4, true};
	static struct x86_cpuid once, twice;
	void (*const fill[])(struct x86_cpuid *) = {intel, amd};

	for (unsigned i = 0; i < 2; i++) {
		fill[i](&once);
		x86_cpuid_shape(&once, &t, 3, true);
		twice = once;
		for (unsigned n = 0; n < 100; n++)
			x86_cpuid_shape(&twice, &t, n % 4, n % 2);
		x86_cpuid_shape(&twice, &t, 3, true);
		cr_assert_eq(memcmp(&once, &twice, sizeof(once)), 0);
	}
}

/* Guests take a leaf's presence from the highest basic leaf: none is added beyond it. */
Test(x86, old_processors_get_no_topology_leaves)
{
	static const struct x86_topology t = {2, false};
	static struct x86_cpuid c;

	put(&c, 0, 0, 0xa, 0x756e6547, 0x6c65746e, 0x49656e69);
	put(&c, 1, 0, 0, 0, 0, 0);
	x86_cpuid_shape(&c, &t, 1, false);
	cr_assert_eq(c.nent, 2);
	cr_assert_eq(bits(leaf(&c, 1, 0)->ecx, 24, 1), 0);
	c = (struct x86_cpuid){0};
	x86_cpuid_shape(&c, &t, 1, false); /* an empty one is no problem either */
	cr_assert_eq(c.nent, 0);
}

Test(x86, where_addresses_end)
{
	struct x86_cpuid c = {0};

	cr_expect_eq(x86_phys_end(&c), GIB(64), "nothing said");
	put(&c, 0x80000008, 0, 0x3027, 0, 0, 0);
	cr_expect_eq(x86_phys_end(&c), GIB(512));
	c.entry[0].eax = 0x3040;
	cr_expect_eq(x86_phys_end(&c), UINT64_MAX);
}

Test(x86, without_tsc_deadline)
{
	static const struct x86_topology t = {1, false};
	static struct x86_cpuid c;

	intel(&c);
	x86_cpuid_shape(&c, &t, 0, false);
	cr_assert_eq(bits(leaf(&c, 1, 0)->ecx, 24, 1), 0, "the host's bit is not passed on");
}

/* No room for new levels: what fits, and nothing behind the table (the sanitizers look on). */
Test(x86, a_full_table)
{
	static const struct x86_topology t = {4, true};

	for (uint32_t room = 0; room < 7; room++) {
		struct x86_cpuid *c = calloc(1, sizeof(*c));

		put(c, 0, 0, 0x1f, 0x756e6547, 0x6c65746e, 0x49656e69);
		put(c, 1, 0, 0, 0, 0, 0);
		while (c->nent < X86_CPUID_MAX - room)
			put(c, 0xc0000000 + c->nent, 0, 0, 0, 0, 0);
		for (unsigned i = 0; i < 4; i++)
			x86_cpuid_shape(c, &t, i, true);
		cr_assert_eq(c->nent, X86_CPUID_MAX - room + MIN(room, 6u));
		free(c);
	}
}

/* --- registers, with KVM --- */

static struct kvm k;
static struct gmem mem;
static struct vcpu_set set;
static struct vcpu vcpu[2];
static struct bus bus;

static void open_machine(void)
{
	static const struct gmem_region ram = {.gpa = 0, .len = MIB(1)};
	struct err e = {0};

	if (access("/dev/kvm", R_OK | W_OK) < 0)
		cr_skip("no /dev/kvm");
	cr_assert_eq(gmem_init(&mem, &ram, 1, GMEM_ANON, false, &e), 0, "%s", e.msg);
	cr_assert_eq(kvm_open(&k, &e), 0, "%s", e.msg);
	cr_assert_eq(kvm_set_memory(&k, &mem, false, &e), 0, "%s", e.msg);
	cr_assert_eq(kvm_create_irqchip(&k, false, &e), 0, "%s", e.msg);
	cr_assert_eq(vcpu_set_init(&set, &k, vcpu, 2, &bus, &bus, &e), 0, "%s", e.msg);
}

static void close_machine(void)
{
	vcpu_set_finish(&set);
	kvm_close(&k);
	gmem_finish(&mem);
}

static void setup_vcpu(unsigned i, const struct boot_entry *entry)
{
	static const struct x86_topology t = {2, false};
	struct x86_cpuid c;
	struct err e = {0};

	cr_assert_eq(x86_cpuid_supported(&k, &c, &e), 0, "%s", e.msg);
	x86_cpuid_shape(&c, &t, i, k.tsc_deadline);
	cr_assert_eq(x86_setup_vcpu(&vcpu[i], &c, entry, &e), 0, "%s", e.msg);
}

Test(x86, long_mode_entry, .timeout = 20)
{
	const struct boot_entry entry = {BOOT_ELF64, 0x1000000, LAYOUT_ZERO_PAGE};
	struct kvm_lapic_state lapic;
	struct kvm_sregs s;
	struct kvm_regs r;

	open_machine();
	setup_vcpu(0, &entry);
	cr_assert_eq(ioctl(vcpu[0].fd, KVM_GET_SREGS, &s), 0);
	cr_assert_eq(ioctl(vcpu[0].fd, KVM_GET_REGS, &r), 0);
	cr_assert_eq(r.rip, 0x1000000);
	cr_assert_eq(r.rsi, LAYOUT_ZERO_PAGE);
	cr_assert_eq(r.rflags, 2, "interrupts off");
	cr_assert_eq(s.cr3, LAYOUT_PAGE_TABLE);
	cr_assert_eq(s.cr0 & 0x80000001, 0x80000001, "paging, protection");
	cr_assert(s.cr4 & 0x20, "PAE");
	cr_assert_eq(s.efer & 0x500, 0x500, "long mode enabled and active");
	cr_assert_eq(s.cs.selector, BOOT_SEL_CODE);
	cr_assert(s.cs.l && !s.cs.db);
	cr_assert_eq(s.ss.selector, BOOT_SEL_DATA);
	cr_assert_eq(s.gdt.base, LAYOUT_GDT);
	cr_assert_eq(ioctl(vcpu[0].fd, KVM_GET_LAPIC, &lapic), 0);
	cr_assert_eq((uint8_t)lapic.regs[0x351] & 7, 7, "LINT0 is ExtINT");
	cr_assert_eq((uint8_t)lapic.regs[0x361] & 7, 4, "LINT1 is NMI");
	close_machine();
}

Test(x86, pvh_entry, .timeout = 20)
{
	const struct boot_entry entry = {BOOT_ELF_PVH, 0x1000000, LAYOUT_PVH_INFO};
	struct kvm_sregs s;
	struct kvm_regs r;

	open_machine();
	setup_vcpu(0, &entry);
	cr_assert_eq(ioctl(vcpu[0].fd, KVM_GET_SREGS, &s), 0);
	cr_assert_eq(ioctl(vcpu[0].fd, KVM_GET_REGS, &r), 0);
	cr_assert_eq(r.rbx, LAYOUT_PVH_INFO);
	cr_assert_eq(s.cr0 & 0x80000001, 1, "protection without paging");
	cr_assert_eq(s.cr4, 0);
	cr_assert_eq(s.efer & 0x500, 0);
	cr_assert(s.cs.db && !s.cs.l);
	cr_assert_eq(s.cs.limit, 0xffffffff);
	close_machine();
}

Test(x86, other_processors_wait_for_their_start, .timeout = 20)
{
	const struct boot_entry entry = {BOOT_ELF64, 0x1000000, LAYOUT_ZERO_PAGE};
	struct kvm_mp_state state;
	struct x86_cpuid got = {.nent = X86_CPUID_MAX};
	struct kvm_regs r;
	uint32_t apic_id = 0xee;

	open_machine();
	setup_vcpu(0, &entry);
	setup_vcpu(1, &entry);
	cr_assert_eq(ioctl(vcpu[1].fd, KVM_GET_MP_STATE, &state), 0);
	cr_assert_eq(state.mp_state, KVM_MP_STATE_UNINITIALIZED);
	cr_assert_eq(ioctl(vcpu[1].fd, KVM_GET_REGS, &r), 0);
	cr_assert_neq(r.rip, 0x1000000);
	cr_assert_eq(ioctl(vcpu[1].fd, KVM_GET_CPUID2, &got), 0);
	for (uint32_t i = 0; i < got.nent; i++)
		if (got.entry[i].function == 1)
			apic_id = got.entry[i].ebx >> 24;
	cr_assert_eq(apic_id, 1);
	close_machine();
}

/* Something that is no vCPU: the error says which one and what was asked of it. */
Test(x86, errors_name_the_vcpu)
{
	const struct boot_entry entry = {BOOT_ELF64, 0x1000000, LAYOUT_ZERO_PAGE};
	struct vcpu v = {.fd = open("/dev/null", O_RDWR | O_CLOEXEC), .index = 3};
	static struct x86_cpuid c;
	struct err e;

	cr_assert_eq(x86_setup_vcpu(&v, &c, &entry, &e), -ENOTTY, "%s", e.msg);
	cr_assert_eq(strncmp(e.msg, "vCPU 3: set CPUID", 17), 0, "%s", e.msg);
	close(v.fd);
}
