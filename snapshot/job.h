/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One creation of a snapshot on its way, in steps: for snapshot/create.c, which does one behind the
 * other, and snapshot/live.c, which lets the guest run in between. Nobody else includes this.
 * Main thread.
 */
#pragma once

#include "snapshot/output.h"
#include "snapshot/precopy.h"
#include "snapshot/snapshot.h"

struct job {
	struct vm_machine *m;
	struct snapshot_history *h;
	const struct snapshot_create_params *p; /* borrowed */
	struct output out;
	struct state state;
	struct pageset pages; /* to be written, or written */
	struct pageset dirty; /* all that was taken from the tracking, to be put back on failure */
	struct memory_table table;
	bool diff, merge; /* changed pages only; which complete the file before */
	struct snapshot_report report;
};

/* Creates the temporary files. On failure there is nothing to end. */
int job_begin(struct job *j, struct vm *vm, struct snapshot_history *h,
	      const struct snapshot_create_params *p, struct err *e);
/* It is a diff of memory that is not tracked, which is found by comparing. */
bool job_compares(const struct job *j);
/*
 * Drains devices, reads all states, and what is dirty unless `dirty` is NULL. The VM is paused. Then always
 * precopy_thaw().
 */
int job_freeze(struct job *j, struct pageset *dirty, struct err *e);
/* Of the pages that will be in the file, those by which it is recognized. The VM is paused. */
void job_probe(struct job *j);
/* Both files have been written: gives them their names. Any thread. */
int job_commit(struct job *j, const struct snapfile_writer *state, struct err *e);
/* Frees what is in `j`. `r` 0: the next diff is of this one; else what it took is put back. */
void job_end(struct job *j, int r);

/* snapshot/live.c */
int live_begin(struct vm *vm, struct snapshot_history *h, const struct snapshot_create_params *p,
	       struct err *e);
/* The process ends: the copy is given up, unless its files are being finished. Takes NULL. */
void live_abandon(struct snapshot_live *l);
