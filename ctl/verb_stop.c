/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ctl/agentio.h"
#include "ctl/console.h"
#include "ctl/http.h"
#include "ctl/table.h"
#include "ctl/verbs.h"
#include "vmm/base/fd.h"

/* How long spore may take behind SIGTERM, which does not depend on the guest. */
#define TERM_MS 3000

struct target {
	struct vms_vm vm;
	int pidfd, holder;
	const char *how;
};

struct args {
	uint64_t seconds;
	bool all, now;
};

static const struct ctl_option options[] = {
	{"time", 't', CTL_NUMBER, offsetof(struct args, seconds), "SECONDS",
	 "how long the guest may take to shut down [10]"},
	{"now", 0, CTL_FLAG, offsetof(struct args, now), NULL, "do not ask the guest"},
	{"all", 'a', CTL_FLAG, offsetof(struct args, all), NULL, "all that run"},
	{0},
};

static void send_signal(const struct target *t, int sig)
{
	syscall(SYS_pidfd_send_signal, t->pidfd, sig, NULL, 0);
}

/* False when the guest cannot hear it. */
static bool ask(struct ctl *c, const struct target *t)
{
	char socket[VMS_PATH_MAX];
	struct err e;
	json_t *instance, *body = json_pack("{s:s}", "action_type", "SendCtrlAltDel");
	bool runs, asked;

	vms_path(&t->vm, "api.sock", socket);
	runs = http_ask(c, socket, "/", &instance, &e) == 0 &&
	       strcmp(json_string_value(json_object_get(instance, "state")) ?: "", "Running") == 0;
	json_decref(instance);
	if (!runs) {
		json_decref(body);
		return false;
	}
	/* The keys reach kernels that have a keyboard; where there is an agent, that is certain. */
	asked = http_send(c, socket, "PUT", "/actions", body, &e) == 0;
	return agentio_shutdown(c, t->vm.name, &e) == 0 || asked;
}

static void wait_for_all(struct target *t, size_t count, int ms)
{
	uint64_t end = now_ns() + (uint64_t)ms * 1000000, now;

	for (size_t i = 0; i < count; i++) {
		now = now_ns();
		vms_wait(t[i].pidfd, now < end ? (int)((end - now) / 1000000) : 0);
	}
}

/* Asks, then takes stronger means against those that are left. */
static void stop_all(struct ctl *c, const struct args *a, struct target *t, size_t count)
{
	bool heard = false;

	for (size_t i = 0; i < count && !a->now; i++) {
		if (!ask(c, &t[i]))
			continue;
		t[i].how = "shut down";
		heard = true;
	}
	if (heard)
		wait_for_all(t, count, (int)MIN(a->seconds, (uint64_t)86400) * 1000);
	for (size_t i = 0; i < count; i++) {
		if (t[i].how && vms_wait(t[i].pidfd, 0))
			continue;
		t[i].how = "terminated";
		send_signal(&t[i], SIGTERM);
	}
	wait_for_all(t, count, TERM_MS);
	for (size_t i = 0; i < count; i++) {
		if (vms_wait(t[i].pidfd, 0))
			continue;
		t[i].how = "killed";
		send_signal(&t[i], SIGKILL);
	}
	wait_for_all(t, count, TERM_MS);
	/* Its directory may go with it: the name shall be free when we say that it has ended. */
	for (size_t i = 0; i < count; i++)
		if (t[i].holder >= 0)
			vms_wait(t[i].holder, 2 * TERM_MS);
	c->hint[0] = '\0';
}

static int show(struct ctl *c, struct target *t, size_t count)
{
	static const struct table_column columns[] = {{"name", "NAME", TABLE_TEXT},
						      {"how", "HOW", TABLE_TEXT}};
	json_t *rows = json_array();

	for (size_t i = 0; i < count; i++) {
		json_array_append_new(
			rows, json_pack("{s:s, s:s}", "name", t[i].vm.name, "how", t[i].how));
		fd_close(&t[i].pidfd);
		fd_close(&t[i].holder);
	}
	return table_show(c, columns, ARRAY_SIZE(columns), rows);
}

static int add(struct ctl *c, const char *name, struct target *t)
{
	struct err e;

	*t = (struct target){.pidfd = -1, .holder = -1};
	if (vms_find_alive(c, name, &t->vm, &e) < 0)
		return ctl_fail(c, &e);
	t->pidfd = vms_pidfd(&t->vm, NULL, &e);
	t->holder = console_holder(&t->vm);
	return t->pidfd < 0 ? ctl_fail(c, &e) : 0;
}

int verb_stop(struct ctl *c, int argc, char **argv)
{
	static const struct ctl_usage usage = {
		.arguments = "NAME...",
		.options = options,
		.max = CTL_MANY,
		.examples = "sporectl stop web\n"
			    "sporectl stop --time 60 db\n"
			    "sporectl stop --all --now\n",
	};
	struct args args = {.seconds = 10};
	struct vms_vm *list = NULL;
	struct target *target;
	size_t listed = 0, count = 0;
	struct err e;
	int code = 0;

	if (!ctl_parse(c, &usage, &argc, &argv, &args))
		return c->exit_code;
	if (argc == 0 && !args.all) {
		ctl_hint(c, "sporectl stop NAME, or: sporectl stop --all");
		err_set(&e, EINVAL, "needs a NAME");
		ctl_fail(c, &e);
		return CTL_USAGE;
	}
	if (args.all && vms_list(c, &list, &listed, &e) < 0)
		return ctl_fail(c, &e);
	target = calloc((size_t)argc + listed + 1, sizeof(*target));
	if (!target)
		abort();
	for (int i = 0; i < argc; i++) {
		if (add(c, argv[i], &target[count]) == 0)
			count++;
		else
			code = CTL_FAILED;
	}
	for (size_t i = 0; i < listed; i++)
		if (vms_alive(&list[i]) && add(c, list[i].name, &target[count]) == 0)
			count++;
	stop_all(c, &args, target, count);
	if (show(c, target, count) != 0)
		code = CTL_FAILED;
	free(target);
	free(list);
	return code;
}
