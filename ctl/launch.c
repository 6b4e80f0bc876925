/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "ctl/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/http.h"
#include "vmm/base/fd.h"

#define CONFIG "config.json"

void launch_find(char *buf, size_t size)
{
	const char *said = getenv("SPORE");
	ssize_t n = readlink("/proc/self/exe", buf, size - 1);
	char *slash;

	buf[n > 0 ? n : 0] = '\0';
	slash = strrchr(buf, '/');
	if (said && *said)
		snprintf(buf, size, "%s", said);
	else if (slash && (size_t)(slash + 1 - buf) + sizeof("spore") <= size)
		strcpy(slash + 1, "spore");
	if (!(said && *said) && access(buf, X_OK) < 0)
		snprintf(buf, size, "spore");
}

int launch_prepare(struct ctl *c, const char *name, struct launch *l, struct err *e)
{
	char path[VMS_PATH_MAX];

	*l = (struct launch){.lock_fd = -1, .said_fd = -1, .console_fd = -1};
	l->lock_fd = vms_create(c, name, &l->vm, e);
	if (l->lock_fd < 0)
		return l->lock_fd;
	vms_path(&l->vm, "stderr", path);
	l->said_fd = open(path, O_RDONLY | O_CREAT | O_CLOEXEC, 0600);
	return 0;
}

void launch_cancel(struct launch *l)
{
	int pidfd = l->holder ? vms_pidfd(&l->vm, NULL, NULL) : -1;
	struct err e;

	if (pidfd >= 0)
		syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	fd_close(&pidfd);
	fd_close(&l->console_fd);
	/* It has no clients, so it ends at once. */
	if (l->holder)
		waitpid(l->holder, NULL, 0);
	vms_remove(&l->vm, &e);
	fd_close(&l->lock_fd);
	fd_close(&l->said_fd);
	l->holder = 0;
}

/* What spore has said of its failure, without its name. */
static int spore_said(const struct launch *l, struct err *e)
{
	char text[sizeof(e->msg)];
	const char *at = text;
	ssize_t n = pread(l->said_fd, text, sizeof(text) - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	if (n <= 0)
		return err_set(e, ECHILD, "spore ended without a word: see %s/spore.log",
			       l->vm.dir);
	text[strcspn(text, "\n")] = '\0';
	if (strncmp(at, "spore: ", 7) == 0)
		at += 7;
	/* The file is ours: it would tell nobody anything. */
	if (strncmp(at, "config file ", 12) == 0 && strstr(at, CONFIG "': "))
		at = strstr(at, CONFIG "': ") + strlen(CONFIG "': ");
	return err_set(e, ECHILD, "%s", at);
}

static int write_config(const struct launch *l, const json_t *config, struct err *e)
{
	cleanup_free char *text = json_dumps(config, JSON_INDENT(2));

	return text ? vms_write(&l->vm, CONFIG, text, e) : err_set(e, ENOMEM, "out of memory");
}

/* A spore that is gone without a word has run its guest to the end, unless it was killed. */
static bool has_run(struct launch *l)
{
	cleanup_fd int pidfd = vms_pidfd(&l->vm, NULL, NULL);
	struct stat said;
	char status[8];

	if (pidfd >= 0)
		vms_wait(pidfd, 1000 * HTTP_QUICK);
	if (fstat(l->said_fd, &said) < 0 || said.st_size > 0)
		return false;
	if (l->attended)
		return true; /* launch_attend() sees how it ended */
	waitpid(l->holder, NULL, 0);
	return !vms_read(&l->vm, "status", status, sizeof(status)) || strcmp(status, "0") == 0 ||
	       strcmp(status, "3") == 0;
}

/* Answers when the guest runs; a spore that gives up hangs up instead. */
static int wait_until_started(struct ctl *c, struct launch *l, struct err *e)
{
	char socket[VMS_PATH_MAX];
	struct http_call call = {.socket = socket, .method = "GET", .path = "/", .seconds = 120};

	vms_path(&l->vm, "api.sock", socket);
	if (http_call(c, &call, NULL, e) == 0)
		return 0;
	if (e->code == ETIMEDOUT)
		return -e->code;
	c->hint[0] = '\0';
	if (has_run(l))
		return 0;
	fd_close(&l->console_fd);
	waitpid(l->holder, NULL, 0); /* then all is said */
	return spore_said(l, e);
}

/* A byte of the pipe; false at its end. */
static bool read_byte(int fd)
{
	ssize_t n;
	char byte;

	do
		n = read(fd, &byte, 1);
	while (n < 0 && errno == EINTR);
	return n == 1;
}

static int start_holder(struct launch *l, char *const *command, struct holder_config *config,
			struct err *e)
{
	int ready[2], r = 0;
	bool is_ready;

	if (pipe2(ready, O_CLOEXEC) < 0)
		return err_sys(e, "make a pipe");
	config->ready_fd = ready[1];
	config->command = command;
	fflush(NULL);
	l->holder = fork();
	if (l->holder == 0) {
		close(ready[0]);
		holder_run(config);
	}
	close(ready[1]);
	fd_close(&l->lock_fd); /* spore's from now on */
	if (l->holder < 0) {
		l->holder = 0;
		close(ready[0]);
		return err_sys(e, "fork");
	}
	is_ready = !l->attended || read_byte(ready[0]);
	if (is_ready && l->attended)
		r = l->console_fd = console_connect(&l->vm, e);
	is_ready = is_ready && r >= 0 && read_byte(ready[0]);
	close(ready[0]);
	if (is_ready || r < 0)
		return MIN(r, 0);
	fd_close(&l->console_fd);
	waitpid(l->holder, NULL, 0);
	return spore_said(l, e);
}

int launch_start(struct ctl *c, struct launch *l, const json_t *config, bool remove, struct err *e)
{
	char spore[512], socket[VMS_PATH_MAX], log[VMS_PATH_MAX], file[VMS_PATH_MAX];
	struct holder_config h = {
		.vm = l->vm, .lock_fd = l->lock_fd, .remove = remove, .attended = l->attended};
	char *command[] = {
		spore,	      "--id", l->vm.name,   "--api-sock", socket,
		"--log-path", log,    "--ready-fd", h.ready,	  config ? "--config-file" : NULL,
		file,	      NULL};
	int r = config ? write_config(l, config, e) : 0;

	launch_find(spore, sizeof(spore));
	vms_path(&l->vm, "api.sock", socket);
	vms_path(&l->vm, "spore.log", log);
	vms_path(&l->vm, CONFIG, file);
	if (r == 0)
		r = http_load(c, e); /* the guest may end soon */
	if (r == 0)
		r = start_holder(l, command, &h, e);
	if (r == 0 && config)
		r = wait_until_started(c, l, e);
	if (r < 0)
		launch_cancel(l);
	return r;
}

void launch_overrides(const struct vms_vm *vm, const json_t *config, const struct ctl_list *taps,
		      unsigned *next, json_t *body)
{
	json_t *list = json_array(), *net;
	char path[VMS_PATH_MAX];
	size_t i;

	vms_path(vm, "vsock.sock", path);
	if (json_is_object(json_object_get(config, "vsock")))
		json_object_set_new(body, "vsock_override", json_pack("{s:s}", "uds_path", path));
	json_array_foreach(json_object_get(config, "network-interfaces"), i, net)
	{
		if (*next < taps->count)
			json_array_append_new(list,
					      json_pack("{s:O, s:s}", "iface_id",
							json_object_get(net, "iface_id"),
							"host_dev_name", taps->item[(*next)++]));
	}
	if (json_array_size(list))
		json_object_set(body, "network_overrides", list);
	json_decref(list);
}

/* A guest that has ended by itself needs no words. */
static void explain_end(struct ctl *c, const struct launch *l, const struct console_end *end)
{
	struct err e;

	if (end->status == 0 || end->status == 3 || end->status == 4)
		return;
	if (end->status > 128 && end->status < 128 + 32)
		err_set(&e, EINTR, "microVM '%s' was ended by signal %d", l->vm.name,
			end->status - 128);
	else
		err_set(&e, ECHILD, "microVM '%s' ended with status %d%s%s", l->vm.name,
			end->status, end->reason[0] ? ": " : "", end->reason);
	if (access(l->vm.dir, F_OK) == 0)
		ctl_hint(c, "sporectl logs --spore %s", l->vm.name);
	else
		ctl_hint(c, "the same without --rm, then: sporectl logs --spore NAME");
	ctl_fail(c, &e);
}

int launch_attend(struct ctl *c, struct launch *l, struct console_end *out)
{
	struct console_end end;
	struct err e;
	int r = console_attach(c, &l->vm, TAKE_FD(l->console_fd), &end, &e);

	if (out)
		*out = end;
	if (r < 0)
		return ctl_fail(c, &e);
	if (end.how == CONSOLE_DETACHED)
		ctl_note(
			c,
			"\n%s goes on. To attach: sporectl console %s; to end it: sporectl stop %s",
			l->vm.name, l->vm.name, l->vm.name);
	else
		explain_end(c, l, &end);
	return end.status;
}
