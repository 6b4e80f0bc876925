/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel keeps for a VM as a whole: interrupt controllers, the i8254 if there is one, and
 * the clock. Sources: KVM API, KVM_GET_IRQCHIP, KVM_GET_PIT2, KVM_GET_CLOCK. Main thread, vCPUs
 * parked or not started.
 *
 * An interrupt that a device raised through its irqfd may still be on its way to the IOAPIC when the
 * vCPUs are parked, since the kernel injects it from a work queue. Nobody can wait for that, so
 * every device raises the interrupts that are due again when it is restored; one too many is
 * harmless, as drivers ask the device.
 */
#pragma once

#include "vmm/base/wire.h"
#include "vmm/kvm.h"

enum { KVM_STATE_CHIPS = 3 }; /* two 8259, the IOAPIC */

struct kvm_state {
	struct kvm_irqchip chip[KVM_STATE_CHIPS];
	bool pit;
	struct kvm_pit_state2 pit2; /* when `pit` */
	uint64_t clock_ns;	    /* the guest's kvm-clock */
	uint64_t realtime_ns; /* the host's CLOCK_REALTIME at the same instant; 0: not known */
};

int kvm_state_save(struct kvm_state *s, struct kvm *k, bool pit, struct err *e);

#define KVM_STATE_VERSION 1u
void kvm_state_wire(struct kvm_state *s, struct wire *w);
int kvm_state_check(const struct kvm_state *s, bool pit, struct err *e);

/*
 * `realtime`: the guest's clock goes on by what the host's wall clock has advanced since the
 * state was saved; otherwise it goes on where it stood. -ENOTSUP when KVM (before 5.16, or
 * without a TSC clock source) cannot do that. After the vCPUs' MSRs: they turn the clock on.
 */
int kvm_state_restore(const struct kvm_state *s, struct kvm *k, bool realtime, struct err *e);
