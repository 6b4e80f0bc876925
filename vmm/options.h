/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line of spore. Firecracker's options, each as `--name value` or `--name=value`.
 */
#pragma once

#include "vmm/base/log.h"

#define OPTIONS_API_SOCK_DEFAULT "/run/firecracker.socket"
#define OPTIONS_ID_DEFAULT	 "anonymous-instance"
#define OPTIONS_PAYLOAD_DEFAULT	 51200

/* Strings are those of argv. */
struct options {
	const char *api_sock;
	const char *id;		 /* 1..64 letters, digits and '-' */
	const char *config_file; /* or NULL */
	bool no_api;		 /* only with a config file */
	const char *log_path;	 /* or NULL */
	const char *level;	 /* or NULL; a valid level */
	const char *module;	 /* or NULL */
	bool show_level, show_log_origin;
	const char *metrics_path; /* or NULL */
	bool boot_timer;
	uint64_t max_payload; /* bytes of a request's body */
	/* What the jailer measured: CLOCK_MONOTONIC, CPU clock; its own CPU time. 0: not given. */
	uint64_t start_time_us, start_time_cpu_us, parent_cpu_time_us;
	bool version, help; /* the options after one of these are not looked at */
};

/* Fills all of `o`, defaults too. -EINVAL with one line in `e` that names the option. */
int options_parse(struct options *o, int argc, char *argv[], struct err *e);
/* Writes the list of options to `fd`. */
void options_print_help(int fd);
