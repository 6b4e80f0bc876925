/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files behind a drive: opened, judged and locked before anything is changed.
 *
 * Locks belong to the open file, so that they live as long as the drive or the
 * device that has a duplicate: exclusive for what is written to, shared for what is only read. They
 * keep two VMs from writing to one disk or overlay, and a base from changing under its overlays. A
 * file that this VM has open already is not locked again, and file systems that know no
 * locks are fine. Main thread.
 */
#pragma once

#include "vmm/vm.h"

/*
 * Opens what `d` names (d->path_on_host, d->overlay) into d->fd and d->overlay_fd, and makes an
 * overlay that does not exist yet, or is an empty file. A placeholder may name nothing. `c` is the
 * configuration that it is going to belong to. -errno with `e` naming the field; then nothing has
 * been made.
 */
int drive_open(struct drive *d, const struct config *c, struct err *e);

/* The lock of a file that was open before went with the drive that this one has replaced. */
void drive_lock_again(const struct drive *d);

/*
 * For a microVM that goes to another process, and is stopped: gives up the locks of all drives and pmem files, which
 * are durable then; and takes them, -EBUSY when another one has one. What was locked before stays so.
 */
int drive_release(const struct config *c, struct err *e);
int drive_claim(const struct config *c, struct err *e);

/* PATCH /drives/{id}, at any time after the start. */
struct drive_update {
	char id[CONFIG_ID_MAX + 1];
	char *path_on_host; /* NULL: stays, unless `empty` */
	bool empty;	    /* a placeholder: its file goes */
	bool set_limiter;
	struct limiter_config limiter;
};

/* All of it, or -errno with `e` filled and nothing changed. */
int drive_update(struct vm *vm, const struct drive_update *u, struct err *e);
void drive_update_finish(struct drive_update *u);

/* A piece for drive_fill(): what placeholder `now` was declared to be, without a file. */
void drive_slot(const struct drive *now, struct drive *piece);
/*
 * PUT /drives/{id} after the start: `piece` has to be the placeholder of that id as it was declared,
 * but for its file and limits. It stays the caller's. All of it, or -errno with nothing changed.
 */
int drive_fill(struct vm *vm, const struct drive *piece, struct err *e);
