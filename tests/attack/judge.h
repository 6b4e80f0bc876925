/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of jailer/filters.c read directly, for tests: what a filter made of it has to say, and
 * what to try.
 */
#pragma once

#include <linux/seccomp.h>

#include "jailer/filter.h"

/* What the rules tell a thread of `who`: SECCOMP_RET_ALLOW, _ERRNO or, if there is none, _TRAP. */
uint32_t judge(const struct filter_rule *rule, size_t count, unsigned who,
	       const struct seccomp_data *d);

/* A rule of filter_table that `who` has names this call, whatever its arguments. */
bool judge_named(long nr, unsigned who);
/* The kernel lets it pass every filter. */
bool judge_exempt(long nr);

struct judge_walk {
	size_t rule; /* zeroed: from the beginning */
	unsigned arg;
	unsigned
		inviolable; /* arguments that may have any value, since another rule allows the call */
};

/*
 * The next call in which one argument that filter_table checks for `who` is wrong, all others being
 * right, so that it has to be refused; false at the end. `arg` is then one behind the argument's
 * place in its rule.
 */
bool judge_violation(struct judge_walk *w, unsigned who, struct seccomp_data *d);
