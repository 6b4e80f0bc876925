/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ctl/console.h"
#include "ctl/verbs.h"
#include "vmm/base/fd.h"

struct args {
	bool force, all;
};

static const struct ctl_option options[] = {
	{"force", 'f', CTL_FLAG, offsetof(struct args, force), NULL, "kill those that run"},
	{"all", 'a', CTL_FLAG, offsetof(struct args, all), NULL,
	 "all that have ended; with --force all"},
	{0},
};

static int kill_it(const struct vms_vm *vm, struct err *e)
{
	cleanup_fd int holder = console_holder(vm);
	cleanup_fd int pidfd = vms_pidfd(vm, NULL, e);

	if (pidfd < 0)
		return vms_alive(vm) ? -e->code : 0; /* it has just ended */
	syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	if (!vms_wait(pidfd, 10000))
		return err_set(e, ETIMEDOUT, "microVM '%s' does not end", vm->name);
	if (holder >= 0)
		vms_wait(holder, 6000);
	return 0;
}

static int remove_one(struct ctl *c, const struct vms_vm *vm, bool force, struct err *e)
{
	int r = 0;

	if (vms_alive(vm) && !force) {
		ctl_hint(c, "sporectl stop %s, or: sporectl rm --force %s", vm->name, vm->name);
		return err_set(e, EBUSY, "microVM '%s' is running", vm->name);
	}
	if (vms_alive(vm))
		r = kill_it(vm, e);
	if (r == 0)
		r = vms_remove(vm, e);
	return r == -ENOENT ? 0 : r; /* run --rm was quicker */
}

static int remove_listed(struct ctl *c, const struct args *a, json_t *gone)
{
	struct vms_vm *list;
	size_t count;
	int code = 0;
	struct err e;

	if (vms_list(c, &list, &count, &e) < 0)
		return ctl_fail(c, &e);
	for (size_t i = 0; i < count; i++) {
		if (vms_alive(&list[i]) && !a->force)
			continue;
		if (remove_one(c, &list[i], a->force, &e) < 0)
			code = ctl_fail(c, &e);
		else
			json_array_append_new(gone, json_string(list[i].name));
	}
	free(list);
	return code;
}

static int show(struct ctl *c, json_t *gone)
{
	json_t *name;
	size_t i;

	if (c->json)
		return ctl_print_json(c, gone);
	json_array_foreach(gone, i, name)
	{
		puts(json_string_value(name));
	}
	json_decref(gone);
	return 0;
}

int verb_rm(struct ctl *c, int argc, char **argv)
{
	static const struct ctl_usage usage = {
		.arguments = "NAME...",
		.options = options,
		.max = CTL_MANY,
		.examples = "sporectl rm web\n"
			    "sporectl rm --all\n"
			    "sporectl rm --force web\n",
	};
	struct args args = {0};
	struct vms_vm vm;
	struct err e;
	json_t *gone;
	int code = 0;

	if (!ctl_parse(c, &usage, &argc, &argv, &args))
		return c->exit_code;
	if (argc == 0 && !args.all) {
		ctl_hint(c, "sporectl rm NAME, or: sporectl rm --all");
		err_set(&e, EINVAL, "needs a NAME");
		ctl_fail(c, &e);
		return CTL_USAGE;
	}
	gone = json_array();
	if (args.all)
		code = remove_listed(c, &args, gone);
	for (int i = 0; i < argc; i++) {
		if (vms_find(c, argv[i], &vm, &e) < 0 || remove_one(c, &vm, args.force, &e) < 0)
			code = ctl_fail(c, &e);
		else
			json_array_append_new(gone, json_string(argv[i]));
	}
	return show(c, gone) == 0 ? code : CTL_FAILED;
}
