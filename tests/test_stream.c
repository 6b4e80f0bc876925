/* SPDX-License-Identifier: Apache-2.0 */
/* The stream of a migration: what is right, and what a lying peer sends. */
#define _GNU_SOURCE
#include "snapshot/stream.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/base/fd.h"
#include "vmm/base/gmem.h"

TestSuite(stream, .timeout = 60);

#define MEMORY_PAGES (2 * STREAM_PAGES_MAX)

static uint8_t memory[MEMORY_PAGES * GMEM_PAGE];
static struct err e;

static void *place(void *arg, uint64_t first, uint64_t count)
{
	(void)arg;
	return range_within(first, count, MEMORY_PAGES) ? memory + first * GMEM_PAGE : NULL;
}

/* --- a conversation, recorded --- */

#define TAPE_MAX KIB(64)

static uint8_t tape[TAPE_MAX];
static size_t tape_len, record_at[16];
static unsigned records;

static const struct stream_hello hello = {
	.oldest = 1, .newest = 3, .mem_size = MEMORY_PAGES * GMEM_PAGE, .id = {1, 2, 3}};

static void record(int from)
{
	ssize_t n;

	record_at[records++] = tape_len;
	while ((n = read(from, tape + tape_len, TAPE_MAX - tape_len)) > 0)
		tape_len += (size_t)n;
}

static void say(struct stream_out *out, int from, enum stream_type type, uint64_t first,
		uint32_t count, const void *body, uint32_t len)
{
	struct stream_record rec = {.type = type, .first = first, .count = count, .len = len};

	cr_assert_eq(stream_send(out, &rec, body, &e), 0, "%s", e.msg);
	record(from);
}

static void socketpair_of(int fd[2])
{
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
}

/* What a source says from the beginning to the end. */
static void record_source(void)
{
	static uint8_t pages[2 * GMEM_PAGE];
	struct stream_out out = {.timeout_ms = 1000};
	int fd[2];

	socketpair_of(fd);
	out.fd = fd[0];
	tape_len = records = 0;
	memset(pages, 0x5a, sizeof(pages));
	cr_assert_eq(stream_send_hello(&out, &hello, &e), 0);
	record(fd[1]);
	say(&out, fd[1], STREAM_SETUP, 0, 0, "setup", 5);
	say(&out, fd[1], STREAM_METADATA, 0, 0, "{}", 2);
	say(&out, fd[1], STREAM_PAGES, 3, 2, pages, sizeof(pages));
	say(&out, fd[1], STREAM_ZEROES, 4, 1, NULL, 0);
	say(&out, fd[1], STREAM_ROUND, 1, 0, NULL, 0);
	say(&out, fd[1], STREAM_STATE, 0, 0, "state", 5);
	say(&out, fd[1], STREAM_COMMIT, 1, 0, NULL, 0);
	cr_assert_eq(out.bytes, tape_len);
	close(fd[0]);
	close(fd[1]);
}

/* Feeds bytes, at most `most` at once. How many records were complete, or -errno. */
static int feed(struct stream_in *in, const uint8_t *p, size_t len, size_t most)
{
	int count = 0;

	while (len > 0) {
		void *to;
		size_t n = stream_want(in, &to);
		int r;

		n = MIN(n, most);
		n = MIN(n, len);
		cr_assert_gt(n, 0);
		memcpy(to, p, n);
		p += n;
		len -= n;
		r = stream_got(in, n, &e);
		if (r < 0)
			return r;
		count += r;
	}
	return count;
}

static void open_source(struct stream_in *in)
{
	stream_in_init(in, STREAM_FROM_SOURCE);
	in->place = place;
}

Test(stream, what_is_said_arrives, .init = record_source)
{
	static const size_t most[] = {1, 7, 40, 4096, TAPE_MAX};

	for (size_t i = 0; i < ARRAY_SIZE(most); i++) {
		struct stream_in in;

		memset(memory, 0xff, sizeof(memory));
		open_source(&in);
		cr_expect_eq(feed(&in, tape, tape_len, most[i]), (int)records);
		cr_expect_eq(in.rec.type, STREAM_COMMIT);
		cr_expect_eq(in.rec.first, 1);
		cr_expect_eq(in.bytes, tape_len);
		cr_expect_eq(memory[3 * GMEM_PAGE - 1], 0xff);
		cr_expect_eq(memory[3 * GMEM_PAGE], 0x5a);
		cr_expect_eq(memory[5 * GMEM_PAGE - 1], 0x5a);
		cr_expect_eq(memory[5 * GMEM_PAGE], 0xff);
		stream_in_finish(&in);
	}
}

Test(stream, bodies_are_given_whole, .init = record_source)
{
	struct stream_hello got = {0};
	struct stream_in in;

	open_source(&in);
	cr_expect_eq(feed(&in, tape, record_at[1], TAPE_MAX), 1);
	cr_expect_eq(stream_parse_hello(&in, &got, &e), 0);
	cr_expect_eq(got.mem_size, hello.mem_size);
	cr_expect_eq(got.newest, 3);
	cr_expect_arr_eq(got.id, hello.id, sizeof(hello.id));
	cr_expect_eq(feed(&in, tape + record_at[1], record_at[2] - record_at[1], 3), 1);
	cr_expect_str_eq((char *)in.body, "setup");
	stream_in_finish(&in);
}

Test(stream, a_truncated_stream_is_no_record, .init = record_source)
{
	for (size_t len = 0; len < tape_len; len++) {
		struct stream_in in;
		unsigned whole = 0;
		int r;

		while (whole + 1 < records && record_at[whole + 1] <= len)
			whole++;
		open_source(&in);
		r = feed(&in, tape, len, TAPE_MAX);
		cr_expect_eq(r, (int)whole, "%zu bytes: %d", len, r);
		stream_in_finish(&in);
	}
}

Test(stream, every_flipped_bit_is_noticed, .init = record_source)
{
	for (size_t at = 0; at < tape_len; at++) {
		/* Of the pages' middle one bit of each byte is enough. */
		unsigned bits = at > record_at[3] + 64 && at < record_at[4] - 8 ? 1 : 8;

		for (unsigned bit = 0; bit < bits; bit++) {
			struct stream_in in;
			int r;

			tape[at] ^= (uint8_t)(1u << bit);
			open_source(&in);
			r = feed(&in, tape, tape_len, TAPE_MAX);
			/* A length that grew waits for more, and never becomes a record. */
			cr_expect(r < (int)records, "byte %zu bit %u was not noticed", at, bit);
			tape[at] ^= (uint8_t)(1u << bit);
			stream_in_finish(&in);
		}
	}
}

Test(stream, records_cannot_be_lost_repeated_or_swapped, .init = record_source)
{
	for (unsigned i = 0; i + 1 < records; i++) {
		struct stream_in in;
		size_t at = record_at[i], next = record_at[i + 1];

		/* Lost. */
		open_source(&in);
		cr_expect_eq(feed(&in, tape, at, TAPE_MAX), (int)i);
		cr_expect_eq(feed(&in, tape + next, tape_len - next, TAPE_MAX), -EPROTO);
		stream_in_finish(&in);
		/* Twice. */
		open_source(&in);
		cr_expect_eq(feed(&in, tape, next, TAPE_MAX), (int)i + 1);
		cr_expect_eq(feed(&in, tape + at, next - at, TAPE_MAX), -EPROTO);
		cr_expect_gt(strlen(e.msg), 0);
		stream_in_finish(&in);
	}
}

/* One record that is well summed, behind `before` of the conversation. */
static int lie(unsigned before, enum stream_side side, struct stream_record rec, size_t room)
{
	static uint8_t body[TAPE_MAX];
	struct stream_out out = {.timeout_ms = 1000, .seq = before};
	struct stream_in in;
	size_t len = 0;
	ssize_t n;
	int fd[2], r;

	socketpair_of(fd);
	out.fd = fd[0];
	stream_send(&out, &rec, body, &e);
	while (len < room && (n = read(fd[1], body + len, room - len)) > 0)
		len += (size_t)n;
	close(fd[0]);
	close(fd[1]);
	stream_in_init(&in, side);
	in.place = place;
	if (side == STREAM_FROM_SOURCE)
		cr_assert_eq(feed(&in, tape, record_at[before], TAPE_MAX), (int)before);
	e = (struct err){0};
	r = feed(&in, body, len, TAPE_MAX);
	stream_in_finish(&in);
	return r;
}

#define LIE(before, ...) \
	lie(before, STREAM_FROM_SOURCE, (struct stream_record){__VA_ARGS__}, TAPE_MAX)

Test(stream, what_does_not_fit_is_refused, .init = record_source)
{
	/* In no order. */
	cr_expect_eq(LIE(0, .type = STREAM_COMMIT), -EPROTO);
	cr_expect_eq(LIE(0, .type = STREAM_SETUP, .len = 5), -EPROTO);
	cr_expect_eq(LIE(1, .type = STREAM_PAGES, .count = 1, .len = GMEM_PAGE), -EPROTO);
	cr_expect_eq(LIE(1, .type = STREAM_HELLO, .len = STREAM_HELLO_LEN), -EPROTO);
	cr_expect_eq(LIE(2, .type = STREAM_COMMIT), -EPROTO);
	cr_expect_eq(LIE(3, .type = STREAM_METADATA, .len = 2), -EPROTO);
	cr_expect_eq(LIE(7, .type = STREAM_PAGES, .count = 1, .len = GMEM_PAGE), -EPROTO);
	cr_expect_eq(LIE(7, .type = STREAM_STATE, .len = 5), -EPROTO);
	/* What only the target says, and what nobody does. */
	cr_expect_eq(LIE(2, .type = STREAM_ACCEPT), -EPROTO);
	cr_expect_eq(LIE(2, .type = STREAM_RUNNING), -EPROTO);
	cr_expect_eq(lie(0, STREAM_FROM_TARGET, (struct stream_record){.type = STREAM_RUNNING},
			 TAPE_MAX),
		     -EPROTO);
	cr_expect_eq(
		lie(0, STREAM_FROM_TARGET, (struct stream_record){.type = STREAM_COMMIT}, TAPE_MAX),
		-EPROTO);
	cr_expect_eq(
		lie(0, STREAM_FROM_TARGET, (struct stream_record){.type = STREAM_ACCEPT}, TAPE_MAX),
		1);
	/* Lengths. */
	cr_expect_eq(LIE(0, .type = STREAM_HELLO, .len = STREAM_HELLO_LEN - 1), -EPROTO);
	cr_expect_eq(LIE(1, .type = STREAM_SETUP, .len = 0), -EPROTO);
	cr_expect_eq(LIE(3, .type = STREAM_PAGES, .count = 2, .len = GMEM_PAGE), -EPROTO);
	cr_expect_eq(LIE(3, .type = STREAM_PAGES, .count = 0, .len = 0), -EPROTO);
	cr_expect_eq(LIE(3, .type = STREAM_ZEROES, .count = 0), -EPROTO);
	cr_expect_eq(LIE(3, .type = STREAM_ROUND, .len = 1), -EPROTO);
	cr_expect_eq(LIE(3, .type = STREAM_ABORT, .len = STREAM_TEXT_MAX + 1), -EPROTO);
	/* No memory there. */
	cr_expect_eq(
		LIE(3, .type = STREAM_PAGES, .first = MEMORY_PAGES, .count = 1, .len = GMEM_PAGE),
		-EPROTO);
	cr_expect_eq(
		LIE(3, .type = STREAM_PAGES, .first = UINT64_MAX, .count = 1, .len = GMEM_PAGE),
		-EPROTO);
	cr_expect_eq(LIE(3, .type = STREAM_ZEROES, .first = 1, .count = UINT32_MAX), -EPROTO);
	cr_expect_eq(LIE(3, .type = STREAM_ZEROES, .first = 0, .count = STREAM_PAGES_MAX), 1);
	cr_expect_eq(LIE(3, .type = STREAM_ZEROES, .first = 0, .count = STREAM_PAGES_MAX + 1),
		     -EPROTO);
	cr_expect_eq(LIE(3, .type = STREAM_ABORT, .len = STREAM_TEXT_MAX), 1);
}

Test(stream, a_body_that_is_announced_too_large_is_not_waited_for, .init = record_source)
{
	struct stream_in in;

	open_source(&in);
	cr_assert_eq(feed(&in, tape, record_at[1], TAPE_MAX), 1);
	/* Its length is at offset 8 of the header. */
	tape[record_at[1] + 11] = 2;
	cr_expect_eq(feed(&in, tape + record_at[1], STREAM_HEADER, TAPE_MAX), -EPROTO);
	stream_in_finish(&in);
}

Test(stream, versions_have_to_meet, .init = record_source)
{
	static const struct {
		uint32_t oldest, newest;
		int r;
	} cases[] = {{1, 1, 0}, {0, 1, 0},	  {1, 9, 0},
		     {2, 3, 0}, {3, 4, -ENOTSUP}, {0, 0, -ENOTSUP}};
	struct stream_hello got;
	struct stream_in in;

	open_source(&in);
	cr_assert_eq(feed(&in, tape, record_at[1], TAPE_MAX), 1);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		memcpy(in.body, &cases[i].oldest, 4);
		memcpy(in.body + 4, &cases[i].newest, 4);
		cr_expect_eq(stream_parse_hello(&in, &got, &e), cases[i].r);
	}
	stream_in_finish(&in);
}

/* --- over a socket --- */

Test(stream, a_text_is_made_printable)
{
	struct stream_out out = {.timeout_ms = 1000};
	struct stream_in in;
	int fd[2];

	socketpair_of(fd);
	out.fd = fd[0];
	stream_in_init(&in, STREAM_FROM_TARGET);
	cr_assert_eq(stream_send_text(&out, STREAM_REFUSED, "no\x1b[2J\nway", &e), 0);
	cr_assert_eq(stream_await(&in, fd[1], 1000, NULL, &e), 1);
	cr_expect_str_eq(stream_text(&in), "no?[2J?way");
	/* The end, and one in the middle of a record. */
	cr_expect_eq(stream_read(&in, fd[1], &e), 0);
	close(fd[0]);
	cr_expect_eq(stream_read(&in, fd[1], &e), -ECONNRESET);
	stream_in_finish(&in);
	close(fd[1]);
}

Test(stream, silence_and_a_stop_end_the_waiting)
{
	struct stream_out out = {.timeout_ms = 30};
	struct stream_record rec = {.type = STREAM_PAGES,
				    .count = STREAM_PAGES_MAX,
				    .len = STREAM_PAGES_MAX * GMEM_PAGE};
	cleanup_free uint8_t *pages = calloc(STREAM_PAGES_MAX, GMEM_PAGE);
	_Atomic bool stop = true;
	struct stream_in in;
	int fd[2], r = 0;

	signal(SIGPIPE, SIG_IGN);
	socketpair_of(fd);
	out.fd = fd[0];
	stream_in_init(&in, STREAM_FROM_TARGET);
	cr_expect_eq(stream_await(&in, fd[1], 20, NULL, &e), -ETIMEDOUT);
	cr_expect_eq(stream_await(&in, fd[1], -1, &stop, &e), -ECANCELED);
	while (r == 0)
		r = stream_send(&out, &rec, pages, &e);
	cr_expect_eq(r, -ETIMEDOUT);
	cr_expect(out.broken);
	out.stop = &stop;
	cr_expect_eq(stream_send(&out, &rec, pages, &e), -ECANCELED);
	cr_expect_not(out.begun, "nothing of it was taken");
	close(fd[1]);
	out.stop = NULL;
	cr_expect_eq(stream_send(&out, &rec, pages, &e), -EPIPE);
	cr_expect_not(out.begun);
	stream_in_finish(&in);
	close(fd[0]);
}
