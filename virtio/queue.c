/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/queue.h"

#include <stdatomic.h>

#define DESC_ALIGN   16u
#define DRIVER_ALIGN 2u
#define DEVICE_ALIGN 4u

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rings are read without swapping");
_Static_assert(sizeof(struct virtq_desc) == 16, "virtio 1.2 section 2.7.5");
_Static_assert(sizeof(struct virtq_used_elem) == 8, "virtio 1.2 section 2.7.8");

/* Bytes of each ring with its event field, which is there whether or not it is negotiated. */
static uint64_t desc_bytes(uint16_t size)
{
	return sizeof(struct virtq_desc) * size;
}

static uint64_t driver_bytes(uint16_t size)
{
	return sizeof(struct virtq_avail) + sizeof(uint16_t) * (size + 1u);
}

static uint64_t device_bytes(uint16_t size)
{
	return sizeof(struct virtq_used) + sizeof(struct virtq_used_elem) * size + sizeof(uint16_t);
}

void virtq_state_wire(struct virtq_state *s, struct wire *w)
{
	wire_u64(w, &s->desc);
	wire_u64(w, &s->driver);
	wire_u64(w, &s->device);
	wire_u16(w, &s->size);
	wire_u16(w, &s->next_avail);
	wire_u16(w, &s->next_used);
	wire_u8(w, &s->ready);
}

void virtq_init(struct virtq *q, uint16_t max)
{
	*q = (struct virtq){.max = max};
}

void virtq_mark(const struct virtq *q)
{
	if (q->desc)
		gmem_mark(q->mem, q->state.device, device_bytes(q->state.size));
}

void virtq_reset(struct virtq *q)
{
	virtq_mark(q); /* nobody will know afterwards where the used ring was */
	virtq_init(q, q->max);
}

int virtq_check(const struct virtq *q, const struct gmem *mem)
{
	const struct virtq_state *s = &q->state;

	if (!is_power_of_two(s->size) || s->size > q->max)
		return -EINVAL;
	if (s->desc % DESC_ALIGN || s->driver % DRIVER_ALIGN || s->device % DEVICE_ALIGN)
		return -EINVAL;
	if (!gmem_at(mem, s->desc, desc_bytes(s->size)) ||
	    !gmem_at(mem, s->driver, driver_bytes(s->size)) ||
	    !gmem_at(mem, s->device, device_bytes(s->size)))
		return -EFAULT;
	return 0;
}

int virtq_start(struct virtq *q, const struct gmem *mem, uint64_t features)
{
	const struct virtq_state *s = &q->state;
	int r = virtq_check(q, mem);

	if (r < 0)
		return r;
	q->mem = mem;
	q->desc = gmem_at(mem, s->desc, desc_bytes(s->size));
	q->avail = gmem_at(mem, s->driver, driver_bytes(s->size));
	q->used = gmem_at(mem, s->device, device_bytes(s->size));
	q->used_event = &q->avail->ring[s->size];
	q->avail_event = (uint16_t *)(void *)&q->used->ring[s->size];
	q->indirect = features & VIRTIO_F_INDIRECT_DESC;
	q->event_idx = features & VIRTIO_F_EVENT_IDX;
	q->avail_idx = s->next_avail;
	q->published = s->next_used;
	return 0;
}

/*
 * The compiler may read the source of a plain memcpy again later in place of the copy. After the
 * fence it must assume that the source has changed.
 */
static void copy_once(void *to, const void *from, size_t len)
{
	memcpy(to, from, len);
	atomic_signal_fence(memory_order_seq_cst);
}

/* Ring entry of a free-running index. */
static unsigned slot(const struct virtq *q, uint16_t idx)
{
	return idx & (q->state.size - 1u);
}

/* Looks at the driver's idx. 1: there are chains, 0: none, -EINVAL: more than can be. */
static int look(struct virtq *q)
{
	uint16_t idx = __atomic_load_n(&q->avail->idx, __ATOMIC_ACQUIRE);
	uint16_t fresh = (uint16_t)(idx - q->state.next_avail);

	if (fresh > q->state.size)
		return -EINVAL;
	q->avail_idx = idx;
	return fresh > 0;
}

/* The same, but believes an earlier look, and arms notifications before it says "none". */
static int poll_avail(struct virtq *q)
{
	int r;

	if (q->avail_idx != q->state.next_avail)
		return 1;
	r = look(q);
	if (r || !q->event_idx)
		return r;
	__atomic_store_n(q->avail_event, q->state.next_avail, __ATOMIC_RELAXED);
	atomic_thread_fence(memory_order_seq_cst);
	return look(q);
}

uint16_t virtq_arm(struct virtq *q)
{
	uint16_t idx = q->desc ? __atomic_load_n(&q->avail->idx, __ATOMIC_RELAXED) : 0;

	if (q->desc && q->event_idx)
		__atomic_store_n(q->avail_event, idx, __ATOMIC_RELAXED);
	return idx;
}

static int add_buffer(const struct virtq *q, struct virtq_chain *c, const struct virtq_desc *d)
{
	bool write = d->flags & VIRTQ_DESC_F_WRITE;
	uint64_t total = (uint64_t)c->readable + c->writable + d->len;
	void *host;

	if (!write && c->split < c->count)
		return -EINVAL;
	if (d->len == 0)
		return 0;
	if (c->count == VIRTQ_SIZE_MAX)
		return -E2BIG;
	if (total > UINT32_MAX)
		return -EMSGSIZE;
	host = gmem_at(q->mem, d->addr, d->len);
	if (!host)
		return -EFAULT;
	c->iov[c->count++] = (struct iovec){.iov_base = host, .iov_len = d->len};
	if (write) {
		gmem_mark(q->mem, d->addr, d->len);
		c->writable += d->len;
	} else {
		c->readable += d->len;
		c->split = c->count;
	}
	return 0;
}

/* A table of descriptors: the queue's own, or an indirect one, which need not be aligned. */
struct table {
	const uint8_t *base;
	uint32_t entries;
};

/* Section 2.7.5.3: one level, nothing after it; WRITE in `d` means nothing. */
static int enter_indirect(const struct virtq *q, const struct virtq_desc *d, struct table *t)
{
	if (!q->indirect || d->flags & VIRTQ_DESC_F_NEXT)
		return -EINVAL;
	if (d->len == 0 || d->len % sizeof(*d) || d->len / sizeof(*d) > VIRTQ_SIZE_MAX)
		return -EINVAL;
	t->base = gmem_at(q->mem, d->addr, d->len);
	t->entries = d->len / sizeof(*d);
	return t->base ? 0 : -EFAULT;
}

/* The buffers of one table from entry `i` on. 1: `last` is an indirect descriptor, 0: the end. */
static int walk(const struct virtq *q, const struct table *t, uint16_t i, struct virtq_chain *c,
		struct virtq_desc *last)
{
	for (uint32_t steps = 0; steps < t->entries; steps++) {
		int r;

		if (i >= t->entries)
			return -EINVAL;
		copy_once(last, t->base + sizeof(*last) * i, sizeof(*last));
		if (last->flags & VIRTQ_DESC_F_INDIRECT)
			return 1;
		r = add_buffer(q, c, last);
		if (r < 0)
			return r;
		if (!(last->flags & VIRTQ_DESC_F_NEXT))
			return 0;
		i = last->next;
	}
	return -ELOOP;
}

static int fill_chain(const struct virtq *q, struct virtq_chain *c)
{
	struct table t = {(const uint8_t *)q->desc, q->state.size};
	struct virtq_desc last;
	int r = walk(q, &t, c->head, c, &last);

	if (r <= 0)
		return r;
	r = enter_indirect(q, &last, &t);
	if (r < 0)
		return r;
	r = walk(q, &t, 0, c, &last);
	return r > 0 ? -EINVAL : r;
}

int virtq_get(struct virtq *q, struct virtq_chain *c)
{
	struct virtq_state *s = &q->state;
	int r;

	if (!q->desc)
		return 0;
	r = poll_avail(q);
	if (r <= 0)
		return r;
	if ((uint16_t)(s->next_avail - s->next_used) >= s->size)
		return -EINVAL;
	c->head = __atomic_load_n(&q->avail->ring[slot(q, s->next_avail)], __ATOMIC_RELAXED);
	c->count = c->split = 0;
	c->readable = c->writable = 0;
	r = fill_chain(q, c);
	if (r < 0)
		return r;
	s->next_avail++;
	return 1;
}

void virtq_release(struct virtq *q, uint16_t head, uint32_t written)
{
	struct virtq_state *s = &q->state;

	if (!q->desc)
		return;
	q->used->ring[slot(q, s->next_used)] = (struct virtq_used_elem){head, written};
	s->next_used++;
}

bool virtq_end(struct virtq *q)
{
	uint16_t old = q->published, new = q->state.next_used;
	uint16_t event;

	if (!q->desc || old == new)
		return false;
	__atomic_store_n(&q->used->idx, new, __ATOMIC_RELEASE);
	q->published = new;
	atomic_thread_fence(memory_order_seq_cst);
	if (!q->event_idx)
		return !(__atomic_load_n(&q->avail->flags, __ATOMIC_RELAXED) &
			 VIRTQ_AVAIL_F_NO_INTERRUPT);
	event = __atomic_load_n(q->used_event, __ATOMIC_RELAXED);
	return (uint16_t)(event - old) < (uint16_t)(new - old);
}

/* Cuts what a walk over [*off, *off + *len) takes from one buffer; length 0 when nothing. */
static struct iovec cut(const struct iovec *from, uint32_t *off, uint32_t *len)
{
	struct iovec part = {0};

	if (*off >= from->iov_len) {
		*off -= (uint32_t)from->iov_len;
		return part;
	}
	part.iov_base = (uint8_t *)from->iov_base + *off;
	part.iov_len = MIN(from->iov_len - *off, (size_t)*len);
	*len -= (uint32_t)part.iov_len;
	*off = 0;
	return part;
}

int virtq_chain_read(const struct virtq_chain *c, uint32_t off, void *buf, uint32_t len)
{
	uint8_t *to = buf;

	if (!range_within(off, len, c->readable))
		return -EINVAL;
	for (unsigned i = 0; len > 0; i++) {
		struct iovec part = cut(&c->iov[i], &off, &len);

		if (!part.iov_len)
			continue;
		copy_once(to, part.iov_base, part.iov_len);
		to += part.iov_len;
	}
	return 0;
}

int virtq_chain_write(const struct virtq_chain *c, uint32_t off, const void *buf, uint32_t len)
{
	const uint8_t *from = buf;

	if (!range_within(off, len, c->writable))
		return -EINVAL;
	for (unsigned i = c->split; len > 0; i++) {
		struct iovec part = cut(&c->iov[i], &off, &len);

		if (!part.iov_len)
			continue;
		memcpy(part.iov_base, from, part.iov_len);
		from += part.iov_len;
	}
	return 0;
}

int virtq_chain_slice(const struct virtq_chain *c, enum virtq_part part, uint32_t off, uint32_t len,
		      struct iovec *iov)
{
	uint32_t total = part == VIRTQ_WRITABLE ? c->writable : c->readable;
	int n = 0;

	if (!range_within(off, len, total))
		return -EINVAL;
	for (unsigned i = part == VIRTQ_WRITABLE ? c->split : 0; len > 0; i++) {
		iov[n] = cut(&c->iov[i], &off, &len);
		n += iov[n].iov_len > 0;
	}
	return n;
}
