/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "ctl/http.h"
#include "ctl/stat.h"
#include "ctl/verbs.h"

static int set_state(struct ctl *c, const char *name, const char *state, json_t *rows,
		     struct err *e)
{
	char socket[VMS_PATH_MAX];
	struct vms_vm vm;
	int r = vms_find_api(c, name, &vm, socket, e);

	if (r == 0)
		r = http_send(c, socket, "PATCH", "/vm", json_pack("{s:s}", "state", state), e);
	if (r == 0)
		json_array_append_new(rows, stat_one(c, &vm));
	return r;
}

/* Pause and resume are one request; all names are tried, also behind one that fails. */
static int run(struct ctl *c, const struct ctl_usage *usage, const char *state, int argc,
	       char **argv)
{
	json_t *rows = json_array();
	int code = 0;

	if (!ctl_parse(c, usage, &argc, &argv, NULL)) {
		json_decref(rows);
		return c->exit_code;
	}
	for (int i = 0; i < argc; i++) {
		struct err e;

		if (set_state(c, argv[i], state, rows, &e) < 0)
			code = ctl_fail(c, &e);
		else if (!c->json)
			puts(argv[i]);
	}
	if (c->json && ctl_print_json(c, json_incref(rows)) != 0)
		code = CTL_FAILED;
	json_decref(rows);
	return code;
}

int verb_pause(struct ctl *c, int argc, char **argv)
{
	static const struct ctl_usage usage = {
		.arguments = "NAME...",
		.min = 1,
		.max = CTL_MANY,
		.examples = "sporectl pause web\n"
			    "sporectl pause $(sporectl ps -q)\n",
	};

	return run(c, &usage, "Paused", argc, argv);
}

int verb_resume(struct ctl *c, int argc, char **argv)
{
	static const struct ctl_usage usage = {
		.arguments = "NAME...",
		.min = 1,
		.max = CTL_MANY,
		.examples = "sporectl resume web\n",
	};

	return run(c, &usage, "Resumed", argc, argv);
}
