/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/attack/judge.h"

#include <linux/audit.h>

static bool matches(const struct filter_arg *a, const uint64_t *args)
{
	uint64_t half = a->qword ? UINT64_MAX : UINT32_MAX;
	uint64_t x = args[a->index] & half, v = a->value & half;

	switch ((enum filter_op)a->op) {
	case FILTER_ANY:
		return true;
	case FILTER_EQ:
		return x == v;
	case FILTER_NE:
		return x != v;
	case FILTER_LT:
		return x < v;
	case FILTER_LE:
		return x <= v;
	case FILTER_GT:
		return x > v;
	case FILTER_GE:
		return x >= v;
	case FILTER_MASKED:
		return (x & a->mask & half) == v;
	}
	return false;
}

uint32_t judge(const struct filter_rule *rule, size_t count, unsigned who,
	       const struct seccomp_data *d)
{
	for (size_t i = 0; i < count; i++) {
		const struct filter_rule *r = &rule[i];
		bool all = r->nr == d->nr && filter_applies(r, who);

		for (int n = 0; all && n < FILTER_ARGS; n++)
			all = matches(&r->arg[n], (const uint64_t *)d->args);
		if (all)
			return r->error ? SECCOMP_RET_ERRNO | (uint32_t)r->error
					: SECCOMP_RET_ALLOW;
	}
	return SECCOMP_RET_TRAP;
}

bool judge_named(long nr, unsigned who)
{
	for (size_t i = 0; i < filter_table_len; i++)
		if (filter_table[i].nr == nr && filter_applies(&filter_table[i], who))
			return true;
	return false;
}

/*
 * uretprobe (335) and uprobe (336) of Linux 6.11 and 6.18: they do nothing but where the kernel
 * itself has put them into code that is being probed.
 */
bool judge_exempt(long nr)
{
	return nr == 335 || nr == 336;
}

static bool violate(const struct filter_rule *r, unsigned arg, unsigned who, struct seccomp_data *d)
{
	static const uint64_t wrong[] = {UINT32_MAX, 0x7fffffff, 0, 1};

	*d = (struct seccomp_data){.nr = r->nr, .arch = AUDIT_ARCH_X86_64};
	for (int i = 0; i < FILTER_ARGS; i++)
		if (r->arg[i].op != FILTER_ANY)
			d->args[r->arg[i].index] = r->arg[i].value;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		d->args[r->arg[arg].index] = wrong[i];
		if (judge(filter_table, filter_table_len, who, d) == SECCOMP_RET_TRAP)
			return true;
	}
	return false;
}

bool judge_violation(struct judge_walk *w, unsigned who, struct seccomp_data *d)
{
	for (; w->rule < filter_table_len; w->rule++, w->arg = 0) {
		const struct filter_rule *r = &filter_table[w->rule];

		if (!filter_applies(r, who))
			continue;
		while (w->arg < FILTER_ARGS && r->arg[w->arg].op != FILTER_ANY) {
			if (violate(r, w->arg++, who, d))
				return true;
			w->inviolable++;
		}
	}
	return false;
}
