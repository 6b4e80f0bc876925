/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "vmm/base/gmem.h"

#include <assert.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/base/fd.h"

#define HUGE_2M MIB(2)

/* memfd_create's size flag for 2 MiB pages: log2(2 MiB) << MFD_HUGE_SHIFT. */
#define MFD_2M (21u << 26)

/* What is made private in one call: the guest's page faults wait for it. */
#define PRIVATE_PIECE MIB(4)

static int create_memfd(uint64_t size, enum gmem_backing backing, struct err *e)
{
	unsigned flags = MFD_CLOEXEC;
	cleanup_fd int fd = -1;

	flags |= backing == GMEM_HUGETLB_2M ? MFD_HUGETLB | MFD_2M : MFD_ALLOW_SEALING;
	fd = memfd_create("guest-memory", flags);
	if (fd < 0)
		return err_sys(e, "create a memfd for guest memory");
	if (ftruncate(fd, (off_t)size) < 0)
		return err_sys(e, "size guest memory to %llu bytes", (unsigned long long)size);
	return TAKE_FD(fd);
}

/* Reserves address space that contains `size` bytes at a 2 MiB boundary, or NULL. */
static uint8_t *reserve(void **map, size_t *map_len, uint64_t size, struct err *e)
{
	*map_len = size + HUGE_2M;
	*map = mmap(NULL, *map_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (*map == MAP_FAILED) {
		*map = NULL;
		err_sys(e, "reserve %llu MiB of address space for the guest",
			(unsigned long long)(size >> 20));
		return NULL;
	}
	return (uint8_t *)align_up((uintptr_t)*map, HUGE_2M);
}

static int map_backing(struct gmem *m, uint8_t *base, uint64_t size, enum gmem_backing backing,
		       struct err *e)
{
	int flags = MAP_FIXED;

	if (backing == GMEM_ANON) {
		flags |= MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	} else {
		m->fd = create_memfd(size, backing, e);
		if (m->fd < 0)
			return m->fd;
		/*
		 * hugetlbfs reserves its pages here, so that too few of them are an error now and
		 * not a SIGBUS while the guest runs.
		 */
		flags |= MAP_SHARED | (backing == GMEM_MEMFD ? MAP_NORESERVE : 0);
	}
	if (mmap(base, size, PROT_READ | PROT_WRITE, flags, m->fd, 0) == MAP_FAILED)
		return err_sys(
			e, "map %llu MiB of guest memory%s", (unsigned long long)(size >> 20),
			backing == GMEM_HUGETLB_2M ? " (are enough 2M huge pages free?)" : "");
	return 0;
}

static uint64_t total(const struct gmem_region *region, unsigned count)
{
	uint64_t size = 0;

	assert(count <= GMEM_RAM_MAX);
	for (unsigned i = 0; i < count; i++)
		size += region[i].len;
	return size;
}

/* The last step: on failure all is taken back. */
static int place(struct gmem *m, const struct gmem_region *region, uint8_t *base, struct err *e)
{
	for (unsigned i = 0; i < m->count; i++) {
		struct gmem_region *r = &m->region[i];

		*r = region[i];
		r->host = base;
		base += r->len;
		if (!r->block)
			continue;
		r->plugged = calloc((r->len / r->block + 63) / 64, sizeof(*r->plugged));
		if (!r->plugged) {
			gmem_finish(m);
			return err_set(e, ENOMEM, "out of memory for a bitmap of blocks");
		}
	}
	return 0;
}

int gmem_reserve(struct gmem *m, const struct gmem_region *region, unsigned count, struct err *e)
{
	uint8_t *base;

	*m = (struct gmem){.fd = -1, .count = count, .all = count, .backing = GMEM_ANON};
	base = reserve(&m->map, &m->map_len, total(region, count), e);
	return base ? place(m, region, base, e) : -ENOMEM;
}

int gmem_back(struct gmem *m, enum gmem_backing backing, bool thp, struct err *e)
{
	uint64_t size = gmem_size(m);
	int r;

	if (backing == GMEM_HUGETLB_2M && size % HUGE_2M)
		return err_set(e, EINVAL, "guest memory is no multiple of the 2 MiB page size");
	m->backing = backing;
	r = map_backing(m, gmem_base(m), size, backing, e);
	/* Only a hint: without it the guest runs on small pages. */
	if (r == 0 && thp)
		madvise(gmem_base(m), size, MADV_HUGEPAGE);
	return r;
}

int gmem_init(struct gmem *m, const struct gmem_region *region, unsigned count,
	      enum gmem_backing backing, bool thp, struct err *e)
{
	int r = gmem_reserve(m, region, count, e);

	if (r < 0)
		return r;
	r = gmem_back(m, backing, thp, e);
	if (r < 0)
		gmem_finish(m);
	return r;
}

/* Whether the file `fd` has just what belongs there. */
static int check_length(int fd, uint64_t size, struct err *e)
{
	int64_t there = fd_size(fd);

	if (there >= 0 && (uint64_t)there == size)
		return 0;
	return err_set(e, EINVAL, "it has %lld bytes, and the guest's memory %llu",
		       (long long)there, (unsigned long long)size);
}

int gmem_back_file(struct gmem *m, int fd, struct err *e)
{
	uint64_t size = gmem_size(m);
	int r;

	m->backing = GMEM_FILE;
	m->fd = fd;
	r = check_length(fd, size, e);
	if (r == 0 && mmap(gmem_base(m), size, PROT_READ | PROT_WRITE,
			   MAP_FIXED | MAP_PRIVATE | MAP_NORESERVE, fd, 0) == MAP_FAILED)
		r = err_sys(e, "map %llu MiB of guest memory", (unsigned long long)(size >> 20));
	return r;
}

int gmem_init_file(struct gmem *m, const struct gmem_region *region, unsigned count, int fd,
		   struct err *e)
{
	uint64_t size = total(region, count);
	int r = check_length(fd, size, e);

	*m = (struct gmem){.fd = fd, .count = count, .all = count, .backing = GMEM_FILE};
	if (r < 0) {
		fd_close(&m->fd);
		return r;
	}
	/* One call, and the kernel chooses an address that suits the file's large pages. */
	m->map_len = size;
	m->map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
	if (m->map == MAP_FAILED) {
		m->map = NULL;
		fd_close(&m->fd);
		return err_sys(e, "map %llu MiB of guest memory", (unsigned long long)(size >> 20));
	}
	return place(m, region, m->map, e);
}

static int map_over(uint8_t *host, uint64_t len, int flags, int fd, struct err *e)
{
	if (mmap(host, len, PROT_READ | PROT_WRITE, MAP_FIXED | flags, fd, 0) == MAP_FAILED)
		return err_sys(e, "map %llu MiB", (unsigned long long)(len >> 20));
	return 0;
}

int gmem_add_file(struct gmem *m, gpa_t gpa, int fd, uint64_t size, bool read_only, struct err *e)
{
	struct gmem_region r = {.gpa = gpa, .file_len = size, .read_only = read_only};
	int ret = 0;

	assert(m->all < GMEM_REGIONS_MAX && gpa % GMEM_FILE_ALIGN == 0 && size > 0);
	r.len = align_up(size, GMEM_FILE_ALIGN);
	r.host = reserve(&r.map, &r.map_len, r.len, e);
	if (!r.host)
		return -ENOMEM;
	if (r.len > size)
		ret = map_over(r.host, r.len, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, e);
	if (ret == 0)
		ret = map_over(r.host, size, read_only ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED,
			       fd, e);
	if (ret < 0)
		munmap(r.map, r.map_len);
	else
		m->region[m->all++] = r;
	return ret;
}

int gmem_map_over(const struct gmem *m, int fd, uint64_t off, uint64_t len, struct err *e)
{
	assert(range_within(off, len, gmem_size(m)));
	if (mmap(gmem_base(m) + off, len, PROT_READ | PROT_WRITE,
		 MAP_FIXED | MAP_PRIVATE | MAP_NORESERVE, fd, (off_t)off) == MAP_FAILED)
		return err_sys(e, "map guest memory privately");
	return 0;
}

int gmem_make_private(struct gmem *m, uint64_t max, struct err *e)
{
	uint64_t size = gmem_size(m), end = m->private + MIN(max, size - m->private);
	int r = 0;

	assert(m->backing == GMEM_MEMFD || m->private);
	/* From now on some of it may be private, and all of it will be. */
	m->backing = GMEM_FORKED;
	/* What has become private has pages of its own, which another call would lose. */
	while (r == 0 && m->private < end) {
		uint64_t len = MIN(end - m->private, PRIVATE_PIECE);

		r = gmem_map_over(m, m->fd, m->private, len, e);
		if (r == 0)
			m->private += len;
	}
	return r < 0 ? r : m->private < size;
}

int gmem_track(struct gmem *m, struct err *e)
{
	uint64_t pages = gmem_size(m) / GMEM_PAGE;

	m->dirty = calloc((pages + 63) / 64, sizeof(*m->dirty));
	return m->dirty ? 0 : err_set(e, ENOMEM, "out of memory for a bitmap of pages");
}

/* `len` is not 0. */
static void mark_bytes(const struct gmem *m, uint64_t at, uint64_t len)
{
	for (uint64_t page = at / GMEM_PAGE; page <= (at + len - 1) / GMEM_PAGE; page++)
		atomic_fetch_or_explicit(&m->dirty[page / 64], 1ull << (page % 64),
					 memory_order_relaxed);
}

void gmem_mark_tracked(const struct gmem *m, gpa_t gpa, uint64_t len)
{
	const uint8_t *host = gmem_at(m, gpa, len);

	uint64_t at = (uintptr_t)host - (uintptr_t)gmem_base(m);

	if (host && range_within(at, len, gmem_size(m)))
		mark_bytes(m, at, len);
}

void gmem_finish(struct gmem *m)
{
	if (!m->map)
		return;
	for (unsigned i = 0; i < m->count; i++)
		free(m->region[i].plugged);
	for (unsigned i = m->count; i < m->all; i++)
		munmap(m->region[i].map, m->region[i].map_len);
	munmap(m->map, m->map_len);
	fd_close(&m->fd);
	free(m->dirty);
	*m = (struct gmem){.fd = -1};
}

/* --- blocks --- */

const struct gmem_region *gmem_hotplug(const struct gmem *m)
{
	const struct gmem_region *last = m->count ? &m->region[m->count - 1] : NULL;

	return last && last->block ? last : NULL;
}

static bool is_plugged(const struct gmem_region *r, uint64_t block)
{
	return atomic_load_explicit(&r->plugged[block / 64], memory_order_relaxed) >> (block % 64) &
	       1;
}

bool gmem_all_plugged(const struct gmem_region *r, uint64_t off, uint64_t len)
{
	for (uint64_t b = off / r->block; b <= (off + len - 1) / r->block; b++)
		if (!is_plugged(r, b))
			return false;
	return true;
}

bool gmem_any_plugged(const struct gmem_region *r, uint64_t off, uint64_t len)
{
	for (uint64_t b = off / r->block; b <= (off + len - 1) / r->block; b++)
		if (is_plugged(r, b))
			return true;
	return false;
}

void gmem_set_plugged(const struct gmem_region *r, uint64_t off, uint64_t len, bool on)
{
	for (uint64_t b = off / r->block; b <= (off + len - 1) / r->block; b++) {
		uint64_t bit = 1ull << (b % 64);

		if (on)
			atomic_fetch_or(&r->plugged[b / 64], bit);
		else
			atomic_fetch_and(&r->plugged[b / 64], ~bit);
	}
}

int64_t gmem_discard(const struct gmem *m, void *host, uint64_t len)
{
	uint64_t page = m->backing == GMEM_HUGETLB_2M ? HUGE_2M : GMEM_PAGE;
	uint64_t at = (uintptr_t)host - (uintptr_t)gmem_base(m);
	uint64_t first, end;
	int r;

	if (!range_within(at, len, gmem_size(m)))
		return -EINVAL;
	first = align_up(at, page);
	end = (at + len) & ~(page - 1);
	if (first >= end)
		return 0;
	len = end - first;
	if (m->dirty) /* what is discarded reads as something else */
		mark_bytes(m, first, len);
	/* Shared pages belong to the memfd: unmapping them here would not free them. */
	if (m->backing == GMEM_MEMFD || m->backing == GMEM_HUGETLB_2M)
		r = fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)first,
			      (off_t)len);
	else
		r = madvise(gmem_base(m) + first, len, MADV_DONTNEED);
	return r < 0 ? -errno : (int64_t)len;
}

uint64_t gmem_size(const struct gmem *m)
{
	return total(m->region, m->count);
}
