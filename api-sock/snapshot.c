/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PUT /snapshot/create and /snapshot/load. The configuration goes into the state file as the JSON
 * that GET /vm/config gives, and is applied from there by the functions behind the other requests:
 * overrides are put into that JSON first, so that a path which is replaced is never opened.
 */
#include <errno.h>
#include <string.h>

#include "api-sock/configfile.h"
#include "api-sock/snapshot.h"

static int read_body(const struct body *schema, struct api_call *call, void *out, struct err *e)
{
	int r = body_read(schema, call->body, false, out, e);

	call->bad_body = r < 0;
	return r;
}

/* --- create --- */

static void tell_made(struct api *api, const struct snapshot_create_params *p,
		      const struct snapshot_report *report)
{
	*(p->diff ? &api->metrics->diff_create_us : &api->metrics->full_create_us) =
		report->total_us;
	event_emit(api->vm->events, "snapshot", EVENT_TEXT("type", report->diff ? "Diff" : "Full"),
		   EVENT_TEXT("path", p->snapshot_path), EVENT_NUMBER("pages", report->pages),
		   EVENT_NUMBER("state_us", report->state_us),
		   EVENT_NUMBER("memory_us", report->memory_us),
		   EVENT_NUMBER("paused_us", p->live ? report->paused_us : report->total_us),
		   EVENT_NUMBER("took_us", report->total_us));
}

static void on_progress(void *arg, const struct snapshot_create_params *p, uint64_t bytes)
{
	struct api *api = arg;

	event_emit(api->vm->events, "snapshot_progress", EVENT_TEXT("path", p->snapshot_path),
		   EVENT_NUMBER("bytes", bytes));
}

static void on_done(void *arg, const struct snapshot_create_params *p,
		    const struct snapshot_report *report, const struct err *failed)
{
	struct api *api = arg;

	if (failed)
		event_emit(api->vm->events, "snapshot_failed", EVENT_TEXT("path", p->snapshot_path),
			   EVENT_TEXT("reason", failed->msg));
	else
		tell_made(api, p, report);
}

char *snapshot_config(struct api *api)
{
	json_t *config = configfile_print(&api->vm->config, true);
	char *text = config ? json_dumps(config, JSON_COMPACT) : NULL;

	json_decref(config);
	return text;
}

static int create(struct api *api, const struct snapshot_create_request *req, struct err *e)
{
	cleanup_free char *text = snapshot_config(api);
	const struct snapshot_create_params p = {
		.snapshot_path = req->snapshot_path,
		.mem_file_path = req->mem_file_path,
		.diff = req->diff,
		.config = text,
		.config_len = text ? strlen(text) : 0,
		.live = req->live,
		.progress = on_progress,
		.done = on_done,
		.arg = api,
	};
	struct snapshot_report report;
	int r;

	if (!text)
		return err_set(e, ENOMEM, "out of memory");
	r = snapshot_create(api->vm, &api->snapshots, &p, &report, e);
	if (r == 0 && req->live)
		event_emit(api->vm->events, "snapshot_begun",
			   EVENT_TEXT("path", req->snapshot_path));
	else if (r == 0)
		tell_made(api, &p, &report);
	return r;
}

int action_put_snapshot_create(struct api *api, struct api_call *call, struct err *e)
{
	struct snapshot_create_request req = {0};
	int r = read_body(&schema_snapshot_create, call, &req, e);

	if (r == 0 && create(api, &req, e) < 0)
		r = err_wrap(e, "Create snapshot error");
	free(req.snapshot_path);
	free(req.mem_file_path);
	return r;
}

/* --- load --- */

/* list[?id_key == id], or NULL. */
static json_t *find_item(json_t *list, const char *id_key, const char *id)
{
	size_t i;
	json_t *item;

	json_array_foreach(list, i, item)
	{
		const char *have = json_string_value(json_object_get(item, id_key));

		if (have && strcmp(have, id) == 0)
			return item;
	}
	return NULL;
}

/* "": stays. */
static void set_text(json_t *item, const char *key, const char *value)
{
	if (value[0])
		json_object_set_new(item, key, json_string(value));
}

static int override_rewrite(const struct network_override *n, json_t *item, struct err *e)
{
	const char *mac = json_string_value(json_object_get(item, "guest_mac"));
	struct net_built built;
	int r = net_interface_build(mac ? mac : "", NULL, n->rewrite, &built, e);

	if (r == 0)
		json_object_set_new(item, "rewrite", body_print(&schema_net_rewrite, n->rewrite));
	return r;
}

static int override_network(const struct network_override *n, json_t *root, struct err *e)
{
	unsigned ways = (n->host_dev_name[0] ? 1u : 0u) + (n->passt_socket[0] ? 1u : 0u) +
			(n->tap_fd ? 1u : 0u);
	json_t *item =
		find_item(json_object_get(root, "network-interfaces"), "iface_id", n->iface_id);

	if (!item)
		return err_set(e, EINVAL, "network_overrides: no interface '%s'", n->iface_id);
	if (ways > 1 || (!ways && !n->rewrite))
		return err_set(e, EINVAL,
			       "network_overrides: '%s' needs one of host_dev_name, passt_socket "
			       "and tap_fd, or rewrite",
			       n->iface_id);
	if (n->rewrite && override_rewrite(n, item, e) < 0)
		return err_wrap(e, "network_overrides: '%s'", n->iface_id);
	if (!ways)
		return 0;
	json_object_del(item, "host_dev_name");
	json_object_del(item, "passt_socket");
	json_object_del(item, "tap_fd");
	set_text(item, "host_dev_name", n->host_dev_name);
	set_text(item, "passt_socket", n->passt_socket);
	if (n->tap_fd)
		json_object_set_new(item, "tap_fd", json_integer((json_int_t)n->tap_fd));
	return 0;
}

static int override_drive(const struct drive_override *d, json_t *root, struct err *e)
{
	json_t *item = find_item(json_object_get(root, "drives"), "drive_id", d->drive_id);

	if (!item)
		return err_set(e, EINVAL, "drive_overrides: no drive '%s'", d->drive_id);
	if (!d->path_on_host[0] && !d->overlay[0])
		return err_set(e, EINVAL,
			       "drive_overrides: '%s' needs path_on_host, overlay or both",
			       d->drive_id);
	set_text(item, "path_on_host", d->path_on_host);
	set_text(item, "overlay", d->overlay);
	return 0;
}

static int override_pmem(const struct pmem_override *p, json_t *root, struct err *e)
{
	json_t *item = find_item(json_object_get(root, "pmem"), "id", p->id);

	if (!item)
		return err_set(e, EINVAL, "pmem_overrides: no pmem device '%s'", p->id);
	set_text(item, "path_on_host", p->path_on_host);
	return 0;
}

static int apply_overrides(const struct snapshot_load_request *req, json_t *root, struct err *e)
{
	const struct network_override *n = req->networks.item;
	const struct drive_override *d = req->drives.item;
	const struct pmem_override *p = req->pmems.item;
	json_t *vsock = json_object_get(root, "vsock");
	int r = 0;

	for (unsigned i = 0; r == 0 && i < req->networks.count; i++)
		r = override_network(&n[i], root, e);
	for (unsigned i = 0; r == 0 && i < req->drives.count; i++)
		r = override_drive(&d[i], root, e);
	for (unsigned i = 0; r == 0 && i < req->pmems.count; i++)
		r = override_pmem(&p[i], root, e);
	if (r < 0 || !req->vsock.uds_path)
		return r;
	if (!json_is_object(vsock))
		return err_set(e, EINVAL, "vsock_override: no vsock device");
	json_object_set_new(vsock, "uds_path", json_string(req->vsock.uds_path));
	return 0;
}

/* Who it is, outside of the configuration. All of it, or nothing. */
static int apply_identity(const struct snapshot_apply *a, struct err *e)
{
	const struct snapshot_load_request *req = a->req;
	struct api *api = a->api;
	struct mmds *mmds = &api->vm->mmds;
	json_t *before = json_incref(mmds->store);
	struct serial_config piece;
	int r = 0;

	if (req->id[0] && vm_check_id(req->id, e) < 0)
		r = err_wrap(e, "id");
	if (r == 0 && req->metadata && !json_is_object(json_object_get(a->root, "mmds-config")))
		r = err_set(e, EINVAL, "metadata: this snapshot has no metadata service");
	/* A cast: it is shared, not written to. */
	if (r == 0 && req->metadata && mmds_put(mmds, (json_t *)(uintptr_t)req->metadata, e) < 0)
		r = err_wrap(e, "metadata");
	if (r == 0 && req->serial.serial_out_path) {
		serial_config_init(&piece);
		piece.serial_out_path = strdup(req->serial.serial_out_path);
		if (config_set_serial(&api->vm->config, &piece, e) < 0) {
			r = err_wrap(e, "serial_override");
			json_decref(mmds->store);
			mmds->store = TAKE(before);
		}
		serial_config_finish(&piece);
	}
	json_decref(before);
	if (r == 0 && req->id[0])
		vm_set_id(api->vm, req->id);
	return r;
}

int snapshot_judge(void *arg, const char *text, size_t len, struct err *e)
{
	struct snapshot_apply *a = arg;
	int r;

	a->root = a->api->primed ? TAKE(a->api->primed) : body_parse(text, len, e);
	if (!a->root)
		return err_wrap(e, "configuration");
	if (!json_is_object(a->root))
		return err_set(e, EINVAL, "configuration: expected a JSON object");
	r = apply_overrides(a->req, a->root, e);
	return r == 0 ? apply_identity(a, e) : r;
}

int snapshot_configure(void *arg, struct err *e)
{
	const struct snapshot_apply *a = arg;
	int r;

	/* The parent of a fork does go on: what it writes to is refused, as to any other. */
	a->api->vm->config.loading = a->req->backend.type != SNAPSHOT_BACKEND_PASSED;
	a->api->vm->config.arriving = a->arriving;
	r = configfile_apply_root(a->api, a->root, true, e);
	a->api->vm->config.loading = a->api->vm->config.arriving = false;
	return r;
}

static int load(struct api *api, const struct api_call *call,
		const struct snapshot_load_request *req, struct err *e)
{
	struct snapshot_apply a = {.api = api, .req = req};
	bool file = req->mem_file_path;
	const struct snapshot_load_params p = {
		.snapshot_path = req->snapshot_path,
		.backend = file ? SNAPSHOT_BACKEND_FILE : req->backend.type,
		.backend_path = file ? req->mem_file_path : req->backend.path,
		.passed = call->passed,
		.passed_count = call->passed_count,
		.track_dirty_pages = req->track_dirty_pages || req->enable_diff_snapshots,
		.working_set = req->working_set,
		.working_set_ms = req->working_set_ms,
		.clock_realtime = req->clock_realtime,
		.resume = req->resume_vm,
		.huge_pages = req->huge_pages,
		.judge = snapshot_judge,
		.configure = snapshot_configure,
		.arg = &a,
	};
	const struct vm_times *t = &api->vm->times;
	int r = snapshot_load(api->vm, &api->snapshots, &p, e);

	json_decref(a.root);
	if (r < 0)
		return r;
	api->metrics->load_us = t->total_us;
	event_emit(api->vm->events, "loaded", EVENT_TEXT("path", req->snapshot_path),
		   EVENT_NUMBER("state_us", t->state_us), EVENT_NUMBER("memory_us", t->memory_us),
		   EVENT_NUMBER("kvm_us", t->kvm_us), EVENT_NUMBER("devices_us", t->devices_us),
		   EVENT_NUMBER("vcpus_us", t->vcpus_us), EVENT_NUMBER("run_us", t->run_us),
		   EVENT_NUMBER("took_us", t->total_us));
	if (req->resume_vm)
		event_emit(api->vm->events, "resumed");
	metrics_start(api->metrics);
	return 0;
}

static int check_request(const struct api *api, const struct snapshot_load_request *req,
			 struct err *e)
{
	if (api->configured)
		return err_set(e, EINVAL,
			       "Loading a microVM snapshot not allowed after configuring "
			       "boot-specific resources.");
	if (req->huge_pages == SNAPSHOT_PAGES_2M && (req->backend.type == SNAPSHOT_BACKEND_FILE ||
						     req->backend.type == SNAPSHOT_BACKEND_PASSED))
		return err_set(e, EINVAL, "huge_pages 2M needs the memory backend Uffd or Pager");
	if (req->working_set && (req->backend.type == SNAPSHOT_BACKEND_UFFD ||
				 req->backend.type == SNAPSHOT_BACKEND_PASSED))
		return err_set(e, EINVAL, "working_set needs the memory backend File or Pager");
	return 0;
}

/* One of the two ways to name the memory. */
static int check_backend(const struct snapshot_load_request *req, struct err *e)
{
	if (!req->backend.path && !req->mem_file_path)
		return err_set(
			e, EINVAL,
			"missing field: either `mem_backend` or `mem_file_path` is required");
	if (req->backend.path && req->mem_file_path)
		return err_set(
			e, EINVAL,
			"too many fields: either `mem_backend` or `mem_file_path` exclusively "
			"is required");
	return 0;
}

void snapshot_load_request_finish(struct snapshot_load_request *req)
{
	struct network_override *n = req->networks.item;

	for (unsigned i = 0; i < req->networks.count; i++)
		net_rewrite_config_free(n[i].rewrite);
	free(req->serial.serial_out_path);
	free(req->snapshot_path);
	free(req->backend.path);
	free(req->mem_file_path);
	free(req->working_set);
	free(req->networks.item);
	free(req->drives.item);
	free(req->pmems.item);
	free(req->vsock.uds_path);
}

/* Half of a configuration may be there: the process ends when this was answered. */
static int give_up(struct api *api, const char *what, struct err *e)
{
	if (api->vm->ended && !api->vm->shell)
		api->vm->ended(api->vm, VM_EXIT_ERROR);
	return err_wrap(e, "%s", what);
}

int action_put_snapshot_load(struct api *api, struct api_call *call, struct err *e)
{
	struct snapshot_load_request req = {.working_set_ms = 1000};
	int r = read_body(&schema_snapshot_load, call, &req, e);

	if (r == 0) {
		r = check_backend(&req, e);
		call->bad_body = r < 0;
	}
	if (r == 0 && check_request(api, &req, e) < 0) {
		r = err_wrap(e, "Load snapshot error");
	} else if (r == 0) {
		call->deprecated = req.mem_file_path || req.enable_diff_snapshots;
		r = load(api, call, &req, e);
		if (r < 0)
			r = give_up(api, "Load snapshot error", e);
	}
	snapshot_load_request_finish(&req);
	return r;
}

/* --- prime --- */

static int keep_config(void *arg, const char *text, size_t len, struct err *e)
{
	struct api *api = arg;

	api->primed = body_parse(text, len, e);
	return api->primed ? 0 : -EINVAL;
}

int action_put_snapshot_prime(struct api *api, struct api_call *call, struct err *e)
{
	struct snapshot_prime_request req = {0};
	int r = read_body(&schema_snapshot_prime, call, &req, e);
	const struct snapshot_load_params p = {
		.snapshot_path = req.snapshot_path,
		.backend_path = req.backend.path,
		.judge = keep_config,
		.arg = api,
	};

	if (r == 0 && !api->vm->shell)
		r = err_set(e, EINVAL, "Prime error: this process is no shell (--shell)");
	else if (r == 0 && req.backend.type != SNAPSHOT_BACKEND_FILE)
		r = err_set(e, EINVAL, "Prime error: it needs the memory backend File");
	else if (r == 0 && snapshot_prime(api->vm, &api->snapshots, &p, e) < 0)
		r = give_up(api, "Prime error", e);
	free(req.snapshot_path);
	free(req.backend.path);
	return r;
}
