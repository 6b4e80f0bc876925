/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the command of `run` ended. The agent that is process 1 of the guest connects to the host's vsock port
 * AGENT_HOST_PORT and says HELLO, EXITED; the monitor turns that into a connection to the socket UDS_PATH_PORT,
 * on which a thread listens while the console is attended. What comes is judged as in exec: docs/agent.md.
 */
#pragma once

#include <limits.h>
#include <pthread.h>

#include "ctl/ctl.h"

struct outcome {
	int listener;
	int status; /* as a shell has it; -1: nothing was said */
	char path[108];
	pthread_t thread;
};

/* `uds_path` is the vsock device's. Before the guest starts. 0 or -errno. */
int outcome_begin(struct outcome *o, const char *uds_path, struct err *e);
/* After the monitor has ended, or never ran: the status, or -1. */
int outcome_end(struct outcome *o);

/*
 * The words of the kernel's command line that have the agent run a command: one word is for the guest's shell,
 * several are a program and its arguments as they are. -E2BIG when the command line would be too long.
 */
int outcome_words(int argc, char **argv, char *buf, size_t size, struct err *e);
