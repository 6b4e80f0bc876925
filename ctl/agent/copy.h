/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file or directory over a connection, in frames ENTRY, DATA and DONE: the same code on both sides
 * and in both directions. Files, directories and symbolic links are copied with mode and time of
 * change; special files are left out and counted.
 *
 * Receiving, nothing that the other side says leads out of the target: paths are relative and
 * without "..", each directory on the way is opened without following links, and what exists under
 * a name is replaced, not written through. Only the target itself, which our user has named, may be
 * a link or a device. One thread; blocking.
 */
#pragma once

#include "ctl/agent/frame.h"

/* What went wrong here: a positive errno, and what was tried. */
struct copy_err {
	int code;
	char what[AGENT_PATH_MAX + 64];
};

/* Called now and then while something is copied: the path within the tree, and bytes so far. */
typedef void copy_progress(void *opaque, const char *path, uint64_t bytes);

/*
 * Sends the file or directory `path` (a link is followed) to `sock`, and DONE. 0, or -errno with `e`
 * filled; -ECANCELED when the other side said something meanwhile, which it does only when it has
 * failed.
 */
int copy_send(int sock, const char *path, copy_progress *progress, void *opaque,
	      struct copy_err *e);

/* Receiving. `mode_mask` and `progress` are the caller's, set before copy_open(). */
struct copy_in {
	unsigned mode_mask; /* bits of a file's mode that are taken over */
	copy_progress *progress;
	void *opaque;
	int top;  /* the directory, when the tree is one; or -1 */
	int file; /* that is being written, or -1 */
	bool begun;
	uint32_t mode; /* of that file */
	uint64_t mtime, bytes;
	uint32_t left_out; /* special files, by DONE */
	char target[AGENT_PATH_MAX];
	char path[AGENT_PATH_MAX]; /* of the last entry */
};

/* The copy will be `path`, or, if that is a directory, `name` in it. 0 or -errno. */
int copy_open(struct copy_in *t, const char *path, const char *name, struct copy_err *e);

/* Takes one frame. 1 after DONE, 0, or -errno with `e` filled; -EPROTO: the other side is broken. */
int copy_take(struct copy_in *t, const struct frame *f, struct copy_err *e);

/* Closes what is open. */
void copy_close(struct copy_in *t);
