/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection to the agent in a guest, through the Unix socket of the monitor's vsock device. What
 * the guest says is judged: ctl/agent/frame.h, session.h.
 */
#pragma once

#include "ctl/agent/frame.h"
#include "ctl/ctl.h"

#define AGENTIO_WAIT 10 /* seconds to wait for an agent, unless told otherwise */

/*
 * Finds the socket of the microVM `name`, which may also be the path of such a socket (with a '/').
 * 0, or -errno with `e` filled. `path` has room for VMS_PATH_MAX bytes.
 */
int agentio_find(struct ctl *c, const char *name, char *path, struct err *e);

/*
 * Connects to the agent. The guest may not have come so far yet: it is tried again for `seconds`.
 * A blocking descriptor that the caller owns, or -errno with `e` filled.
 */
int agentio_connect(struct ctl *c, const char *path, uint64_t seconds, struct err *e);

/* Finds, connects and exchanges HELLO. A descriptor or -errno. `in` is made ready. */
int agentio_open(struct ctl *c, const char *name, uint64_t seconds, struct frame_in *in,
		 struct err *e);

/* Waits for DONE. 0, or -errno: an ERROR, or something else than DONE, or the end. */
int agentio_done(int fd, struct frame_in *in, struct err *e);

/* Asks process 1 of the guest to end, without waiting for an agent that is not there yet. 0 or -errno. */
int agentio_shutdown(struct ctl *c, const char *name, struct err *e);

/*
 * After a restore: makes a clone somebody else. `host` may be NULL: it stays; fresh entropy of the
 * host's goes into the guest's pool, its clock is set to the host's. 0 or -errno.
 */
int agentio_identify(struct ctl *c, const char *name, const char *host, uint64_t seconds,
		     struct err *e);
