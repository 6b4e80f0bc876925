/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs on the machine that builds spore: compiles the table of filters.c through libseccomp to BPF
 * and prints it as C. Starting spore then costs no compilation, and spore does not contain
 * libseccomp. Also prints the names of all system calls that libseccomp knows, for the message
 * about one that is not allowed.
 */
#include <errno.h>
#include <linux/filter.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "jailer/filter.h"

#define NR_MAX	 1024
#define INSN_MAX 4096

static void check(int r, const char *what)
{
	if (r >= 0)
		return;
	fprintf(stderr, "jailer-compile: %s: %s\n", what, strerror(-r));
	exit(1);
}

/* The low half is compared by masking the high one away: the kernel ignores it too. */
static struct scmp_arg_cmp translate(const struct filter_arg *a)
{
	static const enum scmp_compare op[] = {
		[FILTER_EQ] = SCMP_CMP_EQ, [FILTER_NE] = SCMP_CMP_NE, [FILTER_LT] = SCMP_CMP_LT,
		[FILTER_LE] = SCMP_CMP_LE, [FILTER_GT] = SCMP_CMP_GT, [FILTER_GE] = SCMP_CMP_GE,
	};
	uint64_t half = a->qword ? UINT64_MAX : UINT32_MAX;

	struct scmp_arg_cmp c = {.arg = a->index, .datum_a = a->value & half};

	if (a->op == FILTER_MASKED || (a->op == FILTER_EQ && !a->qword)) {
		c.op = SCMP_CMP_MASKED_EQ;
		c.datum_a = (a->op == FILTER_MASKED ? a->mask : half) & half;
		c.datum_b = a->value & half;
	} else if (a->qword) {
		c.op = op[a->op];
	} else {
		check(-ENOTSUP, "an ordering of 32-bit arguments in the table");
	}
	return c;
}

/* A rule that `who` has only if it is needed says so in place of allowing: seccomp_settle(). */
static uint32_t action(const struct filter_rule *r, unsigned who)
{
	if (r->error)
		return SCMP_ACT_ERRNO((uint16_t)r->error);
	return filter_applies(r, who) ? SCMP_ACT_ALLOW
				      : SCMP_ACT_TRACE((uint16_t)(r->who >> FILTER_MORE_SHIFT));
}

static void add_rule(scmp_filter_ctx ctx, const struct filter_rule *r, unsigned who)
{
	struct scmp_arg_cmp cmp[FILTER_ARGS];
	unsigned n = 0;

	for (unsigned i = 0; i < FILTER_ARGS; i++)
		if (r->arg[i].op != FILTER_ANY)
			cmp[n++] = translate(&r->arg[i]);
	check(seccomp_rule_add_exact_array(ctx, action(r, who), r->nr, n, cmp), r->why);
}

static unsigned with_more(unsigned who)
{
	return who == FILTER_MAIN ? who | FILTER_WITH(SECCOMP_MORE) : who;
}

/* --- what libseccomp leaves to do --- */

/* The high half of an argument, of which nothing is asked: load, and zero, is it zero. */
static bool is_idle(const struct sock_filter *p, size_t left)
{
	return left > 3 && p[0].code == (BPF_LD | BPF_W | BPF_ABS) &&
	       p[1].code == (BPF_ALU | BPF_AND | BPF_K) && p[1].k == 0 &&
	       p[2].code == (BPF_JMP | BPF_JEQ | BPF_K) && p[2].k == 0 && p[2].jt == 0 &&
	       p[3].code == (BPF_LD | BPF_W | BPF_ABS);
}

/* Where a jump of `by` goes, counted without what was dropped: to what comes next, if it was that. */
static size_t retarget(const size_t *kept, size_t from, size_t by)
{
	return kept[from + 1 + by] - kept[from] - 1;
}

/* Nobody jumps into the middle: libseccomp's jumps go to where something is loaded or compared. */
static void check_target(const bool *dropped, const struct sock_filter *p, size_t target)
{
	if (dropped[target] && p[target].code != (BPF_LD | BPF_W | BPF_ABS))
		check(-ENOTSUP, "a jump to what was dropped");
}

/*
 * The kernel takes a quarter of a microsecond for each instruction that it installs, and every start
 * waits for that: what has no effect is dropped.
 */
static size_t shorten(struct sock_filter *p, size_t n)
{
	static bool dropped[INSN_MAX + 1];
	static size_t kept[INSN_MAX + 1];

	memset(dropped, 0, sizeof(dropped));
	for (size_t i = 0; i < n; i++)
		if (is_idle(&p[i], n - i))
			dropped[i] = dropped[i + 1] = dropped[i + 2] = true;
	for (size_t i = kept[0] = 0; i < n; i++)
		kept[i + 1] = kept[i] + !dropped[i];
	for (size_t i = 0; i < n; i++) {
		if (dropped[i])
			continue;
		if (p[i].code == (BPF_JMP | BPF_JA)) {
			check_target(dropped, p, i + 1 + p[i].k);
			p[i].k = (uint32_t)retarget(kept, i, p[i].k);
		} else if (BPF_CLASS(p[i].code) == BPF_JMP) {
			check_target(dropped, p, i + 1u + p[i].jt);
			check_target(dropped, p, i + 1u + p[i].jf);
			p[i].jt = (uint8_t)retarget(kept, i, p[i].jt); /* never longer */
			p[i].jf = (uint8_t)retarget(kept, i, p[i].jf);
		}
		p[kept[i]] = p[i];
	}
	return kept[n];
}

static size_t compile(unsigned who, struct sock_filter *out)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_TRAP);
	FILE *file = tmpfile();
	ssize_t n;

	if (!ctx || !file)
		check(-ENOMEM, "begin");
	check(seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS), "other ABIs");
	/* A binary tree: the kernel simulates the filter for every call number when it is
	 * installed, and a list makes that a millisecond. */
	check(seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2), "optimize");
	for (size_t i = 0; i < filter_table_len; i++)
		if (filter_applies(&filter_table[i], with_more(who)))
			add_rule(ctx, &filter_table[i], who);
	check(seccomp_export_bpf(ctx, fileno(file)), "export");
	n = pread(fileno(file), out, INSN_MAX * sizeof(*out), 0);
	if (n < 0 || (size_t)n == INSN_MAX * sizeof(*out))
		check(-E2BIG, "read the program");
	fclose(file);
	seccomp_release(ctx);
	return shorten(out, (size_t)n / sizeof(*out));
}

static unsigned count_calls(unsigned who)
{
	bool seen[NR_MAX] = {0};
	unsigned n = 0;

	for (size_t i = 0; i < filter_table_len; i++) {
		const struct filter_rule *r = &filter_table[i];

		if (!filter_applies(r, who) || r->error || seen[r->nr])
			continue;
		seen[r->nr] = true;
		n++;
	}
	return n;
}

static void print_filter(const char *name, unsigned who)
{
	static struct sock_filter insn[INSN_MAX];
	size_t n = compile(who, insn);

	printf("static const struct sock_filter filter_%s[] = {\n", name);
	for (size_t i = 0; i < n; i++)
		printf("\t{0x%02x, %u, %u, 0x%x},\n", insn[i].code, insn[i].jt, insn[i].jf,
		       insn[i].k);
	printf("};\n\n");
}

static void print_program(const char *kind, const char *name, unsigned who)
{
	printf("\t[SECCOMP_%s] = {.insn = filter_%s, .len = sizeof(filter_%s) / "
	       "sizeof(filter_%s[0]), .calls = %u, .most = %u},\n",
	       kind, name, name, name, count_calls(who), count_calls(with_more(who)));
}

/* One string: no pointers that would have to be relocated. */
static void print_names(void)
{
	int last = 0;

	printf("const char seccomp_names[] =\n");
	for (int nr = 0; nr < NR_MAX; nr++) {
		char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, nr);

		if (!name)
			continue;
		for (; last < nr; last++)
			printf("\t\"\\0\"\n");
		printf("\t\"%s\\0\"\n", name);
		last = nr + 1;
		free(name);
	}
	printf("\t;\nconst int seccomp_names_count = %d;\n", last);
}

int main(void)
{
	printf("/* Made from jailer/filters.c by jailer/compile.c. */\n"
	       "#include \"jailer/seccomp.h\"\n\n");
	print_filter("boot", FILTER_BOOT);
	print_filter("main", FILTER_MAIN);
	print_filter("vcpu", FILTER_VCPU);
	print_filter("fetch", FILTER_FETCH);
	printf("const struct seccomp_program seccomp_programs[SECCOMP_KINDS] = {\n");
	print_program("BOOT", "boot", FILTER_BOOT);
	print_program("MAIN", "main", FILTER_MAIN);
	print_program("VCPU", "vcpu", FILTER_VCPU);
	print_program("FETCH", "fetch", FILTER_FETCH);
	printf("};\n\n");
	print_names();
	return ferror(stdout) || fflush(stdout) ? 1 : 0;
}
