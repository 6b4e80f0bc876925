/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The field tables of every object that the API takes or gives (api-sock/openapi.yaml describes
 * the same; a test compares the two).
 */
#pragma once

#include "api-sock/body.h"
#include "snapshot/migrate.h"
#include "vmm/config.h"
#include "vmm/drive.h"

/* PUT /actions */
enum action_type { ACTION_INSTANCE_START, ACTION_SEND_CTRL_ALT_DEL, ACTION_FLUSH_METRICS };

struct action_request {
	enum action_type action_type;
};

/* PUT /entropy */
struct entropy_request {
	struct limiter_config limiter;
};

/* PATCH /vm */
struct vm_request {
	bool paused;
};

/* PUT /snapshot/create */
struct snapshot_create_request {
	char *snapshot_path, *mem_file_path;
	bool diff, live;
};

/* PUT /snapshot/load */
struct memory_backend {
	enum snapshot_backend type;
	char *path;
};
struct network_override { /* one of the first three, the last, or both */
	char iface_id[CONFIG_ID_MAX + 1];
	char host_dev_name[64];
	char passt_socket[108];		    /* (+) */
	uint64_t tap_fd;		    /* (+) 0: none */
	struct net_rewrite_config *rewrite; /* (+) owned; NULL: as it was */
};
struct pmem_override { /* (+) */
	char id[PMEMCONFIG_ID_MAX + 1];
	char path_on_host[4096];
};
struct drive_override { /* (+) at least one of the two */
	char drive_id[CONFIG_ID_MAX + 1];
	char path_on_host[4096];
	char overlay[4096];
};
struct vsock_override {
	char *uds_path;
};
struct serial_override { /* (+) */
	char *serial_out_path;
};
/* PUT /snapshot/prime */
struct snapshot_prime_request {
	char *snapshot_path;
	struct memory_backend backend;
};
struct snapshot_load_request {
	char *snapshot_path;
	struct memory_backend backend;
	char *mem_file_path; /* deprecated, instead of `backend` */
	bool track_dirty_pages, resume_vm, clock_realtime;
	char *working_set; /* (+) */
	unsigned working_set_ms;
	bool enable_diff_snapshots; /* deprecated, as track_dirty_pages */
	enum snapshot_pages huge_pages;
	struct vector networks; /* struct network_override */
	struct vector drives;	/* struct drive_override */
	struct vector pmems;	/* struct pmem_override */
	struct vsock_override vsock;
	struct serial_override serial;
	char id[CONFIG_ID_MAX + 1]; /* (+) "": stays */
	const json_t *metadata; /* (+) for the metadata service; borrowed from the body; or NULL */
};

/* (+) PUT /vm/migrate; PUT /vm/receive is a struct snapshot_load_request, whose snapshot_path is socket_path */
struct migrate_request {
	char *socket_path;
	unsigned downtime_limit_ms, max_rounds;
	uint64_t max_bandwidth;
	bool post_copy;
};
/* (+) GET /vm/migrate */
struct migrate_report {
	struct migrate_info info;
	char *reason; /* borrowed */
};

/* The balloon's requests and answers. */
struct balloon_update {
	unsigned amount_mib;
};

struct balloon_stats_update {
	unsigned stats_polling_interval_s;
};

struct balloon_start {
	bool acknowledge_on_stop;
};

struct balloon_hinting {
	unsigned host_cmd, guest_cmd;
};

struct balloon_stats {
	uint64_t target_pages, actual_pages, target_mib, actual_mib;
	uint64_t stat[BALLOON_STATS];
};

/* PATCH /hotplug/memory */
struct hotplug_update {
	uint64_t requested_size_mib;
};

/* GET / and GET /version: printed only, so the strings are borrowed. */
struct instance_info {
	const char *app_name, *id, *state, *vmm_version;
};

struct version_info {
	const char *firecracker_version;
};

extern const struct body schema_action;		      /* struct action_request */
extern const struct body schema_balloon;	      /* struct balloon_config */
extern const struct body schema_balloon_hinting;      /* struct balloon_hinting */
extern const struct body schema_balloon_start;	      /* struct balloon_start */
extern const struct body schema_balloon_stats;	      /* struct balloon_stats; the last 16 by tag */
extern const struct body schema_balloon_stats_update; /* struct balloon_stats_update */
extern const struct body schema_balloon_update;	      /* struct balloon_update */
extern const struct body schema_boot_source;	      /* struct boot_source */
extern const struct body schema_bucket;		      /* struct limiter_bucket_config */
extern const struct body schema_cpu_config;	      /* api-sock/cpuconfig.h; nothing is stored */
extern const struct body schema_drive;		      /* struct drive */
extern const struct body schema_drive_update;	      /* struct drive_update */
extern const struct body schema_entropy;	      /* struct entropy_request */
extern const struct body schema_fork;		      /* api-sock/fork.c; nothing is stored */
extern const struct body schema_instance_info;	      /* struct instance_info */
extern const struct body schema_limiter;	      /* struct limiter_config */
extern const struct body schema_logger;		      /* struct logger_config */
extern const struct body schema_machine;	      /* struct machine_config */
extern const struct body schema_metrics;	      /* struct metrics_config */
extern const struct body schema_mmds;		      /* anything */
extern const struct body schema_mmds_config;	      /* struct mmds_config */
extern const struct body schema_net;		      /* struct net_interface */
extern const struct body schema_net_policy;	      /* struct net_policy_config */
extern const struct body schema_net_rewrite;	      /* struct net_rewrite_config */
extern const struct body schema_net_update;	      /* struct net_update */
extern const struct body schema_drive_override;
extern const struct body schema_pmem_override;
extern const struct body schema_memory_backend;
extern const struct body schema_network_override;
extern const struct body schema_snapshot_create; /* struct snapshot_create_request */
extern const struct body schema_snapshot_load;	 /* struct snapshot_load_request */
extern const struct body schema_snapshot_prime;	 /* struct snapshot_prime_request */
extern const struct body schema_serial_override;
extern const struct body schema_vsock_override;
extern const struct body schema_migrate;	/* struct migrate_request */
extern const struct body schema_migrate_status; /* struct migrate_report */
extern const struct body schema_receive;	/* struct snapshot_load_request */
extern const struct body schema_hotplug;	/* struct hotplug_config */
extern const struct body schema_hotplug_status; /* struct hotplug_status */
extern const struct body schema_hotplug_update; /* struct hotplug_update */
extern const struct body schema_pmem;		/* struct pmem_config */
extern const struct body schema_pmem_update;	/* struct pmem_update */
extern const struct body schema_serial;		/* struct serial_config */
extern const struct body schema_version;	/* struct version_info */
extern const struct body schema_vm;		/* struct vm_request */
extern const struct body schema_vsock;		/* struct vsock_config */
