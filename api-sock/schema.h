/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The field tables of every object that the API takes or gives (api-sock/openapi.yaml describes
 * the same; a test compares the two).
 */
#pragma once

#include "api-sock/body.h"
#include "vmm/config.h"

/* PUT /actions */
enum action_type { ACTION_INSTANCE_START, ACTION_SEND_CTRL_ALT_DEL, ACTION_FLUSH_METRICS };

struct action_request {
	enum action_type action_type;
};

/* PATCH /vm */
struct vm_request {
	bool paused;
};

/* GET / and GET /version: printed only, so the strings are borrowed. */
struct instance_info {
	const char *app_name, *id, *state, *vmm_version;
};

struct version_info {
	const char *firecracker_version;
};

extern const struct body schema_action;	       /* struct action_request */
extern const struct body schema_boot_source;   /* struct boot_source */
extern const struct body schema_drive;	       /* struct drive */
extern const struct body schema_entropy;       /* nothing is stored */
extern const struct body schema_instance_info; /* struct instance_info */
extern const struct body schema_logger;	       /* struct logger_config */
extern const struct body schema_machine;       /* struct machine_config */
extern const struct body schema_metrics;       /* struct metrics_config */
extern const struct body schema_serial;	       /* struct serial_config */
extern const struct body schema_version;       /* struct version_info */
extern const struct body schema_vm;	       /* struct vm_request */
