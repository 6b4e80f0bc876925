/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Receive buffers of a network device (virtio 1.2 section 5.1.6.3): chains that were taken from
 * the receive queue and not filled yet, as one array of buffers that readv() fills in one go.
 *
 * With MRG_RXBUF a frame fills as many chains as it needs, so that the largest frame can be read
 * before anybody knows its size; without, it gets one. Chains that stay empty go back to the queue
 * at the end of a batch, as if they had never been taken: between two batches a device holds none,
 * and a reset or a snapshot finds nothing in flight.
 */
#pragma once

#include "virtio/queue.h"

#define NETPOOL_IOV 1023u /* IOV_MAX, and one for the tail */

struct netpool_chain {
	uint16_t head;
	uint16_t iovs;
	uint32_t len;
};

struct netpool {
	struct virtq *q;       /* NULL between two batches */
	unsigned first, count; /* chain[first..count) are there */
	unsigned iov_first, iov_count;
	uint64_t bytes; /* in them */
	struct netpool_chain chain[VIRTQ_SIZE_MAX];
	struct iovec iov[NETPOOL_IOV + 1];
	struct virtq_chain scratch;
};

/* Begins a batch on `q`. */
void netpool_begin(struct netpool *p, struct virtq *q);
/*
 * Takes chains until they hold `want` bytes, or without `many` until there is one. 0, or the
 * -errno of a broken ring. p->bytes says what there is; when it is too little although the array
 * has room, a notification will come (virtq_get()).
 */
int netpool_gather(struct netpool *p, uint64_t want, bool many);
/*
 * The buffers for readv(): those of the chains (without `many`, of the first), and behind them
 * `tail` for what is too long. *n: how many; the result is valid until the next call.
 */
const struct iovec *netpool_iov(struct netpool *p, bool many, struct iovec tail, int *n);
/* Bytes that netpool_iov() has before the tail. */
uint64_t netpool_room(const struct netpool *p, bool many);
/* Copies `len` bytes at `off` of those buffers; the caller knows that they fit. */
void netpool_write(struct netpool *p, uint32_t off, const void *buf, uint32_t len);
/* How many chains `len` bytes fill: at least 1. */
unsigned netpool_chains(const struct netpool *p, uint32_t len);
/* Releases the chains that `len` bytes fill. */
void netpool_release(struct netpool *p, uint32_t len);
/* Ends the batch: the other chains go back to the queue. The caller publishes. */
void netpool_end(struct netpool *p);
