/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "snapshot/memory.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "snapshot/hash.h"
#include "vmm/base/fd.h"

#define COPY_BYTES KIB(256)
/* Pages whose residency is asked for at once: a vector of bytes on the stack. */
#define WINDOW	   16384u

static uint8_t *page_at(const struct gmem *m, uint64_t page)
{
	return gmem_base(m) + page * GMEM_PAGE;
}

/* Pages are compared by words of their own making: musl's memcmp() goes byte by byte. */
static bool same_page(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	for (size_t i = 0; i < GMEM_PAGE / sizeof(*x); i += 8) {
		uint64_t differ = 0;

		for (size_t j = i; j < i + 8; j++)
			differ |= x[j] ^ y[j];
		if (differ)
			return false;
	}
	return true;
}

bool memory_is_zero(const void *page)
{
	static const _Alignas(GMEM_PAGE) uint8_t zero[GMEM_PAGE];

	return same_page(page, zero);
}

uint64_t memory_page_hash(const void *page, uint64_t number)
{
	return hash_bytes(page, GMEM_PAGE, number + 1);
}

/* --- which pages --- */

/* Calls `add` for every range that is data in the file. */
static int each_extent(int fd, uint64_t size, int (*add)(void *arg, uint64_t from, uint64_t to),
		       void *arg, struct err *e)
{
	uint64_t at = 0;
	int r = 0;

	while (r == 0 && at < size) {
		off_t data = lseek(fd, (off_t)at, SEEK_DATA);
		off_t hole;

		if (data < 0 && errno == ENXIO)
			break;
		if (data < 0)
			return err_sys(e, "look for data in a memory file");
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole < 0)
			return err_sys(e, "look for holes in a memory file");
		r = add(arg, (uint64_t)data, (uint64_t)hole);
		at = (uint64_t)hole;
	}
	return r;
}

static int add_extent(void *arg, uint64_t from, uint64_t to)
{
	uint64_t first = from / GMEM_PAGE;

	pageset_add_range(arg, first, (to + GMEM_PAGE - 1) / GMEM_PAGE - first);
	return 0;
}

static int add_resident(const struct gmem *m, struct pageset *s, struct err *e)
{
	unsigned char resident[WINDOW];

	for (uint64_t first = 0; first < s->pages; first += WINDOW) {
		uint64_t n = MIN(s->pages - first, (uint64_t)WINDOW);

		if (mincore(page_at(m, first), n * GMEM_PAGE, resident) < 0)
			return err_sys(e, "ask which pages are resident (mincore)");
		for (uint64_t i = 0; i < n; i++)
			if (resident[i] & 1)
				pageset_add(s, first + i);
	}
	return 0;
}

/*
 * Adds every private page. One that the host has swapped out looks like one that was never there:
 * when the host has anything in its swap, all pages are taken, and reading them tells.
 */
static int add_private(const struct gmem *m, struct pageset *s, struct err *e)
{
	struct sysinfo host;
	int r = add_resident(m, s, e);

	if (r < 0)
		return r;
	/* Asked for last: what left for the swap before this would show. */
	if (sysinfo(&host) < 0 || host.freeswap != host.totalswap)
		pageset_add_range(s, 0, s->pages);
	return 0;
}

int memory_present(const struct gmem *m, bool everything, struct pageset *s, struct err *e)
{
	int r;

	if (everything) {
		pageset_add_range(s, 0, s->pages);
		return 0;
	}
	switch (m->backing) {
	case GMEM_MEMFD:
		return each_extent(m->fd, gmem_size(m), add_extent, s, e);
	case GMEM_HUGETLB_2M: /* never swapped */
		return add_resident(m, s, e);
	case GMEM_FILE:
	case GMEM_FORKED:
		r = each_extent(m->fd, gmem_size(m), add_extent, s, e);
		return r < 0 ? r : add_private(m, s, e);
	case GMEM_ANON:
		break;
	}
	return add_private(m, s, e);
}

int memory_changed(const struct gmem *m, struct pageset *s, struct err *e)
{
	static const uint64_t batch = PAGESET_CHUNK;
	cleanup_free uint8_t *was = malloc(batch * GMEM_PAGE);
	struct pageset look = {0};
	uint64_t at = 0, n;
	int r;

	if (!was)
		return err_set(e, ENOMEM, "out of memory");
	r = pageset_init(&look, s->pages, e);
	if (r == 0)
		r = add_private(m, &look, e);
	for (; r == 0 && (n = pageset_run(&look, &at, s->pages)); at += n) {
		n = MIN(n, batch);
		r = fd_pread_full(m->fd, was, n * GMEM_PAGE, at * GMEM_PAGE);
		if (r < 0)
			err_set(e, -r, "read the memory file: %s", strerror(-r));
		for (uint64_t i = 0; r == 0 && i < n; i++)
			if (!same_page(was + i * GMEM_PAGE, page_at(m, at + i)))
				pageset_add(s, at + i);
	}
	pageset_finish(&look);
	return r;
}

/* KVM's log of a memory slot of so many pages, the first of which is page `first` of all. */
static int take_log(const struct kvm *k, uint32_t slot, uint64_t first, uint64_t pages,
		    struct pageset *s, struct err *e)
{
	cleanup_free uint64_t *log = calloc((pages + 63) / 64, sizeof(*log));
	struct kvm_dirty_log req = {.slot = slot, .dirty_bitmap = log};

	if (!log)
		return err_set(e, ENOMEM, "out of memory for a bitmap of pages");
	if (ioctl(k->vm_fd, KVM_GET_DIRTY_LOG, &req) < 0)
		return err_sys(e, "read which pages are dirty (KVM_GET_DIRTY_LOG)");
	/* Slots are multiples of 1 MiB, so words do not mix. */
	for (uint64_t w = 0; w < (pages + 63) / 64; w++)
		s->bit[first / 64 + w] |= log[w];
	return 0;
}

/* Of a part that has gone the log went too: what was in it has been discarded, which is marked. */
static int take_parts(const struct gmem_region *region, const struct kvm *k, uint64_t first,
		      struct pageset *s, struct err *e)
{
	const uint64_t pages = region->part / GMEM_PAGE;
	int r = 0;

	for (unsigned n = 0; r == 0 && n < region->len / region->part; n++)
		if (gmem_any_plugged(region, n * region->part, region->part))
			r = take_log(k, KVM_SLOT_PART(n), first + n * pages, pages, s, e);
	return r;
}

int memory_take_dirty(const struct gmem *m, const struct kvm *k, struct pageset *s, struct err *e)
{
	uint64_t first = 0;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < m->count; i++) {
		uint64_t pages = m->region[i].len / GMEM_PAGE;

		r = m->region[i].block ? take_parts(&m->region[i], k, first, s, e)
				       : take_log(k, i, first, pages, s, e);
		first += pages;
	}
	if (r < 0)
		return r;
	for (uint64_t w = 0; w < (s->pages + 63) / 64; w++)
		s->bit[w] |= atomic_exchange_explicit(&m->dirty[w], 0, memory_order_relaxed);
	return 0;
}

void memory_put_back(const struct gmem *m, const struct pageset *s)
{
	for (uint64_t w = 0; m->dirty && w < (s->pages + 63) / 64; w++)
		atomic_fetch_or_explicit(&m->dirty[w], s->bit[w], memory_order_relaxed);
}

/* --- write --- */

static int write_run(const struct gmem *m, int fd, uint64_t page, uint64_t count, struct err *e)
{
	int r = fd_pwrite_full(fd, page_at(m, page), count * GMEM_PAGE, page * GMEM_PAGE);

	return r < 0 ? err_set(e, -r, "write guest memory: %s", strerror(-r)) : 0;
}

/*
 * Leaves pages of zeroes out of the chunk, whose pages are at `chunk`; adds up the hash of the others.
 * Returns how many.
 */
static unsigned weigh_chunk(const uint8_t *chunk, struct pageset *s, uint64_t first, bool skip,
			    uint64_t *hash)
{
	uint64_t end = MIN(first + PAGESET_CHUNK, s->pages);
	uint64_t at = first, n;
	unsigned count = 0;

	*hash = 0;
	for (; (n = pageset_run(s, &at, end)); at += n)
		for (uint64_t i = 0; i < n; i++) {
			const uint8_t *page = chunk + (at + i - first) * GMEM_PAGE;

			if (skip && memory_is_zero(page)) {
				pageset_remove(s, at + i);
				continue;
			}
			*hash += memory_page_hash(page, at + i);
			count++;
		}
	return count;
}

static bool chunk_is_empty(const struct pageset *s, uint64_t first)
{
	for (unsigned i = 0; i < PAGESET_CHUNK / 64; i++)
		if (s->bit[first / 64 + i])
			return false;
	return true;
}

static struct memory_chunk *add_chunk(struct memory_table *t)
{
	struct memory_chunk *more;

	/* Room doubles when the count is a power of two. */
	if (t->count == 0 || (t->count >= 64 && is_power_of_two(t->count))) {
		more = realloc(t->chunk, (t->count ? t->count * 2 : 64u) * sizeof(*more));
		if (!more)
			return NULL;
		t->chunk = more;
	}
	return &t->chunk[t->count++];
}

/* Makes the table's entry for the chunk at `first`; 0 when nothing of it is to be written. */
static int tabulate_chunk(const uint8_t *chunk, struct pageset *s, uint64_t first, bool skip,
			  struct memory_table *t, struct err *e)
{
	struct memory_chunk *c;
	uint64_t hash;

	if (chunk_is_empty(s, first) || weigh_chunk(chunk, s, first, skip, &hash) == 0)
		return 0;
	c = add_chunk(t);
	if (!c)
		return err_set(e, ENOMEM, "out of memory");
	c->number = (uint32_t)(first / PAGESET_CHUNK);
	c->hash = hash;
	memcpy(c->pages, &s->bit[first / 64], sizeof(c->pages));
	return 1;
}

static int write_chunk(const struct gmem *m, int fd, const struct pageset *s, uint64_t first,
		       struct err *e)
{
	uint64_t end = MIN(first + PAGESET_CHUNK, s->pages);
	uint64_t at = first, n;
	int r = 0;

	for (; r == 0 && (n = pageset_run(s, &at, end)); at += n)
		r = write_run(m, fd, at, n, e);
	return r;
}

/* Each chunk is hashed and written while it is in the processor's cache. fd -1: not written. */
static int each_chunk(const struct gmem *m, int fd, struct pageset *s, bool skip,
		      struct memory_table *t, struct err *e)
{
	int r = 0;

	*t = (struct memory_table){0};
	for (uint64_t first = 0; r >= 0 && first < s->pages; first += PAGESET_CHUNK) {
		r = tabulate_chunk(page_at(m, first), s, first, skip, t, e);
		if (r > 0 && fd >= 0)
			r = write_chunk(m, fd, s, first, e);
	}
	if (r < 0)
		memory_table_finish(t);
	return r < 0 ? r : 0;
}

int memory_write(const struct gmem *m, int fd, struct pageset *s, bool skip_zeroes,
		 struct memory_table *t, struct err *e)
{
	return each_chunk(m, fd, s, skip_zeroes, t, e);
}

int memory_tabulate(const struct gmem *m, struct pageset *s, struct memory_table *t, struct err *e)
{
	return each_chunk(m, -1, s, true, t, e);
}

/* --- write, while the guest runs --- */

/* How many pages from `page` on, up to `max`, are to be written; 0: this one is not. */
static uint64_t written_run(const struct gmem *m, uint64_t page, uint64_t max, bool skip_zeroes)
{
	uint64_t n = 0;

	if (!skip_zeroes)
		return max;
	while (n < max && !memory_is_zero(page_at(m, page + n)))
		n++;
	return n;
}

int memory_copy(const struct gmem *m, int fd, const struct pageset *s, bool skip_zeroes,
		const _Atomic bool *stop, struct err *e)
{
	uint64_t at = 0, n;
	int r = 0;

	for (; r == 0 && (n = pageset_run(s, &at, s->pages)); at += n) {
		uint64_t max = MIN(n, (uint64_t)PAGESET_CHUNK);

		if (*stop)
			return err_set(e, ECANCELED, "the microVM ends");
		n = written_run(m, at, max, skip_zeroes);
		if (n)
			r = write_run(m, fd, at, n, e);
		else
			n = 1;
	}
	return r;
}

int memory_taken_init(struct memory_taken *t, uint64_t pages, uint64_t max, struct err *e)
{
	void *map = mmap(NULL, max * GMEM_PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (map == MAP_FAILED)
		return err_sys(e, "get memory for what is copied last");
	t->buffer = map;
	t->max = max;
	return pageset_init(&t->pages, pages, e);
}

void memory_taken_finish(struct memory_taken *t)
{
	pageset_finish(&t->pages);
	if (t->buffer)
		munmap(t->buffer, t->max * GMEM_PAGE);
	*t = (struct memory_taken){0};
}

uint64_t memory_take(const struct gmem *m, struct pageset *s, struct memory_taken *t)
{
	uint64_t at = 0, count = 0;

	for (; count < t->max && pageset_run(s, &at, s->pages); at++, count++) {
		memcpy(t->buffer + count * GMEM_PAGE, page_at(m, at), GMEM_PAGE);
		pageset_remove(s, at);
		pageset_add(&t->pages, at);
	}
	return count;
}

int memory_write_taken(int fd, const struct memory_taken *t, struct err *e)
{
	const uint8_t *from = t->buffer;
	uint64_t at = 0, n;
	int r = 0;

	for (; r == 0 && (n = pageset_run(&t->pages, &at, t->pages.pages)); at += n) {
		r = fd_pwrite_full(fd, from, n * GMEM_PAGE, at * GMEM_PAGE);
		from += n * GMEM_PAGE;
	}
	return r < 0 ? err_set(e, -r, "write guest memory: %s", strerror(-r)) : 0;
}

/* Read and not mapped: a disk that fails must not end us by SIGBUS. */
int memory_tabulate_file(int fd, struct pageset *s, bool skip_zeroes, struct memory_table *t,
			 struct err *e)
{
	cleanup_free uint8_t *buf = malloc(PAGESET_CHUNK * GMEM_PAGE);
	int r = buf ? 0 : err_set(e, ENOMEM, "out of memory");

	*t = (struct memory_table){0};
	for (uint64_t first = 0; r >= 0 && first < s->pages; first += PAGESET_CHUNK) {
		uint64_t n = MIN(s->pages - first, (uint64_t)PAGESET_CHUNK);

		if (chunk_is_empty(s, first))
			continue;
		r = fd_pread_full(fd, buf, n * GMEM_PAGE, first * GMEM_PAGE);
		if (r < 0)
			err_set(e, -r, "read back what was written: %s", strerror(-r));
		else
			r = tabulate_chunk(buf, s, first, skip_zeroes, t, e);
	}
	if (r < 0)
		memory_table_finish(t);
	return r < 0 ? r : 0;
}

int memory_in_file(int fd, struct pageset *s, struct err *e)
{
	return each_extent(fd, s->pages * GMEM_PAGE, add_extent, s, e);
}

struct copy {
	int from, to;
	const struct pageset *leave;
	uint8_t *buf; /* COPY_BYTES */
	struct err *e;
};

static int copy_run(const struct copy *c, uint64_t page, uint64_t count)
{
	uint64_t at = page * GMEM_PAGE, end = at + count * GMEM_PAGE, n;
	int r = 0;

	for (; r == 0 && at < end; at += n) {
		n = MIN(end - at, (uint64_t)COPY_BYTES);
		r = fd_pread_full(c->from, c->buf, n, at);
		if (r < 0)
			return err_set(c->e, -r, "read the memory file before: %s", strerror(-r));
		r = fd_pwrite_full(c->to, c->buf, n, at);
		if (r < 0)
			err_set(c->e, -r, "write guest memory: %s", strerror(-r));
	}
	return r;
}

/* Copies the pages of the extent that are not in the set: the gaps between its runs. */
static int copy_extent(void *arg, uint64_t from, uint64_t to)
{
	const struct copy *c = arg;
	uint64_t page = from / GMEM_PAGE;
	uint64_t end = MIN((to + GMEM_PAGE - 1) / GMEM_PAGE, c->leave->pages);
	int r = 0;

	while (r == 0 && page < end) {
		uint64_t run = page;
		uint64_t n = pageset_run(c->leave, &run, end);
		uint64_t gap_end = n ? run : end;

		if (gap_end > page)
			r = copy_run(c, page, gap_end - page);
		page = gap_end + n;
	}
	return r;
}

int memory_copy_rest(int base, int fd, const struct pageset *s, struct err *e)
{
	cleanup_free uint8_t *buf = malloc(COPY_BYTES);
	struct copy c = {.from = base, .to = fd, .leave = s, .buf = buf, .e = e};

	if (ioctl(fd, FICLONE, base) == 0)
		return 0; /* the pages in `s` are written over it */
	if (!buf)
		return err_set(e, ENOMEM, "out of memory");
	return each_extent(base, s->pages * GMEM_PAGE, copy_extent, &c, e);
}

/* --- table --- */

void memory_table_finish(struct memory_table *t)
{
	free(t->chunk);
	*t = (struct memory_table){0};
}

#define CHUNK_BYTES (sizeof(uint32_t) + sizeof(uint64_t) + PAGESET_CHUNK / 8)

void memory_table_wire(struct memory_table *t, struct wire *w)
{
	wire_u32(w, &t->count);
	if (!w->writing) {
		t->chunk = NULL;
		if (w->error || t->count > (w->len - w->pos) / CHUNK_BYTES) {
			t->count = 0;
			wire_fail(w, -EBADMSG);
			return;
		}
		t->chunk = calloc(t->count ? t->count : 1, sizeof(*t->chunk));
		if (!t->chunk) {
			t->count = 0;
			wire_fail(w, -ENOMEM);
			return;
		}
	}
	for (uint32_t i = 0; i < t->count; i++) {
		wire_u32(w, &t->chunk[i].number);
		wire_u64(w, &t->chunk[i].hash);
		wire_bytes(w, t->chunk[i].pages, sizeof(t->chunk[i].pages));
	}
}

int memory_table_check(const struct memory_table *t, uint64_t pages, struct err *e)
{
	for (uint32_t i = 0; i < t->count; i++) {
		uint64_t first = (uint64_t)t->chunk[i].number * PAGESET_CHUNK;

		if (first >= pages || (i && t->chunk[i].number <= t->chunk[i - 1].number))
			return err_set(e, EINVAL, "entry %u is for chunk %u", i,
				       t->chunk[i].number);
		for (uint64_t p = pages - first; p < PAGESET_CHUNK; p++)
			if (t->chunk[i].pages[p / 64] >> (p % 64) & 1)
				return err_set(e, EINVAL, "entry %u has pages behind the end", i);
	}
	return 0;
}

uint64_t memory_table_count(const struct memory_table *t)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < t->count; i++)
		for (unsigned w = 0; w < PAGESET_CHUNK / 64; w++)
			n += (uint64_t)__builtin_popcountll(t->chunk[i].pages[w]);
	return n;
}

void memory_table_pages(const struct memory_table *t, struct pageset *s)
{
	for (uint32_t i = 0; i < t->count; i++)
		for (unsigned w = 0; w < PAGESET_CHUNK / 64; w++)
			s->bit[(uint64_t)t->chunk[i].number * (PAGESET_CHUNK / 64) + w] |=
				t->chunk[i].pages[w];
}

/* --- probes --- */

static void add_probe(const struct gmem *m, uint64_t page, struct memory_probe *probe, unsigned *n)
{
	if (*n && probe[*n - 1].page == page)
		return;
	probe[(*n)++] = (struct memory_probe){page, memory_page_hash(page_at(m, page), page)};
}

/* `count` pages of the set, from all over it. */
static unsigned probe_set(const struct gmem *m, const struct pageset *s, unsigned count,
			  struct memory_probe *probe)
{
	unsigned n = 0;

	for (unsigned i = 0; i < count; i++) {
		uint64_t at = s->pages / count * i;

		if (pageset_run(s, &at, s->pages))
			add_probe(m, at, probe, &n);
	}
	return n;
}

/* The same for pages that are not in it, resident and not zero: looks into some places. */
static unsigned probe_rest(const struct gmem *m, const struct pageset *s, unsigned count,
			   struct memory_probe *probe)
{
	enum { PLACES = 64, PAGES = 64 };
	unsigned char resident[PAGES];
	unsigned n = 0;

	for (unsigned i = 0; i < PLACES && n < count; i++) {
		uint64_t first = s->pages / PLACES * i;
		uint64_t pages = MIN(s->pages - first, (uint64_t)PAGES);

		if (mincore(page_at(m, first), pages * GMEM_PAGE, resident) < 0)
			continue;
		for (uint64_t p = 0; p < pages; p++) {
			if (!(resident[p] & 1) || pageset_has(s, first + p) ||
			    memory_is_zero(page_at(m, first + p)))
				continue;
			add_probe(m, first + p, probe, &n);
			break;
		}
	}
	return n;
}

unsigned memory_choose_probes(const struct gmem *m, const struct pageset *s, bool rest,
			      struct memory_probe probe[MEMORY_PROBES_MAX])
{
	unsigned n;

	if (!rest)
		return probe_set(m, s, MEMORY_PROBES_MAX, probe);
	n = probe_set(m, s, MEMORY_PROBES_MAX / 2, probe);
	return n + probe_rest(m, s, MEMORY_PROBES_MAX - n, probe + n);
}

int memory_check_probes(int fd, const struct memory_probe *probe, unsigned count)
{
	uint8_t page[GMEM_PAGE] __attribute__((aligned(8)));

	for (unsigned i = 0; i < count; i++) {
		int r = fd_pread_full(fd, page, sizeof(page), probe[i].page * GMEM_PAGE);

		if (r < 0)
			return r;
		if (memory_page_hash(page, probe[i].page) != probe[i].hash)
			return -ESTALE;
	}
	return 0;
}
