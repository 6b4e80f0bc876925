/* SPDX-License-Identifier: Apache-2.0 */
/* spore-jailer: options, a clean slate, then jail.c. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "jailer/jail.h"
#include "vmm/base/hint.h"
#include "vmm/base/util.h"

static uint64_t clock_us(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static int by_number(const void *a, const void *b)
{
	unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;

	return (x > y) - (x < y);
}

/*
 * What the monitor is to inherit. A directory would be a way out of the jail, and so may a file that was opened as a mere path.
 */
static int check_kept(int fd, struct err *e)
{
	struct stat st;
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fstat(fd, &st) < 0)
		return err_sys(e, "--keep-fd %d", fd);
	if (S_ISDIR(st.st_mode) || flags & O_PATH)
		return err_set(e, EINVAL, "--keep-fd %d: a %s is a way out of the jail", fd,
			       flags & O_PATH ? "path" : "directory");
	return 0;
}

/*
 * Standard descriptors that are closed would become the jail's directories. All others are
 * closed, but those that are asked to stay; one of them the monitor does not get.
 */
static int clean_descriptors(const struct args *a, struct err *e)
{
	unsigned stays[ARGS_REPEAT_MAX + 1], next = STDERR_FILENO + 1;
	size_t n = 0;

	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
			return err_set(e, EBADF, "standard descriptor %d is closed", fd);
	for (; n < a->keeps; n++) {
		stays[n] = (unsigned)a->keep_fd[n];
		if (check_kept((int)stays[n], e) < 0)
			return -e->code;
	}
	if (a->pidfd_socket > STDERR_FILENO) {
		stays[n++] = (unsigned)a->pidfd_socket;
		if (fcntl((int)a->pidfd_socket, F_SETFD, FD_CLOEXEC) < 0)
			return err_sys(e, "--pidfd-socket %u", (unsigned)a->pidfd_socket);
	}
	qsort(stays, n, sizeof(*stays), by_number);
	for (size_t i = 0; i <= n; i++) {
		unsigned last = i < n ? stays[i] - 1 : ~0u;

		if (next <= last && close_range(next, last, CLOSE_RANGE_UNSHARE) < 0)
			return err_sys(e, "close descriptors");
		if (i < n)
			next = stays[i] + 1;
	}
	return 0;
}

static const struct hint hints[] = {
	{{"needs root"}, "sudo spore-jailer ..., or add --user-ns"},
	{{"--exec-file", "No such file"}, "command -v spore; it has to be its whole path"},
	{{"--exec-file: missing"}, "--exec-file $(command -v spore)"},
	{{"id: missing"}, "--uid $(id -u USER) --gid $(id -g USER)"},
	{{"is not a number"}, "id -u USER; id -g USER"},
	{{"network namespace"}, "sudo ip netns add NAME; ip netns list"},
	{{"/dev/kvm"}, "sudo modprobe kvm_intel || sudo modprobe kvm_amd; then: sporectl doctor"},
	{{"user namespace"}, "sudo spore-jailer, without --user-ns"},
	{{"cgroup"}, "sporectl doctor; cat /sys/fs/cgroup/cgroup.controllers"},
};

int main(int argc, char *argv[])
{
	const struct jail_clock clock = {
		.start_us = clock_us(CLOCK_MONOTONIC),
		.start_cpu_us = clock_us(CLOCK_PROCESS_CPUTIME_ID),
	};
	struct args a;
	struct err e = {0};
	int r = args_parse(&a, argc, argv, &e);

	if (r == 0 && a.help) {
		args_print_help(STDOUT_FILENO);
		return 0;
	}
	if (r == 0 && a.version) {
		dprintf(STDOUT_FILENO, "spore-jailer v%s\n", SPORE_VERSION);
		return 0;
	}
	umask(0022);
	clearenv();
	if (r == 0)
		r = clean_descriptors(&a, &e);
	if (r == 0)
		r = a.cleanup ? jail_cleanup(&a, &e) : jail_run(&a, &clock, &e);
	if (r == 0)
		return 0;
	dprintf(STDERR_FILENO, "spore-jailer: %s\n  try: %s\n", e.msg,
		hint_find(hints, ARRAY_SIZE(hints), e.msg, "spore-jailer --help"));
	return 1;
}
