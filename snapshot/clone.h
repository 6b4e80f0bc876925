/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies of the files that drives write to, as they are at one moment: for the children of a fork. Where
 * the file system shares blocks (FICLONE) a copy takes no time worth speaking of; elsewhere what is
 * data is copied. Main thread.
 */
#pragma once

#include "snapshot/output.h"

struct clone {
	char *path;		/* of the copy; owned */
	struct output_file out; /* private */
	bool made;		/* it is complete */
	bool named;		/* private */
};

/* Creates the copy under a temporary name. On failure there is nothing. */
int clone_create(struct clone *c, const char *path, struct err *e);
/* Copies `from`, to which nobody writes meanwhile. */
int clone_make(struct clone *c, int from, struct err *e);
/* The same from another copy, which is made. */
int clone_make_from(struct clone *c, const struct clone *other, struct err *e);
/* Gives it its name. */
int clone_commit(struct clone *c, struct err *e);
/* Frees what is in `c`; unless it is to be kept, the file goes too. */
void clone_finish(struct clone *c, bool keep);
