/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "vmm/base/log.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <regex.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/scratch.h"
#include "vmm/base/fd.h"

static struct scratch dir;

/* Each test is a process of its own, so each one starts with the log as it is at the beginning. */
static void setup(void)
{
	scratch_init(&dir);
	cr_assert_eq(log_open(scratch_path(&dir, "log"), NULL), 0);
}

static void teardown(void)
{
	scratch_finish(&dir);
}

TestSuite(log, .init = setup, .fini = teardown, .timeout = 20);

/* What has been written so far, in one string. */
static const char *written_to(const char *name)
{
	static char buf[1 << 20];
	cleanup_fd int fd = open(scratch_path(&dir, name), O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, buf, sizeof(buf) - 1);

	cr_assert_geq(n, 0);
	buf[n] = 0;
	return buf;
}

static const char *written(void)
{
	return written_to("log");
}

static void match(const char *text, const char *pattern)
{
	regex_t re;

	cr_assert_eq(regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB), 0);
	cr_assert_eq(regexec(&re, text, 0, NULL, 0), 0, "'%s' is not %s", text, pattern);
	regfree(&re);
}

static unsigned lines(const char *text)
{
	unsigned n = 0;

	for (; *text; text++)
		n += *text == '\n';
	return n;
}

#define TIME "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{9}"

Test(log, line_without_extras)
{
	log_info("hello %d", 42);
	match(written(), "^" TIME " \\[anonymous-instance:main\\] hello 42\n$");
}

/* UTC, whatever the time zone: nothing is read for it after the start. */
Test(log, time_is_now)
{
	time_t before = time(NULL), at;
	struct tm tm = {0};

	setenv("TZ", "Asia/Kathmandu", 1);
	log_info("x");
	cr_assert_not_null(strptime(written(), "%Y-%m-%dT%H:%M:%S.", &tm));
	at = timegm(&tm);
	cr_assert(at >= before && at <= time(NULL));
}

Test(log, line_with_level_origin_and_id)
{
	log_set_show(true, true);
	log_set_id("vm-7");
	log_name_thread("vcpu 3");
	log_error("oops");
	match(written(), "^" TIME " \\[vm-7:vcpu 3:ERROR:tests/test_log\\.c:[0-9]+\\] oops\n$");
}

Test(log, levels_filter)
{
	log_set_level(LOG_WARN);
	log_error("e");
	log_warn("w");
	log_info("i");
	log_debug("d");
	cr_assert_eq(lines(written()), 2);
	log_set_level(LOG_OFF);
	log_error("e");
	cr_assert_eq(lines(written()), 2);
	log_set_level(LOG_TRACE);
	log_trace("t");
	cr_assert_eq(lines(written()), 3);
}

Test(log, level_names)
{
	static const struct {
		const char *name;
		enum log_level level;
	} good[] = {
		{"Off", LOG_OFF},     {"error", LOG_ERROR},  {"WARN", LOG_WARN},
		{"Info", LOG_INFO},   {"Warning", LOG_WARN}, {"debug", LOG_DEBUG},
		{"tRaCe", LOG_TRACE},
	};
	enum log_level level;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		cr_assert_eq(log_level_parse(good[i].name, &level), 0);
		cr_assert_eq(level, good[i].level);
	}
	cr_assert_eq(log_level_parse("", &level), -EINVAL);
	cr_assert_eq(log_level_parse("Infos", &level), -EINVAL);
}

Test(log, module_prefix_filters)
{
	struct log_site site = {0};

	log_set_module("vmm/");
	log_write(&site, LOG_INFO, "vmm/vm.c", 1, "in");
	log_write(&site, LOG_INFO, "virtio/block.c", 1, "out");
	cr_assert_eq(lines(written()), 1);
	log_set_module(NULL);
	log_write(&site, LOG_INFO, "virtio/block.c", 1, "in again");
	cr_assert_eq(lines(written()), 2);
}

/* Whatever its length, a message is one line, cut but whole at its end. */
Test(log, every_length_is_one_line)
{
	static char text[2048];

	log_set_show(true, true);
	memset(text, 'x', sizeof(text));
	for (size_t len = 500; len < 1000; len++) {
		struct log_site site = {0};

		log_write(&site, LOG_INFO, "vmm/vm.c", 1, "%.*s", (int)len, text);
	}
	cr_assert_eq(lines(written()), 500);
	cr_assert_eq(log_stats().missed, 0);
}

Test(log, a_cut_message_still_tells_what_was_left_out)
{
	struct log_site site = {.suppressed = UINT32_MAX};
	static char text[2048];
	const char *log;

	memset(text, 'x', sizeof(text) - 1);
	log_set_show(true, true);
	log_write(&site, LOG_INFO, "vmm/vm.c", 1, "%s", text);
	log = written();
	cr_assert_eq(lines(log), 1);
	match(log, "xxx \\(4294967295 like this left out\\)\n$");
}

/* What a client or guest chose must not look like a line of ours, nor drive a terminal. */
Test(log, control_characters_are_blanked)
{
	const char *log;

	log_info("drive '%s'", "a\nb\r\x1b[2J\x7f\tc");
	log = written();
	cr_assert_eq(lines(log), 1);
	cr_assert_not_null(strstr(log, "drive 'a b  [2J  c'\n"), "%s", log);
}

Test(log, ten_lines_a_site_then_silence)
{
	for (unsigned i = 0; i < 1000; i++)
		log_info("flood %u", i);
	log_info("another site");
	cr_assert_eq(lines(written()), 11);
	cr_assert_not_null(strstr(written(), "flood 9\n"));
	cr_assert_null(strstr(written(), "flood 10\n"));
	cr_assert_eq(log_stats().rate_limited, 990);
}

/* The window is over: the site speaks again and says what was left out. */
Test(log, the_next_window_tells_what_was_left_out)
{
	struct log_site site = {0};

	for (unsigned i = 0; i < 15; i++)
		log_write(&site, LOG_INFO, "vmm/vm.c", 1, "x");
	site.window_ns -= 5000000001ull;
	for (unsigned i = 0; i < 2; i++)
		log_write(&site, LOG_INFO, "vmm/vm.c", 1, "y");
	match(written(), "y \\(5 like this left out\\)\n");
	match(written(), "y\n$");
}

Test(log, file_is_appended_to_and_private)
{
	struct stat st;

	log_info("one");
	cr_assert_eq(log_open(scratch_path(&dir, "second"), NULL), 0);
	log_info("two");
	cr_assert_eq(log_open(scratch_path(&dir, "log"), NULL), 0);
	log_info("three");
	cr_assert_eq(lines(written()), 2);
	match(written(), "one\n.*three\n$");
	cr_assert_eq(lines(written_to("second")), 1);
	cr_assert_eq(stat(scratch_path(&dir, "log"), &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0600);
}

Test(log, open_failure_keeps_the_old_sink)
{
	int before = dup(0), after;
	struct err e;

	close(before);
	cr_assert_eq(log_open(scratch_path(&dir, "no/such/dir"), &e), -ENOENT);
	cr_assert_not_null(strstr(e.msg, "log: open '"));
	log_info("still here");
	cr_assert_eq(lines(written()), 1);
	cr_assert_eq(log_open(scratch_path(&dir, "second"), &e), 0);
	after = dup(0);
	close(after);
	cr_assert_eq(after, before, "the old file stays open");
}

static atomic_bool done;

static void *write_lines(void *arg)
{
	while (!done) {
		struct log_site site = {0};

		log_write(&site, LOG_INFO, "vmm/vm.c", 1, "line");
	}
	return arg;
}

/*
 * A thread writes while the log is moved and other files are opened and closed: had its number
 * been free for a moment, lines would get into them.
 */
Test(log, moving_the_log_under_a_writer)
{
	pthread_t t;

	cr_assert_eq(pthread_create(&t, NULL, write_lines, NULL), 0);
	for (unsigned i = 0; i < 500; i++) {
		cleanup_fd int fd = -1;
		struct stat st;

		cr_assert_eq(log_open(scratch_path(&dir, i % 2 ? "log" : "other"), NULL), 0);
		fd = memfd_create("disk", MFD_CLOEXEC);
		sched_yield();
		cr_assert_eq(fstat(fd, &st), 0);
		cr_assert_eq(st.st_size, 0);
		if (i % 64 == 0) {
			cr_assert_eq(truncate(scratch_path(&dir, "log"), 0), 0);
			cr_assert_eq(truncate(scratch_path(&dir, "other"), 0), 0);
		}
	}
	done = true;
	pthread_join(t, NULL);
	cr_assert_eq(log_stats().missed, 0);
}

/* A FIFO without a reader is opened, keeps lines while it can and never stops us. */
Test(log, a_full_fifo_loses_whole_lines)
{
	static char buf[1 << 17];
	const char *path = scratch_fifo(&dir, "fifo");
	cleanup_fd int fd = -1;
	unsigned kept = 0;
	ssize_t n;

	cr_assert_eq(log_open(path, NULL), 0);
	for (unsigned i = 0; i < 5000; i++) {
		struct log_site site = {0};

		log_write(&site, LOG_INFO, "vmm/vm.c", 1, "line %u", i);
	}
	cr_assert_gt(log_stats().missed, 0);
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	while ((n = read(fd, buf, sizeof(buf) - 1)) > 0) {
		buf[n] = 0;
		kept += lines(buf);
	}
	cr_assert_eq(kept + log_stats().missed, 5000);
}

/*
 * The default sink is a standard output that blocks. A supervisor that does not read it must not
 * stop a vCPU or the API.
 */
Test(log_stdout, a_full_pipe_does_not_block, .timeout = 20)
{
	int pipes[2];

	cr_assert_eq(pipe2(pipes, O_CLOEXEC), 0);
	cr_assert_eq(dup2(pipes[1], STDOUT_FILENO), STDOUT_FILENO);
	for (unsigned i = 0; i < 5000; i++) {
		struct log_site site = {0};

		log_write(&site, LOG_INFO, "vmm/vm.c", 1, "line %u", i);
	}
	cr_assert_gt(log_stats().missed, 0);
	cr_assert_lt(log_stats().missed, 5000);
}

Test(log_stdout, a_reader_that_is_gone_is_counted)
{
	int pipes[2];

	signal(SIGPIPE, SIG_IGN);
	cr_assert_eq(pipe2(pipes, O_CLOEXEC), 0);
	cr_assert_eq(dup2(pipes[1], STDOUT_FILENO), STDOUT_FILENO);
	close(pipes[0]);
	log_info("x");
	close(STDOUT_FILENO);
	log_info("y");
	cr_assert_eq(log_stats().missed, 2);
}

static void *log_many(void *arg)
{
	for (unsigned i = 0; i < 200; i++) {
		struct log_site site = {0};

		log_write(&site, LOG_INFO, "vmm/vm.c", 1, "%s", (const char *)arg);
	}
	return NULL;
}

/* One write(2) a line: lines of several threads are never mixed. */
Test(log, threads_do_not_mix_their_lines)
{
	static char text[2][600];
	pthread_t t[2];
	const char *log;

	for (unsigned i = 0; i < 2; i++) {
		memset(text[i], 'a' + (int)i, sizeof(text[i]) - 1);
		cr_assert_eq(pthread_create(&t[i], NULL, log_many, text[i]), 0);
	}
	for (unsigned i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	log = written();
	cr_assert_eq(lines(log), 400);
	while (*log) {
		const char *end = strchr(log, '\n');
		const char *body = strstr(log, "] ") + 2;

		cr_assert_eq((size_t)(end - body), sizeof(text[0]) - 1);
		cr_assert_eq(strspn(body, body[0] == 'a' ? "a" : "b"), sizeof(text[0]) - 1);
		log = end + 1;
	}
}
