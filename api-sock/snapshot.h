/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a snapshot and a migration (api-sock/migrate.c) have in common: the configuration that goes with the
 * guest, and how it is changed where it arrives. Main thread.
 */
#pragma once

#include "api-sock/action.h"
#include "api-sock/schema.h"

/* What is saved of it, as JSON; malloc'ed, or NULL. */
char *snapshot_config(struct api *api);

struct snapshot_apply {
	struct api *api;			 /* borrowed, as is: */
	const struct snapshot_load_request *req; /* its overrides and identity */
	bool arriving;				 /* struct config's */
	json_t *root;				 /* what was judged; owned */
};
/* Of struct snapshot_load_params; `arg` is a struct snapshot_apply. */
int snapshot_judge(void *arg, const char *text, size_t len, struct err *e);
int snapshot_configure(void *arg, struct err *e);

void snapshot_load_request_finish(struct snapshot_load_request *req);
