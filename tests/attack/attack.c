/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An attacker with code execution in a thread of spore, for the tests of its filters. Linked only
 * into build/attack/spore, which is built with SPORE_ATTACK; never into the release.
 *
 *	SPORE_ATTACK=boot|main|vcpu:NR[:ARG...]
 *
 * makes the thread of that kind issue system call NR with these arguments (any base) as soon as it
 * is under its filter. If the call comes back, the process ends with status 77.
 *
 *	SPORE_ATTACK=all:boot|main|vcpu
 *
 * does so with every call that the table of that thread does not name, with numbers that are no
 * calls, those of the x32 ABI, and with each argument that the table checks being wrong once. Each
 * is the end of a process of its own, which is a whole spore. Prints what did not end as it should,
 * and how many did; exit status 0 if all did.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "jailer/seccomp.h"
#include "tests/attack/judge.h"
#include "vmm/base/fd.h"

#define CAME_BACK 77
#define X32_BIT	  0x40000000
/* The kernel's numbers end below; then some that future ones may give out. */
#define NR_END	  600
#define TIMEOUT_S 60

static const char *const names[] = {"boot", "main", "vcpu"};

void seccomp_attack(enum seccomp_kind kind)
{
	const char *text = getenv("SPORE_ATTACK");
	unsigned long word[7] = {0};
	char line[128];
	long r;
	int n;

	if (!text || kind >= ARRAY_SIZE(names) || strncmp(text, names[kind], 4) != 0)
		return;
	text += 4;
	for (int i = 0; i < 7 && *text == ':'; i++) {
		char *end;

		word[i] = strtoul(text + 1, &end, 0);
		text = end;
	}
	r = syscall((long)word[0], word[1], word[2], word[3], word[4], word[5], word[6]);
	/* Not dprintf(), which makes calls that a vCPU thread may not. */
	n = snprintf(line, sizeof(line), "attack: system call %lu returned %ld (errno %d)\n",
		     word[0], r, r < 0 ? errno : 0);
	_exit(fd_write(STDERR_FILENO, line, (size_t)n) == n ? CAME_BACK : 1);
}

/* --- all of them --- */

struct attempts {
	const char *name;
	unsigned refused, survived;
};

static void be_quiet(void)
{
	int null = open("/dev/null", O_RDWR);

	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	close(null);
	alarm(TIMEOUT_S);
}

/* True in a process that is to go on as spore and make the call. */
static bool attempt(struct attempts *a, const struct seccomp_data *d)
{
	char text[256];
	int status = -1;
	pid_t pid = fork();

	if (pid == 0) {
		snprintf(text, sizeof(text), "%s:%d:%llu:%llu:%llu:%llu:%llu:%llu", a->name, d->nr,
			 d->args[0], d->args[1], d->args[2], d->args[3], d->args[4], d->args[5]);
		setenv("SPORE_ATTACK", text, 1);
		be_quiet();
		return true;
	}
	waitpid(pid, &status, 0);
	/* Of another ABI nothing is said. */
	if ((unsigned)d->nr >= X32_BIT && d->nr != -1
		    ? WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS
		    : WIFEXITED(status) && WEXITSTATUS(status) == SECCOMP_EXIT_CODE) {
		a->refused++;
		return false;
	}
	a->survived++;
	printf("%s: %s (%d, 0x%llx, 0x%llx, 0x%llx): status 0x%x\n", a->name,
	       seccomp_call_name(d->nr), d->nr, d->args[0], d->args[1], d->args[2],
	       (unsigned)status);
	return false;
}

static bool attempt_numbers(struct attempts *a, unsigned who)
{
	static const int strange[] = {
		1024,	       4095,	  X32_BIT - 1,		-1,
		INT32_MIN,     X32_BIT,	  X32_BIT | __NR_write, X32_BIT | 512,
		X32_BIT | 547, INT32_MAX,
	};

	for (int nr = 0; nr < NR_END; nr++) {
		struct seccomp_data d = {.nr = nr};

		if (!judge_named(nr, who) && !judge_exempt(nr) && attempt(a, &d))
			return true;
	}
	for (size_t i = 0; i < ARRAY_SIZE(strange); i++)
		if (attempt(a, &(struct seccomp_data){.nr = strange[i]}))
			return true;
	return false;
}

/* Before main(): each attempt is a spore from its beginning. */
__attribute__((constructor)) static void attempt_all(void)
{
	static const unsigned who_of[] = {FILTER_BOOT, FILTER_MAIN, FILTER_VCPU};
	const char *text = getenv("SPORE_ATTACK");
	struct attempts a = {0};
	struct judge_walk walk = {0};
	struct seccomp_data d;
	unsigned numbers, who = 0;

	for (size_t i = 0; text && i < ARRAY_SIZE(names); i++) {
		if (strncmp(text, "all:", 4) == 0 && strcmp(text + 4, names[i]) == 0) {
			a.name = names[i];
			who = who_of[i];
		}
	}
	if (!a.name || attempt_numbers(&a, who))
		return;
	numbers = a.refused;
	while (judge_violation(&walk, who, &d))
		if (attempt(&a, &d))
			return;
	printf("%s: %u calls refused, %u arguments, %u survived\n", a.name, numbers,
	       a.refused - numbers, a.survived);
	fflush(stdout);
	_exit(a.survived > 0);
}
