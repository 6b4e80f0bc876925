/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files and directories into a guest and out of one. What comes out of a guest is hostile: copy.h
 * keeps it inside the copy, and no file gets bits of a mode that would make it more than a file.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ctl/agent/copy.h"
#include "ctl/agentio.h"
#include "ctl/progress.h"
#include "ctl/session.h"
#include "ctl/verbs.h"
#include "vmm/base/fd.h"

static struct frame_in in;
static struct progress progress;

struct end {
	char *name;	  /* of a microVM; NULL: here */
	const char *path; /* what is behind the colon */
};

/* "NAME:PATH", or a path here: it has no colon, or a slash before it. Cuts `text` at the colon. */
static struct end parse_end(char *text)
{
	char *colon = strrchr(text, ':');
	char *first = strchr(text, ':');

	/* The path of a socket in the place of a name has slashes before its colon. */
	if (text[0] == '/' || text[0] == '.')
		colon = colon && colon[1] == '/' ? colon : NULL;
	else
		colon = first && !memchr(text, '/', (size_t)(first - text)) ? first : NULL;
	if (!colon)
		return (struct end){.path = text};
	*colon = '\0';
	return (struct end){.name = text, .path = colon + 1};
}

static void show(void *opaque, const char *path, uint64_t bytes)
{
	(void)opaque;
	(void)path;
	progress_update(&progress, bytes);
}

static int copy_error(const struct copy_err *t, struct err *e)
{
	if (t->code == EPROTO)
		return err_set(e, EPROTO, "the guest's agent breaks the protocol: %.100s", t->what);
	return err_set(e, t->code, "%.400s: %s", t->what, strerror(t->code));
}

/* The last part of a path, for a copy into a directory. "" when it has none: "/". */
static const char *base_name(const char *path, char *buf, size_t size)
{
	size_t len = strlen(path), at;

	while (len > 0 && path[len - 1] == '/')
		len--;
	for (at = len; at > 0 && path[at - 1] != '/'; at--)
		;
	snprintf(buf, size, "%.*s", (int)(len - at), path + at);
	return strcmp(buf, ".") == 0 || strcmp(buf, "..") == 0 ? "" : buf;
}

static void note_left_out(struct ctl *c, uint32_t n)
{
	if (n > 0)
		ctl_note(c, "sporectl: %u special files were left out", n);
}

static int put(struct ctl *c, int fd, const char *from, const char *to, struct err *e)
{
	static struct frame_out o;
	static struct copy_err t;
	char name[256], real[AGENT_PATH_MAX];
	const char *base = base_name(from, name, sizeof(name));
	int r, done;

	if (!base[0] && realpath(from, real))
		base = base_name(real, name, sizeof(name));
	frame_put_string(&o, to[0] ? to : "/");
	frame_put_string(&o, base);
	if (o.len > 2 * AGENT_PATH_MAX)
		return err_set(e, ENAMETOOLONG, "'%.64s...': too long a path", to);
	(void)frame_write(fd, AGENT_PUT, o.buf, o.len);
	progress_begin(&progress, c, base, 0);
	r = copy_send(fd, from, show, NULL, &t);
	progress_end(&progress);
	if (r < 0 && r != -ECANCELED)
		return copy_error(&t, e);
	done = agentio_done(fd, &in, e);
	if (done == 0 && r < 0)
		return err_set(e, EPROTO, "the guest's agent breaks the protocol");
	return done;
}

static int receive(int fd, struct copy_in *tree, struct err *e)
{
	static struct copy_err t;
	struct frame f;
	int r = 0;

	while (r == 0) {
		r = frame_wait(&in, fd, &f);
		if (r == -EPROTO)
			return err_set(e, EPROTO, "the guest's agent breaks the protocol");
		if (r < 0)
			return err_set(e, -r, "the guest's agent has closed the connection");
		if (f.type == AGENT_ERROR)
			return session_error(&f, e);
		r = copy_take(tree, &f, &t);
	}
	return r < 0 ? copy_error(&t, e) : 0;
}

static int get(struct ctl *c, int fd, const char *from, const char *to, struct err *e)
{
	static struct copy_in tree;
	static struct copy_err t;
	char name[256];
	const char *base = base_name(from, name, sizeof(name));
	int r;

	if (strlen(from) >= AGENT_PATH_MAX)
		return err_set(e, ENAMETOOLONG, "'%.64s...': too long a path", from);
	(void)frame_write(fd, AGENT_GET, from[0] ? from : "/",
			  (uint32_t)strlen(from[0] ? from : "/") + 1);
	tree.mode_mask = 0777;
	tree.progress = show;
	if (copy_open(&tree, to, base, &t) < 0)
		return copy_error(&t, e);
	progress_begin(&progress, c, base, 0);
	r = receive(fd, &tree, e);
	progress_end(&progress);
	copy_close(&tree);
	if (r == 0)
		note_left_out(c, tree.left_out);
	return r;
}

int verb_cp(struct ctl *c, int argc, char **argv)
{
	struct args {
		uint64_t wait;
	} args = {AGENTIO_WAIT};
	static const struct ctl_option options[] = {
		{"wait", 0, CTL_NUMBER, offsetof(struct args, wait), "SECONDS",
		 "how long the guest may take until its agent answers [10]"},
		{0},
	};
	static const struct ctl_usage usage = {
		.arguments = "NAME:PATH PATH | PATH NAME:PATH",
		.options = options,
		.examples = "sporectl cp web:/var/log/app.log .\n"
			    "sporectl cp site web:/srv\n",
		.min = 2,
		.max = 2,
	};
	struct end from, to;
	struct err e;
	cleanup_fd int fd = -1;
	int r;

	if (!ctl_parse(c, &usage, &argc, &argv, &args))
		return c->exit_code;
	from = parse_end(argv[0]);
	to = parse_end(argv[1]);
	if (!from.name == !to.name) {
		ctl_hint(c, "sporectl cp NAME:PATH PATH, or sporectl cp PATH NAME:PATH");
		err_set(&e, EINVAL, "one of the two has to be in a microVM, the other one here");
		return ctl_fail(c, &e);
	}
	signal(SIGPIPE, SIG_IGN);
	fd = agentio_open(c, from.name ? from.name : to.name, args.wait, &in, &e);
	if (fd < 0)
		return ctl_fail(c, &e);
	r = from.name ? get(c, fd, from.path, to.path, &e) : put(c, fd, from.path, to.path, &e);
	return r < 0 ? ctl_fail(c, &e) : 0;
}
