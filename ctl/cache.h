/* SPDX-License-Identifier: Apache-2.0 */
/* Directories in the cache (ctl_cache_path) that are ours to write. */
#pragma once

#include <limits.h>

#include "ctl/ctl.h"

/* CACHE/`name`, made if there is none. 0 or -errno. */
int cache_directory(const char *name, char path[PATH_MAX], struct err *e);
/* A new directory in `dir`, for nobody else (0700). cache_drop() takes it away with all that is in it. */
int cache_work(const char *dir, char *path, size_t size, struct err *e);
void cache_drop(struct ctl *c, const char *path);
/* CACHE/`name` becomes a link to `target` (absolute), in place of what it was. */
int cache_link(const char *name, const char *target, struct err *e);
