/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What somebody with code execution as the jailed user could do, without the monitor's seccomp
 * filters: spore-jailer runs this program in the monitor's place. It tries to get out, see or reach
 * something, and prints a line for each attempt. Exit status 0: nothing worked.
 *
 *	inmate [jailer's words...] KEY=VALUE...
 *
 * pid=N is a process outside, path=P a file of the host, abstract=NAME and port=N listening sockets
 * outside, shm=KEY a System V segment of the host, name=ID the host name that is to be seen,
 * landlock=0 that there are no such rules.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

static int bad;

static void result(const char *what, int held, const char *detail)
{
	printf("%s %s%s%s\n", held ? "held" : "BROKEN", what, detail ? ": " : "",
	       detail ? detail : "");
	bad += !held;
}

/* The attempt has to fail. */
static void refuse(const char *what, long r)
{
	result(what, r < 0, r < 0 ? strerror(errno) : "it worked");
}

static const char *argument(char **argv, const char *key, const char *otherwise)
{
	size_t len = strlen(key);

	for (; *argv; argv++)
		if (strncmp(*argv, key, len) == 0 && (*argv)[len] == '=')
			return *argv + len + 1;
	return otherwise;
}

/* --- privileges --- */

static void try_privileges(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct cap[2] = {0};
	int bounding = 0, ambient = 0;

	syscall(SYS_capget, &head, cap);
	result("no capabilities",
	       !(cap[0].effective | cap[0].permitted | cap[0].inheritable | cap[1].effective |
		 cap[1].permitted | cap[1].inheritable),
	       NULL);
	for (int c = 0; c < 64; c++) {
		bounding += prctl(PR_CAPBSET_READ, c, 0, 0, 0) == 1;
		ambient += prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, c, 0, 0) == 1;
	}
	result("bounding set is empty", bounding == 0, NULL);
	result("ambient set is empty", ambient == 0, NULL);
	result("no_new_privs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1, NULL);
	result("not root", getuid() != 0 && geteuid() != 0 && getgid() != 0 && getegid() != 0,
	       NULL);
	refuse("become root", setresuid(0, 0, 0));
	refuse("become group root", setresgid(0, 0, 0));
	refuse("take other groups", setgroups(1, &(gid_t){0}));
	cap[0].effective = cap[0].permitted = 1u << CAP_SYS_ADMIN;
	refuse("raise a capability", syscall(SYS_capset, &head, cap));
	refuse("unlock securebits", prctl(PR_SET_SECUREBITS, 0, 0, 0, 0));
}

/* --- what was left open, or behind --- */

static void try_leftovers(char **environment)
{
	int open_fds = 0;

	for (int fd = 3; fd < 4096; fd++)
		open_fds += fcntl(fd, F_GETFD) >= 0;
	result("no descriptor is left open", open_fds == 0, NULL);
	result("the environment is empty", !environment[0], environment[0]);
	refuse("leave through the working directory",
	       open("../../../../../../etc/passwd", O_RDONLY));
	refuse("chroot", chroot("."));
}

/* --- files --- */

static void try_files(const char *path, int landlock)
{
	static const char *const devices[] = {
		"/dev/mem",  "/dev/kmem", "/dev/port",	"/dev/sda", "/dev/vda",
		"/dev/null", "/dev/tty",  "/dev/pts/0", "/dev/shm", "/dev/cpu/0/msr"};
	static const char *const names[] = {"/etc/passwd", "/proc/self", "/proc/1",
					    "/sys",	   "/bin/sh",	 "/tmp",
					    "/root",	   "/old_root",	 "/dev/fd"};
	int fd;

	for (size_t i = 0; i < sizeof(devices) / sizeof(*devices); i++)
		refuse(devices[i], open(devices[i], O_RDONLY | O_NONBLOCK));
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		refuse(names[i], access(names[i], F_OK));
	refuse("a file of the host", open(path, O_RDONLY));
	refuse("make a device", mknod("/run/mem", S_IFCHR | 0600, makedev(1, 1)));
	refuse("make a block device", mknod("/run/disk", S_IFBLK | 0600, makedev(8, 0)));
	refuse("write to the device directory", open("/dev/file", O_CREAT | O_WRONLY, 0600));
	refuse("remove a device", unlink("/dev/kvm"));
	fd = open("/run/program", O_CREAT | O_WRONLY | O_TRUNC, 0700);
	if (fd >= 0) {
		if (write(fd, "\177ELF", 4) != 4)
			result("write to /run", 0, strerror(errno));
		close(fd);
	}
	result("may write to /run", fd >= 0, NULL);
	execl("/run/program", "program", (char *)NULL);
	result("execute what was written", errno == EACCES, strerror(errno));
	unlink("/run/program");
	if (landlock) {
		refuse("make a symbolic link", symlink("/etc", "/run/link"));
		refuse("make a directory", mkdir("/run/dir", 0700));
	}
	unlink("/run/link");
	rmdir("/run/dir");
}

/* --- the kernel --- */

static void try_kernel(int landlock)
{
	refuse("mount", mount("none", "/run", "tmpfs", 0, NULL));
	refuse("bind mount", mount("/run", "/dev", NULL, MS_BIND, NULL));
	refuse("unmount", umount2("/", MNT_DETACH));
	refuse("pivot_root", syscall(SYS_pivot_root, "/", "/run"));
	refuse("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/", 1));
	refuse("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
	refuse("new mount namespace", unshare(CLONE_NEWNS));
	refuse("new network namespace", unshare(CLONE_NEWNET));
	refuse("load a module", syscall(SYS_init_module, "", 0ul, ""));
	refuse("load a module from a file", syscall(SYS_finit_module, 0, "", 0));
	refuse("kexec", syscall(SYS_kexec_load, 0ul, 0ul, NULL, 0ul));
	refuse("reboot", reboot(RB_AUTOBOOT));
	refuse("set the host name", sethostname("x", 1));
	refuse("set the clock", clock_settime(CLOCK_REALTIME, &(struct timespec){.tv_sec = 1}));
	refuse("ioperm", syscall(SYS_ioperm, 0ul, 16ul, 1));
	refuse("iopl", syscall(SYS_iopl, 3));
	refuse("open by handle", syscall(SYS_open_by_handle_at, AT_FDCWD, "\10\0\0\0\1\0\0\0", 0));
	/* A user namespace of one's own, where the host lets everybody have one: no mount even there. */
	if (landlock && unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0)
		refuse("mount in a user namespace", mount("none", "/run", "tmpfs", 0, NULL));
}

/* --- others --- */

static void try_processes(pid_t pid)
{
	refuse("signal a process outside", kill(pid, 0));
	refuse("trace a process outside", ptrace(PTRACE_ATTACH, pid, 0, 0));
	refuse("pidfd of a process outside", syscall(SYS_pidfd_open, pid, 0));
	refuse("read its memory", syscall(SYS_process_vm_readv, pid, NULL, 0ul, NULL, 0ul, 0ul) +
					  (kill(pid, 0) < 0 ? -1 : 0));
}

static void try_network(const char *abstract, int port)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct sockaddr_in in = {.sin_family = AF_INET,
				 .sin_port = htons((unsigned short)port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strncpy(un.sun_path + 1, abstract, sizeof(un.sun_path) - 2);
	refuse("an abstract socket outside",
	       connect(fd, (struct sockaddr *)&un,
		       (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(abstract))));
	fd = socket(AF_INET, SOCK_STREAM, 0);
	refuse("a TCP port outside", fd < 0 ? -1 : connect(fd, (struct sockaddr *)&in, sizeof(in)));
	refuse("a raw socket", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
	refuse("a packet socket", socket(AF_PACKET, SOCK_RAW, 0));
}

int main(int argc, char *argv[], char *environment[])
{
	const char *name = argument(argv, "name", "");
	int landlock = atoi(argument(argv, "landlock", "1"));
	struct utsname uts;

	(void)argc;
	uname(&uts);
	result("the host's name is not seen", strcmp(uts.nodename, name) == 0, uts.nodename);
	try_privileges();
	try_leftovers(environment);
	try_files(argument(argv, "path", "/"), landlock);
	try_processes(atoi(argument(argv, "pid", "1")));
	try_network(argument(argv, "abstract", "none"), atoi(argument(argv, "port", "1")));
	refuse("a shared memory segment outside", shmget(atoi(argument(argv, "shm", "1")), 0, 0));
	try_kernel(landlock);
	printf("%d broken\n", bad);
	return bad ? 1 : 0;
}
