/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ready ROUNDS SOCKET {NAME KIND COMMAND ARGS... --}...
 *
 * From exec to the moment at which a process accepts connections on SOCKET, for each
 * COMMAND in turn, ROUNDS times. KIND says what comes then: "http" answers GET /, "qmp" sends a
 * greeting, "none" says nothing. Figures:
 *
 *	accept	until a connection is accepted (wall time; somebody tries all the time)
 *	answer	until the first byte of an answer is there (wall time)
 *	cpu	CPU time until it sleeps behind its socket, with nobody connecting. Another process's
 *		clock stands still while it runs and is right once it sleeps
 *	faults	page faults until then (a number, not a time)
 *	threads	that it has then
 */
#include <signal.h>

#include "tests/bench/bench.h"

#define COMMANDS_MAX 8

struct command {
	const char *name, *kind;
	char **argv;
};

static void finish(pid_t pid)
{
	kill(pid, SIGKILL);
	bench_wait(pid);
}

static void measure_wall(const struct command *c, unsigned round, const char *path)
{
	struct bench_child child = bench_spawn(c->argv, -1);
	int fd = bench_connect(path);
	char buf[4096];

	bench_row(c->name, round, "accept", bench_now() - child.exec_at);
	if (strcmp(c->kind, "http") == 0)
		bench_request(fd, "GET", "/", "");
	else if (strcmp(c->kind, "qmp") == 0)
		bench_receive(fd, buf, sizeof(buf));
	if (strcmp(c->kind, "none") != 0)
		bench_row(c->name, round, "answer", bench_now() - child.exec_at);
	close(fd);
	finish(child.pid);
}

/* Field `n` (from 1) of /proc/PID/stat, counted as proc(5) does; the name holds no blank here. */
static const char *stat_field(pid_t pid, int n, char buf[1024])
{
	char path[64], *p = buf;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		err(1, "%s", path);
	bench_receive(fd, buf, 1024);
	close(fd);
	while (--n && (p = strchr(p, ' ')))
		p++;
	return p ? p : "";
}

static void measure_cpu(const struct command *c, unsigned round, const char *path)
{
	const struct timespec pause = {.tv_nsec = 300000};
	struct bench_child child = bench_spawn(c->argv, -1);
	uint64_t cpu = 0, before;
	char buf[1024];

	do {
		before = cpu;
		nanosleep(&pause, NULL);
		cpu = bench_cpu(child.pid);
	} while (cpu != before || *stat_field(child.pid, 3, buf) != 'S' || access(path, F_OK) < 0);
	bench_row(c->name, round, "cpu", cpu - child.exec_cpu);
	bench_row(c->name, round, "faults", strtoull(stat_field(child.pid, 10, buf), NULL, 10));
	bench_row(c->name, round, "threads", strtoull(stat_field(child.pid, 20, buf), NULL, 10));
	finish(child.pid);
}

static void measure(const struct command *c, unsigned round, const char *path)
{
	unlink(path);
	measure_wall(c, round, path);
	unlink(path);
	measure_cpu(c, round, path);
}

/* Splits what follows the socket at each "--". */
static unsigned split(int argc, char *argv[], struct command *c)
{
	unsigned n = 0;

	for (int i = 0; i < argc; i++) {
		if (n == COMMANDS_MAX || argc - i < 3)
			errx(2, "NAME KIND COMMAND ARGS... -- expected");
		c[n] = (struct command){argv[i], argv[i + 1], argv + i + 2};
		n++;
		for (i += 3; i < argc && strcmp(argv[i], "--") != 0; i++)
			;
		argv[i] = NULL;
	}
	return n;
}

int main(int argc, char *argv[])
{
	struct command c[COMMANDS_MAX];
	unsigned n, rounds;

	if (argc < 6)
		errx(2, "usage: ready ROUNDS SOCKET {NAME KIND COMMAND ARGS... --}...");
	rounds = (unsigned)atoi(argv[1]);
	n = split(argc - 3, argv + 3, c);
	for (unsigned round = 0; round < rounds; round++)
		for (unsigned i = 0; i < n; i++)
			measure(&c[i], round, argv[2]);
	unlink(argv[2]);
	return 0;
}
