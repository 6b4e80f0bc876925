/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What each request does, behind the route table (api-sock/route.h) and the config file
 * (api-sock/configfile.h), which share these functions. Main thread.
 */
#pragma once

#include <jansson.h>

#include "vmm/metrics.h"
#include "vmm/vm.h"

/* The version of Firecracker's API that is followed: what clients ask GET /version for. */
#define FIRECRACKER_API_VERSION "1.17.0"

struct api {
	struct vm *vm;
	struct metrics *metrics;
};

struct api_call {
	const char *id;	    /* from the path, checked; NULL when it has none, and from the file */
	const json_t *body; /* NULL for GET; borrowed */
	json_t *reply;	    /* set by GET; the caller owns it */
	bool bad_body;	    /* set on failure when `body` itself could not be understood */
};

/* All return 0, or -errno with `e` filled in words for the client and nothing changed. */
typedef int api_action(struct api *api, struct api_call *call, struct err *e);

/* When a request is allowed: bits by enum vm_phase. */
enum api_phases {
	PHASE_BEFORE = 1 << VM_NOT_STARTED,
	PHASE_AFTER = 1 << VM_RUNNING | 1 << VM_PAUSED,
	PHASE_ANY = PHASE_BEFORE | PHASE_AFTER,
};

int action_check_phase(const struct api *api, enum api_phases allowed, struct err *e);

api_action action_get_instance;
api_action action_get_version;
api_action action_get_machine;
api_action action_put_boot_source;
api_action action_put_drive;
api_action action_put_entropy;
api_action action_put_logger;
api_action action_put_machine;
api_action action_put_metrics;
api_action action_put_serial;
api_action action_put_action;
api_action action_patch_machine;
api_action action_patch_vm;

/* What InstanceStart does. */
int action_start(struct api *api, struct err *e);
