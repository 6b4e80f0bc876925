/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The serial console of a microVM that runs in the background, and whoever is attached to it.
 *
 * spore's standard input and output are pipes to a small process, the holder, which is spore's parent and
 * lives as long. It appends what the guest prints to console.log and serves console.sock (SOCK_SEQPACKET),
 * one byte of kind before the data of each message:
 *
 *	from a client	CONSOLE_ALL or CONSOLE_TAIL	the first: where in console.log to begin
 *			CONSOLE_DATA			keys for the guest
 *	to a client	CONSOLE_DATA			what the guest has printed
 *			CONSOLE_END			the last: "STATUS REASON" in text
 *
 * What a client has not read yet is in console.log, so a slow one loses nothing (but for what a
 * rotation of a file of CONSOLE_LOG_MAX takes away), and nobody waits for it. If the holder dies, spore goes on without a console.
 */
#pragma once

#include "ctl/vms.h"

#define CONSOLE_ALL  'a'
#define CONSOLE_TAIL 't'
#define CONSOLE_DATA 'd'
#define CONSOLE_END  'x'

#define CONSOLE_MESSAGE 16384u /* bytes of one, at most */
#define CONSOLE_LOG_MAX MIB(4)
#define CONSOLE_CLIENTS 8u

struct holder_config {
	struct vms_vm vm;
	int lock_fd;	      /* for spore to inherit */
	int ready_fd;	      /* the same, for its --ready-fd */
	char ready[12];	      /* its number in text: set by the holder, named by `command` */
	char *const *command; /* spore and its arguments */
	bool remove;	      /* the directory, at the end */
	bool attended; /* writes a byte to ready_fd, and starts spore when a client is there */
};

/*
 * In a forked child: becomes the holder, starts spore, and exits when that has ended. What goes wrong
 * before spore runs is in the file "stderr" and closes ready_fd.
 */
_Noreturn void holder_run(struct holder_config *config);

enum console_left {
	CONSOLE_DETACHED, /* by Ctrl-], or SIGHUP: it goes on */
	CONSOLE_ENDED,	  /* with status and reason */
};

struct console_end {
	enum console_left how;
	int status;	  /* of spore: its exit code, or 128 and the signal */
	char reason[256]; /* its last line on standard error, or "" */
};

/* A connection to the console, for console_attach(). -errno with `e`, which may be NULL. */
int console_connect(const struct vms_vm *vm, struct err *e);
/*
 * Joins standard input and output with the console until one of both ends. A terminal is raw meanwhile, and as it was
 * on every way out. `own` is the connection of who has started the microVM, which is taken: SIGINT and SIGTERM end it. -1:
 * one is made, and they detach.
 */
int console_attach(struct ctl *c, const struct vms_vm *vm, int own, struct console_end *end,
		   struct err *e);

/* A pidfd of the holder, or -1: when that has ended too, nothing touches the directory any more. */
int console_holder(const struct vms_vm *vm);
