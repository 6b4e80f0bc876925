/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vCPUs: one thread each, and the protocol by which the main thread stops them.
 *
 * The pause protocol. The main thread writes what it wants (`wanted`), sets every vCPU's
 * kvm_run->immediate_exit and sends every thread a signal; then it waits until all are parked.
 * A signal that arrives inside KVM_RUN ends it with EINTR. One that arrives just before is not
 * lost, since KVM looks at immediate_exit on entry. A thread looks at `wanted` only after such an
 * EINTR: when an exit was being served as the request came, the thread first enters KVM_RUN once
 * more, and with immediate_exit set KVM completes that access (the read data reaches its register)
 * and returns without running the guest. So a parked vCPU never has half an instruction
 * pending, and its registers can be saved. immediate_exit is cleared by the thread itself, under
 * the lock and only when it is to run again, so no request in between can be wiped out. Nothing
 * sleeps or polls anywhere in this.
 *
 * A vCPU that meets its end (reset, poweroff, triple fault, KVM error) reports it once through
 * `ended` and parks for good: the main thread hears of it from an eventfd and stops the others.
 */
#pragma once

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>

#include "jailer/seccomp.h"
#include "vmm/base/metric.h"
#include "vmm/bus.h"
#include "vmm/kvm.h"

enum vcpu_wanted { VCPU_RUN, VCPU_PAUSE, VCPU_STOP };

/* Why the guest is over. */
enum vcpu_end {
	VCPU_END_NONE,
	VCPU_END_RESET,	       /* the guest asked for a reset */
	VCPU_END_POWEROFF,     /* the guest asked to be powered off */
	VCPU_END_TRIPLE_FAULT, /* or shut down in another way that leaves no state */
	VCPU_END_ERROR,	       /* KVM could not go on; logged */
};

/* Firecracker's names, group "vcpu". */
struct vcpu_metrics {
	struct metric exit_io_in, exit_io_out, exit_mmio_read, exit_mmio_write, failures;
};

/* What the vCPUs of one VM share. */
struct vcpu_set {
	struct bus *pio, *mmio; /* [I] */
	int end_fd;		/* [I] eventfd, signalled when `end` gets a value; owned */
	_Atomic int end;	/* [a] enum vcpu_end, the first one reported */
	pthread_mutex_t lock;
	pthread_cond_t changed;		 /* `wanted` or `parked` */
	_Atomic enum vcpu_wanted wanted; /* written under lock */
	unsigned parked;		 /* under lock: threads that are outside KVM_RUN */
	unsigned soon;			 /* under lock: calls of vcpu_set_soon() */
	int soon_cpu;			 /* under lock: where the last one came from */
	struct vcpu *vcpu;		 /* [I] once all are started */
	const struct seccomp *seccomp;	 /* [I] what the threads put themselves under; borrowed */
	unsigned count;
	bool warm;			/* [I] set before the start: KVM prepares the first entry */
	unsigned started;		/* [m] threads that exist */
	struct vcpu_metrics metrics;	/* [a] */
	_Atomic uint64_t first_exit_ns; /* [a] CLOCK_MONOTONIC of vCPU 0's first exit; 0: none */
};

struct vcpu {
	int fd;			 /* [I] owned */
	struct kvm_run *run;	 /* [v], but immediate_exit is written by the main thread */
	size_t run_size;	 /* [I] */
	unsigned index;		 /* [I] also its APIC id */
	struct vcpu_set *set;	 /* [I] */
	pthread_t thread;	 /* [m] */
	unsigned soon_seen;	 /* [v] `soon` of the set that it has waited for */
	char name[16];		 /* [I] "vcpu 0" */
	int tsc_khz;		 /* [I] KVM_GET_TSC_KHZ; 0: not asked yet */
	struct x86_cpuid *cpuid; /* [I] what the guest was told (x86_set_cpuid()); owned */
};

/* Creates `count` vCPUs in vcpu[] (1..32). Main thread; 0 or -errno. */
int vcpu_set_init(struct vcpu_set *s, struct kvm *k, struct vcpu *vcpu, unsigned count,
		  struct bus *pio, struct bus *mmio, struct err *e);
/* Stops and joins what runs, closes the vCPUs. Fine on a zeroed or half-built set. */
void vcpu_set_finish(struct vcpu_set *s);

/*
 * Creates the threads; every vCPU is parked until vcpu_set_resume(). Each puts itself under the
 * filter for vCPUs first (`seccomp` may be NULL, and has to live as long as the threads); one that
 * cannot reports VCPU_END_ERROR, and then none ever runs the guest.
 */
int vcpu_set_start(struct vcpu_set *s, const struct seccomp *seccomp, struct err *e);
/* Returns when every vCPU is parked. */
void vcpu_set_pause(struct vcpu_set *s);
void vcpu_set_resume(struct vcpu_set *s);
/*
 * vcpu_set_resume() will be called in some 100 us, unless something fails: whoever is parked wakes up
 * meanwhile and looks for it in a loop, for a short time, unless the caller's processor is its own.
 */
void vcpu_set_soon(struct vcpu_set *s);

/* For devices that end the guest (i8042, ACPI sleep). The first report counts. Any thread. */
void vcpu_set_end(struct vcpu_set *s, enum vcpu_end end);
