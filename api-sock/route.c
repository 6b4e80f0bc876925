/* SPDX-License-Identifier: Apache-2.0 */
#include "api-sock/route.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "api-sock/configfile.h"
#include "api-sock/schema.h"
#include "vmm/base/log.h"

#define GET    HTTP_VERB_GET
#define PUT    HTTP_VERB_PUT
#define PATCH  HTTP_VERB_PATCH
#define DELETE HTTP_VERB_DELETE

/* clang-format off */
const struct route routes[] = {
	{GET, "/", PHASE_ANY, action_get_instance, NULL, &schema_instance_info,
	 METRICS_GET_INSTANCE_INFO},
	{GET, "/version", PHASE_ANY, action_get_version, NULL, &schema_version,
	 METRICS_GET_VMM_VERSION},
	{GET, "/events", PHASE_ANY, action_get_events, NULL, NULL, METRICS_NONE},
	{GET, "/metrics", PHASE_ANY, action_get_metrics, NULL, NULL, METRICS_NONE},
	{GET, "/vm/config", PHASE_ANY, configfile_get, NULL, NULL, METRICS_NONE},
	{GET, "/machine-config", PHASE_ANY, action_get_machine, NULL, &schema_machine,
	 METRICS_GET_MACHINE_CFG},
	{PUT, "/machine-config", PHASE_BEFORE, action_put_machine, &schema_machine, NULL,
	 METRICS_PUT_MACHINE_CFG},
	{PATCH, "/machine-config", PHASE_BEFORE, action_patch_machine, &schema_machine, NULL,
	 METRICS_PATCH_MACHINE_CFG},
	{PUT, "/boot-source", PHASE_BEFORE, action_put_boot_source, &schema_boot_source, NULL,
	 METRICS_PUT_BOOT_SOURCE},
	{PUT, "/cpu-config", PHASE_BEFORE, action_put_cpu_config, &schema_cpu_config, NULL,
	 METRICS_PUT_CPU_CFG},
	{PUT, "/drives/{drive_id}", PHASE_ANY, action_put_drive, &schema_drive, NULL,
	 METRICS_PUT_DRIVE},
	{PATCH, "/drives/{drive_id}", PHASE_AFTER, action_patch_drive, &schema_drive_update, NULL,
	 METRICS_PATCH_DRIVE},
	{DELETE, "/drives/{drive_id}", PHASE_AFTER, action_delete_drive, NULL, NULL, METRICS_NONE},
	{PUT, "/network-interfaces/{iface_id}", PHASE_ANY, action_put_net, &schema_net, NULL,
	 METRICS_PUT_NETWORK},
	{PATCH, "/network-interfaces/{iface_id}", PHASE_AFTER, action_patch_net,
	 &schema_net_update, NULL, METRICS_PATCH_NETWORK},
	{DELETE, "/network-interfaces/{iface_id}", PHASE_AFTER, action_delete_net, NULL, NULL,
	 METRICS_NONE},
	{PUT, "/pmem/{id}", PHASE_BEFORE, action_put_pmem, &schema_pmem, NULL, METRICS_PUT_PMEM},
	{PATCH, "/pmem/{id}", PHASE_AFTER, action_patch_pmem, &schema_pmem_update, NULL,
	 METRICS_PATCH_PMEM},
	{GET, "/hotplug/memory", PHASE_AFTER, action_get_hotplug, NULL, &schema_hotplug_status,
	 METRICS_GET_HOTPLUG},
	{PUT, "/hotplug/memory", PHASE_BEFORE, action_put_hotplug, &schema_hotplug, NULL,
	 METRICS_PUT_HOTPLUG},
	{PATCH, "/hotplug/memory", PHASE_AFTER, action_patch_hotplug, &schema_hotplug_update, NULL,
	 METRICS_PATCH_HOTPLUG},
	{GET, "/mmds", PHASE_ANY, action_get_mmds, NULL, NULL, METRICS_GET_MMDS},
	{PUT, "/mmds", PHASE_ANY, action_put_mmds, &schema_mmds, NULL, METRICS_PUT_MMDS},
	{PATCH, "/mmds", PHASE_ANY, action_patch_mmds, &schema_mmds, NULL, METRICS_PATCH_MMDS},
	{PUT, "/mmds/config", PHASE_BEFORE, action_put_mmds_config, &schema_mmds_config, NULL,
	 METRICS_PUT_MMDS},
	{PUT, "/entropy", PHASE_BEFORE, action_put_entropy, &schema_entropy, NULL, METRICS_NONE},
	{GET, "/balloon", PHASE_ANY, action_get_balloon, NULL, &schema_balloon, METRICS_NONE},
	{PUT, "/balloon", PHASE_BEFORE, action_put_balloon, &schema_balloon, NULL, METRICS_NONE},
	{PATCH, "/balloon", PHASE_AFTER, action_patch_balloon, &schema_balloon_update, NULL,
	 METRICS_NONE},
	{GET, "/balloon/statistics", PHASE_AFTER, action_get_balloon_stats, NULL,
	 &schema_balloon_stats, METRICS_NONE},
	{PATCH, "/balloon/statistics", PHASE_AFTER, action_patch_balloon_stats,
	 &schema_balloon_stats_update, NULL, METRICS_NONE},
	{PATCH, "/balloon/hinting/start", PHASE_AFTER, action_start_hinting,
	 &schema_balloon_start, NULL, METRICS_NONE},
	{PATCH, "/balloon/hinting/stop", PHASE_AFTER, action_stop_hinting, NULL, NULL,
	 METRICS_NONE},
	{GET, "/balloon/hinting/status", PHASE_AFTER, action_get_hinting, NULL,
	 &schema_balloon_hinting, METRICS_NONE},
	{PUT, "/vsock", PHASE_BEFORE, action_put_vsock, &schema_vsock, NULL, METRICS_PUT_VSOCK},
	{PUT, "/serial", PHASE_BEFORE, action_put_serial, &schema_serial, NULL,
	 METRICS_PUT_SERIAL},
	{PUT, "/logger", PHASE_BEFORE, action_put_logger, &schema_logger, NULL,
	 METRICS_PUT_LOGGER},
	{PUT, "/metrics", PHASE_BEFORE, action_put_metrics, &schema_metrics, NULL,
	 METRICS_PUT_METRICS},
	{PUT, "/actions", PHASE_ANY, action_put_action, &schema_action, NULL,
	 METRICS_PUT_ACTIONS},
	{PUT, "/snapshot/create", PHASE_AFTER, action_put_snapshot_create, &schema_snapshot_create,
	 NULL, METRICS_NONE},
	{PUT, "/snapshot/load", PHASE_BEFORE, action_put_snapshot_load, &schema_snapshot_load, NULL,
	 METRICS_NONE},
	{PUT, "/snapshot/prime", PHASE_BEFORE, action_put_snapshot_prime, &schema_snapshot_prime,
	 NULL, METRICS_NONE},
	{PUT, "/vm/migrate", PHASE_AFTER, action_put_migrate, &schema_migrate, NULL, METRICS_NONE},
	{GET, "/vm/migrate", PHASE_ANY, action_get_migrate, NULL, &schema_migrate_status,
	 METRICS_NONE},
	{DELETE, "/vm/migrate", PHASE_ANY, action_delete_migrate, NULL, NULL, METRICS_NONE},
	{PUT, "/vm/receive", PHASE_BEFORE, action_put_receive, &schema_receive, NULL,
	 METRICS_NONE},
	{PUT, "/vm/fork", PHASE_AFTER, action_put_fork, &schema_fork, NULL, METRICS_NONE},
	{PATCH, "/vm", PHASE_AFTER, action_patch_vm, &schema_vm, NULL, METRICS_NONE},
};
/* clang-format on */
const unsigned route_count = ARRAY_SIZE(routes);

/*
 * The path of a request target: without scheme and authority (absolute form, RFC 9112 section
 * 3.2.2) and without one slash at its end.
 */
static void path_of(const char *target, char path[HTTP_TARGET_MAX + 1])
{
	size_t len;

	if (strncasecmp(target, "http://", 7) == 0) {
		target += 7 + strcspn(target + 7, "/");
		if (*target == '\0')
			target = "/";
	}
	len = strlen(target);
	memcpy(path, target, len + 1);
	if (len > 1 && path[len - 1] == '/')
		path[len - 1] = '\0';
}

/* Points *id at the parameter within `path` when the pattern has one; it may be empty. */
static bool path_matches(const char *pattern, const char *path, const char **id)
{
	const char *param = strchr(pattern, '{');
	size_t len = param ? (size_t)(param - pattern) : 0;

	*id = NULL;
	if (!param)
		return strcmp(pattern, path) == 0;
	if (strlen(path) == len - 1 && strncmp(pattern, path, len - 1) == 0)
		*id = "";
	else if (strncmp(pattern, path, len) == 0 && !strchr(path + len, '/'))
		*id = path + len;
	return *id;
}

static const struct route *find_route(enum http_verb verb, const char *path, const char **id)
{
	for (unsigned i = 0; i < route_count; i++)
		if (routes[i].verb == verb && path_matches(routes[i].path, path, id))
			return &routes[i];
	return NULL;
}

/*
 * Endpoints of Firecracker's that are not in the table, and why not. A client that asks for one
 * should not have to guess whether it is a mistake in the path.
 */
static const char *why_missing(enum http_verb verb, const char *path)
{
	static const struct {
		enum http_verb verb;
		const char *prefix, *why;
	} missing[] = {
		{DELETE, "/pmem/",
		 "A pmem device cannot be unplugged: virtio-mmio has no hotplug."},
	};

	for (size_t i = 0; i < ARRAY_SIZE(missing); i++)
		if (missing[i].verb == verb &&
		    strncmp(path, missing[i].prefix, strlen(missing[i].prefix)) == 0)
			return missing[i].why;
	return NULL;
}

/*
 * What is done before the start is about the microVM, and nothing of it may be there when a snapshot
 * is loaded: a request that was refused counts too, as with Firecracker.
 */
static bool configures_machine(const struct route *r)
{
	if (r->action == action_put_drive || r->action == action_put_net)
		return true;
	return r->phases == PHASE_BEFORE && r->action != action_put_logger &&
	       r->action != action_put_metrics && r->action != action_put_serial &&
	       r->action != action_put_cpu_config && r->action != action_put_snapshot_load &&
	       r->action != action_put_snapshot_prime && r->action != action_put_receive;
}

/* A microVM that moves stays as the other side was told it is. */
static int check_migration(const struct api *api, const struct route *route, struct err *e)
{
	bool moves = api->snapshots.sending || api->snapshots.arrival;

	if (!moves || route->verb == GET || route->action == action_patch_vm ||
	    route->action == action_delete_migrate || route->action == action_put_logger ||
	    route->action == action_put_metrics)
		return 0;
	return err_set(e, EBUSY,
		       "A migration is under way: nothing changes until it is over (GET "
		       "/vm/migrate) or aborted (DELETE /vm/migrate).");
}

static int check_request(const struct api *api, const struct route *route,
			 const struct http_request *req, const char *id, struct err *e)
{
	int r = id ? body_check_id(id, CONFIG_ID_MAX, e) : 0;

	if (r == 0)
		r = action_check_phase(api, route->phases, e);
	if (r == 0)
		r = check_migration(api, route, e);
	if (r == 0 && api->vm->shell && configures_machine(route))
		r = err_set(e, EINVAL,
			    "This process is a shell (--shell): its microVM comes from PUT "
			    "/snapshot/load.");
	if (r < 0)
		return r;
	if (route->verb == DELETE && req->body_len)
		return err_set(e, EINVAL, "Empty Delete request.");
	if (!route->body && req->body_len)
		return err_set(e, EINVAL, "%s request cannot have a body.", req->method);
	if (route->body && !req->body_len && !route->body->may_miss)
		return err_set(e, EINVAL, "Empty %s request.", req->method);
	return 0;
}

static int run(struct api *api, const struct route *route, const struct http_request *req,
	       struct api_call *call, struct err *e)
{
	json_t *body = NULL;
	int r = check_request(api, route, req, call->id, e);

	if (r == 0 && route->body && req->body_len) {
		body = body_parse(req->body, req->body_len, e);
		call->body = body;
		call->bad_body = !body;
		r = body ? 0 : -EINVAL;
	}
	if (configures_machine(route) && !api->vm->shell)
		api->configured = true;
	if (r == 0)
		r = route->action(api, call, e);
	if (r == 0 && route->verb == GET && !call->reply && !call->text && !call->stream)
		r = err_set(e, ENOMEM, "Out of memory.");
	json_decref(body);
	return r;
}

static void respond_error(struct http_response *resp, const struct http_request *req,
			  const struct api_call *call, const struct err *e)
{
	static const char prefix[] =
		"An error occurred when deserializing the json body of a request: ";
	char text[sizeof(prefix) + sizeof(e->msg) + 1];
	char target[96];

	snprintf(text, sizeof(text), "%s%s%s", call->bad_body ? prefix : "", e->msg,
		 call->bad_body ? "." : "");
	http_respond_fault(resp, call->too_large ? 413 : 400, text);
	snprintf(target, sizeof(target), "%.95s", req->target);
	err_clean_text(target);
	err_clean_text(text);
	log_warn("API: %s %s: %s", req->method, target, text);
}

static void respond_ok(struct http_response *resp, struct api_call *call)
{
	resp->later = call->later;
	resp->status = call->reply || call->text || call->stream ? 200 : 204;
	resp->deprecated = call->deprecated;
	resp->type = call->type;
	resp->stream = call->stream;
	resp->body = call->reply ? json_dumps(call->reply, JSON_COMPACT) : TAKE(call->text);
	if (call->reply && !resp->body)
		http_respond_fault(resp, 500, "Out of memory.");
	json_decref(call->reply);
}

static void answer(struct api *api, const struct http_request *req, struct http_response *resp)
{
	char path[HTTP_TARGET_MAX + 1];
	struct api_call call = {
		.ticket = req->ticket, .passed = req->passed, .passed_count = req->passed_count};
	const struct route *route;
	struct err e = {0};
	int r;

	path_of(req->target, path);
	route = find_route(req->verb, path, &call.id);
	if (route) {
		metric_inc(&api->metrics->count[route->counter]);
		r = run(api, route, req, &call, &e);
	} else if (why_missing(req->verb, path)) {
		r = err_set(&e, EINVAL, "%s", why_missing(req->verb, path));
	} else {
		r = err_set(&e, EINVAL, "Invalid request method and/or path: %s %.160s.",
			    req->method, path);
	}
	if (r == 0) {
		log_debug("API: %s %s", req->method, path);
		respond_ok(resp, &call);
		return;
	}
	if (route)
		metric_inc(&api->metrics->fails[route->counter]);
	respond_error(resp, req, &call, &e);
}

void route_answer(struct api *api, const char *what, uint64_t ticket, json_t *reply,
		  const struct err *failed)
{
	struct http_response resp = {.status = 200};

	resp.body = failed ? NULL : json_dumps(reply, JSON_COMPACT);
	json_decref(reply);
	if (failed) {
		http_respond_fault(&resp, 400, failed->msg);
		log_warn("API: %s: %s", what, failed->msg);
	} else if (!resp.body) {
		http_respond_fault(&resp, 500, "Out of memory.");
	}
	api->answer(api->answer_arg, ticket, &resp);
}

bool route_takes_passed(void *arg)
{
	const struct api *api = arg;

	return api->vm->phase == VM_NOT_STARTED;
}

void route_handle(void *arg, const struct http_request *req, struct http_response *resp)
{
	struct api *api = arg;
	uint64_t start = now_ns();

	answer(api, req, resp);
	metrics_api_took(api->metrics, now_ns() - start);
}
