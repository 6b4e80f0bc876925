/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "jailer/root.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "jailer/tree.h"
#include "vmm/base/fd.h"

#define OPEN_FLAGS (OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)

/*
 * Of every mount in the jail. No symbolic link is followed, by whatever call: openat2() can be asked
 * not to, but bind() and connect() of Unix sockets follow them, without a race-free way to look first.
 */
#define ATTRIBUTES (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSYMFOLLOW)

void root_init(struct root *r)
{
	*r = (struct root){.dir = -1, .tree = -1};
}

void root_finish(struct root *r)
{
	for (size_t i = 0; i < r->binds; i++)
		fd_close(&r->bind[i]);
	fd_close(&r->tree);
	fd_close(&r->dir);
}

/* What the jailed user owns, and nobody else may enter. */
static struct tree_owner jailed(const struct args *a, mode_t mode)
{
	return (struct tree_owner){.mode = mode, .uid = (uid_t)a->uid, .gid = (gid_t)a->gid};
}

/* Opens <base>/<monitor>/<id>/root, making what is missing. */
static int open_dir(const struct args *a, struct err *e)
{
	const struct tree_owner owner = jailed(a, 0700);
	cleanup_fd int base = tree_make_trusted(a->chroot_base, e);
	char path[NAME_MAX + 80];
	int dir;

	if (base < 0)
		return base;
	snprintf(path, sizeof(path), "%s/%s/root", a->exec_name, a->id);
	dir = tree_make_dir(base, path, &owner, e);
	return dir < 0 ? err_wrap(e, "jail directory in '%.64s'", a->chroot_base) : dir;
}

static int set_attributes(int tree, uint64_t set, unsigned flags, struct err *e)
{
	struct mount_attr attr = {.attr_set = set, .propagation = MS_PRIVATE};

	if (mount_setattr(tree, "", AT_EMPTY_PATH | flags, &attr, sizeof(attr)) < 0)
		return err_sys(e, "set mount attributes");
	return 0;
}

/* Puts the detached mount `tree` over the file or directory that `target` is. */
static int attach(int tree, int target, struct err *e)
{
	if (move_mount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
		return err_sys(e, "attach a mount");
	return 0;
}

/* A place in the jail to mount on: a directory, or a file in one. The path is relative. */
static int make_target(int root, const char *path, bool is_dir, struct err *e)
{
	const struct tree_owner keep = {.mode = TREE_KEEP};
	const char *name = strrchr(path, '/');
	cleanup_free char *parent = name ? strndup(path, (size_t)(name - path)) : NULL;
	cleanup_fd int dir = -1;
	int fd;

	if (is_dir)
		return tree_make_dir(root, path, &keep, e);
	if (parent) {
		dir = tree_make_dir(root, parent, &keep, e);
		if (dir < 0)
			return dir;
	}
	name = name ? name + 1 : path;
	if (mknodat(dir < 0 ? root : dir, name, S_IFREG, 0) < 0 && errno != EEXIST)
		return err_sys(e, "make '%s'", path);
	fd = tree_open(dir < 0 ? root : dir, name, O_PATH | O_NOFOLLOW, 0);
	return fd < 0 ? err_set(e, -fd, "open '%s': %s", path, strerror(-fd)) : fd;
}

static int attach_at(int tree, int root, const char *path, bool is_dir, struct err *e)
{
	cleanup_fd int target = make_target(root, path, is_dir, e);

	return target < 0 ? target : attach(tree, target, e);
}

/* --- the root --- */

/* The jail directory itself, with what the operator has mounted in it. */
static int open_directory_root(struct root *r, struct err *e)
{
	r->tree = open_tree(r->dir, "", OPEN_FLAGS | AT_EMPTY_PATH | AT_RECURSIVE);
	if (r->tree < 0)
		return err_sys(e, "clone the jail directory's mount");
	/* Device nodes are needed, by us and by operators who place block devices. */
	return set_attributes(r->tree, ATTRIBUTES, AT_RECURSIVE, e);
}

/* A file system in memory that lives as long as the jail and leaves nothing behind. -errno. */
static int open_tmpfs(struct err *e)
{
	int tree;
	cleanup_fd int fs = fsopen("tmpfs", FSOPEN_CLOEXEC);

	if (fs < 0 || fsconfig(fs, FSCONFIG_SET_STRING, "size", "64k", 0) < 0 ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "mode", "0755", 0) < 0 ||
	    fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return err_sys(e, "create a tmpfs");
	tree = fsmount(fs, FSMOUNT_CLOEXEC, ATTRIBUTES);
	return tree < 0 ? err_sys(e, "mount a tmpfs") : tree;
}

/* --- what is in it --- */

static const struct device {
	const char *path; /* on the host below /dev, and in the jail */
	unsigned major, minor;
	bool needed;
} devices[] = {
	{"kvm", 10, 232, true},
	{"net/tun", 10, 200, false},
	{"urandom", 1, 9, false},
	{"userfaultfd", 0, 0, false}, /* its number is given out when the kernel starts */
};

/* In a user namespace no node can be made; the host's own is shown. */
static int bind_device(const struct device *d, int dev, struct err *e)
{
	char host[32];
	cleanup_fd int tree = -1;

	snprintf(host, sizeof(host), "/dev/%s", d->path);
	tree = open_tree(AT_FDCWD, host, OPEN_FLAGS);
	if (tree < 0)
		return d->needed ? err_sys(e, "open '%s'", host) : 0;
	return attach_at(tree, dev, d->path, false, e);
}

static int make_device(const struct device *d, const struct args *a, int dev, struct err *e)
{
	const struct tree_owner owner = jailed(a, 0600);
	const char *name = strrchr(d->path, '/');
	dev_t number = makedev(d->major, d->minor);
	cleanup_fd int net = -1;
	struct stat st;
	char host[32];

	if (d->major == 0) {
		snprintf(host, sizeof(host), "/dev/%s", d->path);
		if (stat(host, &st) < 0 || !S_ISCHR(st.st_mode))
			return 0;
		number = st.st_rdev;
	}
	if (!name)
		return tree_make_device(dev, d->path, number, &owner, e);
	net = tree_make_dir(dev, "net", &(struct tree_owner){.mode = 0755}, e);
	return net < 0 ? net : tree_make_device(net, name + 1, number, &owner, e);
}

/*
 * In the jail's own /dev nothing but root can make or remove an entry. In a user namespace root of
 * the jail directory is the jailed user, so there /dev is a file system that ends up read-only.
 */
static int make_devices(const struct args *a, int tree, struct err *e)
{
	const struct tree_owner root_owned = {.mode = 0755}, keep = {.mode = TREE_KEEP};
	cleanup_fd int dev = -1;
	int r = 0;

	if (a->user_ns) {
		dev = open_tmpfs(e);
		if (dev >= 0)
			r = attach_at(dev, tree, "dev", true, e);
	} else {
		dev = tree_make_dir(tree, "dev", a->tmpfs_root ? &keep : &root_owned, e);
	}
	if (dev < 0)
		return dev;
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(devices); i++)
		r = a->user_ns ? bind_device(&devices[i], dev, e)
			       : make_device(&devices[i], a, dev, e);
	return r == 0 && a->user_ns ? set_attributes(dev, MOUNT_ATTR_RDONLY, 0, e) : r;
}

/* /run holds the API socket, which has to be reachable from the host. */
static int make_run(const struct root *r, const struct args *a, struct err *e)
{
	const struct tree_owner owner = jailed(a, 0700);
	cleanup_fd int run = tree_make_dir(r->dir, "run", &owner, e);
	cleanup_fd int tree = -1;

	if (run < 0 || !a->tmpfs_root)
		return run < 0 ? run : 0;
	tree = open_tree(run, "", OPEN_FLAGS | AT_EMPTY_PATH);
	if (tree < 0)
		return err_sys(e, "clone the mount of /run");
	if (set_attributes(tree, ATTRIBUTES | MOUNT_ATTR_NODEV, 0, e) < 0)
		return -e->code;
	return attach_at(tree, r->tree, "run", true, e);
}

/* Takes "HOST:JAIL[:rw]" apart, in place. */
static int split_bind(char *text, char **jail, bool *writable, struct err *e)
{
	char *mode = NULL;

	*jail = strchr(text, ':');
	if (*jail) {
		*(*jail)++ = '\0';
		mode = strchr(*jail, ':');
		*jail += strspn(*jail, "/");
	}
	if (mode)
		*mode++ = '\0';
	*writable = mode;
	if (!*jail || !**jail || (mode && strcmp(mode, "rw") != 0))
		return err_set(e, EINVAL, "not HOST:JAIL[:rw]");
	return 0;
}

/* Before the new root hides what may be below the jail directory. */
static int open_bind(struct root *r, const char *text, struct err *e)
{
	cleanup_free char *host = strdup(text);
	uint64_t set = ATTRIBUTES;
	cleanup_fd int tree = -1;
	struct stat st;
	bool writable;
	char *jail;

	if (!host)
		return err_set(e, ENOMEM, "out of memory");
	if (split_bind(host, &jail, &writable, e) < 0)
		return -e->code;
	tree = open_tree(AT_FDCWD, host, OPEN_FLAGS);
	if (tree < 0 || fstat(tree, &st) < 0)
		return err_sys(e, "open '%s'", host);
	if (!S_ISBLK(st.st_mode))
		set |= MOUNT_ATTR_NODEV;
	if (set_attributes(tree, set | (writable ? 0 : MOUNT_ATTR_RDONLY), 0, e) < 0)
		return -e->code;
	r->bind[r->binds++] = TAKE_FD(tree);
	return 0;
}

static int attach_bind(const struct root *r, size_t i, const char *text, struct err *e)
{
	cleanup_free char *host = strdup(text);
	struct stat st;
	bool writable;
	char *jail;

	if (!host || split_bind(host, &jail, &writable, e) < 0)
		return err_set(e, ENOMEM, "out of memory");
	if (fstat(r->bind[i], &st) < 0)
		return err_sys(e, "stat '%s'", host);
	return attach_at(r->bind[i], r->tree, jail, S_ISDIR(st.st_mode), e);
}

int root_build(struct root *r, const struct args *a, struct err *e)
{
	int res;

	r->dir = open_dir(a, e);
	if (r->dir < 0)
		return r->dir;
	for (size_t i = 0; i < a->binds; i++)
		if (open_bind(r, a->bind[i], e) < 0)
			return err_wrap(e, "--bind '%.64s'", a->bind[i]);
	if (a->tmpfs_root) {
		r->tree = open_tmpfs(e);
		res = r->tree < 0 ? r->tree : 0;
	} else {
		res = open_directory_root(r, e);
	}
	/* Attached first: before Linux 6.15 nothing can be mounted on a detached tree. */
	if (res == 0)
		res = attach(r->tree, r->dir, e);
	if (res == 0)
		res = make_devices(a, r->tree, e);
	if (res == 0)
		res = make_run(r, a, e);
	for (size_t i = 0; res == 0 && i < a->binds; i++) {
		res = attach_bind(r, i, a->bind[i], e);
		if (res < 0)
			return err_wrap(e, "--bind '%.64s'", a->bind[i]);
	}
	if (res == 0 && a->tmpfs_root)
		res = set_attributes(r->tree, MOUNT_ATTR_RDONLY, 0, e);
	return res;
}

int root_enter(const struct root *r, struct err *e)
{
	/* The old root ends up on top of the new one; "." is what is on top (pivot_root(2)). */
	if (fchdir(r->tree) < 0 || syscall(SYS_pivot_root, ".", ".") < 0)
		return err_sys(e, "change the root");
	if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return err_sys(e, "let go of the old root");
	return 0;
}
