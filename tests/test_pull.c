/* SPDX-License-Identifier: Apache-2.0 */
/* Post-copy at the target: memory comes when it is touched, and what a lying or dying source does to that. */
#define _GNU_SOURCE
#include "snapshot/pull.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "snapshot/uffd.h"
#include "vmm/base/fd.h"
#include "vmm/vm.h"

#define PAGES 1000u
#define BITS  ((PAGES + 63) / 64)
#define LIMIT 20000

static struct gmem mem;
static struct pull *pull;
static struct pageset left;
static struct stream_in in, heard; /* of the target; of the source */
static struct stream_out out, said;
static uint64_t bits[BITS];
static struct err e;

static void start(void)
{
	const struct gmem_region ram = {.len = PAGES * GMEM_PAGE};
	int fd[2], uffd;

	signal(SIGPIPE, SIG_IGN);
	cr_assert_eq(gmem_init(&mem, &ram, 1, GMEM_ANON, false, &e), 0);
	uffd = uffd_open(&mem, &e);
	if (uffd < 0)
		cr_skip_test("no userfaultfd for this user: %s", e.msg);
	close(uffd);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
	stream_in_init(&in, STREAM_FROM_SOURCE);
	stream_in_init(&heard, STREAM_FROM_TARGET);
	out = (struct stream_out){.fd = fd[0], .timeout_ms = LIMIT};
	said = (struct stream_out){.fd = fd[1], .timeout_ms = LIMIT};
	/* Where a conversation is when the state has come, and ACCEPT was said. */
	in.expected =
		1u << STREAM_COMMIT | 1u << STREAM_ABORT | 1u << STREAM_PUSH | 1u << STREAM_BLANK;
	heard.expected = 1u << STREAM_READY | 1u << STREAM_WANT;
}

static void finish(void)
{
	pull_destroy(pull);
	pageset_finish(&left);
	gmem_finish(&mem);
	stream_in_finish(&in);
	stream_in_finish(&heard);
	close(out.fd);
	close(said.fd);
}

TestSuite(pull, .init = start, .fini = finish, .timeout = 60);

static int parse(uint64_t count, uint32_t len)
{
	struct stream_in record = {.rec = {.type = STREAM_LEFT, .first = count, .len = len},
				   .body = (uint8_t *)bits};

	return pull_parse(&mem, &record, &left, &e);
}

static void leave(uint64_t first, uint64_t count)
{
	for (uint64_t i = first; i < first + count; i++)
		bits[i / 64] |= 1ull << (i % 64);
}

/* So many pages are left, as `bits` has them. */
static void begin(uint64_t count)
{
	cr_assert_eq(parse(count, sizeof(bits)), 0, "%s", e.msg);
	pull = pull_create(&mem, &left, &in, &out, NULL, &e);
	cr_assert_not_null(pull, "%s", e.msg);
}

static void tell(enum stream_type type, uint64_t first, uint32_t count, const void *body)
{
	struct stream_record rec = {.type = type, .first = first, .count = count};

	rec.len = body ? count * GMEM_PAGE : 0;
	cr_assert_eq(stream_send(&said, &rec, body, &e), 0, "%s", e.msg);
}

/* Pages that begin with their number plus 1. */
static void push(uint64_t first, uint32_t count)
{
	static uint8_t page[STREAM_PAGES_MAX * GMEM_PAGE];

	for (uint32_t i = 0; i < count; i++)
		memcpy(page + i * GMEM_PAGE, &(uint64_t){first + i + 1}, 8);
	tell(STREAM_PUSH, first, count, page);
}

static void hears(enum stream_type type)
{
	cr_assert_eq(stream_await(&heard, said.fd, LIMIT, NULL, &e), 1, "%s", e.msg);
	cr_assert_eq(heard.rec.type, type, "%d", (int)heard.rec.type);
}

static uint64_t first_of(uint64_t page)
{
	return *(volatile uint64_t *)(void *)(gmem_base(&mem) + page * GMEM_PAGE);
}

static void until(enum pull_state state)
{
	struct pollfd p = {.fd = pull_event(pull), .events = POLLIN};

	while (pull_state(pull, NULL) != state) {
		cr_assert_eq(poll(&p, 1, LIMIT), 1);
		fd_event_drain(p.fd);
	}
}

static void commit(void)
{
	pull_ready(pull, 7);
	hears(STREAM_READY);
	cr_expect_eq(heard.rec.first, 7);
	tell(STREAM_COMMIT, 1, 0, NULL);
	hears(STREAM_RUNNING);
}

/* Touches the page that `arg` points to, and puts there what it has found. */
static void *touch(void *arg)
{
	*(uint64_t *)arg = first_of(*(uint64_t *)arg);
	return NULL;
}

static pthread_t touch_later(uint64_t *page)
{
	pthread_t thread;

	cr_assert_eq(pthread_create(&thread, NULL, touch, page), 0);
	return thread;
}

Test(pull, who_touches_a_page_that_is_left_gets_it_and_the_rest_follows)
{
	uint64_t page = 500;
	pthread_t thread;
	bool run;

	memset(gmem_base(&mem), 0x55, PAGES * GMEM_PAGE);
	leave(400, 200);
	begin(200);
	/* Also before it is ours. */
	thread = touch_later(&page);
	hears(STREAM_WANT);
	cr_expect_eq(heard.rec.first, 500);
	push(500, 3);
	pthread_join(thread, NULL);
	cr_expect_eq(page, 501);
	commit();
	cr_expect_eq(pull_state(pull, &run), PULL_COMMITTED);
	cr_expect(run);
	cr_expect_eq(pull_left(pull), 197);
	/* What is there already, or never was left, stays as it is. */
	*(volatile uint64_t *)(void *)(gmem_base(&mem) + 501 * GMEM_PAGE) = 3;
	push(396, 64);
	push(460, 64);
	tell(STREAM_BLANK, 524, 64, NULL);
	tell(STREAM_BLANK, 588, 36, NULL);
	hears(STREAM_DONE);
	until(PULL_DONE);
	cr_expect_eq(pull_left(pull), 0);
	for (uint64_t i = 0; i < PAGES; i++)
		cr_expect_eq(first_of(i),
			     i == 501		   ? 3
			     : i >= 400 && i < 524 ? i + 1
			     : i >= 400 && i < 600 ? 0
						   : 0x5555555555555555,
			     "page %llu", (unsigned long long)i);
}

Test(pull, what_the_guest_gives_back_is_zero_and_is_not_waited_for)
{
	uint64_t page = 11;
	pthread_t thread;

	leave(10, 5);
	begin(5);
	commit();
	thread = touch_later(&page);
	hears(STREAM_WANT);
	cr_assert_geq(gmem_discard(&mem, gmem_base(&mem) + 10 * GMEM_PAGE, 4 * GMEM_PAGE), 0);
	pthread_join(thread, NULL);
	cr_expect_eq(page, 0);
	cr_expect_eq(first_of(10), 0);
	/* It comes all the same, and too late. */
	push(10, 5);
	hears(STREAM_DONE);
	until(PULL_DONE);
	cr_expect_eq(first_of(11), 0);
	cr_expect_eq(first_of(13), 0);
	cr_expect_eq(first_of(14), 15);
}

Test(pull, pages_that_were_never_sent_are_zero_meanwhile)
{
	leave(0, 1);
	begin(1);
	cr_expect_eq(first_of(999), 0);
	cr_expect_eq(first_of(1), 0);
}

Test(pull, a_source_that_is_gone_when_all_is_there_is_not_missed)
{
	leave(3, 1);
	begin(1);
	commit();
	push(3, 1);
	shutdown(said.fd, SHUT_RDWR);
	until(PULL_DONE);
	cr_expect_eq(first_of(3), 4);
}

static void lose_source(void)
{
	leave(3, 2);
	begin(2);
}

/* The process ends before these are over. */
static void never(void)
{
	first_of(4);
	cr_assert_fail("it went on without its memory");
}

Test(pull, a_source_that_is_gone_before_the_hand_over, .exit_code = VM_EXIT_ERROR)
{
	lose_source();
	shutdown(said.fd, SHUT_RDWR);
	never();
}

Test(pull, a_source_that_gives_up, .exit_code = VM_EXIT_ERROR)
{
	lose_source();
	stream_send_text(&said, STREAM_ABORT, "no", &e);
	never();
}

Test(pull, a_source_that_is_gone_behind_the_hand_over, .exit_code = VM_EXIT_SPLIT)
{
	lose_source();
	commit();
	push(3, 1);
	shutdown(said.fd, SHUT_RDWR);
	never();
}

Test(pull, a_second_hand_over, .exit_code = VM_EXIT_SPLIT)
{
	lose_source();
	commit();
	push(3, 1);
	tell(STREAM_COMMIT, 1, 0, NULL);
	never();
}

Test(pull, pages_that_are_no_memory, .exit_code = VM_EXIT_SPLIT)
{
	lose_source();
	commit();
	push(PAGES - 1, 2);
	never();
}

Test(pull, a_list_that_makes_no_sense_is_refused)
{
	leave(0, 3);
	cr_expect_eq(parse(2, sizeof(bits)), -EPROTO);
	cr_expect_eq(parse(3, sizeof(bits) - 8), -EPROTO);
	cr_expect_eq(parse(3, sizeof(bits) + 8), -EPROTO);
	bits[BITS - 1] = 1ull << 63;
	cr_expect_eq(parse(4, sizeof(bits)), -EPROTO);
	bits[BITS - 1] = 0;
	mem.backing = GMEM_MEMFD;
	cr_expect_eq(parse(3, sizeof(bits)), -ENOTSUP);
	mem.backing = GMEM_ANON;
	cr_expect_eq(parse(3, sizeof(bits)), 0);
}
