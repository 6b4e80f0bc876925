/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The filters, judged in three ways that have to agree: the table read directly, the BPF that
 * libseccomp made of it, and the BPF of our own compiler. Then the kernel itself: each system call
 * that is not in a filter is made in a child, which has to die of it.
 */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/if_tun.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "jailer/filter.h"
#include "jailer/seccomp.h"
#include "tests/attack/judge.h"

#define INSN_MAX 4096

/* Each filter that a thread may have, but for mixtures of what is added to MAIN. */
struct variant {
	const char *name;
	enum seccomp_kind kind;
	unsigned more, who;
};

#define AND(what)                                                 \
	{                                                         \
		"main, " #what, SECCOMP_MAIN, SECCOMP_##what,     \
			FILTER_MAIN | FILTER_WITH(SECCOMP_##what) \
	}
static const struct variant variants[] = {
	{"boot", SECCOMP_BOOT, 0, FILTER_BOOT},
	{"main", SECCOMP_MAIN, 0, FILTER_MAIN},
	{"vcpu", SECCOMP_VCPU, 0, FILTER_VCPU},
	{"fetch", SECCOMP_FETCH, 0, FILTER_FETCH},
	AND(PLUG),
	AND(FORK),
	AND(VSOCK),
	AND(PEERS),
	AND(RANDOM),
	AND(MORE),
};

#define EACH_VARIANT(v) \
	for (const struct variant *(v) = variants; (v) < variants + ARRAY_SIZE(variants); (v)++)

TestSuite(seccomp, .timeout = 120);

/* --- BPF, as the kernel runs it --- */

static uint32_t run_bpf(const struct sock_filter *insn, size_t len, const struct seccomp_data *d)
{
	uint32_t acc = 0;

	for (size_t pc = 0; pc < len; pc++) {
		const struct sock_filter *s = &insn[pc];
		bool yes;

		switch (s->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			cr_assert(s->k % 4 == 0 && s->k < sizeof(*d));
			memcpy(&acc, (const char *)d + s->k, 4);
			continue;
		case BPF_ALU | BPF_AND | BPF_K:
			acc &= s->k;
			continue;
		case BPF_RET | BPF_K:
			return s->k;
		case BPF_JMP | BPF_JA:
			pc += s->k;
			continue;
		case BPF_JMP | BPF_JEQ | BPF_K:
			yes = acc == s->k;
			break;
		case BPF_JMP | BPF_JGT | BPF_K:
			yes = acc > s->k;
			break;
		case BPF_JMP | BPF_JGE | BPF_K:
			yes = acc >= s->k;
			break;
		default:
			cr_assert_fail("instruction 0x%x", s->code);
			return 0;
		}
		pc += yes ? s->jt : s->jf;
	}
	cr_assert_fail("the program has no end");
	return 0;
}

/* --- arguments worth trying: what the rules name, its neighbours, one bit more, the high half --- */

struct trial {
	struct seccomp_data data;
	unsigned variant;
};

#define VARIANTS 40

static uint64_t vary(uint64_t v, unsigned variant)
{
	switch (variant) {
	case 0:
		return v;
	case 1:
		return v + 1;
	case 2:
		return v - 1;
	case 3:
		return v | 1ull << 32;
	case 4:
		return v | 0xdead000000000000;
	case 5:
		return ~v;
	case 6:
		return 0;
	case 7:
		return UINT64_MAX;
	default:
		return v ^ 1ull << (variant - 8);
	}
}

/* Calls check(d) for every call number, and around every value that a rule names. */
static void try_all(const struct filter_rule *rule, size_t count,
		    void (*check)(const struct seccomp_data *d, void *arg), void *arg)
{
	for (int nr = 0; nr < seccomp_names_count + 16; nr++) {
		struct seccomp_data d = {.nr = nr, .arch = AUDIT_ARCH_X86_64};

		check(&d, arg);
	}
	for (size_t i = 0; i < count; i++) {
		for (unsigned v = 0; v < VARIANTS * FILTER_ARGS; v++) {
			struct seccomp_data d = {.nr = rule[i].nr, .arch = AUDIT_ARCH_X86_64};

			for (unsigned n = 0; n < FILTER_ARGS; n++) {
				const struct filter_arg *a = &rule[i].arg[n];
				unsigned turn = v / VARIANTS == n ? v % VARIANTS : 0;

				if (a->op != FILTER_ANY)
					d.args[a->index] = vary(a->value, turn);
			}
			check(&d, arg);
		}
	}
}

struct pair {
	const struct variant *v;
	struct sock_filter settled[SECCOMP_INSN_MAX];
	const struct sock_filter *built;
	size_t built_len;
	struct sock_filter own[INSN_MAX];
	size_t own_len;
	unsigned tried, allowed;
};

static void agree(const struct seccomp_data *d, void *arg)
{
	struct pair *p = arg;
	uint32_t want = judge(filter_table, filter_table_len, p->v->who, d);
	uint32_t libseccomp = run_bpf(p->built, p->built_len, d);
	uint32_t own = run_bpf(p->own, p->own_len, d);

	p->tried++;
	p->allowed += want == SECCOMP_RET_ALLOW;
	cr_assert_eq(libseccomp, want, "%s, %s(%llx, %llx, %llx): libseccomp 0x%x, table 0x%x",
		     p->v->name, seccomp_call_name(d->nr), d->args[0], d->args[1], d->args[2],
		     libseccomp, want);
	cr_assert_eq(own, want, "%s, %s(%llx, %llx, %llx): own 0x%x, table 0x%x", p->v->name,
		     seccomp_call_name(d->nr), d->args[0], d->args[1], d->args[2], own, want);
}

Test(seccomp, table_and_both_programs_agree)
{
	EACH_VARIANT(v)
	{
		const struct seccomp_program *built = &seccomp_programs[v->kind];
		static struct pair p;
		int n;

		p = (struct pair){.v = v, .built = built->insn, .built_len = built->len};
		if (v->kind == SECCOMP_MAIN)
			p.built = seccomp_settle(built, v->more, p.settled).filter;
		n = filter_compile(filter_table, filter_table_len, v->who, SECCOMP_RET_TRAP, p.own,
				   INSN_MAX);
		cr_assert_gt(n, 0);
		p.own_len = (size_t)n;
		try_all(filter_table, filter_table_len, agree, &p);
		cr_expect_gt(p.tried, 10000);
		cr_expect_gt(p.allowed, 50);
	}
}

static void boot_allows_too(const struct seccomp_data *d, void *arg)
{
	uint32_t boot = judge(filter_table, filter_table_len, FILTER_BOOT, d);

	(void)arg;
	EACH_VARIANT(v)
	if (judge(filter_table, filter_table_len, v->who, d) == SECCOMP_RET_ALLOW)
		cr_expect_eq(boot, SECCOMP_RET_ALLOW, "%s", seccomp_call_name(d->nr));
}

Test(seccomp, what_a_thread_may_do_the_inherited_filter_allows)
{
	try_all(filter_table, filter_table_len, boot_allows_too, NULL);
}

Test(seccomp, other_abis_are_killed)
{
	for (int kind = 0; kind < SECCOMP_KINDS; kind++) {
		const struct seccomp_program *p = &seccomp_programs[kind];
		struct seccomp_data d = {.nr = 1, .arch = AUDIT_ARCH_I386};

		cr_expect_eq(run_bpf(p->insn, p->len, &d), SECCOMP_RET_KILL_PROCESS);
		d = (struct seccomp_data){.nr = 0x40000000 | __NR_write, .arch = AUDIT_ARCH_X86_64};
		cr_expect_eq(run_bpf(p->insn, p->len, &d), SECCOMP_RET_KILL_PROCESS);
	}
}

Test(seccomp, few_calls_each_with_a_reason)
{
	/* Ratchets. Firecracker 1.16: 50 and 31 in the two threads that are one here, and 27. */
	cr_expect_lt(seccomp_programs[SECCOMP_MAIN].calls, 36, "Firecracker allows 50");
	cr_expect_lt(seccomp_programs[SECCOMP_MAIN].most, 41);
	cr_expect_lt(seccomp_programs[SECCOMP_VCPU].calls, 13);
	/* Every start waits for the kernel to take them. */
	cr_expect_lt(seccomp_programs[SECCOMP_BOOT].len, 230);
	cr_expect_lt(seccomp_programs[SECCOMP_MAIN].len, 160);
	for (size_t i = 0; i < filter_table_len; i++) {
		cr_expect(filter_table[i].why && filter_table[i].why[0], "rule %zu", i);
		cr_expect(filter_table[i].who, "rule %zu", i);
		cr_expect_lt(filter_table[i].who, FILTER_WITH(SECCOMP_MORE + 1), "rule %zu", i);
	}
}

/* What would let an attacker out, whatever else changes in the table. */
Test(seccomp, never_allowed)
{
	static const int never[] = {
		__NR_execve,
		__NR_execveat,
		__NR_ptrace,
		__NR_process_vm_readv,
		__NR_process_vm_writev,
		__NR_kill,
		__NR_tgkill,
		__NR_rt_sigqueueinfo,
		__NR_rt_tgsigqueueinfo,
		__NR_pidfd_send_signal,
		__NR_pidfd_getfd,
		__NR_pidfd_open,
		__NR_mount,
		__NR_umount2,
		__NR_pivot_root,
		__NR_chroot,
		__NR_open_tree,
		__NR_move_mount,
		__NR_fsopen,
		__NR_setns,
		__NR_unshare,
		__NR_bpf,
		__NR_perf_event_open,
		__NR_init_module,
		__NR_finit_module,
		__NR_delete_module,
		__NR_kexec_load,
		__NR_kexec_file_load,
		__NR_reboot,
		__NR_keyctl,
		__NR_add_key,
		__NR_request_key,
		__NR_setuid,
		__NR_setresuid,
		__NR_setgid,
		__NR_setgroups,
		__NR_capset,
		__NR_fork,
		__NR_vfork,
		__NR_mknod,
		__NR_mknodat,
		__NR_iopl,
		__NR_ioperm,
		__NR_modify_ldt,
		__NR_arch_prctl,
		__NR_personality,
		__NR_sigaltstack,
		__NR_open_by_handle_at,
		__NR_name_to_handle_at,
		__NR_link,
		__NR_linkat,
		__NR_symlink,
		__NR_symlinkat,
		__NR_chmod,
		__NR_fchmod,
		__NR_chown,
		__NR_fchown,

		__NR_prlimit64,
		__NR_setrlimit,
		__NR_swapon,
		__NR_acct,
		__NR_pkey_mprotect,
	};

	for (size_t i = 0; i < filter_table_len; i++) {
		for (size_t n = 0; n < ARRAY_SIZE(never); n++)
			cr_expect_neq(filter_table[i].nr, never[n], "%s",
				      seccomp_call_name(never[n]));
		if (filter_table[i].nr == __NR_ioctl && filter_table[i].arg[0].value == TUNSETIFF)
			cr_expect_eq(filter_table[i].who, FILTER_BOOT | FILTER_WITH(SECCOMP_PLUG));
	}
}

Test(seccomp, names)
{
	cr_expect_str_eq(seccomp_call_name(__NR_ioctl), "ioctl");
	cr_expect_str_eq(seccomp_call_name(__NR_openat2), "openat2");
	cr_expect_str_eq(seccomp_call_name(-1), "?");
	cr_expect_str_eq(seccomp_call_name(400), "?"); /* a hole in the numbers */
	cr_expect_str_eq(seccomp_call_name(seccomp_names_count), "?");
	cr_expect_eq(seccomp_call_number("clone3"), __NR_clone3);
	cr_expect_eq(seccomp_call_number(""), -1);
	cr_expect_eq(seccomp_call_number("clon"), -1);
	for (int nr = 0; nr < seccomp_names_count; nr++)
		if (strcmp(seccomp_call_name(nr), "?") != 0)
			cr_expect_eq(seccomp_call_number(seccomp_call_name(nr)), nr);
}

/* --- our compiler with everything a file may ask for --- */

struct one_rule {
	struct filter_rule rule[2];
	struct sock_filter insn[INSN_MAX];
	size_t len;
};

static void same_as_judged(const struct seccomp_data *d, void *arg)
{
	struct one_rule *o = arg;

	cr_assert_eq(run_bpf(o->insn, o->len, d), judge(o->rule, 2, FILTER_BOOT, d),
		     "op %d qword %d value %lx: %llx", o->rule[0].arg[0].op,
		     o->rule[0].arg[0].qword, o->rule[0].arg[0].value, d->args[1]);
}

Test(seccomp, every_operator_in_both_widths)
{
	static const uint64_t values[] = {0,	      1,	   0x7fffffff,	 0x80000000,
					  0xffffffff, 0x100000000, 0x1200000034, INT64_MAX,
					  UINT64_MAX, 1ull << 63};

	for (int op = FILTER_EQ; op <= FILTER_MASKED; op++) {
		for (size_t i = 0; i < ARRAY_SIZE(values) * 2; i++) {
			struct filter_arg a = {.index = 1,
					       .op = (uint8_t)op,
					       .qword = i % 2,
					       .value = values[i / 2],
					       .mask = values[i / 2]};
			static struct one_rule o;
			int n;

			o.rule[0] = (struct filter_rule){.nr = 1, .who = FILTER_BOOT, .arg = {a}};
			a.index = 5;
			o.rule[1] =
				(struct filter_rule){.nr = 1, .who = FILTER_BOOT, .arg = {{0}, a}};
			n = filter_compile(o.rule, 2, FILTER_BOOT, SECCOMP_RET_TRAP, o.insn,
					   INSN_MAX);
			cr_assert_gt(n, 0);
			o.len = (size_t)n;
			try_all(o.rule, 2, same_as_judged, &o);
		}
	}
}

Test(seccomp, a_program_that_does_not_fit_is_refused)
{
	struct sock_filter insn[8];

	cr_expect_eq(filter_compile(filter_table, filter_table_len, FILTER_BOOT, 0, insn, 8),
		     -E2BIG);
	cr_expect_eq(filter_compile(NULL, 0, FILTER_BOOT, 0, insn, 8), 7);
}

/* --- files --- */

static struct err e;

static int load(struct seccomp *s, const char *text)
{
	char path[] = "/tmp/seccomp-test-XXXXXX";
	int fd = mkstemp(path), r;

	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
	r = seccomp_load(s, path, &e);
	unlink(path);
	return r;
}

#define THREAD(name, rules)                                                                    \
	"\"" name                                                                              \
	"\": {\"default_action\": \"trap\", \"filter_action\": \"allow\", \"filter\": [" rules \
	"]}"

Test(seccomp, a_file_of_firecrackers_form)
{
	static const char text[] = "{" THREAD(
		"vmm",
		"{\"syscall\": \"read\"}, {\"syscall\": "
		"\"ioctl\", \"comment\": \"c\", \"args\": "
		"[{\"index\": 1, \"type\": "
		"\"dword\", \"op\": \"eq\", \"val\": 21505}]}, "
		"{\"syscall\": \"mmap\", \"args\": [{\"index\": "
		"2, \"type\": "
		"\"dword\", \"op\": {\"masked_eq\": 4}, \"val\": "
		"0}]}") "," THREAD("api",
				   "{\"syscall\": "
				   "\"accept4\"}, "
				   "{\"syscall\": "
				   "\"read\"}") "," THREAD("vcpu", "{\"syscall\": \"write\"}") "}";
	struct seccomp_data d = {.arch = AUDIT_ARCH_X86_64};
	struct seccomp s;

	cr_assert_eq(load(&s, text), 0, "%s", e.msg);
	cr_expect_null(s.program[SECCOMP_BOOT].insn);
	cr_expect_eq(s.program[SECCOMP_MAIN].calls, 4);
	cr_expect_eq(s.program[SECCOMP_VCPU].calls, 1);
#define MAIN_SAYS(nr_, arg1, arg2, action)                                                      \
	do {                                                                                    \
		d.nr = (nr_);                                                                   \
		d.args[1] = (arg1);                                                             \
		d.args[2] = (arg2);                                                             \
		cr_expect_eq(                                                                   \
			run_bpf(s.program[SECCOMP_MAIN].insn, s.program[SECCOMP_MAIN].len, &d), \
			(action));                                                              \
	} while (0)
	MAIN_SAYS(__NR_read, 0, 0, SECCOMP_RET_ALLOW);
	MAIN_SAYS(__NR_accept4, 0, 0, SECCOMP_RET_ALLOW);
	MAIN_SAYS(__NR_write, 0, 0, SECCOMP_RET_TRAP);
	MAIN_SAYS(__NR_ioctl, 21505, 0, SECCOMP_RET_ALLOW);
	MAIN_SAYS(__NR_ioctl, 21506, 0, SECCOMP_RET_TRAP);
	MAIN_SAYS(__NR_mmap, 0, PROT_READ | PROT_WRITE, SECCOMP_RET_ALLOW);
	MAIN_SAYS(__NR_mmap, 0, PROT_READ | PROT_EXEC, SECCOMP_RET_TRAP);
	seccomp_finish(&s);
}

Test(seccomp, files_that_are_refused)
{
	static const struct {
		const char *text, *part;
	} bad[] = {
		{"", "line"},
		{"[]", "no rules for thread 'vmm'"},
		{"{}", "no rules for thread 'vmm'"},
		{"{" THREAD("vmm", "{\"syscall\": \"read\"}") "}", "no rules for thread 'vcpu'"},
		{"{" THREAD("vmm", "{\"syscall\": \"open_sesame\"}") "}", "open_sesame"},
		{"{" THREAD("vmm", "{\"call\": \"read\"}") "}", "syscall: missing"},
		{"{" THREAD("vmm", "7") "}", "syscall: missing"},
		{"{\"vmm\": {\"default_action\": \"explode\", \"filter_action\": \"allow\"}}",
		 "default_action"},
		{"{\"vmm\": {\"default_action\": \"trap\", \"filter_action\": \"trap\"}}",
		 "filter_action"},
		{"{\"vmm\": {\"default_action\": \"trap\", \"filter_action\": \"allow\"}}",
		 "filter: not a list"},
		{"{\"vmm\": {\"default_action\": {\"errno\": 0}, \"filter_action\": \"allow\"}}",
		 "default_action"},
#define ARG(text) "{" THREAD("vmm", "{\"syscall\": \"read\", \"args\": [" text "]}") "}"
		{ARG("{\"index\": 6, \"type\": \"dword\", \"op\": \"eq\", \"val\": 1}"), "index"},
		{ARG("{\"index\": -1, \"type\": \"dword\", \"op\": \"eq\", \"val\": 1}"), "index"},
		{ARG("{\"index\": 1, \"type\": \"word\", \"op\": \"eq\", \"val\": 1}"), "type"},
		{ARG("{\"index\": 1, \"type\": \"dword\", \"op\": \"is\", \"val\": 1}"), "op"},
		{ARG("{\"index\": 1, \"type\": \"dword\", \"op\": \"eq\"}"), "val"},
		{ARG("{\"index\": 1, \"type\": \"dword\", \"op\": \"eq\", \"val\": \"1\"}"), "val"},
	};
	struct seccomp s;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cr_expect_lt(load(&s, bad[i].text), 0, "%s", bad[i].text);
		cr_expect(strstr(e.msg, bad[i].part), "'%s' is not in '%s'", bad[i].part, e.msg);
		cr_expect_null(s.owned);
	}
	cr_expect_eq(seccomp_load(&s, "/dev/null", &e), -EINVAL);
	cr_expect_eq(seccomp_load(&s, "/nowhere", &e), -ENOENT);
}

/* --- the kernel --- */

static void nothing(void)
{
}

/*
 * Makes one call in a child under the filter of `v` and returns the child's wait status. Memory
 * shared with the parent stays empty unless the call came back.
 */
static int die_of(const struct variant *v, long nr, const uint64_t *a, long *came_back)
{
	int status, null;
	pid_t pid;

	*came_back = 0;
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		struct seccomp s;

		null = open("/dev/null", O_WRONLY);
		dup2(null, STDERR_FILENO);
		dup2(null, STDOUT_FILENO);
		seccomp_init(&s);
		if (seccomp_handle(nothing, &e) < 0 || seccomp_install(&s, SECCOMP_BOOT, &e) < 0 ||
		    (v->kind == SECCOMP_MAIN && seccomp_install_main(&s, v->more, &e) < 0) ||
		    (v->kind > SECCOMP_MAIN && seccomp_install(&s, v->kind, &e) < 0))
			_exit(1);
		syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
		*came_back = 1;
		_exit(2);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	return status;
}

static long *shared_word(void)
{
	long *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(p, MAP_FAILED);
	return p;
}

#define BUILT_IN_OR_SKIP()       \
	if (!seccomp_built_in()) \
	cr_skip_test("no filters in this build")

Test(seccomp, every_call_not_on_the_list_ends_the_process)
{
	static const uint64_t zero[6];
	long *came_back = shared_word();

	BUILT_IN_OR_SKIP();
	EACH_VARIANT(v)
	{
		unsigned died = 0;

		if (v->more && v->more != SECCOMP_MORE)
			continue;
		/* Beyond the last known one too: calls that future kernels add. */
		for (long nr = 0; nr < 520; nr++) {
			int status;

			if (judge_named(nr, v->who) || judge_exempt(nr))
				continue;
			status = die_of(v, nr, zero, came_back);
			cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == SECCOMP_EXIT_CODE,
				  "%s, %s (%ld): status 0x%x", v->name, seccomp_call_name((int)nr),
				  nr, (unsigned)status);
			cr_expect_eq(*came_back, 0);
			died++;
		}
		cr_expect_gt(died, 430);
	}
}

/* One violation of each argument that is checked. */
Test(seccomp, every_checked_argument_violated_once)
{
	long *came_back = shared_word();
	unsigned died = 0;

	BUILT_IN_OR_SKIP();
	EACH_VARIANT(v)
	{
		struct judge_walk w = {0};
		struct seccomp_data d;

		while (judge_violation(&w, v->who, &d)) {
			int status = die_of(v, d.nr, (const uint64_t *)d.args, came_back);

			cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == SECCOMP_EXIT_CODE,
				  "%s, %s argument %u: status 0x%x", v->name,
				  seccomp_call_name(d.nr), w.arg, (unsigned)status);
			died++;
		}
		/* While it configures, another line may allow the call as such. */
		cr_expect(w.inviolable == 0 || v->kind == SECCOMP_BOOT, "%s: %u", v->name,
			  w.inviolable);
	}
	cr_expect_gt(died, 60);
}

/* An attacker that blocks SIGSYS has silenced the message, not the filter. */
Test(seccomp, with_sigsys_blocked_the_kernel_kills)
{
	int status;
	pid_t pid;

	BUILT_IN_OR_SKIP();
	pid = fork();
	if (pid == 0) {
		struct seccomp s;
		sigset_t set;

		seccomp_init(&s);
		seccomp_handle(nothing, &e);
		seccomp_install(&s, SECCOMP_BOOT, &e);
		sigfillset(&set);
		sigprocmask(SIG_SETMASK, &set, NULL);
		syscall(__NR_getuid);
		_exit(2);
	}
	waitpid(pid, &status, 0);
	cr_expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS, "status 0x%x",
		  (unsigned)status);
}
