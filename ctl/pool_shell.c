/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "ctl/pool_shell.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/base/fd.h"

#define SEND_LIMIT_S 5

static void shell_set_state(struct pool_shell *s, enum pool_shell_state state)
{
	s->pool->count[s->state]--;
	s->pool->count[state]++;
	s->state = state;
}

static void hang_up(struct pool_shell *s)
{
	if (s->api.fd >= 0)
		loop_del(&s->pool->loop, &s->api);
	fd_close(&s->api.fd);
}

void pool_drop(struct pool_shell *s)
{
	struct err e;

	if (s->state == SHELL_DEAD)
		return;
	hang_up(s);
	if (s->pid > 0)
		kill(s->pid, SIGKILL);
	/* It may be about to make a file there, until it is collected. */
	vms_take_name(s->pool->config->c, &s->vm, s->number, &e);
	s->done = NULL;
	shell_set_state(s, SHELL_DEAD);
}

static int send_request(struct pool_shell *s, const char *path, const json_t *body, struct err *e)
{
	cleanup_free char *text = json_dumps(body, JSON_COMPACT), *all = NULL;
	int len = text ? asprintf(&all,
				  "PUT %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n"
				  "\r\n%s",
				  path, strlen(text), text)
		       : -1;
	size_t at = 0;

	if (len < 0)
		return err_set(e, ENOMEM, "out of memory");
	s->answer_len = 0;
	while (at < (size_t)len) {
		ssize_t n = send(s->api.fd, all + at, (size_t)len - at, MSG_NOSIGNAL);

		if (n < 0 && errno != EINTR)
			return err_sys(e, "the shell does not listen");
		at += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

/* The body of a complete answer, and its status; NULL: more is to come. Status 0: it is none. */
static const char *parse_answer(struct pool_shell *s, int *status)
{
	char *body = strstr(s->answer, "\r\n\r\n"), *length;
	size_t want;

	*status = 0;
	if (!body)
		return s->answer_len < sizeof(s->answer) - 1 ? NULL : "";
	body += 4;
	length = strcasestr(s->answer, "\r\ncontent-length:");
	want = length && length < body ? strtoul(length + 17, NULL, 10) : 0;
	if (want > sizeof(s->answer) - 1 - (size_t)(body - s->answer))
		return "";
	if (s->answer_len - (size_t)(body - s->answer) < want)
		return NULL;
	if (strncmp(s->answer, "HTTP/1.1 ", 9) == 0)
		*status = (int)strtol(s->answer + 9, NULL, 10);
	return body;
}

static void say_fault(const char *body, char *text, size_t size)
{
	json_t *root = json_loads(body, 0, NULL);
	const char *said = json_string_value(json_object_get(root, "fault_message"));

	snprintf(text, size, "%s", said ? said : "the shell gave no answer that can be read");
	err_clean_text(text);
	json_decref(root);
}

void shell_conclude(struct pool_shell *s, const char *failed)
{
	struct pool *p = s->pool;
	enum pool_shell_state was = s->state;
	void (*done)(struct pool_shell * shell, const char *failed_by) = s->done;

	if (failed) {
		pool_drop(s);
	} else if (was == SHELL_CLAIMED) {
		hang_up(s);
		shell_set_state(s, SHELL_CLONE);
	} else {
		p->failures = 0;
		shell_set_state(s, SHELL_READY);
	}
	if (was == SHELL_CLAIMED) {
		s->done = NULL;
		done(s, failed);
	} else if (failed && was != SHELL_READY) {
		p->failures++;
		snprintf(p->last_error, sizeof(p->last_error), "%s", failed);
	}
}

void shell_ended(struct pool_shell *s)
{
	char words[240], text[300];
	const char *last;

	/* Its standard error; see spawn(). */
	if (!vms_read(&s->vm, "lock", words, sizeof(words)))
		words[0] = '\0';
	last = strrchr(words, '\n');
	snprintf(text, sizeof(text), "the shell has ended before it answered%s%s",
		 words[0] ? ": " : "", last ? last + 1 : words);
	err_clean_text(text);
	shell_conclude(s, text);
}

static void api_ready(struct loop_source *source, uint32_t events)
{
	struct pool_shell *s = source->arg;
	ssize_t n = recv(source->fd, s->answer + s->answer_len,
			 sizeof(s->answer) - 1 - s->answer_len, MSG_DONTWAIT);
	char fault[256];
	const char *body;
	int status;

	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0 || s->state == SHELL_READY) {
		shell_ended(s);
		return;
	}
	s->answer_len += (size_t)n;
	s->answer[s->answer_len] = '\0';
	body = parse_answer(s, &status);
	if (!body)
		return;
	if (status == 200 || status == 204) {
		shell_conclude(s, NULL);
		return;
	}
	say_fault(body, fault, sizeof(fault));
	shell_conclude(s, fault);
}

static int prime(struct pool_shell *s, struct err *e)
{
	const char *dir = s->pool->config->snapshot;
	json_t *body;
	int r;

	if (!dir) {
		s->pool->failures = 0;
		shell_set_state(s, SHELL_READY);
		return 0;
	}
	body = json_pack("{s:o, s:{s:s, s:o}}", "snapshot_path", json_sprintf("%s/state", dir),
			 "mem_backend", "backend_type", "File", "backend_path",
			 json_sprintf("%s/memory", dir));
	r = body ? send_request(s, "/snapshot/prime", body, e)
		 : err_set(e, ENOMEM, "out of memory");
	json_decref(body);
	shell_set_state(s, SHELL_PRIMING);
	return r;
}

int shell_connect(struct pool_shell *s, struct err *e)
{
	const struct timeval limit = {.tv_sec = SEND_LIMIT_S};
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int r;

	vms_path(&s->vm, "api.sock", addr.sun_path);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0)
		return err_sys(e, "make a socket");
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return errno == ENOENT || errno == ECONNREFUSED ? 0 : err_sys(e, "connect");
	s->api = (struct loop_source){.fd = fd, .ready = api_ready, .arg = s};
	r = loop_add(&s->pool->loop, &s->api, EPOLLIN, e);
	s->api.fd = r == 0 ? TAKE_FD(fd) : -1;
	return r == 0 ? prime(s, e) : r;
}

int pool_claim(struct pool_shell *s, const char *name, const json_t *body, struct err *e)
{
	int r = vms_give_name(s->pool->config->c, &s->vm, name, e);

	if (r < 0)
		return r;
	shell_set_state(s, SHELL_CLAIMED);
	r = send_request(s, "/snapshot/load", body, e);
	if (r < 0)
		pool_drop(s);
	return r;
}
