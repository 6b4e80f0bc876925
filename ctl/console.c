/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "ctl/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "vmm/base/fd.h"

#define DETACH_KEY 0x1d /* Ctrl-] */

struct attached {
	struct ctl *c;
	const struct vms_vm *vm;
	struct console_end *end;
	int socket, signals, pidfd;
	bool owner, over;
	bool keys;	/* standard input is read */
	unsigned asked; /* how often somebody wanted it to end */
};

/* --- terminal; signal handlers have to reach it --- */

static struct termios saved;
static volatile sig_atomic_t is_raw;

static void make_raw(void)
{
	struct termios raw;

	if (!isatty(STDIN_FILENO) || tcgetpgrp(STDIN_FILENO) != getpgrp() ||
	    (!is_raw && tcgetattr(STDIN_FILENO, &saved) < 0))
		return;
	raw = saved;
	cfmakeraw(&raw);
	raw.c_oflag = saved.c_oflag; /* the guest's line feeds, and our own lines */
	is_raw = 1;
	tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
}

/* Async-signal-safe. */
static void make_cooked(void)
{
	if (is_raw)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &saved);
	is_raw = 0;
}

static void on_crash(int sig)
{
	make_cooked();
	raise(sig); /* SA_RESETHAND */
}

/* Those that end a process are read in the loop; SIGCONT: the shell has changed the terminal. */
static int watch_signals(sigset_t *before)
{
	static const int crashes[] = {SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE};
	struct sigaction sa = {.sa_handler = on_crash,
			       .sa_flags = (int)(SA_RESETHAND | SA_NODEFER)};
	sigset_t set;

	for (size_t i = 0; i < ARRAY_SIZE(crashes); i++)
		sigaction(crashes[i], &sa, NULL);
	signal(SIGTTOU, SIG_IGN); /* giving the terminal back from the background */
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGQUIT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGTSTP);
	sigaddset(&set, SIGCONT);
	sigprocmask(SIG_BLOCK, &set, before);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* --- the two directions --- */

static void leave(struct attached *a, enum console_left how)
{
	a->end->how = how;
	a->over = true;
}

/* False when it has to be tried again later; then nothing is read from standard input. */
static void send_keys(struct attached *a)
{
	char message[1024] = {CONSOLE_DATA};
	ssize_t n = read(STDIN_FILENO, message + 1, sizeof(message) - 1);
	char *detach;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		a->keys = false; /* the end of a file is no key */
		return;
	}
	detach = is_raw ? memchr(message + 1, DETACH_KEY, (size_t)n) : NULL;
	if (detach)
		n = detach - message - 1;
	if (n > 0 && send(a->socket, message, (size_t)n + 1, MSG_NOSIGNAL) < 0)
		a->keys = false; /* reading the socket tells why */
	if (detach)
		leave(a, CONSOLE_DETACHED);
}

static void show_end(struct attached *a, const char *text)
{
	char *rest;

	a->end->status = (int)strtol(text, &rest, 10);
	snprintf(a->end->reason, sizeof(a->end->reason), "%s", *rest == ' ' ? rest + 1 : rest);
	leave(a, CONSOLE_ENDED);
}

static int receive(struct attached *a, struct err *e)
{
	char message[CONSOLE_MESSAGE + 1];
	ssize_t n = recv(a->socket, message, CONSOLE_MESSAGE, MSG_DONTWAIT);
	char status[24];

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n > 0) {
		message[n] = '\0';
		if (message[0] == CONSOLE_END)
			show_end(a, message + 1);
		else if (fd_write_full(STDOUT_FILENO, message + 1, (size_t)n - 1) < 0)
			return err_sys(e, "standard output");
		return 0;
	}
	/* The holder had no room for the last message, or is gone. */
	if (!vms_alive(a->vm) && vms_read(a->vm, "status", status, sizeof(status))) {
		show_end(a, status);
		return 0;
	}
	ctl_hint(a->c, "sporectl ps");
	return err_set(e, ECONNRESET, "the console of '%s' is gone", a->vm->name);
}

static void ask_to_end(struct attached *a)
{
	/* Who asks twice does not want to wait. */
	if (a->pidfd >= 0)
		syscall(SYS_pidfd_send_signal, a->pidfd, a->asked++ ? SIGKILL : SIGTERM, NULL, 0);
}

static void take_signal(struct attached *a)
{
	struct signalfd_siginfo info;

	if (read(a->signals, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGCONT)
		make_raw();
	else if (info.ssi_signo == SIGTSTP)
		return; /* a stopped client would leave the terminal raw */
	else if (info.ssi_signo == SIGHUP || !a->owner)
		leave(a, CONSOLE_DETACHED);
	else
		ask_to_end(a);
}

static int run(struct attached *a, struct err *e)
{
	int r = 0;

	while (r == 0 && !a->over) {
		struct pollfd p[] = {
			{.fd = a->socket, .events = POLLIN},
			{.fd = a->signals, .events = POLLIN},
			{.fd = a->keys ? STDIN_FILENO : -1, .events = POLLIN},
		};

		if (poll(p, ARRAY_SIZE(p), -1) < 0)
			continue;
		if (p[1].revents)
			take_signal(a);
		if (p[0].revents)
			r = receive(a, e);
		if (p[2].revents && !a->over)
			send_keys(a);
	}
	return r;
}

int console_connect(const struct vms_vm *vm, struct err *e)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	vms_path(vm, "console.sock", addr.sun_path);
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		int r = err_sys(e, "console '%s'", addr.sun_path);

		fd_close(&fd);
		return r;
	}
	return fd;
}

int console_holder(const struct vms_vm *vm)
{
	cleanup_fd int fd = console_connect(vm, NULL);
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return -1;
	return (int)syscall(SYS_pidfd_open, peer.pid, 0);
}

int console_attach(struct ctl *c, const struct vms_vm *vm, int own, struct console_end *end,
		   struct err *e)
{
	bool owner = own >= 0;
	char hello = owner ? CONSOLE_ALL : CONSOLE_TAIL;
	struct attached a = {.c = c, .vm = vm, .end = end, .owner = owner, .keys = true};
	sigset_t before;
	int r;

	*end = (struct console_end){0};
	a.socket = owner ? own : console_connect(vm, e);
	if (a.socket < 0) {
		ctl_hint(c, "sporectl logs %s", vm->name);
		return a.socket;
	}
	a.pidfd = owner ? vms_pidfd(vm, NULL, NULL) : -1;
	a.signals = watch_signals(&before);
	/* In the background reading would stop us. */
	if (isatty(STDIN_FILENO) && tcgetpgrp(STDIN_FILENO) != getpgrp())
		a.keys = false;
	make_raw();
	if (is_raw)
		ctl_note(c, "%s: Ctrl-] detaches\r", vm->name);
	r = send(a.socket, &hello, 1, MSG_NOSIGNAL) == 1 ? run(&a, e) : receive(&a, e);
	make_cooked();
	sigprocmask(SIG_SETMASK, &before, NULL);
	fd_close(&a.socket);
	fd_close(&a.signals);
	fd_close(&a.pidfd);
	return r;
}
