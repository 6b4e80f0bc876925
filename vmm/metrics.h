/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metrics: one JSON object on one line of the metrics file each time they are written: when the
 * microVM starts, every 60 s after that, on FlushMetrics and at the end. Counters are increments
 * since the last line, times are absolute. Group and field names are Firecracker's; "start_us" is
 * spore's own. Without a metrics file nothing is written and no timer runs. Main thread.
 */
#pragma once

#include <jansson.h>

#include "vmm/vm.h"

/* Counted kinds of API request; METRICS_NONE is not written. */
enum metrics_request {
	METRICS_NONE,
	METRICS_GET_INSTANCE_INFO,
	METRICS_GET_MACHINE_CFG,
	METRICS_GET_HOTPLUG,
	METRICS_GET_MMDS,
	METRICS_GET_VMM_VERSION,
	METRICS_PUT_ACTIONS,
	METRICS_PUT_BOOT_SOURCE,
	METRICS_PUT_CPU_CFG,
	METRICS_PUT_DRIVE,
	METRICS_PUT_HOTPLUG,
	METRICS_PUT_LOGGER,
	METRICS_PUT_MACHINE_CFG,
	METRICS_PUT_METRICS,
	METRICS_PUT_MMDS,
	METRICS_PUT_NETWORK,
	METRICS_PUT_PMEM,
	METRICS_PUT_SERIAL,
	METRICS_PUT_VSOCK,
	METRICS_PATCH_DRIVE,
	METRICS_PATCH_HOTPLUG,
	METRICS_PATCH_MACHINE_CFG,
	METRICS_PATCH_MMDS,
	METRICS_PATCH_NETWORK,
	METRICS_PATCH_PMEM,
	METRICS_REQUESTS,
};

#define METRICS_API_BUCKETS 9

/* (+) Of what came and went by migration; main thread. */
struct migrate_metrics {
	uint64_t completed, failed;
	uint64_t rounds, bytes;
	uint64_t downtime_us; /* of the last one, at the source */
};

struct metrics {
	struct vm *vm; /* [I] borrowed; its config says where to write */
	struct loop_timer timer;
	struct metric count[METRICS_REQUESTS], fails[METRICS_REQUESTS];
	uint64_t startup_us,
		startup_cpu_us;	      /* from exec to the API, when the parent told its part */
	uint64_t pause_us, resume_us; /* what the last ones took */
	uint64_t full_create_us, diff_create_us, load_us;
	struct migrate_metrics migrate;
	struct metric missed; /* lines that could not be written */
	struct metric missed_log, rate_limited_log;
	struct metric deprecated; /* requests with a deprecated field */
	struct metric sighup;
	uint64_t api_bucket[METRICS_API_BUCKETS], api_requests, api_ns;
	json_t *total;	 /* sums of everything that was ever collected; NULL: nothing was */
	json_t *pending; /* collected for metrics_totals(), not in a line yet; or NULL */
	int rollup_fd;	 /* /proc/self/smaps_rollup; -1: none */
	bool torn;	 /* the last line was written in part: the next starts on a new line */
};

/* Upper limits of the classes that the durations of requests are counted in. */
extern const unsigned metrics_api_limit_us[METRICS_API_BUCKETS];
/* Groups with their fields (vmm/metrics_shape.c), up to a NULL. */
extern const char *const metrics_shape[];

void metrics_init(struct metrics *m, struct vm *vm);
void metrics_finish(struct metrics *m);

/* Writes a line. 0 also when there is no metrics file. */
int metrics_flush(struct metrics *m, struct err *e);
/*
 * A line with nothing but one 1 in it, for what ends the process at once. Async-signal-safe, any
 * thread.
 */
void metrics_last_words(const struct metrics *m, const char *group, const char *field);
/* Makes the process's memory known to metrics_prometheus(); while files can be opened. */
void metrics_watch_process(struct metrics *m);
/* A request took so long. */
void metrics_api_took(struct metrics *m, uint64_t ns);
/* Everything since the start of the process, in the form of a line. The caller owns a reference. */
json_t *metrics_totals(struct metrics *m);
/* The same and more in Prometheus' text format; malloc'ed, NULL when out of memory. */
char *metrics_prometheus(struct metrics *m);
/* Opens the metrics file again by its path: it has been moved away. 0 also without one. */
int metrics_reopen(struct metrics *m, struct err *e);
/* The microVM has started: the first line is written in 2 ms, and then one every 60 s. */
void metrics_start(struct metrics *m);
