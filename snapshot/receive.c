/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The target of a migration, all in the loop: there is no guest that would wait for it. A connection that
 * says nothing sensible is closed and the next one waited for; from SETUP on, which configures this
 * process, a failure is the end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "snapshot/load.h"
#include "snapshot/migrate.h"
#include "snapshot/pull.h"
#include "snapshot/stream.h"
#include "virtio/net.h"
#include "virtio/vsock.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/drive.h"

/* Bytes of one turn, that came or were cleared: the API is served in between. */
#define TURN	  MIB(4)
#define ANSWER_MS 1000

struct arrival {
	struct vm *vm;
	struct snapshot_history *h;
	struct receive_params p;
	char *path;
	struct vsock_listener listener;
	struct loop_source wait, read;
	int fd; /* of the source, or -1 */
	struct stream_in in;
	struct stream_out out;
	struct stream_hello hello;
	struct load *load;   /* from SETUP on */
	struct pageset left; /* by LEFT, until STATE */
	struct pull *pull;   /* has `in` and `out` from then on; or NULL */
	struct loop_source pulled;
	bool usable;	/* nothing has been configured yet */
	uint64_t pages; /* of memory, then */
	uint64_t normal, duplicate;
	unsigned rounds;
	uint64_t started_ns;
	enum migrate_status status;
	struct err e;
};

static void stop_listening(struct arrival *a)
{
	loop_del(a->vm->loop, &a->wait);
	vsock_listener_close(&a->listener, a->path);
}

static void end_pull(struct arrival *a)
{
	if (!a->pull)
		return;
	loop_del(a->vm->loop, &a->pulled);
	pull_destroy(TAKE(a->pull));
}

static void hang_up(struct arrival *a)
{
	end_pull(a);
	pageset_finish(&a->left);
	loop_del(a->vm->loop, &a->read);
	fd_close(&a->fd);
	stream_in_finish(&a->in);
}

static void free_arrival(struct arrival *a)
{
	hang_up(a);
	stop_listening(a);
	load_abandon(a->load);
	free(a->path);
	free(a);
}

static void arrival_info(const struct arrival *a, struct migrate_info *info)
{
	*info = (struct migrate_info){
		.status = a->status,
		.transferred = a->pull ? pull_bytes(a->pull) : a->in.bytes,
		.remaining = a->pull ? pull_left(a->pull) * GMEM_PAGE : 0,
		.total = a->hello.mem_size,
		.normal = a->normal,
		.duplicate = a->duplicate,
		.dirty_sync_count = a->rounds,
		.total_us = a->started_ns ? (now_ns() - a->started_ns) / 1000 : 0,
		.failed = a->e,
	};
}

static void end(struct arrival *a, enum migrate_status status, bool usable)
{
	struct receive_params p = a->p;
	struct migrate_info info;

	a->status = status;
	arrival_info(a, &info);
	*a->h->migrated = info;
	if (usable) {
		hang_up(a);
		a->status = MIGRATE_SETUP;
	} else {
		a->h->arrival = NULL;
		free_arrival(a);
	}
	p.done(p.arg, &info, usable);
}

/* The source is to have its disks at once, not when this process has ended. */
static void refuse(struct arrival *a)
{
	struct err ignored;

	end_pull(a);
	if (a->load)
		drive_release(&a->vm->config, &ignored);
	a->out.timeout_ms = 0;
	if (a->fd >= 0)
		stream_send_text(&a->out, STREAM_REFUSED, a->e.msg, &ignored);
	loop_release(a->vm->loop);
}

static void failed(struct arrival *a)
{
	/* Nobody else comes over a socket that was inherited. */
	bool usable = a->usable && a->listener.fd >= 0;

	log_error("migration: %s", a->e.msg);
	refuse(a);
	end(a, MIGRATE_FAILED, usable);
}

/* --- records --- */

static int reply(struct arrival *a, enum stream_type type, uint64_t first, struct err *e)
{
	struct stream_record rec = {.type = type, .first = first};

	return stream_send(&a->out, &rec, NULL, e);
}

static void *place(void *arg, uint64_t first, uint64_t count)
{
	struct arrival *a = arg;

	if (!a->load || !range_within(first, count, a->pages))
		return NULL;
	return gmem_base(load_memory(a->load)) + first * GMEM_PAGE;
}

static int on_hello(struct arrival *a, struct err *e)
{
	a->started_ns = now_ns();
	return stream_parse_hello(&a->in, &a->hello, e);
}

static int on_setup(struct arrival *a, struct err *e)
{
	uint64_t size;

	a->load =
		load_arrive(a->vm, a->h, a->p.load, TAKE(a->in.body), a->in.rec.len, &a->usable, e);
	if (!a->load)
		return -e->code;
	size = gmem_size(load_memory(a->load));
	a->pages = size / GMEM_PAGE;
	if (size != a->hello.mem_size)
		return err_set(e, EPROTO, "%llu bytes of memory were announced, it has %llu",
			       (unsigned long long)a->hello.mem_size, (unsigned long long)size);
	a->status = MIGRATE_ACTIVE;
	return reply(a, STREAM_ACCEPT, MIN(a->hello.newest, STREAM_VERSION), e);
}

static int on_zeroes(struct arrival *a)
{
	const struct stream_record *rec = &a->in.rec;

	memset(place(a, rec->first, rec->count), 0, (uint64_t)rec->count * GMEM_PAGE);
	a->duplicate += rec->count;
	return 0;
}

/* --- announcement --- */

/* As often as QEMU does it, since any of them may be lost. */
#define ANNOUNCE_ROUNDS 5u
#define ANNOUNCE_NS	50000000ull
#define ANNOUNCE_MORE	100000000ull

/* Lives until the last one. */
struct announcer {
	struct vm *vm;
	struct loop_timer timer;
	unsigned rounds;
};

static void announce(struct loop_timer *t)
{
	struct announcer *a = t->arg;
	struct virtio_device *d;

	for (unsigned i = 0; (d = vm_nth_device(a->vm, VIRTIO_ID_NET, i)); i++) {
		pthread_mutex_lock(d->env.lock);
		net_announce(d);
		pthread_mutex_unlock(d->env.lock);
	}
	if (++a->rounds == ANNOUNCE_ROUNDS)
		free(a);
	else
		loop_timer_set(a->vm->loop, t, ANNOUNCE_NS + (a->rounds - 1) * ANNOUNCE_MORE);
}

static void announce_all(struct vm *vm)
{
	struct announcer *a = vm_nth_device(vm, VIRTIO_ID_NET, 0) ? calloc(1, sizeof(*a)) : NULL;

	if (!a)
		return;
	a->vm = vm;
	a->timer = (struct loop_timer){.expired = announce, .arg = a};
	announce(&a->timer);
}

/* --- hand-over --- */

static void on_pulled(struct loop_source *s, uint32_t events);

/* From here on it is the thread's stream. */
static int start_pull(struct arrival *a, struct err *e)
{
	loop_del(a->vm->loop, &a->read);
	a->pull = pull_create(load_memory(a->load), &a->left, &a->in, &a->out, a->vm->seccomp, e);
	if (!a->pull)
		return err_wrap(e, "post-copy");
	a->pulled = (struct loop_source){.fd = pull_event(a->pull), .ready = on_pulled, .arg = a};
	return loop_add(a->vm->loop, &a->pulled, EPOLLIN, e);
}

/* 1: nothing more is read here. */
static int on_state(struct arrival *a, struct err *e)
{
	uint8_t *state = TAKE(a->in.body);
	uint32_t len = a->in.rec.len;
	int r = 0;

	a->status = MIGRATE_DEVICE;
	loop_hold(a->vm->loop);
	if (a->left.bit)
		r = start_pull(a, e);
	if (r < 0) {
		free(state);
		return r;
	}
	r = load_arrived(a->load, state, len, e);
	if (r < 0)
		return r;
	if (!a->pull)
		return reply(a, STREAM_READY, a->normal + a->duplicate, e);
	pull_ready(a->pull, a->normal + a->duplicate);
	return 1;
}

/* Nothing can fail from here on. */
static void let_go(struct arrival *a, bool run)
{
	load_let_go(TAKE(a->load), run);
	loop_release(a->vm->loop);
	announce_all(a->vm);
}

static void completed(struct arrival *a)
{
	a->e = (struct err){0};
	log_info("migration: the microVM has come: %u rounds, %llu pages, in %llu us", a->rounds,
		 (unsigned long long)a->normal,
		 (unsigned long long)(now_ns() - a->started_ns) / 1000);
	end(a, MIGRATE_COMPLETED, false);
}

/* A source that does not hear of it stays stopped. */
static int on_commit(struct arrival *a, struct err *e)
{
	let_go(a, a->in.rec.first != 0);
	if (reply(a, STREAM_RUNNING, 0, e) < 0)
		log_warn("migration: the source does not know that it is done: %s", e->msg);
	completed(a);
	return 1;
}

/* Post-copy: the same, but for the memory that is still at the source. */
static void on_pulled(struct loop_source *s, uint32_t events)
{
	struct arrival *a = s->arg;
	enum pull_state state;
	bool run;

	(void)events;
	fd_event_drain(s->fd);
	state = pull_state(a->pull, &run);
	if (state == PULL_HELD)
		return;
	if (a->load) {
		a->status = MIGRATE_POSTCOPY;
		let_go(a, run);
	}
	if (state == PULL_DONE)
		completed(a);
}

/* 0; 1: there is nothing more to read here, and perhaps no `a` any more; or -errno. */
static int on_record(struct arrival *a, struct err *e)
{
	switch (a->in.rec.type) {
	case STREAM_HELLO:
		return on_hello(a, e);
	case STREAM_SETUP:
		return on_setup(a, e);
	case STREAM_METADATA:
		return a->p.metadata(a->p.arg, (char *)a->in.body, a->in.rec.len, e);
	case STREAM_PAGES:
		a->normal += a->in.rec.count;
		return 0;
	case STREAM_ZEROES:
		return on_zeroes(a);
	case STREAM_ROUND:
		a->rounds++;
		return 0;
	case STREAM_LEFT:
		return pull_parse(load_memory(a->load), &a->in, &a->left, e);
	case STREAM_STATE:
		return on_state(a, e);
	case STREAM_COMMIT:
		return on_commit(a, e);
	case STREAM_ABORT:
		return err_set(e, ECONNABORTED, "the source gave up: %s", stream_text(&a->in));
	case STREAM_ACCEPT:
	case STREAM_READY:
	case STREAM_RUNNING:
	case STREAM_REFUSED:
	case STREAM_WANT:
	case STREAM_DONE:
	case STREAM_PUSH:
	case STREAM_BLANK:
		break;
	}
	return err_set(e, EPROTO, "a record of type %u", a->in.rec.type);
}

static uint64_t done_so_far(const struct arrival *a)
{
	return a->in.bytes + a->duplicate * GMEM_PAGE;
}

static void on_readable(struct loop_source *s, uint32_t events)
{
	struct arrival *a = s->arg;
	uint64_t limit = done_so_far(a) + TURN;
	int r = 1;

	(void)events;
	while (r == 1 && done_so_far(a) < limit) {
		int end = 0;

		r = stream_read(&a->in, a->fd, &a->e);
		if (r == 1)
			end = on_record(a, &a->e);
		if (end > 0)
			return;
		r = end < 0 ? end : r;
	}
	if (r < 0)
		failed(a);
}

/* --- connection --- */

/* Takes `fd`. */
static int hear(struct arrival *a, int fd, struct err *e)
{
	a->fd = fd;
	a->e = (struct err){0};
	a->normal = a->duplicate = a->rounds = 0;
	stream_in_init(&a->in, STREAM_FROM_SOURCE);
	a->in.place = place;
	a->in.arg = a;
	a->out = (struct stream_out){.fd = fd, .timeout_ms = ANSWER_MS};
	a->read = (struct loop_source){.fd = fd, .ready = on_readable, .arg = a};
	return loop_add(a->vm->loop, &a->read, EPOLLIN, e);
}

static void on_connection(struct loop_source *s, uint32_t events)
{
	struct arrival *a = s->arg;
	int fd = accept4(s->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	(void)events;
	/* One at a time; who comes second is told by the end of his connection. */
	if (fd < 0 || a->fd >= 0) {
		fd_close(&fd);
	} else if (hear(a, fd, &a->e) < 0) {
		log_error("migration: %s", a->e.msg);
		hang_up(a);
	}
}

/* At a path, or what whoever started this process has connected. */
static int wait_for_source(struct arrival *a, struct err *e)
{
	int r = fd_inherit(a->path, e);

	if (r >= 0)
		return hear(a, r, e);
	if (r == -ENOENT)
		r = vsock_listener_open(&a->listener, a->path, e);
	if (r < 0)
		return err_wrap(e, "socket_path");
	a->wait = (struct loop_source){.fd = a->listener.fd, .ready = on_connection, .arg = a};
	return loop_add(a->vm->loop, &a->wait, EPOLLIN, e);
}

int receive_begin(struct vm *vm, struct snapshot_history *h, const struct receive_params *p,
		  struct err *e)
{
	struct arrival *a = calloc(1, sizeof(*a));
	int r;

	if (!h->migrated)
		h->migrated = calloc(1, sizeof(*h->migrated));
	if (a)
		*a = (struct arrival){.vm = vm,
				      .h = h,
				      .p = *p,
				      .path = strdup(p->socket_path),
				      .listener = {.fd = -1},
				      .fd = -1,
				      .usable = true,
				      .status = MIGRATE_SETUP};
	if (!a || !a->path || !h->migrated) {
		if (a)
			free_arrival(a);
		return err_set(e, ENOMEM, "out of memory");
	}
	r = wait_for_source(a, e);
	if (r < 0)
		free_arrival(a);
	else
		h->arrival = a;
	return r;
}

/* --- both directions --- */

static int arrival_abort(struct snapshot_history *h, struct err *e)
{
	struct arrival *a = h->arrival;
	bool usable = a->usable;

	if (a->status == MIGRATE_POSTCOPY)
		return err_set(e, EBUSY, "the microVM runs here already");
	err_set(&a->e, ECANCELED, "it was aborted at the target");
	refuse(a);
	h->arrival = NULL;
	a->status = MIGRATE_CANCELLED;
	arrival_info(a, h->migrated);
	a->p.done(a->p.arg, h->migrated, usable);
	free_arrival(a);
	return 0;
}

int migrate_abort(struct snapshot_history *h, struct err *e)
{
	if (h->sending)
		return sending_abort(h->sending, e);
	if (h->arrival)
		return arrival_abort(h, e);
	return err_set(e, EINVAL, "no migration is under way");
}

bool migrate_stopped(const struct snapshot_history *h)
{
	return h->sending && sending_stopped(h->sending);
}

void migrate_get_info(const struct snapshot_history *h, struct migrate_info *info)
{
	*info = (struct migrate_info){0};
	if (h->sending)
		sending_info(h->sending, info);
	else if (h->arrival)
		arrival_info(h->arrival, info);
	else if (h->migrated)
		*info = *h->migrated;
}

void migrate_forget(struct snapshot_history *h)
{
	sending_abandon(TAKE(h->sending));
	/* Processors that run until the process ends need the rest of their memory as long. */
	if (h->arrival && h->arrival->status != MIGRATE_POSTCOPY)
		free_arrival(h->arrival);
	h->arrival = NULL;
	free(TAKE(h->migrated));
}
