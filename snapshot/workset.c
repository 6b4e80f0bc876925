/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "snapshot/workset.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "snapshot/output.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/thread.h"

#ifndef MADV_POPULATE_READ /* since Linux 5.14 */
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

#define SAMPLES		5u
/* At most this many pages at once, so that nobody waits long for the lock of the address space. */
#define PREFETCH_PAGES	512u
/*
 * Of a longer range MADV_WILLNEED reads only the beginning: as much as the device takes at once, or
 * its readahead, which is this unless somebody has changed it.
 */
#define READAHEAD_PAGES 32u
#define NOTE_PAGES	8192u

/* Documentation/admin-guide/mm/pagemap.rst */
#define PAGE_PRESENT (1ull << 63)
#define PAGE_SWAPPED (1ull << 62)
#define PAGE_OF_FILE (1ull << 61)

struct workset {
	struct vm *vm;
	const struct gmem *mem;
	struct workset_list list;
	/* Prefetching. */
	pthread_t thread;
	bool has_thread;
	sem_t built; /* the machine is */
	_Atomic bool stop;
	/* Recording. */
	bool recording;
	char *path; /* owned */
	struct output_file out;
	int pagemap;
	uint64_t left_ns[SAMPLES]; /* of running until each sample */
	unsigned sample;
	struct pageset read, written;
	struct loop_timer timer;
};

/* --- the file --- */

#define EXTENT_BYTES 17u

void workset_wire(struct workset_list *l, struct wire *w)
{
	wire_bytes(w, &l->id, sizeof(l->id));
	wire_u32(w, &l->count);
	if (!w->writing) {
		l->extent = NULL;
		if (w->error || l->count > (w->len - w->pos) / EXTENT_BYTES) {
			l->count = 0;
			wire_fail(w, -EBADMSG);
			return;
		}
		l->extent = calloc(l->count ? l->count : 1, sizeof(*l->extent));
		if (!l->extent) {
			l->count = 0;
			wire_fail(w, -ENOMEM);
			return;
		}
	}
	for (uint32_t i = 0; i < l->count; i++) {
		wire_u64(w, &l->extent[i].first);
		wire_u64(w, &l->extent[i].count);
		wire_bool(w, &l->extent[i].written);
	}
}

int workset_check(const struct workset_list *l, uint64_t pages, struct err *e)
{
	if (l->count > WORKSET_EXTENTS_MAX)
		return err_set(e, EINVAL, "%u extents", l->count);
	for (uint32_t i = 0; i < l->count; i++)
		if (!range_within(l->extent[i].first, l->extent[i].count, pages))
			return err_set(e, EINVAL, "extent %u is not within guest memory", i);
	return 0;
}

void workset_list_finish(struct workset_list *l)
{
	free(l->extent);
	*l = (struct workset_list){0};
}

static int read_list(struct workset_list *l, int fd, uint64_t pages, struct err *e)
{
	const struct snapfile_section *s;
	struct snapfile f;
	struct wire w;
	int r = snapfile_read(&f, fd, e);

	if (r < 0)
		return r;
	s = snapfile_find(&f, STATE_TAG_WSET, 0);
	if (!s || s->version != WORKSET_VERSION) {
		r = err_set(e, EBADMSG, "it is no working set that this spore knows");
	} else {
		wire_reader(&w, s->data, s->len, s->version);
		workset_wire(l, &w);
		r = wire_end(&w) < 0 ? err_set(e, EBADMSG, "malformed")
				     : workset_check(l, pages, e);
	}
	snapfile_finish(&f);
	return r;
}

static int write_list(struct workset *w, struct err *e)
{
	struct snapfile_writer out;
	int r;

	snapfile_start(&out);
	workset_wire(&w->list, snapfile_begin(&out, STATE_TAG_WSET, 0, WORKSET_VERSION, false));
	snapfile_end(&out);
	r = snapfile_close(&out);
	if (r == 0)
		r = fd_write_full(w->out.fd, out.wire.buf, out.wire.pos);
	snapfile_drop(&out);
	if (r < 0)
		return err_set(e, -r, "write it: %s", strerror(-r));
	return output_commit_one(&w->out, e);
}

/* --- prefetch --- */

static void advise(struct workset *w, uint64_t first, uint64_t end, uint64_t step, int advice)
{
	for (; first < end && !w->stop; first += step)
		madvise(gmem_base(w->mem) + first * GMEM_PAGE, MIN(end - first, step) * GMEM_PAGE,
			advice);
}

uint32_t workset_gather(const struct workset_list *l, uint32_t i, uint64_t *first, uint64_t *end)
{
	*first = l->extent[i].first;
	*end = *first + l->extent[i].count;
	while (++i < l->count) {
		const struct workset_extent *x = &l->extent[i];

		if (x->first < *first || x->first > *end + WORKSET_UNIT ||
		    x->first + x->count > *first + PREFETCH_PAGES)
			break;
		if (x->first + x->count > *end)
			*end = x->first + x->count;
	}
	return i;
}

/* All the reads first: the kernel does them in the background. */
static void announce(struct workset *w)
{
	uint64_t first, end;

	for (uint32_t i = 0; i < w->list.count && !w->stop;) {
		i = workset_gather(&w->list, i, &first, &end);
		advise(w, first, end, READAHEAD_PAGES, MADV_WILLNEED);
	}
}

/*
 * Maps the extents [i, next), which workset_gather() found. What will be written goes first: a page
 * that is mapped for reading before is mapped twice, and taken from the guest in between. Failures are
 * none of ours: whatever is not there when the guest wants it is brought then.
 */
static void bring(struct workset *w, uint32_t i, uint32_t next, uint64_t first, uint64_t end)
{
	bool read = false;

	for (; i < next; i++) {
		const struct workset_extent *x = &w->list.extent[i];

		read |= !x->written;
		if (x->written)
			advise(w, x->first, x->first + x->count, PREFETCH_PAGES,
			       MADV_POPULATE_WRITE);
	}
	if (read)
		advise(w, first, end, PREFETCH_PAGES, MADV_POPULATE_READ);
}

static void bring_all(struct workset *w)
{
	uint64_t first, end;
	uint32_t next;

	for (uint32_t i = 0; i < w->list.count && !w->stop; i = next) {
		next = workset_gather(&w->list, i, &first, &end);
		bring(w, i, next, first, end);
	}
}

static void *prefetch(void *arg)
{
	struct workset *w = arg;
	struct err e;

	log_name_thread("prefetch");
	if (seccomp_install(w->vm->seccomp, SECCOMP_FETCH, &e) < 0)
		return NULL;
	announce(w);
	/* Building the machine changes the address space, and would wait for each of our steps. */
	while (sem_wait(&w->built) < 0)
		;
	bring_all(w);
	return NULL;
}

static void start_prefetch(struct workset *w)
{
	sem_init(&w->built, 0, 0);
	w->has_thread = thread_start(&w->thread, KIB(64), prefetch, w) == 0;
}

/* --- record --- */

static int add(struct workset_list *l, uint64_t first, uint64_t count, bool written)
{
	struct workset_extent *last = l->count ? &l->extent[l->count - 1] : NULL;

	if (last && last->written == written && last->first + last->count == first) {
		last->count += count;
		return 0;
	}
	if (l->count == WORKSET_EXTENTS_MAX)
		return -ENOSPC;
	if (!l->extent || (l->count >= 64 && is_power_of_two(l->count))) {
		void *more =
			realloc(l->extent, (l->count ? l->count * 2 : 64u) * sizeof(*l->extent));

		if (!more)
			return -ENOMEM;
		l->extent = more;
	}
	l->extent[l->count++] = (struct workset_extent){first, count, written};
	return 0;
}

int workset_note(struct workset_list *l, struct pageset *read, struct pageset *written,
		 const uint64_t *entry, uint64_t first, uint64_t count)
{
	int r = 0;

	for (uint64_t i = 0; r == 0 && i < count; i++) {
		uint64_t page = first + i, unit = page - page % WORKSET_UNIT;
		bool there = entry[i] & (PAGE_PRESENT | PAGE_SWAPPED);

		if (!there)
			continue;
		if (!(entry[i] & PAGE_OF_FILE)) {
			if (!pageset_has(written, page))
				r = add(l, page, 1, true);
			pageset_add(written, page);
		} else if (!pageset_has(read, unit)) {
			/* The kernel maps the neighbours too: single pages would say too much. */
			r = add(l, unit, MIN(read->pages - unit, (uint64_t)WORKSET_UNIT), false);
			pageset_add(read, unit);
		}
	}
	return r;
}

static int sample(struct workset *w, struct err *e)
{
	uint64_t entry[NOTE_PAGES / 8];
	uint64_t base = (uintptr_t)gmem_base(w->mem) / GMEM_PAGE;

	for (uint64_t at = 0; at < w->read.pages; at += ARRAY_SIZE(entry)) {
		uint64_t n = MIN(w->read.pages - at, (uint64_t)ARRAY_SIZE(entry));
		int r = fd_pread_full(w->pagemap, entry, n * sizeof(entry[0]),
				      (base + at) * sizeof(entry[0]));

		if (r == 0)
			r = workset_note(&w->list, &w->read, &w->written, entry, at, n);
		if (r < 0)
			return err_set(e, -r, "%s", strerror(-r));
	}
	return 0;
}

static void stop_recording(struct workset *w)
{
	if (!w->recording)
		return;
	w->recording = false;
	loop_timer_clear(w->vm->loop, &w->timer);
	output_drop_one(&w->out);
	fd_close(&w->pagemap);
	pageset_finish(&w->read);
	pageset_finish(&w->written);
}

static void on_sample(struct loop_timer *t)
{
	struct workset *w = t->arg;
	struct err e;
	int r = 0;

	/* Only what happens while it runs counts. */
	if (w->vm->phase == VM_RUNNING) {
		r = sample(w, &e);
		w->sample++;
	}
	if (r == 0 && w->sample < SAMPLES) {
		loop_timer_set(w->vm->loop, t, w->left_ns[w->sample]);
		return;
	}
	if (r == 0)
		r = write_list(w, &e);
	if (r < 0)
		log_warn("working set '%s' is not recorded: %s", w->path, e.msg);
	else
		event_emit(w->vm->events, "working_set", EVENT_TEXT("path", w->path),
			   EVENT_NUMBER("written", pageset_count(&w->written)),
			   EVENT_NUMBER("extents", w->list.count));
	stop_recording(w);
}

void workset_built(struct workset *w)
{
	if (w && w->has_thread)
		sem_post(&w->built);
	if (w && w->recording)
		loop_timer_set(w->vm->loop, &w->timer, w->left_ns[0]);
}

static int start_recording(struct workset *w, unsigned ms, struct err *e)
{
	/* When the samples are taken, in thousandths of the time: what comes first matters most. */
	static const unsigned at[SAMPLES] = {10, 40, 120, 350, 1000};
	uint64_t pages = gmem_size(w->mem) / GMEM_PAGE;
	int r = output_create_one(&w->out, w->path, e);

	if (r < 0)
		return r;
	w->recording = true;
	for (unsigned i = 0; i < SAMPLES; i++)
		w->left_ns[i] = (at[i] - (i ? at[i - 1] : 0)) * 1000ull * ms;
	w->timer = (struct loop_timer){.expired = on_sample, .arg = w};
	w->pagemap = openat(AT_FDCWD, "/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (w->pagemap < 0)
		r = err_sys(e, "open /proc/self/pagemap (a jail has none: record outside of it)");
	if (r == 0)
		r = pageset_init(&w->read, pages, e);
	return r == 0 ? pageset_init(&w->written, pages, e) : r;
}

/* --- both --- */

static int begin(struct workset *w, const struct snapshot_id *id, unsigned ms, struct err *e)
{
	cleanup_fd int fd = fd_open_file(w->path, O_RDONLY, false, e);
	int r;

	if (fd == -ENOENT) {
		w->list.id = *id;
		return start_recording(w, ms, e);
	}
	r = fd < 0 ? fd : read_list(&w->list, fd, gmem_size(w->mem) / GMEM_PAGE, e);
	if (r < 0)
		return r;
	if (!snapshot_id_equal(&w->list.id, id))
		return err_set(e, ESTALE, "it is that of another snapshot: remove it");
	start_prefetch(w);
	return 0;
}

struct workset *workset_begin(struct vm *vm, const struct gmem *mem, const struct snapshot_id *id,
			      const char *path, unsigned ms)
{
	struct workset *w = calloc(1, sizeof(*w));
	struct err e;

	if (!w)
		return NULL;
	*w = (struct workset){.vm = vm,
			      .mem = mem,
			      .path = strdup(path),
			      .pagemap = -1,
			      .out = {.fd = -1, .dir = -1}};
	if (w->path && begin(w, id, ms, &e) == 0)
		return w;
	log_warn("working set '%s': %s", path, w->path ? e.msg : "out of memory");
	workset_end(w);
	return NULL;
}

void workset_end(struct workset *w)
{
	if (!w)
		return;
	w->stop = true;
	if (w->has_thread) {
		sem_post(&w->built);
		pthread_join(w->thread, NULL);
	}
	stop_recording(w);
	workset_list_finish(&w->list);
	free(w->path);
	free(w);
}
