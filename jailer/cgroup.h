/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control groups of a jail: <hierarchy>/<parent>/<id>, version 1 or 2. Linux's
 * Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.
 */
#pragma once

#include "jailer/args.h"

/*
 * Version 2: makes the group, writes the values and returns its directory in *dir (an fd of the
 * caller), so that a process can be created inside. Without values and where the parent exists,
 * that one is meant, as with Firecracker; *dir is -1 when there is nothing to enter. Version 1:
 * makes a group for each controller that is named, writes the values and enters them all; *dir is
 * -1.
 */
int cgroup_make(const struct args *a, int *dir, struct err *e);

/* Moves the calling process into the group `dir`. */
int cgroup_enter(int dir, struct err *e);

/*
 * Removes the groups that cgroup_make() made, in all hierarchies; waits a moment for processes that
 * are ending.
 */
int cgroup_remove(const struct args *a, struct err *e);
