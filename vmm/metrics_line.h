/* SPDX-License-Identifier: Apache-2.0 */
/* What a line of the metrics holds (vmm/metrics.h). Main thread. */
#pragma once

#include "vmm/metrics.h"

/* All groups with what came since the last call; a new reference. */
json_t *metrics_collect(struct metrics *m);
/* Adds `n` to a number of the group, which begins at 0. */
void metrics_add(json_t *group, const char *name, uint64_t n);
/* The group of this name in `root`, made when it is not there yet. Borrowed. */
json_t *metrics_group(json_t *root, const char *name);
