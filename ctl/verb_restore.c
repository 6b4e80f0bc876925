/* SPDX-License-Identifier: Apache-2.0 */
/* restore: one microVM from a directory that snapshot made; clone: several. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "ctl/http.h"
#include "ctl/launch.h"
#include "ctl/stat.h"
#include "ctl/verbs.h"

struct args {
	const char *name;
	struct ctl_list taps;
	uint64_t count;
	bool detach, rm, paused;
};

#define AT(member) offsetof(struct args, member)

static void set_path(json_t *body, const char *key, const char *dir, const char *file)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	json_object_set_new(body, key, json_string(path));
}

static int load(struct ctl *c, const struct args *a, const struct vms_vm *vm, const char *dir,
		const json_t *config, struct err *e)
{
	json_t *body = json_pack("{s:b, s:{s:s}}", "resume_vm", !a->paused, "mem_backend",
				 "backend_type", "File");
	char socket[VMS_PATH_MAX];
	unsigned taps = 0;
	int r;

	vms_path(vm, "api.sock", socket);
	set_path(body, "snapshot_path", dir, "state");
	set_path(json_object_get(body, "mem_backend"), "backend_path", dir, "memory");
	launch_overrides(vm, config, &a->taps, &taps, body);
	r = http_send(c, socket, "PUT", "/snapshot/load", body, e);
	return r;
}

static int start(struct ctl *c, const struct args *a, const char *name, const char *dir,
		 const json_t *config, bool attended, struct launch *l, struct err *e)
{
	int r = launch_prepare(c, name, l, e);

	if (r < 0)
		return r;
	l->attended = attended;
	r = launch_start(c, l, NULL, a->rm, e);
	if (r < 0)
		return r;
	r = load(c, a, &l->vm, dir, config, e);
	if (r < 0)
		launch_cancel(l);
	return r;
}

static json_t *read_config(struct ctl *c, const char *given, char dir[PATH_MAX], struct err *e)
{
	char path[PATH_MAX + 16];
	json_error_t where;
	json_t *config;

	if (!realpath(given, dir)) {
		ctl_hint(c, "sporectl snapshot NAME %s", given);
		err_sys(e, "snapshot '%s'", given);
		return NULL;
	}
	snprintf(path, sizeof(path), "%s/config.json", dir);
	config = json_load_file(path, 0, &where);
	if (!config) {
		ctl_hint(c, "sporectl snapshot NAME %s", given);
		err_set(e, ENOENT, "'%s' is no snapshot of sporectl: %s", given, where.text);
	}
	return config;
}

/* What both begin with: the command line, and the directory that it names. NULL: *code is the exit code. */
static json_t *begin(struct ctl *c, const struct ctl_usage *usage, int argc, char **argv,
		     struct args *a, char dir[PATH_MAX], int *code)
{
	json_t *config;
	struct err e;

	if (!ctl_parse(c, usage, &argc, &argv, a)) {
		*code = c->exit_code;
		return NULL;
	}
	config = read_config(c, argv[0], dir, &e);
	if (!config)
		*code = ctl_fail(c, &e);
	return config;
}

int verb_restore(struct ctl *c, int argc, char **argv)
{
	static const struct ctl_option options[] = {
		{"name", 'n', CTL_TEXT, AT(name), "NAME", "of the microVM [vm1, vm2...]"},
		{"tap", 't', CTL_LIST, AT(taps), "DEVICE", "another tap for the next interface"},
		{"paused", 'p', CTL_FLAG, AT(paused), NULL, "do not let it run yet"},
		{"detach", 'd', CTL_FLAG, AT(detach), NULL, "leave it in the background"},
		{"rm", 0, CTL_FLAG, AT(rm), NULL, "keep nothing of it when it has ended"},
		{0},
	};
	static const struct ctl_usage usage = {
		.arguments = "DIRECTORY",
		.options = options,
		.min = 1,
		.max = 1,
		.examples = "sporectl restore warm\n"
			    "sporectl restore --detach --name web2 --tap tap1 warm\n",
	};
	struct args a = {0};
	char dir[PATH_MAX];
	struct launch l;
	json_t *config;
	struct err e;
	int code, r;

	config = begin(c, &usage, argc, argv, &a, dir, &code);
	if (!config)
		return code;
	r = start(c, &a, a.name, dir, config, !a.detach, &l, &e);
	json_decref(config);
	if (r < 0)
		return ctl_fail(c, &e);
	if (!a.detach)
		return launch_attend(c, &l, NULL);
	if (c->json)
		return ctl_print_json(c, stat_one(c, &l.vm));
	puts(l.vm.name);
	return 0;
}

/* One that fails leaves nothing; the others are not touched. */
static int clone_all(struct ctl *c, const struct args *a, const char *dir, const json_t *config,
		     json_t *rows)
{
	int code = 0;

	for (uint64_t i = 1; i <= a->count; i++) {
		char name[VMS_NAME_MAX + 32];
		struct launch l;
		struct err e;

		snprintf(name, sizeof(name), "%s-%llu", a->name, (unsigned long long)i);
		if (start(c, a, name, dir, config, false, &l, &e) < 0)
			code = ctl_fail(c, &e);
		else
			json_array_append_new(rows, stat_one(c, &l.vm));
	}
	return code;
}

int verb_clone(struct ctl *c, int argc, char **argv)
{
	static const struct ctl_option options[] = {
		{"count", 'c', CTL_NUMBER, AT(count), "N", "how many [1]"},
		{"name", 'n', CTL_TEXT, AT(name), "NAME", "they are NAME-1, NAME-2... [clone]"},
		{"paused", 'p', CTL_FLAG, AT(paused), NULL, "do not let them run yet"},
		{"rm", 0, CTL_FLAG, AT(rm), NULL, "keep nothing of one when it has ended"},
		{0},
	};
	static const struct ctl_usage usage = {
		.arguments = "DIRECTORY",
		.options = options,
		.min = 1,
		.max = 1,
		.examples = "sporectl clone --count 10 --name web warm\n"
			    "# each gets an identity of its own, if its guest runs the agent:\n"
			    "sporectl identity web-1\n",
	};
	struct args a = {.count = 1, .name = "clone"};
	json_t *config, *rows;
	char dir[PATH_MAX];
	int code;

	config = begin(c, &usage, argc, argv, &a, dir, &code);
	if (!config)
		return code;
	rows = json_array();
	code = clone_all(c, &a, dir, config, rows);
	json_decref(config);
	if (stat_show(c, rows) != 0)
		code = CTL_FAILED;
	return code;
}
