/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sporectl, the person's tool: one file for each verb, a client of spore's socket only.
 *
 * A verb is `int verb_NAME(struct ctl *c, int argc, char **argv)` with a row in ctl/main.c. argv[0] is
 * the verb. It returns the exit code of the process: 0, or CTL_FAILED after it has said why on
 * standard error, which it does with ctl_fail(). It begins so:
 *
 *	static const struct ctl_option options[] = {
 *		{"time", 't', CTL_NUMBER, offsetof(struct args, seconds), "SECONDS", "how long [10]"},
 *		{0},
 *	};
 *	static const struct ctl_usage usage = {"NAME...", options, "sporectl stop web\n"};
 *	struct args args = {.seconds = 10};
 *
 *	if (!ctl_parse(c, &usage, &argc, &argv, &args))
 *		return c->exit_code;
 *	... argv[0..argc) are what is left, here the names
 *
 * Every error ends with a line that says what to type next: ctl_hint() sets it where that is known,
 * else hint.c knows it for what spore itself says, else it is the verb's --help.
 *
 * One thread, but for what a verb starts itself.
 */
#pragma once

#include <jansson.h>

#include "vmm/base/err.h"

#define CTL_FAILED 1
#define CTL_USAGE  2 /* the command line */

struct ctl {
	const char *verb;      /* its name */
	const char *state_dir; /* where the running microVMs are: vms.h */
	bool json;	       /* print for programs */
	bool color;	       /* standard output takes colours */
	bool terminal;	       /* standard output is one */
	int exit_code;	       /* after ctl_parse() said no */
	char hint[256];	       /* what to type next; "": see hint.c */
};

enum ctl_type {
	CTL_FLAG,   /* bool, to true */
	CTL_TEXT,   /* const char * */
	CTL_NUMBER, /* uint64_t, decimal */
	CTL_SIZE,   /* uint64_t of bytes: 512M, 2G; without a letter MiB */
	CTL_LIST,   /* struct ctl_list: may be given again */
};

#define CTL_MANY     INT32_MAX
#define CTL_LIST_MAX 16
struct ctl_list {
	const char *item[CTL_LIST_MAX];
	unsigned count;
};

struct ctl_option {
	const char *name;
	char letter; /* the short form, or 0 */
	enum ctl_type type;
	size_t offset; /* of the member in the struct given to ctl_parse() */
	const char *value, *help;
};

struct ctl_usage {
	const char *arguments;		  /* "[OPTION...] NAME" without the options */
	const struct ctl_option *options; /* ends with a zeroed one; NULL: none */
	const char *examples;		  /* each line is one, or a comment with # */
	int min, max;			  /* how many arguments; CTL_MANY: as many as one likes */
	bool no_more_options; /* the first argument ends the options: exec NAME COMMAND -x */
};

/*
 * Reads options anywhere on the line, and those that all verbs have (--json, --color, --state-dir,
 * --help), into `out`. *argc and *argv become the arguments that are left. False: print nothing more
 * and exit with c->exit_code; what was wrong, or the help, has been printed.
 */
bool ctl_parse(struct ctl *c, const struct ctl_usage *u, int *argc, char ***argv, void *out);
/* The options that all verbs have; ends with a zeroed one. Offsets are in struct ctl_common. */
struct ctl_common {
	const char *state_dir, *color;
	bool json, help;
};
extern const struct ctl_option ctl_common_options[];
/* As --help has them, to standard output. NULL: none. */
void ctl_print_options(const struct ctl_option *o);
void ctl_apply_common(struct ctl *c, const struct ctl_common *common);

/* "512M", "2G", "64K" (bytes) or "256" (MiB). False: it is none, is 0, or does not fit. */
bool ctl_parse_size(const char *text, uint64_t *bytes);
/* Of the zero-ended list of names the one that is spelled nearly like `text`, or NULL. */
const char *ctl_nearest(const char *text, const char *(*name)(void *arg, unsigned i), void *arg);

/* What to type next. Call it beside err_set(); the last call counts. Returns -1. */
int ctl_hint(struct ctl *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Says the error and what to type next on standard error. Returns CTL_FAILED. */
int ctl_fail(struct ctl *c, const struct err *e);
/* A line for the person on standard error; nothing with --json. */
void ctl_note(const struct ctl *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* One JSON value and a newline on standard output. Takes `value`. Returns 0, or CTL_FAILED. */
int ctl_print_json(struct ctl *c, json_t *value);

/*
 * Where kernels and images are kept that sporectl has fetched or built: $SPORE_CACHE, else
 * $XDG_CACHE_HOME/spore or ~/.cache/spore. What `run` takes when it is told nothing are the files or links
 * "default/kernel", "default/rootfs" and "default/initrd" in it.
 */
int ctl_cache_path(const char *file, char *buf, size_t size, struct err *e);
