/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The API server: an AF_UNIX stream socket on the event loop, one request at a time from each
 * connection, answered in order. Nothing here knows what a request means.
 *
 * A connection takes no new request while an answer waits to be sent, so that a client which does
 * not read costs one answer and one input buffer. Whoever leaves a request half-sent, or an answer
 * unread, for `timeout_ns` is dropped (408 when it still can be told); an idle connection may stay
 * for ever and costs no timer.
 *
 * A request may come with descriptors (SCM_RIGHTS), which its handler may duplicate; and its answer may
 * come later, by its ticket. Main thread.
 */
#pragma once

#include "vmm/base/loop.h"
#include "vmm/http.h"

#define SERVER_CONNECTIONS_MAX 16 /* one more is answered 503 */
#define SERVER_STREAMS_MAX     8  /* of them, with an answer that goes on; one more: 503 */
#define SERVER_ALLOW_MAX       16
#define SERVER_PASSED_MAX      16 /* descriptors with a request; more are closed */
#define SERVER_TIMEOUT_NS      30000000000ull

/* A peer by the user or the group that it had when it connected (SO_PEERCRED, unix(7)). */
struct server_peer {
	bool is_group;
	uint32_t id;
};

struct server_config {
	const char *path; /* of the socket; copied */
	unsigned mode;	  /* of its file; 0: 0600 */
	bool chown;	  /* give the file to `uid` and `gid`; all ones: leave that one */
	uint32_t uid, gid;
	/* Who may connect, others are answered 403; none: whom the file's mode lets in. */
	struct server_peer allow[SERVER_ALLOW_MAX];
	unsigned allow_count;
	bool inherited; /* instead of `path`: `fd` is a listening AF_UNIX stream socket, taken over */
	int fd;
	size_t max_body;
	uint64_t timeout_ns;
	/* Fills `resp` (status, body, or `later`) for a whole request. Must not destroy the server. */
	void (*handle)(void *arg, const struct http_request *req, struct http_response *resp);
	/* Whether descriptors are taken at the moment; NULL: never. */
	bool (*takes_passed)(void *arg);
	void *arg;
};

struct server;

/*
 * Creates the socket and listens. Fails when the path exists: -EADDRINUSE, with a
 * message that says whether somebody is listening there. NULL with `e` filled on failure.
 */
struct server *server_create(struct loop *loop, const struct server_config *config, struct err *e);
/* The answer to a request that was to be answered later. Its client may be gone; frees resp->body. */
void server_answer(struct server *s, uint64_t ticket, struct http_response *resp);
/* Streams (struct http_stream) have something new: sends it. */
void server_wake(struct server *s);
/*
 * Ends the streams with what they still have, as far as their clients take it at once, closes every connection and removes the socket's file if it is still the one created. */
void server_destroy(struct server *s);
