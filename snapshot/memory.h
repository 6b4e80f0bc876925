/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory into a file: raw, the regions one behind the other, so that it can be mapped.
 *
 * Of a full snapshot only pages that hold something are written; the rest are holes, which read as
 * zeroes. Looking for them must not make the host give pages to a guest that never touched
 * them: memory that the kernel says is not there is not read. Of a diff the changed pages are
 * written, also when they are zero now; a hole means "as before", but which pages those are says
 * the table in the state file, since a file system may report more data than was written.
 *
 * The table has, for each 2 MiB chunk of which a page was written, which of its pages those are,
 * and a hash: the sum of the hashes of its pages, each seeded with the page's number.
 *
 * Main thread, vCPUs parked, devices drained: memory does not change meanwhile. What says "any thread"
 * may run beside a guest that changes it.
 */
#pragma once

#include "snapshot/pageset.h"
#include "vmm/base/wire.h"
#include "vmm/kvm.h"

struct memory_chunk {
	uint32_t number;
	uint64_t hash;
	uint64_t pages[PAGESET_CHUNK / 64];
};

struct memory_table {
	struct memory_chunk *chunk; /* owned; ascending */
	uint32_t count;
};
void memory_table_finish(struct memory_table *t);
#define MEMORY_TABLE_VERSION 1u
void memory_table_wire(struct memory_table *t, struct wire *w);
/* Vets what was read, for a guest of so many pages. */
int memory_table_check(const struct memory_table *t, uint64_t pages, struct err *e);
/* How many pages it has. */
uint64_t memory_table_count(const struct memory_table *t);
/* The pages that the table says were written. */
void memory_table_pages(const struct memory_table *t, struct pageset *s);

/*
 * Adds the pages that may hold something but zeroes. `everything`: all of them, for memory whose
 * contents the kernel does not know (userfaultfd).
 */
int memory_present(const struct gmem *m, bool everything, struct pageset *s, struct err *e);

/*
 * Adds the pages that differ from the file that was mapped (GMEM_FILE only). Needs no tracking: reads
 * what is resident and compares it.
 */
int memory_changed(const struct gmem *m, struct pageset *s, struct err *e);

/*
 * Moves what is known about dirty pages, KVM's log and spore's own, into `s`: both begin anew. Needs
 * memory slots with a log and gmem_track(). The used rings of live queues have been marked.
 */
int memory_take_dirty(const struct gmem *m, const struct kvm *k, struct pageset *s, struct err *e);
/* Gives it back, so that the next one finds it: the snapshot has failed. */
void memory_put_back(const struct gmem *m, const struct pageset *s);

/*
 * Writes the pages in `s` to `fd`, which is as long as guest memory. `skip_zeroes`: a page of zeroes
 * is left out, of the set too. Fills the table.
 */
int memory_write(const struct gmem *m, int fd, struct pageset *s, bool skip_zeroes,
		 struct memory_table *t, struct err *e);

/* Only fills the table, for pages that are in the file already; leaves zeroes out of the set. */
int memory_tabulate(const struct gmem *m, struct pageset *s, struct memory_table *t, struct err *e);

/*
 * Only writes the pages in `s`, each as it is at some moment meanwhile. `skip_zeroes`: the file has a
 * hole where a page is zero. Ends early with -ECANCELED when *stop. Any thread.
 */
int memory_copy(const struct gmem *m, int fd, const struct pageset *s, bool skip_zeroes,
		const _Atomic bool *stop, struct err *e);

/* Pages that are taken while the guest is paused, and written when it runs again. All zero: none. */
struct memory_taken {
	struct pageset pages;
	uint8_t *buffer; /* their bytes, in order */
	uint64_t max;
};

/* Room for `max` pages of guest memory that has `pages`, touched so that the pause has no faults. */
int memory_taken_init(struct memory_taken *t, uint64_t pages, uint64_t max, struct err *e);
void memory_taken_finish(struct memory_taken *t);
/* Moves the first pages of `s`, as many as there is room for, to `t`, which is empty. Returns how many. */
uint64_t memory_take(const struct gmem *m, struct pageset *s, struct memory_taken *t);
/* Any thread. */
int memory_write_taken(int fd, const struct memory_taken *t, struct err *e);

/* The same of what is in the file, without guest memory; zeroes are left out if asked. Any thread. */
int memory_tabulate_file(int fd, struct pageset *s, bool skip_zeroes, struct memory_table *t,
			 struct err *e);
/* Adds the pages of the file that are no holes. Any thread. */
int memory_in_file(int fd, struct pageset *s, struct err *e);

/*
 * Copies from `base` to `fd` the pages that are data there and not in `s`: what a diff leaves as it
 * was. Shares blocks where the file system can.
 */
int memory_copy_rest(int base, int fd, const struct pageset *s, struct err *e);

/*
 * A few pages by which a memory file is recognized, cheaply and at every load: the state file has
 * their hashes.
 */
#define MEMORY_PROBES_MAX 8u
struct memory_probe {
	uint64_t page, hash;
};
/*
 * Chooses them: pages in `s`, which have been written, and if `rest` also pages that are not in it
 * and not zero. Returns how many.
 */
unsigned memory_choose_probes(const struct gmem *m, const struct pageset *s, bool rest,
			      struct memory_probe probe[MEMORY_PROBES_MAX]);
/* Whether the file has them. 0, -ESTALE when a page is another one, or -errno. */
int memory_check_probes(int fd, const struct memory_probe *probe, unsigned count);

/* Hash of one page as the table has it. */
uint64_t memory_page_hash(const void *page, uint64_t number);
bool memory_is_zero(const void *page);
