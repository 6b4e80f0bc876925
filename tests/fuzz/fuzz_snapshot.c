/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A state file that anybody may have written.
 *
 * The first byte chooses: 0 the input is the file itself; 1 it is the section of a working set, after
 * four bytes for the pages of the guest; otherwise it replaces sections of a valid
 * file, whose checksums are right, so that the field lists and checks behind them are reached. Each
 * replacement is {which section, version, length (2 bytes), bytes}.
 *
 * What must hold: no crash, no leak, nothing read beyond the bytes; a refusal has a message; what is
 * accepted can be written again and is then accepted again; and a virtio device that it is given to
 * is either refused or works on within its memory.
 */
#include <stdio.h>

#include "snapshot/workset.h"
#include "tests/lib/driver.h"
#include "tests/lib/saved.h"
#include "virtio/rng.h"
#include "vmm/base/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "broken invariant: %s\n", what);
	abort();
}

/* What is left of the input. */
struct input {
	const uint8_t *p;
	size_t left;
};

static unsigned take(struct input *in, unsigned bytes)
{
	unsigned v = 0;

	for (unsigned i = 0; i < bytes && in->left; i++, in->left--)
		v |= (unsigned)*in->p++ << (8 * i);
	return v;
}

static struct snapfile valid;

/* The valid file with some sections replaced. */
static uint8_t *build(struct input *in, size_t *len)
{
	struct snapfile_writer out;
	struct snapfile_section s[16];
	uint8_t *copy;

	memcpy(s, valid.section, valid.count * sizeof(s[0]));
	while (in->left) {
		struct snapfile_section *r = &s[take(in, 1) % valid.count];

		r->version = (uint16_t)(take(in, 1) % 4);
		r->len = take(in, 2);
		r->len = MIN(r->len, in->left);
		r->data = in->p;
		in->p += r->len;
		in->left -= r->len;
	}
	snapfile_start(&out);
	for (unsigned i = 0; i < valid.count; i++) {
		wire_bytes(
			snapfile_begin(&out, s[i].tag, s[i].instance, s[i].version, s[i].optional),
			(void *)(uintptr_t)s[i].data, s[i].len);
		snapfile_end(&out);
	}
	must(snapfile_close(&out) == 0, "a file can be put together");
	*len = out.wire.pos;
	copy = malloc(*len);
	memcpy(copy, out.wire.buf, *len);
	snapfile_drop(&out);
	return copy;
}

/* The first virtio state, in a device that may go on with it. */
static void run_device(const struct state *s)
{
	struct driver g;
	struct err e = {0};

	driver_init(&g);
	driver_attach(&g, rng_create(&g.env, NULL));
	if (virtio_mmio_restore(&g.mmio, &s->virtio[0], &e) == 0) {
		virtio_mmio_kick(&g.mmio);
		driver_run(&g);
		driver_write(&g, VIRTIO_MMIO_STATUS, 0);
	} else {
		must(e.msg[0], "a refused device has a message");
	}
	driver_finish(&g);
}

static void write_again(struct state *s)
{
	struct snapfile_writer out;
	struct state back;
	struct err e = {0};
	uint8_t *copy;

	must(state_write(s, NULL, NULL, &out, &e) == 0, "what was read can be written");
	copy = malloc(out.wire.pos);
	memcpy(copy, out.wire.buf, out.wire.pos);
	must(state_parse(&back, copy, out.wire.pos, &e) == 0, "and read again");
	state_finish(&back);
	snapfile_drop(&out);
}

static void try(uint8_t *file, size_t len)
{
	struct memory_table table;
	struct state s;
	struct err e = {0};

	if (state_parse(&s, file, len, &e) < 0) {
		must(e.code > 0 && e.msg[0], "a refusal has a message");
		return;
	}
	state_read_table(&table, &s.file, s.meta.mem_size / GMEM_PAGE, &e);
	memory_table_finish(&table);
	if (s.virtio_count)
		run_device(&s);
	write_again(&s);
	state_finish(&s);
}

static void try_working_set(struct input *in)
{
	uint64_t pages = take(in, 4);
	struct workset_list l = {0};
	struct err e;
	struct wire w;

	wire_reader(&w, in->p, in->left, WORKSET_VERSION);
	workset_wire(&l, &w);
	if (wire_end(&w) == 0 && workset_check(&l, pages, &e) == 0)
		for (uint32_t i = 0; i < l.count; i++)
			must(l.extent[i].first <= pages &&
				     l.extent[i].count <= pages - l.extent[i].first,
			     "an extent is within guest memory");
	workset_list_finish(&l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	unsigned kind;
	struct err e;
	uint8_t *file;
	size_t len;

	log_set_level(LOG_OFF);
	if (!valid.buf) {
		file = saved_file(&len);
		must(snapfile_parse(&valid, file, len, &e) == 0, "the seed is valid");
	}
	kind = take(&in, 1);
	if (kind == 1) {
		try_working_set(&in);
		return 0;
	}
	if (kind) {
		file = build(&in, &len);
	} else {
		len = in.left;
		file = malloc(len ? len : 1);
		memcpy(file, in.p, len);
	}
	try(file, len);
	return 0;
}
