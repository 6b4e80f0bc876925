/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of spore-jailer: the options of Firecracker's jailer, and more (marked (+)). */
#pragma once

#include <sys/types.h>

#include "vmm/base/err.h"

#define ARGS_BASE_DEFAULT   "/srv/jailer"
#define ARGS_NOFILE_DEFAULT 2048
#define ARGS_REPEAT_MAX	    64

/* Strings are those of argv. */
struct args {
	const char *id;	       /* 1..64 letters, digits and '-' */
	const char *exec_file; /* absolute after args_resolve() */
	const char *exec_name; /* its last component */
	uint64_t uid, gid;
	const char *chroot_base;
	const char *netns; /* path, or NULL */
	bool daemonize, new_pid_ns;
	uint64_t cgroup_version;	     /* 1 or 2 */
	const char *cgroup[ARGS_REPEAT_MAX]; /* "file=value" */
	const char *parent_cgroup;	     /* or NULL: exec_name */
	const char *limit[ARGS_REPEAT_MAX];  /* "fsize=N" or "no-file=N" */
	size_t cgroups, limits, binds;
	uint64_t fsize, nofile; /* fsize: UINT64_MAX when not given */
	/* (+) */
	bool user_ns;	 /* for running without root */
	bool new_net_ns; /* an empty network namespace */
	bool tmpfs_root; /* a read-only root in memory instead of the jail directory */
	const char *bind[ARGS_REPEAT_MAX]; /* "HOST:JAIL[:rw]" */
	const char *keep[ARGS_REPEAT_MAX]; /* as they were given, */
	uint64_t keep_fd
		[ARGS_REPEAT_MAX]; /* and as numbers: descriptors that the monitor inherits */
	size_t keeps;
	uint64_t pidfd_socket; /* Unix socket that the monitor's pidfd is sent to; 0: none */
	bool no_landlock;
	bool cleanup; /* remove what the jail `id` has left */
	bool version, help;
	char **rest; /* behind "--"; NULL-terminated */
};

/* Fills all of `a`. -EINVAL with one line in `e`. */
int args_parse(struct args *a, int argc, char *argv[], struct err *e);
void args_print_help(int fd);
