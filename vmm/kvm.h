/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /dev/kvm and one virtual machine of it. Thin: each function is one or two ioctls of the KVM API
 * (Linux Documentation/virt/kvm/api.rst), with the refusal said in words. Main thread.
 *
 * Order matters for speed: every memory slot before the irqchip, and both before the first
 * ioeventfd. A slot that is set afterwards waits for an SRCU grace period, 2 to 7 ms instead of
 * 0.1 ms.
 */
#pragma once

#include <linux/kvm.h>

#include "vmm/base/gmem.h"

struct kvm {
	int fd; /* /dev/kvm */
	int vm_fd;
	size_t run_size;   /* bytes of struct kvm_run and what follows, for mmap */
	bool tsc_deadline; /* the irqchip emulates the TSC-deadline timer */
	uint64_t kernel;   /* hash of the host's kernel release and version */
};

/* Opens /dev/kvm, checks the API version and each capability that spore needs; creates the VM. */
int kvm_open(struct kvm *k, struct err *e);
/* Closes both. Closing a VM that ran takes some 16 ms in the kernel. */
void kvm_close(struct kvm *k);

/*
 * Maps all regions of `mem`, files too, as memory slots of their number, but for one with blocks; `log_dirty` turns the dirty log of RAM
 * on. What the guest writes to a read-only one exits as a write to a device that is not there.
 */
int kvm_set_memory(struct kvm *k, const struct gmem *mem, bool log_dirty, struct err *e);
/*
 * Gives the guest part `n` of a region with blocks, or takes it away; also while it runs. 0 or -errno.
 * Taking away cannot fail.
 */
int kvm_set_part(struct kvm *k, const struct gmem_region *r, unsigned n, bool on, bool log_dirty);
/* The number of its memory slot. */
#define KVM_SLOT_PART(n) (KVM_SLOT_WINDOWS + 1u + (n))
#define KVM_SLOT_WINDOWS GMEM_REGIONS_MAX
/*
 * The guest reads `len` bytes at `host` in the windows of the first virtio devices, without an exit.
 * What it writes there exits as ever, or signals an eventfd. Also while it runs.
 */
int kvm_set_windows(struct kvm *k, const void *host, uint64_t len, struct err *e);
/* PIC, IOAPIC and local APICs in the kernel; an i8254 too when `pit`. */
int kvm_create_irqchip(struct kvm *k, bool pit, struct err *e);
/* A guest's 4-byte write of `match` to `addr` signals the eventfd and does not exit. */
int kvm_add_ioeventfd(struct kvm *k, gpa_t addr, uint32_t match, int fd, struct err *e);
/* Signalling the eventfd injects an edge on IOAPIC pin `gsi`. */
int kvm_add_irqfd(struct kvm *k, uint32_t gsi, int fd, struct err *e);
/* Such an edge at once: an eventfd's may be delivered by a thread of the kernel, later. */
int kvm_pulse_irq(struct kvm *k, uint32_t gsi, struct err *e);
