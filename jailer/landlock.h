/* SPDX-License-Identifier: Apache-2.0 */
/* Landlock rules of a jail; include/uapi/linux/landlock.h. */
#pragma once

#include "vmm/base/err.h"

/*
 * Makes the rules: below `root` files may be read, written, created and removed, sockets and FIFOs
 * too; nothing may be executed but `exec`; no directory, link or device may be made; no TCP; and
 * no signal or abstract socket reaches out, where the kernel knows of that. Leaves an fd of the
 * caller in *rules, or -1 where the kernel has no Landlock.
 */
int landlock_make(int root, int exec, int *rules, struct err *e);

/* Puts the calling process under them, for good. Needs no_new_privs. Nothing for -1. */
int landlock_enter(int rules, struct err *e);
