/* SPDX-License-Identifier: Apache-2.0 */
/* What ps and top tell of each microVM: from its socket, its directory and /proc. */
#pragma once

#include "ctl/vms.h"

/*
 * {name, pid, state, vcpus, memory, uptime, cpu_seconds, rss, pss, shared, status}; what is not known is
 * missing. `state` is "starting", "running", "paused", "no answer" or "ended"; bytes and seconds.
 * `shared` is what it has in common with other processes: pages of a snapshot, for clones.
 */
json_t *stat_one(struct ctl *c, const struct vms_vm *vm);
/* An array of all; NULL with `e` filled. */
json_t *stat_all(struct ctl *c, struct err *e);

/* Rows of microVMs that were made at once, as a table or JSON. Takes `rows`. Returns the exit code. */
int stat_show(struct ctl *c, json_t *rows);

/* Sums of /proc/PID/smaps_rollup and /proc/PID/stat, as texts of these files. */
void stat_read_rollup(const char *text, json_t *row);
/* Seconds of CPU used, and the start in seconds after boot; false: not such a text. */
bool stat_read_times(const char *text, long ticks, double *cpu, double *start);
