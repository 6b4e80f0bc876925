/* SPDX-License-Identifier: Apache-2.0 */
#include "api-sock/schema.h"

#include "virtio/net.h"

#define AT(type, member) .offset = offsetof(type, member), .size = sizeof(((type *)0)->member)
#define SCHEMA(var, title, fields) \
	const struct body var = {.name = title, .field = fields, .count = ARRAY_SIZE(fields)}

static const struct body_name action_names[] = {
	{"InstanceStart", ACTION_INSTANCE_START},
	{"SendCtrlAltDel", ACTION_SEND_CTRL_ALT_DEL},
	{"FlushMetrics", ACTION_FLUSH_METRICS},
	{0},
};

static const struct body_field action_fields[] = {
	{"action_type", BODY_ENUM, BODY_REQUIRED, AT(struct action_request, action_type),
	 .names = action_names},
};
SCHEMA(schema_action, "InstanceActionInfo", action_fields);

static const struct body_name vm_names[] = {{"Paused", true}, {"Resumed", false}, {0}};

static const struct body_field vm_fields[] = {
	{"state", BODY_ENUM, BODY_REQUIRED, AT(struct vm_request, paused), .names = vm_names},
};
SCHEMA(schema_vm, "Vm", vm_fields);

static const struct body_field boot_source_fields[] = {
	{"kernel_image_path", BODY_STRING, BODY_REQUIRED,
	 AT(struct boot_source, kernel_image_path)},
	{"initrd_path", BODY_STRING, 0, AT(struct boot_source, initrd_path)},
	{"boot_args", BODY_STRING, 0, AT(struct boot_source, boot_args)},
};
SCHEMA(schema_boot_source, "BootSource", boot_source_fields);

static const struct body_name huge_pages_names[] = {
	{"None", HUGE_PAGES_NONE},
	{"Transparent", HUGE_PAGES_TRANSPARENT},
	{"2M", HUGE_PAGES_2M},
	{0},
};

/* Static templates are deprecated in Firecracker; PUT /cpu-config takes one as data. */
static const struct body_name cpu_template_names[] = {
	{"None", 0},
	{"C3", BODY_REFUSED},
	{"T2", BODY_REFUSED},
	{"T2S", BODY_REFUSED},
	{"T2CL", BODY_REFUSED},
	{"T2A", BODY_REFUSED},
	{"V1N1", BODY_REFUSED},
	{0},
};

static const struct body_name memory_backend_names[] = {
	{"Anonymous", false},
	{"Memfd", true},
	{0},
};

static const struct body_field machine_fields[] = {
	{"vcpu_count", BODY_UINT, BODY_REQUIRED, AT(struct machine_config, vcpu_count), .min = 1,
	 .max = LAYOUT_VCPU_MAX},
	{"mem_size_mib", BODY_UINT, BODY_REQUIRED, AT(struct machine_config, mem_size_mib),
	 .min = 1, .max = CONFIG_MEM_MIB_MAX},
	{"smt", BODY_BOOL, 0, AT(struct machine_config, smt)},
	{"track_dirty_pages", BODY_BOOL, 0, AT(struct machine_config, track_dirty_pages)},
	{"huge_pages", BODY_ENUM, 0, AT(struct machine_config, huge_pages),
	 .names = huge_pages_names},
	{"cpu_template", BODY_ENUM, BODY_HIDDEN, .names = cpu_template_names},
	{"memory_backend", BODY_ENUM, 0, AT(struct machine_config, memfd),
	 .names = memory_backend_names},
	{"pit", BODY_BOOL, 0, AT(struct machine_config, pit)},
};
SCHEMA(schema_machine, "MachineConfiguration", machine_fields);

static const struct body_field cpu_config_fields[] = {
	{.name = "kvm_capabilities", .type = BODY_ARRAY},
	{.name = "cpuid_modifiers", .type = BODY_ARRAY},
	{.name = "msr_modifiers", .type = BODY_ARRAY},
	{.name = "reg_modifiers", .type = BODY_ARRAY},
	{.name = "vcpu_features", .type = BODY_ARRAY},
};
SCHEMA(schema_cpu_config, "CpuConfig", cpu_config_fields);

static const struct body_name cache_type_names[] = {
	{"Unsafe", CACHE_UNSAFE},
	{"Writeback", CACHE_WRITEBACK},
	{0},
};

static const struct body_name io_engine_names[] = {
	{"Sync", IO_ENGINE_SYNC},
	{"Async", IO_ENGINE_ASYNC},
	{0},
};

static const struct body_field bucket_fields[] = {
	{"size", BODY_UINT, BODY_REQUIRED, AT(struct limiter_bucket_config, size),
	 .max = INT64_MAX},
	{"refill_time", BODY_UINT, BODY_REQUIRED, AT(struct limiter_bucket_config, refill_ms),
	 .max = INT64_MAX},
	{"one_time_burst", BODY_UINT, 0, AT(struct limiter_bucket_config, burst), .max = INT64_MAX},
};
SCHEMA(schema_bucket, "TokenBucket", bucket_fields);

static const struct body_field limiter_fields[] = {
	{"bandwidth", BODY_OBJECT, BODY_WHOLE, AT(struct limiter_config, bandwidth),
	 .body = &schema_bucket},
	{"ops", BODY_OBJECT, BODY_WHOLE, AT(struct limiter_config, ops), .body = &schema_bucket},
};
SCHEMA(schema_limiter, "RateLimiter", limiter_fields);

static const struct body_field drive_fields[] = {
	{"drive_id", BODY_ID, BODY_REQUIRED, AT(struct drive, id)},
	{"path_on_host", BODY_STRING, 0, AT(struct drive, path_on_host)},
	{"is_root_device", BODY_BOOL, BODY_REQUIRED, AT(struct drive, is_root_device)},
	{"partuuid", BODY_STRING, 0, AT(struct drive, partuuid), .max = CONFIG_PARTUUID_MAX},
	{"is_read_only", BODY_BOOL, 0, AT(struct drive, is_read_only)},
	{"cache_type", BODY_ENUM, 0, AT(struct drive, cache_type), .names = cache_type_names},
	{"io_engine", BODY_ENUM, 0, AT(struct drive, io_engine), .names = io_engine_names},
	{"rate_limiter", BODY_OBJECT, 0, AT(struct drive, limiter), .body = &schema_limiter},
	{"overlay", BODY_STRING, 0, AT(struct drive, overlay)},
	{"placeholder", BODY_BOOL, 0, AT(struct drive, placeholder)},
	{.name = "socket", .type = BODY_UNSUPPORTED},
};
SCHEMA(schema_drive, "Drive", drive_fields);

static const struct body_field drive_update_fields[] = {
	{"drive_id", BODY_ID, BODY_REQUIRED, AT(struct drive_update, id)},
	{"path_on_host", BODY_STRING, 0, AT(struct drive_update, path_on_host)},
	{"rate_limiter", BODY_OBJECT, 0, AT(struct drive_update, limiter), .body = &schema_limiter},
};
SCHEMA(schema_drive_update, "PartialDrive", drive_update_fields);

#define MIB_FIELD(name, type, flag, least)                                              \
	{                                                                               \
#name, BODY_UINT, flag, AT(type, name), .min = least, .max = UINT32_MAX \
	}

static const struct body_field hotplug_fields[] = {
	MIB_FIELD(total_size_mib, struct hotplug_config, BODY_REQUIRED, 0),
	MIB_FIELD(slot_size_mib, struct hotplug_config, 0, HOTPLUG_SLOT_MIB_MIN),
	MIB_FIELD(block_size_mib, struct hotplug_config, 0, HOTPLUG_BLOCK_MIB_MIN),
};
SCHEMA(schema_hotplug, "MemoryHotplugConfig", hotplug_fields);

static const struct body_field hotplug_update_fields[] = {
	MIB_FIELD(requested_size_mib, struct hotplug_update, BODY_REQUIRED, 0),
};
SCHEMA(schema_hotplug_update, "MemoryHotplugSizeUpdate", hotplug_update_fields);

static const struct body_field hotplug_status_fields[] = {
	MIB_FIELD(total_size_mib, struct hotplug_status, BODY_REQUIRED, 0),
	MIB_FIELD(slot_size_mib, struct hotplug_status, BODY_REQUIRED, 0),
	MIB_FIELD(block_size_mib, struct hotplug_status, BODY_REQUIRED, 0),
	MIB_FIELD(plugged_size_mib, struct hotplug_status, BODY_REQUIRED, 0),
	MIB_FIELD(requested_size_mib, struct hotplug_status, BODY_REQUIRED, 0),
};
SCHEMA(schema_hotplug_status, "MemoryHotplugStatus", hotplug_status_fields);

static const struct body_field pmem_fields[] = {
	{"id", BODY_ID, BODY_REQUIRED, AT(struct pmem_config, id)},
	{"path_on_host", BODY_STRING, BODY_REQUIRED, AT(struct pmem_config, path_on_host)},
	{"root_device", BODY_BOOL, 0, AT(struct pmem_config, root_device)},
	{"read_only", BODY_BOOL, 0, AT(struct pmem_config, read_only)},
	{"rate_limiter", BODY_OBJECT, 0, AT(struct pmem_config, limiter), .body = &schema_limiter},
};
SCHEMA(schema_pmem, "Pmem", pmem_fields);

static const struct body_field pmem_update_fields[] = {
	{"id", BODY_ID, BODY_REQUIRED, AT(struct pmem_update, id)},
	{"rate_limiter", BODY_OBJECT, 0, AT(struct pmem_update, limiter), .body = &schema_limiter},
};
SCHEMA(schema_pmem_update, "PartialPmem", pmem_update_fields);

static const struct body_name net_verdict_names[] = {{"Allow", true}, {"Deny", false}, {0}};

static const struct body_name net_protocol_names[] = {
	{"Any", 0}, {"Tcp", IPPROTO_TCP}, {"Udp", IPPROTO_UDP}, {"Icmp", NETFRAME_ICMP_ANY}, {0},
};

static const struct body_field net_rule_fields[] = {
	{"action", BODY_ENUM, BODY_REQUIRED, AT(struct net_rule_config, allow),
	 .names = net_verdict_names},
	{"protocol", BODY_ENUM, 0, AT(struct net_rule_config, protocol),
	 .names = net_protocol_names},
	{"address", BODY_TEXT, 0, AT(struct net_rule_config, address)},
	{"ports", BODY_TEXT, 0, AT(struct net_rule_config, ports)},
};
static SCHEMA(schema_net_rule, "NetworkRule", net_rule_fields);

static const struct body_field net_policy_fields[] = {
	{"addresses", BODY_LIST, 0, AT(struct net_policy_config, addresses),
	 .max = NETPOLICY_ADDRESSES_MAX, .item = 48},
	{"egress", BODY_LIST, 0, AT(struct net_policy_config, egress), .max = NETPOLICY_RULES_MAX,
	 .item = sizeof(struct net_rule_config), .body = &schema_net_rule},
	{"egress_default", BODY_ENUM, 0, AT(struct net_policy_config, egress_allow),
	 .names = net_verdict_names},
	{"ingress", BODY_LIST, 0, AT(struct net_policy_config, ingress), .max = NETPOLICY_RULES_MAX,
	 .item = sizeof(struct net_rule_config), .body = &schema_net_rule},
	{"ingress_default", BODY_ENUM, 0, AT(struct net_policy_config, ingress_allow),
	 .names = net_verdict_names},
};
SCHEMA(schema_net_policy, "NetworkPolicy", net_policy_fields);

static const struct body_field net_pair_fields[] = {
	{"guest", BODY_TEXT, BODY_REQUIRED, AT(struct net_pair_config, guest)},
	{"host", BODY_TEXT, BODY_REQUIRED, AT(struct net_pair_config, host)},
};
static SCHEMA(schema_net_pair, "NetworkAddressPair", net_pair_fields);

static const struct body_field net_rewrite_fields[] = {
	{"addresses", BODY_LIST, 0, AT(struct net_rewrite_config, addresses),
	 .max = NETREWRITE_PAIRS_MAX, .item = sizeof(struct net_pair_config),
	 .body = &schema_net_pair},
	{"host_mac", BODY_TEXT, 0, AT(struct net_rewrite_config, host_mac)},
};
SCHEMA(schema_net_rewrite, "NetworkRewrite", net_rewrite_fields);

static const struct body_field net_fields[] = {
	{"iface_id", BODY_ID, BODY_REQUIRED, AT(struct net_interface, id)},
	{"host_dev_name", BODY_STRING, 0, AT(struct net_interface, host_dev_name), .max = 15},
	{"passt_socket", BODY_STRING, 0, AT(struct net_interface, passt_socket), .max = 107},
	{"tap_fd", BODY_UINT, BODY_HIDDEN, AT(struct net_interface, tap_fd), .max = INT32_MAX},
	{"guest_mac", BODY_TEXT, 0, AT(struct net_interface, guest_mac)},
	{"mtu", BODY_UINT, 0, AT(struct net_interface, mtu), .min = NET_MTU_MIN,
	 .max = NET_MTU_MAX},
	{"queue_pairs", BODY_UINT, 0, AT(struct net_interface, queue_pairs), .min = 1,
	 .max = NETBACKEND_PAIRS_MAX},
	{"rx_rate_limiter", BODY_OBJECT, 0, AT(struct net_interface, limits.rx),
	 .body = &schema_limiter},
	{"tx_rate_limiter", BODY_OBJECT, 0, AT(struct net_interface, limits.tx),
	 .body = &schema_limiter},
	{"policy", BODY_OBJECT, BODY_OWNED, AT(struct net_interface, policy),
	 .body = &schema_net_policy, .item = sizeof(struct net_policy_config)},
	{"rewrite", BODY_OBJECT, BODY_OWNED, AT(struct net_interface, rewrite),
	 .body = &schema_net_rewrite, .item = sizeof(struct net_rewrite_config)},
	{"placeholder", BODY_BOOL, 0, AT(struct net_interface, placeholder)},
};
SCHEMA(schema_net, "NetworkInterface", net_fields);

static const struct body_field net_update_fields[] = {
	{"iface_id", BODY_ID, BODY_REQUIRED, AT(struct net_update, id)},
	{"rx_rate_limiter", BODY_OBJECT, 0, AT(struct net_update, limits.rx),
	 .body = &schema_limiter},
	{"tx_rate_limiter", BODY_OBJECT, 0, AT(struct net_update, limits.tx),
	 .body = &schema_limiter},
	{"policy", BODY_OBJECT, BODY_OWNED, AT(struct net_update, policy),
	 .body = &schema_net_policy, .item = sizeof(struct net_policy_config)},
	{"rewrite", BODY_OBJECT, BODY_OWNED, AT(struct net_update, rewrite),
	 .body = &schema_net_rewrite, .item = sizeof(struct net_rewrite_config)},
	{"host_dev_name", BODY_STRING, 0, AT(struct net_update, host_dev_name), .max = 15},
	{"tap_fd", BODY_UINT, BODY_HIDDEN, AT(struct net_update, tap_fd), .max = INT32_MAX},
};
SCHEMA(schema_net_update, "PartialNetworkInterface", net_update_fields);

static const struct body_field entropy_fields[] = {
	{"rate_limiter", BODY_OBJECT, 0, AT(struct entropy_request, limiter),
	 .body = &schema_limiter},
};
SCHEMA(schema_entropy, "EntropyDevice", entropy_fields);

static const struct body_field serial_fields[] = {
	{"serial_out_path", BODY_STRING, 0, AT(struct serial_config, serial_out_path)},
	{.name = "rate_limiter", .type = BODY_UNSUPPORTED},
};
SCHEMA(schema_serial, "SerialDevice", serial_fields);

static const struct body_name level_names[] = {
	{"Off", LOG_OFF},   {"Error", LOG_ERROR}, {"Warn", LOG_WARN},	{"Warning", LOG_WARN},
	{"Info", LOG_INFO}, {"Debug", LOG_DEBUG}, {"Trace", LOG_TRACE}, {0},
};

static const struct body_field balloon_fields[] = {
	{"amount_mib", BODY_UINT, BODY_REQUIRED, AT(struct balloon_config, amount_mib),
	 .max = BALLOON_MIB_MAX},
	{"deflate_on_oom", BODY_BOOL, BODY_REQUIRED, AT(struct balloon_config, deflate_on_oom)},
	{"stats_polling_interval_s", BODY_UINT, 0,
	 AT(struct balloon_config, stats_polling_interval_s), .max = UINT16_MAX},
	{"free_page_hinting", BODY_BOOL, 0, AT(struct balloon_config, free_page_hinting)},
	{"free_page_reporting", BODY_BOOL, 0, AT(struct balloon_config, free_page_reporting)},
};
SCHEMA(schema_balloon, "Balloon", balloon_fields);

static const struct body_field balloon_update_fields[] = {
	{"amount_mib", BODY_UINT, BODY_REQUIRED, AT(struct balloon_update, amount_mib),
	 .max = BALLOON_MIB_MAX},
};
SCHEMA(schema_balloon_update, "BalloonUpdate", balloon_update_fields);

static const struct body_field balloon_stats_update_fields[] = {
	{"stats_polling_interval_s", BODY_UINT, BODY_REQUIRED,
	 AT(struct balloon_stats_update, stats_polling_interval_s), .max = UINT16_MAX},
};
SCHEMA(schema_balloon_stats_update, "BalloonStatsUpdate", balloon_stats_update_fields);

static const struct body_field balloon_start_fields[] = {
	{"acknowledge_on_stop", BODY_BOOL, 0, AT(struct balloon_start, acknowledge_on_stop)},
};
const struct body schema_balloon_start = {
	.name = "BalloonStartCmd",
	.field = balloon_start_fields,
	.count = ARRAY_SIZE(balloon_start_fields),
	.may_miss = true,
};

static const struct body_field balloon_hinting_fields[] = {
	{"host_cmd", BODY_UINT, BODY_REQUIRED, AT(struct balloon_hinting, host_cmd),
	 .max = UINT32_MAX},
	{"guest_cmd", BODY_UINT, 0, AT(struct balloon_hinting, guest_cmd), .max = UINT32_MAX},
};
SCHEMA(schema_balloon_hinting, "BalloonHintingStatus", balloon_hinting_fields);

#define STAT(name, tag)                                                                   \
	{                                                                                 \
		name, BODY_UINT, 0, AT(struct balloon_stats, stat[tag]), .max = INT64_MAX \
	}

static const struct body_field balloon_stats_fields[] = {
	{"target_pages", BODY_UINT, BODY_REQUIRED, AT(struct balloon_stats, target_pages),
	 .max = UINT32_MAX},
	{"actual_pages", BODY_UINT, BODY_REQUIRED, AT(struct balloon_stats, actual_pages),
	 .max = UINT32_MAX},
	{"target_mib", BODY_UINT, BODY_REQUIRED, AT(struct balloon_stats, target_mib),
	 .max = UINT32_MAX},
	{"actual_mib", BODY_UINT, BODY_REQUIRED, AT(struct balloon_stats, actual_mib),
	 .max = UINT32_MAX},
	STAT("swap_in", BALLOON_SWAP_IN),
	STAT("swap_out", BALLOON_SWAP_OUT),
	STAT("major_faults", BALLOON_MAJOR_FAULTS),
	STAT("minor_faults", BALLOON_MINOR_FAULTS),
	STAT("free_memory", BALLOON_FREE_MEMORY),
	STAT("total_memory", BALLOON_TOTAL_MEMORY),
	STAT("available_memory", BALLOON_AVAILABLE_MEMORY),
	STAT("disk_caches", BALLOON_DISK_CACHES),
	STAT("hugetlb_allocations", BALLOON_HUGETLB_ALLOCATIONS),
	STAT("hugetlb_failures", BALLOON_HUGETLB_FAILURES),
	STAT("oom_kill", BALLOON_OOM_KILL),
	STAT("alloc_stall", BALLOON_ALLOC_STALL),
	STAT("async_scan", BALLOON_ASYNC_SCAN),
	STAT("direct_scan", BALLOON_DIRECT_SCAN),
	STAT("async_reclaim", BALLOON_ASYNC_RECLAIM),
	STAT("direct_reclaim", BALLOON_DIRECT_RECLAIM),
};
SCHEMA(schema_balloon_stats, "BalloonStats", balloon_stats_fields);

/* The document is anything, and mmds_put() judges it. */
const struct body schema_mmds = {.name = "MmdsContentsObject"};

static const struct body_name mmds_version_names[] = {{"V1", false}, {"V2", true}, {0}};

static const struct body_field mmds_config_fields[] = {
	{"version", BODY_ENUM, 0, AT(struct mmds_config, v2), .names = mmds_version_names},
	{"network_interfaces", BODY_LIST, BODY_REQUIRED, AT(struct mmds_config, interfaces),
	 .max = NETCONFIG_MAX, .item = NETCONFIG_ID_MAX + 1},
	{"ipv4_address", BODY_TEXT, 0, AT(struct mmds_config, ipv4_address)},
	{"imds_compat", BODY_BOOL, 0, AT(struct mmds_config, imds_compat)},
};
SCHEMA(schema_mmds_config, "MmdsConfig", mmds_config_fields);

static const struct body_field vsock_fields[] = {
	{"guest_cid", BODY_UINT, BODY_REQUIRED, AT(struct vsock_config, guest_cid),
	 .min = VSOCK_CID_MIN, .max = VSOCK_CID_MAX},
	{"uds_path", BODY_STRING, BODY_REQUIRED, AT(struct vsock_config, uds_path)},
	{"vsock_id", BODY_STRING, BODY_HIDDEN, AT(struct vsock_config, vsock_id)},
};
SCHEMA(schema_vsock, "Vsock", vsock_fields);

static const struct body_field logger_fields[] = {
	{"log_path", BODY_STRING, 0, AT(struct logger_config, log_path)},
	{"level", BODY_ENUM, BODY_ANY_CASE, AT(struct logger_config, level), .names = level_names},
	{"show_level", BODY_BOOL, 0, AT(struct logger_config, show_level)},
	{"show_log_origin", BODY_BOOL, 0, AT(struct logger_config, show_log_origin)},
	{"module", BODY_STRING, 0, AT(struct logger_config, module), .max = 63},
};
SCHEMA(schema_logger, "Logger", logger_fields);

static const struct body_field metrics_fields[] = {
	{"metrics_path", BODY_STRING, BODY_REQUIRED, AT(struct metrics_config, metrics_path)},
	{"emit_id", BODY_BOOL, 0, AT(struct metrics_config, emit_id)},
	{"properties", BODY_MAP, 0, AT(struct metrics_config, properties), .max = 32},
};
SCHEMA(schema_metrics, "Metrics", metrics_fields);

static const struct body_name snapshot_type_names[] = {{"Full", false}, {"Diff", true}, {0}};

static const struct body_field fork_fields[] = {
	{.name = "children", .type = BODY_ARRAY, .flags = BODY_REQUIRED},
};
SCHEMA(schema_fork, "ForkParams", fork_fields);

static const struct body_field snapshot_create_fields[] = {
	{"snapshot_path", BODY_STRING, BODY_REQUIRED,
	 AT(struct snapshot_create_request, snapshot_path)},
	{"mem_file_path", BODY_STRING, BODY_REQUIRED,
	 AT(struct snapshot_create_request, mem_file_path)},
	{"snapshot_type", BODY_ENUM, 0, AT(struct snapshot_create_request, diff),
	 .names = snapshot_type_names},
	{"live", BODY_BOOL, 0, AT(struct snapshot_create_request, live)},
};
SCHEMA(schema_snapshot_create, "SnapshotCreateParams", snapshot_create_fields);

static const struct body_name backend_names[] = {
	{"File", SNAPSHOT_BACKEND_FILE},
	{"Uffd", SNAPSHOT_BACKEND_UFFD},
	{"Pager", SNAPSHOT_BACKEND_PAGER},
	{"Passed", SNAPSHOT_BACKEND_PASSED},
	{0},
};

static const struct body_field memory_backend_fields[] = {
	{"backend_type", BODY_ENUM, BODY_REQUIRED, AT(struct memory_backend, type),
	 .names = backend_names},
	{"backend_path", BODY_STRING, BODY_REQUIRED, AT(struct memory_backend, path)},
};
SCHEMA(schema_memory_backend, "MemoryBackend", memory_backend_fields);

static const struct body_field network_override_fields[] = {
	{"iface_id", BODY_ID, BODY_REQUIRED, AT(struct network_override, iface_id)},
	{"host_dev_name", BODY_TEXT, 0, AT(struct network_override, host_dev_name)},
	{"passt_socket", BODY_TEXT, 0, AT(struct network_override, passt_socket)},
	{"tap_fd", BODY_UINT, 0, AT(struct network_override, tap_fd), .min = 1, .max = INT32_MAX},
	{"rewrite", BODY_OBJECT, BODY_OWNED, AT(struct network_override, rewrite),
	 .body = &schema_net_rewrite, .item = sizeof(struct net_rewrite_config)},
};
SCHEMA(schema_network_override, "NetworkOverride", network_override_fields);

static const struct body_field drive_override_fields[] = {
	{"drive_id", BODY_ID, BODY_REQUIRED, AT(struct drive_override, drive_id)},
	{"path_on_host", BODY_TEXT, 0, AT(struct drive_override, path_on_host)},
	{"overlay", BODY_TEXT, 0, AT(struct drive_override, overlay)},
};
SCHEMA(schema_drive_override, "DriveOverride", drive_override_fields);

static const struct body_field pmem_override_fields[] = {
	{"id", BODY_ID, BODY_REQUIRED, AT(struct pmem_override, id)},
	{"path_on_host", BODY_TEXT, BODY_REQUIRED, AT(struct pmem_override, path_on_host)},
};
SCHEMA(schema_pmem_override, "PmemOverride", pmem_override_fields);

static const struct body_field vsock_override_fields[] = {
	{"uds_path", BODY_STRING, BODY_REQUIRED, AT(struct vsock_override, uds_path)},
};
SCHEMA(schema_vsock_override, "VsockOverride", vsock_override_fields);

static const struct body_field serial_override_fields[] = {
	{"serial_out_path", BODY_STRING, BODY_REQUIRED,
	 AT(struct serial_override, serial_out_path)},
};
SCHEMA(schema_serial_override, "SerialOverride", serial_override_fields);

static const struct body_field snapshot_prime_fields[] = {
	{"snapshot_path", BODY_STRING, BODY_REQUIRED,
	 AT(struct snapshot_prime_request, snapshot_path)},
	{"mem_backend", BODY_OBJECT, BODY_REQUIRED, AT(struct snapshot_prime_request, backend),
	 .body = &schema_memory_backend},
};
SCHEMA(schema_snapshot_prime, "SnapshotPrimeParams", snapshot_prime_fields);

static const struct body_name snapshot_pages_names[] = {
	{"Snapshot", SNAPSHOT_PAGES_AS_SAVED},
	{"None", SNAPSHOT_PAGES_NONE},
	{"Transparent", SNAPSHOT_PAGES_TRANSPARENT},
	{"2M", SNAPSHOT_PAGES_2M},
	{0},
};

/* What devices are behind on this host: a load's, and an arrival's. */
#define DEVICE_OVERRIDES                                                                   \
	{"network_overrides",                                                              \
	 BODY_LIST,                                                                        \
	 0,                                                                                \
	 AT(struct snapshot_load_request, networks),                                       \
	 .max = 32,                                                                        \
	 .body = &schema_network_override,                                                 \
	 .item = sizeof(struct network_override)},                                         \
		{"drive_overrides",                                                        \
		 BODY_LIST,                                                                \
		 0,                                                                        \
		 AT(struct snapshot_load_request, drives),                                 \
		 .max = CONFIG_DRIVES_MAX,                                                 \
		 .body = &schema_drive_override,                                           \
		 .item = sizeof(struct drive_override)},                                   \
		{"pmem_overrides",                                                         \
		 BODY_LIST,                                                                \
		 0,                                                                        \
		 AT(struct snapshot_load_request, pmems),                                  \
		 .max = PMEMCONFIG_MAX,                                                    \
		 .body = &schema_pmem_override,                                            \
		 .item = sizeof(struct pmem_override)},                                    \
	{                                                                                  \
		"vsock_override", BODY_OBJECT, 0, AT(struct snapshot_load_request, vsock), \
			.body = &schema_vsock_override                                     \
	}

static const struct body_field snapshot_load_fields[] = {
	{"snapshot_path", BODY_STRING, BODY_REQUIRED,
	 AT(struct snapshot_load_request, snapshot_path)},
	{"mem_backend", BODY_OBJECT, 0, AT(struct snapshot_load_request, backend),
	 .body = &schema_memory_backend},
	{"mem_file_path", BODY_STRING, 0, AT(struct snapshot_load_request, mem_file_path)},
	{"track_dirty_pages", BODY_BOOL, 0, AT(struct snapshot_load_request, track_dirty_pages)},
	{"enable_diff_snapshots", BODY_BOOL, 0,
	 AT(struct snapshot_load_request, enable_diff_snapshots)},
	{"working_set", BODY_STRING, 0, AT(struct snapshot_load_request, working_set)},
	{"working_set_ms", BODY_UINT, 0, AT(struct snapshot_load_request, working_set_ms),
	 .min = 10, .max = 60000},
	{"resume_vm", BODY_BOOL, 0, AT(struct snapshot_load_request, resume_vm)},
	{"clock_realtime", BODY_BOOL, 0, AT(struct snapshot_load_request, clock_realtime)},
	{"huge_pages", BODY_ENUM, 0, AT(struct snapshot_load_request, huge_pages),
	 .names = snapshot_pages_names},
	DEVICE_OVERRIDES,
	{"serial_override", BODY_OBJECT, 0, AT(struct snapshot_load_request, serial),
	 .body = &schema_serial_override},
	{"id", BODY_TEXT, 0, AT(struct snapshot_load_request, id)},
	{"metadata", BODY_JSON, 0, AT(struct snapshot_load_request, metadata)},
};
SCHEMA(schema_snapshot_load, "SnapshotLoadParams", snapshot_load_fields);

static const struct body_field migrate_fields[] = {
	{"socket_path", BODY_STRING, BODY_REQUIRED, AT(struct migrate_request, socket_path)},
	{"downtime_limit_ms", BODY_UINT, 0, AT(struct migrate_request, downtime_limit_ms), .min = 1,
	 .max = 60000},
	{"max_rounds", BODY_UINT, 0, AT(struct migrate_request, max_rounds), .min = 1, .max = 1000},
	{"max_bandwidth", BODY_UINT, 0, AT(struct migrate_request, max_bandwidth),
	 .max = INT64_MAX},
	{"post_copy", BODY_BOOL, 0, AT(struct migrate_request, post_copy)},
};
SCHEMA(schema_migrate, "MigrateParams", migrate_fields);

static const struct body_field receive_fields[] = {
	{"socket_path", BODY_STRING, BODY_REQUIRED,
	 AT(struct snapshot_load_request, snapshot_path)},
	{"clock_realtime", BODY_BOOL, 0, AT(struct snapshot_load_request, clock_realtime)},
	DEVICE_OVERRIDES,
};
SCHEMA(schema_receive, "ReceiveParams", receive_fields);

static const struct body_name migrate_status_names[] = {
	{"none", MIGRATE_NONE},
	{"setup", MIGRATE_SETUP},
	{"active", MIGRATE_ACTIVE},
	{"device", MIGRATE_DEVICE},
	{"completed", MIGRATE_COMPLETED},
	{"failed", MIGRATE_FAILED},
	{"cancelled", MIGRATE_CANCELLED},
	{"handover-lost", MIGRATE_LOST},
	{"postcopy-active", MIGRATE_POSTCOPY},
	{0},
};

static const struct body_field migrate_status_fields[] = {
	{"status", BODY_ENUM, BODY_REQUIRED, AT(struct migrate_report, info.status),
	 .names = migrate_status_names},
#define COUNT(name, member)                                                                  \
	{                                                                                    \
		name, BODY_UINT, 0, AT(struct migrate_report, info.member), .max = INT64_MAX \
	}
	COUNT("transferred", transferred),
	COUNT("total", total),
	COUNT("remaining", remaining),
	COUNT("normal", normal),
	COUNT("duplicate", duplicate),
	COUNT("dirty_sync_count", dirty_sync_count),
	COUNT("downtime_us", downtime_us),
	COUNT("total_us", total_us),
#undef COUNT
	{"error_desc", BODY_STRING, 0, AT(struct migrate_report, reason)},
};
SCHEMA(schema_migrate_status, "MigrateStatus", migrate_status_fields);

static const struct body_field instance_info_fields[] = {
	{"app_name", BODY_STRING, BODY_REQUIRED, AT(struct instance_info, app_name)},
	{"id", BODY_STRING, BODY_REQUIRED, AT(struct instance_info, id)},
	{"state", BODY_STRING, BODY_REQUIRED, AT(struct instance_info, state)},
	{"vmm_version", BODY_STRING, BODY_REQUIRED, AT(struct instance_info, vmm_version)},
};
SCHEMA(schema_instance_info, "InstanceInfo", instance_info_fields);

static const struct body_field version_fields[] = {
	{"firecracker_version", BODY_STRING, BODY_REQUIRED,
	 AT(struct version_info, firecracker_version)},
};
SCHEMA(schema_version, "FirecrackerVersion", version_fields);
