/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "snapshot/clone.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm/base/fd.h"

#define COPY_BYTES KIB(256)

int clone_create(struct clone *c, const char *path, struct err *e)
{
	int r;

	*c = (struct clone){.path = strdup(path)};
	if (!c->path)
		return err_set(e, ENOMEM, "out of memory");
	r = output_create_one(&c->out, c->path, e);
	if (r < 0)
		free(TAKE(c->path));
	return r;
}

static int copy_range(int from, int to, uint8_t *buf, uint64_t at, uint64_t end)
{
	int r = 0;

	for (uint64_t n; r == 0 && at < end; at += n) {
		n = MIN(end - at, (uint64_t)COPY_BYTES);
		r = fd_pread_full(from, buf, n, at);
		if (r == 0)
			r = fd_pwrite_full(to, buf, n, at);
	}
	return r;
}

static int copy_data(int from, int to, uint64_t size)
{
	cleanup_free uint8_t *buf = malloc(COPY_BYTES);
	off_t data, hole = 0;
	int r = buf ? 0 : -ENOMEM;

	while (r == 0 && (uint64_t)hole < size) {
		data = lseek(from, hole, SEEK_DATA);
		if (data < 0)
			return errno == ENXIO ? 0 : -errno;
		hole = lseek(from, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		r = copy_range(from, to, buf, (uint64_t)data, MIN((uint64_t)hole, size));
	}
	return r;
}

int clone_make(struct clone *c, int from, struct err *e)
{
	int64_t size = fd_size(from);
	int r = size < 0 ? (int)size : 0;

	if (r == 0 && ioctl(c->out.fd, FICLONE, from) < 0) {
		r = fd_extend(c->out.fd, (uint64_t)size, NULL);
		if (r == 0)
			r = copy_data(from, c->out.fd, (uint64_t)size);
	}
	c->made = r == 0;
	return r < 0 ? err_set(e, -r, "copy to '%s': %s", c->path, strerror(-r)) : 0;
}

int clone_make_from(struct clone *c, const struct clone *other, struct err *e)
{
	return clone_make(c, other->out.fd, e);
}

int clone_commit(struct clone *c, struct err *e)
{
	int r = output_commit_one(&c->out, e);

	c->named = r == 0;
	return r;
}

void clone_finish(struct clone *c, bool keep)
{
	if (!c->path)
		return;
	if (c->named && !keep)
		unlinkat(c->out.dir, c->out.name, 0);
	output_drop_one(&c->out);
	free(TAKE(c->path));
}
