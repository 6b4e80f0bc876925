/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole state of a parked vCPU: taken from KVM, written down, vetted, given to a new vCPU.
 * Sources: KVM API (Documentation/virt/kvm/api.rst, each ioctl's section), Intel SDM, AMD APM.
 *
 * The order of the ioctls is part of the state's meaning.
 *
 * Saving. KVM_GET_MP_STATE comes first: it makes KVM deliver an INIT or start-up IPI that has
 * arrived but was not acted upon, which changes registers, local APIC and pending events. Then
 * KVM_GET_VCPU_EVENTS, which changes registers too: a page fault or debug exception that KVM has
 * queued but not injected carries its address or DR6 with it, and they are written into CR2 or DR6
 * when it is asked for (unless KVM_CAP_EXCEPTION_PAYLOAD is on). Read before that, they would be
 * those of an older fault.
 *
 * Restoring.
 *	CPUID		first: it decides which bits of CR4, EFER, XCR0 and which MSRs exist
 *	TSC frequency	before the TSC, whose value is scaled by it
 *	sregs		before the local APIC: the APIC base says whether it speaks x2APIC, and
 *			thereby where its id and ICR are in the register page
 *	xsave, xcrs, debugregs, regs
 *			KVM_SET_REGS drops a pending exception, so before the events
 *	mp_state, events
 *	local APIC	before the MSRs: the TSC-deadline MSR is ignored while the timer's LVT entry
 *			says another mode
 *	MSRs		the TSC-deadline last among them: it arms the timer against the TSC
 *
 * Main thread, vCPU parked or not started.
 */
#pragma once

#include "vmm/base/wire.h"
#include "vmm/x86.h"

#define X86_MSR_MAX   512u
#define X86_XSAVE_MAX 16384u /* AMX needs 11 KiB */

struct x86_state {
	struct kvm_mp_state mp_state;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debugregs;
	struct kvm_xcrs xcrs;
	struct kvm_lapic_state lapic;
	uint32_t tsc_khz;
	uint32_t msr_count;
	uint32_t xsave_size;
	struct x86_cpuid cpuid;
	struct kvm_msr_entry msr[X86_MSR_MAX];
	uint8_t xsave
		[X86_XSAVE_MAX]; /* struct kvm_xsave and what follows; zeroes behind its size */
};

/* What the host's KVM can do, asked once for all vCPUs. */
struct x86_host {
	struct x86_cpuid cpuid; /* supported, not shaped */
	uint32_t xsave_size;
};
int x86_host_init(struct x86_host *h, struct kvm *k, struct err *e);
/*
 * A number that two hosts share when they have the same processor and kernel: then what KVM supports
 * need not be compared, which costs 0.3 ms on a host that is virtual itself.
 */
uint64_t x86_host_fingerprint(const struct kvm *k);

/*
 * Reads the state of a parked vCPU. -ENOTSUP when the guest is a hypervisor itself and has turned
 * on VMX or SVM: the state of its own guests is not kept.
 */
int x86_state_save(struct x86_state *s, struct vcpu *v, struct kvm *k, struct err *e);

#define X86_STATE_VERSION 1u
void x86_state_wire(struct x86_state *s, struct wire *w);

/*
 * Vets what was read from a file, for vCPU `index`, and compares it with the host: the same vendor,
 * every CPU feature, XSAVE component and byte of XSAVE area that the guest knows of. `host` may be
 * NULL: then only what does not depend on the host is looked at. Names the first difference.
 * What KVM itself refuses (invalid registers, APIC state) it refuses in x86_state_prepare() and x86_state_complete().
 */
int x86_state_check(const struct x86_state *s, const struct x86_host *host,
		    const struct x86_topology *t, bool tsc_deadline, unsigned index, struct err *e);

/*
 * Gives it to a vCPU that has not run, in two steps: what stands still while the vCPU waits;
 * and, as late as one likes, the MSRs and a local APIC whose timer runs, in which time goes on from
 * then on. A MSR that KVM refuses is named, unless it has the value already.
 */
int x86_state_prepare(const struct x86_state *s, struct vcpu *v, struct err *e);
int x86_state_complete(const struct x86_state *s, struct vcpu *v, struct err *e);

/*
 * Tells the guest's clock, if it has one, that it stood still, so that a watchdog in the guest does
 * not bark. Never fails: without a clock there is nobody to tell.
 */
void x86_clock_paused(struct vcpu *v);
