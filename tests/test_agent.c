/* SPDX-License-Identifier: Apache-2.0 */
/* The agent's protocol from the host's side, mostly against an agent that lies. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/agent/copy.h"
#include "ctl/session.h"
#include "vmm/base/fd.h"

static struct frame_in in = {.from_agent = true};

/* What the agent sends, as one would write it down. */
static void say(uint8_t type, const void *data, uint32_t len)
{
	frame_header(in.buf + in.have, type, len);
	memcpy(in.buf + in.have + AGENT_HEADER, data, len);
	in.have += AGENT_HEADER + len;
}

static void say_number(uint8_t type, uint32_t n)
{
	uint8_t b[4] = {(uint8_t)n, (uint8_t)(n >> 8), (uint8_t)(n >> 16), (uint8_t)(n >> 24)};

	say(type, b, 4);
}

static enum session_event hear(struct session *s, struct err *e)
{
	struct frame f;

	cr_assert_eq(frame_next(&in, &f), 1);
	return session_take(s, &f, e);
}

static void greet(struct session *s)
{
	struct err e;

	say(AGENT_HELLO, "SPRA\1\0\0", 8);
	cr_assert_eq(hear(s, &e), SESSION_NOTHING);
}

static void start(struct session *s)
{
	struct err e;

	greet(s);
	say_number(AGENT_STARTED, 7);
	cr_assert_eq(hear(s, &e), SESSION_STARTED);
}

/* --- frames --- */

Test(agent, frames_come_out_as_they_are_cut)
{
	int p[2];
	uint8_t bytes[2 * (AGENT_HEADER + 5)];
	struct frame f;

	frame_header(bytes, AGENT_STDOUT, 5);
	memcpy(bytes + AGENT_HEADER, "hello", 5);
	memcpy(bytes + AGENT_HEADER + 5, bytes, AGENT_HEADER + 5);
	cr_assert_eq(pipe(p), 0);
	for (unsigned i = 0; i < sizeof(bytes); i++) {
		cr_assert_eq(frame_next(&in, &f), 0);
		cr_assert_eq(write(p[1], bytes + i, 1), 1);
		cr_assert_eq(frame_fill(&in, p[0]), 1);
		if (i % 13 != 12)
			continue;
		cr_assert_eq(frame_next(&in, &f), 1);
		cr_assert_eq(f.type, AGENT_STDOUT);
		cr_assert_eq(f.len, 5u);
		cr_assert_arr_eq(f.data, "hello", 5);
	}
	close(p[1]);
	cr_assert_eq(frame_wait(&in, p[0], &f), -ECONNRESET);
}

Test(agent, the_longest_frame_fits)
{
	struct frame f;

	frame_header(in.buf, AGENT_STDOUT, AGENT_FRAME_MAX);
	in.have = AGENT_HEADER + AGENT_FRAME_MAX - 1;
	cr_assert_eq(frame_next(&in, &f), 0);
	in.have++;
	cr_assert_eq(frame_next(&in, &f), 1);
	cr_assert_eq(f.len, AGENT_FRAME_MAX);
}

/* Refused by the header alone: nobody waits for 4 GiB. */
Test(agent, lengths_are_judged_before_the_bytes)
{
	static const struct {
		uint8_t type;
		uint32_t len;
	} bad[] = {
		{AGENT_STDOUT, AGENT_FRAME_MAX + 1},
		{AGENT_STDOUT, 0xffffffff},
		{AGENT_STDOUT, 0},
		{AGENT_STARTED, 3},
		{AGENT_STARTED, 5},
		{AGENT_EXITED, 1},
		{AGENT_HELLO, 7},
		{AGENT_ENTRY, 22},
		{AGENT_PONG, 65},
		{AGENT_TAKEN, 0},
		{AGENT_ERROR, 4},
		{AGENT_ERROR, AGENT_FRAME_MAX},
		{0x00, 0},
		{0xff, 0},
		/* The host's alone. */
		{AGENT_EXEC, 30},
		{AGENT_STDIN, 1},
		{AGENT_PING, 1},
		{AGENT_GET, 2},
		{AGENT_IDENTITY, 9},
		{AGENT_SHUTDOWN, 0},
		{AGENT_SIGNAL, 4},
	};
	struct frame f;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		in.used = 0;
		in.have = AGENT_HEADER;
		frame_header(in.buf, bad[i].type, bad[i].len);
		cr_assert_eq(frame_next(&in, &f), -EPROTO, "row %zu", i);
	}
	frame_header(in.buf, AGENT_STDOUT, 1);
	in.buf[6] = 1;
	cr_assert_eq(frame_next(&in, &f), -EPROTO, "zeros that are none");
}

Test(agent, fields_end_where_the_frame_ends)
{
	static const uint8_t bytes[] = {1, 2, 'a', 0, 'b'};
	struct frame f = {.data = bytes, .len = sizeof(bytes)};
	struct frame_cursor c = frame_open(&f);

	cr_assert_eq(frame_number(&c, 2), 0x201u);
	cr_assert_str_eq(frame_string(&c), "a");
	cr_assert_str_eq(frame_string(&c), "", "no NUL");
	cr_assert(c.bad);
	cr_assert_eq(frame_number(&c, 1), 0u);
	cr_assert_not(frame_closed(&c));
	c = frame_open(&f);
	cr_assert_eq(frame_number(&c, 8), 0u);
	cr_assert(c.bad);
}

/* --- a command --- */

Test(agent, a_session_from_hello_to_exit)
{
	struct session s = {0};
	struct err e;

	cr_assert_eq(session_room(&s), 0u);
	start(&s);
	cr_assert_eq(session_room(&s), AGENT_STDIN_ROOM);
	say(AGENT_STDOUT, "x", 1);
	cr_assert_eq(hear(&s, &e), SESSION_OUTPUT);
	say(AGENT_STDERR, "x", 1);
	cr_assert_eq(hear(&s, &e), SESSION_ERRORS);
	s.unread = 100;
	say_number(AGENT_TAKEN, 60);
	cr_assert_eq(hear(&s, &e), SESSION_NOTHING);
	cr_assert_eq(session_room(&s), AGENT_STDIN_ROOM - 40);
	say(AGENT_EXITED, "\0\x2a", 2);
	cr_assert_eq(hear(&s, &e), SESSION_EXITED);
	cr_assert_eq(s.status, 42);
	cr_assert_eq(session_room(&s), 0u);
}

Test(agent, a_signal_is_128_and_its_number)
{
	struct session s = {0};
	struct err e;

	start(&s);
	say(AGENT_EXITED, "\1\x09", 2);
	cr_assert_eq(hear(&s, &e), SESSION_EXITED);
	cr_assert_eq(s.status, 137);
}

Test(agent, why_it_did_not_start)
{
	struct session s = {0};
	struct err e;

	greet(&s);
	say(AGENT_ERROR, "\2\0\0\0a\33[2Jb", 4 + 7);
	cr_assert_eq(hear(&s, &e), SESSION_REFUSED);
	cr_assert_eq(s.code, ENOENT);
	cr_assert_str_eq(e.msg, "in the guest: a?[2Jb: No such file or directory");
}

Test(agent, other_versions_and_other_programs_are_told_apart)
{
	struct err e;

	say(AGENT_HELLO, "SPRA\2\0\0", 8);
	cr_assert_eq(hear(&(struct session){0}, &e), SESSION_BROKEN);
	cr_assert(strstr(e.msg, "version 2"), "%s", e.msg);
	say(AGENT_HELLO, "SPRB\1\0\0", 8);
	cr_assert_eq(hear(&(struct session){0}, &e), SESSION_BROKEN);
	cr_assert(strstr(e.msg, "not spore's agent"), "%s", e.msg);
}

Test(agent, what_comes_at_a_wrong_time_ends_the_session)
{
	static const struct {
		uint8_t type;
		const char *data;
		uint32_t len;
	} any[] = {
		{AGENT_HELLO, "SPRA\1\0\0", 8}, {AGENT_STARTED, "\1\0\0", 4},
		{AGENT_STDOUT, "x", 1},		{AGENT_STDERR, "x", 1},
		{AGENT_TAKEN, "\1\0\0", 4},	{AGENT_EXITED, "\0", 2},
		{AGENT_ERROR, "\1\0\0\0", 5},	{AGENT_DATA, "x", 1},
		{AGENT_DONE, "\0\0\0", 4},	{AGENT_PONG, "", 0},
	};
	/* Which of them are welcome in each state. */
	static const char *const welcome[] = {"1000000000", "0100001000", "0011010000",
					      "0000000000"};
	struct err e;

	for (enum session_state state = SESSION_GREETING; state <= SESSION_OVER; state++)
		for (size_t i = 0; i < ARRAY_SIZE(any); i++) {
			struct session s = {.state = state};

			say(any[i].type, any[i].data, any[i].len);
			cr_assert_eq(hear(&s, &e) != SESSION_BROKEN, welcome[state][i] == '1',
				     "state %d, row %zu", state, i);
		}
}

Test(agent, input_that_was_never_sent_cannot_be_taken)
{
	struct session s = {0};
	struct err e;

	start(&s);
	s.unread = 10;
	say_number(AGENT_TAKEN, 11);
	cr_assert_eq(hear(&s, &e), SESSION_BROKEN);
	cr_assert_eq(s.unread, 10u);
	say_number(AGENT_TAKEN, 0xffffffff);
	cr_assert_eq(hear(&s, &e), SESSION_BROKEN);
}

Test(agent, ends_that_cannot_be)
{
	static const char bad[][3] = {"\2\0", "\1\0", "\1\x41", "\xff\1"};
	struct err e;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct session s = {0};

		start(&s);
		say(AGENT_EXITED, bad[i], 2);
		cr_assert_eq(hear(&s, &e), SESSION_BROKEN, "row %zu", i);
	}
}

Test(agent, output_cannot_steer_a_terminal)
{
	uint8_t s[] = "a\33[31mb\tc\r\n\7\x7f\xc3\xa9\xc2\x9bH\xc2";
	uint8_t next[] = "\x9b\x9b";
	bool lead = false;

	session_clean(s, sizeof(s) - 1, &lead);
	cr_assert_str_eq((char *)s, "a?[31mb\tc\r\n??\xc3\xa9\xc2?H\xc2");
	session_clean(next, 2, &lead);
	cr_assert_str_eq((char *)next, "?\x9b", "over the border of two chunks");
}

/* --- files out of a guest --- */

static char dir[] = "/tmp/spore-agent-XXXXXX";
static struct copy_in tree = {.mode_mask = 0777};
static struct copy_err te;

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

/* A directory with a file beside the copy that nobody may touch. */
static void copy_setup(void)
{
	cleanup_fd int fd = -1;

	cr_assert(mkdtemp(dir) && chdir(dir) == 0);
	fd = open("secret", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	cr_assert_eq(write(fd, "secret", 6), 6);
	cr_assert_eq(copy_open(&tree, "copy", "name", &te), 0);
}

static void copy_teardown(void)
{
	char buf[8] = "";
	cleanup_fd int fd = open("secret", O_RDONLY | O_CLOEXEC);

	copy_close(&tree);
	cr_assert_eq(read(fd, buf, sizeof(buf)), 6);
	cr_assert_str_eq(buf, "secret");
	nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static int entry(unsigned kind, unsigned mode, const char *path, const char *link)
{
	static struct frame_out o;
	struct frame f = {.type = AGENT_ENTRY, .data = o.buf};

	o.len = 0;
	frame_put_number(&o, kind, 1);
	frame_put_number(&o, mode, 4);
	frame_put_number(&o, 1000000000, 8);
	frame_put_number(&o, 0, 8);
	frame_put_string(&o, path);
	frame_put_string(&o, link);
	f.len = o.len;
	return copy_take(&tree, &f, &te);
}

static int data(const char *s)
{
	struct frame f = {
		.type = AGENT_DATA, .data = (const uint8_t *)s, .len = (uint32_t)strlen(s)};

	return copy_take(&tree, &f, &te);
}

static int file(const char *path, const char *content)
{
	int r = entry(AGENT_FILE, 0644, path, "");

	return r < 0 ? r : (r = data(content)) < 0 ? r : data("");
}

static int done(void)
{
	return copy_take(
		&tree, &(struct frame){.type = AGENT_DONE, .len = 4, .data = (uint8_t[4]){3}}, &te);
}

TestSuite(agent_copy, .init = copy_setup, .fini = copy_teardown);

Test(agent_copy, a_copy_is_what_was_sent)
{
	struct stat st;
	char buf[16] = "";

	cr_assert_eq(entry(AGENT_DIRECTORY, 0755, "", ""), 0);
	cr_assert_eq(entry(AGENT_DIRECTORY, 0500, "sub", ""), 0);
	cr_assert_eq(entry(AGENT_FILE, 06755, "sub/file", ""), 0);
	cr_assert_eq(data("one"), 0);
	cr_assert_eq(data("two"), 0);
	cr_assert_eq(data(""), 0);
	cr_assert_eq(entry(AGENT_SYMLINK, 0777, "link", "/etc/passwd"), 0);
	cr_assert_eq(done(), 1);
	cr_assert_eq(tree.left_out, 3u);
	cr_assert_eq(stat("copy/sub/file", &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0755u, "no set-user-ID out of a guest");
	cr_assert_eq(st.st_mtime, 1);
	cr_assert_eq(st.st_size, 6);
	cr_assert_eq(stat("copy/sub", &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0700u);
	cr_assert_eq(readlink("copy/link", buf, sizeof(buf)), 11);
	cr_assert_str_eq(buf, "/etc/passwd");
}

Test(agent_copy, into_a_directory_under_its_own_name)
{
	cr_assert_eq(mkdir("d", 0700), 0);
	cr_assert_eq(copy_open(&tree, "d", "name", &te), 0);
	cr_assert_eq(file("", "x"), 0);
	cr_assert_eq(access("d/name", F_OK), 0);
	cr_assert_lt(copy_open(&tree, "d", "..", &te), 0);
	cr_assert_lt(copy_open(&tree, "d", "a/b", &te), 0);
}

Test(agent_copy, paths_that_lead_out_are_refused)
{
	static const char *const bad[] = {
		"..", ".", "../secret", "/etc/x", "a/../../secret", "a//b",
		"a/", "/", "./secret",	"sub/..", "sub/../..",
	};

	cr_assert_eq(entry(AGENT_DIRECTORY, 0755, "", ""), 0);
	cr_assert_eq(entry(AGENT_DIRECTORY, 0755, "sub", ""), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cr_assert_eq(file(bad[i], "owned!"), -EPROTO, "%s", bad[i]);
		cr_assert_eq(entry(AGENT_DIRECTORY, 0777, bad[i], ""), -EPROTO, "%s", bad[i]);
		cr_assert_eq(entry(AGENT_SYMLINK, 0777, bad[i], "x"), -EPROTO, "%s", bad[i]);
	}
}

Test(agent_copy, links_that_the_guest_has_made_are_not_followed)
{
	cr_assert_eq(entry(AGENT_DIRECTORY, 0755, "", ""), 0);
	cr_assert_eq(entry(AGENT_SYMLINK, 0777, "up", ".."), 0);
	cr_assert_lt(file("up/secret", "owned!"), 0);
	cr_assert_lt(entry(AGENT_DIRECTORY, 0777, "up/new", ""), 0);
	cr_assert_lt(entry(AGENT_DIRECTORY, 0777, "up", ""), 0, "as a directory it is none");
	cr_assert_lt(access("new", F_OK), 0);
	/* Over the link, which goes, not through it. */
	cr_assert_eq(entry(AGENT_SYMLINK, 0777, "s", "../secret"), 0);
	cr_assert_eq(file("s", "owned!"), 0);
}

/* A hard link to something of ours: it is replaced, not written to. */
Test(agent_copy, what_exists_is_replaced)
{
	cr_assert_eq(entry(AGENT_DIRECTORY, 0755, "", ""), 0);
	cr_assert_eq(link("secret", "copy/hard"), 0);
	cr_assert_eq(file("hard", "owned!"), 0);
}

Test(agent_copy, frames_out_of_order_are_refused)
{
	cr_assert_eq(done(), -EPROTO, "nothing came");
	cr_assert_eq(data("x"), -EPROTO, "of no file");
	cr_assert_eq(entry(AGENT_FILE, 0644, "first", ""), -EPROTO, "no top");
	cr_assert_eq(entry(AGENT_SYMLINK, 0777, "", "secret"), -EPROTO);
	cr_assert_eq(file("", "x"), 0);
	cr_assert_eq(file("", "x"), -EPROTO, "twice");
	cr_assert_eq(file("below", "x"), -EPROTO, "below a file");
}

Test(agent_copy, a_file_has_to_end_before_the_next)
{
	cr_assert_eq(entry(AGENT_DIRECTORY, 0755, "", ""), 0);
	cr_assert_eq(entry(AGENT_FILE, 0644, "a", ""), 0);
	cr_assert_eq(entry(AGENT_FILE, 0644, "b", ""), -EPROTO);
	cr_assert_eq(done(), -EPROTO);
	cr_assert_eq(data(""), 0);
	cr_assert_eq(done(), 1);
}

Test(agent_copy, kinds_and_links_have_to_make_sense)
{
	cr_assert_eq(entry(AGENT_DIRECTORY, 0755, "", ""), 0);
	cr_assert_eq(entry(0, 0644, "a", ""), -EPROTO);
	cr_assert_eq(entry(4, 0644, "a", ""), -EPROTO);
	cr_assert_eq(entry(AGENT_FILE, 0644, "a", "to"), -EPROTO);
	cr_assert_eq(entry(AGENT_SYMLINK, 0777, "a", ""), -EPROTO);
}

/* What one side sends is what the other one takes, over a real pipe. */
Test(agent_copy, a_tree_comes_back_as_it_was)
{
	int p[2];
	struct frame f;
	struct stat st;
	int r = 0;

	cr_assert_eq(mkdir("t", 0755), 0);
	cr_assert_eq(mkdir("t/d", 0755), 0);
	cr_assert_eq(symlink("d", "t/l"), 0);
	cr_assert_eq(mkfifo("t/pipe", 0600), 0);
	cr_assert_eq(link("secret", "t/d/file"), 0);
	cr_assert_eq(pipe(p), 0);
	cr_assert_eq(copy_send(p[1], "t", NULL, NULL, &te), 0);
	while (r == 0) {
		cr_assert_eq(frame_wait(&in, p[0], &f), 0);
		r = copy_take(&tree, &f, &te);
	}
	cr_assert_eq(r, 1);
	cr_assert_eq(tree.left_out, 1u);
	cr_assert_eq(stat("copy/d/file", &st), 0);
	cr_assert_eq(st.st_size, 6);
	cr_assert_eq(lstat("copy/l", &st), 0);
	cr_assert(S_ISLNK(st.st_mode));
	cr_assert_lt(lstat("copy/pipe", &st), 0);
}
