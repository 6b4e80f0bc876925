/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "vmm/base/gmem.h"

#include <assert.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/base/fd.h"

#define HUGE_2M MIB(2)

/* memfd_create's size flag for 2 MiB pages: log2(2 MiB) << MFD_HUGE_SHIFT. */
#define MFD_2M (21u << 26)

static int create_memfd(uint64_t size, enum gmem_backing backing, struct err *e)
{
	unsigned flags = MFD_CLOEXEC;
	cleanup_fd int fd = -1;

	if (backing == GMEM_HUGETLB_2M)
		flags |= MFD_HUGETLB | MFD_2M;
	fd = memfd_create("guest-memory", flags);
	if (fd < 0)
		return err_sys(e, "create a memfd for guest memory");
	if (ftruncate(fd, (off_t)size) < 0)
		return err_sys(e, "size guest memory to %llu bytes", (unsigned long long)size);
	return TAKE_FD(fd);
}

/* Reserves address space that contains `size` bytes at a 2 MiB boundary. */
static uint8_t *reserve(struct gmem *m, uint64_t size, struct err *e)
{
	m->map_len = size + HUGE_2M;
	m->map = mmap(NULL, m->map_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
		      0);
	if (m->map == MAP_FAILED) {
		m->map = NULL;
		err_sys(e, "reserve %llu MiB of address space for the guest",
			(unsigned long long)(size >> 20));
		return NULL;
	}
	return (uint8_t *)align_up((uintptr_t)m->map, HUGE_2M);
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

int gmem_init(struct gmem *m, const struct gmem_region *region, unsigned count,
	      enum gmem_backing backing, bool thp, struct err *e)
{
	uint64_t size = 0;
	uint8_t *base;
	int r;

	assert(count > 0 && count <= GMEM_REGIONS_MAX);
	*m = (struct gmem){.fd = -1, .count = count};
	for (unsigned i = 0; i < count; i++)
		size += region[i].len;
	if (backing == GMEM_HUGETLB_2M && size % HUGE_2M)
		return err_set(e, EINVAL, "guest memory is no multiple of the 2 MiB page size");
	base = reserve(m, size, e);
	if (!base)
		return -e->code;
	r = map_backing(m, base, size, backing, e);
	if (r < 0) {
		gmem_finish(m);
		return r;
	}
	/* Only a hint: without it the guest runs on small pages. */
	if (thp)
		madvise(base, size, MADV_HUGEPAGE);
	for (unsigned i = 0; i < count; i++) {
		m->region[i] = region[i];
		m->region[i].host = base;
		base += region[i].len;
	}
	return 0;
}

void gmem_finish(struct gmem *m)
{
	if (!m->map)
		return;
	munmap(m->map, m->map_len);
	fd_close(&m->fd);
	*m = (struct gmem){.fd = -1};
}

uint64_t gmem_size(const struct gmem *m)
{
	uint64_t size = 0;

	for (unsigned i = 0; i < m->count; i++)
		size += m->region[i].len;
	return size;
}
