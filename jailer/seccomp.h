/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seccomp filters of spore's threads.
 *
 * What a filter does not allow does not happen: the thread gets a SIGSYS instead, whose handler
 * names the call in the log and on standard error and ends the process with exit code 148. The name
 * is worth more than a silent kill, and the handler gives nothing away: the call has been refused
 * before it runs, it cannot be replaced (rt_sigaction is not allowed, code pages cannot be
 * written), and if it cannot run (SIGSYS blocked, stack unusable) the kernel kills the process
 * itself. Calls of other ABIs (32-bit, x32) kill the process without that.
 *
 * Filters add up and are inherited: BOOT is installed by the main thread before anybody is listened
 * to, every vCPU thread adds VCPU before its first KVM_RUN, and the main thread adds MAIN when all
 * of them have. Some calls are in MAIN only if the microVM needs them (enum seccomp_more). FETCH is
 * for the threads that bring memory after a restore (snapshot/workset.h, snapshot/pager.h).
 */
#pragma once

#include <linux/filter.h>

#include "jailer/more.h"
#include "vmm/base/err.h"

enum seccomp_kind { SECCOMP_BOOT, SECCOMP_MAIN, SECCOMP_VCPU, SECCOMP_FETCH, SECCOMP_KINDS };

#define SECCOMP_EXIT_CODE 148

struct seccomp_program {
	const struct sock_filter *insn; /* NULL: this kind has no filter */
	unsigned short len;
	unsigned calls; /* system calls that it allows, under whatever conditions */
	unsigned most;	/* the same with all of enum seccomp_more */
};

/* Made from filters.c by compile.c, with the names of system calls: each ends with a zero byte. */
extern const struct seccomp_program seccomp_programs[SECCOMP_KINDS];
extern const char seccomp_names[];
extern const int seccomp_names_count;

/* Immutable once filled, so any thread may use it. */
struct seccomp {
	struct seccomp_program program[SECCOMP_KINDS];
	struct sock_filter *owned; /* of a file, or NULL */
	unsigned more;		   /* enum seccomp_more, whatever the microVM is */
};

/* The filters made from filters.c when spore was built. */
void seccomp_init(struct seccomp *s);
/*
 * Filters of a file instead, in the JSON of Firecracker's seccompiler: "vmm" and "api" together are
 * MAIN, "vcpu" is VCPU and, which only spore knows, "boot" is BOOT. A file without it has no filter
 * before the start, as with Firecracker.
 */
int seccomp_load(struct seccomp *s, const char *path, struct err *e);
void seccomp_finish(struct seccomp *s);

/*
 * Installs the handler of SIGSYS; before the first seccomp_install(). `last` is called by it
 * before the process ends: it gives the terminal back, for instance. Async-signal-safe.
 */
int seccomp_handle(void (*last)(void), struct err *e);

/*
 * Puts the calling thread under the filter of `kind`, for good. Sets no_new_privs. `s` may be NULL
 * (--no-seccomp): nothing happens. MAIN has a function of its own, for what `more`
 * names (enum seccomp_more); a filter of a file allows what it allows. 0 or -errno.
 */
int seccomp_install(const struct seccomp *s, enum seccomp_kind kind, struct err *e);
int seccomp_install_main(const struct seccomp *s, unsigned more, struct err *e);

/* No program of MAIN is longer. */
#define SECCOMP_INSN_MAX 512
/*
 * In the program that was made for MAIN, what is only allowed if it is needed returns
 * SECCOMP_RET_TRACE and who needs it: this writes it to `out` with that decided.
 */
struct sock_fprog seccomp_settle(const struct seccomp_program *p, unsigned more,
				 struct sock_filter out[SECCOMP_INSN_MAX]);

/* Name of a system call of x86-64, "?" when unknown. */
const char *seccomp_call_name(int nr);
/* Its number, -1 when there is none of that name. */
int seccomp_call_number(const char *name);

#ifdef SPORE_ATTACK
/* For tests: makes the call that they have chosen (tests/attack). Not in any other build. */
void seccomp_attack(enum seccomp_kind kind);
#else
static inline void seccomp_attack(enum seccomp_kind kind)
{
	(void)kind;
}
#endif

/* False in builds for sanitizers and coverage: their runtimes make calls of their own. */
bool seccomp_built_in(void);
