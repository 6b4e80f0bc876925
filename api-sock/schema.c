/* SPDX-License-Identifier: Apache-2.0 */
#include "api-sock/schema.h"

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

static const struct body_name cache_type_names[] = {
	{"Unsafe", CACHE_UNSAFE},
	{"Writeback", CACHE_WRITEBACK},
	{0},
};

static const struct body_name io_engine_names[] = {{"Sync", 0}, {"Async", BODY_REFUSED}, {0}};

static const struct body_field drive_fields[] = {
	{"drive_id", BODY_ID, BODY_REQUIRED, AT(struct drive, id)},
	{"path_on_host", BODY_STRING, BODY_REQUIRED, AT(struct drive, path_on_host)},
	{"is_root_device", BODY_BOOL, BODY_REQUIRED, AT(struct drive, is_root_device)},
	{"partuuid", BODY_STRING, 0, AT(struct drive, partuuid), .max = CONFIG_PARTUUID_MAX},
	{"is_read_only", BODY_BOOL, 0, AT(struct drive, is_read_only)},
	{"cache_type", BODY_ENUM, 0, AT(struct drive, cache_type), .names = cache_type_names},
	{"io_engine", BODY_ENUM, 0, .names = io_engine_names},
	{.name = "rate_limiter", .type = BODY_UNSUPPORTED},
	{.name = "socket", .type = BODY_UNSUPPORTED},
};
SCHEMA(schema_drive, "Drive", drive_fields);

static const struct body_field entropy_fields[] = {
	{.name = "rate_limiter", .type = BODY_UNSUPPORTED}};
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
	{.name = "properties", .type = BODY_UNSUPPORTED},
};
SCHEMA(schema_metrics, "Metrics", metrics_fields);

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
