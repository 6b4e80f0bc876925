/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "ctl/tool.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/progress.h"
#include "vmm/base/fd.h"

#define CROSS	   "\xe2\xa8\xaf " /* umoci's, before an error */
#define ADMIN_PATH ":/usr/local/sbin:/usr/sbin:/sbin"

struct running {
	const struct tool *t;
	struct progress progress;
	pid_t pid;
	int said, pidfd; /* its errors, its end */
	char line[440];	 /* the last whole one that said something */
	char why[440];	 /* and that is worth to be an error */
	char next[440];	 /* the one that has begun */
	size_t next_len;
	size_t output_len; /* of t->output */
	int output;	   /* the reading end, or -1 */
	uint64_t ask_ns;   /* when allowed() is asked again */
	int refused;	   /* what it said, and why */
	struct err refusal;
};

/* --- signals: only while a program runs --- */

static volatile sig_atomic_t interrupted;
static volatile sig_atomic_t
	child; /* the leader of a process group: fakeroot is a script that waits */

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

static void on_signal(int sig)
{
	interrupted = sig;
	if (child)
		kill(-(pid_t)child, sig);
}

static void catch_signals(struct sigaction before[ARRAY_SIZE(signals)])
{
	const struct sigaction sa = {.sa_handler = on_signal};

	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &sa, &before[i]);
}

static void release_signals(const struct sigaction before[ARRAY_SIZE(signals)])
{
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &before[i], NULL);
}

/* --- the line --- */

uint64_t tool_offset(void *arg)
{
	off_t at = lseek(*(const int *)arg, 0, SEEK_CUR);

	return at > 0 ? (uint64_t)at : 0;
}

uint64_t tool_blocks(void *arg)
{
	struct stat st;

	return stat(arg, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

static void show(struct running *r)
{
	double seconds = (double)(now_ns() - r->progress.start_ns) / 1e9;
	char line[sizeof(r->line)], all[sizeof(r->line) + 80];

	if (r->t->done || !r->progress.shown) {
		progress_update(&r->progress, r->t->done ? r->t->done(r->t->arg) : 0);
		return;
	}
	memcpy(line, r->line, sizeof(line));
	err_clean_text(line);
	r->progress.drawn_ns = now_ns();
	snprintf(all, sizeof(all), "%s  %.0fs  %s", r->progress.title, seconds, line);
	fprintf(stderr, "\r%.79s\033[K", all);
}

/* --- what it says --- */

/* mmdebstrap's progress, warnings of all, and tar about what it makes harmless. */
static bool is_remark(const char *line)
{
	return strncmp(line, "I: ", 3) == 0 || strncmp(line, "W: ", 3) == 0 ||
	       strstr(line, "arning") || strstr(line, "Removing leading");
}

/* The words between what skopeo and umoci decorate them with. */
static void copy_words(char *to, const char *line)
{
	const char *msg = strstr(line, "level=fatal msg=\"");

	if (msg)
		line = strchr(msg, '"') + 1;
	line += strspn(line, " \t");
	if (strncmp(line, CROSS, strlen(CROSS)) == 0)
		line += strlen(CROSS);
	strcpy(to, line);
	if (msg && to[0] && to[strlen(to) - 1] == '"')
		to[strlen(to) - 1] = '\0';
}

static void take_text(struct running *r, const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		bool end = text[i] == '\n' || text[i] == '\r';

		if (!end && r->next_len < sizeof(r->next) - 1)
			r->next[r->next_len++] = text[i];
		if (!end)
			continue;
		r->next[r->next_len] = '\0';
		r->next_len = 0;
		if (!r->next[strspn(r->next, " \t")])
			continue;
		memcpy(r->line, r->next, sizeof(r->line));
		/* What went wrong at first: the rest is consequences, and how it cleans up. */
		if (!r->why[0] && !is_remark(r->line))
			copy_words(r->why, r->line);
	}
}

/* False at the end. */
static bool hear(struct running *r)
{
	char buf[4096];
	ssize_t n = read(r->said, buf, sizeof(buf));

	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	take_text(r, buf, (size_t)n);
	return n > 0;
}

static bool hear_output(struct running *r)
{
	char buf[4096];
	ssize_t n = read(r->output, buf, sizeof(buf));
	size_t room = r->t->size - 1 - r->output_len;

	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	memcpy(r->t->output + r->output_len, buf, MIN((size_t)n, room));
	r->output_len += MIN((size_t)n, room);
	r->t->output[r->output_len] = '\0';
	return n > 0;
}

/* --- a run --- */

_Noreturn static void become(const struct tool *t, const char *const *argv, int out, int said)
{
	const char *path = getenv("PATH"), *args[TOOL_ARGS + 8];
	char full[4096];
	size_t n = 0;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	assert(argv[0]);
	setpgid(0, 0);
	dup2(t->in > 0 ? t->in : null, STDIN_FILENO);
	dup2(out >= 0 ? out : t->out > 0 ? t->out : null, STDOUT_FILENO);
	dup2(said, STDERR_FILENO);
	if (t->dir && chdir(t->dir) < 0)
		goto fail;
	snprintf(full, sizeof(full), "%.3900s%s", path ? path : "/usr/bin:/bin", ADMIN_PATH);
	setenv("PATH", full, 1);
	setenv("LC_ALL", "C.UTF-8", 1);
	signal(SIGPIPE, SIG_DFL);
	if (t->fakeroot) {
		const char *const wrap[] = {"fakeroot", "-i", t->fakeroot, "-s", t->fakeroot, "--"};

		memcpy(args, wrap, sizeof(wrap));
		n = ARRAY_SIZE(wrap);
	}
	for (size_t i = 0; argv[i] && i < TOOL_ARGS; i++)
		args[n++] = argv[i];
	args[n] = NULL;
	execvp(t->fakeroot ? "fakeroot" : argv[0], (char **)(uintptr_t)args);
fail:
	if (errno == ENOENT)
		_exit(127);
	dprintf(STDERR_FILENO, "%s: %s\n", argv[0], strerror(errno));
	_exit(126);
}

/* The reading ends are for us, the writing ends for the program. */
static int start(struct running *r, const char *const *argv, struct err *e)
{
	int said[2], output[2] = {-1, -1};

	if (pipe2(said, O_CLOEXEC) < 0 || (r->t->output && pipe2(output, O_CLOEXEC) < 0))
		return err_sys(e, "make a pipe");
	fflush(NULL);
	interrupted = 0;
	r->pid = fork();
	if (r->pid == 0)
		become(r->t, argv, output[1], said[1]);
	if (r->pid > 0)
		setpgid(r->pid, r->pid);
	child = r->pid > 0 ? r->pid : 0;
	close(said[1]);
	if (output[1] >= 0)
		close(output[1]);
	r->said = said[0];
	r->output = output[0];
	if (r->pid < 0)
		return err_sys(e, "fork");
	r->pidfd = (int)syscall(SYS_pidfd_open, r->pid, 0);
	return 0;
}

/* Asking takes a tenth of the time at most. */
static void ask(struct running *r)
{
	uint64_t now = now_ns();

	if (!r->t->allowed || r->refused < 0 || now < r->ask_ns)
		return;
	r->refused = r->t->allowed(r->t->allowed_arg, &r->refusal);
	if (r->refused < 0)
		kill(-r->pid, SIGTERM);
	r->ask_ns = now_ns() + 100000000 + 9 * (now_ns() - now);
}

/* Until it has ended, whatever it has left in the background. */
static int attend(struct running *r)
{
	int status;

	for (bool over = false; !over;) {
		struct pollfd p[] = {{.fd = r->said, .events = POLLIN},
				     {.fd = r->output, .events = POLLIN},
				     {.fd = r->pidfd, .events = POLLIN}};

		if (poll(p, ARRAY_SIZE(p), 200) < 0)
			continue;
		if (p[0].revents && !hear(r))
			fd_close(&r->said);
		if (p[1].revents && !hear_output(r))
			fd_close(&r->output);
		over = p[2].revents && !(p[0].revents & POLLIN) && !(p[1].revents & POLLIN);
		if (!over)
			ask(r);
		show(r);
	}
	while (waitpid(r->pid, &status, 0) < 0 && errno == EINTR)
		;
	child = 0;
	/* What it was to end with it may still be writing where its work is removed next. */
	for (int i = 0; (interrupted || r->refused < 0) && i < 200 && kill(-r->pid, 0) == 0; i++)
		poll(NULL, 0, 10);
	take_text(r, "\n", 1);
	return status;
}

static int judge(struct ctl *c, const struct running *r, const char *program, int status,
		 struct err *e)
{
	if (interrupted) {
		ctl_hint(c, "the same again: nothing was left behind");
		return err_set(e, EINTR, "interrupted");
	}
	if (r->refused < 0) {
		*e = r->refusal;
		return r->refused;
	}
	if (status == 0)
		return 0;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127 && !r->why[0]) {
		ctl_hint(c, "sudo apt-get install %s",
			 r->t->fakeroot	 ? "fakeroot"
			 : r->t->package ? r->t->package
					 : program);
		return err_set(e, ENOENT, "the program '%s' is not installed", program);
	}
	if (WIFSIGNALED(status))
		return err_set(e, ECHILD, "%s was ended by signal %d", program, WTERMSIG(status));
	if (strncmp(r->why, program, strlen(program)) == 0)
		return err_set(e, ECHILD, "%s", r->why);
	return err_set(e, ECHILD, "%s: %s", program, r->why[0] ? r->why : "failed without a word");
}

int tool_run(struct ctl *c, const struct tool *t, const char *const *argv, struct err *e)
{
	struct running r = {.t = t, .said = -1, .output = -1, .pidfd = -1};
	struct sigaction before[ARRAY_SIZE(signals)];
	int status, ret;

	if (t->output)
		t->output[0] = '\0';
	progress_begin(&r.progress, c, t->title ? t->title : argv[0], t->total);
	if (!t->title)
		r.progress.shown = false;
	catch_signals(before);
	ret = start(&r, argv, e);
	if (ret == 0) {
		status = attend(&r);
		ret = judge(c, &r, argv[0], status, e);
	}
	release_signals(before);
	progress_end(&r.progress);
	fd_close(&r.said);
	fd_close(&r.output);
	fd_close(&r.pidfd);
	return ret;
}
