/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A set of guest pages: one bit for each, numbered as they lie in a memory file. Not for two threads
 * at once.
 */
#pragma once

#include "vmm/base/gmem.h"

/* Pages of a chunk: what is hashed, verified and prefetched as one, 2 MiB. */
#define PAGESET_CHUNK 512u

struct pageset {
	uint64_t *bit; /* owned; NULL: not initialized */
	uint64_t pages;
};

/* Empty. Room is rounded up to whole chunks. */
int pageset_init(struct pageset *s, uint64_t pages, struct err *e);
void pageset_finish(struct pageset *s);
/* Empty again. */
void pageset_clear(struct pageset *s);

static inline bool pageset_has(const struct pageset *s, uint64_t page)
{
	return s->bit[page / 64] >> (page % 64) & 1;
}

static inline void pageset_add(struct pageset *s, uint64_t page)
{
	s->bit[page / 64] |= 1ull << (page % 64);
}

static inline void pageset_remove(struct pageset *s, uint64_t page)
{
	s->bit[page / 64] &= ~(1ull << (page % 64));
}

/* [first, first + count), of which what is beyond the end is left out. */
void pageset_add_range(struct pageset *s, uint64_t first, uint64_t count);
/* Adds all of `other`, which has as many pages. */
void pageset_add_all(struct pageset *s, const struct pageset *other);
uint64_t pageset_count(const struct pageset *s);

/*
 * The first run of pages at or behind *at and below `end`: its beginning goes to *at, its length is
 * returned; 0 when there is none.
 */
uint64_t pageset_run(const struct pageset *s, uint64_t *at, uint64_t end);
