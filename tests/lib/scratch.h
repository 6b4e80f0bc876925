/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A directory of a test's own, with the files that configurations name. The test's working
 * directory is not changed. Everything is removed by scratch_finish().
 */
#pragma once

#include <stddef.h>

struct scratch {
	char dir[64];
	char *path[16]; /* answers of scratch_path(), freed in turn */
	unsigned next;
};

void scratch_init(struct scratch *s);
void scratch_finish(struct scratch *s);
/* "<dir>/<name>"; valid for the next 15 calls. */
const char *scratch_path(struct scratch *s, const char *name);
/* Creates the file with these bytes and returns its path. */
const char *scratch_file(struct scratch *s, const char *name, const void *data, size_t len);
/* A kernel image that boot_probe() takes. */
const char *scratch_kernel(struct scratch *s, const char *name);
/* A FIFO, with nobody at its other end. */
const char *scratch_fifo(struct scratch *s, const char *name);
