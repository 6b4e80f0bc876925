/* SPDX-License-Identifier: Apache-2.0 */
/* events: what happens to a microVM, a line each; metrics: its counters. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/http.h"
#include "ctl/verbs.h"
#include "ctl/vms.h"

static int print_line(void *arg, const char *line)
{
	const char *until = arg;
	char event[80];

	puts(line);
	fflush(stdout);
	if (!until)
		return 0;
	snprintf(event, sizeof(event), "\"event\":\"%s\"", until);
	return strstr(line, event) != NULL;
}

int verb_events(struct ctl *c, int argc, char **argv)
{
	struct args {
		const char *until;
	} args = {0};
	static const struct ctl_option options[] = {
		{"until", 'u', CTL_TEXT, offsetof(struct args, until), "EVENT",
		 "end when this has happened"},
		{0},
	};
	static const struct ctl_usage usage = {
		.arguments = "NAME",
		.options = options,
		.min = 1,
		.max = 1,
		.examples = "sporectl events web\n"
			    "sporectl events --until exit web | jq -r .reason\n",
	};
	char socket[VMS_PATH_MAX];
	struct http_call call = {.socket = socket,
				 .method = "GET",
				 .path = "/events",
				 .seconds = HTTP_LONG,
				 .line = print_line};
	struct vms_vm vm;
	struct err e;

	if (!ctl_parse(c, &usage, &argc, &argv, &args))
		return c->exit_code;
	call.arg = (void *)(uintptr_t)args.until;
	if (vms_find_api(c, argv[0], &vm, socket, &e) < 0 || http_call(c, &call, NULL, &e) < 0)
		return ctl_fail(c, &e);
	return 0;
}

/* Each line of Prometheus' text as a member: its name, with labels if it has any, and its value. */
static json_t *metrics_object(char *text)
{
	json_t *out = json_object();
	char *rest;

	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		char *space = strrchr(line, ' '), *end;
		double value;

		if (line[0] == '#' || !space)
			continue;
		*space = '\0';
		value = strtod(space + 1, &end);
		/* Of NaN jansson makes none. */
		json_object_set_new(out, line, *end ? NULL : json_real(value));
	}
	return out;
}

int verb_metrics(struct ctl *c, int argc, char **argv)
{
	static const struct ctl_usage usage = {
		.arguments = "NAME",
		.min = 1,
		.max = 1,
		.examples = "sporectl metrics web\n"
			    "sporectl metrics web | promtool check metrics\n"
			    "sporectl metrics --json web | jq .spore_vcpu_exit_io_in\n",
	};
	struct http_answer answer = {0};
	char socket[VMS_PATH_MAX];
	const struct http_call call = {.socket = socket, .method = "GET", .path = "/metrics"};
	struct vms_vm vm;
	struct err e;

	if (!ctl_parse(c, &usage, &argc, &argv, NULL))
		return c->exit_code;
	if (vms_find_api(c, argv[0], &vm, socket, &e) < 0 || http_call(c, &call, &answer, &e) < 0)
		return ctl_fail(c, &e);
	if (c->json)
		ctl_print_json(c, metrics_object(answer.text));
	else if (answer.text)
		fputs(answer.text, stdout);
	http_answer_finish(&answer);
	return 0;
}
