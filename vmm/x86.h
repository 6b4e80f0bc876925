/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processor state of an x86-64 guest before its first instruction: CPUID, MSRs, local APIC and
 * registers. Sources: Intel SDM volumes 2A (CPUID) and 3A, AMD APM volume 3 appendix E, Linux
 * Documentation/virt/kvm/x86/cpuid.rst and boot.rst. Main thread, vCPUs parked.
 */
#pragma once

#include "vmm/boot.h"
#include "vmm/vcpu.h"

#define X86_CPUID_MAX 128

struct x86_cpuid {
	uint32_t nent, padding; /* struct kvm_cpuid2, with room for its entries */
	struct kvm_cpuid_entry2 entry[X86_CPUID_MAX];
};

struct x86_topology {
	unsigned vcpus;
	bool smt; /* vCPUs 2n and 2n+1 are threads of one core */
};

/* What this host's KVM can give to a guest, KVM's own leaves (0x40000000) included. */
int x86_cpuid_supported(struct kvm *k, struct x86_cpuid *c, struct err *e);

/*
 * Shapes it for one vCPU of one VM: hypervisor bit, TSC-deadline when `tsc_deadline`, no PMU, and
 * the topology in every leaf that tells it (1, 4, 0xb, 0x1f, 0x80000001, 0x80000008, 0x8000001d,
 * 0x8000001e). Pure; calling it again for the next vCPU is fine.
 */
void x86_cpuid_shape(struct x86_cpuid *c, const struct x86_topology *t, unsigned index,
		     bool tsc_deadline);

/* The first address that a processor with this CPUID cannot reach (leaf 0x80000008). */
uint64_t x86_phys_end(const struct x86_cpuid *c);

/*
 * Gives a vCPU its CPUID and keeps a copy of it: not every host's KVM tells afterwards what it was
 * given.
 */
int x86_set_cpuid(struct vcpu *v, const struct x86_cpuid *c, struct err *e);

/*
 * Sets up vCPU `v`: CPUID and MSRs for each; for the boot processor (index 0) also registers for
 * `entry` and the local APIC's LINT pins. Another vCPU waits for its start-up IPI. A MSR that KVM
 * refuses is named in the error.
 */
int x86_setup_vcpu(struct vcpu *v, const struct x86_cpuid *c, const struct boot_entry *entry,
		   struct err *e);
