/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between jailer/filter.h and jailer/seccomp.h, which the tool that compiles the table cannot
 * include: its names are those of libseccomp too.
 */
#pragma once

/* What MAIN allows only if it is needed; or-ed. */
enum seccomp_more {
	SECCOMP_PLUG =
		1, /* a network interface is a placeholder: its tap comes while the guest runs */
	SECCOMP_FORK = 2,    /* memory can be given to others */
	SECCOMP_VSOCK = 4,   /* there is a vsock device */
	SECCOMP_PEERS = 8,   /* it is listed who may use the API */
	SECCOMP_RANDOM = 16, /* there is no /dev/urandom */
	SECCOMP_MORE = 31,   /* all of them */
};
