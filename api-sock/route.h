/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The API's endpoints: one table row says the method and path, in which phases of the microVM the
 * request is allowed, what its body and its answer are, how it is counted and what it does. To add
 * an endpoint: a row here, a field table in schema.c, a function in action.c, and its
 * description in openapi.yaml (a test compares them). Main thread.
 */
#pragma once

#include "api-sock/action.h"
#include "api-sock/body.h"
#include "vmm/http.h"

struct route {
	enum http_verb verb;
	const char *path; /* "/drives/{drive_id}": a parameter is the last component */
	enum api_phases phases;
	api_action *action;
	const struct body *body;  /* NULL: the request has no body */
	const struct body *reply; /* NULL: 204; of GET /vm/config, which is 200 all the same */
	enum metrics_request counter;
};

extern const struct route routes[];
extern const unsigned route_count;

/*
 * The answer to a request (`what`: "PUT /path", for the log) that was to be answered later: `failed`, or
 * else `reply`, which is taken.
 */
void route_answer(struct api *api, const char *what, uint64_t ticket, json_t *reply,
		  const struct err *failed);

/* Before there is a microVM: descriptors may be one (snapshot/fork.h). Fits struct server_config. */
bool route_takes_passed(void *api);
/* Answers one request; `api` is a struct api. Fits struct server_config. */
void route_handle(void *api, const struct http_request *req, struct http_response *resp);
