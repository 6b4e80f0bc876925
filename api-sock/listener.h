/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The socket that the API server listens on, and whom it lets in. Main thread, before the system
 * call filter; only listener_admits() and listener_close() are called later too.
 */
#pragma once

#include <sys/types.h>
#include <sys/un.h>

#include "api-sock/server.h"

struct listener {
	int fd; /* -1: none; owned */
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	bool bound; /* there is a file at `path` that was ours when it was made */
	dev_t dev;  /* of it */
	ino_t ino;
};

/* What struct server_config asks for. On failure listener_close() tidies up. */
int listener_open(struct listener *l, const struct server_config *c, struct err *e);
/* Closes it and removes its file if that is still ours. */
void listener_close(struct listener *l);
/* Whether the peer of the connection `fd` is one of those in c->allow; logs who is not. */
bool listener_admits(const struct server_config *c, int fd);
