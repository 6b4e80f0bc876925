/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One line of the metrics: what is counted where, by tables, and under which name it is written.
 * A device adds its own table and its group here.
 */
#include "vmm/metrics_line.h"

#include <stdio.h>
#include <string.h>

#include "virtio/balloon.h"
#include "virtio/block.h"
#include "virtio/mem.h"
#include "virtio/net.h"
#include "virtio/pmem.h"
#include "virtio/rng.h"
#include "virtio/vsock.h"
#include "vmm/base/log.h"

/* Adds `n` to a number of the group, which begins at 0. */
void metrics_add(json_t *group, const char *name, uint64_t n)
{
	json_int_t sum = json_integer_value(json_object_get(group, name)) + (json_int_t)n;

	json_object_set_new(group, name, json_integer(sum));
}

/* The group, made when it is not there yet. Borrowed. */
json_t *metrics_group(json_t *root, const char *name)
{
	json_t *group = json_object_get(root, name);

	if (!group) {
		json_object_set_new(root, name, json_object());
		group = json_object_get(root, name);
	}
	return group;
}

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
	FIELD(struct block_metrics, remaining_reqs_count),
	FIELD(struct block_metrics, rate_limiter_event_count),
	FIELD(struct block_metrics, rate_limiter_throttled_events),
	FIELD(struct block_metrics, io_engine_throttled_events),
	FIELD(struct block_metrics, update_count),
	FIELD(struct block_metrics, update_fails),
	FIELD(struct block_metrics, activate_fails),
	FIELD(struct block_metrics, cfg_fails),
	FIELD(struct block_metrics, flush_count),
	FIELD(struct block_metrics, read_count),
	FIELD(struct block_metrics, read_bytes),
	FIELD(struct block_metrics, write_count),
	FIELD(struct block_metrics, write_bytes),
	FIELD(struct block_metrics, discard_count),
	FIELD(struct block_metrics, discard_bytes),
	FIELD(struct block_metrics, write_zeroes_count),
	FIELD(struct block_metrics, write_zeroes_bytes),
	FIELD(struct block_metrics, overlay_read_bytes),
	FIELD(struct block_metrics, overlay_base_bytes),
	FIELD(struct block_metrics, overlay_flush_count),
};

static const struct field block_aggs[] = {
	FIELD(struct block_metrics, read_agg),
	FIELD(struct block_metrics, write_agg),
};

static const struct field net_counters[] = {
	FIELD(struct net_metrics, event_fails),
	FIELD(struct net_metrics, no_rx_avail_buffer),
	FIELD(struct net_metrics, no_tx_avail_buffer),
	FIELD(struct net_metrics, rx_bytes_count),
	FIELD(struct net_metrics, rx_count),
	FIELD(struct net_metrics, rx_event_rate_limiter_count),
	FIELD(struct net_metrics, rx_fails),
	FIELD(struct net_metrics, rx_packets_count),
	FIELD(struct net_metrics, rx_queue_event_count),
	FIELD(struct net_metrics, rx_rate_limiter_throttled),
	FIELD(struct net_metrics, rx_tap_event_count),
	FIELD(struct net_metrics, tap_read_fails),
	FIELD(struct net_metrics, tap_write_fails),
	FIELD(struct net_metrics, tx_bytes_count),
	FIELD(struct net_metrics, tx_count),
	FIELD(struct net_metrics, tx_fails),
	FIELD(struct net_metrics, tx_malformed_frames),
	FIELD(struct net_metrics, tx_packets_count),
	FIELD(struct net_metrics, tx_queue_event_count),
	FIELD(struct net_metrics, tx_rate_limiter_event_count),
	FIELD(struct net_metrics, tx_rate_limiter_throttled),
	FIELD(struct net_metrics, tx_remaining_reqs_count),
	FIELD(struct net_metrics, tx_spoofed_mac_count),
	FIELD(struct net_metrics, activate_fails),
	FIELD(struct net_metrics, cfg_fails),
	FIELD(struct net_metrics, rx_denied),
	FIELD(struct net_metrics, tx_denied),
	FIELD(struct net_metrics, update_count),
	FIELD(struct net_metrics, update_fails),
};

static const struct field net_aggs[] = {
	FIELD(struct net_metrics, tap_write_agg),
};

static const struct field policy_counters[] = {
	{"egress_default", offsetof(struct netpolicy_metrics, by_default[NETFRAME_EGRESS])},
	{"ingress_default", offsetof(struct netpolicy_metrics, by_default[NETFRAME_INGRESS])},
	{"egress_answers", offsetof(struct netpolicy_metrics, answers[NETFRAME_EGRESS])},
	{"ingress_answers", offsetof(struct netpolicy_metrics, answers[NETFRAME_INGRESS])},
	{"egress_neighbour", offsetof(struct netpolicy_metrics, neighbour[NETFRAME_EGRESS])},
	{"ingress_neighbour", offsetof(struct netpolicy_metrics, neighbour[NETFRAME_INGRESS])},
	{"egress_not_own", offsetof(struct netpolicy_metrics, not_own[NETFRAME_EGRESS])},
	{"ingress_not_own", offsetof(struct netpolicy_metrics, not_own[NETFRAME_INGRESS])},
	{"egress_malformed", offsetof(struct netpolicy_metrics, malformed[NETFRAME_EGRESS])},
	{"ingress_malformed", offsetof(struct netpolicy_metrics, malformed[NETFRAME_INGRESS])},
};

static const struct field pmem_counters[] = {
	FIELD(struct pmem_metrics, activate_fails),
	FIELD(struct pmem_metrics, cfg_fails),
	FIELD(struct pmem_metrics, event_fails),
	FIELD(struct pmem_metrics, queue_event_count),
	FIELD(struct pmem_metrics, rate_limiter_event_count),
	FIELD(struct pmem_metrics, rate_limiter_throttled_events),
	FIELD(struct pmem_metrics, flush_count),
	FIELD(struct pmem_metrics, execute_fails),
	FIELD(struct pmem_metrics, invalid_reqs_count),
};

static const struct field mem_counters[] = {
	FIELD(struct mem_metrics, activate_fails),
	FIELD(struct mem_metrics, queue_event_count),
	FIELD(struct mem_metrics, queue_event_fails),
	FIELD(struct mem_metrics, plug_count),
	FIELD(struct mem_metrics, plug_bytes),
	FIELD(struct mem_metrics, plug_fails),
	FIELD(struct mem_metrics, unplug_count),
	FIELD(struct mem_metrics, unplug_bytes),
	FIELD(struct mem_metrics, unplug_fails),
	FIELD(struct mem_metrics, unplug_discard_fails),
	FIELD(struct mem_metrics, unplug_all_count),
	FIELD(struct mem_metrics, unplug_all_fails),
	FIELD(struct mem_metrics, state_count),
	FIELD(struct mem_metrics, state_fails),
};

static const struct field mem_aggs[] = {
	FIELD(struct mem_metrics, plug_agg),
	FIELD(struct mem_metrics, unplug_agg),
	FIELD(struct mem_metrics, unplug_all_agg),
	FIELD(struct mem_metrics, state_agg),
};

static const struct field rng_counters[] = {
	FIELD(struct rng_metrics, entropy_event_count),
	FIELD(struct rng_metrics, entropy_event_fails),
	FIELD(struct rng_metrics, entropy_bytes),
	FIELD(struct rng_metrics, host_rng_fails),
	FIELD(struct rng_metrics, entropy_rate_limiter_throttled),
	FIELD(struct rng_metrics, rate_limiter_event_count),
	FIELD(struct rng_metrics, activate_fails),
};

static const struct field balloon_counters[] = {
	FIELD(struct balloon_metrics, activate_fails),
	FIELD(struct balloon_metrics, inflate_count),
	FIELD(struct balloon_metrics, deflate_count),
	FIELD(struct balloon_metrics, event_fails),
	FIELD(struct balloon_metrics, stats_updates_count),
	FIELD(struct balloon_metrics, stats_update_fails),
	FIELD(struct balloon_metrics, free_page_report_count),
	FIELD(struct balloon_metrics, free_page_report_fails),
	FIELD(struct balloon_metrics, free_page_report_freed),
	FIELD(struct balloon_metrics, free_page_hint_count),
	FIELD(struct balloon_metrics, free_page_hint_fails),
	FIELD(struct balloon_metrics, free_page_hint_freed),
};

static const struct field vsock_counters[] = {
	FIELD(struct vsock_metrics, activate_fails),
	FIELD(struct vsock_metrics, cfg_fails),
	FIELD(struct vsock_metrics, rx_queue_event_count),
	FIELD(struct vsock_metrics, tx_queue_event_count),
	FIELD(struct vsock_metrics, rx_queue_event_fails),
	FIELD(struct vsock_metrics, tx_queue_event_fails),
	FIELD(struct vsock_metrics, ev_queue_event_fails),
	FIELD(struct vsock_metrics, muxer_event_fails),
	FIELD(struct vsock_metrics, conn_event_fails),
	FIELD(struct vsock_metrics, rx_packets_count),
	FIELD(struct vsock_metrics, rx_bytes_count),
	FIELD(struct vsock_metrics, rx_read_fails),
	FIELD(struct vsock_metrics, tx_packets_count),
	FIELD(struct vsock_metrics, tx_bytes_count),
	FIELD(struct vsock_metrics, tx_write_fails),
	FIELD(struct vsock_metrics, tx_flush_fails),
	FIELD(struct vsock_metrics, conns_added),
	FIELD(struct vsock_metrics, conns_removed),
	FIELD(struct vsock_metrics, conns_killed),
	FIELD(struct vsock_metrics, killq_resync),
};

static const struct field mmds_counters[] = {
	FIELD(struct mmdsnet_metrics, rx_accepted),
	FIELD(struct mmdsnet_metrics, rx_accepted_err),
	FIELD(struct mmdsnet_metrics, rx_accepted_unusual),
	FIELD(struct mmdsnet_metrics, rx_bad_eth),
	FIELD(struct mmdsnet_metrics, rx_count),
	FIELD(struct mmdsnet_metrics, rx_invalid_token),
	FIELD(struct mmdsnet_metrics, rx_no_token),
	FIELD(struct mmdsnet_metrics, tx_bytes),
	FIELD(struct mmdsnet_metrics, tx_count),
	FIELD(struct mmdsnet_metrics, tx_errors),
	FIELD(struct mmdsnet_metrics, tx_frames),
	FIELD(struct mmdsnet_metrics, connections_created),
	FIELD(struct mmdsnet_metrics, connections_destroyed),
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
	{"begin", offsetof(struct vm_times, begin_us)},
	{"kvm", offsetof(struct vm_times, kvm_us)},
	{"memory", offsetof(struct vm_times, memory_us)},
	{"kernel", offsetof(struct vm_times, kernel_us)},
	{"state", offsetof(struct vm_times, state_us)},
	{"devices", offsetof(struct vm_times, devices_us)},
	{"vcpus", offsetof(struct vm_times, vcpus_us)},
	{"run", offsetof(struct vm_times, run_us)},
	{"total", offsetof(struct vm_times, total_us)},
};

static const struct field latencies[] = {
	{"pause_vm", offsetof(struct metrics, pause_us)},
	{"resume_vm", offsetof(struct metrics, resume_us)},
	{"full_create_snapshot", offsetof(struct metrics, full_create_us)},
	{"diff_create_snapshot", offsetof(struct metrics, diff_create_us)},
	{"load_snapshot", offsetof(struct metrics, load_us)},
};

static const struct {
	const char *group, *count, *fails;
} requests[METRICS_REQUESTS] = {
	[METRICS_GET_INSTANCE_INFO] = {"get_api_requests", "instance_info_count", NULL},
	[METRICS_GET_MACHINE_CFG] = {"get_api_requests", "machine_cfg_count", NULL},
	[METRICS_GET_MMDS] = {"get_api_requests", "mmds_count", NULL},
	[METRICS_PUT_MMDS] = {"put_api_requests", "mmds_count", "mmds_fails"},
	[METRICS_PATCH_MMDS] = {"patch_api_requests", "mmds_count", "mmds_fails"},
	[METRICS_GET_VMM_VERSION] = {"get_api_requests", "vmm_version_count", NULL},
	[METRICS_PUT_ACTIONS] = {"put_api_requests", "actions_count", "actions_fails"},
	[METRICS_PUT_CPU_CFG] = {"put_api_requests", "cpu_cfg_count", "cpu_cfg_fails"},
	[METRICS_PUT_BOOT_SOURCE] = {"put_api_requests", "boot_source_count", "boot_source_fails"},
	[METRICS_PUT_DRIVE] = {"put_api_requests", "drive_count", "drive_fails"},
	[METRICS_PUT_LOGGER] = {"put_api_requests", "logger_count", "logger_fails"},
	[METRICS_PUT_MACHINE_CFG] = {"put_api_requests", "machine_cfg_count", "machine_cfg_fails"},
	[METRICS_PUT_METRICS] = {"put_api_requests", "metrics_count", "metrics_fails"},
	[METRICS_PUT_NETWORK] = {"put_api_requests", "network_count", "network_fails"},
	[METRICS_PATCH_NETWORK] = {"patch_api_requests", "network_count", "network_fails"},
	[METRICS_GET_HOTPLUG] = {"get_api_requests", "hotplug_memory_count", NULL},
	[METRICS_PUT_HOTPLUG] = {"put_api_requests", "hotplug_memory_count",
				 "hotplug_memory_fails"},
	[METRICS_PATCH_HOTPLUG] = {"patch_api_requests", "hotplug_memory_count",
				   "hotplug_memory_fails"},
	[METRICS_PUT_PMEM] = {"put_api_requests", "pmem_count", "pmem_fails"},
	[METRICS_PATCH_PMEM] = {"patch_api_requests", "pmem_count", "pmem_fails"},
	[METRICS_PUT_VSOCK] = {"put_api_requests", "vsock_count", "vsock_fails"},
	[METRICS_PUT_SERIAL] = {"put_api_requests", "serial_count", "serial_fails"},
	[METRICS_PATCH_DRIVE] = {"patch_api_requests", "drive_count", "drive_fails"},
	[METRICS_PATCH_MACHINE_CFG] = {"patch_api_requests", "machine_cfg_count",
				       "machine_cfg_fails"},
};

/* Takes the counters of one object and adds them to up to two groups. */
static void add_counters(json_t *a, json_t *b, const struct field *f, size_t n, void *base)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t value = base ? metric_take((void *)((char *)base + f[i].offset)) : 0;

		metrics_add(a, f[i].name, value);
		if (b)
			metrics_add(b, f[i].name, value);
	}
}

static void add_agg(json_t *group, const char *name, uint64_t min, uint64_t max, uint64_t sum)
{
	json_t *agg = metrics_group(group, name);
	uint64_t old_min = (uint64_t)json_integer_value(json_object_get(agg, "min_us"));
	uint64_t old_max = (uint64_t)json_integer_value(json_object_get(agg, "max_us"));

	if (old_min && (min == 0 || old_min < min))
		min = old_min;
	if (old_max > max)
		max = old_max;
	json_object_set_new(agg, "min_us", json_integer((json_int_t)min));
	json_object_set_new(agg, "max_us", json_integer((json_int_t)max));
	metrics_add(agg, "sum_us", sum);
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
	json_t *all = metrics_group(root, "block"), *own = NULL;
	char name[sizeof("block_") + CONFIG_ID_MAX];

	if (id) {
		snprintf(name, sizeof(name), "block_%s", id);
		own = metrics_group(root, name);
	}
	add_counters(all, own, block_counters, ARRAY_SIZE(block_counters), b);
	add_aggs(all, own, block_aggs, ARRAY_SIZE(block_aggs), b);
}

static void add_drive(json_t *root, const struct drive *c, struct virtio_device *d)
{
	char name[sizeof("block_") + CONFIG_ID_MAX];

	add_block(root, c->id, block_metrics(d));
	if (!c->overlay)
		return;
	snprintf(name, sizeof(name), "block_%s", c->id);
	pthread_mutex_lock(d->env.lock);
	metrics_add(metrics_group(root, name), "overlay_own_bytes", block_overlay_bytes(d));
	pthread_mutex_unlock(d->env.lock);
}

static void add_pmem(json_t *root, const char *id, struct pmem_metrics *p)
{
	char name[sizeof("pmem_") + PMEMCONFIG_ID_MAX];

	snprintf(name, sizeof(name), "pmem_%s", id);
	add_counters(metrics_group(root, "pmem"), metrics_group(root, name), pmem_counters,
		     ARRAY_SIZE(pmem_counters), p);
}

static void add_mem(json_t *root, struct mem_metrics *m)
{
	json_t *group = metrics_group(root, "memory_hotplug");

	add_counters(group, NULL, mem_counters, ARRAY_SIZE(mem_counters), m);
	add_aggs(group, NULL, mem_aggs, ARRAY_SIZE(mem_aggs), m);
}

/* Frames by the rule that decided about them, in the order of the rules. */
static json_t *rule_counts(struct netpolicy *p, enum netframe_way way)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < netpolicy_rule_count(p, way); i++) {
		uint64_t n = metric_take(&netpolicy_metrics(p)->rule[way][i]);

		json_array_append_new(list, json_integer((json_int_t)n));
	}
	return list;
}

static void add_net(json_t *root, const char *id, struct virtio_device *d)
{
	json_t *all = metrics_group(root, "net"), *own = NULL, *group;
	struct net_metrics *n = d ? net_metrics(d) : NULL;
	char name[sizeof("net_") + NETCONFIG_ID_MAX];
	struct netpolicy *p = d ? net_guard(d)->policy : NULL;

	if (id) {
		snprintf(name, sizeof(name), "net_%s", id);
		own = metrics_group(root, name);
	}
	add_counters(all, own, net_counters, ARRAY_SIZE(net_counters), n);
	add_aggs(all, own, net_aggs, ARRAY_SIZE(net_aggs), n);
	if (!p)
		return;
	group = metrics_group(own, "policy");
	add_counters(group, NULL, policy_counters, ARRAY_SIZE(policy_counters),
		     netpolicy_metrics(p));
	json_object_set_new(group, "egress_rules", rule_counts(p, NETFRAME_EGRESS));
	json_object_set_new(group, "ingress_rules", rule_counts(p, NETFRAME_INGRESS));
}

/* Groups are there also without their device, so that a reader needs no special case. */
static void add_devices(struct metrics *m, json_t *root)
{
	const struct config *c = &m->vm->config;
	struct virtio_device *d;
	unsigned drive = 0, net = 0, pmem = 0;

	add_block(root, NULL, NULL);
	add_net(root, NULL, NULL);
	add_mem(root, NULL);
	add_counters(metrics_group(root, "pmem"), NULL, pmem_counters, ARRAY_SIZE(pmem_counters),
		     NULL);
	add_counters(metrics_group(root, "entropy"), NULL, rng_counters, ARRAY_SIZE(rng_counters),
		     NULL);
	add_counters(metrics_group(root, "vsock"), NULL, vsock_counters, ARRAY_SIZE(vsock_counters),
		     NULL);
	add_counters(metrics_group(root, "balloon"), NULL, balloon_counters,
		     ARRAY_SIZE(balloon_counters), NULL);
	for (unsigned i = 0; (d = vm_device(m->vm, i)); i++) {
		metrics_add(metrics_group(root, "interrupts"), "triggers",
			    metric_take(&d->interrupts));
		/* Drives have their slots in the order of the configuration. */
		if (d->type == VIRTIO_ID_BLOCK && drive < c->drive_count)
			add_drive(root, &c->drive[drive++], d);
		if (d->type == VIRTIO_ID_NET && net < c->net_count)
			add_net(root, c->net[net++].id, d);
		if (d->type == VIRTIO_ID_PMEM && pmem < c->pmem_count)
			add_pmem(root, c->pmem[pmem++].id, pmem_metrics(d));
		if (d->type == VIRTIO_ID_MEM)
			add_mem(root, mem_metrics(d));
		if (d->type == VIRTIO_ID_ENTROPY)
			add_counters(metrics_group(root, "entropy"), NULL, rng_counters,
				     ARRAY_SIZE(rng_counters), rng_metrics(d));
		if (d->type == VIRTIO_ID_BALLOON)
			add_counters(metrics_group(root, "balloon"), NULL, balloon_counters,
				     ARRAY_SIZE(balloon_counters), balloon_metrics(d));
		if (d->type == VIRTIO_ID_VSOCK)
			add_counters(metrics_group(root, "vsock"), NULL, vsock_counters,
				     ARRAY_SIZE(vsock_counters), vsock_metrics(d));
	}
}

static void add_machine(struct metrics *m, json_t *root)
{
	struct vm_counters c = {0};

	vm_counters(m->vm, &c);
	add_counters(metrics_group(root, "mmds"), NULL, mmds_counters, ARRAY_SIZE(mmds_counters),
		     &m->vm->mmds.count);
	add_counters(metrics_group(root, "vcpu"), NULL, vcpu_counters, ARRAY_SIZE(vcpu_counters),
		     c.vcpu);
	add_counters(metrics_group(root, "i8042"), NULL, i8042_counters, ARRAY_SIZE(i8042_counters),
		     c.i8042);
	add_counters(metrics_group(root, "uart"), NULL, uart_counters, ARRAY_SIZE(uart_counters),
		     c.serial);
}

static void add_requests(struct metrics *m, json_t *root)
{
	for (unsigned i = METRICS_NONE + 1; i < METRICS_REQUESTS; i++) {
		json_t *group = metrics_group(root, requests[i].group);

		metrics_add(group, requests[i].count, metric_take(&m->count[i]));
		if (requests[i].fails)
			metrics_add(group, requests[i].fails, metric_take(&m->fails[i]));
	}
}

static void add_times(struct metrics *m, json_t *root)
{
	json_t *group = metrics_group(root, "api_server");

	metrics_add(group, "process_startup_time_us", m->startup_us);
	metrics_add(group, "process_startup_time_cpu_us", m->startup_cpu_us);
	group = metrics_group(root, "latencies_us");
	for (size_t i = 0; i < ARRAY_SIZE(latencies); i++) {
		const char *at = (const char *)m + latencies[i].offset;
		uint64_t us = *(const uint64_t *)(const void *)at;
		char name[40];

		/* One thread does both: there is no way between the API and the monitor. */
		snprintf(name, sizeof(name), "vmm_%s", latencies[i].name);
		metrics_add(group, latencies[i].name, us);
		metrics_add(group, name, us);
	}
	group = metrics_group(root, "start_us");
	for (size_t i = 0; i < ARRAY_SIZE(start_times); i++) {
		const char *at = (const char *)&m->vm->times + start_times[i].offset;

		metrics_add(group, start_times[i].name, *(const uint64_t *)(const void *)at);
	}
	metrics_add(group, "first_exit", vm_first_exit_us(m->vm));
}

static void add_signals(struct metrics *m, json_t *root)
{
	metrics_add(metrics_group(root, "signals"), "sighup", metric_take(&m->sighup));
}

static void add_logger(struct metrics *m, json_t *root)
{
	json_t *group = metrics_group(root, "logger");
	struct log_stats stats = log_stats();

	m->missed_log.value = stats.missed;
	m->rate_limited_log.value = stats.rate_limited;
	metrics_add(group, "missed_metrics_count", metric_take(&m->missed));
	metrics_add(group, "missed_log_count", metric_take(&m->missed_log));
	metrics_add(group, "rate_limited_log_count", metric_take(&m->rate_limited_log));
}

static void add_none(json_t *group, const char *name)
{
	size_t len = strlen(name);

	if (len > 4 && strcmp(name + len - 4, "_agg") == 0)
		add_agg(group, name, 0, 0, 0);
	else
		metrics_add(group, name, 0);
}

/* All groups and fields, with zeroes, for what comes after this to add to. */
static void add_shape(json_t *root)
{
	for (const char *const *shape = metrics_shape; *shape; shape++) {
		json_t *group = NULL;
		char word[64];

		for (const char *p = *shape; *p; p += strspn(p, " ")) {
			size_t len = strcspn(p, " ");

			snprintf(word, sizeof(word), "%.*s", (int)len, p);
			if (group)
				add_none(group, word);
			else
				group = metrics_group(root, word);
			p += len;
		}
	}
}

static void add_properties(struct metrics *m, json_t *root)
{
	const char *text = m->vm->config.metrics.properties;

	if (text)
		json_object_set_new(root, "properties", json_loads(text, 0, NULL));
}

json_t *metrics_collect(struct metrics *m)
{
	json_t *root = json_object();
	struct timespec ts;

	add_shape(root);
	add_properties(m, root);
	metrics_add(metrics_group(root, "deprecated_api"), "deprecated_http_api_calls",
		    metric_take(&m->deprecated));

	clock_gettime(CLOCK_REALTIME, &ts);
	metrics_add(root, "utc_timestamp_ms",
		    (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000);
	if (m->vm->config.metrics.emit_id)
		json_object_set_new(root, "id", json_string(m->vm->id));
	add_requests(m, root);
	add_devices(m, root);
	add_machine(m, root);
	add_times(m, root);
	add_signals(m, root);
	add_logger(m, root);
	return root;
}
