/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "jailer/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mntent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/base/fd.h"

#define MAKE_TRIES     5
#define REMOVE_TRIES   200
#define REMOVE_WAIT_US 10000

static const char *parent_of(const struct args *a)
{
	return a->parent_cgroup ? a->parent_cgroup : a->exec_name;
}

/* --- hierarchies --- */

static bool has_option(const char *options, const char *name, size_t len)
{
	for (const char *p = options; *p; p += strcspn(p, ","), p += *p == ',')
		if (strcspn(p, ",") == len && strncmp(p, name, len) == 0)
			return true;
	return false;
}

/*
 * Opens where a hierarchy is mounted: version 2, or the one of version 1 with this controller.
 * -ENOENT when there is none.
 */
static int open_hierarchy(uint64_t version, const char *controller, size_t len)
{
	FILE *mounts = setmntent("/proc/mounts", "re");
	const struct mntent *m;
	int fd = -ENOENT;

	if (!mounts)
		return -errno;
	while (fd == -ENOENT && (m = getmntent(mounts))) {
		if (version == 2 ? strcmp(m->mnt_type, "cgroup2") != 0
				 : strcmp(m->mnt_type, "cgroup") != 0 ||
					   !has_option(m->mnt_opts, controller, len))
			continue;
		fd = open(m->mnt_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			fd = -errno;
	}
	endmntent(mounts);
	return fd;
}

static int open_dir(int at, const char *path)
{
	int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int write_value(int dir, const char *file, const char *value, struct err *e)
{
	cleanup_fd int fd = openat(dir, file, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
	size_t len = strlen(value);

	if (fd < 0)
		return err_sys(e, "open cgroup file '%.64s'", file);
	if (write(fd, value, len) != (ssize_t)len)
		return err_sys(e, "write '%.64s' to cgroup file '%.64s'", value, file);
	return 0;
}

/* 0 for an empty or missing file. */
static size_t read_value(int dir, const char *file, char *buf, size_t size)
{
	cleanup_fd int fd = openat(dir, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, buf, size - 1);

	while (n > 0 && buf[n - 1] == '\n')
		n--;
	buf[n > 0 ? n : 0] = '\0';
	return n > 0 ? (size_t)n : 0;
}

/* "FILE=VALUE" apart; both buffers are large enough for what args_parse() let through. */
static void split(const char *text, char file[NAME_MAX + 1], const char **value)
{
	const char *eq = strchr(text, '=');

	snprintf(file, NAME_MAX + 1, "%.*s", (int)(eq - text), text);
	*value = eq + 1;
}

/* Calls step() in each directory from `top` down to <parent>/<id>, which it creates. */
static int descend(const struct args *a, int top,
		   int (*step)(int dir, bool last, const void *arg, struct err *e), const void *arg,
		   struct err *e)
{
	cleanup_free char *path = NULL;
	int dir = top, r = 0;
	char *name, *more = NULL;

	if (asprintf(&path, "%s/%s", parent_of(a), a->id) < 0)
		r = err_set(e, ENOMEM, "out of memory");
	for (name = r < 0 ? NULL : strtok_r(path, "/", &more); name;
	     name = strtok_r(NULL, "/", &more)) {
		int next;

		r = step(dir, false, arg, e);
		if (r < 0)
			break;
		if (mkdirat(dir, name, 0755) < 0 && errno != EEXIST) {
			r = err_sys(e, "make cgroup '%.64s'", name);
			break;
		}
		next = open_dir(dir, name);
		if (next < 0) {
			r = err_set(e, -next, "open cgroup '%.64s': %s", name, strerror(-next));
			break;
		}
		close(dir);
		dir = next;
	}
	if (r == 0)
		r = step(dir, true, arg, e);
	if (r < 0)
		close(dir);
	return r < 0 ? r : dir;
}

/* --- version 2 --- */

/* On the way down each controller that is named is handed on to the children. */
static int step_v2(int dir, bool last, const void *arg, struct err *e)
{
	const struct args *a = arg;
	char file[NAME_MAX + 1], enable[NAME_MAX + 2];
	const char *value;

	for (size_t i = 0; i < a->cgroups; i++) {
		int r;

		split(a->cgroup[i], file, &value);
		snprintf(enable, sizeof(enable), "+%.*s", (int)strcspn(file, "."), file);
		/* "cgroup.*" files are not a controller's. */
		if (last)
			r = write_value(dir, file, value, e);
		else
			r = strcmp(enable, "+cgroup") == 0
				    ? 0
				    : write_value(dir, "cgroup.subtree_control", enable, e);
		if (r < 0)
			return r;
	}
	return 0;
}

static int make_v2(const struct args *a, int *dir, struct err *e)
{
	cleanup_fd int top = open_hierarchy(2, NULL, 0);

	if (a->cgroups == 0) {
		*dir = top < 0 ? -1 : open_dir(top, parent_of(a));
		*dir = *dir < 0 ? -1 : *dir;
		return 0;
	}
	if (top < 0)
		return err_set(e, -top, "no cgroup2 hierarchy is mounted");
	*dir = descend(a, TAKE_FD(top), step_v2, a, e);
	return *dir < 0 ? *dir : 0;
}

/* --- version 1 --- */

/*
 * In version 1 a new cpuset is empty and takes no process until it has both processors and memory
 * nodes, so what is empty on the way down is filled from the group above.
 */
struct step_v1 {
	const char *file, *value;
	const char *inherit[2]; /* NULL: no more */
	char above[2][1024];
};

static int do_step_v1(int dir, bool last, const void *arg, struct err *e)
{
	struct step_v1 *s = (struct step_v1 *)(uintptr_t)arg;
	char here[sizeof(s->above[0])];
	int r = 0;

	for (int i = 0; i < 2 && s->inherit[i] && r == 0; i++) {
		if (read_value(dir, s->inherit[i], here, sizeof(here)) > 0)
			memcpy(s->above[i], here, sizeof(here));
		else if (s->above[i][0])
			r = write_value(dir, s->inherit[i], s->above[i], e);
	}
	return r == 0 && last ? write_value(dir, s->file, s->value, e) : r;
}

/* Makes the group for one value. Returns its directory. */
static int make_v1(const struct args *a, const char *text, struct err *e)
{
	size_t len = strcspn(text, ".");
	int top = open_hierarchy(1, text, len);
	char file[NAME_MAX + 1];
	struct step_v1 s = {.file = file, .inherit = {file}};

	if (top < 0)
		return err_set(e, -top, "no cgroup hierarchy has controller '%.*s'",
			       (int)MIN(len, 64u), text);
	split(text, file, &s.value);
	if (strncmp(file, "cpuset.", 7) == 0) {
		s.inherit[0] = "cpuset.cpus";
		s.inherit[1] = "cpuset.mems";
	}
	return descend(a, top, do_step_v1, &s, e);
}

/* All values first: a group may refuse processes until it has several. */
static int make_all_v1(const struct args *a, struct err *e)
{
	int dir[ARGS_REPEAT_MAX], r = 0;
	size_t n = 0;

	while (n < a->cgroups && r == 0) {
		dir[n] = make_v1(a, a->cgroup[n], e);
		if (dir[n] < 0)
			r = dir[n];
		else
			n++;
	}
	for (size_t i = 0; i < n; i++) {
		if (r == 0)
			r = write_value(dir[i], "tasks", "0", e);
		close(dir[i]);
	}
	return r;
}

static int make_once(const struct args *a, int *dir, struct err *e)
{
	return a->cgroup_version == 2 ? make_v2(a, dir, e) : make_all_v1(a, e);
}

int cgroup_make(const struct args *a, int *dir, struct err *e)
{
	int r = -ENOENT;

	*dir = -1;
	/* The parent goes with the last jail that is cleaned up, perhaps just after we found it. */
	for (int i = 0; i < MAKE_TRIES && (r == -ENOENT || r == -ENODEV); i++)
		r = make_once(a, dir, e);
	return r;
}

int cgroup_enter(int dir, struct err *e)
{
	return write_value(dir, "cgroup.procs", "0", e);
}

/* --- removal --- */

static int remove_group(int top, const char *path, struct err *e)
{
	for (int i = 0; i < REMOVE_TRIES; i++) {
		if (unlinkat(top, path, AT_REMOVEDIR) == 0 || errno == ENOENT)
			return 0;
		/* A process that has been killed leaves its group only when it is gone. */
		if (errno != EBUSY)
			break;
		usleep(REMOVE_WAIT_US);
	}
	return err_sys(e, "remove cgroup '%.128s'", path);
}

int cgroup_remove(const struct args *a, struct err *e)
{
	FILE *mounts = setmntent("/proc/mounts", "re");
	cleanup_free char *path = NULL;
	const struct mntent *m;
	int r = 0;

	if (!mounts)
		return err_sys(e, "open /proc/mounts");
	if (asprintf(&path, "%s/%s", parent_of(a), a->id) < 0)
		r = err_set(e, ENOMEM, "out of memory");
	while (r == 0 && (m = getmntent(mounts))) {
		cleanup_fd int top = -1;

		if (strcmp(m->mnt_type, "cgroup") != 0 && strcmp(m->mnt_type, "cgroup2") != 0)
			continue;
		top = open(m->mnt_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (top < 0)
			continue;
		r = remove_group(top, path, e);
		/* The default parent is ours too; it goes with the last jail. */
		if (r == 0 && !a->parent_cgroup)
			unlinkat(top, a->exec_name, AT_REMOVEDIR);
	}
	endmntent(mounts);
	return r;
}
