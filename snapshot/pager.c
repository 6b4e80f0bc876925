/* SPDX-License-Identifier: Apache-2.0 */
#include "snapshot/pager.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "snapshot/pageset.h"
#include "snapshot/uffd.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/thread.h"
#include "vmm/serial.h"
#include "vmm/vm.h"

/* What is brought at once of memory in small pages: as many as the kernel maps of a file. */
#define UNIT_SMALL  KIB(64)
/* Every thread of spore can wait for one page. */
#define WAITING_MAX 64u

struct pager {
	uint8_t *base; /* of guest memory */
	uint64_t size;
	uint64_t unit; /* bytes, aligned */
	int uffd, stop, file;
	uint8_t *buf, *zeroes; /* a unit each, one mapping */
	struct pageset brought;
	uint64_t waiting[WAITING_MAX]; /* page numbers */
	unsigned count;
	const struct seccomp *seccomp;
	pthread_t thread;
	bool has_thread;
};

/* There is nobody left who could be told. */
_Noreturn static void give_up(const char *what, int error)
{
	log_error("memory file: %s: %s", what, strerror(error));
	serial_terminal_restore();
	_exit(VM_EXIT_SIGBUS);
}

/* Of the unit of `page`, the run of pages around it that are there or not, as it is. */
static uint64_t run_around(const struct pager *p, uint64_t page, uint64_t *first)
{
	uint64_t unit = p->unit / GMEM_PAGE, begin = page - page % unit;
	uint64_t end = MIN(begin + unit, p->size / GMEM_PAGE);
	bool there = pageset_has(&p->brought, page);
	uint64_t last = page + 1;

	for (*first = page; *first > begin && pageset_has(&p->brought, *first - 1) == there;)
		--*first;
	while (last < end && pageset_has(&p->brought, last) == there)
		last++;
	return last - *first;
}

/* False when memory is changing just now, which a message tells of. */
static bool put(struct pager *p, uint64_t first, uint64_t count, const uint8_t *from)
{
	struct uffdio_copy c = {
		.dst = (uintptr_t)p->base + first * GMEM_PAGE,
		.src = (uintptr_t)from,
		.len = count * GMEM_PAGE,
	};
	int r = ioctl(p->uffd, UFFDIO_COPY, &c) < 0 ? errno : 0;

	pageset_add_range(&p->brought, first, c.copy > 0 ? (uint64_t)c.copy / GMEM_PAGE : 0);
	switch (r) {
	case EAGAIN:
		return false;
	case EEXIST: /* somebody else has woken those who waited */
		pageset_add_range(&p->brought, first, count);
		return true;
	case 0:
	case ENOENT: /* guest memory is gone, or the process */
	case ESRCH:
		return true;
	default:
		give_up("put a page into guest memory", r);
	}
}

static bool bring(struct pager *p, uint64_t page)
{
	uint64_t first, count = run_around(p, page, &first);
	int r;

	/* Discarded, or another one who waited has had it brought: then it is there, and this does nothing. */
	if (pageset_has(&p->brought, page) && p->unit == UNIT_SMALL)
		return put(p, page, 1, p->zeroes);
	if (pageset_has(&p->brought, page))
		return put(p, first, count, p->zeroes);
	r = fd_pread_full(p->file, p->buf, count * GMEM_PAGE, first * GMEM_PAGE);
	if (r < 0)
		give_up("read", -r);
	return put(p, first, count, p->buf);
}

static void take_message(struct pager *p, const struct uffd_msg *m)
{
	uint64_t start, end;

	switch (m->event) {
	case UFFD_EVENT_PAGEFAULT:
		start = (m->arg.pagefault.address - (uintptr_t)p->base) / GMEM_PAGE;
		if (start < p->size / GMEM_PAGE)
			p->waiting[p->count++] = start;
		break;
	case UFFD_EVENT_REMOVE:
		start = (m->arg.remove.start - (uintptr_t)p->base) / GMEM_PAGE;
		end = (m->arg.remove.end - (uintptr_t)p->base) / GMEM_PAGE;
		/* Of a huge page that is not gone as a whole nothing is. */
		if (p->unit != UNIT_SMALL) {
			start = (start + PAGESET_CHUNK - 1) / PAGESET_CHUNK * PAGESET_CHUNK;
			end = end / PAGESET_CHUNK * PAGESET_CHUNK;
		}
		pageset_add_range(&p->brought, start, end > start ? end - start : 0);
		break;
	default:
		break;
	}
}

/* False when it is to end. */
static bool wait_for_messages(struct pager *p)
{
	struct pollfd fd[] = {{.fd = p->uffd, .events = POLLIN}, {.fd = p->stop, .events = POLLIN}};
	struct uffd_msg m;

	poll(fd, ARRAY_SIZE(fd), p->count ? 1 : -1);
	while (p->count < WAITING_MAX && fd_read(p->uffd, &m, sizeof(m)) == (ssize_t)sizeof(m))
		take_message(p, &m);
	return !fd[1].revents;
}

static void *serve(void *arg)
{
	struct pager *p = arg;
	struct err e;

	log_name_thread("pager");
	if (seccomp_install(p->seccomp, SECCOMP_FETCH, &e) < 0)
		give_up(e.msg, e.code);
	while (wait_for_messages(p)) {
		unsigned left = 0;

		for (unsigned i = 0; i < p->count; i++)
			if (!bring(p, p->waiting[i]))
				p->waiting[left++] = p->waiting[i];
		p->count = left;
	}
	return NULL;
}

static int start_thread(struct pager *p, struct err *e)
{
	int r;

	r = thread_start(&p->thread, KIB(64), serve, p);
	p->has_thread = r == 0;
	return r < 0 ? err_set(e, -r, "create a thread: %s", strerror(-r)) : 0;
}

static int start(struct pager *p, const struct gmem *m, struct err *e)
{
	int r;

	p->buf =
		mmap(NULL, 2 * p->unit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p->buf == MAP_FAILED) {
		p->buf = NULL;
		return err_sys(e, "map a buffer");
	}
	p->zeroes = p->buf + p->unit;
	r = pageset_init(&p->brought, p->size / GMEM_PAGE, e);
	if (r < 0)
		return r;
	p->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->stop < 0)
		return err_sys(e, "create an eventfd");
	p->uffd = uffd_open(m, e);
	return p->uffd < 0 ? p->uffd : start_thread(p, e);
}

struct pager *pager_create(const struct gmem *m, int file, const struct seccomp *seccomp,
			   struct err *e)
{
	struct pager *p = calloc(1, sizeof(*p));

	if (!p) {
		fd_close(&file);
		err_set(e, ENOMEM, "out of memory");
		return NULL;
	}
	*p = (struct pager){
		.base = gmem_base(m),
		.size = gmem_size(m),
		.unit = m->backing == GMEM_HUGETLB_2M ? MIB(2) : UNIT_SMALL,
		.uffd = -1,
		.stop = -1,
		.file = file,
		.seccomp = seccomp,
	};
	if (start(p, m, e) == 0)
		return p;
	pager_destroy(p);
	return NULL;
}

void pager_destroy(struct pager *p)
{
	if (!p)
		return;
	if (p->has_thread) {
		fd_event_signal(p->stop);
		pthread_join(p->thread, NULL);
	}
	fd_close(&p->uffd);
	fd_close(&p->stop);
	fd_close(&p->file);
	if (p->buf)
		munmap(p->buf, 2 * p->unit);
	pageset_finish(&p->brought);
	free(p);
}
