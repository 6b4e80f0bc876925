/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/netpool.h"

void netpool_begin(struct netpool *p, struct virtq *q)
{
	p->q = q;
	p->first = p->count = 0;
	p->iov_first = p->iov_count = 0;
	p->bytes = 0;
}

/* Moves what is left to the front of both arrays. */
static void compact(struct netpool *p)
{
	unsigned chains = p->count - p->first, iovs = p->iov_count - p->iov_first;

	memmove(p->chain, p->chain + p->first, chains * sizeof(p->chain[0]));
	memmove(p->iov, p->iov + p->iov_first, iovs * sizeof(p->iov[0]));
	p->first = p->iov_first = 0;
	p->count = chains;
	p->iov_count = iovs;
}

/* Whether any chain fits, after tidying up if need be. */
static bool has_room(struct netpool *p)
{
	if (p->count < VIRTQ_SIZE_MAX && p->iov_count + VIRTQ_SIZE_MAX <= NETPOOL_IOV)
		return true;
	if (p->first == 0)
		return false;
	compact(p);
	return p->count < VIRTQ_SIZE_MAX && p->iov_count + VIRTQ_SIZE_MAX <= NETPOOL_IOV;
}

static void add(struct netpool *p)
{
	const struct virtq_chain *c = &p->scratch;
	unsigned iovs = (unsigned)(c->count - c->split);

	p->chain[p->count++] = (struct netpool_chain){c->head, (uint16_t)iovs, c->writable};
	memcpy(p->iov + p->iov_count, c->iov + c->split, iovs * sizeof(p->iov[0]));
	p->iov_count += iovs;
	p->bytes += c->writable;
}

int netpool_gather(struct netpool *p, uint64_t want, bool many)
{
	int r = 1;

	while ((many ? p->bytes < want : p->first == p->count) && has_room(p)) {
		r = virtq_get(p->q, &p->scratch);
		if (r <= 0)
			break;
		add(p);
	}
	return r < 0 ? r : 0;
}

uint64_t netpool_room(const struct netpool *p, bool many)
{
	if (many || p->first == p->count)
		return p->bytes;
	return p->chain[p->first].len;
}

const struct iovec *netpool_iov(struct netpool *p, bool many, struct iovec tail, int *n)
{
	struct iovec *iov = p->iov + p->iov_first;
	unsigned count = p->iov_count - p->iov_first;

	if (many || p->first == p->count || p->chain[p->first].iovs == count) {
		iov[count] = tail;
		*n = (int)count + 1;
		return iov;
	}
	/* Other chains follow this one: its buffers are copied out to make place for the tail. */
	count = p->chain[p->first].iovs;
	memcpy(p->scratch.iov, iov, count * sizeof(*iov));
	if (count == VIRTQ_SIZE_MAX) {
		*n = (int)count;
		return p->scratch.iov;
	}
	p->scratch.iov[count] = tail;
	*n = (int)count + 1;
	return p->scratch.iov;
}

void netpool_write(struct netpool *p, uint32_t off, const void *buf, uint32_t len)
{
	const uint8_t *from = buf;

	for (const struct iovec *v = p->iov + p->iov_first; len > 0; v++) {
		uint32_t part;

		if (off >= v->iov_len) {
			off -= (uint32_t)v->iov_len;
			continue;
		}
		part = (uint32_t)MIN(v->iov_len - off, (size_t)len);
		memcpy((uint8_t *)v->iov_base + off, from, part);
		from += part;
		len -= part;
		off = 0;
	}
}

unsigned netpool_chains(const struct netpool *p, uint32_t len)
{
	unsigned n = 0;

	do
		len -= MIN(len, p->chain[p->first + n++].len);
	while (len > 0);
	return n;
}

void netpool_release(struct netpool *p, uint32_t len)
{
	do {
		const struct netpool_chain *c = &p->chain[p->first++];
		uint32_t part = MIN(len, c->len);

		virtq_release(p->q, c->head, part);
		p->iov_first += c->iovs;
		p->bytes -= c->len;
		len -= part;
	} while (len > 0);
}

void netpool_end(struct netpool *p)
{
	virtq_unget(p->q, (uint16_t)(p->count - p->first));
	p->q = NULL;
}
