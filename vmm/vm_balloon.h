/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the API does with the balloon of a running microVM (virtio/balloon.h): under its lock. Main
 * thread. -EINVAL with `e` filled when there is no balloon.
 */
#pragma once

#include "virtio/balloon.h"
#include "vmm/vm.h"

/* Also in the configuration, which GET /balloon shows. */
int vm_balloon_set(struct vm *vm, unsigned amount_mib, struct err *e);
int vm_balloon_set_interval(struct vm *vm, unsigned seconds, struct err *e);
int vm_balloon_hint(struct vm *vm, bool start, bool acknowledge, struct err *e);
/* A copy of its state. */
int vm_balloon_get(struct vm *vm, struct balloon_state *s, struct err *e);
