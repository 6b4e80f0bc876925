/* SPDX-License-Identifier: Apache-2.0 */
#include "snapshot/file.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/scratch.h"

enum { ONE = SNAPFILE_TAG('O', 'N', 'E', ' '), TWO = SNAPFILE_TAG('T', 'W', 'O', ' ') };

/* Two sections of TAG ONE, one optional TWO. The caller frees the bytes. */
static uint8_t *make(size_t *len)
{
	struct snapfile_writer out;
	uint8_t bytes[5] = {1, 2, 3, 4, 5}, *copy;

	snapfile_start(&out);
	wire_bytes(snapfile_begin(&out, ONE, 0, 3, false), bytes, 5);
	snapfile_end(&out);
	snapfile_begin(&out, ONE, 1, 3, false);
	snapfile_end(&out);
	wire_bytes(snapfile_begin(&out, TWO, 0, 1, true), bytes, 4);
	snapfile_end(&out);
	cr_assert_eq(snapfile_close(&out), 0);
	*len = out.wire.pos;
	copy = malloc(*len);
	memcpy(copy, out.wire.buf, *len);
	snapfile_drop(&out);
	return copy;
}

static int parse_copy(const uint8_t *bytes, size_t len, struct err *e)
{
	struct snapfile f;
	uint8_t *copy = malloc(len ? len : 1);
	int r;

	memcpy(copy, bytes, len);
	r = snapfile_parse(&f, copy, len, e);
	if (r == 0)
		snapfile_finish(&f);
	return r;
}

Test(snapfile, what_was_written_is_read)
{
	const struct snapfile_section *s;
	struct snapfile f;
	struct err e = {0};
	size_t len;
	uint8_t *bytes = make(&len);

	cr_assert_eq(snapfile_parse(&f, bytes, len, &e), 0, "%s", e.msg);
	cr_expect_eq(f.count, 3);
	s = snapfile_find(&f, ONE, 0);
	cr_assert_not_null(s);
	cr_expect_eq(s->len, 5);
	cr_expect_eq(s->version, 3);
	cr_expect_not(s->optional);
	cr_expect_eq(s->data[4], 5);
	cr_expect_eq(snapfile_find(&f, ONE, 1)->len, 0);
	cr_expect(snapfile_find(&f, TWO, 0)->optional);
	cr_expect_null(snapfile_find(&f, TWO, 1));
	snapfile_finish(&f);
}

Test(snapfile, every_truncation_is_refused)
{
	size_t len;
	uint8_t *bytes = make(&len);

	for (size_t n = 0; n < len; n++) {
		struct err e = {0};

		cr_expect_lt(parse_copy(bytes, n, &e), 0, "%zu bytes", n);
		cr_expect_str_not_empty(e.msg);
	}
	free(bytes);
}

Test(snapfile, every_flipped_bit_is_refused)
{
	size_t len;
	uint8_t *bytes = make(&len);

	for (size_t bit = 0; bit < len * 8; bit++) {
		struct err e = {0};

		bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		cr_expect_lt(parse_copy(bytes, len, &e), 0, "bit %zu", bit);
		cr_expect_str_not_empty(e.msg);
		bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
	free(bytes);
}

Test(snapfile, a_section_that_is_there_twice_is_refused)
{
	struct snapfile_writer out;
	struct err e = {0};

	snapfile_start(&out);
	for (int i = 0; i < 2; i++) {
		snapfile_begin(&out, ONE, 7, 1, false);
		snapfile_end(&out);
	}
	cr_assert_eq(snapfile_close(&out), 0);
	cr_expect_lt(parse_copy(out.wire.buf, out.wire.pos, &e), 0);
	cr_expect(strstr(e.msg, "twice"), "%s", e.msg);
	snapfile_drop(&out);
}

Test(snapfile, an_error_of_a_field_list_is_that_of_the_file)
{
	struct snapfile_writer out;

	snapfile_start(&out);
	wire_fail(snapfile_begin(&out, ONE, 0, 1, false), -EMSGSIZE);
	snapfile_end(&out);
	cr_expect_eq(snapfile_close(&out), -EMSGSIZE);
	snapfile_drop(&out);
}

Test(snapfile, files_that_are_none)
{
	struct scratch s;
	struct snapfile f;
	struct err e = {0};
	FILE *file;

	scratch_init(&s);
	file = fopen(scratch_file(&s, "text", "#!/bin/sh\nexit 0 # no snapshot at all\n", 38), "r");
	cr_expect_lt(snapfile_read(&f, fileno(file), &e), 0);
	cr_expect(strstr(e.msg, "not a snapshot of spore"), "%s", e.msg);
	fclose(file);
	file = fopen(scratch_file(&s, "empty", "", 0), "r+");
	cr_expect_lt(snapfile_read(&f, fileno(file), &e), 0);
	cr_assert_eq(ftruncate(fileno(file), (off_t)SNAPFILE_SIZE_MAX + 1), 0);
	cr_expect_eq(snapfile_read(&f, fileno(file), &e), -EFBIG);
	fclose(file);
	scratch_finish(&s);
}
