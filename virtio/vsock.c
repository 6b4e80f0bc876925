/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-vsock, section 5.10 of virtio 1.2: the queues. The connections are in vsock_conn.c, their
 * table in vsock_mux.c; virtio/vsock_conn.h tells how they work.
 *
 *	queue 0 (rx)	buffers for packets to the guest
 *	queue 1 (tx)	packets from it
 *	queue 2 (event)	buffers for events: a transport reset
 *
 * Packets with data of one connection that lie together in the tx queue become one write. One
 * recvmsg() fills as many rx buffers as the guest has credit for, each behind room for its own
 * header; those that stay empty are put back. All chains that a callback takes are released or put
 * back when it returns, so between callbacks the queues are all there is to save.
 *
 * A hostile guest can at worst have VSOCK_CONNS_MAX connections to the sockets that its user put at
 * uds_path_<port>, and have up to 208 KiB for each of the first 64 and 64 KiB for the others kept by
 * the monitor while the host does not read. It cannot name another path: the port is a number. Data
 * beyond what it was promised, or packets out of order, end that connection. When it gives no
 * buffers it gets no packets, and what it sends waits in its own queue.
 */
#define _GNU_SOURCE
#include "virtio/vsock.h"

#include <errno.h>
#include <sys/socket.h>

#include "virtio/vsock_conn.h"
#include "vmm/base/fd.h"
#include "vmm/base/wire.h"

enum { RX, TX, EVENT };

/* A turn of a callback ends after so much. */
#define TURN_PACKETS VIRTQ_SIZE_MAX
#define TURN_BYTES   MIB(1)

#define EVENT_TRANSPORT_RESET 0u
/* How long nothing is sent to a driver that has not yet dealt with that event. */
#define UNSEEN_NS	      1000000000ull

_Static_assert(sizeof(struct vsock_hdr) == 44, "virtio 1.2 section 5.10.6");

static struct vsock *to_vsock(struct virtio_device *d)
{
	return CONTAINER_OF(d, struct vsock, dev);
}

static void broken(struct vsock *v, struct metric *fails, int code)
{
	metric_inc(fails);
	virtio_needs_reset(&v->dev, code);
}

void vsock_orphan(struct vsock *v, const struct vsock_hdr *h)
{
	unsigned i = (v->orphan_at + v->orphan_count) % VSOCK_ORPHANS_MAX;

	if (h->op == VSOCK_OP_RST || v->orphan_count == VSOCK_ORPHANS_MAX)
		return;
	v->orphan[i].host_port = h->dst_port;
	v->orphan[i].guest_port = h->src_port;
	v->orphan[i].type = h->type;
	v->orphan_count++;
}

/* --- tx: from the guest --- */

static void flush_batch(struct vsock *v)
{
	if (!v->batch.c)
		return;
	metric_add(&v->count.tx_bytes_count, v->batch.bytes);
	vsock_conn_write(TAKE(v->batch.c), v->iov, v->batch.iovs, v->batch.bytes);
	for (unsigned i = 0; i < v->batch.heads; i++)
		virtq_release(&v->queue[TX], v->batch.head[i], 0);
	v->batch.iovs = v->batch.heads = v->batch.bytes = 0;
}

/* Data of v->chain. True: its chain is in the batch and will be released with it. */
static bool add_to_batch(struct vsock *v, struct vsock_conn *c, uint32_t len)
{
	int n;

	if (v->batch.c != c || v->batch.iovs + v->chain.count > VSOCK_IOV_MAX)
		flush_batch(v);
	if (!vsock_conn_accepts(c, len) || !len)
		return false;
	v->batch.c = c;
	n = virtq_chain_slice(&v->chain, VIRTQ_READABLE, sizeof(struct vsock_hdr), len,
			      v->iov + v->batch.iovs);
	v->batch.iovs += (unsigned)n;
	v->batch.bytes += len;
	v->batch.head[v->batch.heads++] = v->chain.head;
	return true;
}

/* Serves v->chain. True when it is not to be released yet. */
static bool serve_packet(struct vsock *v)
{
	struct vsock_conn *c;
	struct vsock_hdr h;

	metric_inc(&v->count.tx_packets_count);
	if (virtq_chain_read(&v->chain, 0, &h, sizeof(h)) < 0 || h.len > VSOCK_PACKET_MAX ||
	    h.len > v->chain.readable - sizeof(h) || h.src_cid != v->guest_cid ||
	    h.dst_cid != VSOCK_HOST_CID) {
		metric_inc(&v->count.tx_queue_event_fails);
		return false;
	}
	c = h.type == VSOCK_TYPE_STREAM ? vsock_mux_find(v, h.dst_port, h.src_port) : NULL;
	if (c) {
		vsock_conn_credit(c, &h);
		if (h.op == VSOCK_OP_RW)
			return add_to_batch(v, c, h.len);
	}
	flush_batch(v);
	/* Passing on the batch may have been the end of a connection. */
	c = h.type == VSOCK_TYPE_STREAM ? vsock_mux_find(v, h.dst_port, h.src_port) : NULL;
	if (c)
		vsock_conn_packet(c, &h);
	else if (h.type == VSOCK_TYPE_STREAM && h.op == VSOCK_OP_REQUEST)
		vsock_mux_request(v, &h);
	else
		vsock_orphan(v, &h);
	return false;
}

/* True: there may be more. While no more resets can be owed, nothing is taken. */
static bool serve_tx(struct vsock *v)
{
	struct virtq *q = &v->queue[TX];
	unsigned served = 0;
	uint32_t bytes = 0;
	int r = 1;

	while (served < TURN_PACKETS && bytes < TURN_BYTES && v->orphan_count < VSOCK_ORPHANS_MAX &&
	       (r = virtq_get(q, &v->chain)) > 0) {
		bytes += v->chain.readable;
		served++;
		if (!serve_packet(v))
			virtq_release(q, v->chain.head, 0);
	}
	flush_batch(v);
	virtio_queue_end(&v->dev, q);
	if (r < 0)
		broken(v, &v->count.tx_queue_event_fails, r);
	return r > 0;
}

/* --- rx: to the guest --- */

/*
 * Takes the next buffer into v->rx[]. 1: done; 0: none, or no room for it; -errno as virtq_get().
 * A guest that goes on to offer what is no buffer is served again after everybody else.
 */
static int take_buffer(struct vsock *v)
{
	struct virtq *q = &v->queue[RX];
	const struct virtq_chain *c = &v->chain;
	struct vsock_rx *b = &v->rx[v->rx_end];
	unsigned n, bad = 0;
	int r;

	while ((r = virtq_get(q, &v->chain)) > 0 && c->writable <= sizeof(struct vsock_hdr)) {
		metric_inc(&v->count.rx_queue_event_fails);
		virtq_release(q, c->head, 0);
		if (++bad == TURN_PACKETS) {
			loop_timer_set(v->dev.env.loop, &v->again, 0);
			return 0;
		}
	}
	if (r <= 0)
		return r;
	n = (unsigned)(c->count - c->split);
	if (n > VSOCK_IOV_MAX - v->pool_len) {
		virtq_unget(q, 1);
		return 0;
	}
	*b = (struct vsock_rx){
		.head = c->head,
		.first = (uint16_t)v->pool_len,
		.count = (uint16_t)n,
		.room = MIN(c->writable - (uint32_t)sizeof(struct vsock_hdr),
			    (uint32_t)VSOCK_PACKET_MAX),
	};
	memcpy(&v->pool[v->pool_len], &c->iov[c->split], n * sizeof(struct iovec));
	v->pool_len += n;
	v->rx_end++;
	return 1;
}

/* Has buffers for up to `want` bytes in v->rx[rx_at..rx_end). Returns their number, or -errno. */
static int gather(struct vsock *v, uint32_t want)
{
	uint32_t room = 0;
	int r = 1;

	for (unsigned i = v->rx_at; i < v->rx_end; i++)
		room += v->rx[i].room;
	while (room < want && v->rx_end < VSOCK_RX_BATCH && (r = take_buffer(v)) > 0)
		room += v->rx[v->rx_end - 1].room;
	return r < 0 ? r : (int)(v->rx_end - v->rx_at);
}

/* Buffers that stayed empty are the next ones again. */
static void put_back(struct vsock *v)
{
	virtq_unget(&v->queue[RX], (uint16_t)(v->rx_end - v->rx_at));
	v->rx_at = v->rx_end = v->pool_len = 0;
}

/* Finishes the first buffer: its header, and `len` bytes behind it, which are there already. */
static void send_packet(struct vsock *v, const struct vsock_hdr *h)
{
	const struct vsock_rx *b = &v->rx[v->rx_at++];
	const uint8_t *from = (const uint8_t *)h;
	size_t left = sizeof(*h);

	for (const struct iovec *p = &v->pool[b->first]; left > 0; p++) {
		size_t n = MIN(p->iov_len, left);

		memcpy(p->iov_base, from, n);
		from += n;
		left -= n;
	}
	virtq_release(&v->queue[RX], b->head, (uint32_t)sizeof(*h) + h->len);
	metric_inc(&v->count.rx_packets_count);
	metric_add(&v->count.rx_bytes_count, h->len);
}

static void send_control(struct vsock *v, struct vsock_conn *c, enum vsock_op op)
{
	struct vsock_hdr h;

	vsock_conn_header(c, op, 0, &h);
	send_packet(v, &h);
	vsock_conn_was_sent(c, op);
}

static void send_orphan(struct vsock *v)
{
	unsigned i = v->orphan_at;
	struct vsock_hdr h = {
		.src_cid = VSOCK_HOST_CID,
		.dst_cid = v->guest_cid,
		.src_port = v->orphan[i].host_port,
		.dst_port = v->orphan[i].guest_port,
		.type = v->orphan[i].type,
		.op = VSOCK_OP_RST,
	};

	v->orphan_at = (i + 1) % VSOCK_ORPHANS_MAX;
	v->orphan_count--;
	send_packet(v, &h);
}

/* v->iov becomes the room behind the headers, at most `want` bytes. Returns the number of pieces. */
static unsigned payload(struct vsock *v, uint32_t want, size_t *bytes)
{
	unsigned n = 0;

	*bytes = 0;
	for (unsigned i = v->rx_at; i < v->rx_end && *bytes < want; i++) {
		const struct vsock_rx *b = &v->rx[i];
		size_t skip = sizeof(struct vsock_hdr);
		size_t left = MIN((size_t)b->room, want - *bytes);

		*bytes += left;
		for (const struct iovec *p = &v->pool[b->first]; left > 0; p++) {
			size_t len;

			if (skip >= p->iov_len) {
				skip -= p->iov_len;
				continue;
			}
			len = MIN(p->iov_len - skip, left);
			v->iov[n++] = (struct iovec){(uint8_t *)p->iov_base + skip, len};
			left -= len;
			skip = 0;
		}
	}
	return n;
}

/* Reads from the host's socket into the guest's buffers. Returns the bytes. */
static uint32_t send_data(struct vsock *v, struct vsock_conn *c)
{
	size_t asked;
	struct msghdr m = {.msg_iov = v->iov};
	ssize_t n;

	m.msg_iovlen = payload(v, vsock_conn_wants(c), &asked);
	n = recvmsg(c->host.fd, &m, MSG_DONTWAIT);
	/* A file descriptor sent along is refused by the kernel, and ends the read there. */
	vsock_conn_was_read(c, n < 0 ? -errno : n, asked, m.msg_flags & MSG_CTRUNC);
	if (n <= 0)
		return 0;
	for (uint32_t left = (uint32_t)n; left > 0;) {
		uint32_t len = MIN(left, v->rx[v->rx_at].room);
		struct vsock_hdr h;

		vsock_conn_header(c, VSOCK_OP_RW, len, &h);
		send_packet(v, &h);
		left -= len;
	}
	return (uint32_t)n;
}

/* One turn of one connection. There is at least one buffer. Returns the bytes sent. */
static uint32_t serve_conn(struct vsock *v, struct vsock_conn *c)
{
	enum vsock_op op = vsock_conn_next(c, true);
	uint32_t bytes = 0;
	bool rst = op == VSOCK_OP_RST;

	TAILQ_REMOVE(&v->ready, c, ready);
	c->queued = false;
	if (!op && vsock_conn_wants(c) && gather(v, vsock_conn_wants(c)) > 0)
		bytes = send_data(v, c);
	if (!op && !bytes)
		op = vsock_conn_next(c, false);
	if (op)
		send_control(v, c, op);
	if (!rst)
		vsock_conn_ready(c);
	return bytes;
}

void vsock_pump(struct vsock *v)
{
	unsigned packets = 0;
	uint32_t bytes = 0;
	int r = 0;

	if (!virtio_active(&v->dev))
		return;
	if (v->reset_unseen) {
		if (!v->again.armed)
			loop_timer_set(v->dev.env.loop, &v->again, UNSEEN_NS);
		return;
	}
	while ((v->orphan_count || !TAILQ_EMPTY(&v->ready)) && (r = gather(v, 1)) > 0) {
		if (++packets > TURN_PACKETS || bytes > TURN_BYTES) {
			loop_timer_set(v->dev.env.loop, &v->again, 0);
			break;
		}
		if (v->orphan_count)
			send_orphan(v);
		else
			bytes += serve_conn(v, TAILQ_FIRST(&v->ready));
		if (v->rx_at == v->rx_end)
			v->rx_at = v->rx_end = v->pool_len = 0;
	}
	put_back(v);
	virtio_queue_end(&v->dev, &v->queue[RX]);
	if (r < 0)
		broken(v, &v->count.rx_queue_event_fails, r);
}

/* --- events --- */

/* True: buffers without room were in the way, and there may be others. */
static bool serve_events(struct vsock *v)
{
	const uint32_t id = EVENT_TRANSPORT_RESET;
	struct virtq *q = &v->queue[EVENT];
	unsigned served = 0;
	int r = 0;

	while (v->state.reset_owed && served++ < TURN_PACKETS &&
	       (r = virtq_get(q, &v->chain)) > 0) {
		bool ok = virtq_chain_write(&v->chain, 0, &id, sizeof(id)) == 0;

		v->state.reset_owed = !ok;
		v->reset_unseen = ok;
		v->reset_at = virtq_arm(q);
		virtq_release(q, v->chain.head, ok ? sizeof(id) : 0);
	}
	virtio_queue_end(&v->dev, q);
	if (r < 0)
		broken(v, &v->count.ev_queue_event_fails, r);
	return v->state.reset_owed && r > 0;
}

void vsock_transport_reset(struct virtio_device *d)
{
	struct vsock *v = to_vsock(d);

	vsock_mux_drop_all(v);
	v->state.reset_owed = 1;
	if (virtio_active(d))
		serve_events(v);
}

/* --- ops --- */

static bool vsock_notify(struct virtio_device *d, unsigned queue)
{
	struct vsock *v = to_vsock(d);
	bool more;

	vsock_mux_settle(v);
	if (queue == EVENT) {
		/* A driver gives the buffer of an event back when it has dealt with it. A restore notifies too. */
		if (virtq_arm(&v->queue[EVENT]) != v->reset_at)
			v->reset_unseen = false;
		vsock_pump(v);
		return serve_events(v);
	}
	metric_inc(queue == RX ? &v->count.rx_queue_event_count : &v->count.tx_queue_event_count);
	vsock_pump(v);
	if (!virtio_active(d) || (queue == RX && !v->tx_waits))
		return false;
	more = serve_tx(v);
	vsock_pump(v);
	/* Resets are owed and there are no buffers for them: such buffers are the next event. */
	v->tx_waits = more && v->orphan_count == VSOCK_ORPHANS_MAX;
	return more && !v->tx_waits;
}

static void vsock_reset(struct virtio_device *d)
{
	struct vsock *v = to_vsock(d);

	/* Sockets belong to the main thread's loop: they are closed there. */
	v->dropped = true;
	v->tx_waits = false;
	v->reset_unseen = false;
	v->state.reset_owed = 0;
	fd_event_signal(v->wake.fd);
}

static int vsock_activate(struct virtio_device *d)
{
	struct vsock *v = to_vsock(d);

	if (v->state.reset_owed)
		serve_events(v);
	return 0;
}

static void vsock_wire(struct virtio_device *d, struct wire *w)
{
	struct vsock_state *s = &to_vsock(d)->state;

	wire_u32(w, &s->next_host_port);
	wire_u32(w, &s->reset_owed);
}

/* A restored guest believes in connections that nobody has any more. */
static int vsock_check(struct virtio_device *d, const void *config, uint32_t len, struct err *e)
{
	struct vsock *v = to_vsock(d);

	if (len != sizeof(v->guest_cid) || memcmp(config, &v->guest_cid, len) != 0)
		return err_set(e, EINVAL, "its CID is not the one that the guest knows");
	v->state.reset_owed = 1;
	return 0;
}

static void vsock_destroy(struct virtio_device *d)
{
	struct vsock *v = to_vsock(d);

	vsock_mux_finish(v);
	fd_close(&v->listener.fd);
	free(v);
}

static const struct virtio_ops vsock_ops = {
	.notify = vsock_notify,
	.activate = vsock_activate,
	.reset = vsock_reset,
	.wire = vsock_wire,
	.check = vsock_check,
	.destroy = vsock_destroy,
};

struct virtio_device *vsock_create(const struct vsock_setup *cfg, const struct virtio_env *env,
				   struct err *e)
{
	struct vsock *v = calloc(1, sizeof(*v));

	if (!v) {
		err_set(e, ENOMEM, "vsock: out of memory");
		return NULL;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(v->queue); i++)
		virtq_init(&v->queue[i], VIRTQ_SIZE_MAX);
	v->guest_cid = cfg->guest_cid;
	v->dev = (struct virtio_device){
		.ops = &vsock_ops,
		.type = VIRTIO_ID_VSOCK,
		.name = "vsock",
		.features = VIRTIO_FEATURES_COMMON,
		.config = &v->guest_cid,
		.config_len = sizeof(v->guest_cid),
		.queue = v->queue,
		.num_queues = ARRAY_SIZE(v->queue),
		.env = *env,
	};
	if (vsock_mux_init(v, cfg, e) < 0) {
		err_wrap(e, "vsock");
		vsock_mux_finish(v);
		free(v);
		return NULL;
	}
	return &v->dev;
}

struct vsock_metrics *vsock_metrics(struct virtio_device *d)
{
	return &to_vsock(d)->count;
}

struct vsock_state *vsock_state(struct virtio_device *d)
{
	return &to_vsock(d)->state;
}
