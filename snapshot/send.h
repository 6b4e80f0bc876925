/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source of a migration, for its two halves: send.c decides on the main thread, send_steps.c carries
 * out steps on precopy.h's. A field without a mark is the thread's while a step runs, and the main
 * thread's otherwise. Nobody else includes this.
 */
#pragma once

#include "snapshot/migrate.h"
#include "snapshot/precopy.h"
#include "snapshot/stream.h"

/* How long the target may be silent while it takes pages. */
#define SEND_STALL_MS 10000

/* Who decides what becomes of it: the thread, with COMMIT, or an abort. */
enum decision { UNDECIDED, COMMITTED, ABORTED };

struct sending {
	struct precopy rounds;
	struct vm *vm;
	struct snapshot_history *h;
	struct migrate_params p; /* its texts are owned */
	struct pageset dirty;
	int fd;
	struct stream_out out;
	struct stream_in in;
	struct stream_hello hello;
	struct state state;
	struct snapfile_writer file; /* of `state` */
	uint8_t *buffer;	     /* STREAM_PAGES_MAX pages */
	uint64_t started_ns, paused_ns;
	_Atomic uint64_t downtime_us; /* once it is over */
	uint64_t bandwidth;	    /* bytes a second, of the last round that tells; 0: not known */
	_Atomic uint64_t remaining; /* pages */
	uint64_t cursor;	    /* where pages that are left go on */
	bool was_running, frozen, refused;
	bool split;		 /* post-copy: rounds.next stays here */
	_Atomic bool runs_there; /* and cannot be taken back */
	bool done;		 /* the target has all */
	_Atomic enum migrate_status status;
	_Atomic enum decision decision;
	_Atomic uint64_t normal, duplicate;
	uint64_t placed; /* pages that the target has been told of */
};

/*
 * Steps of precopy.h; `arg` is a struct sending. 0, or -errno with `e` filled. What went wrong in the last
 * one means what `decision` says.
 */
/* Greets the target and sends what it judges first; once it agrees, all that is not zero. */
int send_first(void *arg, struct err *e);
/* What was written since the round before: rounds.next. */
int send_round(void *arg, struct err *e);
/* The guest stands still: the rest, its state, the hand-over; with `split` what is left, after that. */
int send_last(void *arg, struct err *e);
