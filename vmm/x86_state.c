/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/x86_state.h"

#include <cpuid.h>
#include <string.h>
#include <sys/ioctl.h>
#include <xxhash.h>

#include "vmm/base/log.h"

/* KVM's structs are written as they are: their layout is the kernel's ABI. */
_Static_assert(sizeof(struct kvm_mp_state) == 4, "KVM ABI");
_Static_assert(sizeof(struct kvm_regs) == 144, "KVM ABI");
_Static_assert(sizeof(struct kvm_sregs) == 312, "KVM ABI");
_Static_assert(sizeof(struct kvm_vcpu_events) == 64, "KVM ABI");
_Static_assert(sizeof(struct kvm_debugregs) == 128, "KVM ABI");
_Static_assert(sizeof(struct kvm_xcrs) == 392, "KVM ABI");
_Static_assert(sizeof(struct kvm_lapic_state) == 1024, "KVM ABI");
_Static_assert(sizeof(struct kvm_cpuid_entry2) == 40, "KVM ABI");
_Static_assert(sizeof(struct kvm_msr_entry) == 16, "KVM ABI");
_Static_assert(sizeof(struct kvm_xsave) == 4096, "KVM ABI");

#define MSR_TSC_DEADLINE 0x6e0u
#define CR4_VMXE	 (1ull << 13)
#define EFER_SVME	 (1ull << 12)

/* --- save --- */

/* Bytes that KVM_GET_XSAVE2 fills, or those of KVM_GET_XSAVE on kernels before 5.17. */
static uint32_t xsave_size(struct kvm *k)
{
	int n = ioctl(k->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);

	return n < (int)sizeof(struct kvm_xsave) ? (uint32_t)sizeof(struct kvm_xsave) : (uint32_t)n;
}

int x86_host_init(struct x86_host *h, struct kvm *k, struct err *e)
{
	h->xsave_size = xsave_size(k);
	return x86_cpuid_supported(k, &h->cpuid, e);
}

uint64_t x86_host_fingerprint(const struct kvm *k)
{
	static const uint32_t leaf[] = {1, 7, 0x80000001};
	uint32_t r[ARRAY_SIZE(leaf)][4] = {0};

	for (size_t i = 0; i < ARRAY_SIZE(leaf); i++)
		__cpuid_count(leaf[i], 0, r[i][0], r[i][1], r[i][2], r[i][3]);
	r[0][1] = 0; /* the APIC id of the processor that we happen to be on */
	return XXH64(r, sizeof(r), k->kernel);
}

static int save_xsave(struct x86_state *s, struct vcpu *v, struct kvm *k, struct err *e)
{
	unsigned long request = KVM_GET_XSAVE;

	s->xsave_size = xsave_size(k);
	if (s->xsave_size > X86_XSAVE_MAX)
		return err_set(e, ENOTSUP, "KVM's XSAVE area has %u bytes, at most %u are known",
			       s->xsave_size, X86_XSAVE_MAX);
	if (s->xsave_size > sizeof(struct kvm_xsave))
		request = KVM_GET_XSAVE2;
	if (ioctl(v->fd, request, s->xsave) < 0)
		return err_sys(e, "read the XSAVE area");
	return 0;
}

struct msr_indices { /* struct kvm_msr_list with room */
	uint32_t count, index[X86_MSR_MAX];
};

struct msr_list { /* struct kvm_msrs with room */
	uint32_t count, pad;
	struct kvm_msr_entry entry[X86_MSR_MAX];
};

/* See the header: the TSC-deadline is to be written last. */
static void deadline_last(struct msr_indices *l)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < l->count; i++)
		if (l->index[i] != MSR_TSC_DEADLINE)
			l->index[kept++] = l->index[i];
	if (kept < l->count)
		l->index[kept] = MSR_TSC_DEADLINE;
}

/* KVM stops at one that it lists but this vCPU does not have: left out. */
static int save_msrs(struct x86_state *s, struct vcpu *v, struct kvm *k, struct err *e)
{
	struct msr_indices indices = {.count = X86_MSR_MAX};
	struct msr_list list;

	if (ioctl(k->fd, KVM_GET_MSR_INDEX_LIST, &indices) < 0)
		return err_sys(e, "ask KVM for its MSRs (KVM_GET_MSR_INDEX_LIST)");
	deadline_last(&indices);
	for (uint32_t i = 0; i < indices.count; i++) {
		int n;

		list.count = indices.count - i;
		list.pad = 0;
		for (uint32_t j = 0; j < list.count; j++)
			list.entry[j] = (struct kvm_msr_entry){.index = indices.index[i + j]};
		n = ioctl(v->fd, KVM_GET_MSRS, &list);
		if (n < 0)
			return err_sys(e, "read MSRs (KVM_GET_MSRS)");
		memcpy(&s->msr[s->msr_count], list.entry, (size_t)n * sizeof(list.entry[0]));
		s->msr_count += (uint32_t)n;
		i += (uint32_t)n;
	}
	return 0;
}

static bool is_hypervisor(const struct x86_state *s)
{
	return s->sregs.cr4 & CR4_VMXE || s->sregs.efer & EFER_SVME;
}

static int save(struct x86_state *s, struct vcpu *v, struct kvm *k, struct err *e)
{
	const struct {
		unsigned long request;
		void *to;
		const char *name;
	} steps[] = {
		{KVM_GET_MP_STATE, &s->mp_state, "KVM_GET_MP_STATE"},
		{KVM_GET_VCPU_EVENTS, &s->events, "KVM_GET_VCPU_EVENTS"},
		{KVM_GET_REGS, &s->regs, "KVM_GET_REGS"},
		{KVM_GET_SREGS, &s->sregs, "KVM_GET_SREGS"},
		{KVM_GET_XCRS, &s->xcrs, "KVM_GET_XCRS"},
		{KVM_GET_DEBUGREGS, &s->debugregs, "KVM_GET_DEBUGREGS"},
		{KVM_GET_LAPIC, &s->lapic, "KVM_GET_LAPIC"},
	};
	int khz, r;

	for (size_t i = 0; i < ARRAY_SIZE(steps); i++)
		if (ioctl(v->fd, steps[i].request, steps[i].to) < 0)
			return err_sys(e, "read its state (%s)", steps[i].name);
	if (is_hypervisor(s))
		return err_set(e, ENOTSUP,
			       "the guest runs virtual machines of its own (VMX or SVM is on), and "
			       "their state cannot be saved");
	khz = ioctl(v->fd, KVM_GET_TSC_KHZ, 0);
	s->tsc_khz = khz > 0 ? (uint32_t)khz : 0;
	s->cpuid.nent = v->cpuid->nent;
	memcpy(s->cpuid.entry, v->cpuid->entry, v->cpuid->nent * sizeof(s->cpuid.entry[0]));
	r = save_xsave(s, v, k, e);
	return r == 0 ? save_msrs(s, v, k, e) : r;
}

int x86_state_save(struct x86_state *s, struct vcpu *v, struct kvm *k, struct err *e)
{
	memset(s, 0, sizeof(*s));
	return save(s, v, k, e) < 0 ? err_wrap(e, "vCPU %u", v->index) : 0;
}

/* --- wire --- */

void x86_state_wire(struct x86_state *s, struct wire *w)
{
	wire_bytes(w, &s->mp_state, sizeof(s->mp_state));
	wire_bytes(w, &s->regs, sizeof(s->regs));
	wire_bytes(w, &s->sregs, sizeof(s->sregs));
	wire_bytes(w, &s->events, sizeof(s->events));
	wire_bytes(w, &s->debugregs, sizeof(s->debugregs));
	wire_bytes(w, &s->xcrs, sizeof(s->xcrs));
	wire_bytes(w, &s->lapic, sizeof(s->lapic));
	wire_u32(w, &s->tsc_khz);
	wire_u32(w, &s->cpuid.nent);
	wire_u32(w, &s->msr_count);
	wire_u32(w, &s->xsave_size);
	if (s->cpuid.nent > X86_CPUID_MAX || s->msr_count > X86_MSR_MAX ||
	    s->xsave_size > X86_XSAVE_MAX) {
		wire_fail(w, -EBADMSG);
		s->cpuid.nent = s->msr_count = s->xsave_size = 0;
	}
	wire_bytes(w, s->cpuid.entry, s->cpuid.nent * sizeof(s->cpuid.entry[0]));
	wire_bytes(w, s->msr, s->msr_count * sizeof(s->msr[0]));
	wire_bytes(w, s->xsave, s->xsave_size);
}

/* --- check --- */

enum reg { EAX, EBX, ECX, EDX };

/* Registers full of feature bits. `ignore`: copies of what the guest has turned on in CR4. */
static const struct feature_word {
	uint32_t leaf, index;
	enum reg reg;
	uint32_t ignore;
} feature_words[] = {
	{0x1, 0, ECX, 1u << 27}, {0x1, 0, EDX, 0},	  {0x7, 0, EBX, 0},
	{0x7, 0, ECX, 1u << 4},	 {0x7, 0, EDX, 0},	  {0x7, 1, EAX, 0},
	{0x7, 1, EDX, 0},	 {0x7, 2, EDX, 0},	  {0xd, 0, EAX, 0},
	{0xd, 0, EDX, 0},	 {0xd, 1, EAX, 0},	  {0x40000001, 0, EAX, 0},
	{0x80000001, 0, ECX, 0}, {0x80000001, 0, EDX, 0}, {0x80000007, 0, EDX, 0},
	{0x80000008, 0, EBX, 0}, {0x80000021, 0, EAX, 0},
};

/* Names of those that hosts are most likely to differ in, as in /proc/cpuinfo. */
static const struct {
	uint32_t leaf, index;
	enum reg reg;
	unsigned bit;
	const char *name;
} feature_names[] = {
	{0x1, 0, ECX, 0, "sse3"},
	{0x1, 0, ECX, 5, "vmx"},
	{0x1, 0, ECX, 9, "ssse3"},
	{0x1, 0, ECX, 12, "fma"},
	{0x1, 0, ECX, 17, "pcid"},
	{0x1, 0, ECX, 19, "sse4_1"},
	{0x1, 0, ECX, 20, "sse4_2"},
	{0x1, 0, ECX, 21, "x2apic"},
	{0x1, 0, ECX, 22, "movbe"},
	{0x1, 0, ECX, 23, "popcnt"},
	{0x1, 0, ECX, 24, "tsc_deadline"},
	{0x1, 0, ECX, 25, "aes"},
	{0x1, 0, ECX, 26, "xsave"},
	{0x1, 0, ECX, 28, "avx"},
	{0x1, 0, ECX, 29, "f16c"},
	{0x1, 0, ECX, 30, "rdrand"},
	{0x7, 0, EBX, 0, "fsgsbase"},
	{0x7, 0, EBX, 1, "tsc_adjust"},
	{0x7, 0, EBX, 3, "bmi1"},
	{0x7, 0, EBX, 4, "hle"},
	{0x7, 0, EBX, 5, "avx2"},
	{0x7, 0, EBX, 7, "smep"},
	{0x7, 0, EBX, 8, "bmi2"},
	{0x7, 0, EBX, 9, "erms"},
	{0x7, 0, EBX, 10, "invpcid"},
	{0x7, 0, EBX, 11, "rtm"},
	{0x7, 0, EBX, 16, "avx512f"},
	{0x7, 0, EBX, 17, "avx512dq"},
	{0x7, 0, EBX, 18, "rdseed"},
	{0x7, 0, EBX, 19, "adx"},
	{0x7, 0, EBX, 20, "smap"},
	{0x7, 0, EBX, 23, "clflushopt"},
	{0x7, 0, EBX, 24, "clwb"},
	{0x7, 0, EBX, 28, "avx512cd"},
	{0x7, 0, EBX, 29, "sha_ni"},
	{0x7, 0, EBX, 30, "avx512bw"},
	{0x7, 0, EBX, 31, "avx512vl"},
	{0x7, 0, ECX, 1, "avx512vbmi"},
	{0x7, 0, ECX, 2, "umip"},
	{0x7, 0, ECX, 3, "pku"},
	{0x7, 0, ECX, 6, "avx512_vbmi2"},
	{0x7, 0, ECX, 8, "gfni"},
	{0x7, 0, ECX, 9, "vaes"},
	{0x7, 0, ECX, 10, "vpclmulqdq"},
	{0x7, 0, ECX, 11, "avx512_vnni"},
	{0x7, 0, ECX, 12, "avx512_bitalg"},
	{0x7, 0, ECX, 14, "avx512_vpopcntdq"},
	{0x7, 0, ECX, 16, "la57"},
	{0x7, 0, ECX, 22, "rdpid"},
	{0x7, 0, EDX, 4, "fsrm"},
	{0x7, 0, EDX, 14, "serialize"},
	{0x7, 0, EDX, 22, "amx_bf16"},
	{0x7, 0, EDX, 23, "avx512_fp16"},
	{0x7, 0, EDX, 24, "amx_tile"},
	{0x7, 0, EDX, 25, "amx_int8"},
	{0x7, 0, EDX, 26, "spec_ctrl"},
	{0x7, 0, EDX, 29, "arch_capabilities"},
	{0x7, 0, EDX, 31, "ssbd"},
	{0x7, 1, EAX, 4, "avx_vnni"},
	{0x7, 1, EAX, 5, "avx512_bf16"},
	{0xd, 1, EAX, 0, "xsaveopt"},
	{0xd, 1, EAX, 1, "xsavec"},
	{0xd, 1, EAX, 3, "xsaves"},
	{0x80000001, 0, ECX, 2, "svm"},
	{0x80000001, 0, ECX, 5, "abm"},
	{0x80000001, 0, ECX, 6, "sse4a"},
	{0x80000001, 0, ECX, 11, "xop"},
	{0x80000001, 0, ECX, 16, "fma4"},
	{0x80000001, 0, EDX, 26, "pdpe1gb"},
	{0x80000001, 0, EDX, 27, "rdtscp"},
	{0x80000007, 0, EDX, 8, "constant_tsc"},
	{0x80000008, 0, EBX, 12, "amd_ibpb"},
};

static const struct kvm_cpuid_entry2 *find_leaf(const struct x86_cpuid *c, uint32_t leaf,
						uint32_t index)
{
	for (uint32_t i = 0; i < c->nent; i++)
		if (c->entry[i].function == leaf && c->entry[i].index == index)
			return &c->entry[i];
	return NULL;
}

static uint32_t word_of(const struct x86_cpuid *c, const struct feature_word *f)
{
	const struct kvm_cpuid_entry2 *n = find_leaf(c, f->leaf, f->index);

	if (!n)
		return 0;
	switch (f->reg) {
	case EAX:
		return n->eax;
	case EBX:
		return n->ebx;
	case ECX:
		return n->ecx;
	case EDX:
		return n->edx;
	}
	return 0;
}

static int name_missing(const struct feature_word *f, unsigned bit, struct err *e)
{
	static const char *const reg[] = {"EAX", "EBX", "ECX", "EDX"};

	for (size_t i = 0; i < ARRAY_SIZE(feature_names); i++)
		if (feature_names[i].leaf == f->leaf && feature_names[i].index == f->index &&
		    feature_names[i].reg == f->reg && feature_names[i].bit == bit)
			return err_set(
				e, ENOTSUP,
				"the guest uses a processor with '%s', which this host lacks",
				feature_names[i].name);
	return err_set(e, ENOTSUP,
		       "the guest uses a processor with CPUID leaf 0x%x.%u %s bit %u, which this "
		       "host lacks",
		       f->leaf, f->index, reg[f->reg], bit);
}

/* The twelve letters of leaf 0. */
static void vendor_of(const struct x86_cpuid *c, char name[13])
{
	const struct kvm_cpuid_entry2 *n = find_leaf(c, 0, 0);

	memset(name, 0, 13);
	if (!n)
		return;
	memcpy(name, &n->ebx, 4);
	memcpy(name + 4, &n->edx, 4);
	memcpy(name + 8, &n->ecx, 4);
	for (unsigned i = 0; i < 12; i++)
		if (name[i] < ' ' || name[i] > '~')
			name[i] = '?';
}

static int compare_cpuid(const struct x86_cpuid *guest, const struct x86_cpuid *host, struct err *e)
{
	char guest_vendor[13], host_vendor[13];

	vendor_of(guest, guest_vendor);
	vendor_of(host, host_vendor);
	if (strcmp(guest_vendor, host_vendor) != 0)
		return err_set(e, ENOTSUP,
			       "the guest uses a processor of '%s', and this host's is of '%s'",
			       guest_vendor, host_vendor);
	for (size_t i = 0; i < ARRAY_SIZE(feature_words); i++) {
		const struct feature_word *f = &feature_words[i];
		uint32_t missing = word_of(guest, f) & ~word_of(host, f) & ~f->ignore;

		if (missing)
			return name_missing(f, (unsigned)__builtin_ctz(missing), e);
	}
	return 0;
}

int x86_state_check(const struct x86_state *s, const struct x86_host *host,
		    const struct x86_topology *t, bool tsc_deadline, unsigned index, struct err *e)
{
	struct x86_cpuid shaped;

	if (s->xsave_size < sizeof(struct kvm_xsave))
		return err_set(e, EINVAL, "its XSAVE area has %u bytes", s->xsave_size);
	if (!find_leaf(&s->cpuid, 0, 0) || !find_leaf(&s->cpuid, 1, 0))
		return err_set(e, EINVAL, "it has no CPUID");
	if (s->mp_state.mp_state > KVM_MP_STATE_SIPI_RECEIVED)
		return err_set(e, EINVAL, "its run state is %u", s->mp_state.mp_state);
	if (s->xcrs.nr_xcrs > KVM_MAX_XCRS)
		return err_set(e, EINVAL, "it has %u extended control registers", s->xcrs.nr_xcrs);
	if (is_hypervisor(s))
		return err_set(e, EINVAL, "it runs virtual machines of its own");
	if (!host)
		return 0;
	if (s->xsave_size > host->xsave_size)
		return err_set(e, ENOTSUP,
			       "its XSAVE area has %u bytes, and this host's KVM takes %u",
			       s->xsave_size, host->xsave_size);
	shaped = host->cpuid;
	x86_cpuid_shape(&shaped, t, index, tsc_deadline);
	return compare_cpuid(&s->cpuid, &shaped, e);
}

/* --- restore --- */

/* KVM takes a frequency that is so near for the same; a guest's clock corrects the rest. */
#define TSC_TOLERANCE_PPM 250u

static int set_tsc_khz(const struct x86_state *s, struct vcpu *v, struct err *e)
{
	int host = v->tsc_khz ? v->tsc_khz : ioctl(v->fd, KVM_GET_TSC_KHZ, 0);
	uint64_t differ;

	if (!s->tsc_khz || host <= 0)
		return 0;
	differ = s->tsc_khz > (uint32_t)host ? s->tsc_khz - (uint32_t)host
					     : (uint32_t)host - s->tsc_khz;
	if (differ * 1000000 <= (uint64_t)host * TSC_TOLERANCE_PPM)
		return 0;
	if (ioctl(v->fd, KVM_SET_TSC_KHZ, (unsigned long)s->tsc_khz) < 0)
		return err_sys(e,
			       "the guest counts time by a TSC of %u kHz, this host's has %d kHz "
			       "and cannot be scaled",
			       s->tsc_khz, host);
	return 0;
}

/*
 * KVM stops at the first MSR that it refuses. One that reads as what it was to become is no loss:
 * hosts differ in which of the constant ones may be written.
 */
static int restore_msrs(const struct x86_state *s, struct vcpu *v, struct err *e)
{
	struct msr_list list;
	struct {
		uint32_t count, pad;
		struct kvm_msr_entry entry;
	} one = {.count = 1};

	for (uint32_t i = 0; i < s->msr_count;) {
		int n;

		list.count = s->msr_count - i;
		list.pad = 0;
		memcpy(list.entry, &s->msr[i], list.count * sizeof(list.entry[0]));
		n = ioctl(v->fd, KVM_SET_MSRS, &list);
		if (n < 0)
			return err_sys(e, "set MSRs (KVM_SET_MSRS)");
		i += (uint32_t)n;
		if (i >= s->msr_count)
			break;
		one.entry = (struct kvm_msr_entry){.index = s->msr[i].index};
		if (ioctl(v->fd, KVM_GET_MSRS, &one) != 1 || one.entry.data != s->msr[i].data)
			return err_set(e, ENOTSUP, "KVM refused MSR 0x%x = 0x%llx", s->msr[i].index,
				       (unsigned long long)s->msr[i].data);
		log_debug("vCPU %u: KVM refused to set MSR 0x%x to the value it has", v->index,
			  s->msr[i].index);
		i++;
	}
	return 0;
}

/* Of a shell (vmm/shell.h): setting it is what takes longest. */
static bool has_cpuid(const struct vcpu *v, const struct x86_cpuid *c)
{
	return v->cpuid && v->cpuid->nent == c->nent &&
	       memcmp(v->cpuid->entry, c->entry, c->nent * sizeof(c->entry[0])) == 0;
}

#define LAPIC_LVT_TIMER		 0x320
#define LAPIC_TIMER_INITIAL	 0x380
#define LAPIC_TIMER_MODE	 (3u << 17)
#define LAPIC_TIMER_TSC_DEADLINE (2u << 17)

/* Whether its timer runs from the moment on that it is set: not that of the TSC, which a MSR arms. */
static bool counts(const struct kvm_lapic_state *lapic)
{
	uint32_t timer, initial;

	memcpy(&timer, lapic->regs + LAPIC_LVT_TIMER, sizeof(timer));
	memcpy(&initial, lapic->regs + LAPIC_TIMER_INITIAL, sizeof(initial));
	return initial && (timer & LAPIC_TIMER_MODE) != LAPIC_TIMER_TSC_DEADLINE;
}

static int prepare(const struct x86_state *s, struct vcpu *v, struct err *e)
{
	const struct {
		unsigned long request;
		const void *from;
		const char *name;
	} registers[] = {
		{KVM_SET_SREGS, &s->sregs, "KVM_SET_SREGS"},
		{KVM_SET_XSAVE, s->xsave, "KVM_SET_XSAVE"},
		{KVM_SET_XCRS, &s->xcrs, "KVM_SET_XCRS"},
		{KVM_SET_DEBUGREGS, &s->debugregs, "KVM_SET_DEBUGREGS"},
		{KVM_SET_REGS, &s->regs, "KVM_SET_REGS"},
		{KVM_SET_MP_STATE, &s->mp_state, "KVM_SET_MP_STATE"},
		{KVM_SET_VCPU_EVENTS, &s->events, "KVM_SET_VCPU_EVENTS"},
		{KVM_SET_LAPIC, &s->lapic, "KVM_SET_LAPIC"},
	};
	const size_t count = ARRAY_SIZE(registers) - counts(&s->lapic);
	int r = has_cpuid(v, &s->cpuid) ? 0 : x86_set_cpuid(v, &s->cpuid, e);

	if (r == 0)
		r = set_tsc_khz(s, v, e);
	for (size_t i = 0; r == 0 && i < count; i++)
		if (ioctl(v->fd, registers[i].request, registers[i].from) < 0)
			r = err_sys(e, "KVM refuses its state (%s)", registers[i].name);
	return r;
}

static int complete(const struct x86_state *s, struct vcpu *v, struct err *e)
{
	if (counts(&s->lapic) && ioctl(v->fd, KVM_SET_LAPIC, &s->lapic) < 0)
		return err_sys(e, "KVM refuses its state (KVM_SET_LAPIC)");
	return restore_msrs(s, v, e);
}

int x86_state_prepare(const struct x86_state *s, struct vcpu *v, struct err *e)
{
	return prepare(s, v, e) < 0 ? err_wrap(e, "vCPU %u", v->index) : 0;
}

int x86_state_complete(const struct x86_state *s, struct vcpu *v, struct err *e)
{
	return complete(s, v, e) < 0 ? err_wrap(e, "vCPU %u", v->index) : 0;
}

void x86_clock_paused(struct vcpu *v)
{
	if (ioctl(v->fd, KVM_KVMCLOCK_CTRL, 0) < 0)
		log_debug("vCPU %u: the guest has no clock to be told of the pause", v->index);
}
