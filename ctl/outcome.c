/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "ctl/outcome.h"

#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "ctl/session.h"
#include "vmm/base/fd.h"

/* --- hearing how it ended --- */

/* HELLO, EXITED and nothing else. The end of the connection tells the agent that it was heard. */
static int hear(int fd)
{
	static struct frame_in in;
	struct session s = {.state = SESSION_RUNNING};
	struct frame f;
	struct err e;

	in = (struct frame_in){.from_agent = true};
	if (frame_send_hello(fd) < 0 || frame_wait(&in, fd, &f) < 0 || session_greeted(&f, &e) < 0)
		return -1;
	if (frame_wait(&in, fd, &f) < 0 || f.type != AGENT_EXITED ||
	    session_take(&s, &f, &e) != SESSION_EXITED)
		return -1;
	return s.status;
}

static void *attend(void *arg)
{
	struct outcome *o = arg;

	while (o->status < 0) {
		cleanup_fd int fd = accept4(o->listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0 && errno != EINTR && errno != ECONNABORTED)
			break;
		if (fd >= 0)
			o->status = hear(fd);
	}
	return NULL;
}

int outcome_begin(struct outcome *o, const char *uds_path, struct err *e)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int n = snprintf(o->path, sizeof(o->path), "%s_%u", uds_path, AGENT_HOST_PORT), r;
	sigset_t all, before;

	o->status = -1;
	if (n >= (int)sizeof(o->path))
		return err_set(e, ENAMETOOLONG, "'%s' is too long for a socket", uds_path);
	memcpy(addr.sun_path, o->path, sizeof(o->path));
	unlink(o->path); /* of a microVM that was killed */
	o->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (o->listener < 0 || bind(o->listener, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
	    listen(o->listener, 4) < 0) {
		r = err_sys(e, "listen on '%s'", o->path);
		fd_close(&o->listener);
		return r;
	}
	sigfillset(&all); /* signals are the console's */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&o->thread, NULL, attend, o);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r == 0)
		return 0;
	fd_close(&o->listener);
	unlink(o->path);
	return err_set(e, r, "start a thread: %s", strerror(r));
}

int outcome_end(struct outcome *o)
{
	shutdown(o->listener, SHUT_RDWR);
	pthread_join(o->thread, NULL);
	fd_close(&o->listener);
	unlink(o->path);
	return o->status;
}

/* --- saying what to run --- */

struct words {
	char *buf;
	size_t size, len;
};

static void put(struct words *w, char c)
{
	if (w->len + 1 < w->size)
		w->buf[w->len] = c;
	w->len++;
}

/* The agent turns %XX back. */
static void put_encoded(struct words *w, char c)
{
	static const char digits[] = "0123456789abcdef";
	unsigned char u = (unsigned char)c;

	if (isalnum(u) || strchr("_./:,+@-", c)) {
		put(w, c);
		return;
	}
	put(w, '%');
	put(w, digits[u >> 4]);
	put(w, digits[u & 15]);
}

static void put_quoted(struct words *w, const char *s)
{
	put_encoded(w, '\'');
	for (; *s; s++) {
		if (*s != '\'') {
			put_encoded(w, *s);
			continue;
		}
		for (const char *q = "'\\''"; *q; q++)
			put_encoded(w, *q);
	}
	put_encoded(w, '\'');
}

int outcome_words(int argc, char **argv, char *buf, size_t size, struct err *e)
{
	struct words w = {.buf = buf, .size = size};

	for (const char *s = "init=/sbin/spore-agent spore.run="; *s; s++)
		put(&w, *s);
	for (const char *s = argv[0]; argc == 1 && *s; s++)
		put_encoded(&w, *s);
	for (int i = 0; argc > 1 && i < argc; i++) {
		if (i > 0)
			put_encoded(&w, ' ');
		put_quoted(&w, argv[i]);
	}
	if (w.len >= size)
		return err_set(e, E2BIG, "the command is too long for a kernel's command line");
	buf[w.len] = '\0';
	return 0;
}
