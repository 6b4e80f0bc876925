/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stream of a migration that anybody may send.
 *
 * The first byte: bit 0 which side reads; bit 1 whether the rest is the stream itself, or a list of
 * {type, first (2), count, length (2), body} of which records are made that are numbered and summed as they
 * have to be, so that what is behind that is reached; bit 2 whether it comes byte by byte.
 *
 * What must hold: no crash, no leak, nothing written beyond the memory and the body that was announced; a
 * refusal has a message; a record that is accepted is one that may come then and encodes to what it was.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "snapshot/stream.h"
#include "vmm/base/gmem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PAGES 4u

static uint8_t memory[PAGES * GMEM_PAGE];

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "broken invariant: %s\n", what);
	abort();
}

static void *place(void *arg, uint64_t first, uint64_t count)
{
	(void)arg;
	return range_within(first, count, PAGES) ? memory + first * GMEM_PAGE : NULL;
}

/* Reader and what it has given. */
struct feed {
	struct stream_in in;
	unsigned before; /* what was expected */
	size_t most;
};

static void look(struct feed *f)
{
	const struct stream_record *rec = &f->in.rec;
	struct stream_hello hello;
	uint8_t header[STREAM_HEADER];
	struct err e = {0};

	must(f->before >> rec->type & 1, "a record comes when it may");
	must(stream_encode(rec, f->in.seq - 1, f->in.to, header) == 0 &&
		     memcmp(header, f->in.header, sizeof(header)) == 0,
	     "what was read is what was written");
	if (rec->count)
		must(range_within(rec->first, rec->count, PAGES), "pages are memory");
	else
		must(f->in.to[rec->len] == '\0' || !rec->len, "a body has an end");
	if (rec->type == STREAM_HELLO && stream_parse_hello(&f->in, &hello, &e) < 0)
		must(e.msg[0], "a refusal has a message");
	if (rec->type == STREAM_ABORT || rec->type == STREAM_REFUSED)
		for (const char *c = stream_text(&f->in); *c; c++)
			must((unsigned char)*c >= ' ', "a text is printable");
	f->before = f->in.expected;
}

/* False: it was refused. */
static bool give(struct feed *f, const uint8_t *p, size_t len)
{
	while (len > 0) {
		struct err e = {0};
		void *to;
		size_t n = stream_want(&f->in, &to);
		int r;

		must(n > 0, "something is wanted");
		n = MIN(n, len);
		n = MIN(n, f->most);
		memcpy(to, p, n);
		p += n;
		len -= n;
		r = stream_got(&f->in, n, &e);
		if (r < 0) {
			must(e.code > 0 && e.msg[0], "a refusal has a message");
			return false;
		}
		if (r > 0)
			look(f);
	}
	return true;
}

/* One record of the list; how many bytes of the input it took, 0 at the end. */
static size_t make(struct feed *f, uint64_t seq, const uint8_t *p, size_t left, bool *ok)
{
	static uint8_t body[UINT16_MAX];
	uint8_t header[STREAM_HEADER];
	struct stream_record rec;
	size_t have;

	if (left < 6)
		return 0;
	rec = (struct stream_record){.type = p[0] % 20,
				     .first = (uint64_t)(p[1] | p[2] << 8),
				     .count = p[3] % (STREAM_PAGES_MAX + 2),
				     .len = (uint32_t)(p[4] | p[5] << 8)};
	if (rec.type == STREAM_PAGES)
		rec.len = MIN(rec.count, 15u) * GMEM_PAGE;
	have = MIN((size_t)rec.len, left - 6);
	memset(body, 0, rec.len);
	memcpy(body, p + 6, have);
	*ok = stream_encode(&rec, seq, body, header) == 0 && give(f, header, sizeof(header)) &&
	      give(f, body, rec.len);
	return 6 + have;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct feed f = {0};
	bool ok = true;
	size_t n = 1;

	if (size == 0)
		return 0;
	stream_in_init(&f.in, data[0] & 1 ? STREAM_FROM_TARGET : STREAM_FROM_SOURCE);
	f.in.place = place;
	f.before = f.in.expected;
	f.most = data[0] & 4 ? 1 : SIZE_MAX;
	if (data[0] & 2)
		give(&f, data + 1, size - 1);
	else
		for (size_t at = 1; ok && n > 0; at += n)
			n = make(&f, f.in.seq, data + at, size - at, &ok);
	stream_in_finish(&f.in);
	return 0;
}
