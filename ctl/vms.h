/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The directory of microVMs: --state-dir, else $SPORE_STATE, else $XDG_RUNTIME_DIR/spore, else /run/spore.
 * Each has a directory of its name in it:
 *
 *	lock          held (an open file description lock) by spore itself as long as it lives
 *	pid           of spore
 *	config.json   what it was started with; restored.json: what was loaded
 *	api.sock      of spore
 *	vsock.sock    of spore, unless it has none
 *	console.sock  of the process that keeps the console: console.h
 *	console.log   what the guest has printed; console.log.old: before that
 *	spore.log     spore's log; stderr: what it said before it had one
 *	status        its exit status, when it has ended
 *
 * A microVM lives while the lock is held: spore inherits the descriptor and the kernel lets go of it, so
 * this is true however it ends, and no process that got its number later is taken for it.
 */
#pragma once

#include <sys/types.h>

#include "ctl/ctl.h"

#define VMS_NAME_MAX 64

struct vms_vm {
	char name[VMS_NAME_MAX + 1];
	char dir[108];
};

#define VMS_PATH_MAX 108 /* what fits into a sockaddr_un */

/* Letters, digits and '-', 1 to 64 of them, as spore's --id; not '-' at first. */
int vms_check_name(const char *name, struct err *e);

/*
 * Makes the directory of a new one, at once with its lock. `name` NULL: the first free of vm1, vm2...
 * Returns the descriptor of the lock, O_CLOEXEC, for spore to inherit, or -errno; -EEXIST when there is one.
 */
int vms_create(struct ctl *c, const char *name, struct vms_vm *vm, struct err *e);
/*
 * One without a name yet, which no list shows: the directory is ".shell-PID-NUMBER". Returns as
 * vms_create(). Then its name; -EEXIST when that is in use, and it has none still.
 */
int vms_create_nameless(struct ctl *c, unsigned number, struct vms_vm *vm, struct err *e);
int vms_give_name(struct ctl *c, struct vms_vm *vm, const char *name, struct err *e);
/* Takes the name away again, so that somebody else can have it. */
int vms_take_name(struct ctl *c, struct vms_vm *vm, unsigned number, struct err *e);
/* Ends and removes what processes have left nameless that are no more. */
void vms_sweep(struct ctl *c);
/* -ENOENT when there is none of that name; says which there are. It may have ended. */
int vms_find(struct ctl *c, const char *name, struct vms_vm *vm, struct err *e);
/* The same, and -ESRCH when it has ended. */
int vms_find_alive(struct ctl *c, const char *name, struct vms_vm *vm, struct err *e);
/* The same, with the path of its API socket. */
int vms_find_api(struct ctl *c, const char *name, struct vms_vm *vm, char socket[VMS_PATH_MAX],
		 struct err *e);
/* All, sorted by name; *list is malloc'ed. No directory at all: none. */
int vms_list(struct ctl *c, struct vms_vm **list, size_t *count, struct err *e);

bool vms_alive(const struct vms_vm *vm);
/* A pidfd of its spore, which is certain to be that; *pid may be NULL. -ESRCH when it has ended. */
int vms_pidfd(const struct vms_vm *vm, pid_t *pid, struct err *e);
/* Waits up to `ms` for its end. True when it has ended. */
bool vms_wait(int pidfd, int ms);
/* Removes the directory with all that is in it. */
int vms_remove(const struct vms_vm *vm, struct err *e);

/* DIR/FILE; it fits, since `dir` was judged when it was made. */
void vms_path(const struct vms_vm *vm, const char *file, char buf[VMS_PATH_MAX]);
/* The first bytes of DIR/FILE as a string, without a newline at its end; false when there is none. */
bool vms_read(const struct vms_vm *vm, const char *file, char *buf, size_t size);
/* False when it holds no number. */
bool vms_read_number(const struct vms_vm *vm, const char *file, long *number);
/* Replaces DIR/FILE. */
int vms_write(const struct vms_vm *vm, const char *file, const char *text, struct err *e);
