/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool: shells (spore --shell) that wait to become clones of a snapshot, kept at a number.
 *
 * A shell is a process with a directory of its own (vms.h), which has no name yet. It is started,
 * jailed if that was asked for, and primed with the snapshot; then it is ready. A claim gives its
 * directory the name of the clone, which two cannot have, and sends it one PUT /snapshot/load with
 * all that makes the clone somebody. What fails ends the shell and removes the directory; what
 * succeeds is a microVM like those of `sporectl run`, and outlives the pool.
 *
 * Shells have a loop of their own (pool_turn()): it goes round while a claim waits for them, and no
 * other client is served meanwhile. Ended processes are collected, and new shells started, when
 * nobody waits.
 */
#pragma once

#include "ctl/vms.h"
#include "vmm/base/loop.h"

#define POOL_SIZE_MAX	1000u
#define POOL_INSIDE	"/vm" /* what a jailed shell calls its directory */
#define POOL_CLONES_MAX 1000u /* of one claim */

struct pool_config {
	struct ctl *c;
	unsigned size;	      /* shells that are kept */
	unsigned fill;	      /* of them, how many may be starting at once */
	const char *shell;    /* what --shell takes */
	const char *snapshot; /* directory with "state" and "memory"; NULL: each claim names one */
	const char *spore, *jailer; /* programs; jailer NULL: no jail */
	uint64_t uid, gid;	    /* of the jailed */
	const char *jail_base;
	const struct ctl_list *binds, *jail_options; /* more for the jailer */
};

enum pool_shell_state {
	SHELL_STARTING, /* its API does not listen yet */
	SHELL_PRIMING,	/* a request is on its way */
	SHELL_READY,
	SHELL_CLAIMED, /* a request is on its way */
	SHELL_CLONE,   /* it is one; only its end is waited for */
	SHELL_DEAD,    /* killed; to be collected */
};

struct pool_shell {
	struct pool *pool;
	struct pool_shell *next;
	enum pool_shell_state state;
	unsigned number;
	pid_t pid;
	uint64_t began_ns;
	struct vms_vm vm;
	struct loop_source api; /* connection; fd -1: none */
	char answer[4096];
	size_t answer_len;
	/* While it is claimed: */
	void (*done)(struct pool_shell *s, const char *failed); /* NULL: it is a clone */
	void *arg;
};

struct pool {
	const struct pool_config *config;
	struct loop loop;	  /* of the shells */
	struct loop_source retry; /* a timerfd: APIs that do not listen yet */
	struct pool_shell *all;
	unsigned next_number;
	unsigned count[SHELL_DEAD + 1];
	unsigned failures;    /* in a row, of shells that never became ready */
	char last_error[256]; /* of them */
};

/* Removes what pools have left that were killed. */
int pool_init(struct pool *p, const struct pool_config *config, struct err *e);
/* Ends the shells that are nobody yet, and waits for that; clones go on. */
void pool_finish(struct pool *p);
/* Starts what is missing, as far as `fill` allows. */
void pool_fill(struct pool *p);
/* After failures: the next pool_fill() tries once more. */
void pool_try_again(struct pool *p);
/* Serves the shells' answers, waiting up to `ms` for one. */
void pool_turn(struct pool *p, int ms);
/* Collects one process that has ended, and its directory. False: there was none. */
bool pool_reap(struct pool *p);

/* A ready shell, or NULL. */
struct pool_shell *pool_take(struct pool *p);
/*
 * Makes it the microVM `name` by PUT /snapshot/load with `body` (borrowed). 0: done() will be
 * called, from pool_turn(); else it is ready still, or dropped.
 */
int pool_claim(struct pool_shell *s, const char *name, const json_t *body, struct err *e);
/*
 * Kills it; its name is free at once, and its directory goes when it was collected. done() is
 * not called.
 */
void pool_drop(struct pool_shell *s);

/* --- pool_claim.c --- */

/*
 * PUT /clones of the pool: see docs/pool.md. Returns the status; *reply is the answer, or `e`
 * says what was wrong with the request, and nothing has happened.
 */
int claim_serve(struct pool *p, const char *text, size_t len, json_t **reply, struct err *e);
