/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "vmm/base/fd.h"
#include "vmm/metrics.h"

/* The text so far; out of memory: NULL, and nothing is added any more. */
struct page {
	char *text;
	size_t len, cap;
	bool failed;
};

static void put(struct page *p, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void put(struct page *p, const char *fmt, ...)
{
	char line[512];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (p->failed || n < 0 || (size_t)n >= sizeof(line))
		return;
	if (p->len + (size_t)n + 1 > p->cap) {
		size_t cap = (p->len + (size_t)n + 1) * 2;
		char *bigger = realloc(p->text, cap);

		p->failed = !bigger;
		if (!bigger)
			return;
		p->text = bigger;
		p->cap = cap;
	}
	memcpy(p->text + p->len, line, (size_t)n + 1);
	p->len += (size_t)n;
}

static void head(struct page *p, const char *name, const char *type, const char *help)
{
	put(p, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static double seconds(const json_t *us)
{
	return (double)json_integer_value(us) / 1e6;
}

/* --- counters, as the JSON line has them --- */

/* Groups with one for each device, "block_<id>", have the device's id as a label. */
static const char *const device_kinds[] = {"block", "net", "pmem"};

/* Groups of numbers that are not counters; they have a family of their own. */
static const char *const not_counters[] = {"api_server", "latencies_us", "start_us"};

static bool is_one_of(const char *name, const char *const *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(name, list[i]) == 0)
			return true;
	return false;
}

/* The id in "block_<id>", or NULL. */
static const char *device_of(const char *group, const char *kind)
{
	size_t len = strlen(kind);

	return strncmp(group, kind, len) == 0 && group[len] == '_' ? group + len + 1 : NULL;
}

static bool is_device_group(const char *group)
{
	for (size_t i = 0; i < ARRAY_SIZE(device_kinds); i++)
		if (device_of(group, device_kinds[i]))
			return true;
	return false;
}

static void put_sample(struct page *p, const char *name, const char *id, const json_t *v)
{
	const json_t *sum = json_object_get(v, "sum_us");
	char label[96] = "";

	if (id)
		snprintf(label, sizeof(label), "{id=\"%s\"}", id);
	if (sum)
		put(p, "%s%s %.6f\n", name, label, seconds(sum));
	else
		put(p, "%s%s %" JSON_INTEGER_FORMAT "\n", name, label, json_integer_value(v));
}

/* "read_count" is spore_block_read_total, "read_agg" spore_block_read_seconds_total. */
static void put_family(struct page *p, const json_t *root, const char *group, const char *field,
		       const json_t *value)
{
	size_t len = strlen(field);
	char name[160], help[200];
	const char *key, *id;
	json_t *other;
	bool alone = true;

	if (len > 6 && strcmp(field + len - 6, "_count") == 0)
		len -= 6;
	else if (len > 4 && strcmp(field + len - 4, "_agg") == 0)
		len -= 4;
	snprintf(name, sizeof(name), "spore_%s_%.*s%s_total", group, (int)len, field,
		 json_is_object(value) ? "_seconds" : "");
	snprintf(help, sizeof(help), "Field %s of group %s in Firecracker's metrics.", field,
		 group);
	head(p, name, "counter", help);
	json_object_foreach((json_t *)(uintptr_t)root, key, other)
	{
		id = is_one_of(group, device_kinds, ARRAY_SIZE(device_kinds))
			     ? device_of(key, group)
			     : NULL;
		if (!id || !json_object_get(other, field))
			continue;
		put_sample(p, name, id, json_object_get(other, field));
		alone = false;
	}
	if (alone)
		put_sample(p, name, NULL, value);
}

static void put_counters(struct page *p, json_t *root)
{
	const char *group, *field;
	json_t *fields, *value;

	json_object_foreach(root, group, fields)
	{
		if (!json_is_object(fields) || is_device_group(group) ||
		    is_one_of(group, not_counters, ARRAY_SIZE(not_counters)))
			continue;
		json_object_foreach(fields, field, value)
		{
			if (json_is_integer(value) || json_object_get(value, "sum_us"))
				put_family(p, root, group, field, value);
		}
	}
}

/* A group of microseconds as one family with a label for each. */
static void put_times(struct page *p, const json_t *root, const char *group, const char *name,
		      const char *label, const char *help)
{
	json_t *fields = json_object_get(root, group), *value;
	const char *field;

	head(p, name, "gauge", help);
	json_object_foreach(fields, field, value)
	{
		if (strcmp(field, "begin") != 0)
			put(p, "%s{%s=\"%s\"} %.6f\n", name, label, field, seconds(value));
	}
}

/* --- what only this page has --- */

static void put_requests(struct page *p, const struct metrics *m)
{
	const char *name = "spore_api_request_duration_seconds";
	uint64_t sum = 0;

	head(p, name, "histogram", "Time from a whole request to its answer.");
	for (size_t i = 0; i < METRICS_API_BUCKETS; i++) {
		sum += m->api_bucket[i];
		put(p, "%s_bucket{le=\"%g\"} %" PRIu64 "\n", name,
		    (double)metrics_api_limit_us[i] / 1e6, sum);
	}
	put(p, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n%s_sum %.6f\n%s_count %" PRIu64 "\n", name,
	    m->api_requests, name, (double)m->api_ns / 1e9, name, m->api_requests);
}

static void put_bytes(struct page *p, const char *rollup, const char *key, const char *name,
		      const char *help)
{
	const char *at = strstr(rollup, key);

	if (!at)
		return;
	head(p, name, "gauge", help);
	put(p, "%s %" PRIu64 "\n", name, (uint64_t)strtoull(at + strlen(key), NULL, 10) * 1024);
}

static void put_process(struct page *p, const struct metrics *m)
{
	const char *name = "spore_process_page_faults_total";
	struct rusage u;
	char rollup[2048];
	ssize_t n;

	if (getrusage(RUSAGE_SELF, &u) == 0) {
		head(p, name, "counter", "Page faults of the monitor, those on guest memory too.");
		put(p, "%s{kind=\"minor\"} %ld\n%s{kind=\"major\"} %ld\n", name, u.ru_minflt, name,
		    u.ru_majflt);
		name = "spore_process_cpu_seconds_total";
		head(p, name, "counter", "CPU time of all threads, that of the guest too.");
		put(p, "%s %.6f\n", name,
		    (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
			    (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6);
	}
	n = m->rollup_fd >= 0
		    ? fd_readv(m->rollup_fd, &(struct iovec){rollup, sizeof(rollup) - 1}, 1, 0)
		    : -1;
	if (n <= 0)
		return;
	rollup[n] = '\0';
	put_bytes(p, rollup, "\nRss:", "spore_process_resident_memory_bytes",
		  "Resident memory, that of the guest too.");
	put_bytes(p, rollup, "\nPss:", "spore_process_proportional_memory_bytes",
		  "The same, but shared pages divided among those that share them.");
	put_bytes(p, rollup, "\nPrivate_Dirty:", "spore_process_private_dirty_memory_bytes",
		  "Written memory that nobody shares.");
}

static void put_info(struct page *p, const struct metrics *m)
{
	head(p, "spore_info", "gauge", "Always 1; the microVM and the monitor are in the labels.");
	put(p, "spore_info{id=\"%s\",version=\"%s\"} 1\n", m->vm->id, SPORE_VERSION);
	head(p, "spore_vm_running", "gauge", "1 while the guest may run, 0 before and in a pause.");
	put(p, "spore_vm_running %d\n", m->vm->phase == VM_RUNNING);
}

static void put_migrations(struct page *p, const struct migrate_metrics *m)
{
	head(p, "spore_migrations_total", "counter",
	     "Migrations that came to an end, at either side.");
	put(p, "spore_migrations_total{status=\"completed\"} %llu\n",
	    (unsigned long long)m->completed);
	put(p, "spore_migrations_total{status=\"failed\"} %llu\n", (unsigned long long)m->failed);
	head(p, "spore_migration_rounds_total", "counter", "Rounds over memory in all of them.");
	put(p, "spore_migration_rounds_total %llu\n", (unsigned long long)m->rounds);
	head(p, "spore_migration_bytes_total", "counter", "Bytes that went over their streams.");
	put(p, "spore_migration_bytes_total %llu\n", (unsigned long long)m->bytes);
	head(p, "spore_migration_downtime_seconds", "gauge",
	     "At the source: how long the last one stopped the guest.");
	put(p, "spore_migration_downtime_seconds %.6f\n", (double)m->downtime_us / 1e6);
}

char *metrics_prometheus(struct metrics *m)
{
	json_t *root = metrics_totals(m);
	struct page p = {0};

	if (!root)
		return NULL;
	put_info(&p, m);
	put_process(&p, m);
	put_requests(&p, m);
	put_times(&p, root, "start_us", "spore_start_phase_seconds", "phase",
		  "What the steps of the start took; 0 before it.");
	put_times(&p, root, "latencies_us", "spore_last_operation_seconds", "operation",
		  "What the last such request took; 0 when there was none.");
	put_times(&p, root, "api_server", "spore_process_startup_seconds", "clock",
		  "From the start of the jailer, or of the process, to the API.");
	put_migrations(&p, &m->migrate);
	put_counters(&p, root);
	json_decref(root);
	if (p.failed) {
		free(p.text);
		return NULL;
	}
	return p.text;
}
