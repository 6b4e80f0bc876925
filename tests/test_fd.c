/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "vmm/base/fd.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/lib/scratch.h"

static struct scratch dir;

static void setup(void)
{
	scratch_init(&dir);
}

static void teardown(void)
{
	scratch_finish(&dir);
}

TestSuite(fd, .init = setup, .fini = teardown);

/* The lowest free descriptor: the same before and after means that nothing leaked. */
static int lowest_free(void)
{
	int fd = dup(0);

	close(fd);
	return fd;
}

Test(fd, close_keeps_errno_and_leaves_minus_one)
{
	int fd = dup(0), copy = fd;

	errno = ENOSPC;
	fd_close(&fd);
	cr_assert_eq(fd, -1);
	cr_assert_eq(errno, ENOSPC);
	cr_assert_eq(fcntl(copy, F_GETFD), -1);
	fd_close(&fd); /* a second time does nothing */
	cr_assert_eq(fd, -1);
}

Test(fd, open_file_is_cloexec_and_blocking)
{
	const char *path = scratch_file(&dir, "a", "hello", 5);
	struct err e;
	cleanup_fd int fd = fd_open_file(path, O_RDWR, false, &e);

	cr_assert_geq(fd, 0);
	cr_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	cr_assert_not(fcntl(fd, F_GETFL) & O_NONBLOCK, "io_uring would answer EAGAIN");
	cr_assert_eq(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR);
	cr_assert_eq(fd_size(fd), 5);
}

Test(fd, open_file_names_what_it_refuses)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	cleanup_fd int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int before = lowest_free();
	struct err e;

	cr_assert_lt(fd_open_file(scratch_path(&dir, "none"), O_RDONLY, false, &e), 0);
	cr_assert_eq(e.code, ENOENT);
	cr_assert_neq(strstr(e.msg, "/none': No such file"), NULL, "%s", e.msg);

	cr_assert_eq(fd_open_file(dir.dir, O_RDONLY, true, &e), -EINVAL);
	cr_assert_neq(strstr(e.msg, "a directory"), NULL, "%s", e.msg);

	cr_assert_eq(fd_open_file("/dev/null", O_RDONLY, true, &e), -EINVAL);
	cr_assert_neq(strstr(e.msg, "a character device"), NULL, "%s", e.msg);
	cr_assert_neq(strstr(e.msg, "regular file or block device"), NULL, "%s", e.msg);

	strcpy(addr.sun_path, scratch_path(&dir, "s"));
	cr_assert_eq(bind(sock, (struct sockaddr *)&addr, sizeof(addr)), 0);
	cr_assert_lt(fd_open_file(addr.sun_path, O_RDONLY, true, &e), 0);
	unlink(addr.sun_path);

	cr_assert_eq(lowest_free(), before);
}

/* Opening a FIFO without O_NONBLOCK waits for its other end. */
Test(fd, open_file_never_waits_for_a_fifo, .timeout = 10)
{
	const char *path = scratch_fifo(&dir, "f");
	struct err e;

	cr_assert_eq(fd_open_file(path, O_RDONLY, true, &e), -EINVAL);
	cr_assert_neq(strstr(e.msg, "a FIFO"), NULL, "%s", e.msg);
	cr_assert_eq(fd_open_file(path, O_RDWR, false, NULL), -EINVAL);
}

Test(fd, pread_full_reads_all_or_says_why)
{
	cleanup_fd int fd =
		fd_open_file(scratch_file(&dir, "a", "0123456789", 10), O_RDONLY, false, NULL);
	char buf[10];

	cr_assert_eq(fd_pread_full(fd, buf, 4, 3), 0);
	cr_assert_eq(memcmp(buf, "3456", 4), 0);
	cr_assert_eq(fd_pread_full(fd, buf, 10, 0), 0);
	cr_assert_eq(fd_pread_full(fd, buf, 4, 7), -ENODATA);
	cr_assert_eq(fd_pread_full(fd, buf, 1, 10), -ENODATA);
	cr_assert_eq(fd_pread_full(fd, buf, 0, 99), 0);
	cr_assert_eq(fd_pread_full(fd, buf, 1, UINT64_MAX), -EINVAL);
	cr_assert_eq(fd_pread_full(-1, buf, 1, 0), -EBADF);
}

Test(fd, extend_makes_a_hole_and_keeps_what_is_there)
{
	cleanup_fd int fd = memfd_create("extended", MFD_CLOEXEC);
	char there[5] = {0};
	struct err e;

	cr_assert_eq(fd_extend(fd, 0, &e), 0);
	cr_assert_eq(fd_extend(fd, 3 * 4096, &e), 0);
	cr_assert_eq(fd_size(fd), 3 * 4096);
	cr_expect_lt(lseek(fd, 0, SEEK_DATA), 0, "the last page is a hole too");
	cr_assert_eq(fd_pwrite_full(fd, "last", 4, 3 * 4096 - 4), 0);
	cr_assert_eq(fd_extend(fd, 4096, &e), 0);
	cr_assert_eq(fd_extend(fd, 3 * 4096, &e), 0);
	cr_assert_eq(fd_size(fd), 3 * 4096, "it never shrinks");
	cr_assert_eq(fd_extend(fd, 3 * 4096 + 7, &e), 0);
	cr_assert_eq(fd_pread_full(fd, there, 4, 3 * 4096 - 4), 0);
	cr_expect_str_eq(there, "last");
	/* In the page that its end is in. */
	cr_assert_eq(fd_pwrite_full(fd, "more", 4, 3 * 4096), 0);
	cr_assert_eq(fd_extend(fd, 4 * 4096, &e), 0);
	cr_assert_eq(fd_pread_full(fd, there, 4, 3 * 4096), 0);
	cr_expect_str_eq(there, "more");
	cr_expect_lt(fd_extend(-1, 1, &e), 0);
	cr_expect(strstr(e.msg, "1 bytes long"));
}

Test(fd, size_of_what_has_none)
{
	cr_assert_eq(fd_size(-1), -EBADF);
}

static void on_signal(int sig)
{
	(void)sig;
}

struct writer {
	int fd;
	int result;
};

static char big[1 << 20];

static void *write_big(void *arg)
{
	struct writer *w = arg;

	w->result = fd_write_full(w->fd, big, sizeof(big));
	return NULL;
}

/* Signals without SA_RESTART hit a writer that waits in the middle of its data. */
Test(fd, write_full_goes_on_after_signals, .timeout = 20)
{
	struct sigaction sa = {.sa_handler = on_signal};
	static char got[sizeof(big)];
	struct writer w;
	pthread_t t;
	int pipes[2];
	size_t n = 0;

	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (char)(i * 7 >> 3);
	cr_assert_eq(pipe(pipes), 0);
	sigaction(SIGUSR2, &sa, NULL);
	w.fd = pipes[1];
	cr_assert_eq(pthread_create(&t, NULL, write_big, &w), 0);
	while (n < sizeof(got)) {
		ssize_t r;

		pthread_kill(t, SIGUSR2);
		r = read(pipes[0], got + n, MIN(sizeof(got) - n, (size_t)5000));
		cr_assert_gt(r, 0);
		n += (size_t)r;
	}
	pthread_join(t, NULL);
	cr_assert_eq(w.result, 0);
	cr_assert_eq(memcmp(got, big, sizeof(big)), 0);
}

Test(fd, write_full_reports_a_full_and_a_closed_pipe)
{
	int pipes[2];

	signal(SIGPIPE, SIG_IGN);
	cr_assert_eq(pipe2(pipes, O_NONBLOCK), 0);
	cr_assert_eq(fd_write_full(pipes[1], big, sizeof(big)), -EAGAIN);
	close(pipes[0]);
	cr_assert_eq(fd_write_full(pipes[1], "x", 1), -EPIPE);
	cr_assert_eq(fd_write_full(pipes[1], "x", 0), 0);
}

Test(fd, event_signals_add_up_to_one)
{
	cleanup_fd int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	cr_assert_not(fd_event_drain(fd));
	fd_event_signal(fd);
	fd_event_signal(fd);
	cr_assert(fd_event_drain(fd));
	cr_assert_not(fd_event_drain(fd));
}

Test(fd, event_signal_at_the_limit_does_not_wait, .timeout = 10)
{
	cleanup_fd int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	cr_assert_eq(eventfd_write(fd, UINT64_MAX - 1), 0);
	fd_event_signal(fd);
	cr_assert(fd_event_drain(fd));
	fd_event_signal(fd);
	cr_assert(fd_event_drain(fd));
}

/* --- sinks --- */

Test(fd, sink_is_created_private_and_appended_to)
{
	const char *path = scratch_path(&dir, "sink");
	struct err e = {0};
	struct stat st;

	for (unsigned i = 1; i <= 2; i++) {
		cleanup_fd int fd = fd_open_sink(path, &e);

		cr_assert_geq(fd, 0, "%s", e.msg);
		cr_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
		cr_assert_eq(write(fd, "line\n", 5), 5);
		cr_assert_eq(fd_size(fd), 5 * i);
		cr_assert_eq(fstat(fd, &st), 0);
		cr_assert_eq(st.st_mode & 0777, 0600);
	}
}

/* A second name may be somebody else's file. */
Test(fd, sink_refuses_what_is_no_sink)
{
	const char *path = scratch_file(&dir, "one", "", 0);
	int before = lowest_free();
	struct err e;

	cr_assert_eq(link(path, scratch_path(&dir, "two")), 0);
	cr_assert_eq(fd_open_sink(path, &e), -EMLINK);
	cr_assert_eq(fd_open_sink(dir.dir, &e), -EISDIR);
	cr_assert_not_null(strstr(e.msg, dir.dir));
	cr_assert_eq(lowest_free(), before);
}

Test(fd, sink_may_be_a_fifo_without_a_reader, .timeout = 10)
{
	cleanup_fd int fd = fd_open_sink(scratch_fifo(&dir, "f"), NULL);

	cr_assert_geq(fd, 0);
	cr_assert_eq(write(fd, "kept", 4), 4);
}

/* --- inherited --- */

static int open_number(int number, int flags, struct err *e)
{
	char path[40];

	snprintf(path, sizeof(path), "/dev/fd/%d", number);
	return fd_open_file(path, flags, false, e);
}

Test(fd, an_inherited_descriptor_is_named_by_its_number)
{
	const char *path = scratch_file(&dir, "f", "12345", 5);
	cleanup_fd int ours = open(path, O_RDWR | O_CLOEXEC);
	int inherited = open(path, O_RDWR), only_read = open(path, O_RDONLY);
	int folder = open(dir.dir, O_RDONLY | O_DIRECTORY);
	int before = lowest_free(), fd;
	struct err e;

	unlink(path);
	fd = open_number(inherited, O_RDWR, &e);
	cr_assert_geq(fd, 0, "%s", e.msg);
	cr_expect_neq(fd, inherited);
	cr_expect_eq(fd_size(fd), 5);
	cr_expect(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	fd_close(&fd);
	cr_expect_eq(fcntl(inherited, F_GETFD), 0, "it is still there");
	fd = open_number(only_read, O_RDONLY, &e);
	cr_expect_geq(fd, 0, "%s", e.msg);
	fd_close(&fd);
	cr_expect_eq(open_number(only_read, O_RDWR, &e), -EACCES);
	cr_expect(strstr(e.msg, "not open for reading and writing"), "%s", e.msg);
	cr_expect_eq(open_number(ours, O_RDWR, &e), -EBADF);
	cr_expect_eq(open_number(0, O_RDONLY, &e), -EBADF);
	cr_expect_eq(open_number(before, O_RDONLY, &e), -EBADF);
	cr_expect_eq(open_number(folder, O_RDONLY, &e), -EINVAL);
	cr_expect_eq(fd_open_file("/dev/fd/99999999999", O_RDONLY, false, &e), -ENOENT);
	cr_expect_lt(fd_open_file("/dev/fd/x", O_RDONLY, false, &e), 0);
	cr_expect_eq(lowest_free(), before);
	close(inherited);
	close(only_read);
	close(folder);
}

Test(fd, an_inherited_socket_is_named_by_its_number)
{
	int pair[2], file = open("/dev/null", O_RDWR), fd;
	char path[40];
	struct err e = {0};

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	fcntl(pair[1], F_SETFD, FD_CLOEXEC);
	snprintf(path, sizeof(path), "/dev/fd/%d", pair[0]);
	fd = fd_inherit(path, &e);
	cr_assert_geq(fd, 0, "%s", e.msg);
	cr_expect(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	cr_expect(fcntl(fd, F_GETFL) & O_NONBLOCK);
	cr_expect_eq(fd_write_full(fd, "x", 1), 0);
	close(fd);
	snprintf(path, sizeof(path), "/dev/fd/%d", pair[1]);
	cr_expect_eq(fd_inherit(path, &e), -EBADF, "it is our own");
	snprintf(path, sizeof(path), "/dev/fd/%d", file);
	cr_expect_eq(fd_inherit(path, &e), -ENOTSOCK);
	cr_expect_eq(fd_inherit("/run/socket", &e), -ENOENT);
	close(pair[0]);
	close(pair[1]);
	close(file);
}

/* --- in a jail --- */

Test(fd, confined_paths_stay_inside)
{
	char deep[100] = "";
	struct err e;
	int fd;

	scratch_file(&dir, "a", "x", 1);
	cr_assert_eq(symlink("a", scratch_path(&dir, "link")), 0);
	cr_assert_eq(symlink("/etc/passwd", scratch_path(&dir, "out")), 0);
	cr_assert_eq(chdir(dir.dir), 0);
	fd_confine();
	fd = fd_open_file("/a", O_RDONLY, false, &e);
	cr_assert_geq(fd, 0, "%s", e.msg);
	close(fd);
	fd = fd_open_file("../../a", O_RDWR, false, &e);
	cr_assert_geq(fd, 0, "%s", e.msg);
	close(fd);
	cr_assert_eq(fd_open_file("/etc/passwd", O_RDONLY, false, &e), -ENOENT);
	for (unsigned i = 0; i < 20; i++)
		strcat(deep, "../");
	strcat(deep, "etc/passwd");
	cr_assert_eq(fd_open_file(deep, O_RDONLY, false, &e), -ENOENT);
	cr_assert_eq(fd_open_file("link", O_RDONLY, false, &e), -ELOOP);
	cr_assert_eq(fd_open_file("out", O_RDONLY, false, &e), -ELOOP);
	cr_assert_eq(fd_open_sink("out", &e), -ELOOP);
	fd = fd_open_sink("/new", &e);
	cr_assert_geq(fd, 0, "%s", e.msg);
	close(fd);
	cr_assert_eq(access(scratch_path(&dir, "new"), F_OK), 0, "created inside");
}
