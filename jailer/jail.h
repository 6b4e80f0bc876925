/* SPDX-License-Identifier: Apache-2.0 */
/* The jail itself: the order of its steps is told in jail.c. */
#pragma once

#include "jailer/args.h"

/* When the jailer began, for the monitor's own measurement. */
struct jail_clock {
	uint64_t start_us, start_cpu_us; /* CLOCK_MONOTONIC; CPU time of the process */
};

/*
 * Builds the jail and runs the monitor in it. Returns only on failure, or (0) in the process that
 * stays outside with --daemonize or --new-pid-ns.
 */
int jail_run(struct args *a, const struct jail_clock *clock, struct err *e);

/* Removes what a jail that is over has left: cgroups and the directory. */
int jail_cleanup(struct args *a, struct err *e);
