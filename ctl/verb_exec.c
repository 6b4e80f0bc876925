/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A command in a guest. What the guest's agent sends is hostile: session.h judges it, nothing that it
 * does makes us wait where a signal would not be heard, and without -t what it prints cannot steer
 * the user's terminal.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "ctl/agentio.h"
#include "ctl/session.h"
#include "ctl/verbs.h"
#include "vmm/base/fd.h"

#define EXEC_FAILED    125 /* sporectl, not the command: as env(1), docker and podman do */
#define EXEC_NO_RUN    126
#define EXEC_NOT_FOUND 127
#define ESCAPE	       0x1d /* Ctrl-] three times ends it */

struct args {
	bool tty, interactive, detach;
	struct ctl_list env;
	const char *dir, *user;
	uint64_t wait;
};

struct exec {
	struct ctl *c;
	struct args args;
	int fd;
	struct session session;
	bool input_open, clean_out, clean_err, lead_out, lead_err;
	unsigned escapes;
	uint32_t out_at, out_len; /* waiting for the agent */
	uint8_t out[AGENT_HEADER + 16384 + 256];
};

static struct exec x;
static struct frame_in in;
static struct frame_out request;

/* --- terminal and signals --- */

/* For the signal handler too. */
static struct termios saved;
static volatile sig_atomic_t raw, interrupts;
static int signal_pipe[2];

static void restore_terminal(void)
{
	if (raw)
		tcsetattr(0, TCSAFLUSH, &saved);
	raw = 0;
}

static void on_signal(int sig)
{
	int e = errno;
	uint8_t b = (uint8_t)sig;

	/* The first one is the command's. Whoever repeats it means us. */
	if (sig != SIGWINCH && interrupts++ > 0) {
		restore_terminal();
		_exit(128 + sig);
	}
	(void)!write(signal_pipe[1], &b, 1);
	errno = e;
}

static int catch_signals(struct err *e)
{
	static const int caught[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH};
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

	if (pipe2(signal_pipe, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_sys(e, "pipe");
	for (size_t i = 0; i < ARRAY_SIZE(caught); i++)
		sigaction(caught[i], &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
	return 0;
}

static void make_raw(void)
{
	struct termios t;

	if (!x.args.tty || !x.args.interactive || tcgetattr(0, &saved) < 0)
		return;
	t = saved;
	cfmakeraw(&t);
	if (tcsetattr(0, TCSAFLUSH, &t) == 0)
		raw = 1;
}

static struct winsize window(void)
{
	struct winsize w = {.ws_row = 24, .ws_col = 80};

	for (int fd = 0; fd < 3; fd++)
		if (ioctl(fd, TIOCGWINSZ, &w) == 0)
			break;
	return w;
}

/* --- the request --- */

/* "1000" or "1000:100"; a group of the user's number goes without saying. */
static int put_user(const char *user, struct err *e)
{
	char *end = NULL;
	unsigned long uid = user ? strtoul(user, &end, 10) : 0, gid = uid;

	if (user && *end == ':' && end[1])
		gid = strtoul(end + 1, &end, 10);
	if (user && (*end || !strchr("0123456789", *user) || uid > INT32_MAX || gid > INT32_MAX))
		return err_set(e, EINVAL, "--user '%s': expected UID or UID:GID, as numbers", user);
	frame_put_number(&request, uid, 4);
	frame_put_number(&request, gid, 4);
	return 0;
}

static bool has_env(const char *name)
{
	size_t len = strlen(name);

	for (unsigned i = 0; i < x.args.env.count; i++)
		if (strncmp(x.args.env.item[i], name, len) == 0 && x.args.env.item[i][len] == '=')
			return true;
	return false;
}

static int put_env(struct err *e)
{
	static const char *const basic[][2] = {
		{"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		{"HOME", "/root"},
	};
	const char *term = x.args.tty && !has_env("TERM") ? getenv("TERM") : NULL;
	uint32_t count = x.args.env.count + !!term;
	char s[128];

	for (size_t i = 0; i < ARRAY_SIZE(basic); i++)
		count += !has_env(basic[i][0]);
	frame_put_number(&request, count, 4);
	for (size_t i = 0; i < ARRAY_SIZE(basic); i++) {
		snprintf(s, sizeof(s), "%s=%s", basic[i][0], basic[i][1]);
		if (!has_env(basic[i][0]))
			frame_put_string(&request, s);
	}
	if (term) {
		snprintf(s, sizeof(s), "TERM=%.100s", term);
		frame_put_string(&request, s);
	}
	for (unsigned i = 0; i < x.args.env.count; i++) {
		if (!strchr(x.args.env.item[i], '='))
			return err_set(e, EINVAL, "--env '%s': expected NAME=VALUE",
				       x.args.env.item[i]);
		frame_put_string(&request, x.args.env.item[i]);
	}
	return 0;
}

static int put_request(char **argv, int argc, struct err *e)
{
	struct winsize w = window();
	const struct args *a = &x.args;
	int r;

	frame_put_number(&request,
			 (a->tty ? AGENT_EXEC_TTY : 0u) | (a->interactive ? AGENT_EXEC_STDIN : 0u) |
				 (a->detach ? AGENT_EXEC_DETACH : 0u),
			 4);
	if ((r = put_user(a->user, e)) < 0)
		return r;
	frame_put_number(&request, w.ws_row, 2);
	frame_put_number(&request, w.ws_col, 2);
	frame_put_string(&request, a->dir ? a->dir : "");
	frame_put_number(&request, (uint64_t)argc, 4);
	for (int i = 0; i < argc; i++)
		frame_put_string(&request, argv[i]);
	if ((r = put_env(e)) < 0)
		return r;
	return request.full
		       ? err_set(e, E2BIG, "the command is longer than %u bytes", AGENT_FRAME_MAX)
		       : 0;
}

/* --- while it runs --- */

/* What does not fit is dropped: the agent does not listen, and a second signal ends us. */
static void queue(enum agent_frame type, const void *data, uint32_t len)
{
	if (len + AGENT_HEADER > sizeof(x.out) - x.out_len)
		return;
	frame_header(x.out + x.out_len, type, len);
	memcpy(x.out + x.out_len + AGENT_HEADER, data, len);
	x.out_len += AGENT_HEADER + len;
}

static void send_queue(void)
{
	ssize_t n = write(x.fd, x.out + x.out_at, x.out_len - x.out_at);

	/* Why it is closed, if it is, the reading side says. */
	if (n < 0)
		return;
	x.out_at += (uint32_t)n;
	if (x.out_at == x.out_len)
		x.out_at = x.out_len = 0;
}

static void hear_signals(void)
{
	struct winsize w;
	uint8_t sig, b[4] = {0};

	while (read(signal_pipe[0], &sig, 1) == 1) {
		if (sig != SIGWINCH) {
			b[0] = sig;
			queue(AGENT_SIGNAL, b, 4);
		} else if (x.args.tty) {
			w = window();
			b[0] = (uint8_t)w.ws_row;
			b[1] = (uint8_t)(w.ws_row >> 8);
			b[2] = (uint8_t)w.ws_col;
			b[3] = (uint8_t)(w.ws_col >> 8);
			queue(AGENT_WINDOW, b, 4);
			b[1] = b[2] = b[3] = 0;
		}
	}
}

/* True when the user wants to leave. */
static bool escaped(const uint8_t *data, ssize_t len)
{
	for (ssize_t i = 0; raw && i < len && x.escapes < 3; i++)
		x.escapes = data[i] == ESCAPE ? x.escapes + 1 : 0;
	return x.escapes >= 3;
}

/* False when the user wants to leave. */
static bool hear_input(void)
{
	uint8_t buf[16384];
	ssize_t n = read(0, buf, MIN(session_room(&x.session), (uint32_t)sizeof(buf)));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return true;
	n = n < 0 ? 0 : n;
	x.input_open = n > 0;
	x.session.unread += (uint32_t)n;
	queue(AGENT_STDIN, buf, (uint32_t)n);
	return !escaped(buf, n);
}

static int print(int fd, const struct frame *f, bool clean, bool *lead, struct err *e)
{
	static uint8_t copy[AGENT_FRAME_MAX];
	uint32_t done = 0;

	memcpy(copy, f->data, f->len);
	if (clean)
		session_clean(copy, f->len, lead);
	while (done < f->len) {
		struct pollfd p = {.fd = fd, .events = POLLOUT};
		ssize_t n = write(fd, copy + done, f->len - done);

		if (n < 0 && errno == EAGAIN)
			(void)poll(&p, 1, -1);
		else if (n < 0 && errno != EINTR)
			return err_sys(e, "standard %s", fd == 1 ? "output" : "error");
		done += n > 0 ? (uint32_t)n : 0;
	}
	return 0;
}

static int not_started(struct err *e)
{
	bool missing = x.session.code == ENOENT || x.session.code == ENOTDIR;

	ctl_fail(x.c, e);
	return missing ? EXEC_NOT_FOUND : EXEC_NO_RUN;
}

static int failed(struct err *e)
{
	ctl_fail(x.c, e);
	return EXEC_FAILED;
}

/* The exit code, or -1 to go on. */
static int act(const struct frame *f)
{
	struct err e;
	int r = 0;

	switch (session_take(&x.session, f, &e)) {
	case SESSION_BROKEN:
		return failed(&e);
	case SESSION_REFUSED:
		return not_started(&e);
	case SESSION_EXITED:
		return x.session.status;
	case SESSION_STARTED:
		x.input_open = x.args.interactive;
		return x.args.detach ? 0 : -1;
	case SESSION_OUTPUT:
		r = print(1, f, x.clean_out, &x.lead_out, &e);
		break;
	case SESSION_ERRORS:
		r = print(2, f, x.clean_err, &x.lead_err, &e);
		break;
	case SESSION_NOTHING:
		break;
	}
	/* Whoever read our output has enough: end as by SIGPIPE, silently. */
	return r == -EPIPE ? 128 + SIGPIPE : r < 0 ? failed(&e) : -1;
}

static int hear_agent(void)
{
	int r = frame_fill(&in, x.fd), code = -1;
	struct frame f;
	struct err e;

	if (r <= 0 && r != -EAGAIN) {
		err_set(&e, ECONNRESET, "the connection to the guest's agent is lost");
		ctl_hint(x.c, "sporectl ps");
		return failed(&e);
	}
	while (code < 0 && (r = frame_next(&in, &f)) > 0)
		code = act(&f);
	if (code < 0 && r < 0) {
		err_set(&e, EPROTO, "the guest's agent breaks the protocol");
		return failed(&e);
	}
	return code;
}

static int converse(void)
{
	int code = -1;

	while (code < 0) {
		bool room = x.input_open && x.out_len == 0 && session_room(&x.session) > 0;
		struct pollfd p[] = {
			{.fd = x.fd, .events = (short)(POLLIN | (x.out_len ? POLLOUT : 0))},
			{.fd = signal_pipe[0], .events = POLLIN},
			{.fd = room ? 0 : -1, .events = POLLIN},
		};

		if (poll(p, 3, -1) < 0)
			continue;
		if (p[1].revents)
			hear_signals();
		if (p[2].revents && !hear_input())
			return EXEC_FAILED;
		if (p[0].revents & ~POLLOUT)
			code = hear_agent();
		if (x.out_len)
			send_queue();
	}
	return code;
}

static int run(char *path, struct err *e)
{
	cleanup_fd int fd = agentio_connect(x.c, path, x.args.wait, e);
	int code;

	if (fd < 0 || catch_signals(e) < 0)
		return failed(e);
	x.fd = fd;
	in.from_agent = true;
	/* Both at once: it is one way less. */
	(void)frame_send_hello(fd);
	(void)frame_write(fd, AGENT_EXEC, request.buf, request.len);
	x.clean_out = !x.args.tty && isatty(1);
	x.clean_err = !x.args.tty && isatty(2);
	if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0) {
		err_sys(e, "the connection");
		return failed(e);
	}
	make_raw();
	code = converse();
	restore_terminal();
	return code;
}

int verb_exec(struct ctl *c, int argc, char **argv)
{
	static const struct ctl_option options[] = {
		{"tty", 't', CTL_FLAG, offsetof(struct args, tty), NULL,
		 "give the command a terminal; Ctrl-] three times leaves it"},
		{"interactive", 'i', CTL_FLAG, offsetof(struct args, interactive), NULL,
		 "send standard input to the command"},
		{"detach", 'd', CTL_FLAG, offsetof(struct args, detach), NULL,
		 "start it and leave it running"},
		{"env", 'e', CTL_LIST, offsetof(struct args, env), "NAME=VALUE",
		 "set it in its environment"},
		{"workdir", 'w', CTL_TEXT, offsetof(struct args, dir), "DIR", "run it there [/]"},
		{"user", 'u', CTL_TEXT, offsetof(struct args, user), "UID[:GID]",
		 "run it as this user, by number [0]"},
		{"wait", 0, CTL_NUMBER, offsetof(struct args, wait), "SECONDS",
		 "how long the guest may take until its agent answers [10]"},
		{0},
	};
	static const struct ctl_usage usage = {
		.arguments = "NAME [--] COMMAND [ARGUMENT...]",
		.options = options,
		.examples = "sporectl exec web -- uname -a\n"
			    "sporectl exec -it web sh\n"
			    "tar -c dir | sporectl exec -i web tar -x -C /srv\n"
			    "# the exit code is the command's, 128 + N if signal N ended it;\n"
			    "# 127: no such command, 126: it cannot be run, 125: sporectl failed\n",
		.min = 2,
		.max = CTL_MANY,
		.no_more_options = true,
	};
	char path[108];
	struct err e;

	x.c = c;
	x.args.wait = AGENTIO_WAIT;
	if (!ctl_parse(c, &usage, &argc, &argv, &x.args))
		return c->exit_code ? EXEC_FAILED : 0;
	if (strcmp(argv[1], "--") == 0 && argc > 2) {
		memmove(argv + 1, argv + 2, (size_t)(argc - 2) * sizeof(*argv));
		argc--;
	}
	if (put_request(argv + 1, argc - 1, &e) < 0 || agentio_find(c, argv[0], path, &e) < 0)
		return failed(&e);
	return run(path, &e);
}
