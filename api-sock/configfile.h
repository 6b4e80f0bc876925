/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole configuration as one JSON object: what --config-file reads and GET /vm/config gives.
 * Each key holds what the API's request of that name takes. Main thread.
 */
#pragma once

#include "api-sock/action.h"

/*
 * Applies the file `path`. Unknown keys are ignored with a warning, as Firecracker does; a device
 * of Firecracker's that spore does not have is an error. 0, or -errno with one line in `e`.
 */
int configfile_load(struct api *api, const char *path, struct err *e);
/* The same from a JSON text. */
int configfile_apply(struct api *api, const char *text, size_t len, struct err *e);
/* The same from an object. `saved`: that of a snapshot, see configfile_print(). */
int configfile_apply_root(struct api *api, json_t *root, bool saved, struct err *e);
/*
 * The configuration as a new object. `saved`: without what belongs to the process and not to the
 * microVM (log, metrics, kernel image, console), as a snapshot keeps it.
 */
json_t *configfile_print(const struct config *c, bool saved);

/* Puts the JSON file `path` into the metadata service. 0, or -errno with one line in `e`. */
int configfile_load_metadata(struct api *api, const char *path, struct err *e);

/* GET /vm/config. Its output can be loaded again. */
api_action configfile_get;
