/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "vmm/metrics.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <unistd.h>

#include "virtio/block.h"
#include "virtio/rng.h"
#include "vmm/base/log.h"

#define PERIOD_NS 60000000000ull

/* A counter or a time in one of the structs that hold them. */
struct field {
	const char *name;
	size_t offset;
};

#define FIELD(type, member)                     \
	{                                       \
#member, offsetof(type, member) \
	}

static const struct field block_counters[] = {
	FIELD(struct block_metrics, queue_event_count),
	FIELD(struct block_metrics, no_avail_buffer),
	FIELD(struct block_metrics, event_fails),
	FIELD(struct block_metrics, invalid_reqs_count),
	FIELD(struct block_metrics, execute_fails),
	FIELD(struct block_metrics, flush_count),
	FIELD(struct block_metrics, read_count),
	FIELD(struct block_metrics, read_bytes),
	FIELD(struct block_metrics, write_count),
	FIELD(struct block_metrics, write_bytes),
};

static const struct field block_aggs[] = {
	FIELD(struct block_metrics, read_agg),
	FIELD(struct block_metrics, write_agg),
};

static const struct field rng_counters[] = {
	FIELD(struct rng_metrics, entropy_event_count),
	FIELD(struct rng_metrics, entropy_event_fails),
	FIELD(struct rng_metrics, entropy_bytes),
	FIELD(struct rng_metrics, host_rng_fails),
};

static const struct field vcpu_counters[] = {
	FIELD(struct vcpu_metrics, exit_io_in),	    FIELD(struct vcpu_metrics, exit_io_out),
	FIELD(struct vcpu_metrics, exit_mmio_read), FIELD(struct vcpu_metrics, exit_mmio_write),
	FIELD(struct vcpu_metrics, failures),
};

static const struct field i8042_counters[] = {
	FIELD(struct i8042_metrics, error_count),
	FIELD(struct i8042_metrics, missed_read_count),
	FIELD(struct i8042_metrics, missed_write_count),
	FIELD(struct i8042_metrics, read_count),
	FIELD(struct i8042_metrics, reset_count),
	FIELD(struct i8042_metrics, write_count),
};

static const struct field uart_counters[] = {
	FIELD(struct serial_metrics, error_count),
	FIELD(struct serial_metrics, missed_read_count),
	FIELD(struct serial_metrics, missed_write_count),
	FIELD(struct serial_metrics, read_count),
	FIELD(struct serial_metrics, write_count),
};

static const struct field start_times[] = {
	{"kvm", offsetof(struct vm_times, kvm_us)},
	{"memory", offsetof(struct vm_times, memory_us)},
	{"kernel", offsetof(struct vm_times, kernel_us)},
	{"devices", offsetof(struct vm_times, devices_us)},
	{"vcpus", offsetof(struct vm_times, vcpus_us)},
	{"run", offsetof(struct vm_times, run_us)},
	{"total", offsetof(struct vm_times, total_us)},
};

static const struct {
	const char *group, *count, *fails;
} requests[METRICS_REQUESTS] = {
	[METRICS_GET_INSTANCE_INFO] = {"get_api_requests", "instance_info_count", NULL},
	[METRICS_GET_MACHINE_CFG] = {"get_api_requests", "machine_cfg_count", NULL},
	[METRICS_GET_VMM_VERSION] = {"get_api_requests", "vmm_version_count", NULL},
	[METRICS_PUT_ACTIONS] = {"put_api_requests", "actions_count", "actions_fails"},
	[METRICS_PUT_BOOT_SOURCE] = {"put_api_requests", "boot_source_count", "boot_source_fails"},
	[METRICS_PUT_DRIVE] = {"put_api_requests", "drive_count", "drive_fails"},
	[METRICS_PUT_LOGGER] = {"put_api_requests", "logger_count", "logger_fails"},
	[METRICS_PUT_MACHINE_CFG] = {"put_api_requests", "machine_cfg_count", "machine_cfg_fails"},
	[METRICS_PUT_METRICS] = {"put_api_requests", "metrics_count", "metrics_fails"},
	[METRICS_PUT_SERIAL] = {"put_api_requests", "serial_count", "serial_fails"},
	[METRICS_PATCH_MACHINE_CFG] = {"patch_api_requests", "machine_cfg_count",
				       "machine_cfg_fails"},
};

/* Adds `n` to a number of the group, which begins at 0. */
static void add(json_t *group, const char *name, uint64_t n)
{
	json_int_t sum = json_integer_value(json_object_get(group, name)) + (json_int_t)n;

	json_object_set_new(group, name, json_integer(sum));
}

/* The group, made when it is not there yet. Borrowed. */
static json_t *group_of(json_t *root, const char *name)
{
	json_t *group = json_object_get(root, name);

	if (!group) {
		json_object_set_new(root, name, json_object());
		group = json_object_get(root, name);
	}
	return group;
}

/* Takes the counters of one object and adds them to up to two groups. */
static void add_counters(json_t *a, json_t *b, const struct field *f, size_t n, void *base)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t value = base ? metric_take((void *)((char *)base + f[i].offset)) : 0;

		add(a, f[i].name, value);
		if (b)
			add(b, f[i].name, value);
	}
}

static void add_agg(json_t *group, const char *name, uint64_t min, uint64_t max, uint64_t sum)
{
	json_t *agg = group_of(group, name);
	uint64_t old_min = (uint64_t)json_integer_value(json_object_get(agg, "min_us"));
	uint64_t old_max = (uint64_t)json_integer_value(json_object_get(agg, "max_us"));

	if (old_min && (min == 0 || old_min < min))
		min = old_min;
	if (old_max > max)
		max = old_max;
	json_object_set_new(agg, "min_us", json_integer((json_int_t)min));
	json_object_set_new(agg, "max_us", json_integer((json_int_t)max));
	add(agg, "sum_us", sum);
}

static void add_aggs(json_t *a, json_t *b, const struct field *f, size_t n, void *base)
{
	for (size_t i = 0; i < n; i++) {
		struct metric_agg none = {0};
		struct metric_agg *g = base ? (void *)((char *)base + f[i].offset) : &none;
		uint64_t sum = metric_take(&g->sum_us);

		add_agg(a, f[i].name, g->min_us, g->max_us, sum);
		if (b)
			add_agg(b, f[i].name, g->min_us, g->max_us, sum);
	}
}

static void add_block(json_t *root, const char *id, struct block_metrics *b)
{
	json_t *all = group_of(root, "block"), *own = NULL;
	char name[sizeof("block_") + CONFIG_ID_MAX];

	if (id) {
		snprintf(name, sizeof(name), "block_%s", id);
		own = group_of(root, name);
	}
	add_counters(all, own, block_counters, ARRAY_SIZE(block_counters), b);
	add_aggs(all, own, block_aggs, ARRAY_SIZE(block_aggs), b);
}

/* Groups are there also without their device, so that a reader needs no special case. */
static void add_devices(struct metrics *m, json_t *root)
{
	const struct config *c = &m->vm->config;
	struct virtio_device *d;
	unsigned drive = 0;

	add_block(root, NULL, NULL);
	add_counters(group_of(root, "entropy"), NULL, rng_counters, ARRAY_SIZE(rng_counters), NULL);
	for (unsigned i = 0; (d = vm_device(m->vm, i)); i++) {
		/* Drives have their slots in the order of the configuration. */
		if (d->type == VIRTIO_ID_BLOCK && drive < c->drive_count)
			add_block(root, c->drive[drive++].id, block_metrics(d));
		if (d->type == VIRTIO_ID_ENTROPY)
			add_counters(group_of(root, "entropy"), NULL, rng_counters,
				     ARRAY_SIZE(rng_counters), rng_metrics(d));
	}
}

static void add_machine(struct metrics *m, json_t *root)
{
	struct vm_counters c = {0};

	vm_counters(m->vm, &c);
	add_counters(group_of(root, "vcpu"), NULL, vcpu_counters, ARRAY_SIZE(vcpu_counters),
		     c.vcpu);
	add_counters(group_of(root, "i8042"), NULL, i8042_counters, ARRAY_SIZE(i8042_counters),
		     c.i8042);
	add_counters(group_of(root, "uart"), NULL, uart_counters, ARRAY_SIZE(uart_counters),
		     c.serial);
}

static void add_requests(struct metrics *m, json_t *root)
{
	for (unsigned i = METRICS_NONE + 1; i < METRICS_REQUESTS; i++) {
		json_t *group = group_of(root, requests[i].group);

		add(group, requests[i].count, metric_take(&m->count[i]));
		if (requests[i].fails)
			add(group, requests[i].fails, metric_take(&m->fails[i]));
	}
}

static void add_times(struct metrics *m, json_t *root)
{
	json_t *group = group_of(root, "api_server");

	add(group, "process_startup_time_us", m->startup_us);
	add(group, "process_startup_time_cpu_us", m->startup_cpu_us);
	group = group_of(root, "latencies_us");
	add(group, "pause_vm", m->pause_us);
	add(group, "resume_vm", m->resume_us);
	group = group_of(root, "start_us");
	for (size_t i = 0; i < ARRAY_SIZE(start_times); i++) {
		const char *at = (const char *)&m->vm->times + start_times[i].offset;

		add(group, start_times[i].name, *(const uint64_t *)(const void *)at);
	}
}

static void add_logger(struct metrics *m, json_t *root)
{
	json_t *group = group_of(root, "logger");
	struct log_stats stats = log_stats();

	m->missed_log.value = stats.missed;
	m->rate_limited_log.value = stats.rate_limited;
	add(group, "missed_metrics_count", metric_take(&m->missed));
	add(group, "missed_log_count", metric_take(&m->missed_log));
	add(group, "rate_limited_log_count", metric_take(&m->rate_limited_log));
}

static json_t *collect(struct metrics *m)
{
	json_t *root = json_object();
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	add(root, "utc_timestamp_ms", (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000);
	if (m->vm->config.metrics.emit_id)
		json_object_set_new(root, "id", json_string(m->vm->id));
	add_requests(m, root);
	add_devices(m, root);
	add_machine(m, root);
	add_times(m, root);
	add_logger(m, root);
	return root;
}

/* One write for one line, so that lines of several writers do not mix. */
static int write_line(struct metrics *m, int fd)
{
	json_t *root = collect(m);
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
		n = write(fd, line, (size_t)len);
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
	*m = (struct metrics){.vm = vm, .timer = {.expired = timer_expired, .arg = m}};
}

void metrics_finish(struct metrics *m)
{
	loop_timer_clear(m->vm->loop, &m->timer);
}

void metrics_start(struct metrics *m)
{
	if (m->vm->config.metrics.fd < 0)
		return;
	loop_timer_set(m->vm->loop, &m->timer, PERIOD_NS);
	flush_and_log(m);
}
