/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "snapshot/output.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/base/fd.h"

/* Everything below is done with names in this directory, so that no path is walked twice. */
static int open_directory(const char *path, const char **name, struct err *e)
{
	const char *slash = strrchr(path, '/');
	char dir[PATH_MAX];
	int fd;

	*name = slash ? slash + 1 : path;
	if (strlen(path) >= sizeof(dir) || strlen(*name) > OUTPUT_NAME_MAX)
		return err_set(e, ENAMETOOLONG, "'%.64s...': more than %u bytes in the last part",
			       path, OUTPUT_NAME_MAX);
	if (**name == '\0')
		return err_set(e, EINVAL, "'%s' does not name a file", path);
	snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
	fd = fd_open_path(slash == path ? "/" : dir, O_RDONLY | O_DIRECTORY, 0);
	if (fd < 0)
		return err_set(e, -fd, "open the directory of '%s': %s", path, strerror(-fd));
	return fd;
}

static int check_target(const struct output_file *f, struct err *e)
{
	struct stat st;

	if (fstatat(f->dir, f->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_sys(e, "stat '%s'", f->path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, EINVAL, "'%s' is there and is not a regular file", f->path);
	return 0;
}

static int create_file(struct output_file *f, const char *path, struct err *e)
{
	const char *name;
	struct stat st;
	int r;

	f->path = path;
	f->dir = open_directory(path, &name, e);
	if (f->dir < 0)
		return f->dir;
	memcpy(f->name, name, strlen(name) + 1);
	r = check_target(f, e);
	if (r < 0)
		return r;
	snprintf(f->temp, sizeof(f->temp), "%s.tmp", name);
	/* What a killed process has left. If it is not dead, it finds out: see rename_file(). */
	unlinkat(f->dir, f->temp, 0);
	f->fd = fd_create_at(f->dir, f->temp);
	if (f->fd < 0) {
		f->temp[0] = '\0';
		return err_set(e, -f->fd, "create '%s.tmp': %s", path, strerror(-f->fd));
	}
	if (fd_stat(f->fd, &st) < 0)
		return err_sys(e, "stat '%s.tmp'", path);
	f->inode = st.st_ino;
	return 0;
}

/* The name is somebody else's by now if two write the same snapshot. */
static bool is_ours(const struct output_file *f)
{
	struct stat st;

	return f->temp[0] && fstatat(f->dir, f->temp, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       st.st_ino == f->inode;
}

static void drop_file(struct output_file *f)
{
	if (is_ours(f))
		unlinkat(f->dir, f->temp, 0);
	f->temp[0] = '\0';
	fd_close(&f->fd);
	fd_close(&f->dir);
}

int output_create(struct output *o, const char *state, const char *memory, struct err *e)
{
	int r;

	o->state = o->memory = (struct output_file){.fd = -1, .dir = -1};
	r = create_file(&o->state, state, e);
	if (r == 0)
		r = create_file(&o->memory, memory, e);
	/* The temporary file of the second would have replaced that of the first. */
	if (r == 0 && !is_ours(&o->state))
		r = err_set(e, EINVAL, "'%s' cannot be state and memory at once", state);
	if (r < 0)
		output_drop(o);
	return r;
}

/* To `to` in the same directory, durably. */
static int rename_file(struct output_file *f, const char *to, struct err *e)
{
	if (!is_ours(f))
		return err_set(e, EBUSY, "somebody else is writing '%s'", f->path);
	if (renameat(f->dir, f->temp, f->dir, to) < 0)
		return err_sys(e, "rename '%s' to '%s'", f->temp, to);
	f->in_place = strcmp(to, f->name) == 0;
	memcpy(f->temp, to, strlen(to) + 1);
	return fsync(f->dir) < 0 ? err_sys(e, "fsync the directory of '%s'", f->path) : 0;
}

int output_commit(struct output *o, struct err *e)
{
	struct output_file *m = &o->memory, *s = &o->state;
	char waiting[sizeof(m->temp)];
	int r, moved;

	if (fsync(m->fd) < 0)
		return err_sys(e, "fsync '%s'", m->path);
	if (fsync(s->fd) < 0)
		return err_sys(e, "fsync '%s'", s->path);
	snprintf(waiting, sizeof(waiting), "%s.%llu", m->name, (unsigned long long)m->inode);
	r = rename_file(m, waiting, e);
	if (r == 0)
		r = rename_file(s, s->name, e);
	if (!s->in_place)
		return r;
	/* The new snapshot is in force, wherever its memory is: nothing is removed any more. */
	moved = rename_file(m, m->name, r == 0 ? e : NULL);
	s->temp[0] = m->temp[0] = '\0';
	return r == 0 ? moved : r;
}

void output_drop(struct output *o)
{
	drop_file(&o->state);
	drop_file(&o->memory);
}

int output_create_one(struct output_file *f, const char *path, struct err *e)
{
	int r;

	*f = (struct output_file){.fd = -1, .dir = -1};
	r = create_file(f, path, e);
	if (r < 0)
		drop_file(f);
	return r;
}

int output_commit_one(struct output_file *f, struct err *e)
{
	int r = rename_file(f, f->name, e);

	if (f->in_place)
		f->temp[0] = '\0';
	return r;
}

void output_drop_one(struct output_file *f)
{
	drop_file(f);
}

static bool has_inode(int fd, uint64_t inode)
{
	struct stat st;

	return fd_stat(fd, &st) == 0 && st.st_ino == inode;
}

int output_open_memory(const char *path, uint64_t inode, struct err *e)
{
	char waiting[PATH_MAX];
	cleanup_fd int fd = fd_open_file(path, O_RDONLY, false, e);
	cleanup_fd int other = -1;
	int code = fd;

	if (fd >= 0 && has_inode(fd, inode))
		return TAKE_FD(fd);
	if (snprintf(waiting, sizeof(waiting), "%s.%llu", path, (unsigned long long)inode) <
	    (int)sizeof(waiting))
		other = fd_open_file(waiting, O_RDONLY, false, NULL);
	if (other >= 0 && has_inode(other, inode))
		return TAKE_FD(other);
	return fd >= 0 ? TAKE_FD(fd) : code;
}
