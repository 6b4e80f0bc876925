/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snapshot: a directory with `state`, `memory` and `config.json`, which is what spore was told, as restore
 * and clone need it.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "ctl/http.h"
#include "ctl/progress.h"
#include "ctl/verbs.h"
#include "ctl/vms.h"

struct args {
	bool live, diff;
};

static const struct ctl_option options[] = {
	{"live", 'l', CTL_FLAG, offsetof(struct args, live), NULL,
	 "the guest goes on while memory is written"},
	{"diff", 0, CTL_FLAG, offsetof(struct args, diff), NULL,
	 "only what changed since the last one; needs run --track-dirty"},
	{0},
};

static const struct ctl_usage usage = {
	.arguments = "NAME DIRECTORY",
	.options = options,
	.min = 2,
	.max = 2,
	.examples = "sporectl snapshot web warm\n"
		    "sporectl snapshot --live web warm\n"
		    "sporectl restore warm\n",
};

struct job {
	struct ctl *c;
	char socket[VMS_PATH_MAX];
	char state[PATH_MAX], memory[PATH_MAX], config[PATH_MAX];
	struct progress progress;
	json_int_t since_ms; /* older events are of other snapshots */
	struct err *e;
	int r; /* 1: not over */
};

static int set_paths(struct ctl *c, struct job *j, const char *dir)
{
	char real[PATH_MAX - 16];

	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		goto failed;
	if (!realpath(dir, j->state) || strlen(j->state) >= sizeof(real))
		goto failed;
	strcpy(real, j->state);
	snprintf(j->state, sizeof(j->state), "%s/state", real);
	snprintf(j->memory, sizeof(j->memory), "%s/memory", real);
	snprintf(j->config, sizeof(j->config), "%s/config.json", real);
	return 0;
failed:
	ctl_hint(c, "ls -ld %s", dir);
	return err_sys(j->e, "directory '%s'", dir);
}

/* How large the memory file has become. */
static int tick(void *arg)
{
	struct job *j = arg;
	char temp[PATH_MAX + 8];
	struct stat st;

	snprintf(temp, sizeof(temp), "%s.tmp", j->memory);
	if (stat(temp, &st) == 0)
		progress_update(&j->progress, (uint64_t)st.st_blocks * 512);
	return 0;
}

/* An event of a live snapshot. Other than 0: it is over. */
static int on_event(void *arg, const char *line)
{
	struct job *j = arg;
	json_t *o = json_loads(line, 0, NULL);
	const char *event = "", *path = "", *reason = "";
	json_int_t at = 0, bytes = 0;

	json_unpack(o, "{s?s, s?s, s?s, s?I, s?I}", "event", &event, "path", &path, "reason",
		    &reason, "time_ms", &at, "bytes", &bytes);
	if (at >= j->since_ms && strcmp(path, j->state) == 0) {
		if (strcmp(event, "snapshot") == 0)
			j->r = 0;
		else if (strcmp(event, "snapshot_failed") == 0)
			j->r = err_set(j->e, EIO, "snapshot: %s", reason);
		else if (strcmp(event, "snapshot_progress") == 0)
			progress_update(&j->progress, (uint64_t)bytes);
	}
	json_decref(o);
	return j->r != 1;
}

static int create(struct job *j, const struct args *a)
{
	json_t *body = json_pack("{s:s, s:s, s:s}", "snapshot_path", j->state, "mem_file_path",
				 j->memory, "snapshot_type", a->diff ? "Diff" : "Full");
	struct http_call call = {.socket = j->socket,
				 .method = "PUT",
				 .path = "/snapshot/create",
				 .body = body,
				 .seconds = HTTP_LONG,
				 .tick = tick,
				 .arg = j};
	int r;

	if (a->live)
		json_object_set_new(body, "live", json_true());
	r = http_call(j->c, &call, NULL, j->e);
	json_decref(body);
	return r;
}

static int create_live(struct job *j, const struct args *a)
{
	const struct http_call call = {.socket = j->socket,
				       .method = "GET",
				       .path = "/events",
				       .seconds = HTTP_LONG,
				       .line = on_event,
				       .arg = j};
	struct timespec now;
	int r;

	clock_gettime(CLOCK_REALTIME, &now);
	j->since_ms = (json_int_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
	r = create(j, a);
	j->r = 1;
	if (r == 0)
		r = http_call(j->c, &call, NULL, j->e);
	if (r == 0 && j->r == 1)
		return err_set(j->e, EIO, "spore ended before the snapshot was there");
	return r < 0 ? r : j->r;
}

/* One that ran runs afterwards, whatever happened. */
static int create_paused(struct job *j, const struct args *a, bool running)
{
	struct err ignored;
	int r = 0;

	if (running)
		r = http_send(j->c, j->socket, "PATCH", "/vm",
			      json_pack("{s:s}", "state", "Paused"), j->e);
	if (r == 0)
		r = create(j, a);
	if (running)
		http_send(j->c, j->socket, "PATCH", "/vm", json_pack("{s:s}", "state", "Resumed"),
			  &ignored);
	return r;
}

static int snapshot(struct ctl *c, const struct args *a, const char *name, const char *dir,
		    struct job *j)
{
	json_t *info = NULL, *config = NULL;
	struct vms_vm vm;
	bool running;
	int r = vms_find_api(c, name, &vm, j->socket, j->e);

	if (r == 0)
		r = set_paths(c, j, dir);
	if (r < 0)
		return r;
	r = http_ask(c, j->socket, "/", &info, j->e);
	if (r == 0)
		r = http_ask(c, j->socket, "/vm/config", &config, j->e);
	if (r == 0) {
		running = strcmp(json_string_value(json_object_get(info, "state")), "Running") == 0;
		progress_begin(&j->progress, c, "snapshot", 0);
		r = a->live ? create_live(j, a) : create_paused(j, a, running);
		progress_end(&j->progress);
	}
	if (r == 0 && json_dump_file(config, j->config, JSON_INDENT(1)) < 0)
		r = err_sys(j->e, "write '%s'", j->config);
	json_decref(info);
	json_decref(config);
	return r;
}

int verb_snapshot(struct ctl *c, int argc, char **argv)
{
	struct args args = {0};
	static struct err e;
	static struct job j = {.e = &e};

	if (!ctl_parse(c, &usage, &argc, &argv, &args))
		return c->exit_code;
	j.c = c;
	if (snapshot(c, &args, argv[0], argv[1], &j) < 0)
		return ctl_fail(c, &e);
	if (c->json)
		return ctl_print_json(
			c, json_pack("{s:s, s:s}", "state", j.state, "memory", j.memory));
	ctl_note(c, "%s: sporectl restore %s starts it again", argv[1], argv[1]);
	return 0;
}
