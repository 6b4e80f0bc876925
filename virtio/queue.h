/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The split virtqueue, device side (virtio 1.2 section 2.7).
 *
 * A queue is three arrays in guest memory. The driver chooses where they are and how many entries
 * they have: a power of two, at most VIRTQ_SIZE_MAX.
 *
 *	descriptor table   desc[size]: {addr, len, flags, next}		     the driver writes
 *	available ring	   flags, idx, ring[size]: heads; used_event	     the driver writes
 *	used ring	   flags, idx, ring[size]: {head, len}; avail_event  the device writes
 *
 * A request is a chain of descriptors: first the buffers that the device reads, then those that it
 * writes. One descriptor may point to a table of descriptors elsewhere (INDIRECT) that takes its
 * place, so that a request of 200 buffers occupies one entry of the table. The driver puts the
 * chain's head into the available ring and adds 1 to its idx; the device puts head and number of
 * bytes written into the used ring and adds 1 to its idx. Both idx run freely through 2^16 and are
 * masked for use. Chains may complete in any order.
 *
 * Barriers. The driver stores the descriptors, then idx; we load idx with acquire, then the rest.
 * We store used entries, then idx with release. Those two order the data. Deciding whether to wake
 * the other side is Dekker's problem, and needs a full fence on both sides: store mine, fence, load
 * theirs.
 *
 * EVENT_IDX (2.7.7, 2.7.10). Each side says how far the other may run before it wants to be
 * woken: avail_event is written by us behind the used ring, used_event by the driver behind the
 * available ring. To wake is right when the other's mark lies in [old, new): the entries that were
 * published in one go. Two consequences carry our performance:
 *
 *	- While we serve a queue avail_event stays behind, so the driver adds without an exit. Only
 *	  on finding the ring empty we write avail_event = next_avail, fence, and look once more:
 *	  the driver may have added before it saw the mark. virtq_get() does all that itself: when
 *	  it returns 0, a notification will come.
 *	- Used entries become visible and the interrupt is decided once per batch, by virtq_end().
 *
 * Without EVENT_IDX the driver notifies on every addition (we never set NO_NOTIFY: no driver that
 * cares for speed comes here) and may ask for no interrupts in avail->flags.
 *
 * Three verbs carry every device:
 *
 *	while ((r = virtq_get(q, &c)) > 0)
 *		virtq_release(q, c.head, serve(dev, &c));
 *	virtio_queue_end(dev, q);	(virtq_end() and the interrupt, virtio/device.h)
 *	if (r < 0)
 *		virtio_needs_reset(dev, r);
 *
 * with a bound on the turns, so that a guest cannot keep the main thread (struct virtio_ops).
 *
 * What a hostile guest can do: anything, at any time, to every byte of the three arrays. So each
 * idx, head and descriptor is copied exactly once and the copy is judged: indices against the size,
 * walks against the number of entries in their table, addresses by gmem_at(), the sum of lengths
 * against 2^32. A violation breaks the queue: virtq_get() returns -errno without consuming, and the
 * device asks for a reset. What remains possible hurts only the guest: rings that overlap each
 * other or its own buffers, one chain offered twice, contents that change while we work on them.
 * The buffers of a chain stay shared with the guest; copy from them with virtq_chain_read() before
 * judging what they say.
 *
 * The three arrays are resolved to host pointers once, by virtq_start(); guest memory never moves.
 * No function here allocates or blocks. All are called with the device's lock held.
 */
#pragma once

#include <sys/uio.h>

#include "vmm/base/gmem.h"
#include "vmm/base/wire.h"

#define VIRTQ_SIZE_MAX 256u

/* Ring layout as in section 2.7.5 to 2.7.8; little-endian like every host that we run on. */
#define VIRTQ_DESC_F_NEXT	   1u
#define VIRTQ_DESC_F_WRITE	   2u
#define VIRTQ_DESC_F_INDIRECT	   4u
#define VIRTQ_AVAIL_F_NO_INTERRUPT 1u

struct virtq_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};

struct virtq_avail {
	uint16_t flags;
	uint16_t idx;
	uint16_t ring[];
};

struct virtq_used_elem {
	uint32_t id;
	uint32_t len;
};

struct virtq_used {
	uint16_t flags;
	uint16_t idx;
	struct virtq_used_elem ring[];
};

/* Feature bits of the ring (section 6). */
#define VIRTIO_F_INDIRECT_DESC (1ull << 28)
#define VIRTIO_F_EVENT_IDX     (1ull << 29)

/* What a snapshot has to keep; all of it as the driver wrote it, checked before it is used. */
struct virtq_state {
	uint64_t desc;	     /* gpa of the descriptor table, multiple of 16 */
	uint64_t driver;     /* gpa of the available ring, multiple of 2 */
	uint64_t device;     /* gpa of the used ring, multiple of 4 */
	uint16_t size;	     /* entries; 0: not set or refused */
	uint16_t next_avail; /* chains taken */
	uint16_t next_used;  /* chains given back */
	uint8_t ready;	     /* 1: the driver finished the set-up and it was sane */
};

void virtq_state_wire(struct virtq_state *s, struct wire *w);

struct virtq {
	struct virtq_state state; /* [s] */
	uint16_t max;		  /* [I] largest size offered */

	/* [s] Everything below is set by virtq_start(); `desc` is NULL while the queue is not live. */
	const struct gmem *mem;
	const struct virtq_desc *desc;
	const struct virtq_avail *avail;
	const uint16_t *used_event;
	struct virtq_used *used;
	uint16_t *avail_event;
	bool indirect;
	bool event_idx;
	uint16_t avail_idx; /* judged copy of avail->idx */
	uint16_t published; /* used->idx as the driver sees it */
};

/*
 * One request: buffers of the guest by host pointer, those to read first. Buffers of length 0 are
 * legal and left out. Valid until the chain is released or the queue reset.
 */
struct virtq_chain {
	uint16_t head;
	uint16_t count;			  /* buffers in iov[] */
	uint16_t split;			  /* the first buffer to write: iov[split..count) */
	uint32_t readable;		  /* bytes in iov[0..split) */
	uint32_t writable;		  /* bytes in iov[split..count) */
	struct iovec iov[VIRTQ_SIZE_MAX]; /* only `count` of them are set */
};

/* Which part of a chain: what the driver gave us to read, or to write. */
enum virtq_part { VIRTQ_READABLE, VIRTQ_WRITABLE };

/* A queue as after reset that offers up to `max` entries, a power of two. */
void virtq_init(struct virtq *q, uint16_t max);
/* Back to that. A chain that the device still holds must not be touched any more. */
void virtq_reset(struct virtq *q);
/*
 * Dirty tracking (gmem_mark()). virtq_get() marks the buffers of a chain that may be written; the
 * used ring of a live queue, which changes all the time, is marked by whoever takes the bitmap.
 */
void virtq_mark(const struct virtq *q);

/* Whether size, alignment and addresses are such that the queue could run. 0, -EINVAL, -EFAULT. */
int virtq_check(const struct virtq *q, const struct gmem *mem);
/*
 * Makes a checked queue live under the negotiated `features`, at the indices in its state (0 after
 * a reset). 0, or the error of virtq_check().
 */
int virtq_start(struct virtq *q, const struct gmem *mem, uint64_t features);

/*
 * Takes the next chain. 1: `c` is filled. 0: none there, or the queue is not live; notifications
 * are armed. -errno: the ring is broken (-EINVAL malformed, -EFAULT not guest memory, -ELOOP
 * endless, -E2BIG too many buffers, -EMSGSIZE 2^32 bytes and more); `c` is undefined.
 *
 * The device never holds more than state.size chains: a driver that offers more has broken the
 * ring. So a table of VIRTQ_SIZE_MAX requests is always enough.
 */
int virtq_get(struct virtq *q, struct virtq_chain *c);
/*
 * Puts the `n` chains that were taken last, none of them released, back: virtq_get() will take the
 * first of them again, and judge it again. No notification is owed for them: the caller comes back
 * by itself, or took so many that virtq_get() said there were no more.
 */
static inline void virtq_unget(struct virtq *q, uint16_t n)
{
	q->state.next_avail = (uint16_t)(q->state.next_avail - n);
}

/* Whether the driver has put something there, without arming notifications. */
static inline bool virtq_waiting(const struct virtq *q)
{
	return q->desc && __atomic_load_n(&q->avail->idx, __ATOMIC_RELAXED) != q->state.next_avail;
}

/*
 * Arms notifications for what the driver offers next, although there is something already. How much it has
 * offered so far, as a free-running index.
 */
uint16_t virtq_arm(struct virtq *q);

/*
 * Gives a chain back, `written` being the number of bytes in its writable part that we filled.
 * The driver sees it at virtq_end(). Nothing happens on a queue that is not live.
 */
void virtq_release(struct virtq *q, uint16_t head, uint32_t written);
/* Publishes what was released. True: the driver wants an interrupt for it. */
bool virtq_end(struct virtq *q);

/*
 * Copies exactly `len` bytes at `off` of the readable part out, or into the writable part. 0, or
 * -EINVAL when the part is shorter; nothing is copied then.
 */
int virtq_chain_read(const struct virtq_chain *c, uint32_t off, void *buf, uint32_t len);
int virtq_chain_write(const struct virtq_chain *c, uint32_t off, const void *buf, uint32_t len);
/*
 * The bytes [off, off + len) of a part as buffers for preadv() and its like. `iov` has room for
 * VIRTQ_SIZE_MAX. Returns how many there are, or -EINVAL when the part is shorter.
 */
int virtq_chain_slice(const struct virtq_chain *c, enum virtq_part part, uint32_t off, uint32_t len,
		      struct iovec *iov);
