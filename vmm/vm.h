/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The microVM as a whole: from a configuration to running vCPUs and to its end.
 *
 * Everything here is for the main thread. vCPU threads exist from vm_start() on; between
 * vm_pause() and vm_resume() each of them is parked outside KVM_RUN (vmm/vcpu.h).
 */
#pragma once

#include "virtio/mmio.h"
#include "vmm/base/loop.h"
#include "vmm/base/metric.h"
#include "vmm/bus.h"
#include "vmm/config.h"
#include "vmm/event.h"
#include "vmm/i8042.h"
#include "vmm/kvm.h"
#include "vmm/mmds.h"
#include "vmm/serial.h"
#include "vmm/vcpu.h"

enum vm_phase { VM_NOT_STARTED, VM_RUNNING, VM_PAUSED };

/*
 * Exit codes of the process, Firecracker's where it has one. docs/api.md tells users.
 */
enum vm_exit {
	VM_EXIT_OK = 0,	      /* the guest reset itself (reboot; i8042 command 0xfe) */
	VM_EXIT_ERROR = 1,    /* generic error; also a KVM failure while the guest ran */
	VM_EXIT_POWEROFF = 3, /* (+) the guest powered itself off through ACPI */
	VM_EXIT_MIGRATED = 4, /* (+) it goes on in another process */
	VM_EXIT_SPLIT = 5,    /* (+) post-copy: the other process is gone */
	VM_EXIT_TRIPLE_FAULT = VM_EXIT_ERROR, /* as in Firecracker; the log tells them apart */
	VM_EXIT_BAD_SYSCALL = 148,
	VM_EXIT_SIGBUS = 149,
	VM_EXIT_SIGSEGV = 150,
	VM_EXIT_SIGXFSZ = 151,
	VM_EXIT_BAD_CONFIG = 152,
	VM_EXIT_ARG_PARSING = 153,
	VM_EXIT_SIGXCPU = 154,
	VM_EXIT_SIGPIPE = 155,
	VM_EXIT_SIGHUP = 156,
	VM_EXIT_SIGILL = 157,
};

/* The steps of a start or a restore, microseconds. Written once. */
struct vm_times {
	uint64_t begin_us;   /* CLOCK_MONOTONIC when it began; what follows are durations */
	uint64_t kvm_us;     /* /dev/kvm, VM, memslots, irqchip */
	uint64_t memory_us;  /* mapping guest memory */
	uint64_t kernel_us;  /* kernel, initrd, tables into guest memory */
	uint64_t state_us;   /* of a restore: state file read, configuration applied */
	uint64_t devices_us; /* devices, ioeventfds, irqfds */
	uint64_t vcpus_us;   /* vCPUs created and set up */
	uint64_t run_us;     /* threads created and released to KVM_RUN */
	uint64_t total_us;
};

struct vm {
	struct config config; /* [m] set before the start, read after it */
	char id[CONFIG_ID_MAX + 1];
	struct loop *loop;	  /* [I] borrowed */
	struct event_log *events; /* [I] set before the start; NULL: nobody listens. Borrowed */
	enum vm_phase phase;	  /* [m] */
	/*
	 * [m] Called once, from the loop, when the guest has ended; `code` is the process's exit
	 * code. All vCPUs are parked by then.
	 */
	void (*ended)(struct vm *vm, enum vm_exit code);
	void *ended_arg;
	const struct seccomp *seccomp; /* [I] set before the start; NULL: no filters. Borrowed */
	struct vm_times times;	       /* [m] */
	struct mmds mmds;	       /* [m] what the guest is told, from before the start */
	struct vm_machine *machine; /* [m] what exists only after the start; NULL before (vm.c) */
	struct vm_machine *shell;   /* [m] made for a snapshot to come (vmm/shell.h); or NULL */
	struct vm_machine *ahead;   /* [m] empty but for KVM's VM: vm_prepare(); or NULL */
};

/* `loop` is borrowed for the life of `vm`. */
void vm_init(struct vm *vm, struct loop *loop, const char *id);
/* Whether `id` may name a microVM: 1..64 letters, digits and '-'. -EINVAL says why not. */
int vm_check_id(const char *id, struct err *e);
/* One that vm_check_id() likes; the log has it from here on too. */
void vm_set_id(struct vm *vm, const char *id);
/* Stops and frees everything; safe in every phase. */
void vm_finish(struct vm *vm);

/*
 * Before the start, while there is nothing else to do: has KVM create the VM, a fifth of what a start
 * or a restore takes. Where that fails, the start will say why.
 */
void vm_prepare(struct vm *vm);

/*
 * Builds the machine and lets it run. On failure everything is taken back and the VM can be
 * configured and started again.
 */
int vm_start(struct vm *vm, struct err *e);
/* Both are idempotent. -EINVAL before the start. vm_pause() returns when every vCPU is parked. */
int vm_pause(struct vm *vm, struct err *e);
int vm_resume(struct vm *vm, struct err *e);
/* What vm_resume() does to one that is paused, without telling anybody. */
void vm_let_go(struct vm *vm);
/* Types Ctrl-Alt-Del on the emulated keyboard. */
int vm_send_ctrl_alt_del(struct vm *vm, struct err *e);

/* Changes a running network interface; takes what is in `u`. -ENOENT when there is none. */
int vm_update_net(struct vm *vm, struct net_update *u, struct err *e);

/*
 * Before the process leaves without vm_finish(): what the guest was told to be written is in the
 * files of its drives, also where an overlay's map has to say so. Any phase.
 */
void vm_sync(struct vm *vm);

/* Devices by slot for the metrics writer; NULL past the last one or before the start. */
struct virtio_device *vm_device(struct vm *vm, unsigned index);

/* The n-th device of a kind, from 0: they have their slots in the order of the configuration. */
struct virtio_device *vm_nth_device(struct vm *vm, enum virtio_id type, unsigned n);

/*
 * Microseconds from the beginning of vm_start() to the boot processor's first exit: the guest ran by
 * then. 0 before that.
 */
uint64_t vm_first_exit_us(const struct vm *vm);

/* Counters of the rest of the machine, for the metrics writer. */
struct vm_counters {
	struct vcpu_metrics *vcpu;
	struct i8042_metrics *i8042;
	struct serial_metrics *serial;
};
/* False before the start. */
bool vm_counters(struct vm *vm, struct vm_counters *c);
