/* SPDX-License-Identifier: Apache-2.0 */
/* Frames between the queues of a network device and its backend: see virtio/net.c. */
#include <errno.h>

#include "virtio/net_impl.h"

#define F_GUEST_GSO                                                                 \
	(NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_UFO | NET_F_GUEST_USO4 | \
	 NET_F_GUEST_USO6)

/* --- judging --- */

/* Whether the driver may ask for what the header asks for, section 5.1.6.2. */
static bool header_fine(const struct net *n, const struct netframe_offload *o, uint32_t len)
{
	static const struct {
		uint8_t type;
		uint64_t feature;
	} gso[] = {
		{NETFRAME_GSO_TCPV4, NET_F_HOST_TSO4},
		{NETFRAME_GSO_TCPV6, NET_F_HOST_TSO6},
		{NETFRAME_GSO_UFO, NET_F_HOST_UFO},
		{NETFRAME_GSO_UDP_L4, NET_F_HOST_USO},
	};
	uint8_t type = o->gso_type & (uint8_t)~NETFRAME_GSO_ECN;
	bool sums = o->flags & NETFRAME_NEEDS_CSUM;

	if (sums && (!net_has(n, NET_F_CSUM) || o->csum_start < NETFRAME_ETH ||
		     o->csum_start + o->csum_offset + 2u > len))
		return false;
	if (o->gso_type & NETFRAME_GSO_ECN && !net_has(n, NET_F_HOST_ECN))
		return false;
	if (type == NETFRAME_GSO_NONE)
		return true;
	for (unsigned i = 0; i < ARRAY_SIZE(gso); i++)
		if (type == gso[i].type)
			return sums && net_has(n, gso[i].feature);
	return false;
}

/* --- transmit --- */

/* Whether n->head, the beginning of a frame of `len` bytes, is the guest's to send; counted if not. */
static bool is_sound(struct net *n, uint32_t len)
{
	struct netframe_offload o;

	memcpy(&o, n->head, sizeof(o));
	if (!header_fine(n, &o, len)) {
		metric_inc(&n->count.tx_malformed_frames);
		return false;
	}
	if (n->has_mac &&
	    memcmp(n->head + NETBACKEND_HEADER + NETFRAME_MAC, n->space.mac, NETFRAME_MAC) != 0) {
		metric_inc(&n->count.tx_spoofed_mac_count);
		return false;
	}
	return true;
}

/* True: the frame was for the metadata service, which has it now. n->head is its beginning. */
static bool detour(struct net *n, uint32_t head, uint32_t len)
{
	const uint8_t *frame = n->head + NETBACKEND_HEADER;

	head -= NETBACKEND_HEADER;
	if (!mmdsnet_wants(n->mmds, frame, head))
		return false;
	/* What was looked at is what it gets, whatever the guest has written there since. */
	memcpy(n->frame, frame, head);
	virtq_chain_read(&n->chain, NETBACKEND_HEADER + head, n->frame + head, len - head);
	mmdsnet_input(n->mmds, n->frame, len);
	return true;
}

/* Whether policy and rewriting let it go on. */
static bool may_send(struct net *n, uint32_t len)
{
	if (netguard_on(&n->guard) && !netguard_tx(&n->guard, n->head, len)) {
		metric_inc(&n->count.tx_denied);
		return false;
	}
	return true;
}

/* Sends n->head and what is behind it in n->chain. 0, -EAGAIN or -errno. */
static int send_frame(struct net *n, unsigned pair, uint32_t head, uint32_t len)
{
	uint64_t start = now_ns();
	int iovs = virtq_chain_slice(&n->chain, VIRTQ_READABLE, head, len - head, n->iov + 1);
	int r;

	n->iov[0] = (struct iovec){n->head, head};
	r = n->backend->ops->send(n->backend, pair, n->iov, iovs + 1, len);
	if (r == 0) {
		metric_agg_add(&n->count.tap_write_agg, (now_ns() - start) / 1000);
		metric_inc(&n->count.tx_packets_count);
		metric_inc(&n->count.tx_count);
		metric_add(&n->count.tx_bytes_count, len - NETBACKEND_HEADER);
	} else if (r != -EAGAIN) {
		metric_inc(&n->count.tap_write_fails);
	}
	return r;
}

void net_send_own(struct net *n, uint32_t len)
{
	struct iovec iov = {n->head, NETBACKEND_HEADER + len};

	memset(n->head, 0, NETBACKEND_HEADER);
	if (may_send(n, len) &&
	    n->backend->ops->send(n->backend, 0, &iov, 1, NETBACKEND_HEADER + len) < 0)
		metric_inc(&n->count.tap_write_fails);
}

/* Serves n->chain. 0: it is done, sent or not; -EAGAIN: the backend is busy. */
static int transmit(struct net *n, unsigned pair)
{
	const struct virtq_chain *c = &n->chain;
	uint32_t head = MIN(c->readable, NET_HEAD_MAX);

	if (c->readable < NETBACKEND_HEADER + NETFRAME_MIN || c->readable > NET_FRAME_MAX ||
	    c->writable) {
		metric_inc(&n->count.tx_malformed_frames);
		return 0;
	}
	if (n->dead) {
		metric_inc(&n->count.tx_fails);
		return 0;
	}
	virtq_chain_read(c, 0, n->head, head);
	/* Other flags mean nothing in this direction. */
	n->head[0] &= NETFRAME_NEEDS_CSUM;
	if (!is_sound(n, c->readable - NETBACKEND_HEADER))
		return 0;
	if (n->mmds && detour(n, head, c->readable - NETBACKEND_HEADER))
		return 0;
	if (!may_send(n, c->readable - NETBACKEND_HEADER))
		return 0;
	if (send_frame(n, pair, head, c->readable) == -EAGAIN)
		return -EAGAIN;
	if (limiter_active(&n->tx_limit))
		limiter_charge(&n->tx_limit, c->readable - NETBACKEND_HEADER);
	return 0;
}

/* Whether `bytes` have to wait for the limiter; the timer is armed then. */
static bool throttled(struct net *n, struct limiter *l, struct loop_timer *t, uint64_t bytes,
		      struct metric *count)
{
	uint64_t wait = limiter_active(l) ? limiter_wait(l, now_ns(), bytes) : 0;

	if (!wait)
		return false;
	metric_inc(count);
	loop_timer_set(n->dev.env.loop, t, wait);
	return true;
}

/*
 * Takes what came back for the frames just sent: the host's kernel acknowledges a stream while it is
 * given it. Nobody has to be woken for it then, and one interrupt tells of both. Where nothing comes
 * back it is not looked for each time.
 */
static void serve_answers(struct net *n, unsigned pair, unsigned sent);

bool net_serve_tx(struct net *n, unsigned pair)
{
	struct net_pair *p = &n->pair[pair];
	struct virtq *q = &n->queue[2 * pair + 1];
	unsigned served = 0;
	bool wait = false;
	int r = 1;

	while (served < NET_TURN && !wait && (r = virtq_get(q, &n->chain)) > 0) {
		wait = throttled(n, &n->tx_limit, &p->tx_timer, n->chain.readable,
				 &n->count.tx_rate_limiter_throttled);
		p->tx_blocked = !wait && transmit(n, pair) == -EAGAIN;
		wait |= p->tx_blocked;
		if (wait) {
			virtq_unget(q, 1);
		} else {
			virtq_release(q, n->chain.head, 0);
			served++;
		}
	}
	if (served == 0 && r == 0)
		metric_inc(&n->count.no_tx_avail_buffer);
	if (!n->dead && n->backend->ops->flush && !n->backend->ops->flush(n->backend, pair))
		p->tx_blocked = true;
	virtio_queue_end(&n->dev, q);
	net_watch(n, p);
	if (r < 0) {
		metric_inc(&n->count.event_fails);
		virtio_needs_reset(&n->dev, r);
	}
	if (r > 0)
		metric_inc(&n->count.tx_remaining_reqs_count);
	if (r == 0)
		serve_answers(n, pair, served);
	return r > 0 && !wait;
}

/* --- receive --- */

/* Bytes to have room for before a frame is read whose length is not known. */
static uint64_t largest(const struct net *n)
{
	if (net_has(n, F_GUEST_GSO))
		return NET_FRAME_MAX;
	return NETBACKEND_HEADER + NETFRAME_ETH + (n->space.mtu > 1500u ? n->space.mtu : 1500u);
}

static void received(struct net *n, uint32_t len)
{
	if (limiter_active(&n->rx_limit))
		limiter_charge(&n->rx_limit, len - NETBACKEND_HEADER);
	metric_inc(&n->count.rx_packets_count);
	metric_inc(&n->count.rx_count);
	metric_add(&n->count.rx_bytes_count, len - NETBACKEND_HEADER);
}

/* A frame is in the pool's buffers but for its number of buffers. */
static void deliver(struct net *n, uint32_t len)
{
	uint16_t buffers = (uint16_t)netpool_chains(&n->pool, len);

	netpool_write(&n->pool, offsetof(struct netframe_offload, num_buffers), &buffers,
		      sizeof(buffers));
	netpool_release(&n->pool, len);
	received(n, len);
}

/* Straight into the guest's buffers. */
static int receive_direct(struct net *n, unsigned pair, bool many)
{
	struct iovec tail = {n->frame, sizeof(n->frame)};
	uint64_t room = netpool_room(&n->pool, many);
	int iovs;
	const struct iovec *iov = netpool_iov(&n->pool, many, tail, &iovs);
	ssize_t r = n->backend->ops->recv(n->backend, pair, iov, iovs);

	if (r < 0)
		return (int)r;
	if (r < NETBACKEND_HEADER + NETFRAME_MIN || (uint64_t)r > room)
		metric_inc(&n->count.rx_fails);
	else
		deliver(n, (uint32_t)r);
	return 0;
}

/* Through n->frame, where it is judged. */
static int receive_guarded(struct net *n, unsigned pair, bool many)
{
	struct iovec iov = {n->frame, sizeof(n->frame)};
	ssize_t r = n->backend->ops->recv(n->backend, pair, &iov, 1);

	if (r < 0)
		return (int)r;
	if (r < NETBACKEND_HEADER + NETFRAME_MIN || (uint64_t)r > netpool_room(&n->pool, many)) {
		metric_inc(&n->count.rx_fails);
	} else if (!netguard_rx(&n->guard, n->frame, (uint32_t)r - NETBACKEND_HEADER)) {
		metric_inc(&n->count.rx_denied);
	} else {
		netpool_write(&n->pool, 0, n->frame, (uint32_t)r);
		deliver(n, (uint32_t)r);
	}
	return 0;
}

enum rx_step { RX_FRAME, RX_IDLE, RX_STARVED, RX_THROTTLED };

/*
 * Gathers buffers for `want` bytes. Too little: RX_STARVED, if the driver is known to have offered
 * as much at once. One that never did gets what fits, and loses what does not. RX_FRAME, or -errno.
 */
static int make_room(struct net *n, struct net_pair *p, uint64_t want, bool many)
{
	int r = netpool_gather(&n->pool, want, many);
	uint64_t room;

	if (r < 0)
		return r;
	room = netpool_room(&n->pool, many);
	if (room > p->rx_most)
		p->rx_most = room;
	if (n->pool.first == n->pool.count || (many && room < want && p->rx_most >= want))
		return RX_STARVED;
	return RX_FRAME;
}

/* Delivers a frame of the metadata service: RX_IDLE when it has none. */
static int receive_mmds(struct net *n, bool many)
{
	static const uint8_t header[NETBACKEND_HEADER];
	uint32_t len;
	const uint8_t *frame = mmdsnet_peek(n->mmds, &len);
	int r = frame ? make_room(n, &n->pair[0], NETBACKEND_HEADER + len, many) : RX_IDLE;
	bool fits;

	if (!frame || r != RX_FRAME)
		return r;
	fits = netpool_room(&n->pool, many) >= NETBACKEND_HEADER + len;
	if (fits) {
		netpool_write(&n->pool, 0, header, sizeof(header));
		netpool_write(&n->pool, sizeof(header), frame, len);
		deliver(n, NETBACKEND_HEADER + len);
	} else {
		metric_inc(&n->count.rx_fails);
	}
	mmdsnet_next(n->mmds, fits);
	return RX_FRAME;
}

/* Moves one frame, or says why not. -errno: the ring is broken, or *dead the backend. */
static int receive(struct net *n, unsigned pair, bool *dead)
{
	struct net_pair *p = &n->pair[pair];
	bool many = net_has(n, NET_F_MRG_RXBUF);
	int32_t next = n->backend->ops->next(n->backend, pair);
	uint64_t want = next == NETBACKEND_UNKNOWN ? largest(n) : (uint64_t)next;
	int r;

	*dead = next < 0;
	if (next <= 0)
		return next < 0 ? next : RX_IDLE;
	r = make_room(n, p, want, many);
	if (r != RX_FRAME)
		return r;
	if (throttled(n, &n->rx_limit, &p->rx_timer, 1, &n->count.rx_rate_limiter_throttled))
		return RX_THROTTLED;
	r = netguard_on(&n->guard) ? receive_guarded(n, pair, many) : receive_direct(n, pair, many);
	if (r == -EAGAIN)
		return RX_IDLE;
	*dead = r < 0;
	return r < 0 ? r : RX_FRAME;
}

/*
 * Frames to take in this turn. Where they come one by one (the acknowledgements of a stream), asking
 * for a second one would be a system call of three for nothing: the fd tells, if there is one.
 */
static unsigned rx_turn(const struct net *n, struct net_pair *p)
{
	if (n->backend->ops->flush || !p->rx_alone)
		return NET_TURN;
	p->rx_alone--;
	return 1;
}

/* Up to `turn` frames from the backend; *frames: how many there were. The step that was the last. */
static int serve_rx(struct net *n, unsigned pair, unsigned turn, unsigned *frames)
{
	struct net_pair *p = &n->pair[pair];
	struct virtq *q = &n->queue[2 * pair];
	bool dead = false;
	int step = RX_FRAME;

	netpool_begin(&n->pool, q);
	for (unsigned i = 0; n->mmds && pair == 0 && i < NET_TURN && step == RX_FRAME; i++)
		step = receive_mmds(n, net_has(n, NET_F_MRG_RXBUF));
	if (step == RX_IDLE)
		step = RX_FRAME;
	for (*frames = 0; *frames < turn && step == RX_FRAME; *frames += step == RX_FRAME)
		step = receive(n, pair, &dead);
	netpool_end(&n->pool);
	virtio_queue_end(&n->dev, q);
	p->rx_starved = step == RX_STARVED;
	if (p->rx_starved)
		metric_inc(&n->count.no_rx_avail_buffer);
	/* What a backend holds itself does not make its fd readable. */
	if (step == RX_FRAME && n->backend->ops->flush)
		loop_timer_set(n->dev.env.loop, &p->rx_timer, 0);
	if (step < 0 && dead) {
		metric_inc(&n->count.tap_read_fails);
		net_died(n, -step);
	} else if (step < 0) {
		metric_inc(&n->count.event_fails);
		virtio_needs_reset(&n->dev, step);
	}
	net_watch(n, p);
	return step;
}

void net_serve_rx(struct net *n, unsigned pair)
{
	struct net_pair *p = &n->pair[pair];
	unsigned frames;

	if (n->dead || p->rx_timer.armed)
		return;
	if (serve_rx(n, pair, rx_turn(n, p), &frames) == RX_IDLE && frames == 1)
		p->rx_alone = NET_ALONE;
}

static void serve_answers(struct net *n, unsigned pair, unsigned sent)
{
	struct net_pair *p = &n->pair[pair];
	unsigned frames;

	if (!sent || n->dead || n->backend->ops->flush || p->rx_timer.armed || p->rx_starved)
		return;
	if (p->rx_silent)
		p->rx_silent--;
	else if (serve_rx(n, pair, sent, &frames) == RX_IDLE && frames == 0)
		p->rx_silent = NET_ALONE;
}
