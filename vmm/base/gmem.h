/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory: a few ranges of guest physical addresses. RAM is backed by one host mapping; files
 * that the guest sees as memory (virtio/pmem.h) have one each, above it.
 *
 * A guest address is an integer (gpa_t). gmem_at() is the only function in spore that turns one
 * into a pointer; it checks by subtraction, so that no sum can wrap. A range returned by it never
 * crosses two regions.
 *
 * The guest writes to this memory while we read it: copy once, judge the copy, use the copy.
 * A region of RAM may come and go in blocks (virtio/mem.h): gmem_at() knows which of them are there.
 *
 * The struct is immutable after gmem_init(), gmem_add_file() and gmem_track(), but for that; every
 * thread may call gmem_at() and the accessors.
 */
#pragma once

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "vmm/base/err.h"

typedef uint64_t gpa_t;

enum gmem_backing {
	GMEM_ANON,	 /* private anonymous pages */
	GMEM_MEMFD,	 /* a shared memfd, so that another process can map it */
	GMEM_HUGETLB_2M, /* 2 MiB pages of hugetlbfs, reserved when mapped */
	GMEM_FILE,	 /* private pages over a file that holds what they begin with */
	GMEM_FORKED, /* the same over memfds, which other microVMs begin with too (snapshot/fork.h) */
};

/* What is tracked and saved as one, whatever the size of the pages that the host uses. */
#define GMEM_PAGE 4096u

#define GMEM_RAM_MAX	 4
#define GMEM_FILES_MAX	 8
#define GMEM_REGIONS_MAX (GMEM_RAM_MAX + GMEM_FILES_MAX)

/* Where a file lies in the address spaces of guest and host, and how far it reaches. */
#define GMEM_FILE_ALIGN MIB(2)

struct gmem_region {
	gpa_t gpa;
	uint64_t len; /* bytes, a multiple of the page size, not 0 */
	uint8_t *host;
	/*
	 * Of RAM that comes and goes: bytes of a block, a power of two, and of a part, the blocks that
	 * are one memory slot; both divide the region. 0: it is there. One region can be such, the last.
	 */
	uint64_t block, part;
	_Atomic uint64_t *plugged; /* a bit for each block; owned by the gmem */
	uint64_t file_len;	   /* bytes of it that are a file's */
	bool read_only;		   /* of a file: the guest must not write */
	void *map;		   /* of a file: its own reservation, alignment slack included */
	size_t map_len;
};

struct gmem {
	struct gmem_region region[GMEM_REGIONS_MAX];
	unsigned count; /* of RAM */
	unsigned all;	/* with the files behind them */
	enum gmem_backing backing;
	int fd;		  /* memfd, or the file of GMEM_FILE, or -1; owned */
	uint64_t private; /* of GMEM_FORKED that was GMEM_MEMFD: bytes that are private yet */
	void *map;	  /* the whole host reservation, alignment slack included */
	size_t map_len;
	/*
	 * Pages that spore itself has written: one bit for each, counted through all regions. KVM's
	 * dirty log knows the guest's writes only. NULL: nobody wants to know.
	 */
	_Atomic uint64_t *dirty;
};

/*
 * Maps memory for `count` regions whose gpa and len (block, part) the caller has filled in ascending
 * order without overlap; sets their host pointers. Of one with blocks none is there at first. Pages come zeroed and are not touched. The mapping
 * is aligned so that a 2 MiB aligned GPA is 2 MiB aligned in the host too. `thp` asks for
 * transparent huge pages. 0, or -errno with `e` filled; then `m` needs no finish.
 */
int gmem_init(struct gmem *m, const struct gmem_region *region, unsigned count,
	      enum gmem_backing backing, bool thp, struct err *e);
/*
 * The same over the file `fd`, which holds the regions one behind the other and is exactly as long:
 * a page is the file's until somebody writes to it, and never goes back into it. The file has to
 * stay as it is while mapped: if it is cut short, an access raises SIGBUS. Takes `fd`, also
 * when it fails.
 */
int gmem_init_file(struct gmem *m, const struct gmem_region *region, unsigned count, int fd,
		   struct err *e);
/*
 * The same in two steps, for a VM that is made before it is known what will run in it. gmem_reserve()
 * takes the address space only, which may be given to KVM but must not be touched; then one of
 * the others puts memory there, before the guest runs. Their failure leaves `m` to gmem_finish().
 */
int gmem_reserve(struct gmem *m, const struct gmem_region *region, unsigned count, struct err *e);
int gmem_back(struct gmem *m, enum gmem_backing backing, bool thp, struct err *e);
/* Takes `fd`, also when it fails. */
int gmem_back_file(struct gmem *m, int fd, struct err *e);
/*
 * GMEM_MEMFD becomes GMEM_FORKED: nothing is written to the memfd through `m` any more, and what was
 * written before stays visible. The guest may run; whoever has pages in the kernel's hands must be
 * drained. At most `max` bytes at a time: 1 when some are left, 0 when it is done, or -errno and it goes
 * on from there when called again. Main thread.
 */
int gmem_make_private(struct gmem *m, uint64_t max, struct err *e);
/*
 * Puts [off, off + len) of `fd` (borrowed), as a private mapping, over the same bytes of all RAM. Before
 * the guest runs. The file has to be as long as gmem_back_file() wants it.
 */
int gmem_map_over(const struct gmem *m, int fd, uint64_t off, uint64_t len, struct err *e);

/*
 * Adds the file `fd` (borrowed, `size` bytes of it) at `gpa`, above all others, both aligned to
 * GMEM_FILE_ALIGN; what is missing to a whole GMEM_FILE_ALIGN is private memory, zeroed. What is
 * written goes into the file, or with `read_only` nowhere: the guest is to be kept from writing, and
 * what a device writes there stays private. It is no RAM: not in gmem_size(), not tracked, never
 * discarded. Taken back by gmem_finish().
 */
int gmem_add_file(struct gmem *m, gpa_t gpa, int fd, uint64_t size, bool read_only, struct err *e);
/* Also the files. */
void gmem_finish(struct gmem *m);

/*
 * The regions of RAM lie one behind the other in the host too, and that is the order of a memory file:
 * all RAM is gmem_size() bytes from here on.
 */
static inline uint8_t *gmem_base(const struct gmem *m)
{
	return m->region[0].host;
}

/* Starts to keep track of what gmem_mark() is told. Before the guest runs. */
int gmem_track(struct gmem *m, struct err *e);
/* Whoever writes to guest memory says so, unless it does it through gmem_write(). Any thread. */
void gmem_mark_tracked(const struct gmem *m, gpa_t gpa, uint64_t len);
static inline void gmem_mark(const struct gmem *m, gpa_t gpa, uint64_t len)
{
	if (__builtin_expect(m->dirty != NULL, 0))
		gmem_mark_tracked(m, gpa, len);
}

/* --- blocks; `off` is within the region, and a block's first byte where it matters --- */

/* The region of blocks, or NULL. */
const struct gmem_region *gmem_hotplug(const struct gmem *m);
/* Whether all blocks that [off, off + len) touches are there; or any of them. len is not 0. */
bool gmem_all_plugged(const struct gmem_region *r, uint64_t off, uint64_t len);
bool gmem_any_plugged(const struct gmem_region *r, uint64_t off, uint64_t len);
/* Main thread. What has a pointer into them keeps it: the mapping stays. */
void gmem_set_plugged(const struct gmem_region *r, uint64_t off, uint64_t len, bool on);

/* Pointer to [gpa, gpa + len), or NULL unless all of it is guest memory. len 0 is NULL. */
static inline void *gmem_at(const struct gmem *m, gpa_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < m->all; i++) {
		const struct gmem_region *r = &m->region[i];

		if (gpa < r->gpa || !len || !range_within(gpa - r->gpa, len, r->len))
			continue;
		if (__builtin_expect(r->block != 0, 0) && !gmem_all_plugged(r, gpa - r->gpa, len))
			return NULL;
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
	gmem_mark(m, gpa, len);
	return 0;
}

/*
 * Gives the whole pages within [host, host + len), which is guest memory, back to the host. What
 * the guest finds there afterwards is zero, or with GMEM_FILE and GMEM_FORKED what the file says: a page over it
 * stays shared with the other microVMs, and takes no mapping of its own. Returns the bytes
 * given back, or -errno; -EINVAL when some of it is no RAM. Any thread.
 */
int64_t gmem_discard(const struct gmem *m, void *host, uint64_t len);

/* Bytes of RAM in all regions. */
uint64_t gmem_size(const struct gmem *m);
