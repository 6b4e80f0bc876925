/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PUT /vm/migrate at the source and PUT /vm/receive at the target; GET and DELETE /vm/migrate at both.
 */
#include <errno.h>
#include <string.h>

#include "api-sock/snapshot.h"
#include "snapshot/migrate.h"
#include "vmm/base/log.h"

static int read_body(const struct body *schema, struct api_call *call, void *out, struct err *e)
{
	int r = body_read(schema, call->body, false, out, e);

	call->bad_body = r < 0;
	return r;
}

/* --- source --- */

static void on_progress(void *arg, const struct migrate_info *i)
{
	struct api *api = arg;

	event_emit(api->vm->events, "migration_round", EVENT_NUMBER("round", i->dirty_sync_count),
		   EVENT_NUMBER("transferred", i->transferred),
		   EVENT_NUMBER("remaining", i->remaining));
}

static void remember(struct api *api, const struct migrate_info *i)
{
	struct migrate_metrics *m = &api->metrics->migrate;

	m->rounds += i->dirty_sync_count;
	m->bytes += i->transferred;
	m->downtime_us = i->downtime_us;
	if (i->status == MIGRATE_COMPLETED)
		m->completed++;
	else
		m->failed++;
}

/* It is not here any more, or not to be used. */
static void leave(struct api *api, const char *reason, enum vm_exit code)
{
	event_emit(api->vm->events, "exit", EVENT_TEXT("reason", reason),
		   EVENT_NUMBER("code", code));
	if (api->vm->ended)
		api->vm->ended(api->vm, code);
}

static void on_sent(void *arg, const struct migrate_info *i)
{
	struct api *api = arg;

	remember(api, i);
	if (i->status != MIGRATE_COMPLETED) {
		event_emit(api->vm->events, "migration_failed",
			   EVENT_TEXT("status", migrate_status_name[i->status]),
			   EVENT_TEXT("reason", i->failed.msg));
		if (i->split)
			leave(api, "migration_lost", VM_EXIT_SPLIT);
		return;
	}
	event_emit(api->vm->events, "migrated", EVENT_NUMBER("rounds", i->dirty_sync_count),
		   EVENT_NUMBER("transferred", i->transferred),
		   EVENT_NUMBER("downtime_us", i->downtime_us),
		   EVENT_NUMBER("took_us", i->total_us));
	leave(api, "migrated", VM_EXIT_MIGRATED);
}

static char *metadata_text(struct api *api)
{
	json_t *all = api->vm->mmds.store ? mmds_get(&api->vm->mmds) : NULL;
	char *text = all ? json_dumps(all, JSON_COMPACT) : NULL;

	json_decref(all);
	return text;
}

static int migrate(struct api *api, const struct migrate_request *req, struct err *e)
{
	cleanup_free char *config = snapshot_config(api);
	cleanup_free char *metadata = metadata_text(api);
	const struct migrate_params p = {
		.socket_path = req->socket_path,
		.downtime_limit_ms = req->downtime_limit_ms,
		.max_rounds = req->max_rounds,
		.max_bandwidth = req->max_bandwidth,
		.post_copy = req->post_copy,
		.config = config,
		.config_len = config ? strlen(config) : 0,
		.metadata = metadata,
		.progress = on_progress,
		.done = on_sent,
		.arg = api,
	};
	int r;

	if (!config || (!metadata && api->vm->mmds.store))
		return err_set(e, ENOMEM, "out of memory");
	r = migrate_begin(api->vm, &api->snapshots, &p, e);
	if (r == 0)
		event_emit(api->vm->events, "migration_begun",
			   EVENT_TEXT("socket_path", req->socket_path));
	return r;
}

int action_put_migrate(struct api *api, struct api_call *call, struct err *e)
{
	struct migrate_request req = {.downtime_limit_ms = 300, .max_rounds = 30};
	int r = read_body(&schema_migrate, call, &req, e);

	if (r == 0 && migrate(api, &req, e) < 0)
		r = err_wrap(e, "Migrate error");
	free(req.socket_path);
	return r;
}

/* --- target --- */

struct receiving {
	struct api *api;
	struct snapshot_load_request req; /* snapshot_path: the socket's */
	struct snapshot_apply apply;
	struct snapshot_load_params load;
};

static void free_receiving(struct receiving *r)
{
	json_decref(r->apply.root);
	snapshot_load_request_finish(&r->req);
	free(r);
}

static int on_metadata(void *arg, const char *text, size_t len, struct err *e)
{
	struct receiving *in = arg;
	json_t *value = body_parse(text, len, e);
	int r = value ? mmds_put(&in->api->vm->mmds, value, e) : -EINVAL;

	json_decref(value);
	return r < 0 ? err_wrap(e, "metadata") : 0;
}

static void on_received(void *arg, const struct migrate_info *i, bool usable)
{
	struct receiving *in = arg;
	struct api *api = in->api;

	remember(api, i);
	if (i->status == MIGRATE_COMPLETED) {
		event_emit(api->vm->events, "received", EVENT_NUMBER("rounds", i->dirty_sync_count),
			   EVENT_NUMBER("transferred", i->transferred),
			   EVENT_NUMBER("took_us", i->total_us));
		if (api->vm->phase == VM_RUNNING)
			event_emit(api->vm->events, "resumed");
		metrics_start(api->metrics);
	} else {
		event_emit(api->vm->events, "migration_failed",
			   EVENT_TEXT("status", migrate_status_name[i->status]),
			   EVENT_TEXT("reason", i->failed.msg));
	}
	if (i->status == MIGRATE_FAILED && usable) {
		json_decref(TAKE(in->apply.root));
		return; /* the next one is waited for */
	}
	if (!usable && i->status != MIGRATE_COMPLETED && api->vm->ended)
		api->vm->ended(api->vm, VM_EXIT_ERROR);
	free_receiving(in);
}

static int receive(struct receiving *in, struct err *e)
{
	struct api *api = in->api;
	const struct receive_params p = {
		.socket_path = in->req.snapshot_path,
		.load = &in->load,
		.metadata = on_metadata,
		.done = on_received,
		.arg = in,
	};

	if (api->configured)
		return err_set(e, EINVAL,
			       "Receiving a microVM is not allowed after configuring "
			       "boot-specific resources.");
	if (api->snapshots.arrival)
		return err_set(e, EBUSY, "a microVM is waited for already");
	in->apply = (struct snapshot_apply){.api = api, .req = &in->req, .arriving = true};
	in->load = (struct snapshot_load_params){
		.backend = SNAPSHOT_BACKEND_STREAM,
		.clock_realtime = in->req.clock_realtime,
		.judge = snapshot_judge,
		.configure = snapshot_configure,
		.arg = &in->apply,
	};
	return receive_begin(api->vm, &api->snapshots, &p, e);
}

int action_put_receive(struct api *api, struct api_call *call, struct err *e)
{
	struct receiving *in = calloc(1, sizeof(*in));
	int r;

	if (!in)
		return err_set(e, ENOMEM, "out of memory");
	in->api = api;
	r = read_body(&schema_receive, call, &in->req, e);
	if (r == 0 && receive(in, e) < 0)
		r = err_wrap(e, "Receive error");
	if (r < 0)
		free_receiving(in);
	return r;
}

/* --- both --- */

int action_get_migrate(struct api *api, struct api_call *call, struct err *e)
{
	struct migrate_report report = {0};
	struct migrate_info *i = &report.info;

	(void)e;
	migrate_get_info(&api->snapshots, i);
	err_clean_text(i->failed.msg);
	report.reason = i->failed.code ? i->failed.msg : NULL;
	call->reply = body_print(&schema_migrate_status, &report);
	return 0;
}

int action_delete_migrate(struct api *api, struct api_call *call, struct err *e)
{
	(void)call;
	return migrate_abort(&api->snapshots, e);
}
