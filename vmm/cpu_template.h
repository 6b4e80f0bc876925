/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A custom CPU template (PUT /cpu-config, Firecracker's form): what a guest's processor shows
 * differently from what KVM would give. CPUID bits are changed before the topology is put in
 * (vmm/x86.h), so that a template cannot contradict the number of vCPUs; MSRs last. A template is
 * no security boundary: a guest can still use what it is not shown. Main thread.
 */
#pragma once

#include "vmm/x86.h"

#define CPU_TEMPLATE_CPUID_MAX 64
#define CPU_TEMPLATE_MSRS_MAX  128
#define CPU_TEMPLATE_CAPS_MAX  32

/* The bits in `mask` become those of `value`; the others stay. */
struct cpu_bits {
	uint64_t mask, value;
};

enum cpu_register { CPU_EAX, CPU_EBX, CPU_ECX, CPU_EDX, CPU_REGISTERS };

struct cpuid_modifier {
	uint32_t leaf, subleaf, flags;
	struct cpu_bits reg[CPU_REGISTERS];
};

struct msr_modifier {
	uint32_t index;
	struct cpu_bits bits;
};

struct cpu_template {
	struct cpuid_modifier cpuid[CPU_TEMPLATE_CPUID_MAX];
	unsigned cpuid_count;
	struct msr_modifier msr[CPU_TEMPLATE_MSRS_MAX];
	unsigned msr_count;
	/* KVM capabilities: needed, or (removed) not asked for; spore asks for none of its own. */
	struct cpu_capability {
		unsigned number;
		bool removed;
	} cap[CPU_TEMPLATE_CAPS_MAX];
	unsigned cap_count;
};

/* "0b01x_" from the highest bit down, at most `width` of them; the missing high ones are x. */
int cpu_bits_parse(struct cpu_bits *b, unsigned width, const char *text, struct err *e);
/* All `width` digits of it and "0b" before them; buf has room for 67 bytes. */
void cpu_bits_print(const struct cpu_bits *b, unsigned width, char *buf);

/* Each is fine with NULL: no template. A change that KVM cannot make is named in the error. */
int cpu_template_check_kvm(const struct cpu_template *t, struct kvm *k, struct err *e);
int cpu_template_apply_cpuid(const struct cpu_template *t, struct x86_cpuid *c, struct err *e);
int cpu_template_apply_msrs(const struct cpu_template *t, struct vcpu *v, struct err *e);
