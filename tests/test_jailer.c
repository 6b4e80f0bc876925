/* SPDX-License-Identifier: Apache-2.0 */
/* The jailer's parts that need no privilege: its command line, and directories full of traps. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "jailer/args.h"
#include "jailer/tree.h"
#include "vmm/base/fd.h"

static struct err e;

TestSuite(jailer, .timeout = 30);

/* --- command line --- */

static struct args a;

static int parse(const char *word, ...)
{
	static char program[] = "spore-jailer", *argv[40] = {program};
	int argc = 1;
	va_list ap;

	va_start(ap, word);
	for (; word; word = va_arg(ap, const char *))
		argv[argc++] = (char *)(uintptr_t)word;
	va_end(ap);
	argv[argc] = NULL;
	return args_parse(&a, argc, argv, &e);
}

#define NEEDED "--id", "vm-1", "--exec-file", "/bin/spore", "--uid", "123", "--gid", "100"
#define REFUSED(part, ...)                                                          \
	do {                                                                        \
		cr_expect_eq(parse(__VA_ARGS__, NULL), -EINVAL, "%s", part);        \
		cr_expect(strstr(e.msg, part), "'%s' is not in '%s'", part, e.msg); \
	} while (0)

Test(jailer, defaults)
{
	cr_assert_eq(parse(NEEDED, NULL), 0, "%s", e.msg);
	cr_expect_str_eq(a.chroot_base, "/srv/jailer");
	cr_expect_eq(a.uid, 123);
	cr_expect_eq(a.gid, 100);
	cr_expect_eq(a.cgroup_version, 1);
	cr_expect_eq(a.nofile, 2048);
	cr_expect_eq(a.fsize, UINT64_MAX);
	cr_expect_null(a.rest[0]);
	cr_expect_not(a.daemonize || a.new_pid_ns || a.user_ns || a.tmpfs_root || a.cleanup);
}

Test(jailer, everything)
{
	cr_assert_eq(parse(NEEDED, "--netns=/run/netns/x", "--daemonize", "--new-pid-ns",
			   "--cgroup-version", "2", "--cgroup", "cpu.max=1 2",
			   "--cgroup=memory.max=7", "--parent-cgroup", "a/b", "--resource-limit",
			   "fsize=5", "--resource-limit", "no-file=6", "--chroot-base-dir",
			   "/jails", "--", "--id", "not-ours", NULL),
		     0, "%s", e.msg);
	cr_expect_str_eq(a.netns, "/run/netns/x");
	cr_expect(a.daemonize && a.new_pid_ns);
	cr_expect_eq(a.cgroups, 2);
	cr_expect_str_eq(a.cgroup[1], "memory.max=7");
	cr_expect_eq(a.fsize, 5);
	cr_expect_eq(a.nofile, 6);
	cr_expect_str_eq(a.rest[1], "not-ours");
	cr_expect_str_eq(a.id, "vm-1");
	cr_assert_eq(parse(NEEDED, "--keep-fd", "7", "--keep-fd=5", "--pidfd-socket", "6", NULL),
		     0);
	cr_expect(a.keeps == 2 && a.keep_fd[0] == 7 && a.keep_fd[1] == 5);
}

Test(jailer, refused_options)
{
	REFUSED("--keep-fd: 'x' is not a number", NEEDED, "--keep-fd", "x");
	REFUSED("--keep-fd: '2' is no descriptor above 2", NEEDED, "--keep-fd", "2");
	REFUSED("--keep-fd: '2147483648'", NEEDED, "--keep-fd", "2147483648");
	REFUSED("--keep-fd: excludes", NEEDED, "--keep-fd", "4", "--pidfd-socket", "4");
	REFUSED("--gid: missing", "--id", "x", "--exec-file", "x", "--uid", "1");
	REFUSED("letters", "--id", "a/b", "--exec-file", "x", "--uid", "1", "--gid", "1");
	REFUSED("letters", "--id", "..", "--exec-file", "x", "--uid", "1", "--gid", "1");
	REFUSED("not a number", "--id", "x", "--exec-file", "x", "--uid", "1x", "--gid", "1");
	REFUSED("4294967295", "--id", "x", "--exec-file", "x", "--uid", "4294967295", "--gid", "1");
	REFUSED("given twice", NEEDED, "--uid", "7");
	REFUSED("unknown option", NEEDED, "--ui", "7");
	REFUSED("unknown option", NEEDED, "word");
	REFUSED("takes no value", NEEDED, "--daemonize=yes");
	REFUSED("needs a value", NEEDED, "--netns");
	REFUSED("relative path", NEEDED, "--parent-cgroup", "..");
	REFUSED("relative path", NEEDED, "--parent-cgroup", "a/../b");
	REFUSED("relative path", NEEDED, "--parent-cgroup", "a/");
	REFUSED("relative path", NEEDED, "--parent-cgroup", "");
	REFUSED("CONTROLLER.FILE", NEEDED, "--cgroup", "x=1");
	REFUSED("CONTROLLER.FILE", NEEDED, "--cgroup", "a/b.c=1");
	REFUSED("CONTROLLER.FILE", NEEDED, "--cgroup", "a.b=");
	REFUSED("CONTROLLER.FILE", NEEDED, "--cgroup", "a=b.c");
	REFUSED("neither fsize", NEEDED, "--resource-limit", "nofile=1");
	REFUSED("excludes", NEEDED, "--netns", "x", "--new-net-ns");
}

/* --- directories --- */

static const struct tree_owner keep = {.mode = TREE_KEEP};

/* A directory of its own for a test; *path is where. */
static int scratch(char path[32])
{
	int fd;

	strcpy(path, "/tmp/tree-test-XXXXXX");
	cr_assert(mkdtemp(path));
	fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	cr_assert_geq(fd, 0);
	return fd;
}

static void scratch_end(char *path, int fd)
{
	int tmp = open("/tmp", O_PATH | O_CLOEXEC);

	cr_expect_eq(tree_remove(tmp, strrchr(path, '/') + 1, &e), 0, "%s", e.msg);
	cr_expect_lt(access(path, F_OK), 0);
	close(tmp);
	close(fd);
}

Test(jailer, directories_are_made_and_found_again)
{
	const struct tree_owner own = {.mode = 0700, .uid = geteuid(), .gid = getegid()};
	char path[32];
	int at = scratch(path), fd;
	struct stat st;

	for (int i = 0; i < 2; i++) {
		fd = tree_make_dir(at, "a/b/c", &own, &e);
		cr_assert_geq(fd, 0, "%s", e.msg);
		cr_assert_eq(fstat(fd, &st), 0);
		cr_expect_eq(st.st_mode & 07777, 0700);
		close(fd);
	}
	scratch_end(path, at);
}

Test(jailer, no_link_is_followed_and_nothing_leads_out)
{
	char path[32];
	int at = scratch(path);

	cr_assert_eq(mkdirat(at, "dir", 0755), 0);
	cr_assert_eq(symlinkat("/etc", at, "out"), 0);
	cr_assert_eq(symlinkat("dir", at, "in"), 0);
	cr_assert_eq(symlinkat("nothing", at, "dangling"), 0);
	cr_expect_eq(tree_make_dir(at, "out", &keep, &e), -ELOOP);
	cr_expect_eq(tree_make_dir(at, "in/x", &keep, &e), -ELOOP);
	cr_expect_eq(tree_make_dir(at, "dangling", &keep, &e), -ELOOP);
	cr_expect_eq(tree_make_dir(at, "dir/../../x", &keep, &e), -EXDEV);
	cr_expect_eq(tree_open(at, "..", O_PATH, 0), -EXDEV);
	cr_expect_eq(tree_open(at, "/etc", O_PATH, 0), -EXDEV);
	cr_expect_eq(tree_open(at, "out/passwd", O_RDONLY, 0), -ELOOP);
	cr_expect_lt(faccessat(at, "nothing", F_OK, 0), 0);
	scratch_end(path, at);
}

Test(jailer, a_file_replaces_what_is_in_its_way)
{
	char path[32], buf[8] = {0};
	int at = scratch(path), fd;

	cr_assert_eq(symlinkat("victim", at, "pid"), 0);
	cr_assert_eq(tree_write_file(at, "victim", 0600, "old", &e), 0, "%s", e.msg);
	cr_assert_eq(tree_write_file(at, "pid", 0644, "12", &e), 0, "%s", e.msg);
	fd = tree_open(at, "victim", O_RDONLY, 0);
	cr_expect_eq(read(fd, buf, sizeof(buf)), 3);
	cr_expect_str_eq(buf, "old");
	close(fd);
	/* A hard link: the other name keeps its content. */
	cr_assert_eq(linkat(at, "victim", at, "hard", 0), 0);
	cr_assert_eq(tree_write_file(at, "hard", 0644, "new", &e), 0, "%s", e.msg);
	fd = tree_open(at, "victim", O_RDONLY, 0);
	cr_expect_eq(read(fd, buf, sizeof(buf)), 3);
	cr_expect_str_eq(buf, "old");
	close(fd);
	cr_assert_eq(mkdirat(at, "dir", 0755), 0);
	cr_expect_lt(tree_write_file(at, "dir", 0644, "x", &e), 0);
	scratch_end(path, at);
}

Test(jailer, removal_takes_links_not_what_they_lead_to)
{
	char path[32], other[32], name[48];
	int at = scratch(path), kept = scratch(other), fd;

	cr_assert_eq(tree_write_file(kept, "precious", 0600, "x", &e), 0);
	fd = tree_make_dir(at, "jail/a/b", &keep, &e);
	cr_assert_eq(symlinkat(other, fd, "link"), 0);
	close(fd);
	cr_expect_eq(tree_remove(at, "jail", &e), 0, "%s", e.msg);
	cr_expect_eq(tree_remove(at, "jail", &e), 0, "a missing one is fine");
	snprintf(name, sizeof(name), "%s/precious", other);
	cr_expect_eq(access(name, F_OK), 0);
	/* The name itself may be a link. */
	cr_assert_eq(symlinkat(other, at, "jail"), 0);
	cr_expect_lt(tree_remove(at, "jail", &e), 0);
	cr_expect_eq(access(name, F_OK), 0);
	unlinkat(at, "jail", 0);
	scratch_end(other, kept);
	scratch_end(path, at);
}

Test(jailer, a_tree_that_is_too_deep_ends_the_removal_not_us)
{
	char path[32], deep[400] = "d";
	int at = scratch(path), fd;

	for (int i = 0; i < 100; i++)
		strcat(deep, "/d");
	fd = tree_make_dir(at, deep, &keep, &e);
	cr_assert_geq(fd, 0, "%s", e.msg);
	close(fd);
	cr_expect_eq(tree_remove(at, "d", &e), -ELOOP);
	/* From the bottom up. */
	while (strlen(deep) > 1) {
		unlinkat(at, deep, AT_REMOVEDIR);
		deep[strlen(deep) - 2] = '\0';
	}
	scratch_end(path, at);
}

/* --- what the monitor opens --- */

Test(jailer, sinks)
{
	char path[32], name[64], other[64], link_[64];
	int at = scratch(path), fd;
	struct stat st;

	snprintf(name, sizeof(name), "%s/log", path);
	snprintf(other, sizeof(other), "%s/other", path);
	snprintf(link_, sizeof(link_), "%s/link", path);
	umask(0);
	fd = fd_open_sink(name, &e);
	cr_assert_geq(fd, 0, "%s", e.msg);
	cr_assert_eq(fstat(fd, &st), 0);
	cr_expect_eq(st.st_mode & 07777, 0600);
	close(fd);
	cr_assert_eq(link(name, other), 0);
	cr_expect_eq(fd_open_sink(name, &e), -EMLINK);
	unlink(other);
	cr_expect_lt(fd_open_sink(path, &e), 0, "a directory");
	cr_assert_eq(symlink(name, link_), 0);
	fd = fd_open_sink(link_, &e);
	cr_expect_geq(fd, 0, "outside of a jail links are fine");
	close(fd);
	fd = fd_open_sink("/dev/null", &e);
	cr_expect_geq(fd, 0);
	close(fd);
	cr_assert_eq(chdir("/"), 0); /* as in a jail */
	fd_confine();
	cr_expect_eq(fd_open_sink(link_, &e), -ELOOP);
	cr_expect_eq(fd_open_sink("/dev/null", &e), -EINVAL);
	cr_expect_eq(fd_open_file(link_, O_RDONLY, false, &e), -ELOOP);
	cr_expect_eq(fd_open_file("/proc/self/exe", O_RDONLY, false, &e), -ELOOP);
	scratch_end(path, at);
}
