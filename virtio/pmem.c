/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-pmem, section 5.19 of virtio 1.2. One queue of requests, of which there is one kind:
 *
 *	readable: type (32 bits), 0 is a flush
 *	writable: result (32 bits), 0 is success
 *
 * A flush is an fdatasync() of the file: what the guest has written through its own mapping is in the
 * page cache, and the kernel knows. That may take seconds, since until then nothing had to reach the
 * disk: it is handed to an io_uring, so that neither the guest's processor nor the main thread waits,
 * or carried out at once where the host has none. All flushes that are waiting are answered by one
 * sync; what comes while it runs waits for the next.
 *
 * What is behind the file's end, up to a whole 2 MiB, is memory of the VM: a snapshot keeps it.
 *
 * A hostile guest can at worst read and write the file (write: unless it is read-only), make a sparse
 * one take all of its size on the host's disk, and make the host sync it without end, for which
 * there is the rate limit. What its other devices write into a read-only one is a private copy,
 * memory beyond that of the VM, at most of the file's size.
 */
#define _GNU_SOURCE
#include "virtio/pmem.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "virtio/uring.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

/* Flushes that one sync answers. */
#define BATCH	     16u
/* A turn of the queue callback ends after so many requests that are none. */
#define TURN	     64u
#define TYPE_FLUSH   0u
#define RESULT_OK    0u
#define RESULT_ERROR UINT32_MAX

/* Section 5.19.4. */
struct pmem_space {
	uint64_t start, size;
};

/* What a snapshot keeps, beside what the guest knows. */
struct pmem_state {
	uint64_t file_len;
	uint32_t tail; /* bytes behind the file's last page, up to the last that is not zero */
};

struct pmem {
	struct virtio_device dev;
	struct virtq queue;	   /* [s] */
	struct pmem_space space;   /* [I] */
	struct pmem_state state;   /* [s] */
	struct pmem_metrics count; /* [a] */
	int fd;			   /* [I] owned */
	bool read_only;		   /* [I] */
	uint64_t file_len;	   /* [I] */
	char name[80];		   /* [I] */
	struct limiter limiter;	   /* [s] */
	struct loop_timer resume;  /* [m] nothing is served before it expires */
	bool throttled;		   /* [s] that is because of the limit */
	struct uring ring;	   /* [s] without one a flush is synchronous */
	struct loop_source watch;  /* [m] of the ring */
	struct uring_op sync;	   /* [s] */
	bool syncing;		   /* [s] */
	unsigned waiting;	   /* [s] flushes in chain[] that are not answered */
	struct virtq_chain chain[BATCH];
};

static struct pmem *to_pmem(const struct virtio_device *d)
{
	return CONTAINER_OF((struct virtio_device *)(uintptr_t)d, struct pmem, dev);
}

/* --- serve --- */

static void answer(struct pmem *p, const struct virtq_chain *c, uint32_t result)
{
	bool room = virtq_chain_write(c, 0, &result, sizeof(result)) == 0;

	virtq_release(&p->queue, c->head, room ? sizeof(result) : 0);
}

static void answer_all(struct pmem *p, int32_t error)
{
	if (error) {
		metric_add(&p->count.execute_fails, p->waiting);
		log_warn("%s: flush: %s", p->name, strerror(-error));
	}
	for (unsigned i = 0; i < p->waiting; i++)
		answer(p, &p->chain[i], error ? RESULT_ERROR : RESULT_OK);
	p->waiting = 0;
	virtio_queue_end(&p->dev, &p->queue);
}

static int sync_now(struct pmem *p)
{
	return p->read_only || fdatasync(p->fd) == 0 ? 0 : -errno;
}

static void synced(struct uring_op *op, int32_t result)
{
	struct pmem *p = CONTAINER_OF(op, struct pmem, sync);

	p->syncing = false;
	answer_all(p, result);
}

/* Answers what is waiting, now or when the kernel has finished. */
static void begin_sync(struct pmem *p)
{
	if (p->waiting == 0 || p->read_only || uring_fd(&p->ring) < 0) {
		answer_all(p, p->waiting ? sync_now(p) : 0);
		return;
	}
	p->syncing = true;
	uring_fdatasync(&p->ring, &p->sync, p->fd);
	/* The kernel takes none for want of memory: rather slowly than not at all. */
	if (uring_submit(&p->ring) < 0)
		uring_wait(&p->ring);
}

static bool is_flush(const struct virtq_chain *c)
{
	uint32_t type;

	return virtq_chain_read(c, 0, &type, sizeof(type)) == 0 && type == TYPE_FLUSH &&
	       c->writable >= sizeof(uint32_t);
}

/* True: the limit makes the flush just taken wait; it is put back, and a timer will tell. */
static bool limited(struct pmem *p)
{
	uint64_t wait;

	if (!limiter_active(&p->limiter))
		return false;
	wait = limiter_wait(&p->limiter, now_ns(), 0);
	if (wait == 0) {
		limiter_charge(&p->limiter, 0);
		return false;
	}
	metric_inc(&p->count.rate_limiter_throttled_events);
	virtq_unget(&p->queue, 1);
	p->throttled = true;
	loop_timer_set(p->dev.env.loop, &p->resume, wait);
	return true;
}

/* Takes a batch. 1: there may be more, 0: no more now, -errno: the ring is broken. */
static int take_batch(struct pmem *p)
{
	for (unsigned served = 0; p->waiting < BATCH && served < TURN; served++) {
		struct virtq_chain *c = &p->chain[p->waiting];
		int r = virtq_get(&p->queue, c);

		if (r <= 0)
			return r;
		if (!is_flush(c)) {
			metric_inc(&p->count.invalid_reqs_count);
			answer(p, c, RESULT_ERROR);
			continue;
		}
		if (limited(p))
			return 0;
		metric_inc(&p->count.flush_count);
		p->waiting++;
	}
	return 1;
}

/* One batch. True: there may be more, and nobody else will call for it. */
static bool serve(struct pmem *p)
{
	int r = take_batch(p);

	if (r < 0) {
		answer_all(p, p->waiting ? sync_now(p) : 0);
		metric_inc(&p->count.event_fails);
		virtio_needs_reset(&p->dev, r);
		return false;
	}
	begin_sync(p);
	return r > 0 && !p->syncing;
}

/* --- queue callback, and who else calls --- */

static bool pmem_notify(struct virtio_device *d, unsigned queue)
{
	struct pmem *p = to_pmem(d);

	(void)queue;
	metric_inc(&p->count.queue_event_count);
	return !p->syncing && !p->resume.armed && serve(p);
}

static void go_on(struct pmem *p)
{
	if (virtio_active(&p->dev) && !p->syncing && !p->resume.armed && serve(p))
		loop_timer_set(p->dev.env.loop, &p->resume, 0);
}

static void ring_ready(struct loop_source *s, uint32_t events)
{
	struct pmem *p = s->arg;

	(void)events;
	if (uring_reap(&p->ring) > 0)
		go_on(p);
}

static void resume_expired(struct loop_timer *t)
{
	struct pmem *p = t->arg;

	if (p->throttled)
		metric_inc(&p->count.rate_limiter_event_count);
	p->throttled = false;
	go_on(p);
}

/* A vCPU thread: the timer stays armed, and finds what the next driver has made of the queue. */
static void pmem_reset(struct virtio_device *d)
{
	uring_wait(&to_pmem(d)->ring);
}

static int pmem_drain(struct virtio_device *d, struct err *e)
{
	struct pmem *p = to_pmem(d);
	int r;

	uring_wait(&p->ring);
	/* A snapshot is on the disk when it is there, and this belongs to it. */
	r = sync_now(p);
	return r < 0 ? err_set(e, -r, "%s: sync: %s", p->name, strerror(-r)) : 0;
}

void pmem_set_limiter(struct virtio_device *d, const struct limiter_config *cfg)
{
	struct pmem *p = to_pmem(d);

	limiter_set(&p->limiter, cfg, now_ns());
	if (p->resume.armed)
		loop_timer_set(d->env.loop, &p->resume, 0);
}

/* --- wire and check --- */

/* The bytes behind the file's last page; NULL when there are none. */
static uint8_t *tail_of(const struct pmem *p, uint32_t *len)
{
	uint64_t end = align_up(p->file_len, GMEM_PAGE);

	*len = (uint32_t)(p->space.size - end);
	return gmem_at(p->dev.env.mem, p->space.start + end, *len);
}

static void pmem_wire(struct virtio_device *d, struct wire *w)
{
	struct pmem *p = to_pmem(d);
	uint32_t len;
	uint8_t *tail = tail_of(p, &len);

	if (w->writing) {
		p->state = (struct pmem_state){.file_len = p->file_len, .tail = len};
		while (p->state.tail && !tail[p->state.tail - 1])
			p->state.tail--;
	}
	wire_u64(w, &p->state.file_len);
	wire_u32(w, &p->state.tail);
	if (p->state.file_len != p->file_len)
		w->pos = w->len; /* pmem_check() says why */
	else if (p->state.tail > len)
		wire_fail(w, -EBADMSG);
	else if (p->state.tail)
		wire_bytes(w, tail, p->state.tail);
}

static int pmem_check(struct virtio_device *d, const void *config, uint32_t len, struct err *e)
{
	const struct pmem *p = to_pmem(d);

	if (p->state.file_len != p->file_len)
		return err_set(e, EINVAL, "its file has %llu bytes, and had %llu",
			       (unsigned long long)p->file_len,
			       (unsigned long long)p->state.file_len);
	if (len != sizeof(p->space) || memcmp(config, &p->space, len) != 0)
		return err_set(e, EINVAL, "it is not where the guest knows it to be");
	return 0;
}

/* --- ops, create and destroy --- */

static void pmem_destroy(struct virtio_device *d)
{
	struct pmem *p = to_pmem(d);

	loop_timer_clear(d->env.loop, &p->resume);
	if (p->watch.added)
		loop_del(d->env.loop, &p->watch);
	uring_wait(&p->ring);
	uring_finish(&p->ring);
	fd_close(&p->fd);
	free(p);
}

static const struct virtio_ops pmem_ops = {
	.notify = pmem_notify,
	.reset = pmem_reset,
	.drain = pmem_drain,
	.wire = pmem_wire,
	.check = pmem_check,
	.destroy = pmem_destroy,
};

/* Hosts may forbid io_uring: then without it. */
static int make_ring(struct pmem *p, struct err *e)
{
	struct err why;

	if (p->read_only || uring_init(&p->ring, &why) < 0)
		return 0;
	p->watch = (struct loop_source){
		.fd = uring_fd(&p->ring),
		.ready = ring_ready,
		.arg = p,
		.lock = p->dev.env.lock,
	};
	return loop_add(p->dev.env.loop, &p->watch, EPOLLIN, e);
}

struct virtio_device *pmem_create(const struct pmem_setup *setup, const struct virtio_env *env,
				  struct err *e)
{
	struct pmem *p = calloc(1, sizeof(*p));
	struct err local;

	e = e ? e : &local;
	if (!p) {
		err_set(e, ENOMEM, "pmem '%s': out of memory", setup->id);
		return NULL;
	}
	p->fd = -1;
	p->read_only = setup->read_only;
	p->file_len = setup->file_len;
	p->space = (struct pmem_space){.start = setup->start, .size = setup->len};
	p->sync.done = synced;
	snprintf(p->name, sizeof(p->name), "pmem '%s'", setup->id);
	limiter_set(&p->limiter, setup->limiter, now_ns());
	p->resume = (struct loop_timer){.expired = resume_expired, .arg = p, .lock = env->lock};
	virtq_init(&p->queue, VIRTQ_SIZE_MAX);
	p->dev = (struct virtio_device){
		.ops = &pmem_ops,
		.type = VIRTIO_ID_PMEM,
		.name = p->name,
		.features = VIRTIO_FEATURES_COMMON,
		.config = &p->space,
		.config_len = sizeof(p->space),
		.queue = &p->queue,
		.num_queues = 1,
		.env = *env,
	};
	if (make_ring(p, e) < 0) {
		err_wrap(e, "pmem '%s'", setup->id);
		pmem_destroy(&p->dev);
		return NULL;
	}
	p->fd = setup->fd;
	return &p->dev;
}

struct pmem_metrics *pmem_metrics(struct virtio_device *d)
{
	return &to_pmem(d)->count;
}
