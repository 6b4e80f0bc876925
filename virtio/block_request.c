/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request of the block device, from its chain to its answer (virtio 1.2 section 5.2.6).
 *
 * The synchronous engine carries it out on the spot. The asynchronous one prepares operations on
 * the ring: one, or for a read that spans overlay and base one for each stretch. Whatever is out of
 * the ordinary (many stretches, a short transfer, a ring that is full) falls back to the
 * synchronous way, so that there is one place that knows how to get it right.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include "virtio/block_impl.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

/* Request types and answers, section 5.2.6. */
#define BLOCK_T_IN	     0u
#define BLOCK_T_OUT	     1u
#define BLOCK_T_FLUSH	     4u
#define BLOCK_T_GET_ID	     8u
#define BLOCK_T_DISCARD	     11u
#define BLOCK_T_WRITE_ZEROES 13u
#define BLOCK_S_OK	     0u
#define BLOCK_S_IOERR	     1u
#define BLOCK_S_UNSUPP	     2u
#define BLOCK_RANGE_UNMAP    1u

struct block_header {
	uint32_t type;
	uint32_t reserved;
	uint64_t sector;
};
_Static_assert(sizeof(struct block_header) == 16, "virtio 1.2 section 5.2.6");

/* A segment of DISCARD and WRITE_ZEROES. */
struct block_range {
	uint64_t sector;
	uint32_t sectors;
	uint32_t flags;
};
_Static_assert(sizeof(struct block_range) == 16, "virtio 1.2 section 5.2.6");

/* The answer, behind `data` bytes that we wrote. Gives the request back. */
static void complete(struct block_request *req, uint8_t status, uint32_t data)
{
	struct block *b = req->b;
	uint32_t written = 0;

	/* Without room for a status there is nobody to tell. */
	if (req->chain.writable > 0) {
		virtq_chain_write(&req->chain, req->chain.writable - 1, &status, sizeof(status));
		written = data + 1;
	}
	virtq_release(req->q, req->chain.head, written);
	req->next = b->free;
	b->free = req;
}

static void refuse(struct block_request *req, uint8_t status)
{
	metric_inc(&req->b->count.invalid_reqs_count);
	complete(req, status, 0);
}

static void host_failed(struct block_request *req, const char *what, int error, uint32_t data)
{
	struct block *b = req->b;

	metric_inc(&b->count.execute_fails);
	log_warn("%s: %s at sector %llu: %s", b->name, what, (unsigned long long)req->sector,
		 error == -ENODATA ? "the file is shorter than it was" : strerror(-error));
	complete(req, BLOCK_S_IOERR, data);
}

/* Whether `len` bytes from `sector` on are whole sectors of the disk. */
static bool on_disk(const struct block *b, uint64_t sector, uint64_t len)
{
	return len % BLOCK_SECTOR == 0 &&
	       range_within(sector, len / BLOCK_SECTOR, b->space.capacity);
}

/* --- reads and writes --- */

static enum virtq_part chain_part(const struct block_request *req)
{
	return req->type == BLOCK_T_IN ? VIRTQ_WRITABLE : VIRTQ_READABLE;
}

/* Where the data begins in its part of the chain. */
static uint32_t data_start(const struct block_request *req)
{
	return req->type == BLOCK_T_IN ? 0 : (uint32_t)sizeof(struct block_header);
}

/* The part of the request from `at` on that is one transfer. */
static struct block_part next_part(struct block_request *req, uint32_t at)
{
	const struct block *b = req->b;
	uint64_t byte = req->sector * BLOCK_SECTOR + at;
	struct block_part p = {.req = req, .at = at, .len = req->len - at, .off = byte};
	struct overlay_run run;

	if (!b->overlay)
		return p;
	if (req->type == BLOCK_T_IN) {
		run = overlay_run(b->overlay, byte / BLOCK_SECTOR, p.len / BLOCK_SECTOR);
		p.len = (uint32_t)run.sectors * BLOCK_SECTOR;
		p.base = !run.own;
	}
	if (!p.base)
		p.off = overlay_offset(b->overlay, byte);
	return p;
}

/* Carries out what is left of a part from byte `done` of it on. 0, or -errno; *moved bytes of it. */
static int transfer(const struct block_part *p, uint32_t done, uint32_t *moved)
{
	struct block_request *req = p->req;
	struct block *b = req->b;
	int fd = p->base ? b->base_fd : b->fd, r = 0;

	while (r == 0 && done < p->len) {
		uint32_t at = data_start(req) + p->at + done;
		int n = virtq_chain_slice(&req->chain, chain_part(req), at, p->len - done, b->iov);
		int64_t off = (int64_t)(p->off + done);
		ssize_t got = req->type == BLOCK_T_IN ? fd_readv(fd, b->iov, n, off)
						      : fd_writev(fd, b->iov, n, off);

		if (got > 0)
			done += (uint32_t)got;
		else if (got == 0)
			r = -ENODATA;
		else if (errno != EINTR)
			r = -errno;
	}
	*moved = done;
	return r;
}

static void count_transfer(struct block_request *req)
{
	struct block_metrics *count = &req->b->count;
	uint64_t us = (now_ns() - req->start_ns) / 1000;

	if (req->type == BLOCK_T_IN) {
		metric_agg_add(&count->read_agg, us);
		metric_inc(&count->read_count);
		metric_add(&count->read_bytes, req->len);
	} else {
		metric_agg_add(&count->write_agg, us);
		metric_inc(&count->write_count);
		metric_add(&count->write_bytes, req->len);
	}
}

/* All parts are through. */
static void end_transfer(struct block_request *req)
{
	struct block *b = req->b;

	if (req->error < 0) {
		if (req->type == BLOCK_T_IN)
			host_failed(req, "read", req->error, req->good);
		else
			host_failed(req, "write", req->error, 0);
		return;
	}
	/* Only now: until the data is there, a reader has to find what was there before. */
	if (req->type == BLOCK_T_OUT && b->overlay)
		overlay_mark(b->overlay, req->sector, req->len / BLOCK_SECTOR);
	count_transfer(req);
	complete(req, BLOCK_S_OK, req->type == BLOCK_T_IN ? req->len : 0);
}

/* `moved` bytes of a part are through; `error` says why not all of them. */
static void end_part(const struct block_part *p, uint32_t moved, int error)
{
	struct block_request *req = p->req;
	struct block_metrics *count = &req->b->count;

	if (req->b->overlay && req->type == BLOCK_T_IN)
		metric_add(p->base ? &count->overlay_base_bytes : &count->overlay_read_bytes,
			   moved);
	if (error < 0 && (req->error == 0 || p->at + moved < req->good)) {
		req->error = error;
		req->good = p->at + moved;
	}
}

static void start_sync(struct block_request *req)
{
	for (uint32_t at = 0; at < req->len && req->error == 0;) {
		struct block_part p = next_part(req, at);
		uint32_t moved;
		int r = transfer(&p, 0, &moved);

		end_part(&p, moved, r);
		at += p.len;
	}
	end_transfer(req);
}

static void part_done(struct uring_op *op, int32_t result)
{
	struct block_part *p = CONTAINER_OF(op, struct block_part, op);
	struct block_request *req = p->req;
	uint32_t moved = result > 0 ? (uint32_t)result : 0;
	int r = result < 0 ? result : 0;

	/* Short, or interrupted: the rest, or the reason why there is none, comes from here. */
	if (moved < p->len && (r == 0 || r == -EINTR || r == -EAGAIN))
		r = transfer(p, moved, &moved);
	end_part(p, moved, r);
	if (--req->pending == 0)
		end_transfer(req);
}

/* Cuts a request into parts. How many, or 0: too many. */
static unsigned cut(struct block_request *req)
{
	unsigned n = 0;

	for (uint32_t at = 0; at < req->len; at += req->part[n++].len) {
		if (n == BLOCK_PARTS)
			return 0;
		req->part[n] = next_part(req, at);
	}
	return n;
}

static void prepare(struct block *b, struct block_part *p)
{
	struct block_request *req = p->req;
	struct iovec *iov = &b->arena[b->arena_used];
	int fd = p->base ? b->base_fd : b->fd;
	int n = virtq_chain_slice(&req->chain, chain_part(req), data_start(req) + p->at, p->len,
				  iov);

	b->arena_used += (unsigned)n;
	p->op.done = part_done;
	if (req->type == BLOCK_T_IN)
		uring_readv(&b->ring, &p->op, fd, iov, (unsigned)n, p->off);
	else
		uring_writev(&b->ring, &p->op, fd, iov, (unsigned)n, p->off);
}

/* Hands over what is prepared; the kernel has copied the arena then. */
static int submit(struct block *b)
{
	int r = uring_submit(&b->ring);

	if (r == 0)
		b->arena_used = 0;
	return r;
}

/* Room for the parts and buffers of a request; each cut between parts may add a buffer. */
static bool make_room(struct block *b, const struct block_request *req)
{
	unsigned buffers = req->chain.count + BLOCK_PARTS;

	if (b->arena_used + buffers > BLOCK_ARENA || !uring_has_room(&b->ring, BLOCK_PARTS))
		submit(b);
	return b->arena_used + buffers <= BLOCK_ARENA && uring_has_room(&b->ring, BLOCK_PARTS);
}

static void start_transfer(struct block_request *req)
{
	struct block *b = req->b;
	unsigned n = b->async && make_room(b, req) ? cut(req) : 0;

	if (n == 0) {
		start_sync(req);
		return;
	}
	req->pending = n;
	for (unsigned i = 0; i < n; i++)
		prepare(b, &req->part[i]);
}

static void start_read(struct block_request *req)
{
	req->len = req->chain.writable - 1;
	if (on_disk(req->b, req->sector, req->len))
		start_transfer(req);
	else
		refuse(req, BLOCK_S_IOERR);
}

static void start_write(struct block_request *req)
{
	req->len = req->chain.readable - (uint32_t)sizeof(struct block_header);
	if (!req->b->read_only && on_disk(req->b, req->sector, req->len))
		start_transfer(req);
	else
		refuse(req, BLOCK_S_IOERR);
}

/* --- flush --- */

static void end_flush(struct block_request *req, int r)
{
	if (r < 0) {
		host_failed(req, "flush", r, 0);
		return;
	}
	metric_inc(&req->b->count.flush_count);
	complete(req, BLOCK_S_OK, 0);
}

static void flush_done(struct uring_op *op, int32_t result)
{
	end_flush(CONTAINER_OF(op, struct block_part, op)->req, result);
}

/*
 * What was answered before this request must be on the medium afterwards (5.2.6.2). An overlay whose
 * map has changed is flushed on the spot also by the asynchronous engine: between its two syncs no
 * bit may be set, so nothing else could be completed anyway.
 */
static void start_flush(struct block_request *req)
{
	struct block *b = req->b;
	bool map = b->overlay && overlay_dirty(b->overlay);

	if (!virtio_has_feature(&b->dev, BLOCK_F_FLUSH)) {
		refuse(req, BLOCK_S_UNSUPP);
	} else if (b->async && !map && make_room(b, req)) {
		req->part[0] = (struct block_part){.op.done = flush_done, .req = req};
		uring_fdatasync(&b->ring, &req->part[0].op, b->fd);
	} else if (map) {
		metric_inc(&b->count.overlay_flush_count);
		end_flush(req, overlay_flush(b->overlay));
	} else {
		end_flush(req, fdatasync(b->fd) < 0 ? -errno : 0);
	}
}

/* --- discard and write zeroes --- */

static int write_zeros(int fd, uint64_t off, uint64_t len)
{
	static const uint8_t zero[KIB(64)];

	int r = 0;

	for (uint64_t at = 0, n; r == 0 && at < len; at += n)
		r = fd_pwrite_full(fd, zero, n = MIN(len - at, sizeof(zero)), off + at);
	return r;
}

/* Block devices take fallocate() like files: a hole is a discard that reads as zeros. */
static int zero_range(struct block *b, const struct block_range *range, bool discard)
{
	bool unmap = discard || range->flags & BLOCK_RANGE_UNMAP;
	uint64_t at = range->sector * BLOCK_SECTOR, len = (uint64_t)range->sectors * BLOCK_SECTOR;
	uint64_t off = b->overlay ? overlay_offset(b->overlay, at) : at;
	int how = unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE, r = 0;

	if (len == 0)
		return 0;
	if (fallocate(b->fd, how | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len) < 0)
		r = -errno;
	/* A file system without holes: discarded sectors may keep their contents, zeros are due. */
	if (r == -EOPNOTSUPP && discard)
		return 0;
	if (r == -EOPNOTSUPP)
		r = write_zeros(b->fd, off, len);
	if (r == 0 && b->overlay)
		overlay_mark(b->overlay, range->sector, range->sectors);
	return r;
}

/* OK, or the answer that section 5.2.6.2 has for it. */
static uint8_t check_range(const struct block *b, const struct block_range *range, bool discard)
{
	uint32_t max = discard ? BLOCK_DISCARD_MAX : BLOCK_ZEROES_MAX;

	if (range->flags & ~(discard ? 0 : BLOCK_RANGE_UNMAP))
		return BLOCK_S_UNSUPP;
	if (range->sectors > max || !range_within(range->sector, range->sectors, b->space.capacity))
		return BLOCK_S_IOERR;
	return BLOCK_S_OK;
}

/* The segments of the request, all of them judged. How many, or 0: it was refused. */
static unsigned read_ranges(struct block_request *req, struct block_range *range, bool discard)
{
	uint32_t len = req->chain.readable - (uint32_t)sizeof(struct block_header);
	unsigned n = len / (uint32_t)sizeof(*range);
	uint8_t status = BLOCK_S_OK;

	if (len % sizeof(*range) || n < 1 || n > BLOCK_RANGES_MAX || req->b->read_only)
		status = BLOCK_S_IOERR;
	else
		virtq_chain_read(&req->chain, sizeof(struct block_header), range, len);
	for (unsigned i = 0; i < n && status == BLOCK_S_OK; i++)
		status = check_range(req->b, &range[i], discard);
	if (status == BLOCK_S_OK)
		return n;
	refuse(req, status);
	return 0;
}

/*
 * Carried out on the spot by both engines: it is metadata in the host's page cache, and rare. The
 * limits bound what one request can take.
 */
static void start_zeroing(struct block_request *req, uint64_t feature)
{
	bool discard = feature == BLOCK_F_DISCARD;
	struct block_metrics *count = &req->b->count;
	struct block_range range[BLOCK_RANGES_MAX];
	uint64_t bytes = 0;
	unsigned n;
	int r = 0;

	if (!virtio_has_feature(&req->b->dev, feature)) {
		refuse(req, BLOCK_S_UNSUPP);
		return;
	}
	n = read_ranges(req, range, discard);
	if (n == 0)
		return;
	for (unsigned i = 0; i < n && r == 0; i++) {
		r = zero_range(req->b, &range[i], discard);
		bytes += (uint64_t)range[i].sectors * BLOCK_SECTOR;
	}
	if (r < 0) {
		host_failed(req, discard ? "discard" : "write zeroes", r, 0);
		return;
	}
	metric_inc(discard ? &count->discard_count : &count->write_zeroes_count);
	metric_add(discard ? &count->discard_bytes : &count->write_zeroes_bytes, bytes);
	complete(req, BLOCK_S_OK, 0);
}

/* --- all requests --- */

static void start_get_id(struct block_request *req)
{
	if (req->chain.writable - 1 < BLOCK_ID_LEN) {
		refuse(req, BLOCK_S_IOERR);
		return;
	}
	virtq_chain_write(&req->chain, 0, req->b->id, BLOCK_ID_LEN);
	complete(req, BLOCK_S_OK, BLOCK_ID_LEN);
}

void block_request_start(struct block_request *req)
{
	struct block_header h;

	if (req->chain.writable == 0 || virtq_chain_read(&req->chain, 0, &h, sizeof(h)) < 0) {
		refuse(req, BLOCK_S_IOERR);
		return;
	}
	req->type = h.type;
	req->sector = h.sector;
	req->start_ns = now_ns();
	req->error = 0;
	req->good = 0;
	/* An empty slot: also what was mounted before has to learn that nothing is safe any more. */
	if (req->b->fd < 0 && h.type != BLOCK_T_GET_ID) {
		refuse(req, BLOCK_S_IOERR);
		return;
	}
	switch (h.type) {
	case BLOCK_T_IN:
		start_read(req);
		break;
	case BLOCK_T_OUT:
		start_write(req);
		break;
	case BLOCK_T_FLUSH:
		start_flush(req);
		break;
	case BLOCK_T_GET_ID:
		start_get_id(req);
		break;
	case BLOCK_T_DISCARD:
		start_zeroing(req, BLOCK_F_DISCARD);
		break;
	case BLOCK_T_WRITE_ZEROES:
		start_zeroing(req, BLOCK_F_WRITE_ZEROES);
		break;
	default:
		refuse(req, BLOCK_S_UNSUPP);
	}
}

int block_request_flush(struct block *b)
{
	int r;

	if (!b->async)
		return 0;
	r = submit(b);
	uring_reap(&b->ring);
	return r;
}
