/* SPDX-License-Identifier: Apache-2.0 */
/* Filters from a file in the JSON of Firecracker's seccompiler. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/seccomp.h>
#include <string.h>

#include "jailer/filter.h"
#include "jailer/seccomp.h"
#include "vmm/base/fd.h"

#define FILE_MAX  MIB(1)
#define RULES_MAX 1024
#define INSN_MAX  4096 /* BPF_MAXINSNS of the kernel */

/* One thread's filter, or two that become one. */
struct custom {
	struct filter_rule rule[RULES_MAX];
	size_t count;
	uint32_t otherwise;
};

/* "allow", or an object with one member: {"errno": 1}. */
static int parse_action(const json_t *j, uint32_t *action, struct err *e)
{
	static const struct {
		const char *name;
		uint32_t action;
	} plain[] = {
		{"allow", SECCOMP_RET_ALLOW},
		{"trap", SECCOMP_RET_TRAP},
		{"log", SECCOMP_RET_LOG},
		{"kill_thread", SECCOMP_RET_KILL_THREAD},
		{"kill_process", SECCOMP_RET_KILL_PROCESS},
	};
	json_int_t n;

	for (size_t i = 0; json_is_string(j) && i < ARRAY_SIZE(plain); i++)
		if (strcmp(json_string_value(j), plain[i].name) == 0) {
			*action = plain[i].action;
			return 0;
		}
	if (json_is_object(j) && json_object_size(j) == 1) {
		n = json_integer_value(json_object_get(j, "errno"));
		if (n > 0 && n <= 0xfff) {
			*action = SECCOMP_RET_ERRNO | (uint32_t)n;
			return 0;
		}
		n = json_integer_value(json_object_get(j, "trace"));
		if (n > 0 && n <= 0xffff) {
			*action = SECCOMP_RET_TRACE | (uint32_t)n;
			return 0;
		}
	}
	return err_set(e, EINVAL,
		       "an action is none of allow, trap, log, kill_thread, kill_process, "
		       "{\"errno\": N}, {\"trace\": N}");
}

static int parse_op(json_t *j, struct filter_arg *a, struct err *e)
{
	static const struct {
		const char *name;
		enum filter_op op;
	} ops[] = {{"eq", FILTER_EQ}, {"ne", FILTER_NE}, {"lt", FILTER_LT},
		   {"le", FILTER_LE}, {"gt", FILTER_GT}, {"ge", FILTER_GE}};
	json_t *mask = json_object_get(j, "masked_eq");

	if (json_is_integer(mask) && json_object_size(j) == 1) {
		a->op = FILTER_MASKED;
		a->mask = (uint64_t)json_integer_value(mask);
		return 0;
	}
	for (size_t i = 0; json_is_string(j) && i < ARRAY_SIZE(ops); i++)
		if (strcmp(json_string_value(j), ops[i].name) == 0) {
			a->op = (uint8_t)ops[i].op;
			return 0;
		}
	return err_set(e, EINVAL, "op: none of eq, ne, lt, le, gt, ge, {\"masked_eq\": N}");
}

static int parse_arg(json_t *j, struct filter_rule *r, struct err *e)
{
	const char *type = json_string_value(json_object_get(j, "type"));
	const json_t *index = json_object_get(j, "index"), *val = json_object_get(j, "val");
	struct filter_arg a = {0};
	int n;

	if (!json_is_integer(index) || json_integer_value(index) < 0 ||
	    json_integer_value(index) >= FILTER_ARGS)
		return err_set(e, EINVAL, "index: not within 0..5");
	if (!type || (strcmp(type, "dword") != 0 && strcmp(type, "qword") != 0))
		return err_set(e, EINVAL, "type: neither dword nor qword");
	if (!json_is_integer(val))
		return err_set(e, EINVAL, "val: not a number");
	a.index = (uint8_t)json_integer_value(index);
	a.qword = type[0] == 'q';
	a.value = (uint64_t)json_integer_value(val);
	if (parse_op(json_object_get(j, "op"), &a, e) < 0)
		return -EINVAL;
	if (a.op == FILTER_MASKED)
		a.value &= a.mask;
	for (n = 0; n < FILTER_ARGS && r->arg[n].op != FILTER_ANY; n++)
		;
	if (n == FILTER_ARGS)
		return err_set(e, EINVAL, "args: more than %d", FILTER_ARGS);
	r->arg[n] = a;
	return 0;
}

static int parse_rule(json_t *j, struct custom *c, struct err *e)
{
	const char *name = json_string_value(json_object_get(j, "syscall"));
	struct filter_rule *r = &c->rule[c->count];
	json_t *arg;
	size_t i;

	if (!name)
		return err_set(e, EINVAL, "syscall: missing");
	if (c->count == RULES_MAX)
		return err_set(e, E2BIG, "more than %d rules", RULES_MAX);
	*r = (struct filter_rule){.nr = seccomp_call_number(name), .why = ""};
	if (r->nr < 0)
		return err_set(e, EINVAL, "'%.32s': no system call of x86-64", name);
	json_array_foreach(json_object_get(j, "args"), i, arg)
	{
		if (parse_arg(arg, r, e) < 0)
			return err_wrap(e, "'%.32s', argument %zu", name, i);
	}
	c->count++;
	return 0;
}

/* Adds what the file says for `thread`. Nothing when it does not name it. */
static int parse_thread(json_t *file, const char *thread, struct custom *c, struct err *e)
{
	json_t *j = json_object_get(file, thread), *rule;
	uint32_t action = 0;
	size_t i;

	if (!j)
		return 0;
	if (parse_action(json_object_get(j, "default_action"), &c->otherwise, e) < 0)
		return err_wrap(e, "%s: default_action", thread);
	if (parse_action(json_object_get(j, "filter_action"), &action, e) < 0)
		return err_wrap(e, "%s: filter_action", thread);
	if (action != SECCOMP_RET_ALLOW)
		return err_set(e, EINVAL, "%s: filter_action: only \"allow\" is supported", thread);
	if (!json_is_array(json_object_get(j, "filter")))
		return err_set(e, EINVAL, "%s: filter: not a list", thread);
	json_array_foreach(json_object_get(j, "filter"), i, rule)
	{
		if (parse_rule(rule, c, e) < 0)
			return err_wrap(e, "%s: rule %zu", thread, i);
	}
	return 0;
}

static unsigned count_calls(const struct custom *c)
{
	unsigned n = 0;

	for (size_t i = 0; i < c->count; i++) {
		size_t j = 0;

		while (c->rule[j].nr != c->rule[i].nr)
			j++;
		n += i == j;
	}
	return n;
}

static int compile(const struct custom *c, struct sock_filter *insn, struct seccomp_program *p,
		   struct err *e)
{
	int n = filter_compile(c->rule, c->count, FILTER_BOOT, c->otherwise, insn, INSN_MAX);

	if (n < 0)
		return err_set(e, E2BIG, "more than %d instructions", INSN_MAX);
	*p = (struct seccomp_program){
		.insn = insn, .len = (unsigned short)n, .calls = count_calls(c)};
	return 0;
}

static int parse_file(struct seccomp *s, json_t *file, struct err *e)
{
	static const char *const threads[SECCOMP_KINDS][2] = {
		[SECCOMP_BOOT] = {"boot"},
		[SECCOMP_MAIN] = {"vmm", "api"},
		[SECCOMP_VCPU] = {"vcpu"},
		[SECCOMP_FETCH] = {"vcpu"},
	};
	cleanup_free struct custom *c = calloc(1, sizeof(*c));
	int r = 0;

	s->owned = calloc((size_t)SECCOMP_KINDS * INSN_MAX, sizeof(*s->owned));
	if (!c || !s->owned)
		return err_set(e, ENOMEM, "out of memory");
	for (int kind = 0; kind < SECCOMP_KINDS; kind++) {
		c->count = 0;
		for (int i = 0; r == 0 && i < 2 && threads[kind][i]; i++)
			r = parse_thread(file, threads[kind][i], c, e);
		if (r == 0 && c->count > 0)
			r = compile(c, s->owned + kind * INSN_MAX, &s->program[kind], e);
		if (r == 0 && kind != SECCOMP_BOOT && c->count == 0)
			r = err_set(e, EINVAL, "no rules for thread '%s'", threads[kind][0]);
		if (r < 0)
			return r;
	}
	return 0;
}

int seccomp_load(struct seccomp *s, const char *path, struct err *e)
{
	cleanup_fd int fd = fd_open_file(path, O_RDONLY, false, e);
	int64_t size = fd < 0 ? fd : fd_size(fd);
	cleanup_free char *text = NULL;
	json_error_t at;
	json_t *file;
	int r;

	*s = (struct seccomp){0};
	if (size < 0)
		return (int)size;
	if ((uint64_t)size > FILE_MAX)
		return err_set(e, EFBIG, "'%s' is larger than 1 MiB", path);
	text = malloc((size_t)size + 1);
	r = text ? fd_pread_full(fd, text, (size_t)size, 0) : -ENOMEM;
	if (r < 0)
		return err_set(e, -r, "read '%s': %s", path, strerror(-r));
	file = json_loadb(text, (size_t)size, JSON_REJECT_DUPLICATES, &at);
	if (!file)
		return err_set(e, EINVAL, "'%s': line %d: %s", path, at.line, at.text);
	r = parse_file(s, file, e);
	json_decref(file);
	if (r < 0)
		seccomp_finish(s);
	return r < 0 ? err_wrap(e, "'%s'", path) : 0;
}
