/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files that the guest finds in its memory, as the user asked for them: the plain data behind PUT and
 * PATCH of /pmem and "pmem" of the config file (vmm/config.h tells the rules). Field names are
 * Firecracker's.
 *
 * The file is locked as that of a drive is (vmm/drive.h): exclusive, or shared when it is only read.
 * Two devices of one VM cannot have it either, unless both only read. Main thread.
 */
#pragma once

#include "virtio/device.h"
#include "virtio/limiter.h"

#define PMEMCONFIG_ID_MAX 64
#define PMEMCONFIG_MAX	  GMEM_FILES_MAX

struct config;
struct vm;

struct pmem_config {
	char id[PMEMCONFIG_ID_MAX + 1];
	char *path_on_host; /* a regular file */
	bool root_device;   /* of all drives and these, at most one */
	bool read_only;
	struct limiter_config limiter; /* of flushes */
	int fd;			       /* -1 until opened */
};

/* PATCH: the limits as they shall be. */
struct pmem_update {
	char id[PMEMCONFIG_ID_MAX + 1];
	struct limiter_config limiter;
};

void pmem_config_init(struct pmem_config *p);
void pmem_config_finish(struct pmem_config *p);

/* Replaces the one with the same id, else adds one. The root device comes first. */
int config_set_pmem(struct config *c, struct pmem_config *piece, struct err *e);
/* The one with this id, or NULL. */
struct pmem_config *config_find_pmem(struct config *c, const char *id);

/* Maps all of them above RAM, in their order: regions mem->count and on. Before the memory slots. */
int pmem_map_all(const struct config *c, struct gmem *mem, struct err *e);
/* The device of c->pmem[i], which pmem_map_all() has mapped. NULL with `e` filled. */
struct virtio_device *pmem_create_nth(const struct config *c, unsigned i,
				      const struct virtio_env *env, struct err *e);

/* PATCH /pmem/{id}, at any time after the start. -ENOENT when there is none. */
int pmem_update(struct vm *vm, const struct pmem_update *u, struct err *e);
