/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the measuring programs share: time, children, the API of a monitor on a Unix socket, and the
 * CSV that they all write to standard output: `who,round,figure,nanoseconds`.
 *
 * Whatever goes wrong ends the program with a message: half a measurement is none.
 */
#pragma once

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BENCH_GIVE_UP_NS 10000000000ull

static inline uint64_t bench_clock(clockid_t id)
{
	struct timespec ts;

	if (clock_gettime(id, &ts) < 0)
		err(1, "clock_gettime");
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline uint64_t bench_now(void)
{
	return bench_clock(CLOCK_MONOTONIC);
}

/* CPU time that the child has used up to now, the part on a processor included. */
static inline uint64_t bench_cpu(pid_t pid)
{
	clockid_t id;

	if (clock_getcpuclockid(pid, &id) != 0)
		errx(1, "process %d is gone", pid);
	return bench_clock(id);
}

static inline void bench_row(const char *who, unsigned round, const char *figure, uint64_t ns)
{
	printf("%s,%u,%s,%llu\n", who, round, figure, (unsigned long long)ns);
}

struct bench_child {
	pid_t pid;
	uint64_t exec_at, exec_cpu; /* wall clock and its own CPU clock as it called exec */
};

/* Starts argv[0]; its standard input is /dev/null, its standard output too unless `out` >= 0. */
static inline struct bench_child bench_spawn(char *const argv[], int out)
{
	static volatile struct bench_child child; /* vfork: the child's values are ours */

	child.pid = vfork();
	if (child.pid < 0)
		err(1, "vfork");
	if (child.pid == 0) {
		int null = open("/dev/null", O_RDWR | O_CLOEXEC);

		if (null < 0 || dup2(null, 0) < 0 || dup2(out >= 0 ? out : null, 1) < 0)
			_exit(126);
		child.exec_cpu = bench_clock(CLOCK_PROCESS_CPUTIME_ID);
		child.exec_at = bench_now();
		execv(argv[0], argv);
		_exit(127);
	}
	return (struct bench_child){child.pid, child.exec_at, child.exec_cpu};
}

/* Waits for its end. Returns the exit status, or 128 + the signal. */
static inline int bench_wait(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			err(1, "waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/*
 * Tries again and again until the socket accepts: some 50 us late, but for the sake of the
 * process that is being waited for it does not keep a processor busy.
 */
static inline int bench_connect(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	uint64_t start = bench_now();
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	prctl(PR_SET_TIMERSLACK, 1ul);
	if (fd < 0 || strlen(path) >= sizeof(addr.sun_path))
		err(1, "socket %s", path);
	strcpy(addr.sun_path, path);
	while (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		if (bench_now() - start > BENCH_GIVE_UP_NS)
			err(1, "nobody listens on %s", path);
		nanosleep(&(const struct timespec){.tv_nsec = 20000}, NULL);
	}
	return fd;
}

/* Waits for what the other side sends next. Empty at its end. */
static inline void bench_receive(int fd, char *buf, size_t size)
{
	ssize_t n = read(fd, buf, size - 1);

	if (n < 0)
		err(1, "read from the API");
	buf[n] = 0;
}

/* One request; anything but 200 and 204 is the end. */
static inline void bench_request(int fd, const char *method, const char *path, const char *body)
{
	char buf[2048];
	int n = snprintf(buf, sizeof(buf),
			 "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n\r\n%s",
			 method, path, strlen(body), body);

	if (write(fd, buf, (size_t)n) != n)
		err(1, "write to the API");
	bench_receive(fd, buf, sizeof(buf));
	if (strncmp(buf, "HTTP/1.1 20", 11) != 0)
		errx(1, "%s %s: %s", method, path, buf);
}
