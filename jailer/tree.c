/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "jailer/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "vmm/base/fd.h"

#define DEPTH_MAX 64 /* of what is removed */

static int open_below(int at, const char *path, int flags, mode_t mode, uint64_t resolve)
{
	const struct open_how how = {
		.flags = (unsigned)flags | O_CLOEXEC,
		.mode = mode,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | resolve,
	};
	long fd = syscall(SYS_openat2, at, path, &how, sizeof(how));

	return fd < 0 ? -errno : (int)fd;
}

int tree_open(int at, const char *path, int flags, mode_t mode)
{
	return open_below(at, path, flags, mode, 0);
}

static int set_owner(int fd, const struct tree_owner *o)
{
	/* Through /proc or with fchmodat() it would be a name again; so it is opened for real. */
	cleanup_fd int real = -1;

	if (o->mode == TREE_KEEP)
		return 0;
	real = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (real < 0 || fchown(real, o->uid, o->gid) < 0 || fchmod(real, o->mode) < 0)
		return -errno;
	return 0;
}

int tree_make_dir(int at, const char *path, const struct tree_owner *owner, struct err *e)
{
	const char *name = path;
	cleanup_fd int dir = -1;
	int r;

	for (;;) {
		size_t len = strcspn(name, "/");
		char part[256];
		int next, from = dir < 0 ? at : dir;

		if (len >= sizeof(part))
			return err_set(e, ENAMETOOLONG, "directory '%.64s'", path);
		memcpy(part, name, len);
		part[len] = '\0';
		if (mkdirat(from, part, 0755) < 0 && errno != EEXIST)
			return err_sys(e, "make directory '%.128s' in '%.64s'", part, path);
		next = tree_open(from, part, O_PATH | O_DIRECTORY, 0);
		if (next < 0)
			return err_set(e, -next, "open directory '%.128s' in '%.64s': %s", part,
				       path, strerror(-next));
		fd_close(&dir);
		dir = next;
		if (!name[len])
			break;
		name += len + 1;
	}
	r = set_owner(dir, owner);
	if (r < 0)
		return err_set(e, -r, "owner of '%.128s': %s", path, strerror(-r));
	return TAKE_FD(dir);
}

int tree_make_trusted(const char *path, struct err *e)
{
	cleanup_free char *copy = strdup(path);
	int fd;

	if (!copy)
		return err_set(e, ENOMEM, "out of memory");
	fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	for (char *p = copy + 1; fd < 0 && p[-1]; p++) {
		char c = *p;

		if (c != '/' && c != '\0')
			continue;
		*p = '\0';
		if (mkdir(copy, 0755) < 0 && errno != EEXIST)
			return err_sys(e, "make directory '%s'", copy);
		*p = c;
		if (c == '\0')
			break;
	}
	if (fd < 0)
		fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? err_sys(e, "open directory '%s'", path) : fd;
}

int tree_make_device(int at, const char *name, dev_t dev, const struct tree_owner *owner,
		     struct err *e)
{
	cleanup_fd int fd = -1;
	struct stat st;
	int r = mknodat(at, name, S_IFCHR | owner->mode, dev);

	if (r < 0 && errno == EEXIST && unlinkat(at, name, 0) == 0)
		r = mknodat(at, name, S_IFCHR | owner->mode, dev);
	if (r < 0)
		return err_sys(e, "make device '%s'", name);
	fd = tree_open(at, name, O_PATH, 0);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(e, "open device '%s'", name);
	/* Nobody may have put another file there in between and get that one as a present. */
	if (!S_ISCHR(st.st_mode) || st.st_rdev != dev || st.st_nlink != 1)
		return err_set(e, EEXIST, "device '%s' was replaced", name);
	if (fchownat(fd, "", owner->uid, owner->gid, AT_EMPTY_PATH) < 0)
		return err_sys(e, "owner of device '%s'", name);
	return 0;
}

int tree_write_file(int at, const char *name, mode_t mode, const char *text, struct err *e)
{
	cleanup_fd int fd = -1;

	if (unlinkat(at, name, 0) < 0 && errno != ENOENT)
		return err_sys(e, "remove '%s'", name);
	fd = tree_open(at, name, O_WRONLY | O_CREAT | O_EXCL, mode);
	if (fd < 0)
		return err_set(e, -fd, "create '%s': %s", name, strerror(-fd));
	if (fd_write_full(fd, text, strlen(text)) < 0)
		return err_sys(e, "write '%s'", name);
	return 0;
}

static int remove_entries(int dir, unsigned depth, struct err *e);

static int remove_dir(int at, const char *name, unsigned depth, struct err *e)
{
	int fd = open_below(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, RESOLVE_NO_XDEV);
	int r;

	if (fd < 0)
		return err_set(e, -fd, "open '%.128s': %s", name,
			       fd == -EXDEV ? "something is mounted there" : strerror(-fd));
	if (depth == DEPTH_MAX) {
		close(fd);
		return err_set(e, ELOOP, "'%.128s': more than %d levels deep", name, DEPTH_MAX);
	}
	r = remove_entries(fd, depth + 1, e); /* closes fd */
	if (r == 0 && unlinkat(at, name, AT_REMOVEDIR) < 0)
		r = err_sys(e, "remove directory '%.128s'", name);
	return r;
}

/* Takes `fd`. */
static int remove_entries(int fd, unsigned depth, struct err *e)
{
	DIR *dir = fdopendir(fd);
	const struct dirent *d;
	int r = 0;

	if (!dir) {
		close(fd);
		return err_sys(e, "read a directory");
	}
	while (r == 0 && (d = readdir(dir))) {
		if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
			continue;
		if (unlinkat(dirfd(dir), d->d_name, 0) == 0 || errno == ENOENT)
			continue;
		if (errno == EISDIR)
			r = remove_dir(dirfd(dir), d->d_name, depth, e);
		else
			r = err_sys(e, "remove '%.128s'", d->d_name);
	}
	closedir(dir);
	return r;
}

int tree_remove(int at, const char *name, struct err *e)
{
	struct stat st;

	if (fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_sys(e, "stat '%s'", name);
	return remove_dir(at, name, 0, e);
}
