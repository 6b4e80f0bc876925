/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source of a migration. Steps of snapshot/precopy.h, each by a thread:
 *
 *	greet, first round	all that is not zero
 *	further rounds		what was written since the one before
 *	last step		with the guest stopped: what is left, its state, the hand-over (stream.c)
 *
 * With post-copy, when rounds do not help, what is left stays here in the last step: it goes when the target asks
 * for it, or by itself when the guest runs there.
 *
 * Pages are copied before they are summed and sent: the guest would write to them in between.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "snapshot/fork.h"
#include "snapshot/migrate.h"
#include "snapshot/precopy.h"
#include "snapshot/stream.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/random.h"
#include "vmm/drive.h"

/* How long the target may be silent: while it makes a VM, while it takes pages, while nobody runs. */
#define ACCEPT_MS 60000
#define STALL_MS  10000
#define READY_MS  5000
/* The same when the guest runs there, and cannot go on without what is here. */
#define NEED_MS	  60000
/* What is sent of who waits for one page. */
#define NEAR	  8u
/* Less than that says nothing about how fast the stream is. */
#define SAMPLE	  KIB(256)

const char *const migrate_status_name[] = {
	[MIGRATE_NONE] = "none",
	[MIGRATE_SETUP] = "setup",
	[MIGRATE_ACTIVE] = "active",
	[MIGRATE_DEVICE] = "device",
	[MIGRATE_COMPLETED] = "completed",
	[MIGRATE_FAILED] = "failed",
	[MIGRATE_CANCELLED] = "cancelled",
	[MIGRATE_LOST] = "handover-lost",
	[MIGRATE_POSTCOPY] = "postcopy-active",
};

/* Who decides what becomes of it: the thread, with COMMIT, or an abort. */
enum decision { UNDECIDED, COMMITTED, ABORTED };

struct sending {
	struct precopy rounds;
	struct vm *vm;
	struct snapshot_history *h;
	struct migrate_params p; /* its texts are owned */
	struct pageset dirty;
	int fd;
	struct stream_out out;
	struct stream_in in;
	struct stream_hello hello;
	struct state state;
	struct snapfile_writer file; /* of `state` */
	uint8_t *buffer;	     /* STREAM_PAGES_MAX pages */
	uint64_t started_ns, paused_ns;
	_Atomic uint64_t downtime_us; /* once it is over */
	uint64_t bandwidth;	    /* bytes a second, of the last round that tells; 0: not known */
	_Atomic uint64_t remaining; /* pages */
	uint64_t cursor;	    /* where pages that are left go on */
	bool was_running, frozen, refused;
	bool split;		 /* post-copy: rounds.next stays here */
	_Atomic bool runs_there; /* and cannot be taken back */
	bool done;		 /* the target has all */
	_Atomic enum migrate_status status;
	_Atomic enum decision decision;
	_Atomic uint64_t normal, duplicate;
	uint64_t placed; /* pages that the target has been told of */
};

/* --- the thread --- */

/* It may refuse until it runs the guest. */
static int refusal(struct sending *s, struct err *e)
{
	if (s->runs_there)
		return err_set(e, EPROTO, "the target refuses what it runs");
	s->refused = true;
	return err_set(e, ECONNREFUSED, "the target refused: %s", stream_text(&s->in));
}

/* A target that refuses closes the connection: then the reason is worth more than the error. */
static int explain(struct sending *s, int r, struct err *e)
{
	struct err ignored;
	int heard;

	if (r == -ECANCELED)
		return r;
	do
		heard = stream_await(&s->in, s->fd, 0, NULL, &ignored);
	while (heard == 1 && s->in.rec.type == STREAM_WANT);
	return heard == 1 && s->in.rec.type == STREAM_REFUSED ? refusal(s, e) : r;
}

static int send_record(struct sending *s, const struct stream_record *rec, const void *body,
		       struct err *e)
{
	int r = stream_send(&s->out, rec, body, e);

	return r < 0 ? explain(s, r, e) : 0;
}

static int send_text(struct sending *s, enum stream_type type, const void *text, size_t len,
		     struct err *e)
{
	struct stream_record rec = {.type = type, .len = (uint32_t)len};

	if (len > STREAM_BODY_MAX)
		return err_set(e, EFBIG, "%zu bytes of state or metadata", len);
	return send_record(s, &rec, text, e);
}

/* `n` pages that are in the buffer, all zero or none. */
static int send_part(struct sending *s, uint64_t first, unsigned at, unsigned n, bool zero,
		     struct err *e)
{
	struct stream_record rec = {.first = first + at, .count = n};

	if (zero)
		s->duplicate += n;
	else
		s->normal += n;
	/* The target's memory is zero at first. */
	if (zero && s->rounds.round == 1 && !s->frozen)
		return 0;
	rec.type = zero ? STREAM_ZEROES : STREAM_PAGES;
	if (s->split)
		rec.type = zero ? STREAM_BLANK : STREAM_PUSH;
	else
		s->placed += n;
	rec.len = zero ? 0 : n * GMEM_PAGE;
	return send_record(s, &rec, s->buffer + at * GMEM_PAGE, e);
}

static int send_batch(struct sending *s, uint64_t first, unsigned n, struct err *e)
{
	int r = 0;

	memcpy(s->buffer, gmem_base(&s->vm->machine->mem) + first * GMEM_PAGE, n * GMEM_PAGE);
	for (unsigned at = 0, end; r == 0 && at < n; at = end) {
		bool zero = memory_is_zero(s->buffer + at * GMEM_PAGE);

		end = at + 1;
		while (end < n && memory_is_zero(s->buffer + end * GMEM_PAGE) == zero)
			end++;
		r = send_part(s, first, at, end - at, zero, e);
	}
	return r;
}

/* The next `most` pages of those that are left, at or behind `at`. */
static int push(struct sending *s, uint64_t at, unsigned most, struct err *e)
{
	struct pageset *left = &s->rounds.next;
	uint64_t n = pageset_run(left, &at, left->pages);
	int r;

	n = MIN(n, (uint64_t)most);
	if (n == 0) {
		s->cursor = 0;
		return 0;
	}
	r = send_batch(s, at, (unsigned)n, e);
	for (uint64_t i = at; i < at + n; i++)
		pageset_remove(left, i);
	s->remaining -= n;
	s->cursor = at + n;
	return r;
}

/* What the guest waits for there; what has gone is on its way already. */
static int push_wanted(struct sending *s, struct err *e)
{
	uint64_t page = s->in.rec.first;

	if (!s->split || page >= s->rounds.next.pages)
		return err_set(e, EPROTO, "the target wants page %llu", (unsigned long long)page);
	return pageset_has(&s->rounds.next, page) ? push(s, page, NEAR, e) : 0;
}

/* Waits for the answer that is due. */
static int answer(struct sending *s, enum stream_type due, int timeout_ms, struct err *e)
{
	int r;

	for (;;) {
		r = stream_await(&s->in, s->fd, timeout_ms, &s->rounds.stop, e);
		if (r < 0)
			return r;
		if (s->in.rec.type == due)
			return 0;
		if (s->in.rec.type == STREAM_REFUSED)
			return refusal(s, e);
		if (s->in.rec.type != STREAM_WANT)
			return err_set(e, EPROTO, "a record of type %u was not to come now",
				       s->in.rec.type);
		r = push_wanted(s, e);
		if (r < 0)
			return r;
	}
}

/* Sleeps until the bytes of this round have had their time. */
static void keep_to_limit(struct sending *s, uint64_t begin_ns, uint64_t before)
{
	while (s->p.max_bandwidth && !s->frozen && !s->rounds.stop) {
		double seconds = (double)(s->out.bytes - before) / (double)s->p.max_bandwidth;
		double past = (double)(now_ns() - begin_ns) / 1e9;

		if (past >= seconds)
			break;
		poll(NULL, 0, (int)MIN((seconds - past) * 1000 + 1, 100.0));
	}
}

static int send_pages(struct sending *s, struct err *e)
{
	const struct pageset *set = &s->rounds.next;
	uint64_t begin = now_ns(), before = s->out.bytes, at = 0, n;
	int r = 0;

	for (; r == 0 && (n = pageset_run(set, &at, set->pages)); at += n) {
		n = MIN(n, (uint64_t)STREAM_PAGES_MAX);
		if (s->rounds.stop)
			return err_set(e, ECANCELED, "it was aborted");
		r = send_batch(s, at, (unsigned)n, e);
		keep_to_limit(s, begin, before);
	}
	before = s->out.bytes - before;
	if (before >= SAMPLE)
		s->bandwidth = (uint64_t)((double)before * 1e9 / (double)(now_ns() - begin + 1));
	return r;
}

static int copy_round(void *arg, struct err *e)
{
	struct sending *s = arg;
	struct stream_record rec = {.type = STREAM_ROUND, .first = s->rounds.round};
	int r = 0;

	if (s->rounds.round == 1)
		r = memory_present(&s->vm->machine->mem, false, &s->rounds.next, e);
	s->rounds.count = pageset_count(&s->rounds.next);
	if (r == 0)
		r = send_pages(s, e);
	return r == 0 ? send_record(s, &rec, NULL, e) : r;
}

static int greet(struct sending *s, struct err *e)
{
	int r = stream_send_hello(&s->out, &s->hello, e);

	r = r < 0 ? explain(s, r, e)
		  : send_text(s, STREAM_SETUP, s->file.wire.buf, s->file.wire.pos, e);
	if (r == 0 && s->p.metadata)
		r = send_text(s, STREAM_METADATA, s->p.metadata, strlen(s->p.metadata), e);
	return r == 0 ? answer(s, STREAM_ACCEPT, ACCEPT_MS, e) : r;
}

static int first_step(void *arg, struct err *e)
{
	struct sending *s = arg;
	int r = greet(s, e);

	if (r < 0)
		return r;
	s->status = MIGRATE_ACTIVE;
	return copy_round(s, e);
}

/* From here on what the error means depends on the decision. */
static int hand_over(struct sending *s, struct err *e)
{
	struct stream_record rec = {.type = STREAM_COMMIT, .first = s->was_running};
	enum decision undecided = UNDECIDED;
	int r;

	if (!atomic_compare_exchange_strong(&s->decision, &undecided, COMMITTED))
		return err_set(e, ECANCELED, "it was aborted");
	r = stream_send(&s->out, &rec, NULL, e);
	if (r < 0 && !s->out.begun)
		s->decision = UNDECIDED;
	s->out.timeout_ms = NEED_MS;
	if (r == 0)
		r = answer(s, STREAM_RUNNING, -1, e);
	/* It says so only if it will not run it. */
	if (s->refused)
		s->decision = UNDECIDED;
	return r;
}

/* What the target must not believe to have. */
static int send_left(struct sending *s, struct err *e)
{
	const struct pageset *left = &s->rounds.next;
	struct stream_record rec = {.type = STREAM_LEFT,
				    .first = s->remaining,
				    .len = (uint32_t)((left->pages + 63) / 64 * 8)};

	if (left->pages / 8 >= STREAM_BODY_MAX)
		return err_set(e, EFBIG, "post-copy: too much memory for one record");
	return send_record(s, &rec, left->bit, e);
}

/* One record of the target, if there is one. */
static int hear(struct sending *s, struct err *e)
{
	int r = stream_read(&s->in, s->fd, e);

	if (r != 1)
		return r;
	if (s->in.rec.type == STREAM_WANT)
		return push_wanted(s, e);
	if (s->in.rec.type != STREAM_DONE)
		return err_set(e, EPROTO, "a record of type %u was not to come now",
			       s->in.rec.type);
	s->done = true;
	return 0;
}

/* The guest runs there, and what is here is needed. */
static int push_all(struct sending *s, struct err *e)
{
	int r = 0;

	s->downtime_us = (now_ns() - s->paused_ns) / 1000;
	s->runs_there = true;
	s->status = MIGRATE_POSTCOPY;
	while (r == 0 && s->remaining && !s->done) {
		if (s->rounds.stop)
			return err_set(e, ECANCELED, "it was aborted");
		r = push(s, s->cursor, STREAM_PAGES_MAX, e);
		if (r == 0)
			r = hear(s, e);
	}
	return r == 0 && !s->done ? answer(s, STREAM_DONE, NEED_MS, e) : r;
}

static int last_step(void *arg, struct err *e)
{
	struct sending *s = arg;
	int r = s->split ? send_left(s, e) : send_pages(s, e);

	if (r == 0)
		r = send_text(s, STREAM_STATE, s->file.wire.buf, s->file.wire.pos, e);
	if (r == 0)
		r = answer(s, STREAM_READY, READY_MS + (int)s->p.downtime_limit_ms, e);
	if (r == 0 && s->in.rec.first != s->placed)
		r = err_set(e, EPROTO, "the target has %llu pages of %llu",
			    (unsigned long long)s->in.rec.first, (unsigned long long)s->placed);
	if (r == 0)
		r = hand_over(s, e);
	if (r == 0 && s->split)
		return push_all(s, e);
	s->downtime_us = (now_ns() - s->paused_ns) / 1000;
	return r;
}

/* --- main thread --- */

static void fill_info(const struct sending *s, struct migrate_info *info)
{
	*info = (struct migrate_info){
		.status = s->status,
		.transferred = s->out.bytes,
		.total = s->hello.mem_size,
		.remaining = s->remaining * GMEM_PAGE,
		.normal = s->normal,
		.duplicate = s->duplicate,
		.dirty_sync_count = s->rounds.round,
		.downtime_us = s->downtime_us,
		.total_us = (now_ns() - s->started_ns) / 1000,
		.split = s->runs_there,
	};
	/* The thread writes it. */
	if (!s->rounds.has_thread)
		info->failed = s->rounds.e;
}

static void free_sending(struct sending *s)
{
	precopy_finish(&s->rounds);
	fd_close(&s->fd);
	stream_in_finish(&s->in);
	snapfile_drop(&s->file);
	state_finish(&s->state);
	pageset_finish(&s->dirty);
	free(s->buffer);
	free((void *)(uintptr_t)s->p.socket_path);
	free((void *)(uintptr_t)s->p.config);
	free((void *)(uintptr_t)s->p.metadata);
	free(s);
}

static void drop_state(struct sending *s)
{
	snapfile_drop(&s->file);
	state_finish(&s->state);
}

/* The state of now, as bytes; the vCPUs are parked. Devices are drained, and thawed by the caller. */
static int save(struct sending *s, struct err *e)
{
	struct vm_machine *m = s->vm->machine;
	struct state_meta *meta = &s->state.meta;
	struct timespec now;
	int r;

	clock_gettime(CLOCK_REALTIME, &now);
	memcpy(&meta->id, s->hello.id, sizeof(meta->id));
	meta->created_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	snprintf(meta->made_by, sizeof(meta->made_by), "%s", SPORE_VERSION);
	meta->host = x86_host_fingerprint(&m->kvm);
	meta->mem_size = s->hello.mem_size;
	s->state.config = s->p.config;
	s->state.config_len = s->p.config_len;
	r = state_save(&s->state, m, e);
	return r == 0 ? state_write(&s->state, m, NULL, &s->file, e) : r;
}

/* What the target judges before anything else is sent. */
static int save_setup(struct sending *s, struct err *e)
{
	struct vcpu_set *vcpus = &s->vm->machine->vcpus;
	int r;

	if (s->was_running)
		vcpu_set_pause(vcpus);
	r = save(s, e);
	precopy_thaw(s->vm->machine);
	if (s->was_running)
		vcpu_set_resume(vcpus);
	return r;
}

static int freeze(struct sending *s, struct err *e)
{
	struct vm_machine *m = s->vm->machine;
	int r;

	drop_state(s);
	s->was_running = s->vm->phase == VM_RUNNING;
	s->paused_ns = now_ns();
	r = vm_pause(s->vm, e);
	if (r < 0)
		return r;
	s->frozen = true;
	s->status = MIGRATE_DEVICE;
	loop_hold(s->vm->loop);
	if (m->vcpus.end != VCPU_END_NONE)
		return err_set(e, ESHUTDOWN, "the guest has ended");
	r = save(s, e);
	if (r == 0)
		r = precopy_collect(m, &s->rounds.next, &s->dirty, e);
	if (s->split)
		s->remaining = pageset_count(&s->rounds.next);
	return r == 0 ? drive_release(&s->vm->config, e) : r;
}

/* The guest goes on here. */
static void thaw(struct sending *s)
{
	struct err e;

	loop_release(s->vm->loop);
	precopy_thaw(s->vm->machine);
	if (s->was_running && vm_resume(s->vm, &e) < 0)
		log_error("after a migration that failed: %s", e.msg);
	s->frozen = false;
}

static void give_back(struct sending *s)
{
	struct err e;

	if (s->frozen && drive_claim(&s->vm->config, &e) < 0)
		log_error("after a migration that failed: %s", e.msg);
	if (s->frozen)
		thaw(s);
	precopy_end(&s->rounds);
	memory_put_back(&s->vm->machine->mem, &s->dirty);
}

static void say(const struct migrate_info *info)
{
	const char *status = migrate_status_name[info->status];

	if (info->status == MIGRATE_COMPLETED)
		log_info(
			"migration %s in %llu us: %llu rounds, %llu pages, %llu bytes, stopped for "
			"%llu us",
			status, (unsigned long long)info->total_us,
			(unsigned long long)info->dirty_sync_count,
			(unsigned long long)info->normal, (unsigned long long)info->transferred,
			(unsigned long long)info->downtime_us);
	else
		log_error("migration %s: %s", status, info->failed.msg);
}

static void end(struct sending *s, enum migrate_status status)
{
	struct snapshot_history *h = s->h;
	struct migrate_info info;

	s->status = status;
	fill_info(s, &info);
	*h->migrated = info;
	say(&info);
	if (status == MIGRATE_FAILED || status == MIGRATE_CANCELLED)
		give_back(s);
	fd_close(&s->fd);
	s->p.done(s->p.arg, &info);
	if (status == MIGRATE_LOST)
		return;
	h->sending = NULL;
	free_sending(s);
}

static void failed(struct sending *s)
{
	struct err ignored;

	if (s->decision == COMMITTED) {
		end(s, MIGRATE_LOST);
		return;
	}
	s->out.timeout_ms = 0;
	if (!s->refused)
		stream_send_text(&s->out, STREAM_ABORT, s->rounds.e.msg, &ignored);
	end(s, s->decision == ABORTED ? MIGRATE_CANCELLED : MIGRATE_FAILED);
}

/* How long the guest would stand still for what is left. */
static uint64_t expected_ms(const struct sending *s)
{
	return s->bandwidth ? s->remaining * GMEM_PAGE * 1000 / s->bandwidth : 0;
}

static int next_step(struct sending *s, struct err *e)
{
	struct precopy *p = &s->rounds;
	struct migrate_info info;
	bool fits;
	int r = precopy_take(p, e);

	if (r < 0)
		return r;
	s->remaining = pageset_count(&p->next);
	fill_info(s, &info);
	s->p.progress(s->p.arg, &info);
	fits = expected_ms(s) <= s->p.downtime_limit_ms;
	s->split = s->p.post_copy && !fits && (p->round >= s->p.max_rounds || precopy_stalls(p));
	if (s->split || (fits && (s->remaining <= PRECOPY_LAST_PAGES || precopy_stalls(p)))) {
		r = freeze(s, e);
		return r == 0 ? precopy_step(p, last_step, e) : r;
	}
	if (p->round >= s->p.max_rounds)
		return err_set(e, EBUSY,
			       "after %u rounds %llu MiB are left, for which the guest would stand "
			       "still for %llu ms: it writes faster than they are sent "
			       "(downtime_limit_ms, max_rounds)",
			       p->round, (unsigned long long)(s->remaining * GMEM_PAGE >> 20),
			       (unsigned long long)expected_ms(s));
	p->round++;
	return precopy_step(p, copy_round, e);
}

static void on_step(void *arg)
{
	struct sending *s = arg;
	struct precopy *p = &s->rounds;

	if (p->r == 0 && s->decision == COMMITTED) {
		end(s, MIGRATE_COMPLETED);
		return;
	}
	if (p->r == 0 && s->decision == ABORTED)
		p->r = err_set(&p->e, ECANCELED, "it was aborted");
	if (p->r == 0)
		p->r = next_step(s, &p->e);
	if (p->r < 0)
		failed(s);
}

/* --- begin --- */

static int connect_to(struct sending *s, struct err *e)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	const char *path = s->p.socket_path;

	s->fd = fd_inherit(path, e);
	if (s->fd != -ENOENT)
		return s->fd < 0 ? err_wrap(e, "socket_path") : 0;
	if (strlen(path) >= sizeof(addr.sun_path))
		return err_set(e, ENAMETOOLONG, "socket_path: longer than %zu bytes",
			       sizeof(addr.sun_path) - 1);
	strcpy(addr.sun_path, path);
	s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (s->fd < 0)
		return err_sys(e, "create a socket");
	if (connect(s->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return err_sys(e, "socket_path: connect to '%s'", path);
	s->out = (struct stream_out){.fd = s->fd, .timeout_ms = STALL_MS, .stop = &s->rounds.stop};
	stream_in_init(&s->in, STREAM_FROM_TARGET);
	return 0;
}

static struct sending *prepare(struct vm *vm, struct snapshot_history *h,
			       const struct migrate_params *p, struct err *e)
{
	struct sending *s = calloc(1, sizeof(*s));

	err_set(e, ENOMEM, "out of memory");
	if (!s)
		return NULL;
	s->vm = vm;
	s->h = h;
	s->fd = -1;
	s->p = *p;
	s->p.socket_path = strdup(p->socket_path);
	s->p.config = strndup(p->config, p->config_len);
	s->p.metadata = p->metadata ? strdup(p->metadata) : NULL;
	s->buffer = malloc(STREAM_PAGES_MAX * GMEM_PAGE);
	s->started_ns = now_ns();
	s->status = MIGRATE_SETUP;
	s->was_running = vm->phase == VM_RUNNING;
	s->hello = (struct stream_hello){
		.oldest = p->post_copy ? STREAM_VERSION : STREAM_OLDEST,
		.newest = STREAM_VERSION,
		.mem_size = gmem_size(&vm->machine->mem),
	};
	if (s->p.socket_path && s->p.config && s->buffer && !s->p.metadata == !p->metadata)
		return s;
	free_sending(s);
	return NULL;
}

static int begin(struct sending *s, struct err *e)
{
	struct precopy *p = &s->rounds;
	int r = connect_to(s, e);

	s->out = (struct stream_out){.fd = s->fd, .timeout_ms = STALL_MS, .stop = &s->rounds.stop};
	stream_in_init(&s->in, STREAM_FROM_TARGET);
	if (r == 0 && random_bytes(s->hello.id, sizeof(s->hello.id)) != sizeof(s->hello.id))
		r = err_set(e, EAGAIN, "choose an id: the host has no random bytes");
	if (r == 0)
		r = pageset_init(&s->dirty, s->hello.mem_size / GMEM_PAGE, e);
	if (r == 0)
		r = precopy_init(p, s->vm, &s->dirty, on_step, s, e);
	if (r == 0)
		r = save_setup(s, e);
	if (r == 0)
		r = precopy_begin(p, e);
	if (r < 0)
		return r;
	pageset_clear(&p->next); /* what is there is sent anyway */
	r = precopy_step(p, first_step, e);
	if (r < 0)
		give_back(s);
	return r;
}

int migrate_begin(struct vm *vm, struct snapshot_history *h, const struct migrate_params *p,
		  struct err *e)
{
	struct sending *s;
	int r;

	if (!vm->machine || vm->machine->vcpus.end != VCPU_END_NONE)
		return err_set(e, EINVAL, "there is no guest that runs");
	if (h->live || h->sending || fork_busy(h))
		return err_set(e, EBUSY, "a %s is under way",
			       h->live	    ? "live snapshot"
			       : h->sending ? "migration"
					    : "fork");
	if (p->post_copy &&
	    (vm->config.machine.memfd || vm->config.machine.huge_pages == HUGE_PAGES_2M))
		return err_set(
			e, ENOTSUP,
			"post_copy: only memory of ordinary pages can be fetched one by one: "
			"no \"memory_backend\": \"Memfd\", no 2M huge pages");
	/* Nobody could end a thread that waits for a handler which is gone. */
	if (h->lazy)
		return err_set(e, ENOTSUP, "memory that a page fault handler brings cannot move");
	if (!h->migrated)
		h->migrated = calloc(1, sizeof(*h->migrated));
	s = h->migrated ? prepare(vm, h, p, e) : NULL;
	if (!s)
		return -ENOMEM;
	r = begin(s, e);
	if (r < 0)
		free_sending(s);
	else
		h->sending = s;
	return r;
}

int migrate_take_back(struct vm *vm, struct snapshot_history *h, struct err *e)
{
	struct sending *s = h->sending;
	int r;

	if (!s || s->status != MIGRATE_LOST)
		return err_set(e, EBUSY, "the microVM is being handed over");
	if (s->runs_there)
		return err_set(e, EBUSY, "the microVM has run at the target since");
	r = drive_claim(&vm->config, e);
	if (r < 0)
		return r;
	s->was_running = false;
	h->sending = NULL;
	give_back(s);
	free_sending(s);
	return 0;
}

int sending_abort(struct sending *s, struct err *e)
{
	enum decision undecided = UNDECIDED;

	if (s->runs_there)
		return err_set(e, EBUSY, "it runs at the target, which needs what is still here");
	s->rounds.stop = true;
	if (atomic_compare_exchange_strong(&s->decision, &undecided, ABORTED))
		return 0;
	return s->decision == ABORTED
		       ? 0
		       : err_set(e, EBUSY,
				 "the target was told to run the microVM: it stays stopped here");
}

bool sending_stopped(const struct sending *s)
{
	return s->frozen;
}

void sending_info(const struct sending *s, struct migrate_info *info)
{
	fill_info(s, info);
}

void sending_abandon(struct sending *s)
{
	if (!s)
		return;
	s->rounds.stop = true;
	precopy_join(&s->rounds);
	free_sending(s);
}
