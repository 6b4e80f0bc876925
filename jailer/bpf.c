/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules to BPF, for filters that come from a file. One block for each system call: its rules
 * one after the other, each jumping to the next as soon as an argument does not match.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>

#include "jailer/filter.h"

#define X32_BIT 0x40000000u

/* Jumps whose target is not known yet; no real jump in a rule is that long. */
enum { NEXT = 0, PASS = 254, FAIL = 255 };

struct program {
	struct sock_filter *insn;
	size_t len, max; /* len > max: it did not fit */
};

static void emit(struct program *p, unsigned code, uint32_t k, uint8_t jt, uint8_t jf)
{
	if (p->len < p->max)
		p->insn[p->len] = (struct sock_filter){(uint16_t)code, jt, jf, k};
	p->len++;
}

static void load(struct program *p, size_t offset)
{
	emit(p, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void jump(struct program *p, unsigned op, uint32_t k, uint8_t jt, uint8_t jf)
{
	emit(p, BPF_JMP | op | BPF_K, k, jt, jf);
}

static void ret(struct program *p, uint32_t action)
{
	emit(p, BPF_RET | BPF_K, action, 0, 0);
}

/* Makes the jumps from `start` on that wait for `target` lead to the end of what is there. */
static void land(struct program *p, size_t start, uint8_t target)
{
	for (size_t i = start; i < p->len && i < p->max; i++) {
		struct sock_filter *s = &p->insn[i];

		if (BPF_CLASS(s->code) != BPF_JMP || BPF_OP(s->code) == BPF_JA)
			continue;
		if (s->jt == target)
			s->jt = (uint8_t)(p->len - i - 1);
		if (s->jf == target)
			s->jf = (uint8_t)(p->len - i - 1);
	}
}

/* The accumulator against the low half of the value. */
static void compare_low(struct program *p, const struct filter_arg *a)
{
	uint32_t v = (uint32_t)a->value;

	switch ((enum filter_op)a->op) {
	case FILTER_ANY:
		break;
	case FILTER_MASKED:
		emit(p, BPF_ALU | BPF_AND | BPF_K, (uint32_t)a->mask, 0, 0);
		jump(p, BPF_JEQ, v, NEXT, FAIL);
		break;
	case FILTER_EQ:
		jump(p, BPF_JEQ, v, NEXT, FAIL);
		break;
	case FILTER_NE:
		jump(p, BPF_JEQ, v, FAIL, NEXT);
		break;
	case FILTER_LT:
		jump(p, BPF_JGE, v, FAIL, NEXT);
		break;
	case FILTER_LE:
		jump(p, BPF_JGT, v, FAIL, NEXT);
		break;
	case FILTER_GT:
		jump(p, BPF_JGT, v, NEXT, FAIL);
		break;
	case FILTER_GE:
		jump(p, BPF_JGE, v, NEXT, FAIL);
		break;
	}
}

/* The accumulator against the high half: goes on only when the low half decides. */
static void compare_high(struct program *p, const struct filter_arg *a)
{
	uint32_t v = (uint32_t)(a->value >> 32);

	switch ((enum filter_op)a->op) {
	case FILTER_ANY:
		break;
	case FILTER_MASKED:
		emit(p, BPF_ALU | BPF_AND | BPF_K, (uint32_t)(a->mask >> 32), 0, 0);
		jump(p, BPF_JEQ, v, NEXT, FAIL);
		break;
	case FILTER_EQ:
		jump(p, BPF_JEQ, v, NEXT, FAIL);
		break;
	case FILTER_NE:
		jump(p, BPF_JEQ, v, NEXT, PASS);
		break;
	case FILTER_LT:
	case FILTER_LE:
		jump(p, BPF_JGT, v, FAIL, NEXT);
		jump(p, BPF_JEQ, v, NEXT, PASS);
		break;
	case FILTER_GT:
	case FILTER_GE:
		jump(p, BPF_JGT, v, PASS, NEXT);
		jump(p, BPF_JEQ, v, NEXT, FAIL);
		break;
	}
}

static void compile_arg(struct program *p, const struct filter_arg *a)
{
	size_t start = p->len;
	size_t low = offsetof(struct seccomp_data, args) + 8u * a->index;

	if (a->op == FILTER_ANY)
		return;
	if (a->qword) {
		load(p, low + 4);
		compare_high(p, a);
	}
	load(p, low);
	compare_low(p, a);
	land(p, start, PASS);
}

static void compile_rule(struct program *p, const struct filter_rule *r)
{
	size_t start = p->len;

	for (unsigned i = 0; i < FILTER_ARGS; i++)
		compile_arg(p, &r->arg[i]);
	ret(p, r->error ? SECCOMP_RET_ERRNO | (uint32_t)r->error : SECCOMP_RET_ALLOW);
	land(p, start, FAIL);
}

static void compile_call(struct program *p, const struct filter_rule *rule, size_t count,
			 unsigned who, uint32_t otherwise)
{
	size_t skip;

	jump(p, BPF_JEQ, (uint32_t)rule->nr, 1, 0);
	skip = p->len;
	emit(p, BPF_JMP | BPF_JA, 0, 0, 0);
	for (size_t i = 0; i < count; i++)
		if (rule[i].nr == rule->nr && filter_applies(&rule[i], who))
			compile_rule(p, &rule[i]);
	ret(p, otherwise);
	if (skip < p->max)
		p->insn[skip].k = (uint32_t)(p->len - skip - 1);
}

static bool seen_before(const struct filter_rule *rule, size_t i, unsigned who)
{
	for (size_t j = 0; j < i; j++)
		if (rule[j].nr == rule[i].nr && filter_applies(&rule[j], who))
			return true;
	return false;
}

int filter_compile(const struct filter_rule *rule, size_t count, unsigned who, uint32_t otherwise,
		   struct sock_filter *out, size_t max)
{
	struct program p = {.insn = out, .max = max};

	load(&p, offsetof(struct seccomp_data, arch));
	jump(&p, BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0);
	ret(&p, SECCOMP_RET_KILL_PROCESS);
	load(&p, offsetof(struct seccomp_data, nr));
	jump(&p, BPF_JGE, X32_BIT, 0, 1);
	ret(&p, SECCOMP_RET_KILL_PROCESS);
	for (size_t i = 0; i < count; i++) {
		if (!filter_applies(&rule[i], who) || seen_before(rule, i, who))
			continue;
		load(&p, offsetof(struct seccomp_data, nr));
		compile_call(&p, &rule[i], count - i, who, otherwise);
	}
	ret(&p, otherwise);
	return p.len > max ? -E2BIG : (int)p.len;
}
