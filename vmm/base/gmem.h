/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory: a few ranges of guest physical addresses backed by one host mapping.
 *
 * A guest address is an integer (gpa_t). gmem_at() is the only function in spore that turns one
 * into a pointer; it checks by subtraction, so that no sum can wrap. A range returned by it never
 * crosses two regions.
 *
 * The guest writes to this memory while we read it: copy once, judge the copy, use the copy.
 * The struct is immutable after gmem_init(); every thread may call gmem_at() and the accessors.
 */
#pragma once

#include <errno.h>
#include <string.h>

#include "vmm/base/err.h"

typedef uint64_t gpa_t;

enum gmem_backing {
	GMEM_ANON,	 /* private anonymous pages */
	GMEM_MEMFD,	 /* a shared memfd, so that another process can map it */
	GMEM_HUGETLB_2M, /* 2 MiB pages of hugetlbfs, reserved when mapped */
};

#define GMEM_REGIONS_MAX 4

struct gmem_region {
	gpa_t gpa;
	uint64_t len; /* bytes, a multiple of the page size, not 0 */
	uint8_t *host;
};

struct gmem {
	struct gmem_region region[GMEM_REGIONS_MAX];
	unsigned count;
	int fd;	   /* memfd, or -1 */
	void *map; /* the whole host reservation, alignment slack included */
	size_t map_len;
};

/*
 * Maps memory for `count` regions whose gpa and len the caller has filled in ascending order
 * without overlap; sets their host pointers. Pages come zeroed and are not touched. The mapping
 * is aligned so that a 2 MiB aligned GPA is 2 MiB aligned in the host too. `thp` asks for
 * transparent huge pages. 0, or -errno with `e` filled; then `m` needs no finish.
 */
int gmem_init(struct gmem *m, const struct gmem_region *region, unsigned count,
	      enum gmem_backing backing, bool thp, struct err *e);
void gmem_finish(struct gmem *m);

/* Pointer to [gpa, gpa + len), or NULL unless all of it is guest memory. len 0 is NULL. */
static inline void *gmem_at(const struct gmem *m, gpa_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < m->count; i++) {
		const struct gmem_region *r = &m->region[i];

		if (gpa >= r->gpa && len && range_within(gpa - r->gpa, len, r->len))
			return r->host + (gpa - r->gpa);
	}
	return NULL;
}

/* Copy in or out. 0, or -EFAULT when the range is not guest memory (nothing is copied then). */
static inline int gmem_read(const struct gmem *m, gpa_t gpa, void *buf, uint64_t len)
{
	const void *p = gmem_at(m, gpa, len);

	if (!p)
		return -EFAULT;
	memcpy(buf, p, len);
	return 0;
}

static inline int gmem_write(const struct gmem *m, gpa_t gpa, const void *buf, uint64_t len)
{
	void *p = gmem_at(m, gpa, len);

	if (!p)
		return -EFAULT;
	memcpy(p, buf, len);
	return 0;
}

/* Bytes of guest memory in all regions. */
uint64_t gmem_size(const struct gmem *m);
