/* SPDX-License-Identifier: Apache-2.0 */
/*
 * EXEC: a command, its input and output.
 *
 * Nothing here waits for one side only. Input that the command does not read stays in a buffer that
 * the host may not overfill (TAKEN says what is free again), so a signal behind it is always heard.
 * Output is taken from the command only when what was taken before has left for the host.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "ctl/agent/agent.h"

#define WORDS_MAX 4096u
#define CHUNK	  32768u
#define LATE_MAX  (2u << 20)

struct request {
	unsigned flags;
	uid_t uid;
	gid_t gid;
	struct winsize size;
	const char *dir;
	char *argv[WORDS_MAX], *env[WORDS_MAX];
};

struct run {
	int sock;
	bool tty, broken;
	pid_t pid;
	int status; /* of wait(); valid once `ended` */
	bool ended;
	int in, out, err; /* the command's, -1 when closed; of a terminal `in` and `out` are one */
	uint8_t input[AGENT_STDIN_ROOM];
	uint32_t input_len, taken; /* waiting for the command; to be acknowledged */
	bool input_ends;
	uint8_t output[CHUNK + 64];
	uint32_t output_at, output_len; /* waiting for the host */
	uint32_t late;			/* bytes read since the command has ended */
};

static struct request req;
static struct run run;
static int child_pipe[2]; /* the signal handler writes, the loop reads */

static void on_child(int sig)
{
	int saved = errno;

	(void)sig;
	(void)!write(child_pipe[1], "", 1);
	errno = saved;
}

/* --- the request --- */

static bool take_words(struct frame_cursor *c, char **words)
{
	uint32_t n = (uint32_t)frame_number(c, 4);

	if (n >= WORDS_MAX)
		return false;
	for (uint32_t i = 0; i < n; i++)
		words[i] = (char *)(uintptr_t)frame_string(c);
	words[n] = NULL;
	return true;
}

static bool take_request(const struct frame *f)
{
	struct frame_cursor c = frame_open(f);

	req.flags = (unsigned)frame_number(&c, 4);
	req.uid = (uid_t)frame_number(&c, 4);
	req.gid = (gid_t)frame_number(&c, 4);
	req.size.ws_row = (unsigned short)frame_number(&c, 2);
	req.size.ws_col = (unsigned short)frame_number(&c, 2);
	req.dir = frame_string(&c);
	return take_words(&c, req.argv) && take_words(&c, req.env) && frame_closed(&c) &&
	       req.argv[0] && !(req.flags & ~AGENT_EXEC_FLAGS);
}

/* --- starting --- */

/* What the command gets as 0, 1 and 2; the parent's ends are in `run`. 0 or -1, errno set. */
static int open_terminal(int ends[3])
{
	run.in = run.out = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (run.in < 0 || unlockpt(run.in) < 0)
		return -1;
	ends[0] = ends[1] = ends[2] = ioctl(run.in, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	ioctl(run.in, TIOCSWINSZ, &req.size);
	return ends[0] < 0 ? -1 : 0;
}

static int open_pipe(int *ours, int *theirs, bool to_command)
{
	int p[2];

	if (pipe2(p, O_CLOEXEC) < 0)
		return -1;
	*ours = p[to_command];
	*theirs = p[!to_command];
	return fcntl(*ours, F_SETFL, O_NONBLOCK);
}

static int open_ends(int ends[3])
{
	run.in = run.out = run.err = -1;
	if (run.tty)
		return open_terminal(ends);
	ends[0] = ends[1] = ends[2] = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (ends[0] < 0 || req.flags & AGENT_EXEC_DETACH)
		return ends[0] < 0 ? -1 : 0;
	if (req.flags & AGENT_EXEC_STDIN && open_pipe(&run.in, &ends[0], true) < 0)
		return -1;
	return open_pipe(&run.out, &ends[1], false) < 0 ? -1 : open_pipe(&run.err, &ends[2], false);
}

/* In the child. Returns only when something failed: what, with errno set. */
static const char *become(const int ends[3])
{
	sigset_t none;

	setsid();
	for (int i = 0; i < 3; i++)
		if (dup2(ends[i], i) < 0)
			return "input and output";
	if (run.tty && ioctl(0, TIOCSCTTY, 0) < 0)
		return "control the terminal";
	if (chdir(req.dir[0] ? req.dir : "/") < 0)
		return req.dir;
	if ((req.uid || req.gid) &&
	    (setgroups(1, &req.gid) < 0 || setgid(req.gid) < 0 || setuid(req.uid) < 0))
		return "change the user";
	/* Also what was ignored when the agent was started, which a shell could not trap. */
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	environ = req.env;
	execvp(req.argv[0], req.argv);
	return req.argv[0];
}

/* What the child says when it cannot become the command: errno and words. Nothing: it did. */
struct failure {
	int code;
	char what[512];
};

static pid_t start(struct failure *fail)
{
	int ends[3], said[2];
	size_t len = 0;
	ssize_t n;
	pid_t pid;

	*fail = (struct failure){.what = "prepare input and output"};
	if (open_ends(ends) < 0 || pipe2(said, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
		fail->code = errno;
		return -1;
	}
	if (pid == 0) {
		strncpy(fail->what, become(ends), sizeof(fail->what) - 1);
		fail->code = errno;
		(void)!write(said[1], fail, sizeof(*fail));
		_exit(127);
	}
	for (int i = 0; i < 3; i++)
		if (i == 0 || ends[i] != ends[i - 1])
			close(ends[i]);
	close(said[1]);
	while ((n = read(said[0], (char *)fail + len, sizeof(*fail) - len)) > 0 ||
	       (n < 0 && errno == EINTR))
		len += n > 0 ? (size_t)n : 0;
	close(said[0]);
	fail->what[sizeof(fail->what) - 1] = '\0';
	return pid;
}

/* --- while it runs --- */

static void close_input(void)
{
	if (run.tty) {
		/* A terminal has no end of its input; this is how one says it. */
		(void)!write(run.in, "\4", 1);
	} else if (run.in >= 0) {
		close(run.in);
		run.in = -1;
	}
}

static void take_stdin(const struct frame *f)
{
	if (f->len > sizeof(run.input) - run.input_len || run.input_ends) {
		run.broken = true;
		return;
	}
	memcpy(run.input + run.input_len, f->data, f->len);
	run.input_len += f->len;
	if (f->len > 0)
		return;
	run.input_ends = true;
	if (run.input_len == 0)
		close_input();
}

static void take_frame(const struct frame *f)
{
	struct frame_cursor c = frame_open(f);
	int number;

	switch (f->type) {
	case AGENT_STDIN:
		take_stdin(f);
		break;
	case AGENT_WINDOW:
		req.size.ws_row = (unsigned short)frame_number(&c, 2);
		req.size.ws_col = (unsigned short)frame_number(&c, 2);
		if (run.tty)
			ioctl(run.in, TIOCSWINSZ, &req.size);
		break;
	case AGENT_SIGNAL:
		number = (int)frame_number(&c, 4);
		if (number > 0 && number < NSIG)
			kill(-run.pid, number);
		break;
	default:
		run.broken = true;
	}
}

static void hear_host(struct frame_in *in)
{
	struct frame f;
	int r;

	while ((r = frame_next(in, &f)) > 0)
		take_frame(&f);
	run.broken |= r < 0;
}

static void feed_command(void)
{
	ssize_t n = write(run.in, run.input, run.input_len);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	/* It reads no more: what is left is swallowed, so that the host goes on. */
	if (n < 0)
		n = (ssize_t)run.input_len;
	run.taken += (uint32_t)n;
	run.input_len -= (uint32_t)n;
	memmove(run.input, run.input + n, run.input_len);
	if (run.input_len == 0 && run.input_ends)
		close_input();
}

static void queue_frame(enum agent_frame type, uint32_t len)
{
	frame_header(run.output + run.output_len, type, len);
	run.output_len += AGENT_HEADER + len;
}

/* Output of the command into a frame. */
static void hear_command(int *fd, enum agent_frame type)
{
	ssize_t n = read(*fd, run.output + run.output_len + AGENT_HEADER, CHUNK);

	if (n > 0) {
		queue_frame(type, (uint32_t)n);
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		/* EIO of a terminal: nobody has it open. */
		if (!run.tty)
			close(*fd);
		*fd = -1;
	}
}

static void queue_taken(void)
{
	uint8_t *p = run.output + run.output_len + AGENT_HEADER;

	for (unsigned i = 0; i < 4; i++)
		p[i] = (uint8_t)(run.taken >> 8 * i);
	run.taken = 0;
	queue_frame(AGENT_TAKEN, 4);
}

static void tell_host(void)
{
	ssize_t n = write(run.sock, run.output + run.output_at, run.output_len - run.output_at);

	if (n < 0) {
		run.broken |= errno != EAGAIN && errno != EINTR;
		return;
	}
	run.output_at += (uint32_t)n;
	if (run.output_at == run.output_len)
		run.output_at = run.output_len = 0;
}

static void look_for_end(void)
{
	char drop[16];

	while (read(child_pipe[0], drop, sizeof(drop)) > 0)
		;
	if (!run.ended && waitpid(run.pid, &run.status, WNOHANG) == run.pid)
		run.ended = true;
}

/*
 * What it has written before it ended is in the pipes, which hold no more than LATE_MAX; what those
 * that it has left behind write later is not its own.
 */
static void drain_command(void)
{
	if (run.out >= 0)
		hear_command(&run.out, AGENT_STDOUT);
	if (run.output_len == 0 && run.err >= 0)
		hear_command(&run.err, AGENT_STDERR);
	run.late += run.output_len;
	if (run.output_len == 0 || run.late > LATE_MAX)
		run.out = run.err = -1;
}

static bool over(void)
{
	return run.broken ||
	       (run.ended && run.out < 0 && run.err < 0 && run.output_len == 0 && !run.taken);
}

static void turn(struct frame_in *in)
{
	bool idle = run.output_len == 0;
	struct pollfd p[] = {
		{.fd = run.sock, .events = (short)(POLLIN | (idle ? 0 : POLLOUT))},
		{.fd = child_pipe[0], .events = POLLIN},
		{.fd = run.input_len ? run.in : -1, .events = POLLOUT},
		{.fd = idle ? run.out : -1, .events = POLLIN},
		{.fd = idle ? run.err : -1, .events = POLLIN},
	};

	if (poll(p, 5, -1) < 0)
		return;
	if (p[0].revents & (POLLIN | POLLHUP | POLLERR)) {
		int r = frame_fill(in, run.sock);

		/* The host never closes its half before the end: it is gone. */
		run.broken |= r == 0 || (r < 0 && r != -EAGAIN);
		hear_host(in);
	}
	if (p[1].revents)
		look_for_end();
	if (p[2].revents)
		feed_command();
	if (p[3].revents)
		hear_command(&run.out, AGENT_STDOUT);
	if (p[4].revents && run.output_len == 0)
		hear_command(&run.err, AGENT_STDERR);
	if (run.output_len > 0)
		tell_host();
}

static void serve_run(struct frame_in *in)
{
	hear_host(in);
	for (;;) {
		if (run.output_len == 0 && run.ended)
			drain_command();
		if (run.output_len == 0 && run.taken)
			queue_taken();
		if (over())
			return;
		turn(in);
	}
}

static void tell_end(void)
{
	uint8_t how[2] = {WIFSIGNALED(run.status),
			  (uint8_t)(WIFSIGNALED(run.status) ? WTERMSIG(run.status)
							    : WEXITSTATUS(run.status))};

	(void)fcntl(run.sock, F_SETFL, 0);
	(void)frame_write(run.sock, AGENT_EXITED, how, sizeof(how));
}

void exec_serve(int sock, struct frame_in *in, const struct frame *f)
{
	struct sigaction sa = {.sa_handler = on_child, .sa_flags = SA_NOCLDSTOP | SA_RESTART};
	struct failure fail;
	uint8_t pid[4];

	if (!take_request(f) || pipe2(child_pipe, O_CLOEXEC | O_NONBLOCK) < 0)
		return;
	run.sock = sock;
	run.tty = (req.flags & (AGENT_EXEC_TTY | AGENT_EXEC_DETACH)) == AGENT_EXEC_TTY;
	sigaction(SIGCHLD, &sa, NULL);
	run.pid = start(&fail);
	if (fail.code) {
		serve_error(sock, fail.code, fail.what);
		return;
	}
	for (unsigned i = 0; i < 4; i++)
		pid[i] = (uint8_t)((uint32_t)run.pid >> 8 * i);
	run.broken = frame_write(sock, AGENT_STARTED, pid, sizeof(pid)) < 0;
	if (req.flags & AGENT_EXEC_DETACH)
		return;
	(void)fcntl(sock, F_SETFL, O_NONBLOCK);
	serve_run(in);
	if (run.ended)
		tell_end();
	else
		kill(-run.pid, SIGHUP);
}
