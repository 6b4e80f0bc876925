/* SPDX-License-Identifier: Apache-2.0 */
#include "snapshot/workset.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#define PRESENT (1ull << 63)
#define OF_FILE (1ull << 61)
#define PAGES	100u

static struct workset_list list;
static struct pageset seen_read, seen_written;
static struct err e;

static void start(void)
{
	cr_assert_eq(pageset_init(&seen_read, PAGES, &e), 0);
	cr_assert_eq(pageset_init(&seen_written, PAGES, &e), 0);
}

static void finish(void)
{
	pageset_finish(&seen_read);
	pageset_finish(&seen_written);
	workset_list_finish(&list);
}

TestSuite(workset, .init = start, .fini = finish, .timeout = 30);

static void expect_extent(uint32_t i, uint64_t first, uint64_t count, bool written)
{
	cr_assert_lt(i, list.count);
	cr_expect_eq(list.extent[i].first, first, "extent %u begins at %llu", i,
		     (unsigned long long)list.extent[i].first);
	cr_expect_eq(list.extent[i].count, count, "extent %u has %llu", i,
		     (unsigned long long)list.extent[i].count);
	cr_expect_eq(list.extent[i].written, written, "extent %u", i);
}

static int note(const uint64_t *entry)
{
	/* In two parts, as the recorder reads. */
	int r = workset_note(&list, &seen_read, &seen_written, entry, 0, 40);

	return r < 0 ? r
		     : workset_note(&list, &seen_read, &seen_written, entry + 40, 40, PAGES - 40);
}

Test(workset, what_is_new_goes_to_the_end_in_order)
{
	uint64_t entry[PAGES] = {
		[3] = PRESENT | OF_FILE,		  /* read: its whole unit */
		[5] = PRESENT | OF_FILE,		  /* the same unit */
		[38] = PRESENT,		  [39] = PRESENT, /* written, */
		[40] = 1ull << 62,			  /* of which one was swapped out since */
		[99] = PRESENT | OF_FILE,		  /* the last unit is short */
	};

	cr_assert_eq(note(entry), 0);
	cr_expect_eq(list.count, 3);
	expect_extent(0, 0, 16, false);
	expect_extent(1, 38, 3, true);
	expect_extent(2, 96, 4, false);
	cr_assert_eq(note(entry), 0);
	cr_expect_eq(list.count, 3, "nothing new");
	entry[3] = PRESENT; /* read before, written now */
	entry[50] = PRESENT;
	cr_assert_eq(note(entry), 0);
	cr_expect_eq(list.count, 5);
	expect_extent(3, 3, 1, true);
	expect_extent(4, 50, 1, true);
}

static void write_and_read(struct workset_list *to)
{
	struct wire out, in;

	wire_writer(&out, WORKSET_VERSION);
	workset_wire(&list, &out);
	cr_assert_eq(wire_end(&out), 0);
	wire_reader(&in, out.buf, out.pos, WORKSET_VERSION);
	workset_wire(to, &in);
	cr_assert_eq(wire_end(&in), 0);
	wire_finish(&out);
}

Test(workset, what_is_written_is_read_and_judged)
{
	uint64_t entry[PAGES] = {[0] = PRESENT, [20] = PRESENT | OF_FILE};
	struct workset_list back = {0};

	memset(&list.id, 7, sizeof(list.id));
	cr_assert_eq(note(entry), 0);
	write_and_read(&back);
	cr_expect(snapshot_id_equal(&back.id, &list.id));
	cr_expect_eq(back.count, 2);
	cr_expect_eq(back.extent[1].first, 16);
	cr_expect_eq(workset_check(&back, PAGES, &e), 0);
	cr_expect_eq(workset_check(&back, 20, &e), -EINVAL, "beyond a smaller guest");
	back.extent[1].first = UINT64_MAX;
	back.extent[1].count = 2;
	cr_expect_eq(workset_check(&back, PAGES, &e), -EINVAL, "the sum wraps");
	workset_list_finish(&back);
}

Test(workset, bytes_that_lie_are_refused)
{
	uint8_t bytes[SNAPSHOT_ID_LEN + 4 + 17] = {0};
	struct workset_list l = {0};
	struct wire w;

	memset(bytes + SNAPSHOT_ID_LEN, 0xff, 4); /* how many there are */
	wire_reader(&w, bytes, sizeof(bytes), WORKSET_VERSION);
	workset_wire(&l, &w);
	cr_expect_eq(wire_end(&w), -EBADMSG);
	cr_expect_eq(l.count, 0);
	workset_list_finish(&l);
	for (size_t len = 0; len < sizeof(bytes); len++) {
		memset(bytes, 0, sizeof(bytes));
		bytes[SNAPSHOT_ID_LEN] = 1;
		wire_reader(&w, bytes, len, WORKSET_VERSION);
		workset_wire(&l, &w);
		cr_expect_lt(wire_end(&w), 0, "%zu bytes", len);
		workset_list_finish(&l);
	}
}

Test(workset, a_list_is_bounded)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i <= WORKSET_EXTENTS_MAX; i++) {
		uint64_t entry[2] = {0, PRESENT};

		/* Every other page of a guest that is as large as it has to be. */
		if (i == 0) {
			finish();
			cr_assert_eq(pageset_init(&seen_read, 2 * WORKSET_EXTENTS_MAX + 4, &e), 0);
			cr_assert_eq(pageset_init(&seen_written, 2 * WORKSET_EXTENTS_MAX + 4, &e),
				     0);
		}
		r = workset_note(&list, &seen_read, &seen_written, entry, 2 * (uint64_t)i, 2);
	}
	cr_expect_eq(r, -ENOSPC);
	cr_expect_eq(list.count, WORKSET_EXTENTS_MAX);
}

Test(workset, what_lies_close_together_is_read_at_once)
{
	struct workset_extent extent[] = {
		{16, 16, false},   {20, 1, true},  {48, 2, true},  /* within, and a gap of a unit */
		{67, 1, false},					   /* a larger gap */
		{10, 1, false},					   /* back */
		{300, 600, false}, {800, 1, true}, {812, 1, true}, /* too much at once */
	};
	struct workset_list l = {.extent = extent, .count = sizeof(extent) / sizeof(extent[0])};
	static const struct {
		uint32_t next;
		uint64_t first, end;
	} want[] = {{3, 16, 50}, {4, 67, 68}, {5, 10, 11}, {7, 300, 900}, {8, 812, 813}};
	uint64_t first, end;
	uint32_t at = 0;

	for (unsigned i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		at = workset_gather(&l, at, &first, &end);
		cr_assert_eq(at, want[i].next, "%u: %u", i, at);
		cr_assert_eq(first, want[i].first, "%u", i);
		cr_assert_eq(end, want[i].end, "%u", i);
	}
	cr_assert_eq(at, l.count);
}
