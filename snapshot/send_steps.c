/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the source of a migration says, on a thread of its own (snapshot/stream.h has the records).
 *
 * Pages are copied before they are summed and sent: the guest would write to them in between.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "snapshot/send.h"

/* How long the target may be silent: while it makes a VM, while nobody runs. */
#define ACCEPT_MS 60000
#define READY_MS  5000
/* The same when the guest runs there, and cannot go on without what is here. */
#define NEED_MS	  60000
/* What is sent of who waits for one page. */
#define NEAR	  8u
/* Less than that says nothing about how fast the stream is. */
#define SAMPLE	  KIB(256)

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

int send_round(void *arg, struct err *e)
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

int send_first(void *arg, struct err *e)
{
	struct sending *s = arg;
	int r = greet(s, e);

	if (r < 0)
		return r;
	s->status = MIGRATE_ACTIVE;
	return send_round(s, e);
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

int send_last(void *arg, struct err *e)
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
