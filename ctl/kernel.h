/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest's kernel out of what a distribution ships: the uncompressed ELF of a bzImage, and an initial RAM disk of
 * modules with the agent as its /init, which loads them and goes on in the root file system (docs/agent.md).
 */
#pragma once

#include <limits.h>

#include "ctl/tool.h"

/* Writes the ELF in the bzImage `from` to `to`. The file is judged: it may be anything. 0 or -errno. */
int kernel_unpack(struct ctl *c, const char *from, const char *to, struct err *e);
/*
 * Writes to `to` the RAM disk of the kernel `version` whose package is unpacked in `root`. `work` is a directory
 * for what is in between.
 */
int kernel_initrd(struct ctl *c, const char *root, const char *version, const char *work,
		  const char *to, struct err *e);
