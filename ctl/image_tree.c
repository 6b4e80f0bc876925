/* SPDX-License-Identifier: Apache-2.0 */
/* What a tree needs to be a guest's root file system. Links in it lead where they would in the guest. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ctl/image.h"
#include "vmm/base/fd.h"

#define AGENT "spore-agent"

int image_find_agent(struct ctl *c, char path[PATH_MAX], struct err *e)
{
	static const char *const places[] = {AGENT, "../lib/spore/" AGENT};
	char here[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", here, sizeof(here) - 1);
	char *slash;

	here[n > 0 ? n : 0] = '\0';
	slash = strrchr(here, '/');
	for (size_t i = 0; slash && i < ARRAY_SIZE(places); i++) {
		slash[1] = '\0';
		n = snprintf(path, PATH_MAX, "%s%s", here, places[i]);
		if (n < PATH_MAX && access(path, R_OK) == 0)
			return 0;
	}
	ctl_hint(c, "make, or: make install; --no-agent builds an image without");
	return err_set(e, ENOENT, "spore-agent is not beside sporectl");
}

static int open_inside(int root, const char *path, int flags)
{
	struct open_how how = {.flags = (unsigned)(flags | O_CLOEXEC), .resolve = RESOLVE_IN_ROOT};

	return (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
}

/* The directory of that name at the top, made if there is none. */
static int top_directory(int root, const char *name, mode_t mode, struct err *e)
{
	int fd;

	if (mkdirat(root, name, 0700) == 0 && fchmodat(root, name, mode, 0) < 0)
		return err_sys(e, "/%s of the image", name);
	fd = open_inside(root, name, O_RDONLY | O_DIRECTORY);
	return fd < 0 ? err_sys(e, "/%s of the image", name) : fd;
}

/* Replaces what has the name, and never writes through it. */
static int put_file(int dir, const char *name, const char *from, struct err *e)
{
	cleanup_fd int in = open(from, O_RDONLY | O_CLOEXEC), out = -1;
	char buf[65536];
	ssize_t n;

	if (in < 0)
		return err_sys(e, "open '%s'", from);
	unlinkat(dir, name, 0);
	out = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
	if (out < 0 || fchmod(out, 0755) < 0)
		return err_sys(e, "'%s' of the image", name);
	while ((n = read(in, buf, sizeof(buf))) > 0)
		if (fd_write_full(out, buf, (size_t)n) < 0)
			return err_sys(e, "'%s' of the image", name);
	return n < 0 ? err_sys(e, "read '%s'", from) : 0;
}

/* What a stranger's image has there is not trusted to be a program, only to be there. */
static bool has_init(int root)
{
	cleanup_fd int fd = open_inside(root, "/sbin/init", O_PATH);

	return fd >= 0;
}

static int add_agent(const struct image *im, int root, const char *agent, struct err *e)
{
	char command[PATH_MAX];
	cleanup_fd int sbin = top_directory(root, "sbin", 0755, e);
	int r;

	if (sbin < 0)
		return sbin;
	r = put_file(sbin, AGENT, agent, e);
	snprintf(command, sizeof(command), "%s/command", im->work);
	if (r == 0 && access(command, F_OK) == 0)
		r = put_file(sbin, "spore-run", command, e);
	if (r == 0 && !has_init(root)) {
		unlinkat(sbin, "init", 0);
		if (symlinkat(AGENT, sbin, "init") < 0)
			r = err_sys(e, "/sbin/init of the image");
	}
	return r;
}

/* A read-only root could not get them later. */
static int add_directories(int root, struct err *e)
{
	static const struct {
		const char *name;
		mode_t mode;
	} dirs[] = {{"proc", 0555}, {"sys", 0555},  {"dev", 0755}, {"run", 0755},
		    {"tmp", 01777}, {"root", 0700}, {"etc", 0755}};

	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		cleanup_fd int fd = top_directory(root, dirs[i].name, dirs[i].mode, e);

		if (fd < 0)
			return fd;
	}
	return 0;
}

/* Between its holes. Few blocks may also mean that the file system compresses. */
static uint64_t data_of(const FTSENT *f)
{
	uint64_t size = (uint64_t)f->fts_statp->st_size, data = 0;
	cleanup_fd int fd = -1;
	off_t at = 0, end;

	if (!S_ISREG(f->fts_statp->st_mode) || (uint64_t)f->fts_statp->st_blocks * 512 >= size)
		return size;
	fd = open(f->fts_accpath, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return size;
	while ((at = lseek(fd, at, SEEK_DATA)) >= 0 && (end = lseek(fd, at, SEEK_HOLE)) > at) {
		data += (uint64_t)(end - at);
		at = end;
	}
	return data;
}

static int measure(struct image *im, char *tree, struct err *e)
{
	char *const paths[] = {tree, NULL};
	FTS *walk = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR | FTS_XDEV, NULL);
	const FTSENT *f;

	im->bytes = im->files = im->length = 0;
	if (!walk)
		return err_sys(e, "read '%s'", tree);
	while ((f = fts_read(walk))) {
		if (f->fts_info == FTS_DP || f->fts_info == FTS_NS)
			continue;
		im->files++;
		im->bytes += align_up(data_of(f), KIB(4));
		if (__builtin_add_overflow(im->length, (uint64_t)f->fts_statp->st_size,
					   &im->length))
			im->length = UINT64_MAX;
	}
	fts_close(walk);
	return 0;
}

/* An empty file is not free either: an inode, and its name. */
int image_allowed(void *arg, struct err *e)
{
	struct image *im = arg;
	int r = measure(im, im->work, e);

	if (r < 0 || im->bytes + im->files * KIB(4) <= im->limit)
		return r;
	ctl_hint(im->c, "df -h; then --limit with more than %luM, if the source is trusted",
		 (unsigned long)(im->limit >> 20));
	return err_set(e, EFBIG, "'%s' takes more than %lu MiB unpacked", im->source,
		       (unsigned long)(im->limit >> 20));
}

int image_dress(struct image *im, const char *agent, struct err *e)
{
	char tree[PATH_MAX];
	cleanup_fd int root = -1;
	int r = 0;

	snprintf(tree, sizeof(tree), "%s/tree", im->work);
	root = open(tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return err_sys(e, "open '%s'", tree);
	(void)fchmod(root, 0755);
	if (agent)
		r = add_agent(im, root, agent, e);
	if (r == 0)
		r = add_directories(root, e);
	if (r == 0)
		r = measure(im, tree, e);
	return r;
}
