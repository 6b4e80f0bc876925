/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "snapshot/merge.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "snapshot/output.h"
#include "snapshot/state.h"
#include "vmm/base/fd.h"

#define CHUNK_BYTES ((size_t)PAGESET_CHUNK * GMEM_PAGE)

/* One snapshot that has been opened. */
struct opened {
	const struct snapshot_files *name;
	struct snapfile file;
	struct state_meta meta;
	struct memory_table table;
	int memory;
};

static void opened_finish(struct opened *o)
{
	memory_table_finish(&o->table);
	snapfile_finish(&o->file);
	fd_close(&o->memory);
}

static int read_state(struct opened *o, struct err *e)
{
	cleanup_fd int fd = fd_open_file(o->name->state, O_RDONLY, false, e);
	int r;

	if (fd < 0)
		return fd;
	r = snapfile_read(&o->file, fd, e);
	if (r == 0)
		r = state_read_meta(&o->meta, &o->file, e);
	if (r == 0)
		r = state_read_table(&o->table, &o->file, o->meta.mem_size / GMEM_PAGE, e);
	if (r == 0 && !snapfile_find(&o->file, STATE_TAG_MTAB, 0))
		r = err_set(e, EINVAL, "it has no memory table");
	return r < 0 ? err_wrap(e, "state file '%s'", o->name->state) : 0;
}

static int open_memory(struct opened *o, struct err *e)
{
	int64_t size;

	o->memory = output_open_memory(o->name->memory, o->meta.mem_inode, e);
	if (o->memory < 0)
		return o->memory;
	size = fd_size(o->memory);
	if (size < 0 || (uint64_t)size != o->meta.mem_size)
		return err_set(e, ESTALE, "memory file '%s': it has %lld bytes, should have %llu",
			       o->name->memory, (long long)size,
			       (unsigned long long)o->meta.mem_size);
	return 0;
}

static int open_snapshot(struct opened *o, const struct snapshot_files *name, struct err *e)
{
	int r;

	*o = (struct opened){.name = name, .memory = -1};
	r = read_state(o, e);
	return r == 0 ? open_memory(o, e) : r;
}

/* --- verify --- */

/* Reads a chunk, which may be cut off at the end of memory. */
static int read_chunk(int fd, uint64_t size, uint32_t number, uint8_t *buf, struct err *e)
{
	uint64_t off = (uint64_t)number * CHUNK_BYTES;
	size_t len = MIN((size_t)(size - off), CHUNK_BYTES);
	int r = fd_pread_full(fd, buf, len, off);

	memset(buf + len, 0, CHUNK_BYTES - len);
	return r < 0 ? err_set(e, -r, "read memory: %s", strerror(-r)) : 0;
}

static bool has_page(const struct memory_chunk *c, unsigned i)
{
	return c->pages[i / 64] >> (i % 64) & 1;
}

static uint64_t hash_chunk(const struct memory_chunk *c, const uint8_t *buf)
{
	uint64_t hash = 0;

	for (unsigned i = 0; i < PAGESET_CHUNK; i++)
		if (has_page(c, i))
			hash += memory_page_hash(buf + (size_t)i * GMEM_PAGE,
						 (uint64_t)c->number * PAGESET_CHUNK + i);
	return hash;
}

static int differs(const struct opened *o, uint64_t chunk, struct err *e)
{
	return err_set(e, ESTALE,
		       "memory file '%s': what is from byte %llu on is not what was saved",
		       o->name->memory, (unsigned long long)chunk * CHUNK_BYTES);
}

/* `c` NULL: nothing of the chunk was written. */
static int verify_chunk(const struct opened *o, uint32_t number, const struct memory_chunk *c,
			uint8_t *buf, struct err *e)
{
	int r = read_chunk(o->memory, o->meta.mem_size, number, buf, e);

	if (r < 0)
		return r;
	if (c && hash_chunk(c, buf) != c->hash)
		return differs(o, number, e);
	/* What a diff does not have is nobody's business: it may have been merged or not. */
	if (state_is_diff(&o->meta))
		return 0;
	for (unsigned i = 0; i < PAGESET_CHUNK; i++)
		if (!(c && has_page(c, i)) && !memory_is_zero(buf + (size_t)i * GMEM_PAGE))
			return differs(o, number, e);
	return 0;
}

static int verify(const struct opened *o, struct err *e)
{
	cleanup_free uint8_t *buf = aligned_alloc(GMEM_PAGE, CHUNK_BYTES);
	uint64_t chunks = (o->meta.mem_size + CHUNK_BYTES - 1) / CHUNK_BYTES;
	uint32_t next = 0;
	int r = 0;

	if (!buf)
		return err_set(e, ENOMEM, "out of memory");
	for (uint32_t n = 0; r == 0 && n < chunks; n++) {
		bool there = next < o->table.count && o->table.chunk[next].number == n;

		if (there || !state_is_diff(&o->meta))
			r = verify_chunk(o, n, there ? &o->table.chunk[next] : NULL, buf, e);
		next += there;
	}
	return r;
}

int snapshot_verify(const struct snapshot_files *s, struct err *e)
{
	struct opened o;
	int r = open_snapshot(&o, s, e);

	if (r == 0)
		r = verify(&o, e);
	opened_finish(&o);
	return r;
}

/* --- merge --- */

struct merge {
	struct opened base, diff;
	struct output out;
	struct memory_table table; /* of the result */
	uint8_t *buf;
};

static int check_pair(const struct merge *m, struct err *e)
{
	const struct state_meta *b = &m->base.meta, *d = &m->diff.meta;

	if (!state_is_diff(d))
		return err_set(e, EINVAL, "'%s' is complete, not a diff", m->diff.name->state);
	if (state_is_diff(b))
		return err_set(e, EINVAL, "'%s' is a diff itself, merge it first",
			       m->base.name->state);
	if (!snapshot_id_equal(&d->parent, &b->id) && !snapshot_id_equal(&d->origin, &b->id))
		return err_set(e, ESTALE, "the diff '%s' is not of the snapshot '%s'",
			       m->diff.name->state, m->base.name->state);
	if (d->mem_size != b->mem_size)
		return err_set(e, EINVAL, "the two have memory of different size");
	if (memory_check_probes(m->base.memory, b->probe, b->probes) < 0)
		return err_set(e, ESTALE, "'%s' is not the memory of '%s'", m->base.name->memory,
			       m->base.name->state);
	return 0;
}

/* One page of the diff; of zeroes it becomes a hole where that is possible. */
static int put_page(int fd, const uint8_t *page, uint64_t number, struct err *e)
{
	off_t off = (off_t)(number * GMEM_PAGE);
	int r;

	if (memory_is_zero(page) &&
	    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, GMEM_PAGE) == 0)
		return 0;
	r = fd_pwrite_full(fd, page, GMEM_PAGE, (uint64_t)off);
	return r < 0 ? err_set(e, -r, "write merged memory: %s", strerror(-r)) : 0;
}

static int put_chunk(struct merge *m, const struct memory_chunk *c, struct err *e)
{
	int r = read_chunk(m->diff.memory, m->diff.meta.mem_size, c->number, m->buf, e);

	if (r == 0 && hash_chunk(c, m->buf) != c->hash)
		r = differs(&m->diff, c->number, e);
	for (unsigned i = 0; r == 0 && i < PAGESET_CHUNK; i++)
		if (has_page(c, i))
			r = put_page(m->out.memory.fd, m->buf + (size_t)i * GMEM_PAGE,
				     (uint64_t)c->number * PAGESET_CHUNK + i, e);
	return r;
}

static int merge_memory(struct merge *m, struct err *e)
{
	struct pageset changed = {0};
	int fd = m->out.memory.fd;
	int r = pageset_init(&changed, m->diff.meta.mem_size / GMEM_PAGE, e);

	if (r == 0) {
		memory_table_pages(&m->diff.table, &changed);
		r = memory_copy_rest(m->base.memory, fd, &changed, e);
	}
	pageset_finish(&changed);
	if (r == 0 && ftruncate(fd, (off_t)m->diff.meta.mem_size) < 0)
		r = err_sys(e, "size the merged memory");
	for (uint32_t i = 0; r == 0 && i < m->diff.table.count; i++)
		r = put_chunk(m, &m->diff.table.chunk[i], e);
	return r;
}

/* The entry of a chunk that the diff has changed: from what is in the file now. */
static int rehash(struct merge *m, struct memory_chunk *c, struct err *e)
{
	int r = read_chunk(m->out.memory.fd, m->diff.meta.mem_size, c->number, m->buf, e);

	memset(c->pages, 0, sizeof(c->pages));
	for (unsigned i = 0; r == 0 && i < PAGESET_CHUNK; i++)
		if (!memory_is_zero(m->buf + (size_t)i * GMEM_PAGE))
			c->pages[i / 64] |= 1ull << (i % 64);
	c->hash = hash_chunk(c, m->buf);
	return r;
}

/* Walks both tables, which are ascending. */
static int merge_tables(struct merge *m, struct err *e)
{
	const struct memory_table *b = &m->base.table, *d = &m->diff.table;
	uint32_t i = 0, j = 0;
	int r = 0;

	m->table.chunk = calloc((size_t)b->count + d->count + 1, sizeof(*m->table.chunk));
	if (!m->table.chunk)
		return err_set(e, ENOMEM, "out of memory");
	while (r == 0 && (i < b->count || j < d->count)) {
		struct memory_chunk *c = &m->table.chunk[m->table.count];
		bool from_base =
			j == d->count || (i < b->count && b->chunk[i].number < d->chunk[j].number);

		*c = from_base ? b->chunk[i] : d->chunk[j];
		if (!from_base) {
			r = rehash(m, c, e);
			i += i < b->count && b->chunk[i].number == d->chunk[j].number;
			j++;
		} else {
			i++;
		}
		/* All of it may be zero by now. */
		for (unsigned w = 0; w < PAGESET_CHUNK / 64; w++)
			if (c->pages[w]) {
				m->table.count++;
				break;
			}
	}
	return r;
}

static int merge_state(struct merge *m, struct err *e)
{
	struct state_meta meta = m->diff.meta;
	struct snapfile_writer out;
	int r;

	meta.parent = meta.origin = (struct snapshot_id){0};
	meta.mem_inode = m->out.memory.inode;
	meta.mem_written = memory_table_count(&m->table);
	r = state_rewrite(&m->diff.file, &meta, &m->table, &out, e);
	if (r == 0) {
		r = fd_write_full(m->out.state.fd, out.wire.buf, out.wire.pos);
		if (r < 0)
			err_set(e, -r, "write '%s': %s", m->out.state.path, strerror(-r));
	}
	snapfile_drop(&out);
	return r;
}

static int merge_into(struct merge *m, const struct snapshot_files *out, struct err *e)
{
	int r = output_create(&m->out, out->state, out->memory, e);

	if (r < 0)
		return r;
	r = merge_memory(m, e);
	if (r == 0)
		r = merge_tables(m, e);
	if (r == 0)
		r = merge_state(m, e);
	if (r == 0)
		r = output_commit(&m->out, e);
	output_drop(&m->out);
	return r;
}

int snapshot_merge(const struct snapshot_files *base, const struct snapshot_files *diff,
		   const struct snapshot_files *out, struct err *e)
{
	struct merge m = {.diff = {.memory = -1}};
	int r;

	m.buf = aligned_alloc(GMEM_PAGE, CHUNK_BYTES);
	if (!m.buf)
		return err_set(e, ENOMEM, "out of memory");
	r = open_snapshot(&m.base, base, e);
	if (r == 0)
		r = open_snapshot(&m.diff, diff, e);
	if (r == 0)
		r = check_pair(&m, e);
	if (r == 0)
		r = merge_into(&m, out, e);
	opened_finish(&m.base);
	opened_finish(&m.diff);
	memory_table_finish(&m.table);
	free(m.buf);
	return r;
}
