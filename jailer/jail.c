/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The jail, step by step, and why in this order.
 *
 * Two things drive the order. What needs the host (its paths, /proc, /sys, /dev) has to come
 * before the host is out of sight, and what needs a privilege before that privilege is dropped. And
 * nothing may be done under a name that the jailed user could have prepared while the jailer still
 * is root and sees the host: an earlier monitor in the same jail directory may have been taken over
 * and may even be running.
 *
 *  1. Descriptors above 2 are closed, but those of --keep-fd, and the environment is emptied
 *     (main.c), before anything is opened that has to be told apart from what the caller leaked.
 *  2. The real path of the monitor is found: its last part names the jail's directory and cgroup.
 *  3. The network namespace is joined: its path is one of the host.
 *  4. The cgroup is made: /sys/fs/cgroup is the host's. It is entered now, or by being created in
 *     it (CLONE_INTO_CGROUP, step 9), which spares the global lock and grace period of a migration.
 *     Memory and CPU of all that follows is the jail's.
 *  5. Mount, IPC and UTS namespaces; with --user-ns the user namespace first in the same call, and
 *     its maps. All mounts become private at once: until then, whatever is mounted would appear on
 *     the host too. The monitor is opened, once, in a read-only mount of that file alone: it cannot be
 *     swapped any more, and not even root in the jail could write to it. It is not copied: one page
 *     cache serves all VMs. Its text is shared between them, as all processes of one program share
 *     it; who fears cache attacks on the monitor's code gives each tenant a copy as --exec-file.
 *  6. The jail directory is made and opened, and the new root is put together (root.c): detached
 *     trees, appearing in one step. Names in it are never followed as links and never lead out of
 *     it (tree.c), since the directory may be an old one that the jailed user owns.
 *  7. pivot_root, and the old root is let go: no path leads to the host any more. A chroot could
 *     be left by whoever gets root in it and has a directory open; a mount tree without the rest
 *     cannot.
 *  8. Landlock rules are made, which name the new root. They are entered last.
 *  9. With --daemonize or --new-pid-ns a child goes on. Here and not earlier, since the parent has
 *     to write the child's number into the jail directory, and it should not see more than that.
 *     The parent waits until the child has executed the monitor, so that errors of the last steps
 *     still reach whoever called.
 * 10. The cgroup namespace, whose root is the group that the process is in by now. Resource limits:
 *     after the last file that we write, before the privilege to raise them is gone.
 * 11. Privileges: no securebits exception for root, bounding and ambient sets emptied,
 *     supplementary groups dropped, then the user and group, then all capabilities (libcap-ng),
 *     and a check that there is no way back.
 * 12. no_new_privs: no file that is executed later gives any of it back. Then Landlock, which needs
 *     no privilege with it.
 * 13. The monitor is executed, with no environment and the three standard descriptors. It puts
 *     itself under its seccomp filters, since only it knows when it needs what.
 *
 * A jailer that is killed leaves a directory, and perhaps an empty cgroup, which a second start
 * uses as they are; mounts and namespaces end with the process.
 */
#define _GNU_SOURCE
#include "jailer/jail.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/sched.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "jailer/cgroup.h"
#include "jailer/landlock.h"
#include "jailer/root.h"
#include "jailer/tree.h"
#include "vmm/base/fd.h"

struct jail {
	struct args *args;
	struct jail_clock clock;
	uint64_t parent_cpu_us; /* spent by the process that stayed outside */
	struct root root;
	int exec;   /* the monitor, O_PATH */
	int cgroup; /* to be entered, or -1 */
	int rules;  /* Landlock, or -1 */
	int null;   /* /dev/null for --daemonize, or -1 */
	int status; /* in the child: a message here is an error, its closing success */
};

/* --- 2: the monitor --- */

/* Gives exec_file its real path and exec_name the last part of it. */
static int resolve_monitor(struct args *a, struct err *e)
{
	static char path[PATH_MAX]; /* args lives as long as the process */

	if (!realpath(a->exec_file, path))
		return err_sys(e, "--exec-file '%.128s'", a->exec_file);
	a->exec_file = path;
	a->exec_name = strrchr(path, '/') + 1;
	return 0;
}

/* Opens it in a mount of its own, which is nowhere to be seen and that nobody can write through. */
static int open_monitor(struct jail *j, struct err *e)
{
	struct mount_attr attr = {
		.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
		.propagation = MS_PRIVATE,
	};
	const char *path = j->args->exec_file;
	struct stat st;

	j->exec = open_tree(AT_FDCWD, path,
			    OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
	if (j->exec < 0 || fstat(j->exec, &st) < 0)
		return err_sys(e, "open '%s'", path);
	if (!S_ISREG(st.st_mode) || !(st.st_mode & 0111))
		return err_set(e, EACCES, "'%s' is no executable file", path);
	if (mount_setattr(j->exec, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0)
		return err_sys(e, "protect '%s'", path);
	return 0;
}

/* --- 3, 5: namespaces --- */

static int join_network(const struct args *a, struct err *e)
{
	cleanup_fd int fd = -1;

	if (!a->netns)
		return 0;
	fd = open(a->netns, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET) < 0)
		return err_sys(e, "join network namespace '%s'", a->netns);
	return 0;
}

static int write_map(const char *file, const char *text, struct err *e)
{
	cleanup_fd int fd = open(file, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		return err_sys(e, "write '%s' to '%s'", text, file);
	return 0;
}

/* In the namespace we are the user that was asked for, outside the one that we are. */
static int map_user(const struct args *a, uid_t uid, gid_t gid, struct err *e)
{
	char text[64];
	int r = write_map("/proc/self/setgroups", "deny", e);

	snprintf(text, sizeof(text), "%" PRIu64 " %u 1", a->uid, uid);
	if (r == 0)
		r = write_map("/proc/self/uid_map", text, e);
	snprintf(text, sizeof(text), "%" PRIu64 " %u 1", a->gid, gid);
	return r == 0 ? write_map("/proc/self/gid_map", text, e) : r;
}

static int enter_namespaces(const struct args *a, struct err *e)
{
	int flags = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS;
	uid_t uid = geteuid();
	gid_t gid = getegid();

	if (a->user_ns)
		flags |= CLONE_NEWUSER;
	if (a->new_net_ns)
		flags |= CLONE_NEWNET;
	if (unshare(flags) < 0)
		return err_sys(e, "make namespaces");
	if (a->user_ns && map_user(a, uid, gid, e) < 0)
		return -e->code;
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return err_sys(e, "make all mounts private");
	/* The host's name is nobody's business in there. */
	if (sethostname(a->id, strlen(a->id)) < 0)
		return err_sys(e, "set the host name");
	return 0;
}

/* --- 9: the child --- */

/* Sends the descriptor over the caller's socket. */
static int send_pidfd(const struct args *a, int pidfd, struct err *e)
{
	char control[CMSG_SPACE(sizeof(int))] = {0}, byte = 0;
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &pidfd, sizeof(int));
	if (sendmsg((int)a->pidfd_socket, &msg, MSG_NOSIGNAL) < 0)
		return err_sys(e, "send the pidfd");
	return 0;
}

/* Tells the host who the monitor is: in the pid file and through the socket. Takes `pidfd`. */
static int announce(const struct jail *j, pid_t pid, int pidfd, struct err *e)
{
	cleanup_fd int fd = pidfd;
	char name[NAME_MAX + 8], text[16];
	int r;

	snprintf(name, sizeof(name), "%s.pid", j->args->exec_name);
	snprintf(text, sizeof(text), "%d", pid);
	r = tree_write_file(j->root.dir, name, 0644, text, e);
	if (r < 0 || !j->args->pidfd_socket)
		return r;
	if (fd < 0)
		fd = (int)syscall(SYS_pidfd_open, pid, 0);
	return fd < 0 ? err_sys(e, "open a pidfd") : send_pidfd(j->args, fd, e);
}

/* Outside: 0 when the child has executed the monitor. */
static int await_child(int status, struct err *e)
{
	char text[sizeof(e->msg)];
	ssize_t n = read(status, text, sizeof(text) - 1);

	if (n == 0)
		return 0;
	text[n < 0 ? 0 : n] = '\0';
	return err_set(e, ECHILD, "%s", n < 0 ? strerror(errno) : text);
}

static uint64_t cpu_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* 1: go on, as the process that becomes the monitor; 0: the child does; -errno. */
static int go_inside(struct jail *j, struct err *e)
{
	const struct args *a = j->args;
	uint64_t flags = (a->new_pid_ns ? (uint64_t)CLONE_NEWPID : 0) |
			 (j->cgroup >= 0 ? (uint64_t)CLONE_INTO_CGROUP : 0);
	int pidfd = -1, status[2], r;
	struct clone_args clone = {
		.flags = (uint64_t)CLONE_PIDFD | flags,
		.pidfd = (uintptr_t)&pidfd,
		.exit_signal = SIGCHLD,
		.cgroup = j->cgroup >= 0 ? (unsigned)j->cgroup : 0u,
	};
	long pid;

	if (!a->daemonize && !a->new_pid_ns) {
		r = announce(j, getpid(), -1, e);
		return r < 0 ? r : 1;
	}
	if (pipe2(status, O_CLOEXEC) < 0)
		return err_sys(e, "make a pipe");
	j->parent_cpu_us = cpu_us() - j->clock.start_cpu_us;
	pid = syscall(SYS_clone3, &clone, sizeof(clone));
	if (pid < 0)
		return err_sys(e, "create the process of the monitor");
	if (pid == 0) {
		j->clock.start_cpu_us = 0;
		j->status = status[1];
		close(status[0]);
		return 1;
	}
	close(status[1]);
	r = announce(j, (pid_t)pid, pidfd, e);
	if (r < 0)
		kill((pid_t)pid, SIGKILL);
	else
		r = await_child(status[0], e);
	close(status[0]);
	return r;
}

/* --- 10 to 13 --- */

static int detach_terminal(const struct jail *j, struct err *e)
{
	if (!j->args->daemonize)
		return 0;
	if (setsid() < 0)
		return err_sys(e, "begin a session");
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (dup2(j->null, fd) < 0)
			return err_sys(e, "replace standard descriptor %d", fd);
	return 0;
}

static int set_limits(const struct args *a, struct err *e)
{
	struct rlimit fsize = {.rlim_cur = a->fsize, .rlim_max = a->fsize};
	struct rlimit nofile = {.rlim_cur = a->nofile, .rlim_max = a->nofile};

	if (a->fsize != UINT64_MAX && setrlimit(RLIMIT_FSIZE, &fsize) < 0)
		return err_sys(e, "limit file sizes to %llu", (unsigned long long)a->fsize);
	if (setrlimit(RLIMIT_NOFILE, &nofile) < 0)
		return err_sys(e, "limit open files to %llu", (unsigned long long)a->nofile);
	return 0;
}

/*
 * Not by libcap-ng, which asks first what is in them, for each capability and in a /proc that is
 * not there: 130 calls for something that is dropped whatever it is.
 */
static int empty_sets(struct err *e)
{
	int cap = 0;

	while (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0)
		cap++;
	/* The first that the kernel does not know. */
	if (errno != EINVAL || cap <= CAP_SYS_ADMIN)
		return err_sys(e, "empty the bounding capability set");
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return err_sys(e, "empty the ambient capability set");
	return 0;
}

static int drop_privileges(const struct args *a, struct err *e)
{
	const unsigned long bits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED |
				   SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
	uid_t uid = (uid_t)a->uid;
	gid_t gid = (gid_t)a->gid;

	if (prctl(PR_SET_SECUREBITS, bits, 0, 0, 0) < 0)
		return err_sys(e, "set securebits");
	if (empty_sets(e) < 0)
		return -e->code;
	/* Without privilege outside, the kernel does not let a user namespace drop groups. */
	if (!a->user_ns && setgroups(0, NULL) < 0)
		return err_sys(e, "drop supplementary groups");
	if (setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
		return err_sys(e, "become user %u and group %u", uid, gid);
	capng_clear(CAPNG_SELECT_CAPS);
	if (capng_apply(CAPNG_SELECT_CAPS) < 0)
		return err_sys(e, "drop all capabilities");
	if (a->uid != 0 && setresuid((uid_t)-1, 0, (uid_t)-1) == 0)
		return err_set(e, EPERM, "privileges came back after they were dropped");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_sys(e, "set no_new_privs");
	return 0;
}

static int exec_monitor(const struct jail *j, struct err *e)
{
	const struct args *a = j->args;
	char start[24], start_cpu[24], parent_cpu[24];
	const char *own[] = {
		a->exec_name, "--id",
		a->id,	      "--start-time-us",
		start,	      "--start-time-cpu-us",
		start_cpu,    "--parent-cpu-time-us",
		parent_cpu,   "--jailed",
	};
	static char *const environment[] = {NULL};
	size_t rest = 0;
	const char **argv;

	while (a->rest[rest])
		rest++;
	argv = calloc(ARRAY_SIZE(own) + rest + 1, sizeof(*argv));
	if (!argv)
		return err_set(e, ENOMEM, "out of memory");
	memcpy(argv, own, sizeof(own));
	memcpy(argv + ARRAY_SIZE(own), a->rest, rest * sizeof(*argv));
	snprintf(start, sizeof(start), "%" PRIu64, j->clock.start_us);
	snprintf(start_cpu, sizeof(start_cpu), "%" PRIu64, j->clock.start_cpu_us);
	snprintf(parent_cpu, sizeof(parent_cpu), "%" PRIu64, j->parent_cpu_us);
	umask(0077);
	execveat(j->exec, "", (char *const *)(uintptr_t)argv, environment, AT_EMPTY_PATH);
	return err_sys(e, "execute '%s'%s", a->exec_file,
		       errno == ENOENT ? " (is it linked statically?)" : "");
}

/* Does not come back but with an error. */
static int become_monitor(struct jail *j, struct err *e)
{
	int r = detach_terminal(j, e);

	if (r == 0 && unshare(CLONE_NEWCGROUP) < 0)
		r = err_sys(e, "make a cgroup namespace");
	if (r == 0)
		r = set_limits(j->args, e);
	if (r == 0)
		r = drop_privileges(j->args, e);
	if (r == 0)
		r = landlock_enter(j->rules, e);
	if (r == 0)
		r = exec_monitor(j, e);
	if (j->status >= 0) {
		(void)!write(j->status, e->msg, strlen(e->msg));
		_exit(1);
	}
	return r;
}

/* --- all of it --- */

/* Steps 2 to 4: what needs the host. */
static int prepare(struct jail *j, struct err *e)
{
	struct args *a = j->args;
	int r = resolve_monitor(a, e);

	if (r == 0 && a->daemonize) {
		j->null = open("/dev/null", O_RDWR | O_CLOEXEC);
		r = j->null < 0 ? err_sys(e, "open /dev/null") : 0;
	}
	if (r == 0)
		r = join_network(a, e);
	if (r == 0)
		r = cgroup_make(a, &j->cgroup, e);
	/* A process that is created inside is better off; this one stays to be the monitor. */
	if (r == 0 && j->cgroup >= 0 && !a->daemonize && !a->new_pid_ns)
		r = cgroup_enter(j->cgroup, e);
	return r;
}

static int build(struct jail *j, struct err *e)
{
	int r = prepare(j, e);

	if (r == 0)
		r = enter_namespaces(j->args, e);
	if (r == 0)
		r = open_monitor(j, e);
	if (r == 0)
		r = root_build(&j->root, j->args, e);
	if (r == 0)
		r = root_enter(&j->root, e);
	if (r == 0 && !j->args->no_landlock)
		r = landlock_make(j->root.tree, j->exec, &j->rules, e);
	return r;
}

int jail_run(struct args *a, const struct jail_clock *clock, struct err *e)
{
	struct jail j = {
		.args = a,
		.clock = *clock,
		.exec = -1,
		.cgroup = -1,
		.rules = -1,
		.null = -1,
		.status = -1,
	};
	int r;

	if (geteuid() != 0 && !a->user_ns)
		return err_set(e, EPERM, "needs root, or --user-ns");
	if (geteuid() == 0 && a->user_ns)
		return err_set(e, EINVAL, "--user-ns is for running without root");
	root_init(&j.root);
	r = build(&j, e);
	if (r == 0)
		r = go_inside(&j, e);
	if (r > 0)
		r = become_monitor(&j, e);
	/* All descriptors end with the process, which is next. */
	return r;
}

int jail_cleanup(struct args *a, struct err *e)
{
	cleanup_fd int base = -1, dir = -1;
	int r = resolve_monitor(a, e);

	if (r == 0)
		r = cgroup_remove(a, e);
	if (r < 0)
		return r;
	base = open(a->chroot_base, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (base < 0)
		return errno == ENOENT ? 0 : err_sys(e, "open '%s'", a->chroot_base);
	dir = tree_open(base, a->exec_name, O_PATH | O_DIRECTORY, 0);
	if (dir < 0)
		return dir == -ENOENT
			       ? 0
			       : err_set(e, -dir, "open '%s': %s", a->exec_name, strerror(-dir));
	return tree_remove(dir, a->id, e);
}
