/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What confinement costs. Needs root. Prints the CSV of bench.h.
 *
 *	jail filters ROUNDS
 *		boot, main, vcpu: installing each filter, in a new process; sum: all three
 *	jail start ROUNDS BASE JAILER SPORE LISTEN
 *		jail: exec of spore-jailer until the API of spore accepts, a new jail each time.
 *		bare: the same for a program that makes the system calls of a jail, one after the
 *		other without any check, and then executes LISTEN. cpu: what each used
 *	jail parallel COUNT BASE JAILER SPORE
 *		COUNT jails started at once: from the first exec until the n-th API accepts
 *	jail counts
 *		the number of system calls that each filter allows
 */
#define _GNU_SOURCE
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "jailer/seccomp.h"
#include "tests/bench/bench.h"

#define WHO  4000
#define NAME "firecracker.socket"

static const char *const kinds[SECCOMP_KINDS] = {"boot", "main", "vcpu", "fetch"};

/* --- filters --- */

static uint64_t install(enum seccomp_kind kind)
{
	const struct seccomp_program *p = &seccomp_programs[kind];
	struct sock_fprog program = {.len = p->len,
				     .filter = (struct sock_filter *)(uintptr_t)p->insn};
	/* A filter may allow no way to tell but memory. */
	static volatile uint64_t *ns;
	pid_t pid;

	if (!ns)
		ns = mmap(NULL, sizeof(*ns), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
			  0);
	if (ns == MAP_FAILED)
		err(1, "mmap");
	*ns = 0;
	pid = fork();
	if (pid == 0) {
		uint64_t start;

		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		start = bench_now();
		if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
			_exit(1);
		*ns = bench_now() - start;
		_exit(0);
	}
	if (bench_wait(pid) != 0 || *ns == 0)
		errx(1, "filter %s", kinds[kind]);
	return *ns;
}

static void measure_filters(unsigned rounds)
{
	for (unsigned round = 0; round < rounds; round++) {
		uint64_t sum = 0;

		for (int kind = 0; kind < SECCOMP_KINDS; kind++) {
			uint64_t ns = install((enum seccomp_kind)kind);

			bench_row("filter", round, kinds[kind], ns);
			/* Those that every start has. */
			if (kind <= SECCOMP_VCPU)
				sum += ns;
		}
		bench_row("filter", round, "sum", sum);
	}
}

/* --- a start --- */

#define DO(call)                       \
	do {                           \
		if ((call) < 0)        \
			err(1, #call); \
	} while (0)

/* What a jail is made of, and nothing else. */
static void make_bare(const char *dir, const char *program)
{
	static const char *const names[] = {"kvm", "urandom", "userfaultfd"};
	struct mount_attr attr = {.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC,
				  .propagation = MS_PRIVATE};
	struct mount_attr ro = {.attr_set = MOUNT_ATTR_RDONLY, .propagation = MS_PRIVATE};
	int exec, root, tree, pid_file;

	DO(syscall(SYS_close_range, 3, ~0u, 2));
	DO(unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP));
	DO(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	exec = open_tree(AT_FDCWD, program, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	DO(mount_setattr(exec, "", AT_EMPTY_PATH, &ro, sizeof(ro)));
	DO(mkdir(dir, 0755));
	root = open(dir, O_PATH | O_CLOEXEC);
	DO(mkdirat(root, "root", 0700));
	root = openat(root, "root", O_PATH | O_CLOEXEC);
	tree = open_tree(root, "",
			 OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE);
	DO(mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof(attr)));
	DO(move_mount(tree, "", root, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH));
	DO(fchdir(tree));
	DO(mkdir("dev", 0755));
	DO(mkdir("dev/net", 0755));
	DO(mkdir("run", 0700));
	DO(chown("run", WHO, WHO));
	DO(chown(".", WHO, WHO));
	DO(chdir("dev"));
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		DO(mknod(names[i], S_IFCHR | 0600, makedev(10, 232)));
		DO(chown(names[i], WHO, WHO));
	}
	DO(mknod("net/tun", S_IFCHR | 0600, makedev(10, 200)));
	DO(chown("net/tun", WHO, WHO));
	DO(fchdir(tree));
	DO(syscall(SYS_pivot_root, ".", "."));
	DO(umount2(".", MNT_DETACH));
	pid_file = open("pid", O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
	DO(write(pid_file, "1", 1));
	for (int cap = 0; cap < 41; cap++)
		DO(prctl(PR_CAPBSET_DROP, cap, 0, 0, 0));
	DO(setresgid(WHO, WHO, WHO));
	DO(setresuid(WHO, WHO, WHO));
	DO(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	execveat(exec, "", (char *[]){(char[]){"listen"}, (char[]){"/run/" NAME}, NULL},
		 (char *[]){NULL}, AT_EMPTY_PATH);
	err(1, "execute %s", program);
}

/* From exec until somebody listens on `path`; then it is ended. */
static void measure(const char *who, unsigned round, char *const argv[], const char *path)
{
	struct bench_child child = bench_spawn(argv, -1);
	int fd = bench_connect(path);

	bench_row(who, round, "accept", bench_now() - child.exec_at);
	nanosleep(&(const struct timespec){.tv_nsec = 2000000}, NULL);
	bench_row(who, round, "cpu", bench_cpu(child.pid) - child.exec_cpu);
	close(fd);
	kill(child.pid, SIGKILL);
	bench_wait(child.pid);
}

static void cleanup(char *jailer, char *base, char *id, char *spore)
{
	char *const argv[] = {jailer, (char[]){"--id"},	       id,    (char[]){"--chroot-base-dir"},
			      base,   (char[]){"--exec-file"}, spore, (char[]){"--cleanup"},
			      NULL};

	if (bench_wait(bench_spawn(argv, -1).pid) != 0)
		errx(1, "clean up %s", id);
}

static struct bench_child start(char *jailer, char *base, char *id, char *spore)
{
	static char number[] = "4000";
	char *const argv[] = {
		jailer, (char[]){"--id"},	 id,	 (char[]){"--chroot-base-dir"},
		base,	(char[]){"--exec-file"}, spore,	 (char[]){"--uid"},
		number, (char[]){"--gid"},	 number, NULL};

	return bench_spawn(argv, -1);
}

static void measure_start(unsigned rounds, char **argv, char *self)
{
	char *base = argv[0], *jailer = argv[1], *spore = argv[2], *listen = argv[3];
	const char *name = strrchr(spore, '/') + 1;

	for (unsigned round = 0; round < rounds; round++) {
		char id[16], path[256], dir[128];
		struct bench_child child;
		int fd;

		snprintf(id, sizeof(id), "r%u", round);
		snprintf(path, sizeof(path), "%s/%s/%s/root/run/" NAME, base, name, id);
		child = start(jailer, base, id, spore);
		fd = bench_connect(path);
		bench_row("jail", round, "accept", bench_now() - child.exec_at);
		nanosleep(&(const struct timespec){.tv_nsec = 2000000}, NULL);
		bench_row("jail", round, "cpu", bench_cpu(child.pid) - child.exec_cpu);
		close(fd);
		kill(child.pid, SIGKILL);
		bench_wait(child.pid);
		cleanup(jailer, base, id, spore);

		snprintf(dir, sizeof(dir), "%s/bare%u", base, round);
		snprintf(path, sizeof(path), "%s/root/run/" NAME, dir);
		measure("bare", round, (char *[]){self, (char[]){"bare"}, dir, listen, NULL}, path);
	}
}

static void measure_parallel(unsigned count, char **argv)
{
	char *base = argv[0], *jailer = argv[1], *spore = argv[2];
	const char *name = strrchr(spore, '/') + 1;
	struct bench_child *child = calloc(count, sizeof(*child));
	uint64_t cpu;

	if (!child)
		err(1, "calloc");
	for (unsigned i = 0; i < count; i++) {
		char id[16];

		snprintf(id, sizeof(id), "p%u", i);
		child[i] = start(jailer, base, id, spore);
	}
	for (unsigned i = 0; i < count; i++) {
		char path[256];

		snprintf(path, sizeof(path), "%s/%s/p%u/root/run/" NAME, base, name, i);
		close(bench_connect(path));
		bench_row("parallel", i, "since_first", bench_now() - child[0].exec_at);
		bench_row("parallel", i, "since_exec", bench_now() - child[i].exec_at);
	}
	nanosleep(&(const struct timespec){.tv_nsec = 50000000}, NULL);
	for (unsigned i = 0; i < count; i++) {
		char id[16];

		cpu = bench_cpu(child[i].pid) - child[i].exec_cpu;
		bench_row("parallel", i, "cpu", cpu);
		kill(child[i].pid, SIGKILL);
		bench_wait(child[i].pid);
		snprintf(id, sizeof(id), "p%u", i);
		cleanup(jailer, base, id, spore);
	}
}

int main(int argc, char *argv[])
{
	unsigned n = argc > 2 ? (unsigned)atoi(argv[2]) : 0;

	if (argc == 2 && strcmp(argv[1], "counts") == 0) {
		for (int kind = 0; kind < SECCOMP_KINDS; kind++) {
			bench_row("calls", 0, kinds[kind], seccomp_programs[kind].calls);
			bench_row("most", 0, kinds[kind], seccomp_programs[kind].most);
			bench_row("instructions", 0, kinds[kind], seccomp_programs[kind].len);
		}
	} else if (argc == 3 && strcmp(argv[1], "filters") == 0) {
		measure_filters(n);
	} else if (argc == 4 && strcmp(argv[1], "bare") == 0) {
		make_bare(argv[2], argv[3]);
	} else if (argc == 7 && strcmp(argv[1], "start") == 0) {
		measure_start(n, argv + 3, argv[0]);
	} else if (argc == 6 && strcmp(argv[1], "parallel") == 0) {
		measure_parallel(n, argv + 3);
	} else {
		errx(2, "usage: see the head of tests/bench/jail.c");
	}
	return 0;
}
