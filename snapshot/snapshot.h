/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots of a microVM: taken of a paused one, loaded into a new process. Main thread.
 */
#pragma once

#include "snapshot/state.h"
#include "vmm/vm.h"

/* What one process remembers between its snapshots. Zeroed: nothing yet. */
struct snapshot_history {
	struct snapshot_id last;    /* taken or loaded; none: the next one is complete */
	struct snapshot_id origin;  /* that the VM was loaded from; none: it was booted */
	int memory_fd;		    /* memory file of `last`, or -1 */
	bool lazy;		    /* memory comes by userfaultfd */
	int uffd, handler;	    /* of that; -1: none. Kept open as long as the VM lives */
	struct pager *pager;	    /* that brings it; or NULL */
	struct pageset reported;    /* without tracking: pages that diffs since the load had */
	struct workset *workset;    /* snapshot/workset.h; or NULL */
	struct snapshot_live *live; /* one that is being written while the guest runs; or NULL */
	struct fork *fork;	    /* snapshot/fork.h; NULL: memory was never shared */
	struct load *warm;	    /* snapshot_warm(); or NULL */
	struct sending
		*sending; /* snapshot/migrate.h: it is on its way to another process; or NULL */
	struct arrival *arrival;       /* it comes, or is waited for; or NULL */
	struct migrate_info *migrated; /* how the last one ended; or NULL. Owned */
};

void snapshot_history_init(struct snapshot_history *h);
void snapshot_history_finish(struct snapshot_history *h);
/* In a shell (vmm/shell.h): memory that the load will need is there before it, and touched. */
int snapshot_warm(struct snapshot_history *h, unsigned vcpus, struct err *e);
/* Takes that back. */
void snapshot_cool(struct snapshot_history *h);

struct snapshot_report;

struct snapshot_create_params {
	const char *snapshot_path;
	const char *mem_file_path;
	bool diff;
	const char *config; /* what `configure` of a load will be given; borrowed */
	size_t config_len;
	/* The guest stands still for the state only; memory is written while it runs. */
	bool live;
	/* Of a live one, from the loop: how much there is in the memory file; and the end. */
	void (*progress)(void *arg, const struct snapshot_create_params *p, uint64_t bytes);
	void (*done)(void *arg, const struct snapshot_create_params *p,
		     const struct snapshot_report *report, const struct err *failed);
	void *arg;
};

/* What it took and made. */
struct snapshot_report {
	uint64_t paused_us; /* of a live one; memory_us is what was written before */
	uint64_t state_us, memory_us, commit_us, total_us;
	uint64_t pages; /* written */
	bool diff;	/* false: the memory file is complete, also if a diff was asked for */
};

/*
 * The VM is paused and stays so, whatever happens; what a failed one has looked at will be found by
 * the next one. See snapshot/output.h for how both files appear. A live one returns as soon as it has
 * begun, and the guest runs, or is left paused if it was: see snapshot/live.c. There is one at a time.
 *
 * A diff has the pages that changed since the snapshot before. It is complete, and a full one,
 * when there is none before or memory cannot tell what changed (not tracked, and not loaded from a
 * file). When mem_file_path is the memory file of the snapshot before, the new one takes its
 * place with the old pages in it, and is complete too.
 */
int snapshot_create(struct vm *vm, struct snapshot_history *h,
		    const struct snapshot_create_params *p, struct snapshot_report *report,
		    struct err *e);

enum snapshot_backend {
	SNAPSHOT_BACKEND_FILE,	 /* mapped */
	SNAPSHOT_BACKEND_UFFD,	 /* another process brings it (snapshot/uffd.h) */
	SNAPSHOT_BACKEND_PAGER,	 /* a thread brings it from the file (snapshot/pager.h) */
	SNAPSHOT_BACKEND_STREAM, /* snapshot/receive.c */
	SNAPSHOT_BACKEND_PASSED, /* state and memory are descriptors: snapshot/fork.h */
};
enum snapshot_pages {
	SNAPSHOT_PAGES_AS_SAVED,
	SNAPSHOT_PAGES_NONE,
	SNAPSHOT_PAGES_TRANSPARENT,
	SNAPSHOT_PAGES_2M,
};

struct snapshot_load_params {
	const char *snapshot_path;
	enum snapshot_backend backend;
	const char *backend_path; /* memory file, socket of the page fault handler, or a name */
	const int *passed;	  /* of SNAPSHOT_BACKEND_PASSED, `passed_count` of them; borrowed */
	unsigned passed_count;
	bool track_dirty_pages;
	const char *working_set; /* snapshot/workset.h; NULL: none. Not with the backend Uffd */
	unsigned working_set_ms; /* of running that are recorded */
	bool clock_realtime;
	bool resume; /* let it run as soon as it can; the caller has to tell of it */
	enum snapshot_pages huge_pages;
	/*
	 * Looks at the text that snapshot_create() was given, and at what is to be different in this
	 * microVM. What it refuses has changed nothing.
	 */
	int (*judge)(void *arg, const char *text, size_t len, struct err *e);
	/* Fills vm->config from what was judged. */
	int (*configure)(void *arg, struct err *e);
	void *arg;
};

/*
 * Builds the machine of a snapshot in a VM that was not started or configured, or puts it into vm->shell;
 * it is paused then unless it is to be resumed, and filters are in force. On failure the configuration may be filled in part:
 * the process is of no use any more, unless vm->shell is still there.
 */
int snapshot_load(struct vm *vm, struct snapshot_history *h, const struct snapshot_load_params *p,
		  struct err *e);

/*
 * Puts into vm->shell, which has to be there, what does not depend on who the microVM will be:
 * the state file is read and vetted, memory mapped, and the vCPUs have all but what time
 * changes. Of `p` snapshot_path, backend_path (File) and judge() are used. A load of the same
 * two files then does what is left, and of others is refused. On failure as above.
 */
int snapshot_prime(struct vm *vm, struct snapshot_history *h, const struct snapshot_load_params *p,
		   struct err *e);
