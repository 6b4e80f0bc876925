/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/base/wire.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

struct thing {
	uint8_t a;
	uint16_t b;
	uint32_t c;
	uint64_t d;
	bool e;
	unsigned f;
	char name[8];
	char *text, *none;
	uint8_t raw[3];
};

static void thing_wire(struct thing *t, struct wire *w)
{
	wire_u8(w, &t->a);
	wire_u16(w, &t->b);
	wire_u32(w, &t->c);
	wire_u64(w, &t->d);
	wire_bool(w, &t->e);
	wire_unsigned(w, &t->f);
	wire_name(w, t->name, sizeof(t->name));
	wire_text(w, &t->text, 100);
	wire_text(w, &t->none, 100);
	if (w->version >= 2)
		wire_bytes(w, t->raw, sizeof(t->raw));
}

static void write_thing(struct wire *w, unsigned version)
{
	struct thing t = {.a = 1,
			  .b = 0x0203,
			  .c = 0x04050607,
			  .d = 0x08090a0b0c0d0e0f,
			  .e = true,
			  .f = 77,
			  .name = "seven77",
			  .text = (char *)(uintptr_t) "some text",
			  .raw = {7, 8, 9}};

	wire_writer(w, version);
	thing_wire(&t, w);
	cr_assert_eq(wire_end(w), 0);
}

static void finish(struct thing *t)
{
	free(t->text);
	free(t->none);
}

Test(wire, one_list_for_both_directions)
{
	struct wire out, in;
	struct thing t = {.none = strdup("replaced")};

	write_thing(&out, 2);
	cr_expect_eq(out.buf[1], 3, "little-endian");
	wire_reader(&in, out.buf, out.pos, 2);
	thing_wire(&t, &in);
	cr_assert_eq(wire_end(&in), 0);
	cr_expect_eq(t.a, 1);
	cr_expect_eq(t.b, 0x0203);
	cr_expect_eq(t.c, 0x04050607);
	cr_expect_eq(t.d, 0x08090a0b0c0d0e0f);
	cr_expect(t.e);
	cr_expect_eq(t.f, 77);
	cr_expect_str_eq(t.name, "seven77");
	cr_expect_str_eq(t.text, "some text");
	cr_expect_null(t.none);
	cr_expect_eq(t.raw[2], 9);
	finish(&t);
	wire_finish(&out);
}

Test(wire, an_older_version_has_fewer_fields)
{
	struct wire out, in;
	struct thing t = {.raw = {1, 1, 1}};

	write_thing(&out, 1);
	wire_reader(&in, out.buf, out.pos, 1);
	thing_wire(&t, &in);
	cr_expect_eq(wire_end(&in), 0);
	cr_expect_eq(t.raw[0], 1, "left as it was");
	finish(&t);
	wire_finish(&out);
}

Test(wire, every_truncation_is_an_error_and_reads_zeroes)
{
	struct wire out;

	write_thing(&out, 2);
	for (size_t len = 0; len < out.pos; len++) {
		uint8_t *copy = malloc(len ? len : 1); /* so that a sanitizer sees one byte more */
		struct thing t = {.raw = {5, 5, 5}};
		struct wire in;

		memcpy(copy, out.buf, len);
		wire_reader(&in, copy, len, 2);
		thing_wire(&t, &in);
		cr_expect_neq(wire_end(&in), 0, "%zu bytes", len);
		cr_expect_eq(t.raw[0], 0);
		finish(&t);
		free(copy);
	}
	wire_finish(&out);
}

Test(wire, bytes_that_are_left_are_an_error)
{
	static const uint8_t two[2] = {1, 2};
	struct wire in;
	uint8_t v;

	wire_reader(&in, two, sizeof(two), 1);
	wire_u8(&in, &v);
	cr_expect_eq(wire_end(&in), -EMSGSIZE);
}

Test(wire, a_bool_is_0_or_1)
{
	static const uint8_t two = 2;
	struct wire in;
	bool v = true;

	wire_reader(&in, &two, 1, 1);
	wire_bool(&in, &v);
	cr_expect_eq(wire_end(&in), -EBADMSG);
	cr_expect_not(v);
}

Test(wire, names_and_texts_are_judged)
{
	static const uint8_t nul[] = {3, 0, 'a', 0, 'b'};
	static const uint8_t exact[] = {4, 0, 'a', 'b', 'c', 'd'};
	static const uint8_t long_text[] = {1, 5, 0, 0, 0, 'a', 'b', 'c', 'd', 'e'};
	static const uint8_t huge[] = {1, 0xff, 0xff, 0xff, 0xff, 'a'};
	char name[4], *text = NULL;
	struct wire in;

	wire_reader(&in, nul, sizeof(nul), 1);
	wire_name(&in, name, sizeof(name));
	cr_expect_eq(wire_end(&in), -EBADMSG);
	cr_expect_str_empty(name);
	wire_reader(&in, exact, sizeof(exact), 1);
	wire_name(&in, name, sizeof(name));
	cr_expect_eq(wire_end(&in), -EBADMSG, "no room for the zero");
	wire_reader(&in, long_text, sizeof(long_text), 1);
	wire_text(&in, &text, 4);
	cr_expect_eq(wire_end(&in), -EBADMSG);
	wire_reader(&in, long_text, sizeof(long_text), 1);
	wire_text(&in, &text, 5);
	cr_expect_eq(wire_end(&in), 0);
	cr_expect_str_eq(text, "abcde");
	wire_reader(&in, huge, sizeof(huge), 1);
	wire_text(&in, &text, SIZE_MAX);
	cr_expect_eq(wire_end(&in), -ENODATA, "nothing is allocated for it");
	cr_expect_null(text);
}

Test(wire, the_first_error_stays)
{
	static const uint8_t bytes[] = {2, 1};
	struct wire in;
	uint32_t n = 9;
	bool b;

	wire_reader(&in, bytes, sizeof(bytes), 1);
	wire_bool(&in, &b);
	wire_u32(&in, &n);
	wire_fail(&in, -EIO);
	cr_expect_eq(wire_end(&in), -EBADMSG);
	cr_expect_eq(n, 0);
}

Test(wire, writing_grows_over_many_pages)
{
	struct wire w;
	uint8_t big[10000];

	memset(big, 3, sizeof(big));
	wire_writer(&w, 1);
	for (int i = 0; i < 20; i++)
		wire_bytes(&w, big, sizeof(big));
	cr_expect_eq(wire_end(&w), 0);
	cr_expect_eq(w.pos, 20 * sizeof(big));
	cr_expect_eq(w.buf[w.pos - 1], 3);
	wire_finish(&w);
}
