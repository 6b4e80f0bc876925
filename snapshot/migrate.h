/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A running microVM moves into another process: snapshot/send.c here, snapshot/receive.c there. stream.c
 * tells the protocol. Main thread.
 */
#pragma once

#include "snapshot/snapshot.h"

enum migrate_status {
	MIGRATE_NONE,
	MIGRATE_SETUP,	   /* the target gets ready, or is waited for */
	MIGRATE_ACTIVE,	   /* memory is sent, the guest runs */
	MIGRATE_DEVICE,	   /* the guest is stopped */
	MIGRATE_COMPLETED, /* it runs at the target */
	MIGRATE_FAILED,	   /* it is at the source */
	MIGRATE_CANCELLED, /* the same, as somebody wanted */
	MIGRATE_LOST,	   /* nobody knows: see stream.c */
	MIGRATE_POSTCOPY,  /* it runs at the target, and some of its memory is at the source */
};
extern const char *const migrate_status_name[];

/* What QEMU's query-migrate tells, under its names where it has one. */
struct migrate_info {
	enum migrate_status status;
	uint64_t transferred; /* bytes */
	uint64_t total,
		remaining; /* bytes of memory: of the guest; that are to be sent as things are */
	uint64_t normal, duplicate; /* pages that were sent; and that were zero */
	unsigned dirty_sync_count;  /* rounds */
	uint64_t downtime_us, total_us;
	struct err failed;
	bool split; /* LOST behind POSTCOPY: there is nothing to take back */
};

struct migrate_params {
	const char *socket_path;
	unsigned
		downtime_limit_ms; /* longer than that must not be expected, or another round is tried */
	unsigned max_rounds;	   /* then it fails */
	uint64_t max_bandwidth; /* bytes a second; 0: no limit */
	bool post_copy;		/* when rounds do not help: what is left follows the guest */
	const char *config;	/* as in struct snapshot_create_params */
	size_t config_len;
	const char *metadata; /* JSON, or NULL */
	/* From the loop: a round is over, and the end. Afterwards there is h->sending in case of LOST only. */
	void (*progress)(void *arg, const struct migrate_info *info);
	void (*done)(void *arg, const struct migrate_info *info);
	void *arg;
};

/*
 * Begins, and returns; the guest runs or stays paused as it was. On success of all the microVM is stopped for
 * good, and done() has to end the process.
 */
int migrate_begin(struct vm *vm, struct snapshot_history *h, const struct migrate_params *p,
		  struct err *e);
/*
 * Once MIGRATE_LOST: takes it back; the caller knows that the target does not run. Paused. -EBUSY when it has run
 * there.
 */
int migrate_take_back(struct vm *vm, struct snapshot_history *h, struct err *e);

struct receive_params {
	const char *socket_path;		 /* bound, listened to and removed */
	const struct snapshot_load_params *load; /* borrowed until done() or migrate_abort() */
	/* Of what came before memory does: metadata. */
	int (*metadata)(void *arg, const char *text, size_t len, struct err *e);
	/*
	 * From the loop: the end. `usable`: nothing has been configured yet, and it is waited for another one.
	 */
	void (*done)(void *arg, const struct migrate_info *info, bool usable);
	void *arg;
};
/* Listens, and returns. The VM has not been configured, or is a shell. */
int receive_begin(struct vm *vm, struct snapshot_history *h, const struct receive_params *p,
		  struct err *e);

/*
 * Gives up what is on its way, in either direction. The guest is at the source; -EBUSY when it is being, or
 * has been, handed over. What done() would tell is in *info afterwards.
 */
int migrate_abort(struct snapshot_history *h, struct err *e);
/* What is going on, or was last. */
void migrate_get_info(const struct snapshot_history *h, struct migrate_info *info);
/* The guest is stopped for the hand-over: it must neither run nor be changed. */
bool migrate_stopped(const struct snapshot_history *h);
/* The process ends, or its snapshots are forgotten. */
void migrate_forget(struct snapshot_history *h);

/* snapshot/send.c, for receive.c, which is both directions' */
int sending_abort(struct sending *s, struct err *e);
bool sending_stopped(const struct sending *s);
void sending_info(const struct sending *s, struct migrate_info *info);
/* Takes NULL. */
void sending_abandon(struct sending *s);
