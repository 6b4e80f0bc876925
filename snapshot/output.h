/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two files of a snapshot, state and memory, appear under their names together or not at all,
 * whatever happens in between: an error, SIGKILL, a crash of the host. What they replace stays
 * until then, and a mapping of the memory file that is replaced keeps its contents.
 *
 * Two names cannot change at once, so the state file decides: it knows the inode number of its
 * memory file.
 *
 *	1. Both are written as <name>.tmp and fsynced.
 *	2. <memory>.tmp becomes <memory>.<inode>. The old snapshot is whole and in force.
 *	3. <state>.tmp becomes <state>. Now the new one is in force: its memory is <memory>.<inode>,
 *	   which is where output_open_memory() looks when <memory> is another inode.
 *	4. <memory>.<inode> becomes <memory>.
 *
 * Directories are fsynced after 2, 3 and 4. A crash leaves at most a <name>.tmp, which the next one
 * of the same name removes, or between 2 and 4 a <memory>.<inode>. Main thread.
 */
#pragma once

#include "vmm/base/err.h"

#define OUTPUT_NAME_MAX 200u

struct output_file {
	const char *path;		 /* as given, for messages; borrowed */
	char name[OUTPUT_NAME_MAX + 1];	 /* its last component */
	char temp[OUTPUT_NAME_MAX + 25]; /* what it is called now; "" when nothing is there */
	int dir;			 /* its directory, owned */
	int fd;				 /* read and write, owned */
	uint64_t inode;
	bool in_place; /* it has its final name */
};

struct output {
	struct output_file state, memory;
};

/*
 * Creates both temporary files, mode 0600; the paths are borrowed. Refuses what is there under a final name and is no
 * regular file. On failure nothing is left and `o` needs no drop.
 */
int output_create(struct output *o, const char *state, const char *memory, struct err *e);
/* Steps 1 to 4, once both have been written. On failure nothing has changed. */
int output_commit(struct output *o, struct err *e);
/* Closes everything and removes what was not committed. */
void output_drop(struct output *o);

/*
 * The same for one file that nothing else depends on: <path>.tmp, which becomes <path> when it was
 * written. A crash of the host may leave it empty. On failure of the first nothing is left.
 */
int output_create_one(struct output_file *f, const char *path, struct err *e);
int output_commit_one(struct output_file *f, struct err *e);
/* Closes it and removes what was not committed. */
void output_drop_one(struct output_file *f);

/*
 * Opens the memory file of a snapshot for reading: `path`, or what step 4 did not get to. `inode` is
 * what the state file says; a copy of the files has another one. Returns an fd or -errno.
 */
int output_open_memory(const char *path, uint64_t inode, struct err *e);
