/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a microVM changes from one process into another, and is never in both.
 *
 *	source					target
 *	HELLO, SETUP, METADATA ---------------> judges version, configuration and CPUs, opens disks and
 *						network; makes memory and the VM
 *	<-------------------------------------- ACCEPT
 *	PAGES, ZEROES, ROUND ... -------------> puts them where they belong	(the guest runs at the source)
 *	stops the guest and its devices, gives up the locks of its disks
 *	PAGES, ZEROES, STATE -----------------> takes the locks, builds devices and vCPUs, puts on its filter:
 *						nothing can fail any more; does nothing yet
 *	<-------------------------------------- READY
 *	COMMIT -------------------------------> lets the guest run
 *	<-------------------------------------- RUNNING
 *	ends
 *
 * Every record carries a number and a checksum, and the target counts pages: READY says that all of it is
 * there and right. What the target cannot take it answers with REFUSED and a reason, at any time before.
 *
 * Who may run the guest is one bit, and it moves with COMMIT. The source may run it as long as no byte of
 * COMMIT was taken by its kernel: whatever happens until then, an error, a refusal, silence longer than a
 * limit, an abort by the user, the source lets it go on where it stopped, and the target, which must have
 * read COMMIT to do anything, gives up. The target may run it from when it has read COMMIT, and does so at
 * once, whether RUNNING can still be sent or not.
 *
 * In between is the one moment that no protocol can do away with (two generals): COMMIT was handed to
 * the kernel and the stream broke before RUNNING. The target may have read it, or not. Running twice would
 * destroy disks, standing still can be mended; so the source does not go on by itself then. It keeps the
 * stopped guest, says so (status "handover-lost"), and whoever knows what became of the target decides. It
 * runs there: the source is to be ended. It gave up or died before it read COMMIT, so that it has never
 * run: PATCH /vm Resumed at the source, which takes the locks of the disks again and refuses when somebody else
 * has them. It has run there and is dead: then the memory at the source is older than the disks, and the
 * microVM has crashed. A REFUSED that comes even now is a target that has not read COMMIT and never will.
 *
 * Post-copy, when rounds do not help: what is left of memory does not go before COMMIT.
 *
 *	LEFT, STATE --------------------------> drops what LEFT names, and has a thread read the stream (pull.c)
 *	<-------------------------------------- READY
 *	COMMIT -------------------------------> lets the guest run
 *	<-------------------------------------- RUNNING, before the guest can want a page
 *	<-------------------------------------- WANT, for each page that somebody waits for; also before READY
 *	PUSH, BLANK --------------------------> those first, then all others
 *	<-------------------------------------- DONE
 *
 * Until COMMIT nothing is different: the source has all of the guest. From RUNNING on it is in two processes, and
 * ends with either of them: the target cannot go on without a page that is gone, and the source may not, since
 * the guest has run elsewhere. A target that has all pages misses nobody.
 *
 * To make that moment short everything slow lies before it. While it lasts the devices of both sides
 * are held (loop_hold()): a disk write that was put back before the state was read would else be made by
 * both, and by the source at any time later.
 *
 * The stream is neither secret nor signed. That is for a tunnel, or a socket that only its owner can
 * connect to.
 */
#define _GNU_SOURCE
#include "snapshot/stream.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "snapshot/hash.h"
#include "vmm/base/fd.h"
#include "vmm/base/gmem.h"
#include "vmm/base/wire.h"

#define MAGIC	0x674d7073u /* "spMg" */
#define POLL_MS 100

#define BIT(type) (1u << (type))

/* What may follow a record, by its type; [0]: what comes first. */
static const unsigned follows[][32] = {
	[STREAM_FROM_SOURCE] =
		{
			[0] = BIT(STREAM_HELLO),
			[STREAM_HELLO] = BIT(STREAM_SETUP) | BIT(STREAM_ABORT),
#define MEMORY                                                                            \
	(BIT(STREAM_PAGES) | BIT(STREAM_ZEROES) | BIT(STREAM_ROUND) | BIT(STREAM_STATE) | \
	 BIT(STREAM_LEFT) | BIT(STREAM_ABORT))
			[STREAM_SETUP] = BIT(STREAM_METADATA) | MEMORY,
			[STREAM_METADATA] = MEMORY,
			[STREAM_PAGES] = MEMORY,
			[STREAM_ZEROES] = MEMORY,
			[STREAM_ROUND] = MEMORY,
			[STREAM_LEFT] = BIT(STREAM_STATE) | BIT(STREAM_ABORT),
#define BEHIND (BIT(STREAM_PUSH) | BIT(STREAM_BLANK))
			[STREAM_STATE] = BIT(STREAM_COMMIT) | BIT(STREAM_ABORT) | BEHIND,
			[STREAM_PUSH] = BIT(STREAM_COMMIT) | BIT(STREAM_ABORT) | BEHIND,
			[STREAM_BLANK] = BIT(STREAM_COMMIT) | BIT(STREAM_ABORT) | BEHIND,
			[STREAM_COMMIT] = BEHIND,
		},
	[STREAM_FROM_TARGET] =
		{
			[0] = BIT(STREAM_ACCEPT) | BIT(STREAM_REFUSED),
			[STREAM_ACCEPT] =
				BIT(STREAM_READY) | BIT(STREAM_REFUSED) | BIT(STREAM_WANT),
			[STREAM_READY] =
				BIT(STREAM_RUNNING) | BIT(STREAM_REFUSED) | BIT(STREAM_WANT),
			[STREAM_RUNNING] = BIT(STREAM_WANT) | BIT(STREAM_DONE),
			/* Before READY, before RUNNING, or behind that: whoever reads knows which is due. */
			[STREAM_WANT] = BIT(STREAM_WANT) | BIT(STREAM_READY) | BIT(STREAM_RUNNING) |
					BIT(STREAM_REFUSED) | BIT(STREAM_DONE),
		},
};

/* --- header --- */

static void header_wire(struct stream_record *rec, uint64_t *seq, struct wire *w)
{
	uint32_t magic = MAGIC, type = rec->type;

	wire_u32(w, &magic);
	wire_u32(w, &type);
	wire_u32(w, &rec->len);
	wire_u32(w, &rec->count);
	wire_u64(w, &rec->first);
	wire_u64(w, seq);
	if (magic != MAGIC || type == 0 || type > STREAM_DONE)
		wire_fail(w, -EBADMSG);
	rec->type = type;
}

#define SUMMED 32u /* bytes of the header before the checksum */

static uint64_t checksum(const uint8_t header[STREAM_HEADER], const void *body, size_t len)
{
	return hash_bytes(body, len, hash_bytes(header, SUMMED, 1));
}

/* Whether length and count are what this type has. */
static bool fits(const struct stream_record *rec)
{
	switch (rec->type) {
	case STREAM_HELLO:
		return rec->len == STREAM_HELLO_LEN && rec->count == 0;
	case STREAM_SETUP:
	case STREAM_METADATA:
	case STREAM_STATE:
	case STREAM_LEFT:
		return rec->len > 0 && rec->len <= STREAM_BODY_MAX && rec->count == 0;
	case STREAM_PAGES:
	case STREAM_PUSH:
		return rec->count > 0 && rec->count <= STREAM_PAGES_MAX &&
		       rec->len == rec->count * GMEM_PAGE;
	case STREAM_ZEROES:
	case STREAM_BLANK:
		return rec->count > 0 && rec->count <= STREAM_PAGES_MAX && rec->len == 0;
	case STREAM_ABORT:
	case STREAM_REFUSED:
		return rec->len <= STREAM_TEXT_MAX && rec->count == 0;
	case STREAM_ROUND:
	case STREAM_COMMIT:
	case STREAM_ACCEPT:
	case STREAM_READY:
	case STREAM_RUNNING:
	case STREAM_WANT:
	case STREAM_DONE:
		break;
	}
	return rec->len == 0 && rec->count == 0;
}

/* --- reading --- */

void stream_in_init(struct stream_in *in, enum stream_side side)
{
	*in = (struct stream_in){.side = side, .expected = follows[side][0], .want = STREAM_HEADER};
}

void stream_in_finish(struct stream_in *in)
{
	free(in->body);
	in->body = NULL;
}

size_t stream_want(struct stream_in *in, void **to)
{
	*to = (in->in_body ? in->to : in->header) + in->have;
	return in->want - in->have;
}

static int judge_header(struct stream_in *in, struct err *e)
{
	struct stream_record *rec = &in->rec;
	uint64_t seq = 0;
	struct wire w;

	*rec = (struct stream_record){0};
	wire_reader(&w, in->header, STREAM_HEADER, STREAM_VERSION);
	header_wire(rec, &seq, &w);
	wire_u64(&w, &in->sum);
	if (wire_end(&w) < 0)
		return err_set(e, EPROTO, "what came is no record of a migration");
	if (seq != in->seq)
		return err_set(e, EPROTO, "record %llu came instead of %llu",
			       (unsigned long long)seq, (unsigned long long)in->seq);
	if (!(in->expected & BIT(rec->type)))
		return err_set(e, EPROTO, "a record of type %u was not to come now", rec->type);
	if (!fits(rec))
		return err_set(e, EPROTO, "a record of type %u with %u bytes and %u pages",
			       rec->type, rec->len, rec->count);
	return 0;
}

/*
 * Where the body goes. Pages go to guest memory at once, which nobody looks at before COMMIT. Short ones take no
 * memory: a thread that may not ask for any (snapshot/pull.c) reads them.
 */
static int begin_body(struct stream_in *in, struct err *e)
{
	const struct stream_record *rec = &in->rec;

	free(in->body);
	in->body = NULL;
	if (rec->count) {
		in->to = in->place ? in->place(in->arg, rec->first, rec->count) : NULL;
		if (!in->to)
			return err_set(e, EPROTO, "%u pages at page %llu are no memory", rec->count,
				       (unsigned long long)rec->first);
	} else if (rec->len <= STREAM_TEXT_MAX &&
		   (rec->len == 0 || rec->type == STREAM_ABORT || rec->type == STREAM_REFUSED)) {
		in->to = (uint8_t *)in->text;
		in->text[rec->len] = '\0';
	} else {
		in->to = in->body = malloc((size_t)rec->len + 1);
		if (!in->body)
			return err_set(e, ENOMEM, "out of memory");
		in->body[rec->len] = '\0';
	}
	return 0;
}

static int end_record(struct stream_in *in, struct err *e)
{
	in->in_body = false;
	in->have = 0;
	in->want = STREAM_HEADER;
	if (checksum(in->header, in->to, in->rec.len) != in->sum)
		return err_set(e, EPROTO, "the checksum of record %llu (type %u) is wrong",
			       (unsigned long long)in->seq, in->rec.type);
	in->seq++;
	in->expected = follows[in->side][in->rec.type];
	return 1;
}

int stream_got(struct stream_in *in, size_t n, struct err *e)
{
	int r = 0;

	in->have += n;
	in->bytes += n;
	if (in->have < in->want)
		return 0;
	if (!in->in_body) {
		r = judge_header(in, e);
		if (r == 0)
			r = begin_body(in, e);
		if (r < 0)
			return r;
		in->in_body = true;
		in->have = 0;
		in->want = in->rec.len;
	}
	return in->have < in->want ? 0 : end_record(in, e);
}

int stream_read(struct stream_in *in, int fd, struct err *e)
{
	int r = 0;

	while (r == 0) {
		void *to;
		size_t len = stream_want(in, &to);
		ssize_t n = fd_read(fd, to, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n < 0)
			return err_sys(e, "read from the other side");
		if (n == 0)
			return err_set(e, ECONNRESET, "the other side has closed the connection");
		r = stream_got(in, (size_t)n, e);
	}
	return r;
}

/* Until `fd` is ready: 0. In steps, so that *stop is seen. */
static int wait_ready(int fd, short events, int timeout_ms, const _Atomic bool *stop, struct err *e)
{
	uint64_t begin = now_ns();

	for (;;) {
		struct pollfd p = {.fd = fd, .events = events};
		uint64_t ms = (now_ns() - begin) / 1000000;
		int step = POLL_MS;

		if (stop && *stop)
			return err_set(e, ECANCELED, "it was aborted");
		if (timeout_ms >= 0 && ms >= (uint64_t)timeout_ms)
			return err_set(e, ETIMEDOUT, "the other side was silent for %d ms",
				       timeout_ms);
		if (timeout_ms >= 0)
			step = MIN(step, timeout_ms - (int)ms);
		if (poll(&p, 1, step) > 0)
			return 0;
	}
}

int stream_await(struct stream_in *in, int fd, int timeout_ms, const _Atomic bool *stop,
		 struct err *e)
{
	for (;;) {
		int r = stream_read(in, fd, e);

		if (r == 0)
			r = wait_ready(fd, POLLIN, timeout_ms, stop, e);
		if (r != 0)
			return r;
	}
}

const char *stream_text(struct stream_in *in)
{
	err_clean_text(in->text);
	return in->text;
}

static void hello_wire(struct stream_hello *h, struct wire *w)
{
	wire_u32(w, &h->oldest);
	wire_u32(w, &h->newest);
	wire_u64(w, &h->mem_size);
	wire_bytes(w, h->id, sizeof(h->id));
}

int stream_parse_hello(const struct stream_in *in, struct stream_hello *h, struct err *e)
{
	struct wire w;

	wire_reader(&w, in->body, in->rec.len, STREAM_VERSION);
	hello_wire(h, &w);
	if (wire_end(&w) < 0)
		return err_set(e, EPROTO, "a greeting that is none");
	if (h->oldest > STREAM_VERSION || h->newest < STREAM_OLDEST)
		return err_set(e, ENOTSUP,
			       "the source speaks versions %u to %u of the protocol, this "
			       "spore versions %u to %u",
			       h->oldest, h->newest, STREAM_OLDEST, STREAM_VERSION);
	return 0;
}

/* --- writing --- */

/* Leaves out of iov[] what was taken. */
static void advance(struct iovec iov[2], size_t n)
{
	for (unsigned i = 0; i < 2; i++) {
		size_t part = MIN(n, iov[i].iov_len);

		iov[i].iov_base = (char *)iov[i].iov_base + part;
		iov[i].iov_len -= part;
		n -= part;
	}
}

/* In place: the thread of snapshot/pull.c may not ask for memory. */
int stream_encode(const struct stream_record *rec, uint64_t seq, const void *body,
		  uint8_t header[STREAM_HEADER])
{
	struct wire w = {.buf = header, .len = STREAM_HEADER, .writing = true};
	struct stream_record copy = *rec;
	uint64_t sum;

	header_wire(&copy, &seq, &w);
	sum = checksum(header, body, rec->len);
	wire_u64(&w, &sum);
	return wire_end(&w);
}

int stream_send(struct stream_out *out, const struct stream_record *rec, const void *body,
		struct err *e)
{
	uint8_t header[STREAM_HEADER];
	struct iovec iov[2] = {{header, STREAM_HEADER}, {(void *)(uintptr_t)body, rec->len}};
	int r = stream_encode(rec, out->seq, body, header);

	out->begun = false;
	if (r < 0)
		return err_set(e, -r, "put a record together: %s", strerror(-r));
	while (r == 0 && iov[0].iov_len + iov[1].iov_len > 0) {
		ssize_t n = fd_writev(out->fd, iov, 2, -1);

		if (n > 0) {
			out->begun = true;
			out->bytes += (uint64_t)n;
			advance(iov, (size_t)n);
		} else if (errno == EAGAIN) {
			r = wait_ready(out->fd, POLLOUT, out->timeout_ms, out->stop, e);
		} else if (errno != EINTR) {
			r = err_sys(e, "write to the other side");
		}
	}
	out->seq++;
	out->broken |= r < 0 && out->begun;
	return r;
}

int stream_send_hello(struct stream_out *out, const struct stream_hello *h, struct err *e)
{
	struct stream_hello copy = *h;
	struct stream_record rec = {.type = STREAM_HELLO, .len = STREAM_HELLO_LEN};
	struct wire w;
	int r;

	wire_writer(&w, STREAM_VERSION);
	hello_wire(&copy, &w);
	r = wire_end(&w) < 0 ? err_set(e, ENOMEM, "out of memory")
			     : stream_send(out, &rec, w.buf, e);
	wire_finish(&w);
	return r;
}

int stream_send_text(struct stream_out *out, enum stream_type type, const char *text, struct err *e)
{
	struct stream_record rec = {.type = type, .len = (uint32_t)strnlen(text, STREAM_TEXT_MAX)};

	return out->broken ? -EPIPE : stream_send(out, &rec, text, e);
}
