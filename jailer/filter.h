/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a seccomp filter is made of: rules that name a system call, what its arguments must be and
 * why it is needed. The rules of spore itself are the table in filters.c; those of a user come from
 * a file (custom.c). A rule allows a call when all of its arguments match; several rules for one
 * call are alternatives; what no rule allows ends the process (seccomp.h).
 *
 * Only the register is seen, never what a pointer points to.
 */
#pragma once

#include <linux/filter.h>

#include "jailer/more.h"
#include "vmm/base/err.h"

/*
 * Who a rule is for. BOOT is in force from before the first API request on, in every thread, and
 * the others are added to it: so it allows by itself what they allow.
 */
enum filter_who {
	FILTER_BOOT = 1,  /* configuring and building the machine */
	FILTER_MAIN = 2,  /* main thread while the guest runs */
	FILTER_VCPU = 4,  /* vCPU threads, from before their first KVM_RUN */
	FILTER_FETCH = 8, /* the threads that bring memory after a restore */
};
/* With MAIN, if it is needed: one of enum seccomp_more. */
#define FILTER_MORE_SHIFT 8
#define FILTER_WITH(more) ((unsigned)(more) << FILTER_MORE_SHIFT)

enum filter_op {
	FILTER_ANY, /* not looked at */
	FILTER_EQ,
	FILTER_NE,
	FILTER_LT,
	FILTER_LE,
	FILTER_GT,
	FILTER_GE,
	FILTER_MASKED, /* (argument & mask) == value */
};

/* Arguments are compared as unsigned numbers. */
struct filter_arg {
	uint8_t index; /* 0..5 */
	uint8_t op;    /* enum filter_op */
	bool qword;    /* all 64 bits; otherwise the low 32, as the kernel takes an int or a flag */
	uint64_t mask, value;
};

#define FILTER_ARGS 6

struct filter_rule {
	int nr;	      /* __NR_... of x86-64 */
	unsigned who; /* FILTER_... or-ed */
	int error;    /* 0: allow; otherwise the call fails with this errno and nothing happens */
	const char *why;
	struct filter_arg arg[FILTER_ARGS];
};

/* The rules of spore; sorted in no way. */
extern const struct filter_rule filter_table[];
extern const size_t filter_table_len;

/* True when the rule is part of the filter of `who`: one of them, or MAIN with what adds to it. */
static inline bool filter_applies(const struct filter_rule *r, unsigned who)
{
	return who == FILTER_BOOT || r->who & who;
}

/*
 * Compiles the rules for `who` to at most `max` instructions. `otherwise` is the SECCOMP_RET_ of
 * what no rule allows. Calls of another architecture or of the x32 ABI always end the process.
 * Returns the number of instructions, or -E2BIG. This is for filters that are known only at run
 * time; those of spore itself are compiled by libseccomp when spore is built (compile.c), and a
 * test compares the two.
 */
int filter_compile(const struct filter_rule *rule, size_t count, unsigned who, uint32_t otherwise,
		   struct sock_filter *out, size_t max);
