/* SPDX-License-Identifier: Apache-2.0 */
/*
 * until NAME ROUND SECONDS {FIGURE=TEXT...} -- COMMAND ARGS...
 *
 * Runs COMMAND and measures the wall time from exec until its standard output has said each TEXT, and
 * ends it after the last one. FIGURE_exits of the last is the number of its VM's exits by then, where
 * debugfs shows it. When a TEXT does not come within SECONDS, what it said goes to standard error and
 * the status is 1.
 */
#define _GNU_SOURCE
#include <glob.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>

#include "tests/bench/bench.h"

#define OUTPUT_MAX (1 << 20)

static char output[OUTPUT_MAX + 1];

/* Appends what comes next. False at the end of it all. */
static bool read_more(int fd, size_t *len, uint64_t deadline)
{
	uint64_t now = bench_now();
	struct pollfd p = {.fd = fd, .events = POLLIN};
	ssize_t n;

	if (now >= deadline || poll(&p, 1, (int)((deadline - now) / 1000000 + 1)) != 1)
		return false;
	n = read(fd, output + *len, OUTPUT_MAX - *len);
	if (n <= 0)
		return false;
	*len += (size_t)n;
	for (size_t i = *len - (size_t)n; i < *len; i++)
		if (!output[i]) /* so that strstr sees all */
			output[i] = ' ';
	return true;
}

/* KVM counts the exits of each VM, below debugfs; not everybody may look. */
static void report_exits(const char *name, unsigned round, const char *figure, pid_t pid)
{
	char pattern[64], label[64];
	glob_t found;

	snprintf(pattern, sizeof(pattern), "/sys/kernel/debug/kvm/%d-*/exits", pid);
	snprintf(label, sizeof(label), "%s_exits", figure);
	if (glob(pattern, 0, NULL, &found) == 0) {
		FILE *f = fopen(found.gl_pathv[0], "re");
		unsigned long exits;

		if (f && fscanf(f, "%lu", &exits) == 1)
			bench_row(name, round, label, exits);
		if (f)
			fclose(f);
	}
	globfree(&found);
}

static void finish(pid_t pid, const char *missing)
{
	kill(pid, SIGKILL);
	bench_wait(pid);
	if (!missing)
		return;
	fprintf(stderr, "%s\n", output);
	errx(1, "'%s' never came", missing);
}

int main(int argc, char *argv[])
{
	struct bench_child child;
	unsigned round, command = 4;
	uint64_t deadline;
	size_t len = 0;
	int out[2];

	while (command < (unsigned)argc && strcmp(argv[command], "--") != 0)
		command++;
	if (command + 1 >= (unsigned)argc || pipe2(out, O_CLOEXEC) < 0)
		errx(2, "usage: until NAME ROUND SECONDS {FIGURE=TEXT...} -- COMMAND ARGS...");
	round = (unsigned)atoi(argv[2]);
	child = bench_spawn(argv + command + 1, out[1]);
	deadline = child.exec_at + (uint64_t)atoi(argv[3]) * 1000000000u;
	close(out[1]);
	for (unsigned i = 4; i < command; i++) {
		char *text = strchr(argv[i], '=');

		if (!text)
			errx(2, "FIGURE=TEXT expected");
		*text++ = 0;
		while (!strstr(output, text))
			if (!read_more(out[0], &len, deadline))
				finish(child.pid, text);
		bench_row(argv[1], round, argv[i], bench_now() - child.exec_at);
	}
	report_exits(argv[1], round, argv[command - 1], child.pid);
	finish(child.pid, NULL);
	return 0;
}
