/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the user asked for: the plain data behind the API's bodies and the config file. Field names
 * are Firecracker's; what spore adds is marked (+).
 *
 * A `config_set_*` function judges one piece, opens the files that it names and only then puts it
 * in place: it takes over everything in `piece` and empties it, or fails and leaves the
 * configuration as it was, filling `e` with the field and the reason. Each piece can be freed by
 * its own `*_finish`, also half-filled or zeroed+init. Main thread; before the start only.
 */
#pragma once

#include "virtio/balloon.h"
#include "virtio/limiter.h"
#include "virtio/vsock.h"
#include "vmm/base/gmem.h"
#include "vmm/base/log.h"
#include "vmm/boot.h"
#include "vmm/hotplug.h"
#include "vmm/layout.h"
#include "vmm/mmds.h"
#include "vmm/netconfig.h"
#include "vmm/pmemconfig.h"

#define CONFIG_DRIVES_MAX   16
#define CONFIG_ID_MAX	    64
#define CONFIG_PARTUUID_MAX 64
#define CONFIG_MEM_MIB_MAX  (LAYOUT_RAM_MAX >> 20)

enum huge_pages { HUGE_PAGES_NONE, HUGE_PAGES_TRANSPARENT, HUGE_PAGES_2M };

struct machine_config {
	unsigned vcpu_count;   /* 1..LAYOUT_VCPU_MAX, default 1 */
	uint64_t mem_size_mib; /* 1..CONFIG_MEM_MIB_MAX, default 128; even with huge pages */
	bool smt;	       /* two threads a core: vcpu_count is 1 or even */
	bool track_dirty_pages;
	enum huge_pages huge_pages;
	bool memfd; /* (+) "memory_backend": "Anonymous" | "Memfd" */
	bool pit;   /* (+) an emulated 8254; guests with kvm-clock do not need it */
};

struct boot_source {
	char *kernel_image_path;  /* NULL: no boot source set */
	char *initrd_path;	  /* or NULL */
	char *boot_args;	  /* or NULL: BOOT_ARGS_DEFAULT */
	int kernel_fd, initrd_fd; /* -1 when absent */
	struct boot_plan plan;	  /* of kernel_fd, judged when it was set; judged again at start */
};

#define BOOT_ARGS_DEFAULT                                                                  \
	"reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd " \
	"swiotlb=noforce pci=off"

enum cache_type { CACHE_UNSAFE, CACHE_WRITEBACK };
enum io_engine { IO_ENGINE_SYNC, IO_ENGINE_ASYNC };

struct drive {
	char id[CONFIG_ID_MAX + 1];
	char *path_on_host; /* NULL: an empty placeholder */
	char *partuuid;	    /* or NULL */
	bool is_root_device;
	bool is_read_only;
	enum cache_type cache_type;
	enum io_engine io_engine;
	char *overlay;	  /* (+) or NULL: what is written goes there, path_on_host is only read */
	bool placeholder; /* (+) its file may come, and go, while the guest runs */
	struct limiter_config limiter;
	int fd, overlay_fd; /* -1 until opened */
};

struct serial_config {
	char *serial_out_path; /* NULL: stdout */
	int fd;		       /* -1: stdout */
};

/* In a piece: a NULL path or module leaves what is in force; the other members are set. */
struct logger_config {
	bool configured; /* false: everything is as at the start of the process */
	char *log_path;	 /* NULL: stdout */
	char *module;	 /* only files whose path starts with it; NULL: all */
	enum log_level level;
	bool show_level;
	bool show_log_origin;
};

struct metrics_config {
	char *metrics_path; /* NULL: metrics are not written */
	bool emit_id;	    /* the instance's id in every line */
	char *properties;   /* a JSON object of texts that is in every line; NULL: none */
	int fd;		    /* -1 until opened; O_APPEND, O_NONBLOCK */
};

struct vsock_config {
	char *uds_path; /* NULL: no vsock device */
	char *vsock_id; /* of Firecracker's past; means nothing */
	unsigned guest_cid;
	struct vsock_listener listener; /* at uds_path, which goes away with it */
};

struct balloon_config {
	bool configured; /* there is one */
	unsigned amount_mib;
	bool deflate_on_oom;
	unsigned stats_polling_interval_s; /* 0: no statistics */
	bool free_page_hinting;
	bool free_page_reporting;
};

struct config {
	struct machine_config machine;
	struct boot_source boot;
	struct drive drive[CONFIG_DRIVES_MAX]; /* the root device first */
	unsigned drive_count;
	struct net_interface net[NETCONFIG_MAX];
	unsigned net_count;
	struct pmem_config pmem[PMEMCONFIG_MAX]; /* the root device first */
	unsigned pmem_count;
	struct mmds_config mmds;
	bool entropy; /* a virtio-rng device */
	struct limiter_config entropy_limit;
	struct balloon_config balloon;
	struct hotplug_config hotplug;
	struct vsock_config vsock;
	struct serial_config serial;
	struct logger_config logger;
	struct metrics_config metrics;
	bool boot_timer; /* --boot-timer */
	bool loading;	 /* a snapshot's: a disk in use elsewhere is only warned of */
	bool arriving;	 /* another process's, which still has them: nothing is locked or made */
	struct cpu_template *cpu; /* vmm/cpu_template.h; malloc'ed; NULL: none */
};

void config_init(struct config *c);
void config_finish(struct config *c);

int config_set_machine(struct config *c, const struct machine_config *piece, struct err *e);
int config_set_boot_source(struct config *c, struct boot_source *piece, struct err *e);
/* Replaces the drive with the same id, else adds one. At most one root device, pmem included. */
int config_set_drive(struct config *c, struct drive *piece, struct err *e);
int config_set_serial(struct config *c, struct serial_config *piece, struct err *e);
int config_set_balloon(struct config *c, const struct balloon_config *piece, struct err *e);
/* Binds uds_path at once; what was bound before is removed. */
int config_set_vsock(struct config *c, struct vsock_config *piece, struct err *e);
/* Also puts it in force (vmm/base/log.h), at any time. */
int config_set_logger(struct config *c, struct logger_config *piece, struct err *e);
/* Once: -EEXIST when metrics have a path already. */
int config_set_metrics(struct config *c, struct metrics_config *piece, struct err *e);

/* The drive with this id, or NULL. */
struct drive *config_find_drive(struct config *c, const char *id);

void machine_config_init(struct machine_config *m);
void boot_source_init(struct boot_source *b);
void boot_source_finish(struct boot_source *b);
void drive_init(struct drive *d);
void drive_finish(struct drive *d);
void serial_config_init(struct serial_config *s);
void serial_config_finish(struct serial_config *s);
void vsock_config_init(struct vsock_config *v);
/* Also removes the socket's path. */
void vsock_config_finish(struct vsock_config *v);
/* With the defaults of a process that was told nothing. */
void logger_config_init(struct logger_config *l);
void logger_config_finish(struct logger_config *l);
void metrics_config_init(struct metrics_config *m);
void metrics_config_finish(struct metrics_config *m);
