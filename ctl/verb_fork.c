/* SPDX-License-Identifier: Apache-2.0 */
/* fork: children of a microVM that goes on running, in the background. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "ctl/http.h"
#include "ctl/launch.h"
#include "ctl/stat.h"
#include "ctl/verbs.h"

#define CHILDREN_MAX 64u /* of one request */

struct args {
	const char *name, *disks;
	struct ctl_list taps;
	uint64_t count;
	bool rm, paused;
};

struct family {
	struct ctl *c;
	const struct args *a;
	json_t *config;			   /* of the parent; owned */
	json_t *children;		   /* for the request; owned */
	struct launch child[CHILDREN_MAX]; /* in the same order */
	unsigned count, taps;
};

/* Each that the parent writes to is copied at the moment of the fork. */
static void add_disks(const struct family *f, const struct vms_vm *vm, json_t *body)
{
	json_t *list = json_array(), *drive;
	const char *id, *path, *overlay;
	size_t i;
	int ro;

	json_array_foreach(json_object_get(f->config, "drives"), i, drive)
	{
		id = path = overlay = NULL;
		ro = 0;
		json_unpack(drive, "{s:s, s?s, s?s, s?b}", "drive_id", &id, "path_on_host", &path,
			    "overlay", &overlay, "is_read_only", &ro);
		if (!path || ro)
			continue;
		json_array_append_new(
			list,
			json_pack("{s:s, s:o, s:b}", "drive_id", id,
				  overlay ? "overlay" : "path_on_host",
				  f->a->disks ? json_sprintf("%s/%s-%s", f->a->disks, vm->name, id)
					      : json_sprintf("%s/%s.disk", vm->dir, id),
				  "copy", 1));
	}
	if (json_array_size(list))
		json_object_set(body, "drive_overrides", list);
	json_decref(list);
}

static int add_child(struct family *f, const char *name, struct err *e)
{
	struct launch *l = &f->child[f->count];
	char socket[VMS_PATH_MAX];
	json_t *body;
	int r = launch_prepare(f->c, name, l, e);

	if (r == 0)
		r = launch_start(f->c, l, NULL, f->a->rm, e);
	if (r < 0)
		return r;
	vms_path(&l->vm, "api.sock", socket);
	body = json_pack("{s:s, s:b}", "socket", socket, "resume_vm", !f->a->paused);
	launch_overrides(&l->vm, f->config, &f->a->taps, &f->taps, body);
	add_disks(f, &l->vm, body);
	json_array_append_new(f->children, body);
	f->count++;
	return 0;
}

/* Those that live become rows; the others leave nothing. */
static int sort_out(struct family *f, const json_t *answer, json_t *rows)
{
	const json_t *children = json_object_get(answer, "children");
	int code = 0;

	for (unsigned i = 0; i < f->count; i++) {
		struct launch *l = &f->child[i];
		const char *fault = json_string_value(
			json_object_get(json_array_get(children, i), "fault_message"));
		struct err e;

		if (fault) {
			err_set(&e, EIO, "%s: %s", l->vm.name, fault);
			code = ctl_fail(f->c, &e);
			launch_cancel(l);
		} else {
			json_array_append_new(rows, stat_one(f->c, &l->vm));
		}
	}
	return code;
}

static int ask_parent(struct family *f, const char *parent, const char *socket, json_t *rows)
{
	json_t *body = json_pack("{s:O}", "children", f->children);
	const struct http_call call = {.socket = socket,
				       .method = "PUT",
				       .path = "/vm/fork",
				       .body = body,
				       .seconds = HTTP_LONG};
	struct http_answer answer;
	json_int_t us = 0;
	struct err e;
	int r = http_call(f->c, &call, &answer, &e), code;

	json_decref(body);
	if (r < 0) {
		code = ctl_fail(f->c, &e);
		for (unsigned i = 0; i < f->count; i++)
			launch_cancel(&f->child[i]);
		return code;
	}
	json_unpack(answer.body, "{s?I}", "paused_us", &us);
	ctl_note(f->c, "%s stood still for %.2f ms", parent, (double)us / 1000);
	code = sort_out(f, answer.body, rows);
	http_answer_finish(&answer);
	return code;
}

/* As for clones: what cannot be made is reported, its siblings live. */
static int make_children(struct family *f, const char *parent, const char *socket, json_t *rows)
{
	const char *prefix = f->a->name ? f->a->name : parent;
	int code = 0, asked;
	struct err e;

	f->children = json_array();
	for (uint64_t i = 1; i <= f->a->count; i++) {
		char name[VMS_NAME_MAX + 32];

		snprintf(name, sizeof(name), "%s-%llu", prefix, (unsigned long long)i);
		if (add_child(f, name, &e) < 0)
			code = ctl_fail(f->c, &e);
	}
	asked = f->count ? ask_parent(f, parent, socket, rows) : 0;
	json_decref(f->children);
	return asked ? asked : code;
}

static int check_args(struct ctl *c, struct args *a, char disks[PATH_MAX], struct err *e)
{
	if (a->count < 1 || a->count > CHILDREN_MAX) {
		ctl_hint(c, "sporectl fork --count %u", CHILDREN_MAX);
		return err_set(e, EINVAL, "--count: 1 to %u at once", CHILDREN_MAX);
	}
	if (a->disks && !realpath(a->disks, disks)) {
		ctl_hint(c, "mkdir %s", a->disks);
		return err_sys(e, "--disks '%s'", a->disks);
	}
	if (a->disks)
		a->disks = disks;
	return 0;
}

#define AT(member) offsetof(struct args, member)

int verb_fork(struct ctl *c, int argc, char **argv)
{
	static const struct ctl_option options[] = {
		{"count", 'c', CTL_NUMBER, AT(count), "N", "how many [1]"},
		{"name", 'n', CTL_TEXT, AT(name), "NAME",
		 "they are NAME-1, NAME-2... [the parent's]"},
		{"tap", 't', CTL_LIST, AT(taps), "DEVICE",
		 "a tap for the next interface, of one child after the other"},
		{"disks", 0, CTL_TEXT, AT(disks), "DIRECTORY",
		 "for their copies of what the parent writes to [with the microVM, and removed "
		 "with it]"},
		{"paused", 'p', CTL_FLAG, AT(paused), NULL, "do not let them run yet"},
		{"rm", 0, CTL_FLAG, AT(rm), NULL, "keep nothing of one when it has ended"},
		{0},
	};
	static const struct ctl_usage usage = {
		.arguments = "NAME",
		.options = options,
		.min = 1,
		.max = 1,
		.examples = "sporectl run --forkable --detach --name web\n"
			    "sporectl fork --count 10 web\n"
			    "sporectl fork --name try --tap tap1 --disks /srv/disks web\n",
	};
	struct args a = {.count = 1};
	struct family f = {.c = c, .a = &a};
	char disks[PATH_MAX], socket[VMS_PATH_MAX];
	struct vms_vm vm;
	json_t *rows;
	struct err e;
	int code;

	if (!ctl_parse(c, &usage, &argc, &argv, &a))
		return c->exit_code;
	if (check_args(c, &a, disks, &e) < 0 || vms_find_api(c, argv[0], &vm, socket, &e) < 0 ||
	    http_ask(c, socket, "/vm/config", &f.config, &e) < 0)
		return ctl_fail(c, &e);
	rows = json_array();
	code = make_children(&f, argv[0], socket, rows);
	json_decref(f.config);
	if (stat_show(c, rows) != 0)
		code = CTL_FAILED;
	return code;
}
