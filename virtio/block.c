/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-blk, section 5.2 of virtio 1.2. One queue of requests:
 *
 *	readable: type, reserved, sector, then the data of a write
 *	writable: the data of a read, then one status byte, the very last
 *
 * How the driver cuts these into descriptors is its own affair (section 2.7.4.1). Requests are
 * carried out in order, in the main thread, one preadv/pwritev each, between guest memory and file.
 *
 * Cache types: Writeback offers FLUSH, which is an fdatasync. Unsafe does not offer it, and what
 * the guest believes to be on disk is in the host's page cache.
 *
 * A hostile guest can at worst read and write all of its own disk (write only unless it is
 * read-only), fill up a sparse file, and keep the main thread for one queue of requests. It cannot
 * reach beyond the capacity: sectors are compared by subtraction, in sectors. The host's failures
 * (disk full, a file that somebody truncated) are I/O errors of the guest, and only that.
 */
#define _GNU_SOURCE
#include "virtio/block.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "vmm/base/fd.h"
#include "vmm/base/log.h"

/* Feature bits, section 5.2.3. */
#define BLOCK_F_SEG_MAX (1ull << 2)
#define BLOCK_F_RO	(1ull << 5)
#define BLOCK_F_FLUSH	(1ull << 9)

/* Request types and answers, section 5.2.6. */
#define BLOCK_T_IN     0u
#define BLOCK_T_OUT    1u
#define BLOCK_T_FLUSH  4u
#define BLOCK_T_GET_ID 8u
#define BLOCK_S_OK     0u
#define BLOCK_S_IOERR  1u
#define BLOCK_S_UNSUPP 2u
#define BLOCK_ID_LEN   20u

/* A header and a status byte take a descriptor each. */
#define SEG_MAX (VIRTQ_SIZE_MAX - 2)

struct block_header {
	uint32_t type;
	uint32_t reserved;
	uint64_t sector;
};
_Static_assert(sizeof(struct block_header) == 16, "virtio 1.2 section 5.2.6");

/* The part of section 5.2.4 that our features reveal. */
struct block_space {
	uint64_t capacity; /* sectors */
	uint32_t size_max; /* not offered */
	uint32_t seg_max;
};

struct block {
	struct virtio_device dev;
	struct virtq queue;	    /* [s] */
	struct block_space space;   /* [s] */
	struct block_metrics count; /* [a] */
	int fd;			    /* [I] owned */
	bool read_only;		    /* [I] */
	char id[BLOCK_ID_LEN];	    /* [I] zero-padded, not terminated when it fills the field */
	char name[80];		    /* [I] */

	/* Scratch of the queue callback: 8 KiB that need not be on the stack. */
	struct virtq_chain chain;
	struct iovec iov[VIRTQ_SIZE_MAX];
};

static struct block *to_block(struct virtio_device *d)
{
	return CONTAINER_OF(d, struct block, dev);
}

/* An answer: the status byte, and how many bytes of data are in the writable part before it. */
struct answer {
	uint8_t status;
	uint32_t data;
};

static struct answer refuse(struct block *b, uint8_t status)
{
	metric_inc(&b->count.invalid_reqs_count);
	return (struct answer){.status = status};
}

static struct answer host_failed(struct block *b, const char *what, uint64_t sector, int error,
				 uint32_t data)
{
	metric_inc(&b->count.execute_fails);
	log_warn("%s: %s at sector %llu: %s", b->name, what, (unsigned long long)sector,
		 error ? strerror(error) : "the file is shorter than it was");
	return (struct answer){.status = BLOCK_S_IOERR, .data = data};
}

/* Bytes moved between `part` from `at` on and the file; less than `len` with errno, 0 at its end. */
static uint32_t transfer(struct block *b, enum virtq_part part, uint32_t at, uint32_t len,
			 uint64_t file_off)
{
	uint32_t done = 0;

	while (done < len) {
		int n = virtq_chain_slice(&b->chain, part, at + done, len - done, b->iov);
		off_t off = (off_t)(file_off + done);
		ssize_t r = part == VIRTQ_WRITABLE ? preadv(b->fd, b->iov, n, off)
						   : pwritev(b->fd, b->iov, n, off);

		if (r < 0 && errno == EINTR)
			continue;
		if (r == 0)
			errno = 0;
		if (r <= 0)
			break;
		done += (uint32_t)r;
	}
	return done;
}

/* Whether `len` bytes from `sector` on are whole sectors of the disk. */
static bool on_disk(const struct block *b, uint64_t sector, uint32_t len)
{
	return len % BLOCK_SECTOR == 0 &&
	       range_within(sector, len / BLOCK_SECTOR, b->space.capacity);
}

static struct answer serve_read(struct block *b, uint64_t sector)
{
	uint32_t len = b->chain.writable - 1;
	uint64_t start = now_ns();
	uint32_t done;

	if (!on_disk(b, sector, len))
		return refuse(b, BLOCK_S_IOERR);
	done = transfer(b, VIRTQ_WRITABLE, 0, len, sector * BLOCK_SECTOR);
	if (done < len)
		return host_failed(b, "read", sector, errno, done);
	metric_agg_add(&b->count.read_agg, (now_ns() - start) / 1000);
	metric_inc(&b->count.read_count);
	metric_add(&b->count.read_bytes, len);
	return (struct answer){.status = BLOCK_S_OK, .data = len};
}

static struct answer serve_write(struct block *b, uint64_t sector)
{
	uint32_t len = b->chain.readable - (uint32_t)sizeof(struct block_header);
	uint64_t start = now_ns();

	if (b->read_only || !on_disk(b, sector, len))
		return refuse(b, BLOCK_S_IOERR);
	if (transfer(b, VIRTQ_READABLE, sizeof(struct block_header), len, sector * BLOCK_SECTOR) <
	    len)
		return host_failed(b, "write", sector, errno, 0);
	metric_agg_add(&b->count.write_agg, (now_ns() - start) / 1000);
	metric_inc(&b->count.write_count);
	metric_add(&b->count.write_bytes, len);
	return (struct answer){.status = BLOCK_S_OK};
}

static struct answer serve_flush(struct block *b)
{
	if (!virtio_has_feature(&b->dev, BLOCK_F_FLUSH))
		return refuse(b, BLOCK_S_UNSUPP);
	if (fdatasync(b->fd) < 0)
		return host_failed(b, "flush", 0, errno, 0);
	metric_inc(&b->count.flush_count);
	return (struct answer){.status = BLOCK_S_OK};
}

static struct answer serve_get_id(struct block *b)
{
	if (b->chain.writable - 1 < BLOCK_ID_LEN)
		return refuse(b, BLOCK_S_IOERR);
	virtq_chain_write(&b->chain, 0, b->id, BLOCK_ID_LEN);
	return (struct answer){.status = BLOCK_S_OK, .data = BLOCK_ID_LEN};
}

static struct answer serve_type(struct block *b, const struct block_header *h)
{
	switch (h->type) {
	case BLOCK_T_IN:
		return serve_read(b, h->sector);
	case BLOCK_T_OUT:
		return serve_write(b, h->sector);
	case BLOCK_T_FLUSH:
		return serve_flush(b);
	case BLOCK_T_GET_ID:
		return serve_get_id(b);
	default:
		return refuse(b, BLOCK_S_UNSUPP);
	}
}

/* Serves b->chain. Returns the bytes written into it. */
static uint32_t serve(struct block *b)
{
	struct block_header h;
	struct answer a;

	/* Without room for a status there is nobody to tell. */
	if (b->chain.writable == 0) {
		refuse(b, BLOCK_S_IOERR);
		return 0;
	}
	if (virtq_chain_read(&b->chain, 0, &h, sizeof(h)) < 0)
		a = refuse(b, BLOCK_S_IOERR);
	else
		a = serve_type(b, &h);
	virtq_chain_write(&b->chain, b->chain.writable - 1, &a.status, sizeof(a.status));
	return a.data + 1;
}

static bool block_notify(struct virtio_device *d, unsigned queue)
{
	struct block *b = to_block(d);
	unsigned served = 0;
	int r = 1;

	(void)queue;
	metric_inc(&b->count.queue_event_count);
	while (served < VIRTQ_SIZE_MAX && (r = virtq_get(&b->queue, &b->chain)) > 0) {
		virtq_release(&b->queue, b->chain.head, serve(b));
		served++;
	}
	if (r == 0 && served == 0)
		metric_inc(&b->count.no_avail_buffer);
	virtio_queue_end(d, &b->queue);
	if (r < 0) {
		metric_inc(&b->count.event_fails);
		virtio_needs_reset(d, r);
	}
	return r > 0;
}

static void block_destroy(struct virtio_device *d)
{
	struct block *b = to_block(d);

	fd_close(&b->fd);
	free(b);
}

/* No activate, no reset: nothing is in flight between two callbacks. */
static const struct virtio_ops block_ops = {
	.notify = block_notify,
	.destroy = block_destroy,
};

static uint64_t offered(const struct block_config *cfg)
{
	return VIRTIO_FEATURES_COMMON | BLOCK_F_SEG_MAX | (cfg->read_only ? BLOCK_F_RO : 0) |
	       (cfg->writeback ? BLOCK_F_FLUSH : 0);
}

struct virtio_device *block_create(const struct block_config *cfg, const struct virtio_env *env,
				   struct err *e)
{
	int64_t size = fd_size(cfg->fd);
	struct block *b;

	if (size < 0) {
		err_set(e, (int)-size, "size of block '%s': %s", cfg->id, strerror((int)-size));
		return NULL;
	}
	b = calloc(1, sizeof(*b));
	if (!b) {
		err_set(e, ENOMEM, "block '%s': out of memory", cfg->id);
		return NULL;
	}
	b->fd = cfg->fd;
	b->read_only = cfg->read_only;
	memcpy(b->id, cfg->id, strnlen(cfg->id, BLOCK_ID_LEN));
	snprintf(b->name, sizeof(b->name), "block '%s'", cfg->id);
	b->space.capacity = (uint64_t)size / BLOCK_SECTOR;
	b->space.seg_max = SEG_MAX;
	virtq_init(&b->queue, VIRTQ_SIZE_MAX);
	b->dev = (struct virtio_device){
		.ops = &block_ops,
		.type = VIRTIO_ID_BLOCK,
		.name = b->name,
		.features = offered(cfg),
		.config = &b->space,
		.config_len = sizeof(b->space),
		.queue = &b->queue,
		.num_queues = 1,
		.env = *env,
	};
	return &b->dev;
}

struct block_metrics *block_metrics(struct virtio_device *d)
{
	return &to_block(d)->count;
}
