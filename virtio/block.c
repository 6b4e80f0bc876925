/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-blk, section 5.2 of virtio 1.2. One to four queues of requests:
 *
 *	readable: type, reserved, sector, then the data of a write or the segments of a discard
 *	writable: the data of a read, then one status byte, the very last
 *
 * How the driver cuts these into descriptors is its own affair (section 2.7.4.1). Reads and writes
 * go between guest memory and file without a copy of ours, in one of two ways:
 *
 *	Sync	one preadv() or pwritev() each, in order, in the main thread
 *	Async	everything that the queue holds in one io_uring_enter(). What the page cache has is
 *		read during that call; the rest completes later, in any order
 *
 * All queues are served by the main thread: a guest with several vCPUs gets several queues so that
 * its vCPUs need no common lock, not so that we have more threads.
 *
 * Cache types: Writeback offers FLUSH, which is an fdatasync. Unsafe does not offer it, and what
 * the guest believes to be on disk is in the host's page cache. The map of an overlay follows: it
 * reaches the file with a flush, or under Unsafe at the end of each turn.
 *
 * A hostile guest can at worst read and write all of its own disk (write only unless it is
 * read-only), fill up a sparse file, and keep its own monitor's main thread for one turn: 16 MiB
 * and a last request of up to 4 GiB. It cannot reach beyond the capacity: sectors are compared by
 * subtraction, in sectors. The host's failures (disk full, a file that somebody truncated) are I/O
 * errors of the guest, and only that.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "virtio/block_impl.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

/* A header and a status byte take a descriptor each. */
#define SEG_MAX (VIRTQ_SIZE_MAX - 2)

/*
 * A turn of the queue callback ends after so many requests, or bytes, or when a disk that is slow
 * has taken so long: the API is served by the same thread. The clock is read once in TURN_LOOK bytes.
 */
#define TURN_REQUESTS VIRTQ_SIZE_MAX
#define TURN_BYTES    MIB(16)
#define TURN_NS	      2000000u
#define TURN_LOOK     MIB(1)

/* When the kernel takes no more requests for want of memory, it is asked again after this. */
#define RETRY_NS 1000000u

static struct block *to_block(const struct virtio_device *d)
{
	return CONTAINER_OF(d, struct block, dev);
}

/* --- queues --- */

/* Publishes what was released, on every queue: a completion may belong to any. */
static void end_queues(struct block *b)
{
	for (unsigned i = 0; i < b->dev.num_queues; i++)
		virtio_queue_end(&b->dev, &b->queue[i]);
	if (b->overlay && overlay_dirty(b->overlay) && !(b->dev.features & BLOCK_F_FLUSH) &&
	    overlay_write_map(b->overlay) < 0)
		log_warn("%s: cannot write the overlay's map", b->name);
}

/* Hands over and publishes a batch. */
static void end_batch(struct block *b)
{
	if (block_request_flush(b) < 0) {
		b->stalled = true;
		loop_timer_set(b->dev.env.loop, &b->resume, RETRY_NS);
	}
	end_queues(b);
}

/* True: the limit makes this chain wait; a timer will tell. */
static bool limited(struct block *b, const struct virtq_chain *c)
{
	const uint64_t frame = 16 + 1; /* header and status are no payload */
	uint64_t bytes = (uint64_t)c->readable + c->writable, wait;

	if (!limiter_active(&b->limiter))
		return false;
	bytes -= MIN(bytes, frame);
	wait = limiter_wait(&b->limiter, now_ns(), bytes);
	if (wait == 0) {
		limiter_charge(&b->limiter, bytes);
		return false;
	}
	metric_inc(&b->count.rate_limiter_throttled_events);
	b->throttled = true;
	loop_timer_set(b->dev.env.loop, &b->resume, wait);
	return true;
}

/* Starts one request. 1: done, 0: there is none or it has to wait, -errno: the ring is broken. */
static int serve_one(struct block *b, struct virtq *q, uint64_t *bytes)
{
	struct block_request *req = b->free;
	int r;

	if (!req) {
		metric_inc(&b->count.io_engine_throttled_events);
		b->stalled = true;
		return 0;
	}
	r = virtq_get(q, &req->chain);
	if (r <= 0)
		return r;
	if (limited(b, &req->chain)) {
		virtq_unget(q, 1);
		return 0;
	}
	b->free = req->next;
	req->q = q;
	*bytes += (uint64_t)req->chain.readable + req->chain.writable;
	block_request_start(req);
	return 1;
}

/*
 * Serves a queue for one turn. 1: there may be more, 0: no more now, -errno: broken. A batch is
 * handed over before virtq_get() finds the queue empty and arms notifications: while the kernel
 * reads, the guest adds its next requests without an exit.
 */
static int serve_queue(struct block *b, struct virtq *q)
{
	uint64_t bytes = 0, look = TURN_LOOK, end_ns = now_ns() + TURN_NS;
	unsigned served = 0, batch = 0;
	int r = 1;

	b->stalled = false;
	while (r > 0 && served < TURN_REQUESTS && bytes < TURN_BYTES) {
		if (bytes >= look) {
			if (now_ns() >= end_ns)
				break;
			look = bytes + TURN_LOOK;
		}
		if (batch > 0 && !virtq_waiting(q)) {
			end_batch(b);
			batch = 0;
		}
		r = serve_one(b, q, &bytes);
		batch += r > 0;
		served += r > 0;
	}
	if (r == 0 && served == 0 && !b->throttled && !b->stalled)
		metric_inc(&b->count.no_avail_buffer);
	end_batch(b);
	if (r > 0)
		metric_inc(&b->count.remaining_reqs_count);
	if (r < 0) {
		metric_inc(&b->count.event_fails);
		virtio_needs_reset(&b->dev, r);
	}
	return r;
}

static bool block_notify(struct virtio_device *d, unsigned queue)
{
	struct block *b = to_block(d);

	metric_inc(&b->count.queue_event_count);
	/* The timer will serve all queues. */
	if (b->throttled)
		return false;
	return serve_queue(b, &b->queue[queue]) > 0;
}

/* Serves all queues when no notification may come for them. */
static void serve_all(struct block *b)
{
	bool more = false;

	for (unsigned i = 0; i < b->dev.num_queues; i++)
		if (virtio_active(&b->dev) && !b->throttled && virtq_waiting(&b->queue[i]))
			more |= serve_queue(b, &b->queue[i]) > 0;
	if (more && !b->resume.armed)
		loop_timer_set(b->dev.env.loop, &b->resume, 0);
}

static void resume_expired(struct loop_timer *t)
{
	struct block *b = t->arg;

	if (b->throttled)
		metric_inc(&b->count.rate_limiter_event_count);
	b->throttled = false;
	/* What the kernel did not take when it was prepared. */
	if (b->async)
		end_batch(b);
	serve_all(b);
}

static void ring_ready(struct loop_source *s, uint32_t events)
{
	struct block *b = s->arg;
	bool stalled = b->stalled;

	(void)events;
	b->stalled = false;
	uring_reap(&b->ring);
	end_queues(b);
	if (stalled)
		serve_all(b);
}

/* --- what may come from elsewhere --- */

static void wait_for_all(struct block *b)
{
	if (b->async)
		uring_wait(&b->ring);
	b->arena_used = 0;
}

/* A vCPU thread: the timer stays armed, and finds what the next driver has made of the queues. */
static void block_reset(struct virtio_device *d)
{
	struct block *b = to_block(d);

	wait_for_all(b);
	b->stalled = false;
}

int block_drain(struct virtio_device *d)
{
	struct block *b = to_block(d);

	wait_for_all(b);
	end_queues(b);
	return b->overlay && overlay_dirty(b->overlay) ? overlay_flush(b->overlay) : 0;
}

static int drain_op(struct virtio_device *d, struct err *e)
{
	int r = block_drain(d);

	return r < 0 ? err_set(e, -r, "write the overlay's map: %s", strerror(-r)) : 0;
}

void block_set_limiter(struct virtio_device *d, const struct limiter_config *cfg)
{
	struct block *b = to_block(d);

	limiter_set(&b->limiter, cfg, now_ns());
	metric_inc(&b->count.update_count);
	if (b->throttled)
		loop_timer_set(b->dev.env.loop, &b->resume, 0);
}

static int update_failed(struct block *b, int error, struct err *e)
{
	metric_inc(&b->count.update_fails);
	return err_set(e, -error, "%s: use another file: %s", b->name, strerror(-error));
}

int block_set_file(struct virtio_device *d, int fd, struct err *e)
{
	struct block *b = to_block(d);
	int64_t size = fd < 0 ? 0 : fd_size(fd);

	if (b->overlay)
		return update_failed(b, -EINVAL, e);
	if (size < 0)
		return update_failed(b, (int)size, e);
	/* What is in flight belongs to the old file. */
	wait_for_all(b);
	end_queues(b);
	fd_close(&b->fd);
	b->fd = fd;
	b->space.capacity = (uint64_t)size / BLOCK_SECTOR;
	metric_inc(&b->count.update_count);
	virtio_config_changed(d);
	return 0;
}

/* --- create and destroy --- */

static void block_destroy(struct virtio_device *d)
{
	struct block *b = to_block(d);

	loop_timer_clear(d->env.loop, &b->resume);
	if (b->ring_source.added)
		loop_del(d->env.loop, &b->ring_source);
	if (block_drain(d) < 0)
		log_warn("%s: the overlay's map could not be written", b->name);
	uring_finish(&b->ring);
	overlay_close(b->overlay);
	fd_close(&b->fd);
	fd_close(&b->base_fd);
	free(b->request);
	free(b);
}

static const struct virtio_ops block_ops = {
	.notify = block_notify,
	.reset = block_reset,
	.drain = drain_op,
	.destroy = block_destroy,
};

static uint64_t offered(const struct block_config *cfg)
{
	uint64_t f = VIRTIO_FEATURES_COMMON | BLOCK_F_SEG_MAX;

	f |= cfg->read_only ? BLOCK_F_RO : BLOCK_F_DISCARD | BLOCK_F_WRITE_ZEROES;
	f |= cfg->writeback ? BLOCK_F_FLUSH : 0;
	return f | (cfg->queues > 1 ? BLOCK_F_MQ : 0);
}

static int make_requests(struct block *b, struct err *e)
{
	unsigned n = b->async ? BLOCK_IN_FLIGHT : 1;

	/* Untouched memory is not there: what is never in flight costs nothing. */
	b->request = calloc(n, sizeof(*b->request));
	if (!b->request)
		return err_set(e, ENOMEM, "out of memory");
	for (unsigned i = 0; i < n; i++) {
		b->request[i].b = b;
		b->request[i].next = i + 1 < n ? &b->request[i + 1] : NULL;
	}
	b->free = b->request;
	return 0;
}

static int make_ring(struct block *b, struct err *e)
{
	int r = uring_init(&b->ring, e);

	if (r < 0)
		return r;
	b->ring_source = (struct loop_source){
		.fd = uring_fd(&b->ring),
		.ready = ring_ready,
		.arg = b,
		.lock = b->dev.env.lock,
	};
	return loop_add(b->dev.env.loop, &b->ring_source, EPOLLIN, e);
}

static int open_disk(struct block *b, const struct block_config *cfg, struct err *e)
{
	int64_t size = cfg->fd < 0 ? 0 : fd_size(cfg->fd);

	if (size < 0)
		return err_set(e, (int)-size, "size: %s", strerror((int)-size));
	if (cfg->overlay) {
		b->overlay = overlay_open(cfg->fd, cfg->base_fd, e);
		if (!b->overlay)
			return -e->code;
		size = (int64_t)overlay_size(b->overlay);
	}
	b->space = (struct block_space){
		.capacity = (uint64_t)size / BLOCK_SECTOR,
		.seg_max = SEG_MAX,
		.num_queues = (uint16_t)b->dev.num_queues,
		.max_discard_sectors = BLOCK_DISCARD_MAX,
		.max_discard_seg = BLOCK_RANGES_MAX,
		.discard_sector_alignment = 4096 / BLOCK_SECTOR,
		.max_write_zeroes_sectors = BLOCK_ZEROES_MAX,
		.max_write_zeroes_seg = BLOCK_RANGES_MAX,
		.write_zeroes_may_unmap = 1,
	};
	return 0;
}

static void fill(struct block *b, const struct block_config *cfg, const struct virtio_env *env)
{
	b->fd = b->base_fd = -1;
	b->read_only = cfg->read_only;
	b->async = cfg->async;
	memcpy(b->id, cfg->id, strnlen(cfg->id, BLOCK_ID_LEN));
	snprintf(b->name, sizeof(b->name), "block '%s'", cfg->id);
	limiter_set(&b->limiter, cfg->limiter, now_ns());
	b->resume = (struct loop_timer){.expired = resume_expired, .arg = b, .lock = env->lock};
	for (unsigned i = 0; i < BLOCK_QUEUES_MAX; i++)
		virtq_init(&b->queue[i], VIRTQ_SIZE_MAX);
	b->dev = (struct virtio_device){
		.ops = &block_ops,
		.type = VIRTIO_ID_BLOCK,
		.name = b->name,
		.features = offered(cfg),
		.config = &b->space,
		.config_len = BLOCK_SPACE_LEN,
		.queue = b->queue,
		.num_queues = cfg->queues ? MIN(cfg->queues, BLOCK_QUEUES_MAX) : 1,
		.env = *env,
	};
}

struct virtio_device *block_create(const struct block_config *cfg, const struct virtio_env *env,
				   struct err *e)
{
	struct block *b = calloc(1, sizeof(*b));
	struct err local;
	int r;

	e = e ? e : &local;
	if (!b) {
		err_set(e, ENOMEM, "block '%s': out of memory", cfg->id);
		return NULL;
	}
	fill(b, cfg, env);
	r = open_disk(b, cfg, e);
	if (r == 0)
		r = make_requests(b, e);
	if (r == 0 && cfg->async)
		r = make_ring(b, e);
	if (r < 0) {
		err_wrap(e, "block '%s'", cfg->id);
		block_destroy(&b->dev);
		return NULL;
	}
	b->fd = cfg->fd;
	b->base_fd = cfg->overlay ? cfg->base_fd : -1;
	return &b->dev;
}

struct block_metrics *block_metrics(struct virtio_device *d)
{
	return &to_block(d)->count;
}

uint64_t block_overlay_bytes(const struct virtio_device *d)
{
	const struct block *b = to_block(d);

	return b->overlay ? overlay_own_bytes(b->overlay) : 0;
}
