/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "vmm/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/metrics_line.h"

#define PERIOD_NS 60000000000ull
/* The first line waits until the guest runs: where the vCPUs share our processor, they go first. */
#define FIRST_NS  2000000ull

/* --- sums of lines, for who wants to know more than what came since the last one --- */

static bool is_total(const char *key)
{
	return strcmp(key, "api_server") == 0 || strcmp(key, "latencies_us") == 0 ||
	       strcmp(key, "start_us") == 0;
}

/* Adds the numbers of `from` where they are increments; `replace`: they are not. */
static void merge(json_t *into, json_t *from, bool replace)
{
	const char *key;
	json_t *v;

	json_object_foreach(from, key, v)
	{
		bool latest = replace || strcmp(key, "min_us") == 0 || strcmp(key, "max_us") == 0 ||
			      strcmp(key, "overlay_own_bytes") == 0 ||
			      strcmp(key, "utc_timestamp_ms") == 0;

		if (json_is_object(v))
			merge(metrics_group(into, key), v, is_total(key));
		else if (json_is_integer(v) && !latest)
			metrics_add(into, key, (uint64_t)json_integer_value(v));
		else
			json_object_set(into, key, v);
	}
}

/* Takes what is new into the sums. A new reference. */
static json_t *collect_new(struct metrics *m)
{
	json_t *root = metrics_collect(m);

	if (!m->total)
		m->total = json_object();
	merge(m->total, root, false);
	return root;
}

json_t *metrics_totals(struct metrics *m)
{
	json_t *root = collect_new(m);

	if (!m->pending)
		m->pending = json_object();
	merge(m->pending, root, false);
	json_decref(root);
	return json_incref(m->total);
}

/* What no line has had yet. */
static json_t *take_line(struct metrics *m)
{
	json_t *root = collect_new(m), *line = m->pending;

	if (!line)
		return root;
	merge(line, root, false);
	json_decref(root);
	m->pending = NULL;
	return line;
}

/* One write for one line, so that lines of several writers do not mix. */
static int write_line(struct metrics *m, int fd)
{
	json_t *root = take_line(m);
	cleanup_free char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
	cleanup_free char *line = NULL;
	ssize_t n;
	int len;

	json_decref(root);
	if (!text)
		return -ENOMEM;
	len = asprintf(&line, "%s%s\n", m->torn ? "\n" : "", text);
	if (len < 0)
		return -ENOMEM;
	do {
		n = fd_write(fd, line, (size_t)len);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	/* A full disk or FIFO may take a part. */
	m->torn = n < len;
	return m->torn ? -ENOSPC : 0;
}

int metrics_flush(struct metrics *m, struct err *e)
{
	const struct metrics_config *c = &m->vm->config.metrics;
	int r;

	if (c->fd < 0)
		return 0;
	r = write_line(m, c->fd);
	if (r < 0) {
		metric_inc(&m->missed);
		errno = -r;
		return err_sys(e, "write metrics to '%s'", c->metrics_path);
	}
	return 0;
}

void metrics_last_words(const struct metrics *m, const char *group, const char *field)
{
	const char *part[] = {m->torn ? "\n{\"" : "{\"", group, "\":{\"", field, "\":1}}\n"};
	char line[96];
	size_t len = 0;

	for (size_t i = 0; i < ARRAY_SIZE(part); i++)
		len = (size_t)(stpncpy(line + len, part[i], sizeof(line) - len) - line);
	/* When this fails there is nobody left to tell. */
	if (m->vm->config.metrics.fd >= 0 && fd_write(m->vm->config.metrics.fd, line, len) < 0)
		return;
}

static void flush_and_log(struct metrics *m)
{
	struct err e;

	if (metrics_flush(m, &e) < 0)
		log_error("%s", e.msg);
}

static void timer_expired(struct loop_timer *t)
{
	struct metrics *m = t->arg;

	loop_timer_set(m->vm->loop, t, PERIOD_NS);
	flush_and_log(m);
}

void metrics_init(struct metrics *m, struct vm *vm)
{
	*m = (struct metrics){
		.vm = vm,
		.timer = {.expired = timer_expired, .arg = m},
		.rollup_fd = -1,
	};
}

void metrics_finish(struct metrics *m)
{
	loop_timer_clear(m->vm->loop, &m->timer);
	json_decref(m->total);
	json_decref(m->pending);
	m->total = m->pending = NULL;
	fd_close(&m->rollup_fd);
}

void metrics_watch_process(struct metrics *m)
{
	/* Without /proc, as in a jail, those numbers are left out. */
	m->rollup_fd = openat(AT_FDCWD, "/proc/self/smaps_rollup", O_RDONLY | O_CLOEXEC);
}

const unsigned metrics_api_limit_us[METRICS_API_BUCKETS] = {50,	   100,	   250,	   1000,   5000,
							    20000, 100000, 500000, 2000000};

void metrics_api_took(struct metrics *m, uint64_t ns)
{
	m->api_requests++;
	m->api_ns += ns;
	for (size_t i = 0; i < METRICS_API_BUCKETS; i++) {
		if (ns <= metrics_api_limit_us[i] * 1000ull) {
			m->api_bucket[i]++;
			return;
		}
	}
}

int metrics_reopen(struct metrics *m, struct err *e)
{
	struct metrics_config *c = &m->vm->config.metrics;
	int fd;

	if (c->fd < 0)
		return 0;
	fd = fd_open_sink(c->metrics_path, e);
	if (fd < 0)
		return err_wrap(e, "metrics");
	fd_close(&c->fd);
	c->fd = fd;
	m->torn = false;
	return 0;
}

void metrics_start(struct metrics *m)
{
	if (m->vm->config.metrics.fd < 0)
		return;
	loop_timer_set(m->vm->loop, &m->timer, FIRST_NS);
}
