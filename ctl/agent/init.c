/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent as process 1: a root file system needs no init of its own. As /init of an initial RAM
 * disk it loads modules and goes on in the root file system. docs/agent.md has the words of the
 * kernel's command line.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "ctl/agent/agent.h"

#define GRACE_MS 3000

static char cmdline[4096];

static const char *run, *end, *tty, *real_init, *root, *root_type, *root_init, *read_only;

static const struct word {
	const char *name;
	const char **value; /* stays NULL without the word */
} words[] = {
	{"spore.run", &run}, {"spore.end", &end},	 {"spore.init", &real_init},
	{"root", &root},     {"rootfstype", &root_type}, {"init", &root_init},
	{"ro", &read_only},  {"spore.tty", &tty},
};

static void complain(const char *what, const char *name)
{
	const char *why = strerror(errno);

	(void)!write(2, "spore-agent: ", 13);
	(void)!write(2, what, strlen(what));
	(void)!write(2, name, strlen(name));
	(void)!write(2, ": ", 2);
	(void)!write(2, why, strlen(why));
	(void)!write(2, "\n", 1);
}

/* --- the guest's surroundings --- */

static void mount_at(const char *type, const char *place, unsigned long flags, const char *data)
{
	mkdir(place, 0755);
	/* EBUSY: it is mounted; ENODEV, ENOENT: this kernel has none. All are well. */
	if (mount(type, place, type, flags, data) < 0 && errno != EBUSY && errno != ENODEV &&
	    errno != ENOENT)
		complain("cannot mount ", place);
}

static void mount_all(void)
{
	const unsigned long safe = MS_NOSUID | MS_NODEV;

	mount_at("proc", "/proc", safe | MS_NOEXEC, NULL);
	mount_at("sysfs", "/sys", safe | MS_NOEXEC, NULL);
	mount_at("devtmpfs", "/dev", MS_NOSUID, "mode=0755");
	mount_at("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666");
	mount_at("tmpfs", "/dev/shm", safe, "mode=1777");
	mount_at("tmpfs", "/run", safe, "mode=0755");
	mount_at("tmpfs", "/tmp", safe, "mode=1777");
	mount_at("cgroup2", "/sys/fs/cgroup", safe | MS_NOEXEC, NULL);
}

/* 0, 1 and 2 exist from here on, so that no other descriptor becomes one of them. */
static void open_console(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);

	if (fd < 0)
		fd = open("/dev/null", O_RDWR);
	for (int i = 0; fd >= 0 && i < 3; i++)
		dup2(fd, i);
	if (fd > 2)
		close(fd);
}

static void loopback_up(void)
{
	struct ifreq i = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	ioctl(fd, SIOCSIFFLAGS, &i);
	close(fd);
}

static ssize_t read_file(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

	if (fd >= 0)
		close(fd);
	buf[n > 0 ? n : 0] = '\0';
	return n;
}

static void set_host_name(void)
{
	char name[64];

	if (read_file("/etc/hostname", name, sizeof(name)) > 0)
		sethostname(name, strcspn(name, "\n"));
}

/* --- the kernel's command line --- */

static int hex(char c)
{
	const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c | 0x20) : NULL;

	return at ? (int)(at - digits) : -1;
}

/* "%20" is a blank, in place. */
static void decode(char *s)
{
	char *to = s;

	for (; *s; s++) {
		int high = *s == '%' ? hex(s[1]) : -1, low = high >= 0 ? hex(s[2]) : -1;

		if (low >= 0) {
			*to++ = (char)(high * 16 + low);
			s += 2;
		} else {
			*to++ = *s;
		}
	}
	*to = '\0';
}

static void take_word(char *word)
{
	size_t len = strcspn(word, "=");

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strlen(words[i].name) == len && memcmp(words[i].name, word, len) == 0)
			*words[i].value = word[len] ? word + len + 1 : "";
	}
	if (word[len])
		decode(word + len + 1);
}

static void read_cmdline(void)
{
	char *word, *rest = cmdline;

	read_file("/proc/cmdline", cmdline, sizeof(cmdline));
	while ((word = strsep(&rest, " \n")))
		if (word[0])
			take_word(word);
}

/* --- as /init of an initial RAM disk --- */

static void load_modules(void)
{
	static char list[4096];
	char *name, *rest = list;

	read_file("/modules/order", list, sizeof(list));
	if (chdir("/modules") < 0)
		return;
	while ((name = strsep(&rest, "\n"))) {
		int fd = name[0] ? open(name, O_RDONLY | O_CLOEXEC) : -1;

		if (fd < 0)
			continue;
		if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)
			complain("cannot load ", name);
		close(fd);
		/* The RAM disk is memory. */
		unlink(name);
	}
}

static bool mount_root(void)
{
	static const char *const types[] = {"ext4", "erofs", "squashfs", "xfs", "btrfs"};
	unsigned long flags = read_only ? MS_RDONLY : 0;

	mkdir("/root", 0755);
	/* The disk appears a moment after its driver. */
	for (unsigned wait = 0; access(root, F_OK) < 0 && wait < 500; wait++)
		usleep(10000);
	if (root_type)
		return mount(root, "/root", root_type, flags, NULL) == 0;
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (mount(root, "/root", types[i], flags, NULL) == 0 ||
		    (errno == EROFS && mount(root, "/root", types[i], MS_RDONLY, NULL) == 0))
			return true;
	return false;
}

/* Does not return if there is another init there. */
static void enter_root(char **env)
{
	static const char *const move[] = {"/proc", "/sys", "/dev"};
	const char *const inits[] = {root_init, "/sbin/init", "/etc/init", "/bin/init"};

	if (!mount_root()) {
		complain("cannot mount the root file system ", root);
		return;
	}
	for (size_t i = 0; i < sizeof(move) / sizeof(move[0]); i++) {
		char to[16] = "/root";

		strcat(to, move[i]);
		mkdir(to, 0755);
		if (mount(move[i], to, NULL, MS_MOVE, NULL) < 0)
			complain("cannot move ", move[i]);
	}
	/* What the agent has mounted for itself in the RAM disk, it mounts anew. */
	if (chdir("/root") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0) {
		complain("cannot enter ", root);
		return;
	}
	for (size_t i = 0; !real_init && i < sizeof(inits) / sizeof(inits[0]); i++) {
		char *argv[] = {(char *)(uintptr_t)inits[i], NULL};

		if (inits[i] && access(inits[i], X_OK) == 0)
			execve(inits[i], argv, env);
	}
	/* There is none: this program is it. */
}

/* --- processes --- */

static pid_t spawn(void (*work)(void))
{
	sigset_t none;
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	work();
	_exit(127);
}

static void be_agent(void)
{
	listen_vsock();
}

/* For a command whose output is not for a screen: its bytes are what it wrote. */
static void plain_tty(void)
{
	struct termios t;

	if (tcgetattr(0, &t) < 0)
		return;
	t.c_oflag &= ~(tcflag_t)OPOST;
	t.c_lflag &= ~(tcflag_t)ECHO;
	tcsetattr(0, TCSANOW, &t);
}

static void be_command(void)
{
	static char *const env[] = {
		(char *)"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		(char *)"HOME=/root", (char *)"TERM=linux", NULL};
	char *argv[] = {(char *)"sh", run ? (char *)"-c" : NULL, (char *)(uintptr_t)run, NULL};

	ioctl(0, TIOCSCTTY, 1);
	if (tty && strcmp(tty, "plain") == 0)
		plain_tty();
	signal(SIGPIPE, SIG_DFL);
	if (chdir("/root") < 0 && chdir("/") < 0)
		return;
	execve("/bin/sh", argv, env);
	complain("cannot run ", "/bin/sh");
}

/* Whoever has started the guest may listen. */
static void tell_host(int status)
{
	struct sockaddr_vm a = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = AGENT_HOST_PORT};
	uint8_t how[2] = {WIFSIGNALED(status),
			  (uint8_t)(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status))};
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && frame_send_hello(fd) == 0 &&
	    frame_write(fd, AGENT_EXITED, how, sizeof(how)) == 0) {
		/* Until the host has it: a reboot would be faster. */
		shutdown(fd, SHUT_WR);
		(void)!read(fd, how, 1);
	}
	close(fd);
}

static bool reap_all(unsigned ms, const sigset_t *signals)
{
	const struct timespec step = {.tv_nsec = 20000000};

	for (unsigned waited = 0;; waited += 20) {
		pid_t pid;

		while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
			;
		if (pid < 0 || waited >= ms)
			return pid < 0;
		sigtimedwait(signals, NULL, &step);
	}
}

_Noreturn static void shut_down(const sigset_t *signals)
{
	kill(-1, SIGTERM);
	if (!reap_all(GRACE_MS, signals)) {
		kill(-1, SIGKILL);
		reap_all(GRACE_MS, signals);
	}
	sync();
	mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
	reboot(end && strcmp(end, "poweroff") == 0 ? RB_POWER_OFF : RB_AUTOBOOT);
	for (;;)
		pause();
}

/* Process 1 from here on: all that ends is reaped. */
_Noreturn static void look_after(pid_t agent, pid_t command, const sigset_t *signals)
{
	for (;;) {
		int status, sig = sigwaitinfo(signals, NULL);
		pid_t pid;

		if (sig == SIGINT || sig == SIGTERM || sig == SIGPWR)
			shut_down(signals);
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
			if (pid == agent) {
				usleep(100000);
				agent = spawn(be_agent);
			}
			if (pid != command)
				continue;
			command = -1;
			tell_host(status);
			if (!end || strcmp(end, "stay") != 0)
				shut_down(signals);
		}
	}
}

_Noreturn void init_main(char **argv, char **env)
{
	sigset_t signals;
	pid_t agent, command = -1;

	mount_all();
	open_console();
	read_cmdline();
	if (strcmp(argv[0], "/init") == 0) {
		load_modules();
		if (root)
			enter_root(env);
		mount_all();
	}
	set_host_name();
	loopback_up();
	sigemptyset(&signals);
	sigaddset(&signals, SIGCHLD);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGPWR);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	reboot(RB_DISABLE_CAD);
	agent = spawn(be_agent);
	if (real_init) {
		char *to[] = {(char *)(uintptr_t)real_init, NULL};

		sigprocmask(SIG_UNBLOCK, &signals, NULL);
		execve(real_init, to, env);
		complain("cannot run ", real_init);
	}
	if (!run || run[0])
		command = spawn(be_command);
	look_after(agent, command, &signals);
}
