/* SPDX-License-Identifier: Apache-2.0 */
#include "api-sock/route.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "api-sock/configfile.h"
#include "api-sock/schema.h"
#include "vmm/base/log.h"

#define GET   HTTP_VERB_GET
#define PUT   HTTP_VERB_PUT
#define PATCH HTTP_VERB_PATCH

/* clang-format off */
const struct route routes[] = {
	{GET, "/", PHASE_ANY, action_get_instance, NULL, &schema_instance_info,
	 METRICS_GET_INSTANCE_INFO},
	{GET, "/version", PHASE_ANY, action_get_version, NULL, &schema_version,
	 METRICS_GET_VMM_VERSION},
	{GET, "/vm/config", PHASE_ANY, configfile_get, NULL, NULL, METRICS_NONE},
	{GET, "/machine-config", PHASE_ANY, action_get_machine, NULL, &schema_machine,
	 METRICS_GET_MACHINE_CFG},
	{PUT, "/machine-config", PHASE_BEFORE, action_put_machine, &schema_machine, NULL,
	 METRICS_PUT_MACHINE_CFG},
	{PATCH, "/machine-config", PHASE_BEFORE, action_patch_machine, &schema_machine, NULL,
	 METRICS_PATCH_MACHINE_CFG},
	{PUT, "/boot-source", PHASE_BEFORE, action_put_boot_source, &schema_boot_source, NULL,
	 METRICS_PUT_BOOT_SOURCE},
	{PUT, "/drives/{drive_id}", PHASE_BEFORE, action_put_drive, &schema_drive, NULL,
	 METRICS_PUT_DRIVE},
	{PUT, "/entropy", PHASE_BEFORE, action_put_entropy, &schema_entropy, NULL, METRICS_NONE},
	{PUT, "/serial", PHASE_BEFORE, action_put_serial, &schema_serial, NULL,
	 METRICS_PUT_SERIAL},
	{PUT, "/logger", PHASE_BEFORE, action_put_logger, &schema_logger, NULL,
	 METRICS_PUT_LOGGER},
	{PUT, "/metrics", PHASE_BEFORE, action_put_metrics, &schema_metrics, NULL,
	 METRICS_PUT_METRICS},
	{PUT, "/actions", PHASE_ANY, action_put_action, &schema_action, NULL,
	 METRICS_PUT_ACTIONS},
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

static int check_request(const struct api *api, const struct route *route,
			 const struct http_request *req, const char *id, struct err *e)
{
	int r = id ? body_check_id(id, CONFIG_ID_MAX, e) : 0;

	if (r == 0)
		r = action_check_phase(api, route->phases, e);
	if (r < 0)
		return r;
	if (!route->body && req->body_len)
		return err_set(e, EINVAL, "%s request cannot have a body.", req->method);
	if (route->body && !req->body_len)
		return err_set(e, EINVAL, "Empty %s request.", req->method);
	return 0;
}

static int run(struct api *api, const struct route *route, const struct http_request *req,
	       struct api_call *call, struct err *e)
{
	json_t *body = NULL;
	int r = check_request(api, route, req, call->id, e);

	if (r == 0 && route->body) {
		body = body_parse(req->body, req->body_len, e);
		call->body = body;
		call->bad_body = !body;
		r = body ? 0 : -EINVAL;
	}
	if (r == 0)
		r = route->action(api, call, e);
	if (r == 0 && route->verb == GET && !call->reply)
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
	http_respond_fault(resp, 400, text);
	snprintf(target, sizeof(target), "%.95s", req->target);
	body_clean_text(target);
	body_clean_text(text);
	log_warn("API: %s %s: %s", req->method, target, text);
}

static void respond_ok(struct http_response *resp, json_t *reply)
{
	resp->status = reply ? 200 : 204;
	if (reply)
		resp->body = json_dumps(reply, JSON_COMPACT);
	if (reply && !resp->body)
		http_respond_fault(resp, 500, "Out of memory.");
	json_decref(reply);
}

void route_handle(void *arg, const struct http_request *req, struct http_response *resp)
{
	struct api *api = arg;
	char path[HTTP_TARGET_MAX + 1];
	struct api_call call = {0};
	const struct route *route;
	struct err e = {0};
	int r;

	path_of(req->target, path);
	route = find_route(req->verb, path, &call.id);
	if (route) {
		metric_inc(&api->metrics->count[route->counter]);
		r = run(api, route, req, &call, &e);
	} else {
		r = err_set(&e, EINVAL, "Invalid request method and/or path: %s %.160s.",
			    req->method, path);
	}
	if (r == 0) {
		log_debug("API: %s %s", req->method, path);
		respond_ok(resp, call.reply);
		return;
	}
	if (route)
		metric_inc(&api->metrics->fails[route->counter]);
	respond_error(resp, req, &call, &e);
}
