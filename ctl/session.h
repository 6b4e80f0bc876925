/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's side of a command in a guest, as far as it needs no descriptor: which frame an agent may
 * send when. The guest is hostile: what comes out of order, or acknowledges what was never sent, ends
 * the session. One thread, no allocation.
 */
#pragma once

#include "ctl/agent/frame.h"
#include "vmm/base/err.h"

enum session_state {
	SESSION_GREETING, /* HELLO has to come */
	SESSION_STARTING, /* then STARTED, or why not */
	SESSION_RUNNING,
	SESSION_OVER,
};

enum session_event {
	SESSION_BROKEN = -1, /* the agent breaks the protocol; the error says how */
	SESSION_NOTHING,
	SESSION_STARTED,
	SESSION_OUTPUT,	 /* the frame's bytes are for standard output */
	SESSION_ERRORS,	 /* or standard error */
	SESSION_EXITED,	 /* `status` is what a shell would make of it */
	SESSION_REFUSED, /* it did not start; `code` is the errno, the error says why */
};

/* Zeroed at first. */
struct session {
	enum session_state state;
	uint32_t unread; /* bytes of STDIN that were sent and not yet taken */
	int status, code;
};

enum session_event session_take(struct session *s, const struct frame *f, struct err *e);

/* Bytes of STDIN that may be sent now. */
uint32_t session_room(const struct session *s);

/* HELLO judged: 0, or -EPROTO with `e` filled. */
int session_greeted(const struct frame *f, struct err *e);

/* What an ERROR frame says, made fit to be printed. Returns -errno, the guest's. */
int session_error(const struct frame *f, struct err *e);

/*
 * Output for a terminal that the guest has not been given: control characters that could do more
 * than begin a line become '?', in place. Whether the last byte of the chunk before began a
 * two-byte control character is kept in *lead, false at first.
 */
void session_clean(uint8_t *data, size_t len, bool *lead);
