/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Working sets: which pages a restored guest needs first.
 *
 * One restore records them: a few times while the guest serves its first requests, the kernel is
 * asked which pages of guest memory this process has mapped (/proc/self/pagemap), and which of them
 * are its own copies, because they were written. What was new each time goes into a small file
 * beside the snapshot, in that order. The next restores read that file, and a thread of theirs
 * has the kernel read the pages while the machine is built, and maps them while the vCPUs start:
 * read pages out of the page cache, written ones as copies, so that the guest meets no page fault.
 *
 * The file is in the container of state files (snapshot/file.h), with one section, and belongs to one
 * snapshot by its id. It is never more than a hint. Main thread, but for the one that prefetches.
 */
#pragma once

#include "snapshot/state.h"
#include "vmm/vm.h"

#define STATE_TAG_WSET	    SNAPFILE_TAG('W', 'S', 'E', 'T')
#define WORKSET_VERSION	    1u
#define WORKSET_EXTENTS_MAX 65536u
#define WORKSET_UNIT	    16u /* pages: what was only read is rounded to this */

struct workset_extent {
	uint64_t first, count; /* pages */
	bool written;
};

struct workset_list {
	struct snapshot_id id;	       /* of the snapshot */
	struct workset_extent *extent; /* owned */
	uint32_t count;
};

void workset_wire(struct workset_list *l, struct wire *w);
/* Vets what was read, for a guest of so many pages. */
int workset_check(const struct workset_list *l, uint64_t pages, struct err *e);
void workset_list_finish(struct workset_list *l);

/* What a load has begun. */
struct workset;

/*
 * Reads `path` and brings in what it says; if there is none, prepares to write one, from what the
 * guest does within `ms` milliseconds of running. Guest memory is mapped over a file, which is not
 * waited for. NULL when there is nothing to do, which is logged; no load fails for it.
 */
struct workset *workset_begin(struct vm *vm, const struct gmem *mem, const struct snapshot_id *id,
			      const char *path, unsigned ms);
/* The machine is whole: from here on pages are brought in, or recorded. Also of NULL. */
void workset_built(struct workset *w);
/* Before guest memory goes away; also of NULL. */
void workset_end(struct workset *w);

/*
 * For prefetching: the extents from `i` on that lie so close together, in ascending order, that one
 * read of [*first, *end) is cheaper than one for each. Returns the first that is not among them.
 */
uint32_t workset_gather(const struct workset_list *l, uint32_t i, uint64_t *first, uint64_t *end);
/* For the recorder: what is new goes to the end. Entries are those of /proc/self/pagemap. */
int workset_note(struct workset_list *l, struct pageset *read, struct pageset *written,
		 const uint64_t *entry, uint64_t first, uint64_t count);
