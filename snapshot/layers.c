/* SPDX-License-Identifier: Apache-2.0 */
#include "snapshot/layers.h"

#include <errno.h>
#include <string.h>

#include "snapshot/state.h"
#include "vmm/base/fd.h"

/*
 * Each run of pages is a mapping of its own, or two, and a process may have 65530 of them. The layers
 * that do not fit any more are read: their pages are then private.
 */
#define RUNS_MAX 16384u

void layer_finish(struct layer *l)
{
	fd_close(&l->fd);
	memory_table_finish(&l->table);
}

int layer_tabulate(struct layer *l, const struct pageset *pages, struct err *e)
{
	const uint64_t chunks = (pages->pages + PAGESET_CHUNK - 1) / PAGESET_CHUNK;
	struct memory_table *t = &l->table;
	uint64_t at = 0;

	*t = (struct memory_table){.chunk = calloc(chunks, sizeof(*t->chunk))};
	if (!t->chunk)
		return err_set(e, ENOMEM, "out of memory");
	for (; pageset_run(pages, &at, pages->pages); at = align_up(at + 1, PAGESET_CHUNK)) {
		struct memory_chunk *c = &t->chunk[t->count++];

		c->number = (uint32_t)(at / PAGESET_CHUNK);
		memcpy(c->pages, &pages->bit[(uint64_t)c->number * (PAGESET_CHUNK / 64)],
		       sizeof(c->pages));
	}
	return 0;
}

static uint64_t count_runs(const struct pageset *s)
{
	uint64_t at = 0, n, count = 0;

	for (; (n = pageset_run(s, &at, s->pages)); at += n)
		count++;
	return count;
}

static int map_layer(const struct gmem *m, const struct pageset *pages, int fd, bool read,
		     struct err *e)
{
	uint64_t at = 0, n;
	int r = 0;

	for (; r == 0 && (n = pageset_run(pages, &at, pages->pages)); at += n) {
		if (!read) {
			r = gmem_map_over(m, fd, at * GMEM_PAGE, n * GMEM_PAGE, e);
			continue;
		}
		r = fd_pread_full(fd, gmem_base(m) + at * GMEM_PAGE, n * GMEM_PAGE, at * GMEM_PAGE);
		if (r < 0)
			err_set(e, -r, "read guest memory: %s", strerror(-r));
	}
	return r;
}

static int add_layer(const struct gmem *m, const struct state *s, unsigned i, int fd,
		     uint64_t *runs, struct err *e)
{
	struct memory_table t = {0};
	struct pageset pages = {0};
	int64_t size = fd_size(fd);
	int r;

	/* Behind the end of a file there is a SIGBUS. */
	if (size < 0 || (uint64_t)size != gmem_size(m))
		return err_set(e, EINVAL, "it has %lld bytes, and the guest's memory %llu",
			       (long long)size, (unsigned long long)gmem_size(m));
	r = state_read_layer(s, i, &t, e);
	if (r == 0)
		r = pageset_init(&pages, gmem_size(m) / GMEM_PAGE, e);
	if (r == 0) {
		memory_table_pages(&t, &pages);
		*runs += count_runs(&pages);
		r = map_layer(m, &pages, fd, *runs > RUNS_MAX, e);
	}
	pageset_finish(&pages);
	memory_table_finish(&t);
	return r;
}

int layers_map(struct gmem *m, const struct state *s, const int *fd, unsigned count, struct err *e)
{
	unsigned have = state_count_layers(s);
	uint64_t runs = 0;

	if (have != count || count > LAYERS_MAX)
		return err_set(e, EINVAL, "%u layers of memory came, the state has %u", count,
			       have);
	for (unsigned i = 0; i < count; i++)
		if (add_layer(m, s, i, fd[i], &runs, e) < 0)
			return err_wrap(e, "layer %u", i);
	m->backing = GMEM_FORKED;
	return 0;
}
