/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "snapshot/memory.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/lib/scratch.h"
#include "vmm/base/fd.h"

#define PAGES (3 * PAGESET_CHUNK + 100)

/* --- pageset --- */

Test(pageset, runs_over_words_and_chunks)
{
	struct pageset s;
	uint64_t at = 0;

	cr_assert_eq(pageset_init(&s, PAGES, NULL), 0);
	cr_expect_eq(pageset_run(&s, &at, PAGES), 0);
	pageset_add_range(&s, 60, 10);
	pageset_add_range(&s, 500, 600);
	pageset_add_range(&s, PAGES - 1, 50);
	pageset_add_range(&s, PAGES, 50);
	pageset_remove(&s, 1000);
	cr_expect_eq(pageset_count(&s), 10 + 599 + 1);
	at = 0;
	cr_expect_eq(pageset_run(&s, &at, PAGES), 10);
	cr_expect_eq(at, 60);
	at = 65;
	cr_expect_eq(pageset_run(&s, &at, PAGES), 5);
	cr_expect_eq(at, 65);
	at = 70;
	cr_expect_eq(pageset_run(&s, &at, 512), 12, "not beyond the end asked for");
	cr_expect_eq(at, 500);
	at = 512;
	cr_expect_eq(pageset_run(&s, &at, PAGES), 488);
	at = 1000;
	cr_expect_eq(pageset_run(&s, &at, PAGES), 99);
	cr_expect_eq(at, 1001);
	at = 1100;
	cr_expect_eq(pageset_run(&s, &at, PAGES), 1);
	cr_expect_eq(at, PAGES - 1);
	pageset_finish(&s);
}

/* --- memory --- */

struct fixture {
	struct scratch dir;
	struct gmem mem;
	struct pageset set;
	struct memory_table table;
	int fd;
};

/* Two regions, as beyond the gap. */
static const struct gmem_region regions[] = {
	{.gpa = 0, .len = PAGESET_CHUNK * GMEM_PAGE},
	{.gpa = GIB(4), .len = (PAGES - PAGESET_CHUNK) * GMEM_PAGE},
};

static void setup(struct fixture *f, enum gmem_backing backing)
{
	struct err e = {0};

	memset(f, 0, sizeof(*f));
	scratch_init(&f->dir);
	cr_assert_eq(gmem_init(&f->mem, regions, 2, backing, false, &e), 0, "%s", e.msg);
	cr_assert_eq(pageset_init(&f->set, PAGES, &e), 0);
	f->fd = open(scratch_path(&f->dir, "mem"), O_RDWR | O_CREAT, 0600);
	cr_assert_geq(f->fd, 0);
	cr_assert_eq(ftruncate(f->fd, PAGES * GMEM_PAGE), 0);
}

static void teardown(struct fixture *f)
{
	memory_table_finish(&f->table);
	pageset_finish(&f->set);
	gmem_finish(&f->mem);
	close(f->fd);
	scratch_finish(&f->dir);
}

static uint8_t *page(const struct fixture *f, uint64_t n)
{
	return gmem_base(&f->mem) + n * GMEM_PAGE;
}

/* Whether the file is what guest memory is. */
static void expect_same(const struct fixture *f)
{
	uint8_t *file = mmap(NULL, PAGES * GMEM_PAGE, PROT_READ, MAP_PRIVATE, f->fd, 0);

	cr_assert_neq(file, MAP_FAILED);
	cr_expect_eq(memcmp(file, page(f, 0), PAGES * GMEM_PAGE), 0);
	munmap(file, PAGES * GMEM_PAGE);
}

static uint64_t resident(const struct fixture *f)
{
	static unsigned char vec[PAGES];
	uint64_t n = 0;

	cr_assert_eq(mincore(page(f, 0), PAGES * GMEM_PAGE, vec), 0);
	for (unsigned i = 0; i < PAGES; i++)
		n += vec[i] & 1;
	return n;
}

static void touch(struct fixture *f)
{
	strcpy((char *)page(f, 3), "three");
	strcpy((char *)page(f, PAGESET_CHUNK - 1), "last of a chunk and a region");
	strcpy((char *)page(f, PAGESET_CHUNK), "first of the next");
	strcpy((char *)page(f, PAGES - 1), "the very last");
	page(f, 7)[0] = 1; /* touched, and zero again */
	page(f, 7)[0] = 0;
}

static void full(enum gmem_backing backing)
{
	struct fixture f;
	struct err e = {0};
	uint64_t before;

	setup(&f, backing);
	touch(&f);
	before = resident(&f);
	cr_assert_eq(memory_present(&f.mem, false, &f.set, &e), 0, "%s", e.msg);
	cr_assert_eq(memory_write(&f.mem, f.fd, &f.set, true, &f.table, &e), 0, "%s", e.msg);
	cr_expect_eq(pageset_count(&f.set), 4, "zeroes are not written");
	cr_expect_eq(f.table.count, 3);
	cr_expect_eq(f.table.chunk[2].number, 3);
	cr_expect_eq(memory_table_check(&f.table, PAGES, &e), 0);
	cr_expect_eq(resident(&f), before, "saving gives no page to the guest");
	expect_same(&f);
	teardown(&f);
}

Test(memory, full_snapshot_of_anonymous_memory)
{
	full(GMEM_ANON);
}

Test(memory, full_snapshot_of_a_memfd)
{
	full(GMEM_MEMFD);
}

Test(memory, a_full_one_has_holes)
{
	struct fixture f;

	setup(&f, GMEM_ANON);
	touch(&f);
	cr_assert_eq(memory_present(&f.mem, false, &f.set, NULL), 0);
	cr_assert_eq(memory_write(&f.mem, f.fd, &f.set, true, &f.table, NULL), 0);
	cr_expect_eq(lseek(f.fd, 0, SEEK_DATA), 3 * GMEM_PAGE);
	cr_expect_eq(lseek(f.fd, 3 * GMEM_PAGE, SEEK_HOLE), 4 * GMEM_PAGE);
	teardown(&f);
}

Test(memory, a_diff_has_zeroes_that_were_written)
{
	struct fixture f;
	struct err e = {0};

	setup(&f, GMEM_ANON);
	touch(&f);
	memset(page(&f, 0), 0xaa, GMEM_PAGE);
	cr_assert_eq(pwrite(f.fd, page(&f, 0), GMEM_PAGE, 7 * GMEM_PAGE), GMEM_PAGE);
	pageset_add(&f.set, 7);
	cr_assert_eq(memory_write(&f.mem, f.fd, &f.set, false, &f.table, &e), 0);
	cr_expect_eq(pageset_count(&f.set), 1);
	cr_expect_eq(f.table.count, 1);
	cr_expect_eq(f.table.chunk[0].pages[0], 1 << 7);
	cr_assert_eq(pread(f.fd, page(&f, 0), GMEM_PAGE, 7 * GMEM_PAGE), GMEM_PAGE);
	cr_expect(memory_is_zero(page(&f, 0)), "over what was there");
	teardown(&f);
}

Test(memory, what_changed_since_a_file_was_mapped)
{
	struct fixture f;
	struct err e = {0};
	struct gmem again;

	setup(&f, GMEM_ANON);
	touch(&f);
	cr_assert_eq(memory_present(&f.mem, false, &f.set, &e), 0);
	cr_assert_eq(memory_write(&f.mem, f.fd, &f.set, true, &f.table, &e), 0);
	cr_assert_eq(gmem_init_file(&again, regions, 2, dup(f.fd), &e), 0, "%s", e.msg);
	gmem_finish(&f.mem);
	f.mem = again;
	expect_same(&f);
	pageset_finish(&f.set);
	cr_assert_eq(pageset_init(&f.set, PAGES, &e), 0);
	cr_assert_eq(memory_changed(&f.mem, &f.set, &e), 0);
	cr_expect_eq(pageset_count(&f.set), 0, "reading changes nothing");
	page(&f, 3)[0] = 'T';
	page(&f, 600)[9] = 1;
	page(&f, PAGES - 1)[0] = page(&f, PAGES - 1)[0]; /* written, but the same */
	cr_assert_eq(memory_changed(&f.mem, &f.set, &e), 0);
	cr_expect_eq(pageset_count(&f.set), 2);
	cr_expect(pageset_has(&f.set, 3) && pageset_has(&f.set, 600));
	/* And a full one of it: what was in the file, and what came. */
	pageset_finish(&f.set);
	cr_assert_eq(pageset_init(&f.set, PAGES, &e), 0);
	cr_assert_eq(memory_present(&f.mem, false, &f.set, &e), 0);
	close(f.fd);
	f.fd = open(scratch_path(&f.dir, "mem2"), O_RDWR | O_CREAT, 0600);
	cr_assert_eq(ftruncate(f.fd, PAGES * GMEM_PAGE), 0);
	memory_table_finish(&f.table);
	cr_assert_eq(memory_write(&f.mem, f.fd, &f.set, true, &f.table, &e), 0);
	cr_expect_eq(pageset_count(&f.set), 5);
	expect_same(&f);
	teardown(&f);
}

Test(memory, the_rest_is_copied_around_what_changed)
{
	struct fixture f;
	struct err e = {0};
	int base;

	setup(&f, GMEM_ANON);
	touch(&f);
	memset(page(&f, 100), 5, 300 * GMEM_PAGE);
	cr_assert_eq(memory_present(&f.mem, false, &f.set, &e), 0);
	cr_assert_eq(memory_write(&f.mem, f.fd, &f.set, true, &f.table, &e), 0);
	memory_table_finish(&f.table);
	pageset_finish(&f.set);
	cr_assert_eq(pageset_init(&f.set, PAGES, &e), 0);
	base = f.fd;
	f.fd = open(scratch_path(&f.dir, "new"), O_RDWR | O_CREAT, 0600);
	cr_assert_eq(ftruncate(f.fd, PAGES * GMEM_PAGE), 0);
	memset(page(&f, 99), 6, 2 * GMEM_PAGE);
	memset(page(&f, 200), 0, GMEM_PAGE);
	pageset_add_range(&f.set, 99, 2);
	pageset_add(&f.set, 200);
	cr_assert_eq(memory_copy_rest(base, f.fd, &f.set, &e), 0, "%s", e.msg);
	cr_assert_eq(memory_write(&f.mem, f.fd, &f.set, false, &f.table, &e), 0);
	expect_same(&f);
	close(base);
	teardown(&f);
}

Test(memory, probes_tell_files_apart)
{
	struct fixture f;
	struct memory_probe probe[MEMORY_PROBES_MAX];
	unsigned n;

	setup(&f, GMEM_ANON);
	touch(&f);
	cr_assert_eq(memory_present(&f.mem, false, &f.set, NULL), 0);
	cr_assert_eq(memory_write(&f.mem, f.fd, &f.set, true, &f.table, NULL), 0);
	n = memory_choose_probes(&f.mem, &f.set, false, probe);
	cr_expect_geq(n, 3);
	cr_expect_eq(memory_check_probes(f.fd, probe, n), 0);
	cr_assert_eq(pwrite(f.fd, "T", 1, (off_t)probe[1].page * GMEM_PAGE + 100), 1);
	cr_expect_eq(memory_check_probes(f.fd, probe, n), -ESTALE);
	cr_assert_eq(ftruncate(f.fd, GMEM_PAGE), 0);
	cr_expect_eq(memory_check_probes(f.fd, probe, n), -ENODATA);
	/* Of a diff: pages that it does not have as well. */
	memset(f.set.bit, 0, PAGES / 8);
	pageset_add(&f.set, 3);
	n = memory_choose_probes(&f.mem, &f.set, true, probe);
	cr_expect_geq(n, 2);
	cr_expect_neq(probe[n - 1].page, 3);
	teardown(&f);
}

Test(memory, tracking_knows_what_spore_wrote)
{
	struct fixture f;
	struct err e = {0};

	setup(&f, GMEM_ANON);
	gmem_mark(&f.mem, 0, 1); /* nobody listens */
	cr_assert_eq(gmem_track(&f.mem, &e), 0);
	cr_assert_eq(gmem_write(&f.mem, 2 * GMEM_PAGE - 1, "xy", 2), 0);
	gmem_mark(&f.mem, GIB(4) + 70 * GMEM_PAGE, GMEM_PAGE + 1);
	gmem_mark(&f.mem, GIB(2), 8); /* no memory there */
	cr_expect_eq(f.mem.dirty[0], 3 << 1);
	cr_expect_eq(f.mem.dirty[PAGESET_CHUNK / 64 + 1], 3 << 6);
	pageset_add(&f.set, 9);
	memory_put_back(&f.mem, &f.set);
	cr_expect_eq(f.mem.dirty[0], (3 << 1) | (1 << 9));
	teardown(&f);
}

Test(memory, a_table_is_vetted)
{
	struct memory_table t = {0}, back = {0};
	struct wire w, in;

	t.count = 2;
	t.chunk = calloc(2, sizeof(*t.chunk));
	t.chunk[1].number = 3;
	t.chunk[1].pages[1] = 1;
	cr_expect_eq(memory_table_check(&t, PAGES, NULL), 0);
	t.chunk[1].pages[1] = 1ull << 36; /* page 100 of the last chunk: one too many */
	cr_expect_lt(memory_table_check(&t, PAGES, NULL), 0);
	t.chunk[1].pages[1] = 0;
	t.chunk[1].number = 4;
	cr_expect_lt(memory_table_check(&t, PAGES, NULL), 0);
	t.chunk[1].number = 0;
	cr_expect_lt(memory_table_check(&t, PAGES, NULL), 0, "ascending");
	wire_writer(&w, 1);
	memory_table_wire(&t, &w);
	wire_reader(&in, w.buf, w.pos, 1);
	memory_table_wire(&back, &in);
	cr_expect_eq(wire_end(&in), 0);
	cr_expect_eq(back.count, 2);
	memory_table_finish(&back);
	w.buf[3] = 0xff; /* 4 billion entries */
	wire_reader(&in, w.buf, w.pos, 1);
	memory_table_wire(&back, &in);
	cr_expect_neq(wire_end(&in), 0);
	memory_table_finish(&back);
	memory_table_finish(&t);
	wire_finish(&w);
}

Test(memory, a_file_of_another_size_is_not_mapped)
{
	struct fixture f;
	struct gmem m;
	struct err e = {0};

	setup(&f, GMEM_ANON);
	cr_assert_eq(ftruncate(f.fd, PAGES * GMEM_PAGE - 1), 0);
	cr_expect_eq(gmem_init_file(&m, regions, 2, dup(f.fd), &e), -EINVAL);
	cr_expect(strstr(e.msg, "bytes"), "%s", e.msg);
	teardown(&f);
}

/* In rounds, as under a guest that goes on: the file, and its table, are as memory is in the end. */
Test(memory, rounds_end_with_what_memory_is)
{
	struct fixture f;
	_Atomic bool stop = false;
	struct memory_table table;
	struct memory_taken taken = {0};
	struct pageset next;
	struct err e = {0};
	uint64_t hash;

	setup(&f, GMEM_ANON);
	cr_assert_eq(pageset_init(&next, PAGES, &e), 0);
	cr_assert_eq(memory_taken_init(&taken, PAGES, 2, &e), 0);
	memset(page(&f, 1), 1, GMEM_PAGE);
	memset(page(&f, 700), 2, GMEM_PAGE);
	memset(page(&f, PAGES - 1), 3, GMEM_PAGE);
	pageset_add_range(&next, 0, 3);
	pageset_add(&next, 700);
	pageset_add(&next, PAGES - 1);
	cr_expect_eq(memory_copy(&f.mem, f.fd, &next, true, &stop, &e), 0, "%s", e.msg);
	/* What was written meanwhile: one to zeroes, one that was not there, one that stays. */
	memset(page(&f, 1), 0, GMEM_PAGE);
	memset(page(&f, 701), 4, GMEM_PAGE);
	memset(page(&f, 1500), 5, GMEM_PAGE);
	pageset_clear(&next);
	pageset_add(&next, 1);
	pageset_add(&next, 701);
	pageset_add(&next, 1500);
	cr_expect_eq(memory_take(&f.mem, &next, &taken), 2);
	cr_expect_eq(pageset_count(&next), 1, "the third does not fit");
	memset(page(&f, 701), 9, GMEM_PAGE); /* behind the pause: not of this snapshot */
	cr_expect_eq(memory_copy(&f.mem, f.fd, &next, false, &stop, &e), 0);
	cr_expect_eq(memory_write_taken(f.fd, &taken, &e), 0);
	memset(page(&f, 701), 4, GMEM_PAGE);
	expect_same(&f);
	cr_expect_eq(memory_in_file(f.fd, &f.set, &e), 0);
	cr_expect_eq(memory_tabulate_file(f.fd, &f.set, true, &table, &e), 0, "%s", e.msg);
	cr_expect_eq(memory_table_count(&table), 4, "page 1 is of zeroes now");
	cr_expect_eq(table.count, 3);
	hash = memory_page_hash(page(&f, 700), 700) + memory_page_hash(page(&f, 701), 701);
	cr_expect_eq(table.chunk[0].hash, hash);
	stop = true;
	cr_expect_eq(memory_copy(&f.mem, f.fd, &f.set, true, &stop, &e), -ECANCELED);
	memory_table_finish(&table);
	pageset_finish(&next);
	memory_taken_finish(&taken);
	teardown(&f);
}
