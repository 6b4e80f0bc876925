/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's agent: what its files offer each other. docs/agent.md says what it does. It trusts the
 * host, which can do anything to the guest anyway. One process listens, each connection has one of
 * its own, so that nothing of one is in the way of another and the end of a process frees all it
 * had.
 */
#pragma once

#include "ctl/agent/copy.h"
#include "ctl/agent/frame.h"

/* Serves one connection from HELLO to its end. */
void serve(int sock);

/* Says ERROR, and waits until the host has read it and closes. */
void serve_error(int sock, int code, const char *what);

/* EXEC: runs the command to its end. `in` holds what came behind `f`. */
void exec_serve(int sock, struct frame_in *in, const struct frame *f);

/* Process 1: sets the guest up, keeps the agent running, runs spore.run=. Does not return. */
_Noreturn void init_main(char **argv, char **env);

/* Listens on the vsock port, for ever; a guest whose vsock has no driver yet is waited for. */
_Noreturn void listen_vsock(void);
/* Firecracker's handshake, then the protocol, on a Unix socket: an agent without a guest. */
_Noreturn void listen_unix(const char *path);
