/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/kvm_state.h"

#include <sys/ioctl.h>

_Static_assert(sizeof(struct kvm_irqchip) == 520, "KVM ABI");
_Static_assert(sizeof(struct kvm_pit_state2) == 112, "KVM ABI");
_Static_assert(KVM_IRQCHIP_PIC_MASTER == 0 && KVM_IRQCHIP_IOAPIC == KVM_STATE_CHIPS - 1,
	       "chips are numbered from 0 on");

int kvm_state_save(struct kvm_state *s, struct kvm *k, bool pit, struct err *e)
{
	struct kvm_clock_data clock = {0};

	*s = (struct kvm_state){.pit = pit};
	for (uint32_t i = 0; i < KVM_STATE_CHIPS; i++) {
		s->chip[i].chip_id = i;
		if (ioctl(k->vm_fd, KVM_GET_IRQCHIP, &s->chip[i]) < 0)
			return err_sys(e, "read interrupt controller %u (KVM_GET_IRQCHIP)", i);
	}
	if (pit && ioctl(k->vm_fd, KVM_GET_PIT2, &s->pit2) < 0)
		return err_sys(e, "read the i8254 (KVM_GET_PIT2)");
	if (ioctl(k->vm_fd, KVM_GET_CLOCK, &clock) < 0)
		return err_sys(e, "read the guest's clock (KVM_GET_CLOCK)");
	s->clock_ns = clock.clock;
	if (clock.flags & KVM_CLOCK_REALTIME)
		s->realtime_ns = clock.realtime;
	return 0;
}

void kvm_state_wire(struct kvm_state *s, struct wire *w)
{
	for (unsigned i = 0; i < KVM_STATE_CHIPS; i++)
		wire_bytes(w, &s->chip[i], sizeof(s->chip[i]));
	wire_bool(w, &s->pit);
	if (s->pit)
		wire_bytes(w, &s->pit2, sizeof(s->pit2));
	wire_u64(w, &s->clock_ns);
	wire_u64(w, &s->realtime_ns);
}

int kvm_state_check(const struct kvm_state *s, bool pit, struct err *e)
{
	for (uint32_t i = 0; i < KVM_STATE_CHIPS; i++)
		if (s->chip[i].chip_id != i)
			return err_set(e, EINVAL, "interrupt controller %u is number %u", i,
				       s->chip[i].chip_id);
	if (s->pit != pit)
		return err_set(e, EINVAL, "an i8254 is %s, and configured is the contrary",
			       s->pit ? "there" : "missing");
	return 0;
}

static int restore_clock(const struct kvm_state *s, struct kvm *k, bool realtime, struct err *e)
{
	struct kvm_clock_data clock = {.clock = s->clock_ns};
	int flags;

	if (realtime) {
		flags = ioctl(k->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_ADJUST_CLOCK);
		if (!(flags & KVM_CLOCK_REALTIME))
			return err_set(e, ENOTSUP,
				       "clock_realtime: this kernel's KVM cannot advance the "
				       "guest's clock");
		if (!s->realtime_ns)
			return err_set(e, ENOTSUP,
				       "clock_realtime: the snapshot does not know when it was "
				       "taken, since its host's clock source was not the TSC");
		clock.flags = KVM_CLOCK_REALTIME;
		clock.realtime = s->realtime_ns;
	}
	if (ioctl(k->vm_fd, KVM_SET_CLOCK, &clock) < 0)
		return err_sys(e, "set the guest's clock (KVM_SET_CLOCK)");
	return 0;
}

int kvm_state_restore(const struct kvm_state *s, struct kvm *k, bool realtime, struct err *e)
{
	for (unsigned i = 0; i < KVM_STATE_CHIPS; i++)
		if (ioctl(k->vm_fd, KVM_SET_IRQCHIP, &s->chip[i]) < 0)
			return err_sys(e, "KVM refuses interrupt controller %u (KVM_SET_IRQCHIP)",
				       i);
	if (s->pit && ioctl(k->vm_fd, KVM_SET_PIT2, &s->pit2) < 0)
		return err_sys(e, "KVM refuses the i8254 (KVM_SET_PIT2)");
	return restore_clock(s, k, realtime, e);
}
