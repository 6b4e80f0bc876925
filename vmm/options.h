/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line of spore. Firecracker's options, each as `--name value` or `--name=value`.
 */
#pragma once

#include "vmm/base/log.h"
#include "vmm/shell.h"

#define OPTIONS_API_SOCK_DEFAULT "/run/firecracker.socket"
#define OPTIONS_ID_DEFAULT	 "anonymous-instance"
#define OPTIONS_PAYLOAD_DEFAULT	 51200

#define OPTIONS_ALLOW_MAX 16 /* SERVER_ALLOW_MAX */

/* Strings are those of argv. */
struct options {
	const char *api_sock;
	unsigned api_sock_mode; /* 0: not given */
	bool has_owner;
	uint32_t owner_uid, owner_gid; /* of the socket's file; all ones: that one stays */
	struct options_peer {
		bool is_group;
		uint32_t id;
	} allow[OPTIONS_ALLOW_MAX]; /* who may use the API; none: whom the file lets in */
	unsigned allow_count;
	int api_fd;   /* an inherited listening socket; -1: none */
	int ready_fd; /* gets a line feed once the API listens, or without it, the VM runs; or -1 */
	const char *id;		 /* 1..64 letters, digits and '-' */
	const char *config_file; /* or NULL */
	bool no_api;		 /* only with a config file */
	const char *log_path;	 /* or NULL */
	const char *level;	 /* or NULL; a valid level */
	const char *module;	 /* or NULL */
	bool show_level, show_log_origin;
	const char *metrics_path; /* or NULL */
	bool boot_timer;
	const char *seccomp_filter; /* or NULL; not together with no_seccomp */
	bool no_seccomp;
	struct shell_config shell; /* vcpus 0: not given */
	bool jailed;		   /* spore-jailer has started us: "/" is the jail */
	uint64_t max_payload;	   /* bytes of a request's body */
	const char *metadata;	   /* or NULL */
	uint64_t
		mmds_limit; /* bytes of the metadata service's document; max_payload if not given */
	/* What the jailer measured: CLOCK_MONOTONIC, CPU clock; its own CPU time. 0: not given. */
	uint64_t start_time_us, start_time_cpu_us, parent_cpu_time_us;
	/* The options after one of these are not looked at. */
	bool version, help, snapshot_version;
	const char *describe_snapshot; /* or NULL; the options after it are looked at */
	bool json;		       /* describe it in JSON */
};

/* Something is to be printed, and nothing else. */
static inline bool options_only_print(const struct options *o)
{
	return o->version || o->help || o->snapshot_version || o->describe_snapshot;
}

/* Fills all of `o`, defaults too. -EINVAL with one line in `e` that names the option. */
int options_parse(struct options *o, int argc, char *argv[], struct err *e);
/* Writes the list of options to `fd`. */
void options_print_help(int fd);
