/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spore-overlay: looks after overlay files (docs/overlay-format.md) while no VM uses them.
 *
 *	spore-overlay info OVERLAY		what it is and how much it holds
 *	spore-overlay check OVERLAY BASE	whether it is whole and this is its base
 *	spore-overlay commit OVERLAY BASE	write what it holds into its base and empty it
 *	spore-overlay flatten OVERLAY BASE NEW	write the disk that the guest sees into a new file
 *
 * Exit status: 0 done, 1 refused or failed, 2 wrong usage. The files are locked as spore locks
 * them, so a disk in use is refused. NEW must not exist; it is removed again when it fails.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "virtio/overlay.h"
#include "vmm/base/fd.h"

static int open_locked(const char *path, bool writable, struct err *e)
{
	int fd = fd_open_file(path, writable ? O_RDWR : O_RDONLY, true, e);

	if (fd < 0)
		return fd;
	if (fd_lock(fd, writable) == 0)
		return fd;
	close(fd);
	return err_set(e, EBUSY, "'%s' is in use", path);
}

static int info(int overlay, struct err *e)
{
	struct overlay *o = overlay_open(overlay, -1, e);

	if (!o)
		return -e->code;
	printf("format:     1\ndisk size:  %llu\nin overlay: %llu\n",
	       (unsigned long long)overlay_size(o), (unsigned long long)overlay_own_bytes(o));
	overlay_close(o);
	return 0;
}

static int check(int overlay, int base, struct err *e)
{
	struct overlay *o = overlay_open(overlay, base, e);

	overlay_close(o);
	return o ? 0 : -e->code;
}

static int commit(int overlay, int base, struct err *e)
{
	/* Without its base: an interrupted commit is to be repeated. */
	struct overlay *o = overlay_open(overlay, -1, e);
	int r = o ? overlay_commit(o, base, e) : -e->code;

	overlay_close(o);
	return r;
}

static int flatten(int overlay, int base, const char *path, struct err *e)
{
	struct overlay *o = overlay_open(overlay, base, e);
	cleanup_fd int out = -1;
	int r = o ? 0 : -e->code;

	if (r == 0) {
		out = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		r = out < 0 ? err_sys(e, "create '%s'", path) : overlay_flatten(o, base, out, e);
		if (r < 0 && out >= 0)
			unlink(path);
	}
	overlay_close(o);
	return r;
}

static int run(int argc, char **argv, struct err *e)
{
	const char *verb = argv[1];
	bool is_commit = strcmp(verb, "commit") == 0;
	cleanup_fd int overlay = open_locked(argv[2], is_commit, e);
	cleanup_fd int base = argc > 3 && overlay >= 0 ? open_locked(argv[3], is_commit, e) : -1;

	if (overlay < 0 || (argc > 3 && base < 0))
		return -e->code;
	if (strcmp(verb, "info") == 0)
		return info(overlay, e);
	if (strcmp(verb, "check") == 0)
		return check(overlay, base, e);
	if (is_commit)
		return commit(overlay, base, e);
	return flatten(overlay, base, argv[4], e);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *verb;
		int argc;
	} verbs[] = {{"info", 3}, {"check", 4}, {"commit", 4}, {"flatten", 5}};
	struct err e = {0};

	for (size_t i = 0; i < ARRAY_SIZE(verbs) && argc > 1; i++) {
		if (strcmp(argv[1], verbs[i].verb) != 0 || argc != verbs[i].argc)
			continue;
		if (run(argc, argv, &e) == 0)
			return 0;
		fprintf(stderr, "spore-overlay: %s: %s\n", argv[2], e.msg);
		return 1;
	}
	fprintf(stderr, "usage: spore-overlay info OVERLAY\n"
			"       spore-overlay check OVERLAY BASE\n"
			"       spore-overlay commit OVERLAY BASE\n"
			"       spore-overlay flatten OVERLAY BASE NEW\n");
	return 2;
}
