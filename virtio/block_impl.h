/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the two halves of the block device share: virtio/block.c is the device, with its queues,
 * limits and configuration space; virtio/block_request.c serves one request. Nobody else includes this.
 */
#pragma once

#include "virtio/block.h"
#include "virtio/overlay.h"
#include "virtio/uring.h"

/* Requests in flight, of all queues together. */
#define BLOCK_IN_FLIGHT	  256u
/* A read that alternates between overlay and base more often is carried out synchronously. */
#define BLOCK_PARTS	  4u
/* Buffers of requests that were prepared and not yet handed to the kernel. */
#define BLOCK_ARENA	  1024u
/* Segments of a DISCARD or WRITE_ZEROES, and sectors in each. */
#define BLOCK_RANGES_MAX  16u
#define BLOCK_DISCARD_MAX (MIB(128) / BLOCK_SECTOR)
#define BLOCK_ZEROES_MAX  (MIB(8) / BLOCK_SECTOR)

/* Feature bits, section 5.2.3. */
#define BLOCK_F_SEG_MAX	     (1ull << 2)
#define BLOCK_F_RO	     (1ull << 5)
#define BLOCK_F_FLUSH	     (1ull << 9)
#define BLOCK_F_MQ	     (1ull << 12)
#define BLOCK_F_DISCARD	     (1ull << 13)
#define BLOCK_F_WRITE_ZEROES (1ull << 14)

/* Section 5.2.4. */
struct block_space {
	uint64_t capacity; /* sectors */
	uint32_t size_max; /* not offered */
	uint32_t seg_max;
	uint8_t geometry[4], blk_size[4], topology[8]; /* not offered */
	uint8_t writeback, unused0;		       /* not offered */
	uint16_t num_queues;
	uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
	uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
	uint8_t write_zeroes_may_unmap, unused1[3];
};
#define BLOCK_SPACE_LEN 60u
_Static_assert(offsetof(struct block_space, unused1) + 3 == BLOCK_SPACE_LEN,
	       "virtio 1.2 section 5.2.4");

/* One transfer between a part of a request's buffers and a file. */
struct block_part {
	struct uring_op op;
	struct block_request *req;
	uint32_t at, len; /* in the data of the request */
	uint64_t off;	  /* in the file */
	bool base;	  /* in the overlay's base */
};

struct block_request {
	struct block_request *next; /* free ones */
	struct block *b;	    /* [I] */
	struct virtq *q;
	uint32_t type;
	uint32_t len; /* bytes of data */
	uint64_t sector;
	uint64_t start_ns;
	unsigned pending; /* parts in flight */
	int error;	  /* the first one of a part, -errno; -ENODATA: the file is too short */
	uint32_t good;	  /* bytes read without a gap, for what the used ring says */
	struct block_part part[BLOCK_PARTS];
	struct virtq_chain chain;
};

struct block {
	struct virtio_device dev;
	struct virtq queue[BLOCK_QUEUES_MAX]; /* [s] */
	struct block_space space;	      /* [s] */
	struct block_metrics count;	      /* [a] */
	int fd;				      /* [s] owned: the raw file, or the overlay; or -1 */
	int base_fd;			      /* [I] owned: the overlay's base, or -1 */
	struct overlay *overlay;	      /* [s] or NULL */
	bool read_only;			      /* [I] */
	bool async;			      /* [I] */
	char id[BLOCK_ID_LEN];		      /* [I] zero-padded, not terminated when full */
	char name[80];			      /* [I] */

	struct limiter limiter;	  /* [s] */
	bool throttled;		  /* [s] nothing is served before `resume` expires */
	bool stalled;		  /* [s] too much in flight: a completion continues */
	struct loop_timer resume; /* [m] */

	struct uring ring;		/* [s] */
	struct loop_source ring_source; /* [m] */

	struct block_request *request; /* [I] owned: one, or BLOCK_IN_FLIGHT */
	struct block_request *free;    /* [s] last used first: it is in the cache */
	struct iovec arena[BLOCK_ARENA];
	unsigned arena_used;
	struct iovec iov[VIRTQ_SIZE_MAX]; /* of a synchronous transfer */
};

/*
 * Serves the request whose chain is in `req`: completes it, or leaves it in flight (asynchronous
 * drives only) to be completed by uring_reap(). Completing releases the chain and gives `req` back.
 */
void block_request_start(struct block_request *req);

/* Hands over what is prepared and completes what is ready. 0, or -errno of uring_submit(). */
int block_request_flush(struct block *b);
