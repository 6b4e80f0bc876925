/* SPDX-License-Identifier: Apache-2.0 */
/* How the command of `sporectl run` ended, as a guest tells it, also one that lies. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "ctl/agent/frame.h"
#include "ctl/outcome.h"
#include "vmm/base/fd.h"

static char dir[] = "/tmp/outcome-XXXXXX", base[64];
static struct outcome o;

static void begin(void)
{
	struct err e;

	cr_assert(mkdtemp(dir));
	snprintf(base, sizeof(base), "%s/v", dir);
	cr_assert_eq(outcome_begin(&o, base, &e), 0, "%s", e.msg);
}

static int connect_guest(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s_1078", base);
	cr_assert_eq(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

/* Until the host closes. */
static void drain(int fd)
{
	char buf[64];

	while (read(fd, buf, sizeof(buf)) > 0)
		;
	close(fd);
}

static int finish(void)
{
	int status = outcome_end(&o);

	cr_assert_neq(access(o.path, F_OK), 0);
	rmdir(dir);
	return status;
}

static void say(enum agent_frame type, uint8_t first, uint8_t second)
{
	uint8_t how[2] = {first, second};
	int fd = connect_guest();

	frame_send_hello(fd);
	frame_write(fd, type, how, 2);
	drain(fd);
}

Test(outcome, a_status_or_a_signal_arrives)
{
	begin();
	say(AGENT_EXITED, 0, 7);
	cr_assert_eq(finish(), 7);
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	begin();
	say(AGENT_EXITED, 1, 9);
	cr_assert_eq(finish(), 137);
}

Test(outcome, a_guest_that_says_nothing_has_none)
{
	begin();
	cr_assert_eq(finish(), -1);
}

Test(outcome, lies_are_no_status_and_the_truth_may_follow)
{
	int fd;

	begin();
	say(AGENT_EXITED, 1, 0);
	say(AGENT_EXITED, 1, 65);
	say(AGENT_EXITED, 2, 0);
	say(AGENT_STDOUT, 'x', 'y');
	say(AGENT_EXEC, 0, 0);
	fd = connect_guest();
	cr_assert_eq(send(fd, "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL), 18);
	drain(fd);
	close(connect_guest());
	fd = connect_guest();
	frame_send_hello(fd);
	cr_assert_eq(send(fd, "\x02\0\0\0\x85\0\0\0\0", 9, MSG_NOSIGNAL), 9);
	shutdown(fd, SHUT_WR);
	drain(fd);
	say(AGENT_EXITED, 0, 0);
	cr_assert_eq(finish(), 0);
}

Test(outcome, a_path_that_does_not_fit_is_refused)
{
	char path[128];
	struct err e;

	memset(path, 'x', sizeof(path));
	path[103] = '\0';
	cr_assert_eq(outcome_begin(&o, path, &e), -ENAMETOOLONG);
	cr_assert_eq(outcome_begin(&o, "/no/such/directory", &e), -ENOENT);
}

static const char *words(int argc, char **argv, size_t size)
{
	static char buf[512];
	struct err e;

	return outcome_words(argc, argv, buf, size, &e) == 0 ? buf : NULL;
}

Test(outcome, a_command_survives_the_command_line)
{
	char *one[] = {"a b%\"c"}, *many[] = {"sh", "it's", ""};

	cr_assert_str_eq(words(1, one, 512), "init=/sbin/spore-agent spore.run=a%20b%25%22c");
	cr_assert_str_eq(words(3, many, 512), "init=/sbin/spore-agent spore.run="
					      "%27sh%27%20%27it%27%5c%27%27s%27%20%27%27");
	cr_assert_null(words(1, one, 45));
	cr_assert(words(1, one, 46));
}
