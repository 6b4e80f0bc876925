/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "jailer/seccomp.h"

#include <assert.h>
#include <errno.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#ifndef SYS_SECCOMP
#define SYS_SECCOMP 1 /* si_code; glibc does not know it */
#endif

bool seccomp_built_in(void)
{
#ifdef SPORE_NO_SECCOMP
	return false;
#else
	return true;
#endif
}

void seccomp_init(struct seccomp *s)
{
	*s = (struct seccomp){0};
	memcpy(s->program, seccomp_programs, sizeof(s->program));
}

void seccomp_finish(struct seccomp *s)
{
	free(s->owned);
	*s = (struct seccomp){0};
}

static int install(const struct sock_fprog *program, struct err *e)
{
	/*
	 * Not SECCOMP_FILTER_FLAG_SPEC_ALLOW: on kernels before 5.16 a filter turns speculative
	 * store bypass off, and a thread that runs somebody else's code should have it off.
	 */
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, program) < 0)
		return err_sys(e, "install a seccomp filter");
	return 0;
}

int seccomp_install(const struct seccomp *s, enum seccomp_kind kind, struct err *e)
{
	struct sock_fprog program;

	if (!s || !seccomp_built_in())
		return 0;
	/*
	 * Without privilege a filter needs this. Once is enough: threads inherit it, and after
	 * the first filter prctl() is not allowed any more.
	 */
	if (kind == SECCOMP_BOOT && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_sys(e, "set no_new_privs");
	if (!s->program[kind].insn)
		return 0;
	program = (struct sock_fprog){
		.len = s->program[kind].len,
		/* The kernel does not write to it. */
		.filter = (struct sock_filter *)(uintptr_t)s->program[kind].insn,
	};
	return install(&program, e);
}

struct sock_fprog seccomp_settle(const struct seccomp_program *p, unsigned more,
				 struct sock_filter out[SECCOMP_INSN_MAX])
{
	assert(p->len <= SECCOMP_INSN_MAX);
	for (unsigned i = 0; i < p->len; i++) {
		const struct sock_filter *in = &p->insn[i];
		bool asks = in->code == (BPF_RET | BPF_K) &&
			    (in->k & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_TRACE;

		out[i] = *in;
		if (asks)
			out[i].k = in->k & SECCOMP_RET_DATA & more ? SECCOMP_RET_ALLOW
								   : SECCOMP_RET_TRAP;
	}
	return (struct sock_fprog){.len = p->len, .filter = out};
}

int seccomp_install_main(const struct seccomp *s, unsigned more, struct err *e)
{
	struct sock_filter insn[SECCOMP_INSN_MAX];
	struct sock_fprog program;

	if (!s || s->owned || !seccomp_built_in())
		return seccomp_install(s, SECCOMP_MAIN, e);
	program = seccomp_settle(&s->program[SECCOMP_MAIN], more | s->more, insn);
	return install(&program, e);
}

/* --- names --- */

const char *seccomp_call_name(int nr)
{
	const char *p = seccomp_names;

	if (nr < 0 || nr >= seccomp_names_count)
		return "?";
	for (; nr > 0; nr--)
		p += strlen(p) + 1;
	return *p ? p : "?";
}

int seccomp_call_number(const char *name)
{
	const char *p = seccomp_names;

	for (int nr = 0; *name && nr < seccomp_names_count; nr++) {
		if (strcmp(p, name) == 0)
			return nr;
		p += strlen(p) + 1;
	}
	return -1;
}

/* --- a violation --- */

/* Set once before any filter; the handler has no other way to get at it. */
static void (*before_the_end)(void);

/*
 * Async-signal-safe in fact: log_write() and snprintf() neither allocate nor lock for
 * these formats, and the signal is synchronous: it comes at the call that was refused. The line
 * on standard error is first, since a filter from a file may refuse what the others need, and
 * a violation in here is the end without another word.
 */
static void on_violation(int sig, siginfo_t *info, void *context)
{
	const greg_t *reg = ((ucontext_t *)context)->uc_mcontext.gregs;
	char line[256];
	int n;

	(void)sig;
	if (info->si_code != SYS_SECCOMP) /* somebody sent it */
		_exit(SECCOMP_EXIT_CODE);
	n = snprintf(
		line, sizeof(line),
		"spore: system call '%s' (%d; 0x%llx, 0x%llx, 0x%llx, 0x%llx) is not allowed in "
		"this thread, see jailer/filters.c\n",
		seccomp_call_name(info->si_syscall), info->si_syscall,
		(unsigned long long)reg[REG_RDI], (unsigned long long)reg[REG_RSI],
		(unsigned long long)reg[REG_RDX], (unsigned long long)reg[REG_R10]);
	if (fd_write(STDERR_FILENO, line, (size_t)n) == n)
		line[n - 1] = '\0';
	log_error("%s", line);
	before_the_end();
	_exit(SECCOMP_EXIT_CODE);
}

int seccomp_handle(void (*last)(void), struct err *e)
{
	struct sigaction sa = {.sa_sigaction = on_violation, .sa_flags = SA_SIGINFO};

	before_the_end = last;
	return sigaction(SIGSYS, &sa, NULL) < 0 ? err_sys(e, "handle SIGSYS") : 0;
}
