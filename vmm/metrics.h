/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metrics: one JSON object on one line of the metrics file each time they are written: when the
 * microVM starts, every 60 s after that, on FlushMetrics and at the end. Counters are increments
 * since the last line, times are absolute. Group and field names are Firecracker's; "start_us" is
 * spore's own. Without a metrics file nothing is written and no timer runs. Main thread.
 */
#pragma once

#include "vmm/vm.h"

/* Counted kinds of API request; METRICS_NONE is not written. */
enum metrics_request {
	METRICS_NONE,
	METRICS_GET_INSTANCE_INFO,
	METRICS_GET_MACHINE_CFG,
	METRICS_GET_VMM_VERSION,
	METRICS_PUT_ACTIONS,
	METRICS_PUT_BOOT_SOURCE,
	METRICS_PUT_DRIVE,
	METRICS_PUT_LOGGER,
	METRICS_PUT_MACHINE_CFG,
	METRICS_PUT_METRICS,
	METRICS_PUT_SERIAL,
	METRICS_PATCH_MACHINE_CFG,
	METRICS_REQUESTS,
};

struct metrics {
	struct vm *vm; /* [I] borrowed; its config says where to write */
	struct loop_timer timer;
	struct metric count[METRICS_REQUESTS], fails[METRICS_REQUESTS];
	uint64_t startup_us,
		startup_cpu_us;	      /* from exec to the API, when the parent told its part */
	uint64_t pause_us, resume_us; /* what the last ones took */
	struct metric missed;	      /* lines that could not be written */
	struct metric missed_log, rate_limited_log;
	bool torn; /* the last line was written in part: the next starts on a new line */
};

void metrics_init(struct metrics *m, struct vm *vm);
void metrics_finish(struct metrics *m);

/* Writes a line. 0 also when there is no metrics file. */
int metrics_flush(struct metrics *m, struct err *e);
/* The microVM has started: writes the first line and begins the 60 s rhythm. */
void metrics_start(struct metrics *m);
