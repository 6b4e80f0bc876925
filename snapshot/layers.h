/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Layers of memory: what lies over the base that a forked microVM begins with (snapshot/fork.h). Each is
 * a memfd as long as guest memory, with holes where it says nothing; which pages it has is in the
 * state file, section LAYR, since a file system may give back more than was written. A page is that of
 * the last layer that has it, else the base's. Main thread.
 */
#pragma once

#include "snapshot/memory.h"

/* Of one fork. Beyond that they are made into one. */
#define LAYERS_MAX 8u

struct layer {
	int fd;			   /* owned; -1: none */
	struct memory_table table; /* of its pages; without hashes */
};
void layer_finish(struct layer *l);
/* Fills the table. */
int layer_tabulate(struct layer *l, const struct pageset *pages, struct err *e);

struct state;

/*
 * Puts the layers of `s`, whose files are `fd`, over memory that has its base, and makes it
 * GMEM_FORKED. Before the guest runs. Both were given by somebody else: they are judged.
 */
int layers_map(struct gmem *m, const struct state *s, const int *fd, unsigned count, struct err *e);
