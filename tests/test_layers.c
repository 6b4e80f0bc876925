/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "snapshot/layers.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "snapshot/clone.h"
#include "snapshot/state.h"
#include "tests/lib/scratch.h"
#include "vmm/base/fd.h"

#define PAGES (2 * PAGESET_CHUNK + 256)
#define SIZE  (PAGES * GMEM_PAGE)

static struct err e;
static struct gmem mem;
static struct state state;

TestSuite(layers, .timeout = 60);

/* A memfd of guest memory's length with `byte` in the pages of the set. */
static int file(const struct pageset *s, uint8_t byte)
{
	int fd = memfd_create("layer", MFD_CLOEXEC);
	uint8_t page[GMEM_PAGE];

	memset(page, byte, sizeof(page));
	cr_assert_eq(ftruncate(fd, SIZE), 0);
	for (uint64_t i = 0; s && i < PAGES; i++)
		if (pageset_has(s, i))
			cr_assert_eq(fd_pwrite_full(fd, page, GMEM_PAGE, i * GMEM_PAGE), 0);
	return fd;
}

/* A state as it is read, with so many layers of these pages. */
static void make_state(const struct pageset *pages, unsigned count)
{
	struct snapfile_writer out;

	snapfile_start(&out);
	for (unsigned i = 0; i < count; i++) {
		struct layer l = {.fd = -1};

		cr_assert_eq(layer_tabulate(&l, &pages[i], &e), 0);
		memory_table_wire(&l.table, snapfile_begin(&out, STATE_TAG_LAYR, i,
							   MEMORY_TABLE_VERSION, false));
		snapfile_end(&out);
		layer_finish(&l);
	}
	cr_assert_eq(snapfile_close(&out), 0);
	state = (struct state){.meta.mem_size = SIZE};
	cr_assert_eq(snapfile_parse(&state.file, out.wire.buf, out.wire.pos, &e), 0, "%s", e.msg);
}

static void base(void)
{
	const struct gmem_region ram[] = {{.gpa = 0, .len = MIB(2)},
					  {.gpa = GIB(4), .len = SIZE - MIB(2)}};
	struct pageset all = {0};

	cr_assert_eq(pageset_init(&all, PAGES, NULL), 0);
	pageset_add_range(&all, 0, PAGES);
	cr_assert_eq(gmem_init_file(&mem, ram, 2, file(&all, 'b'), &e), 0, "%s", e.msg);
	pageset_finish(&all);
}

static uint8_t at(uint64_t page)
{
	return gmem_base(&mem)[page * GMEM_PAGE];
}

Test(layers, a_page_is_that_of_the_last_layer_that_has_it)
{
	struct pageset pages[2] = {0};
	int fd[2];

	cr_assert_eq(pageset_init(&pages[0], PAGES, NULL), 0);
	cr_assert_eq(pageset_init(&pages[1], PAGES, NULL), 0);
	pageset_add_range(&pages[0], 0, 10);
	pageset_add_range(&pages[0], PAGESET_CHUNK - 1, 2);
	pageset_add(&pages[0], PAGES - 1);
	pageset_add_range(&pages[1], 5, 1);
	pageset_add_range(&pages[1], 9, 3);
	for (unsigned i = 0; i < 2; i++)
		fd[i] = file(&pages[i], (uint8_t)('0' + i));
	make_state(pages, 2);
	base();
	cr_expect_eq(state_count_layers(&state), 2);
	cr_assert_eq(layers_map(&mem, &state, fd, 2, &e), 0, "%s", e.msg);
	cr_expect_eq(mem.backing, GMEM_FORKED);
	for (uint64_t i = 0; i < PAGES; i++) {
		uint8_t want = pageset_has(&pages[1], i)   ? '1'
			       : pageset_has(&pages[0], i) ? '0'
							   : 'b';

		cr_assert_eq(at(i), want, "page %d: %c instead of %c", (int)i, at(i), want);
	}
	/* What is written stays private. */
	memset(gmem_base(&mem), 'x', SIZE);
	for (unsigned i = 0; i < 2; i++) {
		char c;

		cr_assert_eq(fd_pread_full(fd[i], &c, 1, 5 * GMEM_PAGE), 0);
		cr_expect_eq(c, (char)('0' + i));
		close(fd[i]);
		pageset_finish(&pages[i]);
	}
	gmem_finish(&mem);
	state_finish(&state);
}

Test(layers, what_does_not_belong_there_is_refused)
{
	struct pageset pages[LAYERS_MAX + 1] = {0};
	int fd[LAYERS_MAX + 1];
	cleanup_fd int small = memfd_create("small", MFD_CLOEXEC);

	for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
		cr_assert_eq(pageset_init(&pages[i], PAGES, NULL), 0);
		pageset_add(&pages[i], i);
		fd[i] = file(&pages[i], 'l');
	}
	base();
	make_state(pages, LAYERS_MAX + 1);
	cr_expect_eq(layers_map(&mem, &state, fd, LAYERS_MAX + 1, &e), -EINVAL, "too many");
	state_finish(&state);
	make_state(pages, 2);
	cr_expect_eq(layers_map(&mem, &state, fd, 1, &e), -EINVAL, "one is missing");
	cr_expect_eq(layers_map(&mem, &state, fd, 3, &e), -EINVAL, "one too many");
	cr_assert_eq(ftruncate(small, SIZE - GMEM_PAGE), 0);
	fd[LAYERS_MAX] = fd[1];
	fd[1] = small;
	cr_expect_eq(layers_map(&mem, &state, fd, 2, &e), -EINVAL, "would be a SIGBUS");
	cr_expect(strstr(e.msg, "layer 1: it has"), "%s", e.msg);
	cr_expect_neq(mem.backing, GMEM_FORKED);
	/* Pages behind the end of memory. */
	fd[1] = fd[LAYERS_MAX];
	state.meta.mem_size = MIB(2);
	cr_expect_lt(layers_map(&mem, &state, fd, 2, &e), 1);
	gmem_finish(&mem);
	state_finish(&state);
}

Test(layers, too_many_pieces_are_read_and_not_mapped)
{
	const uint64_t many = 40000;
	const struct gmem_region ram = {.len = many * GMEM_PAGE};
	struct pageset every_second = {0};
	struct layer l = {.fd = -1};
	int fd = memfd_create("layer", MFD_CLOEXEC);
	int below = memfd_create("base", MFD_CLOEXEC);
	struct snapfile_writer out;

	cr_assert_eq(pageset_init(&every_second, many, NULL), 0);
	cr_assert_eq(ftruncate(fd, (off_t)ram.len), 0);
	cr_assert_eq(ftruncate(below, (off_t)ram.len), 0);
	for (uint64_t i = 0; i < many; i += 2) {
		pageset_add(&every_second, i);
		cr_assert_eq(fd_pwrite_full(fd, "l", 1, i * GMEM_PAGE), 0);
	}
	cr_assert_eq(layer_tabulate(&l, &every_second, &e), 0);
	snapfile_start(&out);
	for (unsigned i = 0; i < 2; i++) {
		memory_table_wire(&l.table, snapfile_begin(&out, STATE_TAG_LAYR, i,
							   MEMORY_TABLE_VERSION, false));
		snapfile_end(&out);
	}
	cr_assert_eq(snapfile_close(&out), 0);
	state = (struct state){.meta.mem_size = ram.len};
	cr_assert_eq(snapfile_parse(&state.file, out.wire.buf, out.wire.pos, &e), 0);
	cr_assert_eq(gmem_init_file(&mem, &ram, 1, below, &e), 0);
	cr_assert_eq(layers_map(&mem, &state, (int[]){fd, fd}, 2, &e), 0, "%s", e.msg);
	for (uint64_t i = 0; i < many; i++)
		cr_assert_eq(at(i), i % 2 ? 0 : 'l');
	gmem_finish(&mem);
	state_finish(&state);
	layer_finish(&l);
	pageset_finish(&every_second);
	close(fd);
}

/* --- copies of disks --- */

Test(layers, a_clone_is_a_copy_with_holes_and_leaves_nothing)
{
	struct scratch dir;
	struct clone a = {0}, b = {0};
	cleanup_fd int from = -1, got = -1;
	char text[6] = "";

	scratch_init(&dir);
	from = open(scratch_path(&dir, "disk"), O_RDWR | O_CREAT, 0600);
	cr_assert_eq(ftruncate(from, MIB(64) + 512), 0);
	cr_assert_eq(fd_pwrite_full(from, "begin", 5, 0), 0);
	cr_assert_eq(fd_pwrite_full(from, "end!!", 5, MIB(64) + 507), 0);
	cr_expect_lt(clone_create(&a, "/nothing/here", &e), 0);
	clone_finish(&a, true);
	cr_assert_eq(clone_create(&a, scratch_path(&dir, "a"), &e), 0, "%s", e.msg);
	cr_assert_eq(clone_create(&b, scratch_path(&dir, "b"), &e), 0, "%s", e.msg);
	cr_assert_eq(clone_make(&a, from, &e), 0, "%s", e.msg);
	cr_assert_eq(fd_pwrite_full(from, "later", 5, 0), 0);
	cr_assert_eq(clone_make_from(&b, &a, &e), 0, "%s", e.msg);
	cr_expect_neq(access(scratch_path(&dir, "b"), F_OK), 0, "not before it is complete");
	cr_assert_eq(clone_commit(&a, &e), 0, "%s", e.msg);
	cr_assert_eq(clone_commit(&b, &e), 0, "%s", e.msg);
	got = open(scratch_path(&dir, "b"), O_RDONLY);
	cr_expect_eq(fd_size(got), (int64_t)MIB(64) + 512);
	cr_assert_eq(fd_pread_full(got, text, 5, 0), 0);
	cr_expect_str_eq(text, "begin");
	cr_assert_eq(fd_pread_full(got, text, 5, MIB(64) + 507), 0);
	cr_expect_str_eq(text, "end!!");
	clone_finish(&a, false);
	clone_finish(&b, true);
	cr_expect_neq(access(scratch_path(&dir, "a"), F_OK), 0);
	cr_expect_eq(access(scratch_path(&dir, "b"), F_OK), 0);
	cr_expect_neq(access(scratch_path(&dir, "a.tmp"), F_OK), 0);
	scratch_finish(&dir);
}
