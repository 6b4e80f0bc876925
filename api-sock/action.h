/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What each request does, behind the route table (api-sock/route.h) and the config file
 * (api-sock/configfile.h), which share these functions. Main thread.
 */
#pragma once

#include <jansson.h>

#include "snapshot/snapshot.h"
#include "vmm/http.h"
#include "vmm/metrics.h"
#include "vmm/vm.h"

/* The version of Firecracker's API that is followed: what clients ask GET /version for. */
#define FIRECRACKER_API_VERSION "1.17.0"

struct api {
	struct vm *vm;
	struct metrics *metrics;
	struct snapshot_history snapshots; /* snapshot_history_init() */
	json_t *primed; /* the configuration of the snapshot that a shell is primed with; or NULL */
	bool configured; /* something of the microVM was configured: no snapshot can be loaded */
	struct http_stream events; /* what GET /events answers with; read NULL: nothing */
	/* Answers a request that was to be answered later; frees r->body. */
	void (*answer)(void *arg, uint64_t ticket, struct http_response *r);
	void *answer_arg;
	struct hand_over *forking; /* PUT /vm/fork is on its way; or NULL (api-sock/fork.c) */
};

struct api_call {
	const char *id;	    /* from the path, checked; NULL when it has none, and from the file */
	const json_t *body; /* NULL for GET; borrowed */
	json_t *reply;	    /* set by GET; the caller owns it */
	char *text;	    /* instead, of content type `type`, malloc'ed; the caller owns it */
	const char *type;
	const struct http_stream *stream; /* instead, also of `type` */
	bool deprecated;		  /* the answer says so */
	bool later;			  /* the answer will be given to route_answer() */
	uint64_t ticket;		  /* for that */
	const int *passed;		  /* descriptors that came with it; borrowed */
	unsigned passed_count;
	bool too_large; /* set on failure: 413 */
	bool bad_body;	/* set on failure when `body` itself could not be understood */
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

api_action action_get_events;
api_action action_get_instance;
api_action action_get_version;
api_action action_get_machine;
api_action action_get_metrics;
api_action action_get_migrate;
api_action action_get_mmds;
api_action action_get_balloon;
api_action action_get_balloon_stats;
api_action action_get_hinting;
api_action action_get_hotplug;
api_action action_put_balloon;
api_action action_put_boot_source;
api_action action_put_cpu_config;
api_action action_put_drive;
api_action action_put_entropy;
api_action action_put_fork;
api_action action_put_hotplug;
api_action action_put_logger;
api_action action_put_machine;
api_action action_put_metrics;
api_action action_put_migrate;
api_action action_put_mmds;
api_action action_put_mmds_config;
api_action action_put_net;
api_action action_put_pmem;
api_action action_put_serial;
api_action action_put_receive;
api_action action_put_snapshot_create;
api_action action_put_snapshot_load;
api_action action_put_snapshot_prime;
api_action action_put_vsock;
api_action action_put_action;
api_action action_delete_drive;
api_action action_delete_migrate;
api_action action_delete_net;
api_action action_patch_drive;
api_action action_patch_hotplug;
api_action action_patch_machine;
api_action action_patch_mmds;
api_action action_patch_net;
api_action action_patch_pmem;
api_action action_patch_vm;
api_action action_patch_balloon;
api_action action_patch_balloon_stats;
api_action action_start_hinting;
api_action action_stop_hinting;

/* What InstanceStart does. */
int action_start(struct api *api, struct err *e);
