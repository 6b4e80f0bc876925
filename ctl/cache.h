/* SPDX-License-Identifier: Apache-2.0 */
/* Directories in the cache (ctl_cache_path) that are ours to write. */
#pragma once

#include <limits.h>

#include "ctl/ctl.h"

/* CACHE/`name`, made if there is none. 0 or -errno. */
int cache_directory(const char *name, char path[PATH_MAX], struct err *e);
/* A path of parts that the caller knows to fit: cache_work() makes none that is longer than half of PATH_MAX. */
void cache_print(char path[PATH_MAX], const char *fmt, ...) PRINTF_LIKE(2, 3);
/* A new directory in `dir`, for nobody else (0700). cache_drop() takes it away with all that is in it. */
int cache_work(const char *dir, char *path, size_t size, struct err *e);
void cache_drop(struct ctl *c, const char *path);
/* CACHE/`name` becomes a link to `target` (absolute), in place of what it was; NULL: there is none. */
int cache_link(const char *name, const char *target, struct err *e);
