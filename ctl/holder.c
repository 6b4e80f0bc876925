/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/console.h"
#include "vmm/base/fd.h"

#define TAIL	  2048u /* bytes that are shown to who attaches later */
/* How long the end waits for clients that do not read. */
#define LINGER_MS 5000

struct client {
	int fd; /* -1: free */
	bool greeted;
	uint64_t at; /* of the log file, what it gets next */
};

struct holder {
	struct holder_config *config;
	pid_t spore;
	int in, out; /* spore's standard input and output */
	int log, listen;
	uint64_t log_size;
	struct client client[CONSOLE_CLIENTS];
	char keys[CONSOLE_MESSAGE]; /* for the guest, which has not taken them */
	size_t key_count;
};

/* --- start --- */

/* Descriptors of whoever started us must not stay open: a pipe's reader would wait for our end. */
static void close_others(int *a, int *b)
{
	int low = fcntl(*a, F_DUPFD_CLOEXEC, 100), high = fcntl(*b, F_DUPFD_CLOEXEC, low + 1);

	if (low < 0 || high < 0)
		_exit(CTL_FAILED);
	close_range(3, (unsigned)low - 1, 0);
	if (high > low + 1)
		close_range((unsigned)low + 1, (unsigned)high - 1, 0);
	close_range((unsigned)high + 1, ~0u, 0);
	*a = low;
	*b = high;
}

static int open_file(const struct vms_vm *vm, const char *file)
{
	char path[VMS_PATH_MAX];

	vms_path(vm, file, path);
	return open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
}

static int open_listener(const struct vms_vm *vm)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	vms_path(vm, "console.sock", addr.sun_path);
	/* The directory is ours alone. */
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 8) < 0)
		fd_close(&fd);
	return fd;
}

/* Between fork and exec; the pid is known before anybody can be told that spore is ready. */
_Noreturn static void become_spore(struct holder_config *config, int in, int out)
{
	char text[16];
	struct err e;

	snprintf(text, sizeof(text), "%d\n", (int)getpid());
	if (vms_write(&config->vm, "pid", text, &e) < 0)
		_exit(CTL_FAILED);
	dup2(in, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
	snprintf(config->ready, sizeof(config->ready), "%d", config->ready_fd);
	fcntl(config->lock_fd, F_SETFD, 0);
	fcntl(config->ready_fd, F_SETFD, 0);
	execvp(config->command[0], config->command);
	dprintf(STDERR_FILENO, "spore: cannot execute '%s': %s\n", config->command[0],
		strerror(errno));
	_exit(127);
}

static bool start_spore(struct holder *h)
{
	int in[2], out[2];

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0)
		return false;
	h->spore = fork();
	if (h->spore == 0)
		become_spore(h->config, in[0], out[1]);
	close(in[0]);
	close(out[1]);
	h->in = in[1];
	h->out = out[0];
	fcntl(h->in, F_SETFL, O_NONBLOCK);
	fcntl(h->out, F_SETFL, O_NONBLOCK);
	return h->spore > 0;
}

/* --- clients --- */

static void drop(struct client *k)
{
	fd_close(&k->fd);
}

static void accept_client(struct holder *h)
{
	int fd = accept4(h->listen, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	for (size_t i = 0; i < CONSOLE_CLIENTS; i++) {
		if (h->client[i].fd < 0) {
			h->client[i] = (struct client){.fd = TAKE_FD(fd)};
			return;
		}
	}
	fd_close(&fd);
}

/* A guest may end before anybody had the time to look: who wants to see it comes first. */
static void wait_for_client(struct holder *h)
{
	struct pollfd p = {.fd = h->listen, .events = POLLIN};

	if (write(h->config->ready_fd, "", 1) == 1 && poll(&p, 1, LINGER_MS) == 1)
		accept_client(h);
}

/* One message, or as much as it takes now. False when it has all there is. */
static bool feed(struct holder *h, struct client *k)
{
	char message[CONSOLE_MESSAGE] = {CONSOLE_DATA};
	ssize_t n;

	if (k->fd < 0 || !k->greeted || k->at >= h->log_size)
		return false;
	n = pread(h->log, message + 1, sizeof(message) - 1, (off_t)k->at);
	if (n <= 0) {
		k->at = h->log_size; /* somebody has cut the file short */
		return false;
	}
	if (send(k->fd, message, (size_t)n + 1, MSG_NOSIGNAL) < 0) {
		if (errno != EAGAIN && errno != EINTR)
			drop(k);
		return false;
	}
	k->at += (uint64_t)n;
	return true;
}

static void read_client(struct holder *h, struct client *k)
{
	char message[CONSOLE_MESSAGE];
	ssize_t n = recv(k->fd, message, sizeof(message), 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		drop(k);
		return;
	}
	if (message[0] == CONSOLE_DATA) {
		/* The buffer is empty whenever a client is read. */
		memcpy(h->keys, message + 1, (size_t)n - 1);
		h->key_count = (size_t)n - 1;
	} else {
		k->greeted = true;
		k->at = message[0] == CONSOLE_TAIL && h->log_size > TAIL ? h->log_size - TAIL : 0;
	}
}

/* --- the guest --- */

static void give_keys(struct holder *h)
{
	ssize_t n = h->key_count ? write(h->in, h->keys, h->key_count) : 0;

	if (n < 0 && errno != EAGAIN && errno != EINTR)
		n = (ssize_t)h->key_count; /* nobody reads them any more */
	if (n <= 0)
		return;
	h->key_count -= (size_t)n;
	memmove(h->keys, h->keys + n, h->key_count);
}

/* The file may lie in memory (/run), and a guest can print for ever. */
static void rotate(struct holder *h)
{
	char path[VMS_PATH_MAX], old[VMS_PATH_MAX];
	int fd;

	for (size_t i = 0; i < CONSOLE_CLIENTS; i++) {
		while (feed(h, &h->client[i]))
			;
		h->client[i].at = 0;
	}
	vms_path(&h->config->vm, "console.log", path);
	vms_path(&h->config->vm, "console.log.old", old);
	rename(path, old);
	fd = open_file(&h->config->vm, "console.log");
	if (fd >= 0) {
		close(h->log);
		h->log = fd;
		h->log_size = 0;
	}
}

/* False at the end of what the guest prints, and when there is nothing now. */
static bool read_guest(struct holder *h)
{
	char buf[CONSOLE_MESSAGE];
	ssize_t n = h->out >= 0 ? read(h->out, buf, sizeof(buf)) : 0;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		fd_close(&h->out);
		return false;
	}
	if (h->log_size > CONSOLE_LOG_MAX)
		rotate(h);
	if (fd_write_full(h->log, buf, (size_t)n) == 0)
		h->log_size += (uint64_t)n;
	return true;
}

/* --- the loop --- */

/* Waits for anything to do, up to `ms`; the clients only when `ending`. False after that time. */
static bool turn(struct holder *h, int pidfd, int ms)
{
	struct pollfd p[4 + CONSOLE_CLIENTS] = {
		{.fd = h->out, .events = POLLIN},
		{.fd = h->key_count ? h->in : -1, .events = POLLOUT},
		{.fd = h->listen, .events = POLLIN},
		{.fd = pidfd, .events = POLLIN},
	};

	for (size_t i = 0; i < CONSOLE_CLIENTS; i++) {
		const struct client *k = &h->client[i];
		int in = h->key_count ? 0 : POLLIN;
		int out = k->greeted && k->at < h->log_size ? POLLOUT : 0;

		p[4 + i].fd = in | out ? k->fd : -1; /* else POLLHUP would come all the time */
		p[4 + i].events = (short)(in | out);
	}
	if (poll(p, ARRAY_SIZE(p), ms) == 0)
		return false;
	if (p[0].revents)
		read_guest(h);
	if (p[1].revents)
		give_keys(h);
	if (p[2].revents)
		accept_client(h);
	for (size_t i = 0; i < CONSOLE_CLIENTS; i++) {
		struct client *k = &h->client[i];

		if (p[4 + i].fd < 0 || k->fd != p[4 + i].fd)
			continue;
		if (p[4 + i].revents & (POLLIN | POLLHUP | POLLERR) && !h->key_count)
			read_client(h, k);
		feed(h, k);
	}
	return !(p[3].revents & POLLIN);
}

/* The last line that spore has written to its standard error, but for what to type next. */
static void read_reason(const struct vms_vm *vm, char *buf, size_t size)
{
	char *line;

	if (!vms_read(vm, "stderr", buf, size))
		buf[0] = '\0';
	line = strstr(buf, "\n  try: ");
	if (line)
		*line = '\0';
	line = strrchr(buf, '\n');
	if (line)
		memmove(buf, line + 1, strlen(line));
}

static void say_goodbye(struct holder *h, int status)
{
	char reason[240], message[300];
	uint64_t end = now_ns() + (uint64_t)LINGER_MS * 1000000;
	bool behind;
	int n;

	read_reason(&h->config->vm, reason, sizeof(reason));
	n = snprintf(message, sizeof(message), "%c%d %s", CONSOLE_END, status, reason);
	do { /* also those that have come in time, but not been seen */
		behind = turn(h, -1, 0);
		for (size_t i = 0; i < CONSOLE_CLIENTS; i++) {
			struct client *k = &h->client[i];

			while (feed(h, k))
				;
			behind = behind || (k->fd >= 0 && (!k->greeted || k->at < h->log_size));
		}
		if (behind)
			turn(h, -1, 50);
	} while (behind && now_ns() < end);
	for (size_t i = 0; i < CONSOLE_CLIENTS; i++)
		if (h->client[i].fd >= 0)
			send(h->client[i].fd, message, (size_t)n, MSG_NOSIGNAL);
}

static int wait_for_end(struct holder *h)
{
	int pidfd = (int)syscall(SYS_pidfd_open, h->spore, 0), status;
	char text[16];
	struct err e;

	while (turn(h, pidfd, -1))
		;
	while (waitpid(h->spore, &status, 0) < 0 && errno == EINTR)
		;
	while (read_guest(h))
		;
	fd_close(&h->out);
	h->key_count = 0;
	status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	snprintf(text, sizeof(text), "%d\n", status);
	vms_write(&h->config->vm, "status", text, &e);
	return status;
}

_Noreturn void holder_run(struct holder_config *config)
{
	static struct holder h;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), said = open_file(&config->vm, "stderr");
	struct err e;
	int status;

	setsid();
	prctl(PR_SET_NAME, "spore-console");
	signal(SIGPIPE,
	       SIG_DFL); /* spore decides for itself; we write with MSG_NOSIGNAL or to it */
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	dup2(said, STDERR_FILENO);
	close_others(&config->lock_fd, &config->ready_fd);
	h.config = config;
	for (size_t i = 0; i < CONSOLE_CLIENTS; i++)
		h.client[i].fd = -1;
	h.log = open_file(&config->vm, "console.log");
	h.listen = open_listener(&config->vm);
	if (h.listen >= 0 && config->attended)
		wait_for_client(&h);
	if (said < 0 || h.log < 0 || h.listen < 0 || !start_spore(&h)) {
		dprintf(STDERR_FILENO, "spore: '%s': %s\n", config->vm.dir, strerror(errno));
		_exit(CTL_FAILED);
	}
	signal(SIGPIPE, SIG_IGN);
	dup2(STDIN_FILENO, STDERR_FILENO);
	fd_close(&config->lock_fd);
	fd_close(&config->ready_fd);
	status = wait_for_end(&h);
	say_goodbye(&h, status);
	if (config->remove)
		vms_remove(&config->vm, &e);
	_exit(0);
}
