/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine behind a struct vm (vmm/vm.h): for vmm/vm.c and vmm/devices.c, which build one and boot it, for
 * vmm/shell.c, which builds one for a guest to come, and for snapshot/, which builds one or takes that and puts
 * saved state into it. Nobody else includes this. Main thread.
 */
#pragma once

#include "vmm/platform.h"
#include "vmm/pvpanic.h"
#include "vmm/vm.h"

#define MACHINE_SPARE_QUEUES 3u

/*
 * What exists only once the VM has been started. Zeroed before it is built, so that a half-built
 * one can be destroyed.
 */
struct vm_machine {
	struct vm *vm;
	struct kvm kvm;
	struct gmem mem;
	struct bus pio, mmio;
	struct serial serial;
	struct i8042 i8042;
	pthread_mutex_t *i8042_lock;
	struct power power;
	struct boot_timer boot_timer;
	struct pvpanic pvpanic;
	struct virtio_mmio virtio[LAYOUT_VIRTIO_MAX];
	int virtio_irq[LAYOUT_VIRTIO_MAX];
	unsigned virtio_count;
	struct loop_timer show; /* machine_show_windows() */
	uint8_t *windows;	/* a page for each virtio device, or NULL */
	/*
	 * Slots from 0 on whose eventfds exist and are bound before there is a device: virtio_irq, and
	 * those of their first queues, until the device takes them.
	 */
	unsigned spare;
	int spare_kick[LAYOUT_VIRTIO_MAX][MACHINE_SPARE_QUEUES];
	bool warm;	      /* VM, platform, vCPUs and their threads are there (vmm/shell.h) */
	uint64_t host;	      /* x86_host_fingerprint(); 0: not asked yet */
	struct mmdsnet *mmds; /* or NULL */
	struct vcpu_set vcpus;
	struct vcpu vcpu[LAYOUT_VCPU_MAX];
	struct loop_source ended;
	/* [m] Called when vcpus.end_fd is signalled, whoever did: for a thread that has no eventfd of its own. */
	void (*woken)(void *arg);
	void *woken_arg;
	bool log_dirty;	   /* KVM logs which pages the guest writes */
	struct fork *fork; /* who else is told what was (snapshot/fork.h); or NULL. Borrowed */
};

/* An empty one; NULL with `e` filled on failure. */
struct vm_machine *machine_create(struct vm *vm, struct err *e);
/* Stops what runs and frees everything. Fine on NULL and on a half-built one. */
void machine_destroy(struct vm_machine *m);

/*
 * The steps, in this order; in between the caller fills m->mem, and creates and sets up the vCPUs.
 * Each returns 0, or -errno with `e` filled.
 */
/* Files above m->mem, VM, memory slots over all of it, interrupt controllers. Of a warm one what is missing. */
int machine_build_kvm(struct vm_machine *m, const struct machine_config *c, struct err *e);
/* Serial line, without what is behind it, keyboard controller and the other small ones. */
int machine_build_platform(struct vm_machine *m, const struct config *c, struct err *e);
/* The platform if it is not there yet, the console, virtio devices in their slots. */
int machine_build_devices(struct vm_machine *m, const struct config *c, struct err *e);
/*
 * Of a started machine, running or not: KVM's log of dirty pages, for a time. What the devices write
 * is marked from the first time on (gmem_track()). Turning it on waits for all vCPUs to leave the
 * guest once, and for milliseconds in the kernel while they are back in it.
 */
int machine_log_dirty(struct vm_machine *m, bool on, struct err *e);
/*
 * Lets the guest read its devices' registers without an exit (virtio_mmio_map()), a while from now:
 * one more memory slot takes milliseconds, which no start or restore is to wait for. The guest
 * runs meanwhile. Failure is only logged.
 */
void machine_show_windows(struct vm_machine *m);
/* Behind the end of the VM. */
void machine_hide_windows(struct vm_machine *m);
/* Eventfds of `slots` virtio slots that are not used yet. Behind the platform. */
int machine_build_spare(struct vm_machine *m, unsigned slots, struct err *e);
/* Threads, if there are none yet; every vCPU is parked until vcpu_set_resume(). */
int machine_park(struct vm_machine *m, struct err *e);
/* The filter of the main thread is in force afterwards. Before any vCPU runs. */
int machine_confine(struct vm_machine *m, struct err *e);
