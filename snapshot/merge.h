/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Work on snapshot files while no microVM uses them: tools/spore-snapshot. Main thread.
 */
#pragma once

#include "vmm/base/err.h"

/* A snapshot as its two files. */
struct snapshot_files {
	const char *state, *memory;
};

/*
 * Whether memory is what the state says: every page that was written by its hash, and of a complete
 * snapshot that all others are zero. 0, -ESTALE with the first difference in `e`, or -errno.
 */
int snapshot_verify(const struct snapshot_files *s, struct err *e);

/*
 * Writes into `out` the complete snapshot that `diff` is when it is put onto `base`, which has to be
 * complete. The names of `out` may be those of `base` or `diff`: both files are replaced at once, or
 * nothing changes (snapshot/output.h). Refused: a diff of another snapshot, memory that
 * does not belong to its state.
 */
int snapshot_merge(const struct snapshot_files *base, const struct snapshot_files *diff,
		   const struct snapshot_files *out, struct err *e);
