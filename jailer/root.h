/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file tree of a jail, through the mount calls of Linux 5.2 and later (open_tree, fsmount,
 * move_mount, mount_setattr of 5.12): trees are put together detached, where nobody sees them, and
 * appear at once.
 */
#pragma once

#include "jailer/args.h"

struct root {
	int dir;		   /* the jail directory on the host, O_PATH */
	int tree;		   /* the root of the jail: a mount */
	int bind[ARGS_REPEAT_MAX]; /* of --bind: detached mounts */
	size_t binds;
};

void root_init(struct root *r);
void root_finish(struct root *r);

/*
 * Makes the jail directory with what belongs into it and mounts the new root over it. Needs a mount
 * namespace of our own, with private propagation. The process itself is still outside.
 */
int root_build(struct root *r, const struct args *a, struct err *e);

/* Makes it the root of the process, and lets go of the old one. */
int root_enter(const struct root *r, struct err *e);
