/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "ctl/pool_shell.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/base/fd.h"

#define RETRY_NS     2000000
/* From start to ready. */
#define START_NS     30000000000u
/* After so many shells that did not start in a row, one is tried with each claim only. */
#define FAILURES_MAX 3
#define ARGV_MAX     96

extern char **environ;

/* --- start --- */

struct command {
	char *argv[ARGV_MAX];
	unsigned count;
	char text[24][128]; /* made for it */
	unsigned texts;
};

static void add(struct command *c, const char *word)
{
	if (c->count < ARGV_MAX - 1)
		c->argv[c->count++] = (char *)(uintptr_t)word;
}

static const char *keep(struct command *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
static const char *keep(struct command *c, const char *fmt, ...)
{
	char *text = c->text[c->texts++ % ARRAY_SIZE(c->text)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(c->text[0]), fmt, ap);
	va_end(ap);
	return text;
}

static void add_jail(struct command *c, const struct pool_shell *s, char *bind, size_t size)
{
	const struct pool_config *p = s->pool->config;

	add(c, p->jailer);
	add(c, "--id");
	add(c, s->vm.name + 1);
	add(c, "--exec-file");
	add(c, p->spore);
	add(c, "--uid");
	add(c, keep(c, "%llu", (unsigned long long)p->uid));
	add(c, "--gid");
	add(c, keep(c, "%llu", (unsigned long long)p->gid));
	add(c, "--chroot-base-dir");
	add(c, p->jail_base);
	add(c, "--tmpfs-root");
	add(c, "--bind");
	add(c, keep(c, "%s:" POOL_INSIDE ":rw", s->vm.dir));
	snprintf(bind, size, "%s:%s", p->snapshot ? p->snapshot : "",
		 p->snapshot ? p->snapshot : "");
	if (p->snapshot) {
		add(c, "--bind");
		add(c, bind);
	}
	for (unsigned i = 0; i < p->binds->count; i++) {
		add(c, "--bind");
		add(c, p->binds->item[i]);
	}
	for (unsigned i = 0; i < p->jail_options->count; i++)
		add(c, p->jail_options->item[i]);
	add(c, "--");
}

static int spawn(struct pool_shell *s, int lock, struct err *e)
{
	const struct pool_config *p = s->pool->config;
	struct command c = {0};
	const char *dir = p->jailer ? POOL_INSIDE : s->vm.dir;
	char bind[2 * PATH_MAX + 2];
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int r;

	if (p->jailer)
		add_jail(&c, s, bind, sizeof(bind));
	else
		add(&c, p->spore);
	if (!p->jailer) {
		add(&c, "--id"); /* the jailer tells its own */
		add(&c, s->vm.name + 1);
	}
	add(&c, "--api-sock");
	add(&c, keep(&c, "%s/api.sock", dir));
	add(&c, "--log-path");
	add(&c, keep(&c, "%s/spore.log", dir));
	add(&c, "--http-api-max-payload-size");
	add(&c, "1048576");
	add(&c, "--shell");
	add(&c, p->shell);
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&files);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
						POSIX_SPAWN_SETSID);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_RDWR, 0);
	/* What it holds open as long as it lives, in a jail too: the lock is its standard error. */
	posix_spawn_file_actions_adddup2(&files, lock, STDERR_FILENO);
	r = posix_spawnp(&s->pid, c.argv[0], &files, &attr, c.argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	return r ? err_set(e, r, "execute '%s': %s", c.argv[0], strerror(r)) : 0;
}

static int write_pid(const struct pool_shell *s, struct err *e)
{
	char text[16];

	snprintf(text, sizeof(text), "%d\n", (int)s->pid);
	return vms_write(&s->vm, "pid", text, e);
}

static int shell_start(struct pool *p, struct err *e)
{
	struct pool_shell *s = calloc(1, sizeof(*s));
	cleanup_fd int lock = -1;
	int r;

	if (!s)
		return err_set(e, ENOMEM, "out of memory");
	s->pool = p;
	s->api.fd = -1;
	s->number = p->next_number++;
	s->began_ns = now_ns();
	lock = vms_create_nameless(p->config->c, s->number, &s->vm, e);
	r = lock < 0 ? lock : 0;
	/* It makes files there, and cannot touch ours: what is in "pid" is believed. */
	if (r == 0 && p->config->jailer &&
	    (chown(s->vm.dir, (uid_t)-1, (gid_t)p->config->gid) < 0 || chmod(s->vm.dir, 01770) < 0))
		r = err_sys(e, "let the jail's group into '%s'", s->vm.dir);
	if (r == 0)
		r = spawn(s, lock, e);
	if (r < 0) {
		if (lock >= 0)
			vms_remove(&s->vm, NULL);
		free(s);
		return r;
	}
	s->next = p->all;
	p->all = s;
	p->count[SHELL_STARTING]++;
	if (write_pid(s, e) < 0) {
		pool_drop(s);
		return -e->code;
	}
	return 0;
}

/* --- from start to ready --- */

static void try_one(struct pool_shell *s)
{
	siginfo_t info = {0};
	struct err e;

	if (now_ns() - s->began_ns > START_NS) {
		shell_conclude(s, "the shell did not become ready in time");
	} else if (s->state == SHELL_STARTING &&
		   waitid(P_PID, (id_t)s->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
		   info.si_pid) {
		shell_ended(s);
	} else if (s->state == SHELL_STARTING && shell_connect(s, &e) < 0) {
		shell_conclude(s, e.msg);
	}
}

static void try_all(struct loop_source *source, uint32_t events)
{
	struct pool *p = source->arg;
	uint64_t ticks;

	(void)events;
	if (read(source->fd, &ticks, sizeof(ticks)) < 0)
		return;
	for (struct pool_shell *s = p->all; s; s = s->next)
		if (s->state == SHELL_STARTING || s->state == SHELL_PRIMING)
			try_one(s);
}

static void watch_starting(struct pool *p)
{
	struct itimerspec t = {0};

	if (p->count[SHELL_STARTING] + p->count[SHELL_PRIMING])
		t.it_value.tv_nsec = t.it_interval.tv_nsec = RETRY_NS;
	timerfd_settime(p->retry.fd, 0, &t, NULL);
}

void pool_try_again(struct pool *p)
{
	p->failures = MIN(p->failures, FAILURES_MAX - 1u);
}

void pool_fill(struct pool *p)
{
	const struct pool_config *c = p->config;
	unsigned starting = p->count[SHELL_STARTING] + p->count[SHELL_PRIMING];
	struct err e;

	for (; starting < c->fill && starting + p->count[SHELL_READY] < c->size &&
	       p->failures < FAILURES_MAX;
	     starting++) {
		if (shell_start(p, &e) < 0) {
			p->failures++;
			snprintf(p->last_error, sizeof(p->last_error), "%.255s", e.msg);
		}
	}
	watch_starting(p);
}

/* --- the pool --- */

int pool_init(struct pool *p, const struct pool_config *config, struct err *e)
{
	int r;

	*p = (struct pool){.config = config};
	vms_sweep(config->c);
	r = loop_init(&p->loop, e);
	if (r < 0)
		return r;
	p->retry = (struct loop_source){
		.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK),
		.ready = try_all,
		.arg = p,
	};
	return p->retry.fd < 0 ? err_sys(e, "make a timer")
			       : loop_add(&p->loop, &p->retry, EPOLLIN, e);
}

void pool_turn(struct pool *p, int ms)
{
	loop_run_once(&p->loop, ms);
}

struct pool_shell *pool_take(struct pool *p)
{
	for (struct pool_shell *s = p->all; s; s = s->next)
		if (s->state == SHELL_READY)
			return s;
	return NULL;
}

/* A jail leaves a directory; what removes it is another child of ours. */
static void clean_jail(const struct pool_shell *s)
{
	const struct pool_config *p = s->pool->config;
	struct command c = {0};
	pid_t pid;

	add(&c, p->jailer);
	add(&c, "--cleanup");
	add(&c, "--id");
	add(&c, keep(&c, "shell-%d-%u", (int)getpid(), s->number));
	add(&c, "--exec-file");
	add(&c, p->spore);
	add(&c, "--uid");
	add(&c, keep(&c, "%llu", (unsigned long long)p->uid));
	add(&c, "--gid");
	add(&c, keep(&c, "%llu", (unsigned long long)p->gid));
	add(&c, "--chroot-base-dir");
	add(&c, p->jail_base);
	posix_spawnp(&pid, c.argv[0], NULL, NULL, c.argv, environ);
}

bool pool_reap(struct pool *p)
{
	struct err e;
	pid_t pid = waitpid(-1, NULL, WNOHANG);

	if (pid <= 0)
		return false;
	for (struct pool_shell **at = &p->all; *at; at = &(*at)->next) {
		struct pool_shell *s = *at;

		if (s->pid != pid)
			continue;
		s->pid = 0; /* somebody else's from now on */
		if (s->state != SHELL_DEAD && s->state != SHELL_CLONE)
			shell_ended(s);
		vms_remove(&s->vm, &e);
		if (p->config->jailer)
			clean_jail(s);
		p->count[s->state]--;
		*at = s->next;
		free(s);
		break;
	}
	return true;
}

void pool_finish(struct pool *p)
{
	for (struct pool_shell *s = p->all; s; s = s->next)
		if (s->state != SHELL_CLONE)
			pool_drop(s);
	while (p->count[SHELL_DEAD]) {
		siginfo_t info;

		if (waitid(P_ALL, 0, &info, WEXITED | WNOWAIT) < 0 && errno != EINTR)
			break;
		pool_reap(p);
	}
	while (p->all) {
		struct pool_shell *s = p->all;

		p->all = s->next;
		free(s);
	}
	loop_del(&p->loop, &p->retry);
	fd_close(&p->retry.fd);
	loop_finish(&p->loop);
}
