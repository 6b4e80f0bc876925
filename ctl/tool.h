/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs of the system that do what sporectl does not do itself: mke2fs, tar, skopeo... While one runs, a line on a
 * terminal tells how far it is. SIGINT, SIGTERM and SIGHUP go to it and to what it has started, and end the work with
 * -EINTR, so that what was begun is taken back. One thread, one program at a time.
 */
#pragma once

#include "ctl/ctl.h"

#define TOOL_ARGS 32

struct tool {
	const char *
		package; /* Debian's, for the advice when it is missing; NULL: the program's name */
	const char *title; /* for the line; NULL: none */
	const char *dir;   /* where it runs; NULL: here */
	int in, out;	   /* standard input and output; 0: none */
	char *output;	   /* its standard output, in place of `out`: text, cut at `size` */
	size_t size;
	uint64_t total;		     /* bytes that there will be; 0: not known */
	uint64_t (*done)(void *arg); /* bytes so far; NULL: the line shows what the program says */
	void *arg;
	const char *
		fakeroot; /* file: the program believes to be root, and finds here what it did before */
	/* Asked again and again; if it says -errno and why, the program is ended. NULL: nothing is asked. */
	int (*allowed)(void *arg, struct err *e);
	void *allowed_arg;
};

/*
 * Runs argv[0], found in PATH and the directories of the administrator's programs, to its end. 0; -ENOENT: it is not
 * installed; -EINTR; -ECHILD: it failed, and `e` has what it said first; what allowed() said.
 */
int tool_run(struct ctl *c, const struct tool *t, const char *const *argv, struct err *e);

/* A done() for the offset of the descriptor *arg, which the program shares; and for what the file `arg` takes. */
uint64_t tool_offset(void *arg);
uint64_t tool_blocks(void *arg);
