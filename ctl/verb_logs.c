/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/console.h"
#include "ctl/verbs.h"
#include "vmm/base/fd.h"

struct args {
	bool follow, spore, raw;
	uint64_t lines;
};

static const struct ctl_option options[] = {
	{"follow", 'f', CTL_FLAG, offsetof(struct args, follow), NULL, "go on until it ends"},
	{"lines", 'n', CTL_NUMBER, offsetof(struct args, lines), "N", "the last N only"},
	{"spore", 's', CTL_FLAG, offsetof(struct args, spore), NULL, "the log of spore itself"},
	{"raw", 0, CTL_FLAG, offsetof(struct args, raw), NULL,
	 "on a terminal too: control sequences of the guest"},
	{0},
};

struct printer {
	const struct ctl *c;
	bool clean; /* a guest shall not talk to somebody's terminal */
	char line[4096];
	size_t len; /* of a line that has not ended; --json */
};

static void print_json_line(struct printer *p)
{
	char *text = p->line;
	json_t *o;

	if (p->len && text[p->len - 1] == '\r')
		p->len--;
	text[p->len] = '\0';
	for (size_t i = 0; i < p->len; i++)
		if (!text[i])
			text[i] = '?';
	err_clean_text(text);
	o = json_pack("{s:s}", "line", text);
	json_dumpf(o, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(o);
	p->len = 0;
}

static void print(struct printer *p, char *buf, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char ch = (unsigned char)buf[i];

		if (p->clean && ((ch < ' ' && !strchr("\n\r\t", ch)) || ch == 0x7f))
			buf[i] = '?';
		if (!p->c->json)
			continue;
		if (ch != '\n')
			p->line[p->len++] = buf[i];
		if (ch == '\n' || p->len == sizeof(p->line) - 1)
			print_json_line(p);
	}
	if (!p->c->json)
		fwrite(buf, 1, len, stdout);
}

static void print_rest(struct printer *p, int fd)
{
	char buf[16384];
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0)
		print(p, buf, (size_t)n);
	fflush(stdout);
}

/* Moves to where the last `lines` lines begin. */
static void seek_lines(int fd, uint64_t lines)
{
	off_t at = lseek(fd, 0, SEEK_END), end = at;
	char buf[4096];

	while (at > 0) {
		size_t step = (size_t)MIN(at, (off_t)sizeof(buf));

		at -= (off_t)step;
		if (fd_pread_full(fd, buf, step, (uint64_t)at) < 0)
			return;
		for (size_t i = step; i-- > 0;) {
			/* The end of the last line begins none. */
			if (buf[i] != '\n' || at + (off_t)i + 1 == end || lines-- > 1)
				continue;
			lseek(fd, at + (off_t)i + 1, SEEK_SET);
			return;
		}
	}
	lseek(fd, 0, SEEK_SET);
}

/* Another file has its name: what was printed goes on there. */
static bool was_rotated(int fd, const char *path)
{
	struct stat here, there;

	return stat(path, &there) == 0 && fstat(fd, &here) == 0 && here.st_ino != there.st_ino;
}

static void follow(struct printer *p, const struct vms_vm *vm, int *fd, const char *path)
{
	cleanup_fd int holder = console_holder(vm); /* it lives until all is in the file */
	bool ended = holder < 0;

	while (!ended && !ferror(stdout)) {
		ended = vms_wait(holder, 100);
		print_rest(p, *fd);
		if (was_rotated(*fd, path)) {
			fd_close(fd);
			*fd = open(path, O_RDONLY | O_CLOEXEC);
			print_rest(p, *fd);
		}
	}
}

int verb_logs(struct ctl *c, int argc, char **argv)
{
	static const struct ctl_usage usage = {
		.arguments = "NAME",
		.options = options,
		.min = 1,
		.max = 1,
		.examples = "sporectl logs web\n"
			    "sporectl logs -f -n 20 web\n"
			    "sporectl logs --spore web\n",
	};
	struct args args = {0};
	struct printer p = {.c = c};
	char path[VMS_PATH_MAX], old[VMS_PATH_MAX];
	struct vms_vm vm;
	struct err e;
	cleanup_fd int fd = -1, before = -1;

	if (!ctl_parse(c, &usage, &argc, &argv, &args))
		return c->exit_code;
	if (vms_find(c, argv[0], &vm, &e) < 0)
		return ctl_fail(c, &e);
	p.clean = c->terminal && !args.raw;
	vms_path(&vm, args.spore ? "spore.log" : "console.log", path);
	vms_path(&vm, args.spore ? "spore.log.old" : "console.log.old", old);
	before = args.lines ? -1 : open(old, O_RDONLY | O_CLOEXEC);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		err_sys(&e, "'%s'", path);
		return ctl_fail(c, &e);
	}
	if (before >= 0)
		print_rest(&p, before);
	if (args.lines)
		seek_lines(fd, args.lines);
	print_rest(&p, fd);
	if (args.follow)
		follow(&p, &vm, &fd, path);
	if (p.len)
		print_json_line(&p);
	return 0;
}
