/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migrate: one that runs goes on in another process, which is started here or waits elsewhere; receive:
 * that other one. docs/migration.md tells what happens between the two.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "ctl/http.h"
#include "ctl/launch.h"
#include "ctl/progress.h"
#include "ctl/stat.h"
#include "ctl/verbs.h"
#include "vmm/base/fd.h"

#define END_MS 10000

struct args {
	const char *to, *name;
	struct ctl_list taps, drives;
	uint64_t downtime, bandwidth;
	bool no_vsock, post_copy, rm;
};

/* Until the end of a migration, at either side. */
struct watch {
	struct ctl *c;
	const char *socket; /* of the API */
	const char *good;   /* the event of success */
	struct progress progress;
	json_int_t since_ms; /* older events are of other migrations */
	json_int_t downtime_us;
	bool waits;	/* one that failed is followed by another one */
	bool cancelled; /* somebody was asked to end it */
	bool lost;	/* the guest may be at either side */
	int r;		/* 1: not over */
	struct err *e;
};

/* SIGINT or SIGTERM has come. */
static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
	(void)sig;
	interrupted = 1;
}

/* It is given up, not left alone; how that went is an event. */
static int tick(void *arg)
{
	struct watch *w = arg;
	struct err ignored;

	if (interrupted && !w->cancelled) {
		w->cancelled = true;
		http_send(w->c, w->socket, "DELETE", "/vm/migrate", NULL, &ignored);
	}
	return 0;
}

static int on_event(void *arg, const char *line)
{
	struct watch *w = arg;
	json_t *o = json_loads(line, 0, NULL);
	const char *event = "", *status = "", *reason = "";
	json_int_t at = 0, bytes = 0;

	json_unpack(o, "{s?s, s?s, s?s, s?I, s?I}", "event", &event, "status", &status, "reason",
		    &reason, "time_ms", &at, "transferred", &bytes);
	if (at < w->since_ms) {
		/* of another one */
	} else if (strcmp(event, w->good) == 0) {
		json_unpack(o, "{s?I}", "downtime_us", &w->downtime_us);
		w->r = 0;
	} else if (strcmp(event, "migration_failed") == 0) {
		w->lost = strcmp(status, "handover-lost") == 0;
		err_set(w->e, EIO, "%s: %s", status, reason);
		if (!w->waits || w->cancelled)
			w->r = -EIO;
		else
			ctl_note(w->c, "%s; waiting for another one", w->e->msg);
	} else if (strcmp(event, "migration_round") == 0) {
		progress_update(&w->progress, (uint64_t)bytes);
	}
	json_decref(o);
	return w->r != 1;
}

static void watch_begin(struct watch *w)
{
	const struct sigaction sa = {.sa_handler = on_signal};
	struct timespec now;

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	clock_gettime(CLOCK_REALTIME, &now);
	w->since_ms = (json_int_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
	w->r = 1;
	err_set(w->e, ECONNRESET, "spore ended before it said what became of it");
}

/* 0, -EIO with the reason, or 1: the process has ended and left it open. */
static int watch_to_end(struct watch *w)
{
	const struct http_call call = {.socket = w->socket,
				       .method = "GET",
				       .path = "/events",
				       .seconds = HTTP_LONG,
				       .tick = tick,
				       .line = on_event,
				       .arg = w};
	struct err ignored;

	progress_begin(&w->progress, w->c, "migrate", 0);
	http_call(w->c, &call, NULL, &ignored);
	progress_end(&w->progress);
	return w->r;
}

/* --- target --- */

/* "ID=VALUE" of each in `list`, as {id_key: ID, key: VALUE}. */
static int add_named(json_t *body, const char *field, const char *id_key, const char *key,
		     const struct ctl_list *list, struct err *e)
{
	json_t *all = list->count ? json_array() : NULL;

	for (unsigned i = 0; i < list->count; i++) {
		const char *text = list->item[i], *is = strchr(text, '=');

		if (!is || is == text) {
			json_decref(all);
			return err_set(e, EINVAL, "'%s': need ID=%s", text,
				       strcmp(key, "host_dev_name") == 0 ? "DEVICE" : "PATH");
		}
		json_array_append_new(all, json_pack("{s:s%, s:s}", id_key, text,
						     (size_t)(is - text), key, is + 1));
	}
	if (all)
		json_object_set_new(body, field, all);
	return 0;
}

/* A process that waits at `socket_path` for what `overrides` tells. Takes `overrides`. */
static int start_target(struct ctl *c, struct launch *l, const char *socket_path, json_t *overrides,
			bool rm, struct err *e)
{
	char socket[VMS_PATH_MAX];
	int r = launch_start(c, l, NULL, rm, e);

	if (r < 0) {
		json_decref(overrides);
		return r;
	}
	vms_path(&l->vm, "api.sock", socket);
	json_object_set_new(overrides, "socket_path", json_string(socket_path));
	r = http_send(c, socket, "PUT", "/vm/receive", overrides, e);
	if (r < 0)
		launch_cancel(l);
	return r;
}

static int show(struct ctl *c, const struct launch *l)
{
	if (c->json)
		return ctl_print_json(c, stat_one(c, &l->vm));
	puts(l->vm.name);
	return 0;
}

static int receive(struct ctl *c, const struct args *a, const char *socket_path, struct launch *l,
		   struct err *e)
{
	char socket[VMS_PATH_MAX], vsock[VMS_PATH_MAX];
	struct watch w = {.c = c, .socket = socket, .good = "received", .waits = true, .e = e};
	json_t *overrides = json_object();
	int r = add_named(overrides, "network_overrides", "iface_id", "host_dev_name", &a->taps, e);

	if (r == 0)
		r = add_named(overrides, "drive_overrides", "drive_id", "path_on_host", &a->drives,
			      e);
	if (r == 0)
		r = launch_prepare(c, a->name, l, e);
	if (r < 0) {
		json_decref(overrides);
		return r;
	}
	vms_path(&l->vm, "api.sock", socket);
	vms_path(&l->vm, "vsock.sock", vsock);
	if (!a->no_vsock)
		json_object_set_new(overrides, "vsock_override",
				    json_pack("{s:s}", "uds_path", vsock));
	watch_begin(&w);
	r = start_target(c, l, socket_path, overrides, a->rm, e);
	if (r < 0)
		return r;
	ctl_note(c, "%s waits at %s", l->vm.name, socket_path);
	if (watch_to_end(&w) == 0)
		return 0;
	launch_cancel(l);
	return -e->code;
}

#define AT(member) offsetof(struct args, member)

int verb_receive(struct ctl *c, int argc, char **argv)
{
	static const struct ctl_option options[] = {
		{"name", 'n', CTL_TEXT, AT(name), "NAME", "of the microVM here [vm1, vm2...]"},
		{"tap", 't', CTL_LIST, AT(taps), "ID=DEVICE", "the tap of an interface here"},
		{"drive", 0, CTL_LIST, AT(drives), "ID=PATH", "the path of a disk here"},
		{"no-vsock", 0, CTL_FLAG, AT(no_vsock), NULL, "it has no vsock device"},
		{"rm", 0, CTL_FLAG, AT(rm), NULL, "keep nothing of it when it has ended"},
		{0},
	};
	static const struct ctl_usage usage = {
		.arguments = "SOCKET",
		.options = options,
		.min = 1,
		.max = 1,
		.examples = "sporectl receive --name web /run/move.sock\n"
			    "# at the source, whose /run/move.sock is a tunnel's end:\n"
			    "ssh -N -L /run/move.sock:/run/move.sock target &\n"
			    "sporectl migrate --to /run/move.sock web\n",
	};
	struct args a = {0};
	struct launch l;
	struct err e;

	if (!ctl_parse(c, &usage, &argc, &argv, &a))
		return c->exit_code;
	return receive(c, &a, argv[0], &l, &e) < 0 ? ctl_fail(c, &e) : show(c, &l);
}

/* --- source --- */

/* Until both are over: then the status is known, and ps tells it. A process that could not tell has said it with that. */
static bool has_moved(const struct vms_vm *vm, int pidfd, int holder)
{
	long status;

	if (!vms_wait(pidfd, END_MS) || (holder >= 0 && !vms_wait(holder, END_MS)))
		return false;
	return vms_read_number(vm, "status", &status) && status == 4;
}

static int move(struct ctl *c, const struct args *a, const char *to, const struct vms_vm *vm,
		struct watch *w)
{
	cleanup_fd int pidfd = vms_pidfd(vm, NULL, w->e);
	cleanup_fd int holder = console_holder(vm);
	json_t *body = json_pack("{s:s}", "socket_path", to);
	int r = pidfd;

	if (a->downtime)
		json_object_set_new(body, "downtime_limit_ms",
				    json_integer((json_int_t)a->downtime));
	if (a->post_copy)
		json_object_set_new(body, "post_copy", json_true());
	if (a->bandwidth)
		json_object_set_new(body, "max_bandwidth", json_integer((json_int_t)a->bandwidth));
	if (r < 0)
		json_decref(body);
	else
		r = http_send(c, w->socket, "PUT", "/vm/migrate", body, w->e);
	if (r < 0)
		return r;
	r = watch_to_end(w);
	if (r >= 0 && has_moved(vm, pidfd, holder))
		return 0;
	if (w->lost && !vms_wait(pidfd, 1000))
		ctl_hint(c, "if it does not run at the target: sporectl resume %s", vm->name);
	return r == 0 ? 0 : -EIO;
}

/* Into a process of this host. */
static int move_here(struct ctl *c, const struct args *a, const struct vms_vm *vm, struct watch *w,
		     struct launch *l)
{
	json_t *config, *overrides = json_object();
	char path[VMS_PATH_MAX];
	unsigned taps = 0;
	int r = http_ask(c, w->socket, "/vm/config", &config, w->e);

	if (r == 0)
		r = launch_prepare(c, a->name, l, w->e);
	if (r < 0) {
		json_decref(overrides);
		json_decref(config);
		return r;
	}
	vms_path(&l->vm, "move.sock", path);
	launch_overrides(&l->vm, config, &a->taps, &taps, overrides);
	json_decref(config);
	r = start_target(c, l, path, overrides, a->rm, w->e);
	if (r < 0)
		return r;
	r = move(c, a, path, vm, w);
	if (r < 0 && !w->lost)
		launch_cancel(l);
	return r;
}

int verb_migrate(struct ctl *c, int argc, char **argv)
{
	static const struct ctl_option options[] = {
		{"to", 0, CTL_TEXT, AT(to), "SOCKET",
		 "where sporectl receive waits, or a tunnel to it [a new process here]"},
		{"name", 'n', CTL_TEXT, AT(name), "NAME", "of the new one here [vm1, vm2...]"},
		{"tap", 't', CTL_LIST, AT(taps), "DEVICE", "another tap for the next interface"},
		{"downtime", 0, CTL_NUMBER, AT(downtime), "MS",
		 "how long it may stand still [300]"},
		{"bandwidth", 0, CTL_SIZE, AT(bandwidth), "SIZE", "a second, at most"},
		{"post-copy", 0, CTL_FLAG, AT(post_copy), NULL,
		 "if it writes too fast, it goes before the rest of its memory"},
		{"rm", 0, CTL_FLAG, AT(rm), NULL, "keep nothing of the new one when it has ended"},
		{0},
	};
	static const struct ctl_usage usage = {
		.arguments = "NAME",
		.options = options,
		.min = 1,
		.max = 1,
		.examples = "# into a fresh process, of the spore that is installed now:\n"
			    "sporectl migrate --name web2 web\n"
			    "sporectl migrate --to /run/move.sock --bandwidth 100M web\n",
	};
	struct args a = {0};
	char socket[VMS_PATH_MAX];
	struct vms_vm vm;
	struct launch l;
	struct err e;
	struct watch w = {.c = c, .socket = socket, .good = "migrated", .e = &e};
	int r;

	if (!ctl_parse(c, &usage, &argc, &argv, &a))
		return c->exit_code;
	if (vms_find_api(c, argv[0], &vm, socket, &e) < 0)
		return ctl_fail(c, &e);
	watch_begin(&w);
	r = a.to ? move(c, &a, a.to, &vm, &w) : move_here(c, &a, &vm, &w, &l);
	if (r < 0)
		return ctl_fail(c, &e);
	ctl_note(c, "%s has moved, and stood still for %.1f ms", vm.name,
		 (double)w.downtime_us / 1000);
	return a.to ? 0 : show(c, &l);
}
