/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An attacker with code execution in a thread of spore, for the tests of its filters. Linked only
 * into build/attack/spore, which is built with SPORE_ATTACK; never into the release.
 *
 *	SPORE_ATTACK=boot|main|vcpu:NR[:ARG...]
 *
 * makes the thread of that kind issue system call NR with these arguments (any base) as soon as
 * it is under its filter. If the call comes back, the process ends with status 77.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "jailer/seccomp.h"
#include "vmm/base/fd.h"

#define CAME_BACK 77

void seccomp_attack(enum seccomp_kind kind)
{
	static const char *const names[] = {"boot:", "main:", "vcpu:", "plug:"};
	const char *text = getenv("SPORE_ATTACK");
	unsigned long word[7] = {0};
	char line[128];
	long r;
	int n;

	if (!text || kind >= ARRAY_SIZE(names) || strncmp(text, names[kind], 5) != 0)
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
