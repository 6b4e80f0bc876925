/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The API server: an AF_UNIX stream socket on the event loop, one request at a time from each
 * connection, answered in order. Nothing here knows what a request means.
 *
 * A connection takes no new request while an answer waits to be sent, so that a client which does
 * not read costs one answer and one input buffer. Whoever leaves a request half-sent, or an answer
 * unread, for `timeout_ns` is dropped (408 when it still can be told); an idle connection may stay
 * for ever and costs no timer. Main thread.
 */
#pragma once

#include "api-sock/http.h"
#include "vmm/base/loop.h"

#define SERVER_CONNECTIONS_MAX	16 /* one more is answered 503 */
#define SERVER_TIMEOUT_NS	30000000000ull

struct server_config {
	const char *path; /* of the socket; copied */
	size_t max_body;
	uint64_t timeout_ns;
	/* Fills `resp` (status, body) for a whole request. Must not destroy the server. */
	void (*handle)(void *arg, const struct http_request *req, struct http_response *resp);
	void *arg;
};

struct server;

/*
 * Creates the socket (mode 0600) and listens. Fails when the path exists: -EADDRINUSE, with a
 * message that says whether somebody is listening there. NULL with `e` filled on failure.
 */
struct server *server_create(struct loop *loop, const struct server_config *config, struct err *e);
/* Closes every connection and removes the socket's file if it is still the one created. */
void server_destroy(struct server *s);
