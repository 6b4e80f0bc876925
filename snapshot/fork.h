/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fork of a microVM that goes on running: others begin with its memory, and nothing of it is written
 * to a disk. snapshot/fork.c tells how. What comes of it is a few descriptors; who is given them loads
 * them as SNAPSHOT_BACKEND_PASSED. Main thread.
 */
#pragma once

#include "snapshot/layers.h"
#include "snapshot/snapshot.h"

/* State file, base, layers: sealed memfds, but for a base that is a file. */
#define FORK_FDS_MAX (2 + LAYERS_MAX)

struct fork_image {
	int fd[FORK_FDS_MAX]; /* borrowed */
	unsigned count;
	uint64_t paused_us; /* how long the guest stood still */
	uint64_t stop_us;   /* of which passed until every vCPU did */
	uint64_t state_us;  /* and the states took */
	uint64_t pages;	    /* that had to be copied, of them in the pause: */
	uint64_t paused_pages;
	uint64_t took_us; /* all of it */
};

struct fork_params {
	const char *config; /* as of snapshot_create_params; copied */
	size_t config_len;
	/* While the guest stands still and its devices are drained; if it fails, so does the fork. Or NULL. */
	int (*frozen)(void *arg, struct err *e);
	/* From the loop, once: `failed` or else `image` is not NULL. The guest runs again by then. */
	void (*done)(void *arg, const struct fork_image *image, const struct err *failed);
	void *arg;
};

/*
 * Begins one; there is one at a time, and no snapshot meanwhile. The guest may run or be paused, and
 * goes on as it was. When it fails, here or later, nothing has changed for it.
 */
int fork_begin(struct vm *vm, struct snapshot_history *h, const struct fork_params *p,
	       struct err *e);
/* Whether one is on its way. */
bool fork_busy(const struct snapshot_history *h);
/* A snapshot has taken what was dirty into `s`: it is told what forks took, and they of this. `f` may be NULL. */
void fork_share_dirty(struct fork *f, struct pageset *s);
/* Frees h->fork; one on its way ends without a word. */
void fork_forget(struct snapshot_history *h);
