/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PUT /vm/fork. snapshot/fork.c makes the descriptors; here they go to the processes that are to be
 * the children, each of which is asked, at its own API socket, to PUT /snapshot/load: with the
 * descriptors beside the request (SCM_RIGHTS), and with what the client wants different in this child.
 * So a child is judged, configured and opened like any microVM from a snapshot.
 *
 * What fails fails for one child. The guest runs again before any of them is asked, so that whatever
 * becomes of them has nothing to do with it. The client is answered when the last one has.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "api-sock/configfile.h"
#include "api-sock/route.h"
#include "api-sock/schema.h"
#include "snapshot/clone.h"
#include "snapshot/fork.h"
#include "vmm/base/fd.h"

#define CHILDREN_MAX 64u
#define ANSWER_NS    10000000000ull
#define ANSWER_MAX   4096u

/* A copy of a drive's file. */
struct disk {
	char drive_id[CONFIG_ID_MAX + 1];
	struct clone copy;
};

struct child {
	struct hand_over *h;
	char *socket;			     /* path; owned */
	char *body;			     /* of its request; owned */
	struct disk disk[CONFIG_DRIVES_MAX]; /* made for it */
	unsigned disks;
	struct loop_source source; /* of the connection; owns its fd */
	char answer[ANSWER_MAX + 1];
	size_t len;
	bool done;
	struct err failed; /* code 0: it lives */
};

struct hand_over {
	struct api *api;
	uint64_t ticket;
	struct child *child;  /* owned */
	unsigned count, open; /* children that have not answered yet */
	struct loop_timer timer;
	uint64_t started_ns;
	struct fork_image image; /* the numbers in it */
};

static void child_close(struct child *c)
{
	if (c->source.added)
		loop_del(c->h->api->vm->loop, &c->source);
	fd_close(&c->source.fd);
	for (unsigned i = 0; i < c->disks; i++)
		clone_finish(&c->disk[i].copy, c->done && !c->failed.code);
	c->disks = 0;
}

static void hand_over_free(struct hand_over *h)
{
	if (!h)
		return;
	loop_timer_clear(h->api->vm->loop, &h->timer);
	for (unsigned i = 0; i < h->count; i++) {
		child_close(&h->child[i]);
		free(h->child[i].socket);
		free(h->child[i].body);
	}
	free(h->child);
	free(h);
}

/* --- the answer --- */

static json_t *tell_children(const struct hand_over *h)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < h->count; i++) {
		const struct child *c = &h->child[i];
		json_t *item = json_pack("{s:s}", "socket", c->socket);

		if (c->failed.code)
			json_object_set_new(item, "fault_message", json_string(c->failed.msg));
		json_array_append_new(list, item);
	}
	return list;
}

static unsigned count_failed(const struct hand_over *h)
{
	unsigned n = 0;

	for (unsigned i = 0; i < h->count; i++)
		n += h->child[i].failed.code != 0;
	return n;
}

/* Takes `h`. */
static void finish(struct hand_over *h)
{
	const struct fork_image *image = &h->image;
	const unsigned failed = count_failed(h);
	const uint64_t took_us = (now_ns() - h->started_ns) / 1000;
	struct api *api = h->api;
	struct err e = {0};

	event_emit(api->vm->events, "forked", EVENT_NUMBER("children", h->count - failed),
		   EVENT_NUMBER("failed", failed), EVENT_NUMBER("pages", image->pages),
		   EVENT_NUMBER("state_us", image->state_us),
		   EVENT_NUMBER("paused_us", image->paused_us), EVENT_NUMBER("took_us", took_us));
	if (failed == h->count)
		err_set(&e, EIO, "Fork error: no child could be completed: '%.100s': %.300s",
			h->child[0].socket, h->child[0].failed.msg);
	api->forking = NULL;
	route_answer(api, "PUT /vm/fork", h->ticket,
		     json_pack("{s:I,s:I,s:I,s:I,s:I,s:o}", "paused_us",
			       (json_int_t)image->paused_us, "stop_us", (json_int_t)image->stop_us,
			       "state_us", (json_int_t)image->state_us, "pages",
			       (json_int_t)image->pages, "took_us", (json_int_t)took_us, "children",
			       tell_children(h)),
		     e.code ? &e : NULL);
	hand_over_free(h);
}

/* --- disks --- */

/* What is written to: the overlay if there is one. */
static bool copies_overlay(const struct drive *d)
{
	return d->overlay;
}

/* A copy of the drive's file that is made; or NULL. */
static const struct clone *find_made(const struct hand_over *h, const char *drive_id)
{
	for (unsigned i = 0; i < h->count; i++)
		for (unsigned n = 0; n < h->child[i].disks; n++) {
			const struct disk *d = &h->child[i].disk[n];

			if (d->copy.made && strcmp(d->drive_id, drive_id) == 0)
				return &d->copy;
		}
	return NULL;
}

/* One copy of each file is of the moment of the fork: the others can be had from it later. */
static int copy_drive(struct hand_over *h, struct disk *disk, struct err *e)
{
	const struct drive *d = config_find_drive(&h->api->vm->config, disk->drive_id);

	if (find_made(h, disk->drive_id))
		return 0;
	/* It may have lost it since it was asked for. */
	if (!d || d->fd < 0)
		return err_set(e, ENOENT, "drive '%s' has no file", disk->drive_id);
	return clone_make(&disk->copy, copies_overlay(d) ? d->overlay_fd : d->fd, e);
}

static int on_frozen(void *arg, struct err *e)
{
	struct hand_over *h = arg;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < h->count; i++)
		for (unsigned n = 0; r == 0 && n < h->child[i].disks; n++)
			r = copy_drive(h, &h->child[i].disk[n], e);
	return r;
}

/* Of all children, before one of them begins to write to its own. */
static void copy_copies(struct hand_over *h)
{
	for (unsigned i = 0; i < h->count; i++) {
		struct child *c = &h->child[i];
		int r = 0;

		for (unsigned n = 0; r == 0 && n < c->disks; n++) {
			struct clone *copy = &c->disk[n].copy;

			if (!copy->made)
				r = clone_make_from(copy, find_made(h, c->disk[n].drive_id),
						    &c->failed);
		}
	}
}

/* --- a child --- */

/* May be the last one, and then `c` is gone. */
static void child_done(struct child *c)
{
	struct hand_over *h = c->h;

	c->done = true;
	child_close(c);
	if (--h->open == 0)
		finish(h);
}

/* What is in {"fault_message": text} behind the headers. */
static void read_fault(struct child *c, const char *body)
{
	json_t *json = json_loads(body, 0, NULL);
	const char *text = json_string_value(json_object_get(json, "fault_message"));

	if (text) {
		err_set(&c->failed, EIO, "%s", text);
		err_clean_text(c->failed.msg);
	} else {
		err_set(&c->failed, EPROTO, "its answer makes no sense");
	}
	json_decref(json);
}

/* Whether the answer is complete, also since no more of it comes. */
static bool judge_answer(struct child *c, bool over)
{
	static const char good[] = "HTTP/1.1 204 ";
	const char *body;

	c->answer[c->len] = '\0';
	body = strstr(c->answer, "\r\n\r\n");
	if (body && strncmp(c->answer, good, sizeof(good) - 1) == 0)
		return true;
	if (!over)
		return false;
	if (c->len == 0)
		err_set(&c->failed, ECONNRESET, "it ended before it answered");
	else
		read_fault(c, body ? body + 4 : "");
	return true;
}

static void child_ready(struct loop_source *s, uint32_t events)
{
	struct child *c = s->arg;
	ssize_t n = fd_read(s->fd, c->answer + c->len, ANSWER_MAX - c->len);

	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0)
		c->len += (size_t)n;
	if (judge_answer(c, n <= 0 || c->len == ANSWER_MAX))
		child_done(c);
}

static int connect_child(struct child *c, struct err *e)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	memcpy(addr.sun_path, c->socket, strlen(c->socket) + 1);
	c->source.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->source.fd < 0)
		return err_sys(e, "create a socket");
	if (connect(c->source.fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		return err_sys(e, "connect");
	return 0;
}

static int send_request(struct child *c, const struct fork_image *image, struct err *e)
{
	char head[160];
	struct iovec iov[2] = {{.iov_base = head}, {c->body, strlen(c->body)}};
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(image->fd))];
	} control = {0};
	struct msghdr msg = {
		.msg_iov = iov,
		.msg_iovlen = 2,
		.msg_control = control.buf,
		.msg_controllen = CMSG_SPACE(image->count * sizeof(int)),
	};
	struct cmsghdr *m = CMSG_FIRSTHDR(&msg);
	ssize_t n;

	iov[0].iov_len = (size_t)snprintf(head, sizeof(head),
					  "PUT /snapshot/load HTTP/1.1\r\nHost: fork\r\n"
					  "Connection: close\r\nContent-Type: application/json\r\n"
					  "Content-Length: %zu\r\n\r\n",
					  iov[1].iov_len);
	m->cmsg_level = SOL_SOCKET;
	m->cmsg_type = SCM_RIGHTS;
	m->cmsg_len = CMSG_LEN(image->count * sizeof(int));
	memcpy(CMSG_DATA(m), image->fd, image->count * sizeof(int));
	n = sendmsg(c->source.fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0)
		return err_sys(e, "send it the microVM");
	if ((size_t)n != iov[0].iov_len + iov[1].iov_len)
		return err_set(e, EMSGSIZE, "send it the microVM: the request is too long");
	return 0;
}

static void ask_child(struct child *c, const struct fork_image *image)
{
	int r = -c->failed.code;

	for (unsigned i = 0; r == 0 && i < c->disks; i++)
		r = clone_commit(&c->disk[i].copy, &c->failed);
	if (r == 0)
		r = connect_child(c, &c->failed);
	if (r == 0)
		r = send_request(c, image, &c->failed);
	if (r == 0)
		r = loop_add(c->h->api->vm->loop, &c->source, EPOLLIN, &c->failed);
	if (r < 0)
		child_done(c);
	else
		c->failed = (struct err){0};
}

static void on_late(struct loop_timer *t)
{
	struct hand_over *h = t->arg;
	unsigned open = h->open;

	for (unsigned i = 0; open; i++) {
		struct child *c = &h->child[i];

		if (c->done)
			continue;
		err_set(&c->failed, ETIMEDOUT,
			"it did not answer in time, and may begin all the same");
		open--;
		child_done(c);
	}
}

static void on_forked(void *arg, const struct fork_image *image, const struct err *failed)
{
	struct hand_over *h = arg;
	struct api *api = h->api;

	if (failed) {
		struct err e = *failed;

		err_wrap(&e, "Fork error");
		event_emit(api->vm->events, "fork_failed", EVENT_TEXT("reason", failed->msg));
		api->forking = NULL;
		route_answer(api, "PUT /vm/fork", h->ticket, NULL, &e);
		hand_over_free(h);
		return;
	}
	h->image = *image;
	loop_timer_set(api->vm->loop, &h->timer, ANSWER_NS);
	/* One more, so that none of them is the last before all were asked. */
	h->open = h->count + 1;
	copy_copies(h);
	for (unsigned i = 0; i < h->count; i++)
		ask_child(&h->child[i], image);
	if (--h->open == 0)
		finish(h);
}

/* --- the request --- */

static int read_socket(struct child *c, const json_t *item, unsigned i, struct err *e)
{
	const char *path = json_string_value(json_object_get(item, "socket"));

	if (!path || !path[0])
		return err_set(e, EINVAL, "children[%u]: needs 'socket', the path of an API socket",
			       i);
	if (strlen(path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return err_set(e, EINVAL, "children[%u]: socket: path too long", i);
	c->socket = strdup(path);
	return c->socket ? 0 : err_set(e, ENOMEM, "out of memory");
}

static int add_disk(struct child *c, json_t *override, struct err *e)
{
	const char *id = json_string_value(json_object_get(override, "drive_id"));
	const struct drive *d = id ? config_find_drive(&c->h->api->vm->config, id) : NULL;
	const char *field = d && copies_overlay(d) ? "overlay" : "path_on_host";
	const char *path = json_string_value(json_object_get(override, field));

	if (!d || d->fd < 0)
		return err_set(e, EINVAL, "drive_overrides: no drive '%s' to copy",
			       id ? id : "(no drive_id)");
	if (!path)
		return err_set(e, EINVAL, "drive_overrides: '%s': copy needs %s, where it goes", id,
			       field);
	if (c->disks == CONFIG_DRIVES_MAX)
		return err_set(e, EINVAL, "drive_overrides: more than %u drives",
			       CONFIG_DRIVES_MAX);
	if (clone_create(&c->disk[c->disks].copy, path, e) < 0)
		return -EINVAL;
	snprintf(c->disk[c->disks].drive_id, sizeof(c->disk[0].drive_id), "%s", d->id);
	c->disks++;
	return 0;
}

/* Those that are to be copied; the child is told where they are as of any other. */
static int read_disks(struct child *c, json_t *load, struct err *e)
{
	json_t *override;
	size_t i;
	int r = 0;

	json_array_foreach(json_object_get(load, "drive_overrides"), i, override)
	{
		if (r == 0 && json_is_true(json_object_get(override, "copy")))
			r = add_disk(c, override, e);
		json_object_del(override, "copy");
	}
	return r;
}

/* Everything that is not for us is for the child, which judges it. */
static int read_child(struct child *c, const json_t *item, unsigned i, struct err *e)
{
	static const char *const ours[] = {"snapshot_path", "mem_backend", "mem_file_path",
					   "working_set"};
	json_t *load, *copy;
	int r = read_socket(c, item, i, e);

	if (r < 0)
		return r;
	for (size_t n = 0; n < ARRAY_SIZE(ours); n++)
		if (json_object_get(item, ours[n]))
			return err_set(e, EINVAL, "children[%u]: '%s' has no meaning in a fork", i,
				       ours[n]);
	load = json_pack("{s:s,s:b,s:{s:s,s:s}}", "snapshot_path", "fork", "resume_vm", true,
			 "mem_backend", "backend_type", "Passed", "backend_path", "fork");
	copy = json_deep_copy(item);
	json_object_del(copy, "socket");
	json_object_update(load, copy);
	json_decref(copy);
	r = read_disks(c, load, e);
	if (r == 0)
		c->body = json_dumps(load, JSON_COMPACT);
	json_decref(load);
	if (r == 0 && !c->body)
		r = err_set(e, ENOMEM, "out of memory");
	return r < 0 ? err_wrap(e, "children[%u]", i) : 0;
}

static int read_children(struct hand_over *h, const json_t *list, struct err *e)
{
	const size_t count = json_array_size(list);
	int r = 0;

	if (!count || count > CHILDREN_MAX)
		return err_set(e, EINVAL, "children: need 1 to %u of them", CHILDREN_MAX);
	h->child = calloc(count, sizeof(*h->child));
	if (!h->child)
		return err_set(e, ENOMEM, "out of memory");
	for (; r == 0 && h->count < count; h->count++) {
		struct child *c = &h->child[h->count];

		c->h = h;
		c->source = (struct loop_source){.fd = -1, .ready = child_ready, .arg = c};
		r = read_child(c, json_array_get(list, h->count), h->count, e);
	}
	return r;
}

static int begin(struct hand_over *h, struct err *e)
{
	json_t *config = configfile_print(&h->api->vm->config, true);
	cleanup_free char *text = config ? json_dumps(config, JSON_COMPACT) : NULL;
	const struct fork_params p = {
		.config = text,
		.config_len = text ? strlen(text) : 0,
		.frozen = on_frozen,
		.done = on_forked,
		.arg = h,
	};

	json_decref(config);
	if (!text)
		return err_set(e, ENOMEM, "out of memory");
	return fork_begin(h->api->vm, &h->api->snapshots, &p, e);
}

int action_put_fork(struct api *api, struct api_call *call, struct err *e)
{
	struct hand_over *h;
	int r = body_read(&schema_fork, call->body, false, NULL, e);

	if (r < 0) {
		call->bad_body = true;
		return r;
	}
	if (api->forking) {
		err_set(e, EBUSY, "another fork is on its way");
		return err_wrap(e, "Fork error");
	}
	h = calloc(1, sizeof(*h));
	if (!h)
		return err_set(e, ENOMEM, "Out of memory.");
	h->api = api;
	h->ticket = call->ticket;
	h->started_ns = now_ns();
	h->timer = (struct loop_timer){.expired = on_late, .arg = h};
	r = read_children(h, json_object_get(call->body, "children"), e);
	if (r == 0)
		r = begin(h, e);
	if (r < 0) {
		hand_over_free(h);
		return err_wrap(e, "Fork error");
	}
	api->forking = h;
	call->later = true;
	return 0;
}
