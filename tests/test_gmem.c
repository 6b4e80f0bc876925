/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "vmm/base/gmem.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/base/fd.h"
#include "vmm/layout.h"

/* Two regions that follow each other in the host, but not in the guest. */
static const struct gmem_region two[] = {
	{.gpa = 0, .len = MIB(4)},
	{.gpa = GIB(4), .len = MIB(2)},
};

static void init_two(struct gmem *m, enum gmem_backing backing)
{
	struct err e = {0};

	cr_assert_eq(gmem_init(m, two, 2, backing, false, &e), 0, "%s", e.msg);
}

Test(gmem, bounds_of_each_region)
{
	struct gmem m;

	init_two(&m, GMEM_ANON);
	cr_assert_eq(gmem_size(&m), MIB(6));
	cr_assert_eq(gmem_at(&m, 0, MIB(4)), m.region[0].host);
	cr_assert_eq(gmem_at(&m, MIB(4) - 1, 1), m.region[0].host + MIB(4) - 1);
	cr_assert_eq(gmem_at(&m, GIB(4), MIB(2)), m.region[1].host);
	cr_assert_null(gmem_at(&m, 0, MIB(4) + 1));
	cr_assert_null(gmem_at(&m, MIB(4) - 1, 2), "crosses into what follows in the host");
	cr_assert_null(gmem_at(&m, MIB(4), 1));
	cr_assert_null(gmem_at(&m, GIB(4) - 1, 1));
	cr_assert_null(gmem_at(&m, GIB(4) - 1, 2));
	cr_assert_null(gmem_at(&m, GIB(4) + MIB(2), 1));
	gmem_finish(&m);
}

Test(gmem, sums_that_wrap)
{
	struct gmem m;

	init_two(&m, GMEM_ANON);
	cr_assert_null(gmem_at(&m, 0, UINT64_MAX));
	cr_assert_null(gmem_at(&m, 1, UINT64_MAX));
	cr_assert_null(gmem_at(&m, UINT64_MAX, 1));
	cr_assert_null(gmem_at(&m, UINT64_MAX, UINT64_MAX));
	cr_assert_null(gmem_at(&m, UINT64_MAX - 7, 16));
	cr_assert_null(gmem_at(&m, GIB(4), UINT64_MAX - GIB(4) + 2));
	cr_assert_null(gmem_at(&m, MIB(1), UINT64_MAX - MIB(1) + 1 + 8));
	gmem_finish(&m);
}

Test(gmem, no_bytes_are_no_memory)
{
	struct gmem m;

	init_two(&m, GMEM_ANON);
	cr_assert_null(gmem_at(&m, 0, 0));
	cr_assert_eq(gmem_read(&m, 0, NULL, 0), -EFAULT);
	gmem_finish(&m);
}

Test(gmem, copies_are_whole_or_nothing)
{
	uint8_t buf[16], in[16];
	struct gmem m;

	init_two(&m, GMEM_ANON);
	memset(in, 0x5a, sizeof(in));
	cr_assert_eq(gmem_write(&m, MIB(4) - 8, in, 8), 0);
	cr_assert_eq(gmem_write(&m, MIB(4) - 15, in, 16), -EFAULT);
	memset(buf, 1, sizeof(buf));
	cr_assert_eq(gmem_read(&m, MIB(4) - 16, buf, 16), 0);
	for (unsigned i = 0; i < 16; i++)
		cr_assert_eq(buf[i], i < 8 ? 0 : 0x5a);
	memset(buf, 1, sizeof(buf));
	cr_assert_eq(gmem_read(&m, MIB(4) - 8, buf, 9), -EFAULT);
	cr_assert_eq(buf[0], 1);
	gmem_finish(&m);
}

Test(gmem, host_alignment_follows_the_guest)
{
	struct gmem_region ram[2];
	struct gmem m;
	unsigned n = layout_ram(GIB(3) + MIB(64), ram);

	cr_assert_eq(n, 2);
	cr_assert_eq(gmem_init(&m, ram, n, GMEM_ANON, true, NULL), 0);
	for (unsigned i = 0; i < n; i++)
		cr_assert_eq(((uintptr_t)m.region[i].host - m.region[i].gpa) % MIB(2), 0);
	gmem_finish(&m);
}

Test(gmem, odd_sizes)
{
	static const struct gmem_region page = {.gpa = 0x3000, .len = 4096};
	struct gmem m;

	cr_assert_eq(gmem_init(&m, &page, 1, GMEM_ANON, true, NULL), 0);
	cr_assert_null(gmem_at(&m, 0x2fff, 1));
	cr_assert_null(gmem_at(&m, 0x2fff, 4097));
	memset(gmem_at(&m, 0x3000, 4096), 1, 4096);
	gmem_finish(&m);
}

/* Memory of a memfd is seen through the descriptor, each region where the one before ends. */
Test(gmem, memfd_is_shared)
{
	cleanup_fd int copy = -1;
	struct gmem m;
	uint32_t v = 0;

	init_two(&m, GMEM_MEMFD);
	cr_assert(fcntl(m.fd, F_GETFD) & FD_CLOEXEC);
	cr_assert_eq(fd_size(m.fd), (int64_t)MIB(6));
	copy = dup(m.fd);
	v = 0x12345678;
	cr_assert_eq(gmem_write(&m, GIB(4) + 16, &v, sizeof(v)), 0);
	gmem_finish(&m);
	v = 0;
	cr_assert_eq(fd_pread_full(copy, &v, sizeof(v), MIB(4) + 16), 0);
	cr_assert_eq(v, 0x12345678u);
}

Test(gmem, a_memfd_becomes_private)
{
	struct err e = {0};
	uint64_t v = 1, there;
	struct gmem m;
	int r, turns = 0;

	init_two(&m, GMEM_MEMFD);
	cr_assert_eq(gmem_write(&m, 16, &v, sizeof(v)), 0);
	cr_assert_eq(gmem_write(&m, GIB(4) + 16, &v, sizeof(v)), 0);
	while ((r = gmem_make_private(&m, MIB(1), &e)) == 1) {
		/* What is private already keeps what was written since. */
		v = (uint64_t)turns++ + 2;
		cr_assert_eq(gmem_write(&m, 16, &v, sizeof(v)), 0);
	}
	cr_assert_eq(r, 0, "%s", e.msg);
	cr_expect_eq(turns, 5);
	cr_expect_eq(m.backing, GMEM_FORKED);
	cr_assert_eq(gmem_read(&m, 16, &there, sizeof(there)), 0);
	cr_expect_eq(there, v);
	cr_assert_eq(gmem_make_private(&m, MIB(100), &e), 0, "again, nothing is lost");
	cr_assert_eq(gmem_read(&m, 16, &there, sizeof(there)), 0);
	cr_expect_eq(there, v);
	cr_assert_eq(gmem_read(&m, GIB(4) + 16, &there, sizeof(there)), 0);
	cr_expect_eq(there, 1);
	cr_assert_eq(fd_pread_full(m.fd, &there, sizeof(there), 16), 0);
	cr_expect_eq(there, 1, "the memfd is as it was");
	/* It can be sealed: nothing writes to it any more. And what is discarded is the memfd's again. */
	cr_expect_eq(fcntl(m.fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW), 0);
	cr_assert_eq(gmem_discard(&m, gmem_at(&m, 0, 4096), 4096), 4096);
	cr_assert_eq(gmem_read(&m, 16, &there, sizeof(there)), 0);
	cr_expect_eq(there, 1);
	gmem_finish(&m);
}

Test(gmem, layers_lie_over_a_base)
{
	struct err e = {0};
	cleanup_fd int layer = memfd_create("layer", MFD_CLOEXEC);
	uint32_t v = 7;
	struct gmem m;

	init_two(&m, GMEM_MEMFD);
	cr_assert_eq(gmem_make_private(&m, UINT64_MAX, &e), 0);
	cr_assert_eq(ftruncate(layer, (off_t)MIB(6)), 0);
	cr_assert_eq(fd_pwrite_full(layer, &v, sizeof(v), MIB(4)), 0);
	cr_assert_eq(gmem_map_over(&m, layer, MIB(4), 4096, &e), 0, "%s", e.msg);
	v = 0;
	cr_assert_eq(gmem_read(&m, GIB(4), &v, sizeof(v)), 0);
	cr_expect_eq(v, 7);
	v = 8;
	cr_assert_eq(gmem_write(&m, GIB(4), &v, sizeof(v)), 0);
	cr_assert_eq(fd_pread_full(layer, &v, sizeof(v), MIB(4)), 0);
	cr_expect_eq(v, 7);
	gmem_finish(&m);
}

Test(gmem, finish_gives_everything_back)
{
	int before = dup(0), after;
	unsigned char resident;
	uint8_t *host;
	struct gmem m;

	close(before);
	init_two(&m, GMEM_MEMFD);
	host = m.region[0].host;
	gmem_finish(&m);
	after = dup(0);
	close(after);
	cr_assert_eq(after, before);
	cr_assert_eq(m.fd, -1);
	cr_assert_null(gmem_at(&m, 0, 1));
	cr_assert_eq(gmem_size(&m), 0);
	cr_assert_eq(mincore(host, 4096, &resident), -1);
	cr_assert_eq(errno, ENOMEM, "still mapped");
	gmem_finish(&m); /* a second time does nothing */
}

Test(gmem, what_cannot_be_had_is_an_error)
{
	const struct gmem_region huge = {.gpa = 0, .len = 1ull << 60};
	struct err e = {0};
	struct gmem m;
	int before = dup(0), after;

	close(before);
	cr_assert_eq(gmem_init(&m, &huge, 1, GMEM_ANON, false, &e), -ENOMEM);
	cr_assert_eq(e.code, ENOMEM);
	cr_assert_neq(e.msg[0], 0);
	cr_assert_eq(gmem_init(&m, &huge, 1, GMEM_MEMFD, false, NULL), -ENOMEM);
	after = dup(0);
	close(after);
	cr_assert_eq(after, before);
}

Test(gmem, huge_pages_want_a_multiple_of_their_size)
{
	const struct gmem_region odd = {.gpa = 0, .len = MIB(3)};
	struct err e = {0};
	struct gmem m;

	cr_assert_eq(gmem_init(&m, &odd, 1, GMEM_HUGETLB_2M, false, &e), -EINVAL);
	cr_assert_neq(strstr(e.msg, "2 MiB"), NULL);
}

/* More pages than any pool has: an error that names the pages, not a SIGBUS later. */
Test(gmem, huge_pages_are_reserved_at_once)
{
	const struct gmem_region many = {.gpa = 0, .len = GIB(512)};
	struct err e = {0};
	struct gmem m;

	cr_assert_lt(gmem_init(&m, &many, 1, GMEM_HUGETLB_2M, false, &e), 0);
	cr_assert_null(m.map);
	cr_assert_eq(m.fd, -1);
}

/* --- over a file --- */

static int memory_file(uint64_t size)
{
	int fd = memfd_create("image", MFD_CLOEXEC);

	cr_assert_eq(ftruncate(fd, (off_t)size), 0);
	cr_assert_eq(pwrite(fd, "old", 4, MIB(4) + 8), 4);
	return fd;
}

/* Regions are one behind the other in it; what is written never reaches it. */
Test(gmem, file_is_private)
{
	int fd = memory_file(MIB(6));
	cleanup_fd int copy = dup(fd);
	struct err e = {0};
	struct gmem m;
	char buf[4];

	cr_assert_eq(gmem_init_file(&m, two, 2, fd, &e), 0, "%s", e.msg);
	cr_assert_eq(gmem_size(&m), MIB(6));
	cr_assert_eq(gmem_base(&m) + MIB(4), m.region[1].host);
	cr_assert_eq(gmem_read(&m, GIB(4) + 8, buf, 4), 0);
	cr_assert_str_eq(buf, "old");
	cr_assert_eq(gmem_write(&m, GIB(4) + 8, "new", 4), 0);
	cr_assert_eq(gmem_read(&m, GIB(4) + 8, buf, 4), 0);
	cr_assert_str_eq(buf, "new");
	gmem_finish(&m);
	cr_assert_eq(fcntl(fd, F_GETFD), -1, "owned");
	cr_assert_eq(fd_pread_full(copy, buf, 4, MIB(4) + 8), 0);
	cr_assert_str_eq(buf, "old");
}

/* A byte that the file lacks would be a SIGBUS later. */
Test(gmem, file_has_to_fit)
{
	static const uint64_t sizes[] = {MIB(6) - 1, MIB(6) + 1, MIB(6) - 4096, MIB(12)};
	struct gmem m;
	struct err e;

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		int fd = memory_file(sizes[i]);

		cr_assert_eq(gmem_init_file(&m, two, 2, fd, &e), -EINVAL);
		cr_assert_eq(fcntl(fd, F_GETFD), -1, "taken also when it fails");
		cr_assert_eq(m.fd, -1);
	}
	cr_assert_lt(gmem_init_file(&m, two, 2, -1, NULL), 0);
}

/* --- what spore has written --- */

static bool dirty(const struct gmem *m, uint64_t page)
{
	return m->dirty[page / 64] >> (page % 64) & 1;
}

Test(gmem, writes_are_tracked_by_page)
{
	const uint64_t second = MIB(4) / GMEM_PAGE; /* first page of the second region */
	struct gmem m;

	init_two(&m, GMEM_ANON);
	gmem_mark(&m, 0, 1); /* nobody wants to know: nothing happens */
	cr_assert_eq(gmem_track(&m, NULL), 0);
	cr_assert_eq(gmem_write(&m, 4095, "ab", 2), 0);
	cr_assert_eq(gmem_write(&m, GIB(4) + 4096, "a", 1), 0);
	gmem_mark(&m, MIB(4) - 1, 1);
	gmem_mark(&m, MIB(4) - 1, 2); /* not in one region: no memory */
	gmem_mark(&m, UINT64_MAX, 1);
	gmem_mark(&m, GIB(4) + 8 * 4096, 0);
	for (uint64_t page = 0; page < MIB(6) / GMEM_PAGE; page++)
		cr_assert_eq(dirty(&m, page), page <= 1 || page == second - 1 || page == second + 1,
			     "page %llu", (unsigned long long)page);
	gmem_finish(&m);
}

/* The last page of all, and a range across several words of the bitmap. */
Test(gmem, tracking_to_the_end)
{
	const uint64_t pages = MIB(6) / GMEM_PAGE;
	struct gmem m;

	init_two(&m, GMEM_ANON);
	cr_assert_eq(gmem_track(&m, NULL), 0);
	gmem_mark(&m, GIB(4), MIB(2));
	for (uint64_t page = 0; page < pages; page++)
		cr_assert_eq(dirty(&m, page), page >= MIB(4) / GMEM_PAGE);
	gmem_finish(&m);
}

/* It reads as something else afterwards. */
Test(gmem, what_is_discarded_was_written)
{
	const uint64_t first = MIB(5) / GMEM_PAGE;
	struct gmem m;

	init_two(&m, GMEM_ANON);
	cr_assert_eq(gmem_track(&m, NULL), 0);
	cr_assert_eq(gmem_discard(&m, m.region[1].host + MIB(1) - 1, KIB(8) + 2), KIB(8));
	for (uint64_t page = 0; page < MIB(6) / GMEM_PAGE; page++)
		cr_assert_eq(dirty(&m, page), page == first || page == first + 1, "page %llu",
			     (unsigned long long)page);
	gmem_finish(&m);
}

/* --- files above RAM --- */

static int file_of(uint64_t size)
{
	int fd = memfd_create("file", MFD_CLOEXEC);

	cr_assert(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
	return fd;
}

Test(gmem, a_file_above_ram_is_written_through)
{
	int fd = file_of(MIB(2) + 5000);
	char buf[4] = "";
	struct gmem m;

	cr_assert_eq(gmem_init(&m, two, 2, GMEM_ANON, false, NULL), 0);
	cr_assert_eq(gmem_add_file(&m, GIB(8), fd, MIB(2) + 5000, false, NULL), 0);
	cr_expect_eq(gmem_size(&m), MIB(6), "it is no RAM");
	cr_expect_eq(m.region[2].len, MIB(4));
	cr_expect_eq((uintptr_t)m.region[2].host % MIB(2), 0);
	cr_expect_not_null(gmem_at(&m, GIB(8), MIB(4)));
	cr_expect_null(gmem_at(&m, GIB(8), MIB(4) + 1));
	cr_expect_null(gmem_at(&m, GIB(8) - 1, 2));
	cr_expect_eq(gmem_write(&m, GIB(8) + MIB(2), "new", 4), 0);
	cr_expect_eq(fd_pread_full(fd, buf, 4, MIB(2)), 0);
	cr_expect_str_eq(buf, "new");
	/* Behind it there is memory. */
	cr_expect_eq(gmem_write(&m, GIB(8) + MIB(4) - 4, "end", 4), 0);
	cr_expect_eq(gmem_read(&m, GIB(8) + MIB(4) - 4, buf, 4), 0);
	cr_expect_str_eq(buf, "end");
	cr_expect_eq(lseek(fd, 0, SEEK_END), (off_t)(MIB(2) + 5000));
	gmem_finish(&m);
	close(fd);
}

Test(gmem, a_read_only_file_stays_as_it_is)
{
	int fd = file_of(MIB(2));
	char buf[4] = "";
	struct gmem m;

	cr_assert_eq(gmem_init(&m, two, 2, GMEM_ANON, false, NULL), 0);
	cr_assert_eq(gmem_add_file(&m, GIB(8), fd, MIB(2), true, NULL), 0);
	cr_expect(m.region[2].read_only);
	cr_expect_eq(gmem_write(&m, GIB(8), "new", 4), 0);
	cr_expect_eq(fd_pread_full(fd, buf, 4, 0), 0);
	cr_expect_str_eq(buf, "");
	gmem_finish(&m);
	close(fd);
}

Test(gmem, a_file_is_neither_tracked_nor_discarded)
{
	int fd = file_of(MIB(2));
	struct gmem m;

	cr_assert_eq(gmem_init(&m, two, 2, GMEM_ANON, false, NULL), 0);
	cr_assert_eq(gmem_track(&m, NULL), 0);
	cr_assert_eq(gmem_add_file(&m, GIB(8), fd, MIB(2), false, NULL), 0);
	cr_expect_eq(gmem_write(&m, GIB(8), "new", 4), 0);
	for (unsigned page = 0; page < MIB(6) / GMEM_PAGE; page++)
		cr_assert_not(dirty(&m, page));
	cr_expect_eq(gmem_discard(&m, gmem_at(&m, GIB(8), MIB(1)), MIB(1)), -EINVAL);
	cr_expect_eq(gmem_discard(&m, m.region[1].host, MIB(2) + 1), -EINVAL);
	cr_expect_eq(*(char *)gmem_at(&m, GIB(8), 1), 'n');
	gmem_finish(&m);
	close(fd);
}

/* --- blocks --- */

Test(gmem, memory_that_comes_and_goes)
{
	const struct gmem_region r[] = {
		{.gpa = 0, .len = MIB(4)},
		{.gpa = GIB(4), .len = MIB(256), .block = MIB(2), .part = MIB(128)},
	};
	const struct gmem_region *blocks;
	struct gmem m;

	cr_assert_eq(gmem_init(&m, r, 2, GMEM_ANON, false, NULL), 0);
	blocks = gmem_hotplug(&m);
	cr_assert_eq(blocks, &m.region[1]);
	cr_expect_eq(gmem_size(&m), MIB(260));
	cr_expect_null(gmem_at(&m, GIB(4), 1));
	cr_expect_not_null(gmem_at(&m, 0, MIB(4)));
	gmem_set_plugged(blocks, MIB(126), MIB(4), true);
	cr_expect(gmem_all_plugged(blocks, MIB(126), MIB(4)));
	cr_expect_not(gmem_all_plugged(blocks, MIB(126) - 1, 2));
	cr_expect(gmem_any_plugged(blocks, MIB(126) - 1, 2));
	cr_expect_not(gmem_any_plugged(blocks, 0, MIB(126)));
	cr_expect_not(gmem_any_plugged(blocks, MIB(130), MIB(126)));
	cr_expect_eq(gmem_at(&m, GIB(4) + MIB(126), MIB(4)), blocks->host + MIB(126));
	cr_expect_null(gmem_at(&m, GIB(4) + MIB(126), MIB(4) + 1));
	cr_expect_eq(gmem_write(&m, GIB(4) + MIB(128) - 1, "ab", 2), 0);
	gmem_set_plugged(blocks, MIB(126), MIB(2), false);
	cr_expect_eq(gmem_write(&m, GIB(4) + MIB(128) - 1, "ab", 2), -EFAULT);
	cr_expect_eq(gmem_write(&m, GIB(4) + MIB(128), "a", 1), 0);
	gmem_finish(&m);
	cr_assert_eq(gmem_init(&m, r, 1, GMEM_ANON, false, NULL), 0);
	cr_expect_null(gmem_hotplug(&m));
	gmem_finish(&m);
}

Test(gmem, address_space_first_memory_later)
{
	const struct gmem_region ram[] = {{.gpa = 0, .len = MIB(2)},
					  {.gpa = GIB(4), .len = MIB(2)}};
	char name[] = "/tmp/test_gmem.XXXXXX";
	int fd = mkstemp(name);
	struct gmem m;
	struct err e;

	unlink(name);
	cr_assert_eq(ftruncate(fd, MIB(4)), 0);
	cr_assert_eq(pwrite(fd, "there", 6, MIB(2)), 6);
	cr_assert_eq(gmem_reserve(&m, ram, 2, &e), 0, "%s", e.msg);
	cr_expect_eq((uintptr_t)gmem_base(&m) % MIB(2), 0);
	cr_assert_eq(gmem_back_file(&m, fd, &e), 0, "%s", e.msg);
	cr_expect_str_eq(gmem_at(&m, GIB(4), 6), "there");
	cr_assert_eq(gmem_write(&m, GIB(4), "other", 6), 0);
	gmem_finish(&m);

	/* One that is too short: what was reserved is given back all the same. */
	fd = memfd_create("short", 0);
	cr_assert_eq(gmem_reserve(&m, ram, 2, &e), 0, "%s", e.msg);
	cr_expect_eq(gmem_back_file(&m, fd, &e), -EINVAL);
	gmem_finish(&m);
	cr_expect_eq(fcntl(fd, F_GETFD), -1);

	cr_assert_eq(gmem_reserve(&m, ram, 2, &e), 0, "%s", e.msg);
	cr_assert_eq(gmem_back(&m, GMEM_MEMFD, false, &e), 0, "%s", e.msg);
	cr_assert_eq(gmem_write(&m, 0, "first", 6), 0);
	gmem_finish(&m);
}
