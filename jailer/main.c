/* SPDX-License-Identifier: Apache-2.0 */
/* spore-jailer: options, a clean slate, then jail.c. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <stdio.h>
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

/*
 * Standard descriptors that are closed would become the jail's directories. All others are
 * closed, but the one that is asked to stay, which the monitor does not get.
 */
static int clean_descriptors(const struct args *a, struct err *e)
{
	unsigned keep = (unsigned)a->pidfd_socket;

	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
			return err_set(e, EBADF, "standard descriptor %d is closed", fd);
	if (keep <= STDERR_FILENO)
		return close_range(3, ~0u, CLOSE_RANGE_UNSHARE) < 0
			       ? err_sys(e, "close descriptors")
			       : 0;
	if (fcntl((int)keep, F_SETFD, FD_CLOEXEC) < 0)
		return err_sys(e, "--pidfd-socket %u", keep);
	if ((keep > 3 && close_range(3, keep - 1, CLOSE_RANGE_UNSHARE) < 0) ||
	    close_range(keep + 1, ~0u, CLOSE_RANGE_UNSHARE) < 0)
		return err_sys(e, "close descriptors");
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
