/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log: one line per message, written with one write(2), to stdout until told otherwise.
 *
 *	2026-01-31T12:00:00.123456789 [vm-id:main:INFO:vmm/vm.c:123] message
 *
 * The time is UTC. Level and origin appear when asked for. Only the edges of spore log (main, API, the top of a
 * vCPU thread, loop callbacks); everything else returns errors. Each call site may write 10
 * messages in 5 seconds, so that a guest cannot fill the disk through it; what was left out is
 * counted and told when the site may speak again. A sink that does not accept a line (full FIFO
 * or pipe) loses it, and that is counted too; control characters become blanks. Any thread; the sink is configured by the main thread.
 */
#pragma once

#include <stdatomic.h>

#include "vmm/base/err.h"

enum log_level { LOG_OFF, LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_TRACE };

/* One per call site, static and zeroed. */
struct log_site {
	_Atomic uint64_t window_ns;  /* start of the running 5 s window */
	_Atomic uint32_t count;	     /* messages in it */
	_Atomic uint32_t suppressed; /* not written since the last one that was */
};

struct log_stats {
	uint64_t missed;       /* lines the sink did not take */
	uint64_t rate_limited; /* lines left out by the rate limit */
};

void log_set_level(enum log_level level);
void log_set_show(bool level, bool origin);
/* Only messages from files whose path starts with `prefix` ("vmm/"); NULL or "" for all. */
void log_set_module(const char *prefix);
/* The id shown in every line. */
void log_set_id(const char *id);
/* Writes to `path` (created 0600, appended to; a FIFO is never waited for). */
int log_open(const char *path, struct err *e);
/* Name of the calling thread in its lines. The string must stay valid. */
void log_name_thread(const char *name);
/* Level by its API name, any case ("Warning" = "Warn"). -EINVAL when there is no such level. */
int log_level_parse(const char *name, enum log_level *level);
struct log_stats log_stats(void);

void log_write(struct log_site *site, enum log_level level, const char *file, int line,
	       const char *fmt, ...) PRINTF_LIKE(5, 6);
bool log_enabled(enum log_level level);

#define LOG_AT(level, ...)                                                             \
	do {                                                                           \
		static struct log_site log_site_;                                      \
		if (log_enabled(level))                                                \
			log_write(&log_site_, level, __FILE__, __LINE__, __VA_ARGS__); \
	} while (0)
#define log_error(...) LOG_AT(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  LOG_AT(LOG_WARN, __VA_ARGS__)
#define log_info(...)  LOG_AT(LOG_INFO, __VA_ARGS__)
#define log_debug(...) LOG_AT(LOG_DEBUG, __VA_ARGS__)
#define log_trace(...) LOG_AT(LOG_TRACE, __VA_ARGS__)
