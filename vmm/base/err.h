/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors of the control path (configuration, boot, jail, snapshot, API).
 *
 * A function that can fail there returns 0 or -errno and takes a `struct err *` owned by its
 * caller. The place that sees the failure fills it; each layer on the way up may put its own
 * words before it once, so that the user reads one sentence:
 *
 *	start microVM: drive 'root': open '/img/root.ext4': No such file or directory
 *
 * Data paths do not use this: they return -errno and nothing else. Any thread; no allocation.
 */
#pragma once

#include "vmm/base/util.h"

struct err {
	int code;      /* positive errno value, 0 while nothing went wrong */
	char msg[512]; /* one line without a newline; always terminated */
};

/* Fills `e` with `code` (positive errno) and a message. Returns -code. `e` may be NULL. */
int err_set(struct err *e, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* The same with errno as the code and ": <strerror>" behind the message. Returns -errno. */
int err_sys(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Puts "<text>: " before the message that `e` has. Returns -e->code. */
int err_wrap(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Makes `s` one line of valid UTF-8: '?' for control characters and broken sequences. */
void err_clean_text(char *s);
