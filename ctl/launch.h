/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting a spore in the background: its directory, its holder (console.h), its API. The program is
 * $SPORE, else the one beside sporectl, else that of PATH.
 */
#pragma once

#include "ctl/console.h"

struct launch {
	struct vms_vm vm;
	int lock_fd;  /* from launch_prepare() to launch_start() */
	int said_fd;  /* its standard error: the directory may be gone before we look */
	pid_t holder; /* a child of this process */
	/* To be set before launch_start() by who calls launch_attend(): nothing of the guest is missed. */
	bool attended;
	int console_fd;
};

/* Which spore is started: its path, or a word for PATH. */
void launch_find(char *buf, size_t size);
/* Takes the name (NULL: one is found) and makes the directory. launch_cancel() takes it back. */
int launch_prepare(struct ctl *c, const char *name, struct launch *l, struct err *e);
/*
 * Starts spore with `config` (borrowed), which becomes config.json; NULL: nothing is configured yet. Returns
 * when its API answers and, with a config, the guest runs. `remove`: the directory goes when spore ends. When it
 * fails, `e` has what spore said, and everything is taken back.
 */
int launch_start(struct ctl *c, struct launch *l, const json_t *config, bool remove, struct err *e);
/* Kills it if it runs, and removes the directory. */
void launch_cancel(struct launch *l);

/*
 * Into `body`, a request to load: what is another one's in `vm`, which is made of one with the configuration `config`: its
 * vsock socket, and taps->item[*next...] for its interfaces, as far as they go; *next is behind those.
 */
void launch_overrides(const struct vms_vm *vm, const json_t *config, const struct ctl_list *taps,
		      unsigned *next, json_t *body);

/*
 * What run, restore and clone have in common behind the start: attaches, and says how it ended. Returns the exit
 * code. `end` may be NULL.
 */
int launch_attend(struct ctl *c, struct launch *l, struct console_end *end);
