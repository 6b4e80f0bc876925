/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/drive.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "virtio/block.h"
#include "virtio/overlay.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

static bool same_file(int a, int b)
{
	struct stat sa, sb;

	return a >= 0 && b >= 0 && fd_stat(a, &sa) == 0 && fd_stat(b, &sb) == 0 &&
	       sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

static bool writes_to_path(const struct drive *d)
{
	return !d->is_read_only && !d->overlay;
}

/* Whether this VM has the file open already: then the lock is ours. */
static bool is_held(const struct config *c, int fd)
{
	for (unsigned i = 0; i < c->drive_count; i++)
		if (same_file(c->drive[i].fd, fd) || same_file(c->drive[i].overlay_fd, fd))
			return true;
	return false;
}

/*
 * Two drives of this VM over one file are the user's affair, as with Firecracker; not so when one of
 * them is an overlay, or its base.
 */
static int check_others(const struct config *c, const struct drive *d, int fd, bool is_overlay,
			struct err *e)
{
	for (unsigned i = 0; i < c->drive_count; i++) {
		const struct drive *o = &c->drive[i];
		bool written = writes_to_path(d) || writes_to_path(o);

		if (strcmp(o->id, d->id) == 0)
			continue;
		if (same_file(o->overlay_fd, fd) ||
		    (same_file(o->fd, fd) &&
		     (is_overlay || (written && (d->overlay || o->overlay)))))
			return err_set(e, EBUSY, "the file is in use by drive '%s'", o->id);
	}
	return 0;
}

static int lock(const struct config *c, int fd, bool exclusive, struct err *e)
{
	if (is_held(c, fd) || fd_lock(fd, exclusive) == 0)
		return 0;
	return err_set(e, EBUSY, "the file is in use by another microVM");
}

/*
 * The VM that a snapshot is of may still hold its disk: whoever goes on with the snapshot instead
 * has to end that one, or give the drive another file. Not waited for, which would delay the load.
 */
static void lock_if_free(const struct config *c, const struct drive *d, int fd)
{
	if (!is_held(c, fd) && fd_try_lock(fd, writes_to_path(d)) < 0)
		log_warn("drive '%s': '%s' is in use by another microVM, and only one of them may "
			 "go on: see drive_overrides",
			 d->id, d->path_on_host);
}

static int open_disk(const struct config *c, const struct drive *d, const char *path, struct err *e)
{
	bool writable = writes_to_path(d);
	int fd = fd_open_file(path, writable ? O_RDWR : O_RDONLY, true, e);
	int64_t size;
	int r;

	if (fd < 0)
		return err_wrap(e, "path_on_host");
	r = check_others(c, d, fd, false, e);
	if (r == 0 && c->arriving)
		; /* it is the source's until it was handed over: drive_claim() */
	else if (r == 0 && c->loading)
		lock_if_free(c, d, fd);
	else if (r == 0)
		r = lock(c, fd, writable, e);
	if (r < 0) {
		fd_close(&fd);
		return err_wrap(e, "path_on_host: '%s'", path);
	}
	size = fd_size(fd);
	if (size > 0 && size % BLOCK_SECTOR)
		log_warn("drive file '%s': the guest does not see the last %lld of %lld bytes, "
			 "which are no whole sector",
			 path, (long long)(size % BLOCK_SECTOR), (long long)size);
	return fd;
}

/* Opens the file, or creates it: *created. */
static int open_or_create(const char *path, bool *created, struct err *e)
{
	int fd = fd_open_file(path, O_RDWR, false, e);

	*created = false;
	if (fd != -ENOENT)
		return fd;
	fd = fd_open_path(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	*created = fd >= 0;
	return fd < 0 ? err_set(e, -fd, "create '%s': %s", path, strerror(-fd)) : fd;
}

/* Formats a file that is empty; judges one that is not. */
static int judge_overlay(int fd, int base, struct err *e)
{
	struct overlay *o;
	int r = 0;

	if (fd_size(fd) == 0)
		r = overlay_format(fd, base, e);
	if (r < 0)
		return r;
	o = overlay_open(fd, base, e);
	r = o ? 0 : -e->code;
	overlay_close(o);
	return r;
}

/* Everything that an overlay has to be. The lock of an earlier PUT of the same drive is taken over. */
static int take_overlay(const struct config *c, const struct drive *d, int *fd, struct err *e)
{
	struct drive *old = config_find_drive((struct config *)(uintptr_t)c, d->id);
	int r = check_others(c, d, *fd, true, e);

	if (r == 0 && same_file(*fd, d->fd))
		r = err_set(e, EINVAL, "the file is path_on_host itself");
	if (r == 0 && old && same_file(*fd, old->overlay_fd)) {
		close(*fd);
		*fd = fcntl(old->overlay_fd, F_DUPFD_CLOEXEC, 0);
		r = *fd < 0 ? err_sys(e, "duplicate its descriptor") : 0;
	} else if (r == 0 && !c->arriving) {
		r = lock(c, *fd, true, e);
	}
	if (r == 0 && c->arriving && fd_size(*fd) == 0)
		r = err_set(e, EINVAL, "it is empty, and the microVM that comes has written to it");
	return r < 0 ? r : judge_overlay(*fd, d->fd, e);
}

static int open_overlay(const struct config *c, const struct drive *d, struct err *e)
{
	bool created;
	int fd = open_or_create(d->overlay, &created, e), r;

	if (fd < 0)
		return err_wrap(e, "overlay");
	r = take_overlay(c, d, &fd, e);
	if (r == 0)
		return fd;
	if (created)
		unlinkat(AT_FDCWD, d->overlay, 0);
	fd_close(&fd);
	return err_wrap(e, "overlay: '%s'", d->overlay);
}

static int check_placeholder(const struct drive *d, struct err *e)
{
	if (!d->placeholder)
		return d->path_on_host ? 0 : err_set(e, EINVAL, "path_on_host: missing");
	if (d->is_root_device || d->partuuid)
		return err_set(e, EINVAL, "placeholder: not for the root device");
	if (d->overlay)
		return err_set(e, EINVAL, "placeholder: not with an overlay");
	return 0;
}

int drive_open(struct drive *d, const struct config *c, struct err *e)
{
	int fd = check_placeholder(d, e);

	if (fd < 0 || !d->path_on_host)
		return fd;
	if (d->overlay && d->is_read_only)
		return err_set(e, EINVAL, "overlay: the drive is read-only");
	fd = open_disk(c, d, d->path_on_host, e);
	if (fd < 0)
		return fd;
	fd_close(&d->fd);
	d->fd = fd;
	if (!d->overlay)
		return 0;
	fd = open_overlay(c, d, e);
	if (fd < 0)
		return fd;
	fd_close(&d->overlay_fd);
	d->overlay_fd = fd;
	return 0;
}

void drive_lock_again(const struct drive *d)
{
	if (d->fd >= 0)
		fd_try_lock(d->fd, writes_to_path(d));
}

/* --- move --- */

static int release(int fd, bool written, const char *path, struct err *e)
{
	if (fd < 0)
		return 0;
	if (written && fdatasync(fd) < 0)
		return err_sys(e, "write '%s' back", path);
	fd_unlock(fd);
	return 0;
}

int drive_release(const struct config *c, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < c->drive_count; i++) {
		const struct drive *d = &c->drive[i];

		r = release(d->fd, writes_to_path(d), d->path_on_host, e);
		if (r == 0)
			r = release(d->overlay_fd, true, d->overlay, e);
	}
	for (unsigned i = 0; r == 0 && i < c->pmem_count; i++)
		r = release(c->pmem[i].fd, !c->pmem[i].read_only, c->pmem[i].path_on_host, e);
	return r;
}

/* Two drives of this VM over one file lock it once. */
static int claim(const struct config *c, unsigned nth, int fd, bool exclusive, const char *path,
		 struct err *e)
{
	for (unsigned i = 0; i < nth; i++)
		if (same_file(c->drive[i].fd, fd))
			return 0;
	if (fd < 0 || fd_lock(fd, exclusive) == 0)
		return 0;
	return err_set(e, EBUSY, "'%s' is in use by another microVM", path);
}

int drive_claim(const struct config *c, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < c->drive_count; i++) {
		const struct drive *d = &c->drive[i];

		r = claim(c, i, d->fd, writes_to_path(d), d->path_on_host, e);
		if (r == 0)
			r = claim(c, 0, d->overlay_fd, true, d->overlay, e);
	}
	for (unsigned i = 0; r == 0 && i < c->pmem_count; i++)
		r = claim(c, 0, c->pmem[i].fd, !c->pmem[i].read_only, c->pmem[i].path_on_host, e);
	return r;
}

/* --- PATCH --- */

/* Drives have their slots in the order of the configuration. */
static struct virtio_device *device_of(struct vm *vm, const struct drive *d)
{
	return vm_device(vm, (unsigned)(d - vm->config.drive));
}

/* One descriptor for the configuration, one for the device. */
static int open_twice(struct vm *vm, const struct drive *d, const char *path, int fd[2],
		      struct err *e)
{
	if (d->overlay)
		return err_set(e, EINVAL, "path_on_host: the base of an overlay cannot change");
	fd[0] = open_disk(&vm->config, d, path, e);
	if (fd[0] < 0)
		return fd[0];
	fd[1] = fcntl(fd[0], F_DUPFD_CLOEXEC, 0);
	if (fd[1] >= 0)
		return 0;
	err_sys(e, "path_on_host: duplicate the descriptor of '%s'", path);
	fd_close(&fd[0]);
	return -e->code;
}

/* NULL: the placeholder is emptied. */
static int swap_file(struct vm *vm, struct drive *d, const char *path, struct err *e)
{
	struct virtio_device *dev = device_of(vm, d);
	cleanup_free char *copy = path ? strdup(path) : NULL;
	int fd[2] = {-1, -1}, r = 0;

	if (path && !copy)
		return err_set(e, ENOMEM, "out of memory");
	if (path)
		r = open_twice(vm, d, path, fd, e);
	if (r < 0)
		return r;
	pthread_mutex_lock(dev->env.lock);
	r = block_set_file(dev, fd[1], e);
	pthread_mutex_unlock(dev->env.lock);
	if (r < 0) {
		fd_close(&fd[0]);
		fd_close(&fd[1]);
		return r;
	}
	fd_close(&d->fd);
	d->fd = fd[0];
	free(d->path_on_host);
	d->path_on_host = TAKE(copy);
	drive_lock_again(d);
	return 0;
}

static int change_file(struct vm *vm, struct drive *d, const struct drive_update *u, struct err *e)
{
	if (u->path_on_host)
		return swap_file(vm, d, u->path_on_host, e);
	if (u->empty && !d->placeholder)
		return err_set(e, EINVAL,
			       "it cannot be unplugged: virtio-mmio has no hotplug, and it is no "
			       "placeholder");
	return u->empty && d->path_on_host ? swap_file(vm, d, NULL, e) : 0;
}

int drive_update(struct vm *vm, const struct drive_update *u, struct err *e)
{
	struct drive *d = config_find_drive(&vm->config, u->id);
	struct virtio_device *dev;

	if (!d)
		return err_set(e, ENOENT, "there is no drive '%s'", u->id);
	if (!u->path_on_host && !u->empty && !u->set_limiter)
		return err_set(e, EINVAL, "neither path_on_host nor rate_limiter is given");
	if (change_file(vm, d, u, e) < 0)
		return err_wrap(e, "drive '%s'", u->id);
	if (!u->set_limiter)
		return 0;
	dev = device_of(vm, d);
	d->limiter = u->limiter;
	pthread_mutex_lock(dev->env.lock);
	block_set_limiter(dev, &d->limiter);
	pthread_mutex_unlock(dev->env.lock);
	return 0;
}

void drive_slot(const struct drive *now, struct drive *piece)
{
	drive_init(piece);
	piece->is_read_only = now->is_read_only;
	piece->cache_type = now->cache_type;
	piece->io_engine = now->io_engine;
	piece->limiter = now->limiter;
	piece->placeholder = true;
}

/* What the guest was told when it started, or cannot be told again. */
static int check_same(const struct drive *now, const struct drive *piece, struct err *e)
{
	const struct {
		const char *field;
		bool same;
	} fixed[] = {
		{"is_root_device", !piece->is_root_device},
		{"is_read_only", now->is_read_only == piece->is_read_only},
		{"cache_type", now->cache_type == piece->cache_type},
		{"io_engine", now->io_engine == piece->io_engine},
		{"partuuid", !piece->partuuid},
		{"overlay", !piece->overlay},
		{"placeholder", piece->placeholder},
	};

	for (size_t i = 0; i < ARRAY_SIZE(fixed); i++)
		if (!fixed[i].same)
			return err_set(e, EINVAL, "%s: not as the placeholder was declared",
				       fixed[i].field);
	return 0;
}

int drive_fill(struct vm *vm, const struct drive *piece, struct err *e)
{
	const struct drive *now = config_find_drive(&vm->config, piece->id);
	struct drive_update u = {
		.path_on_host = piece->path_on_host,
		.set_limiter =
			now && memcmp(&now->limiter, &piece->limiter, sizeof(u.limiter)) != 0,
		.limiter = piece->limiter,
	};

	if (!now || !now->placeholder)
		return err_set(e, EINVAL, "there is no placeholder '%s'", piece->id);
	if (now->path_on_host)
		return err_set(e, EBUSY, "placeholder '%s' is in use, by '%s'", piece->id,
			       now->path_on_host);
	if (!piece->path_on_host)
		return err_set(e, EINVAL, "path_on_host: missing");
	strcpy(u.id, piece->id);
	return check_same(now, piece, e) < 0 ? -EINVAL : drive_update(vm, &u, e);
}

void drive_update_finish(struct drive_update *u)
{
	free(u->path_on_host);
	u->path_on_host = NULL;
}
