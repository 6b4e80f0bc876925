/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A page is in one of these states:
 *
 *	left		at the source; who touches it waits, and the source is asked once
 *	not left	there; or zero, and made when somebody touches it
 *
 * It leaves the first one when its contents are in place, or when the guest gives it back (balloon, memory
 * hotplug), and never comes back: nothing is overwritten, and zeroes are never what was not zero.
 *
 * The thread makes no system calls but those of the filter FETCH: no memory is asked for.
 */
#include "snapshot/pull.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "snapshot/uffd.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/thread.h"
#include "vmm/serial.h"
#include "vmm/vm.h"

#define BUFFER	  (STREAM_PAGES_MAX * GMEM_PAGE)
#define TURN_MS	  1000
#define SILENT_NS 60000000000ull

struct pull {
	uint8_t *base; /* of guest memory */
	uint64_t pages;
	int uffd, kick, event;
	struct stream_in *in;
	struct stream_out *out;
	const struct seccomp *seccomp;
	uint8_t *buf; /* a record's pages, and as many of zeroes; one mapping */
	struct pageset left, asked;
	struct pageset blank; /* zero, and waited for */
	uint64_t blanks;
	uint64_t heard_ns;
	bool said_ready;
	bool deaf;			    /* the source is gone, and not needed any more */
	_Atomic uint64_t left_count, bytes; /* what follows is seen by both threads */
	_Atomic enum pull_state state;
	_Atomic bool run, stop, say_ready;
	_Atomic uint64_t ready;
	pthread_t thread;
	bool has_thread;
};

/* There is nobody left who could be told, but the log. */
_Noreturn static void lost(const struct pull *p, const struct err *e)
{
	bool ours = p->state == PULL_COMMITTED;

	if (ours)
		log_error("migration: %s: %llu pages of the guest's memory are lost, and so is it",
			  e->msg, (unsigned long long)p->left_count);
	else
		log_error("migration: %s", e->msg);
	serial_terminal_restore();
	_exit(ours ? VM_EXIT_SPLIT : VM_EXIT_ERROR);
}

/* --- memory --- */

static void take_out(struct pull *p, uint64_t first, uint64_t count)
{
	for (uint64_t i = first; i < first + count; i++) {
		p->left_count -= pageset_has(&p->left, i);
		pageset_remove(&p->left, i);
	}
}

static void add_blank(struct pull *p, uint64_t page)
{
	p->blanks += !pageset_has(&p->blank, page);
	pageset_add(&p->blank, page);
}

static void say(struct pull *p, enum stream_type type, uint64_t first)
{
	struct stream_record rec = {.type = type, .first = first};
	struct err e;

	if (p->deaf || stream_send(p->out, &rec, NULL, &e) == 0)
		return;
	if (p->state == PULL_HELD || p->left_count)
		lost(p, &e);
	p->deaf = true;
}

static void on_fault(struct pull *p, uint64_t page)
{
	if (page >= p->pages)
		return;
	if (!pageset_has(&p->left, page)) {
		add_blank(p, page);
	} else if (!pageset_has(&p->asked, page)) {
		pageset_add(&p->asked, page);
		say(p, STREAM_WANT, page);
	}
}

static void on_removed(struct pull *p, uint64_t first, uint64_t end)
{
	end = MIN(end, p->pages);
	for (uint64_t i = first; i < end; i++) {
		take_out(p, i, 1);
		if (pageset_has(&p->asked, i))
			add_blank(p, i);
	}
}

static uint64_t page_of(const struct pull *p, uint64_t address)
{
	return (address - (uintptr_t)p->base) / GMEM_PAGE;
}

static void take_messages(struct pull *p)
{
	struct uffd_msg m;

	while (fd_read(p->uffd, &m, sizeof(m)) == (ssize_t)sizeof(m))
		if (m.event == UFFD_EVENT_PAGEFAULT)
			on_fault(p, page_of(p, m.arg.pagefault.address));
		else if (m.event == UFFD_EVENT_REMOVE)
			on_removed(p, page_of(p, m.arg.remove.start), page_of(p, m.arg.remove.end));
}

/* 0; EAGAIN: not all of it, as memory is changing, which a message tells of. */
static int put(struct pull *p, uint64_t first, uint64_t count, const uint8_t *from)
{
	struct uffdio_copy c = {
		.dst = (uintptr_t)p->base + first * GMEM_PAGE,
		.src = (uintptr_t)from,
		.len = count * GMEM_PAGE,
	};
	struct err e;
	int r = ioctl(p->uffd, UFFDIO_COPY, &c) < 0 ? errno : 0;

	take_out(p, first, c.copy > 0 ? (uint64_t)c.copy / GMEM_PAGE : 0);
	switch (r) {
	case 0:
	case EAGAIN:
		return r;
	case EEXIST: /* the first one is there: somebody else has woken those who waited */
		take_out(p, first, 1);
		return EAGAIN;
	case ENOENT: /* guest memory is gone, or the process */
	case ESRCH:
		take_out(p, first, count);
		return 0;
	default:
		err_set(&e, r, "put a page into guest memory: %s", strerror(r));
		lost(p, &e);
	}
}

/* What has come of [first, first + count). What is not left any more stays as it is. */
static void store(struct pull *p, uint64_t first, uint64_t count, bool zero)
{
	uint64_t at = first, n;

	while ((n = pageset_run(&p->left, &at, first + count))) {
		const uint8_t *from = zero ? p->buf + BUFFER : p->buf + (at - first) * GMEM_PAGE;

		if (put(p, at, MIN(n, (uint64_t)STREAM_PAGES_MAX), from) == EAGAIN)
			take_messages(p);
	}
}

static void put_blanks(struct pull *p)
{
	for (uint64_t at = 0; p->blanks && pageset_run(&p->blank, &at, p->pages); at++) {
		struct uffdio_copy c = {.dst = (uintptr_t)p->base + at * GMEM_PAGE,
					.src = (uintptr_t)p->buf + BUFFER,
					.len = GMEM_PAGE};

		if (ioctl(p->uffd, UFFDIO_COPY, &c) < 0 && errno == EAGAIN)
			continue;
		pageset_remove(&p->blank, at);
		p->blanks--;
	}
}

/* --- stream --- */

static void *place(void *arg, uint64_t first, uint64_t count)
{
	struct pull *p = arg;

	return range_within(first, count, p->pages) ? p->buf : NULL;
}

static int on_record(struct pull *p, struct err *e)
{
	const struct stream_record *rec = &p->in->rec;

	if (rec->type == STREAM_PUSH || rec->type == STREAM_BLANK) {
		store(p, rec->first, rec->count, rec->type == STREAM_BLANK);
		return 0;
	}
	if (p->state != PULL_HELD)
		return err_set(e, EPROTO, "a second hand-over");
	if (rec->type == STREAM_ABORT)
		return err_set(e, ECONNABORTED, "the source gave up: %s", stream_text(p->in));
	p->run = rec->first != 0;
	p->state = PULL_COMMITTED;
	/* Before the guest can want a page: the source is never in doubt when it has sent one. */
	say(p, STREAM_RUNNING, 0);
	fd_event_signal(p->event);
	return 0;
}

/* One record at most: those who wait come first. */
static void hear(struct pull *p)
{
	uint64_t before = p->in->bytes;
	struct err e;
	int r = stream_read(p->in, p->out->fd, &e);

	p->bytes = p->in->bytes;
	if (p->in->bytes != before)
		p->heard_ns = now_ns();
	if (r == 1)
		r = on_record(p, &e);
	if (r == 0 && p->left_count && now_ns() - p->heard_ns > SILENT_NS)
		r = err_set(&e, ETIMEDOUT, "the source was silent for %llu s",
			    SILENT_NS / 1000000000);
	if (r == 0)
		return;
	if (p->state == PULL_HELD || p->left_count)
		lost(p, &e);
	p->deaf = true;
}

static void finish(struct pull *p)
{
	struct uffdio_range all = {.start = (uintptr_t)p->base, .len = p->pages * GMEM_PAGE};

	say(p, STREAM_DONE, 0);
	if (ioctl(p->uffd, UFFDIO_UNREGISTER, &all) < 0)
		log_error("migration: UFFDIO_UNREGISTER: %s", strerror(errno));
	p->state = PULL_DONE;
	fd_event_signal(p->event);
}

static void wait_for_work(struct pull *p)
{
	bool listen = !p->deaf && p->state != PULL_DONE;
	struct pollfd fd[] = {{.fd = p->uffd, .events = POLLIN},
			      {.fd = p->kick, .events = POLLIN},
			      {.fd = listen ? p->out->fd : -1, .events = POLLIN}};

	poll(fd, ARRAY_SIZE(fd), p->blanks ? 1 : TURN_MS);
	if (fd[1].revents)
		fd_event_drain(p->kick);
	take_messages(p);
	if (listen)
		hear(p);
}

static void *serve(void *arg)
{
	struct pull *p = arg;
	struct err e;

	log_name_thread("pull");
	if (seccomp_install(p->seccomp, SECCOMP_FETCH, &e) < 0)
		lost(p, &e);
	while (!p->stop) {
		wait_for_work(p);
		put_blanks(p);
		if (p->say_ready && !p->said_ready) {
			p->said_ready = true;
			say(p, STREAM_READY, p->ready);
		}
		if (p->state == PULL_COMMITTED && !p->left_count && !p->blanks)
			finish(p);
	}
	return NULL;
}

/* --- main thread --- */

static int drop(const struct gmem *m, const struct pageset *left, struct err *e)
{
	for (uint64_t at = 0, n; (n = pageset_run(left, &at, left->pages)); at += n)
		if (madvise(gmem_base(m) + at * GMEM_PAGE, n * GMEM_PAGE, MADV_DONTNEED) < 0)
			return err_sys(e, "drop pages that are left for later");
	return 0;
}

int pull_parse(const struct gmem *m, const struct stream_in *in, struct pageset *left,
	       struct err *e)
{
	uint64_t pages = gmem_size(m) / GMEM_PAGE;
	int r;

	if (m->backing != GMEM_ANON)
		return err_set(e, ENOTSUP, "post-copy: this memory is not of anonymous pages");
	if (in->rec.len != (pages + 63) / 64 * 8)
		return err_set(e, EPROTO, "pages that are left: %u bytes for %llu pages",
			       in->rec.len, (unsigned long long)pages);
	r = pageset_init(left, pages, e);
	if (r < 0)
		return r;
	memcpy(left->bit, in->body, in->rec.len);
	if (pages % 64 && left->bit[pages / 64] >> (pages % 64))
		r = err_set(e, EPROTO, "pages that are left: some are no memory");
	else if (pageset_count(left) != in->rec.first)
		r = err_set(e, EPROTO, "pages that are left: %llu and not %llu",
			    (unsigned long long)pageset_count(left),
			    (unsigned long long)in->rec.first);
	else
		r = drop(m, left, e);
	if (r < 0)
		pageset_finish(left);
	return r;
}

static int start(struct pull *p, const struct gmem *m, struct err *e)
{
	int r = pageset_init(&p->asked, p->pages, e);

	if (r == 0)
		r = pageset_init(&p->blank, p->pages, e);
	if (r < 0)
		return r;
	p->buf = mmap(NULL, 2 * BUFFER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p->buf == MAP_FAILED) {
		p->buf = NULL;
		return err_sys(e, "map a buffer");
	}
	p->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->kick < 0 || p->event < 0)
		return err_sys(e, "create an eventfd");
	p->uffd = uffd_open(m, e);
	if (p->uffd < 0)
		return p->uffd;
	p->in->place = place;
	p->in->arg = p;
	r = thread_start(&p->thread, KIB(64), serve, p);
	p->has_thread = r == 0;
	return r < 0 ? err_set(e, -r, "create a thread: %s", strerror(-r)) : 0;
}

struct pull *pull_create(const struct gmem *m, struct pageset *left, struct stream_in *in,
			 struct stream_out *out, const struct seccomp *seccomp, struct err *e)
{
	struct pull *p = calloc(1, sizeof(*p));

	if (!p) {
		err_set(e, ENOMEM, "out of memory");
		return NULL;
	}
	p->base = gmem_base(m);
	p->pages = gmem_size(m) / GMEM_PAGE;
	p->uffd = p->kick = p->event = -1;
	p->in = in;
	p->out = out;
	p->seccomp = seccomp;
	p->heard_ns = now_ns();
	p->left_count = pageset_count(left);
	p->left = *left;
	*left = (struct pageset){0};
	if (start(p, m, e) == 0)
		return p;
	pull_destroy(p);
	return NULL;
}

int pull_event(const struct pull *p)
{
	return p->event;
}

enum pull_state pull_state(struct pull *p, bool *run)
{
	enum pull_state state = p->state;

	if (run)
		*run = p->run;
	return state;
}

void pull_ready(struct pull *p, uint64_t pages)
{
	p->ready = pages;
	p->say_ready = true;
	fd_event_signal(p->kick);
}

uint64_t pull_left(const struct pull *p)
{
	return p->left_count;
}

uint64_t pull_bytes(const struct pull *p)
{
	return p->bytes;
}

void pull_destroy(struct pull *p)
{
	if (!p)
		return;
	if (p->has_thread) {
		p->stop = true;
		fd_event_signal(p->kick);
		pthread_join(p->thread, NULL);
	}
	fd_close(&p->uffd);
	fd_close(&p->kick);
	fd_close(&p->event);
	if (p->buf)
		munmap(p->buf, 2 * BUFFER);
	pageset_finish(&p->left);
	pageset_finish(&p->asked);
	pageset_finish(&p->blank);
	free(p);
}
