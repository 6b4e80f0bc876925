/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A warm shell: a machine that is complete but for what is in it, made before anybody needs it. It has
 * its VM, memory slots over address space that is only reserved, interrupt controllers, platform,
 * eventfds for devices to come, and vCPUs with their CPUID, which have been as far as a guest's first
 * instruction (vmm/vcpu.c) and whose threads are parked under their filters. Loading a snapshot into it
 * (snapshot/load.c) maps the memory file over that address space and sets state: what takes most of a
 * restore, and what waits for the kernel, is done by then.
 *
 * Such a process serves one microVM like any other, but only one that comes from a snapshot.
 */
#pragma once

#include "vmm/vm.h"

struct shell_config {
	unsigned vcpus; /* 0: no shell */
	uint64_t mem_mib;
	unsigned devices; /* virtio devices that are prepared for; more cost a little later */
	bool track_dirty_pages;
	bool pit;
};

/*
 * "vcpus=N,mem_mib=M[,devices=N][,track_dirty_pages][,pit]" in any order. -EINVAL with a message that
 * begins with the key.
 */
int shell_parse(struct shell_config *s, const char *text, struct err *e);

/*
 * Makes vm->shell; vm->config says what it has. The filters for vCPUs (vm->seccomp) are in force
 * afterwards, the main thread's are not. On failure nothing is left.
 */
int shell_prepare(struct vm *vm, const struct shell_config *s, struct err *e);

/* What a snapshot needs of a machine. */
struct shell_need {
	unsigned vcpus;
	uint64_t mem_size; /* bytes */
	bool hotplug;	   /* memory comes and goes */
	bool pit;
};
/* Whether vm->shell is such a machine; -EINVAL says in which way it is not. */
int shell_fits(const struct vm *vm, const struct shell_need *need, struct err *e);
