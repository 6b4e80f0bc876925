/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Directories below a descriptor, for the jailer. What is below the root of a jail belongs to the
 * jailed user, perhaps to one that an attacker has taken over and that is still running: no name in
 * it is followed as a symbolic link, none leads out of it, and a name is never used twice.
 */
#pragma once

#include <sys/types.h>

#include "vmm/base/err.h"

/* "Leave owner and mode as they are". */
#define TREE_KEEP ((mode_t)-1)

struct tree_owner {
	mode_t mode; /* or TREE_KEEP */
	uid_t uid;
	gid_t gid;
};

/*
 * Opens the directory `path` (relative, any depth) below `at`, O_PATH; creates what is missing and
 * gives the last component this owner. Returns an fd that the caller owns, or -errno.
 */
int tree_make_dir(int at, const char *path, const struct tree_owner *owner, struct err *e);

/* The same for a path that is trusted, absolute too: symbolic links are followed. mkdir -p. */
int tree_make_trusted(const char *path, struct err *e);

/* Opens `path` below `at` with these flags (O_PATH, O_RDONLY, O_CREAT...) and rules. -errno. */
int tree_open(int at, const char *path, int flags, mode_t mode);

/* Makes a character device node; an entry that is in the way is removed. */
int tree_make_device(int at, const char *name, dev_t dev, const struct tree_owner *owner,
		     struct err *e);

/* Writes a file that no one else has put there: what is in the way is removed. */
int tree_write_file(int at, const char *name, mode_t mode, const char *text, struct err *e);

/*
 * Removes `name` below `at` with all that is in it. Never crosses into another mount and stops
 * there with -EXDEV, since that is what somebody else owns. A missing one is fine.
 */
int tree_remove(int at, const char *name, struct err *e);
