/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-net, section 5.1 of virtio 1.2. Queues: receive and transmit for each pair, and with more
 * than one pair a control queue behind them. Each frame has a header of 12 bytes in front, which
 * says what of the checksum and the segmentation is left to the other side.
 *
 * All frames that are there are moved in one callback, each with one system call between guest
 * memory and backend. The backend's fd is watched only while there are buffers to receive into.
 *
 * Out of the guest: the first bytes of a frame are copied once, judged, perhaps rewritten, and sent
 * from the copy; the rest goes straight from guest memory. To the guest: without policy and
 * rewriting straight into its buffers, otherwise through a buffer of ours, since a guest would see
 * a frame that it must not have.
 *
 * A hostile guest can at worst send what it likes under its own MAC address (or whatever the policy
 * lets pass), as fast as its limits allow, and keep its own monitor's main thread for one turn. The
 * headers that it puts in front are checked before the host's kernel sees them: no offload that was
 * not negotiated, no checksum written into the addresses.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "virtio/net_impl.h"
#include "vmm/base/log.h"

#define STATUS_LINK_UP	  1u
/* The control queue, section 5.1.6.5. */
#define CTRL_MQ		  4u
#define CTRL_MQ_PAIRS_SET 0u
#define CTRL_OK		  0u
#define CTRL_ERR	  1u

static struct net *to_net(struct virtio_device *d)
{
	return CONTAINER_OF(d, struct net, dev);
}

/* --- the backend --- */

void net_watch(struct net *n, struct net_pair *p)
{
	bool in = virtio_active(&n->dev) && !p->rx_starved && !p->rx_timer.armed;
	uint32_t events = (in ? EPOLLIN : 0u) | (p->tx_blocked ? EPOLLOUT : 0u);

	if (!p->source.added || events == p->watched)
		return;
	loop_mod(n->dev.env.loop, &p->source, events);
	p->watched = events;
}

/* What waits for the backend goes nowhere from now on. */
static void link_down(struct net *n)
{
	n->dead = true;
	for (unsigned i = 0; i < n->pairs; i++)
		loop_del(n->dev.env.loop, &n->pair[i].source);
	n->space.status &= (uint16_t)~STATUS_LINK_UP;
	virtio_config_changed(&n->dev);
}

void net_died(struct net *n, int error)
{
	if (n->dead)
		return;
	link_down(n);
	log_warn("%s: the link is down: %s", n->name, strerror(error));
}

/* Tells the backend what was negotiated, on the main thread, before the first frame. */
static void configure(struct net *n)
{
	if (!n->configured && !n->dead)
		n->backend->ops->configure(n->backend, n->dev.state.driver_features,
					   n->state.pairs);
	n->configured = true;
}

/* --- the loop's callbacks; all find the device in any state --- */

static struct net *ready_for(struct net_pair *p, struct net *n)
{
	unsigned pair = (unsigned)(p - n->pair);

	return virtio_active(&n->dev) && n->configured && pair < n->state.pairs ? n : NULL;
}

static void serve_tx_on(struct net *n, struct net_pair *p)
{
	if (net_serve_tx(n, (unsigned)(p - n->pair)))
		loop_timer_set(n->dev.env.loop, &p->tx_timer, 0);
}

static void backend_ready(struct loop_source *s, uint32_t events)
{
	struct net_pair *p = CONTAINER_OF(s, struct net_pair, source);
	struct net *n = s->arg;

	if (virtio_active(&n->dev))
		configure(n);
	if (events & EPOLLIN && ready_for(p, n)) {
		metric_inc(&n->count.rx_tap_event_count);
		net_serve_rx(n, (unsigned)(p - n->pair));
	} else if (events & (EPOLLERR | EPOLLHUP)) {
		net_died(n, EPIPE);
	}
	if (events & EPOLLOUT) {
		p->tx_blocked = false;
		if (ready_for(p, n) && !n->dead)
			serve_tx_on(n, p);
	}
	net_watch(n, p);
}

static void rx_expired(struct loop_timer *t)
{
	struct net_pair *p = CONTAINER_OF(t, struct net_pair, rx_timer);
	struct net *n = t->arg;

	if (!ready_for(p, n))
		return;
	if (limiter_active(&n->rx_limit))
		metric_inc(&n->count.rx_event_rate_limiter_count);
	net_serve_rx(n, (unsigned)(p - n->pair));
}

/* The metadata service has something to say. */
static void mmds_expired(struct loop_timer *t)
{
	struct net *n = t->arg;

	if (ready_for(&n->pair[0], n))
		net_serve_rx(n, 0);
}

static void wake_for_mmds(void *arg)
{
	struct net *n = arg;

	loop_timer_set(n->dev.env.loop, &n->mmds_timer, 0);
}

static void tx_expired(struct loop_timer *t)
{
	struct net_pair *p = CONTAINER_OF(t, struct net_pair, tx_timer);
	struct net *n = t->arg;

	if (!ready_for(p, n))
		return;
	if (limiter_active(&n->tx_limit))
		metric_inc(&n->count.tx_rate_limiter_event_count);
	serve_tx_on(n, p);
}

/* --- the control queue --- */

static uint8_t control(struct net *n)
{
	struct __attribute__((packed)) {
		uint8_t class, command;
		uint16_t pairs;
	} c;

	if (virtq_chain_read(&n->chain, 0, &c, sizeof(c)) < 0 || c.class != CTRL_MQ ||
	    c.command != CTRL_MQ_PAIRS_SET || !net_has(n, NET_F_MQ))
		return CTRL_ERR;
	if (c.pairs < 1 || c.pairs > n->pairs)
		return CTRL_ERR;
	n->state.pairs = c.pairs;
	n->configured = false;
	configure(n);
	for (unsigned i = 0; i < n->pairs; i++) {
		n->pair[i].rx_starved = i >= n->state.pairs;
		net_watch(n, &n->pair[i]);
	}
	return CTRL_OK;
}

static bool serve_control(struct net *n, struct virtq *q)
{
	unsigned served = 0;
	int r = 1;

	while (served++ < NET_TURN && (r = virtq_get(q, &n->chain)) > 0) {
		uint8_t answer = n->chain.writable ? control(n) : CTRL_ERR;
		uint32_t written = n->chain.writable ? 1 : 0;

		virtq_chain_write(&n->chain, 0, &answer, written);
		virtq_release(q, n->chain.head, written);
	}
	virtio_queue_end(&n->dev, q);
	if (r < 0) {
		metric_inc(&n->count.event_fails);
		virtio_needs_reset(&n->dev, r);
	}
	return r > 0;
}

/* --- the device --- */

/* Without MQ the control queue is where the second pair would begin. */
static unsigned control_queue(const struct net *n)
{
	return net_has(n, NET_F_MQ) ? 2 * n->pairs : 2;
}

static bool net_notify(struct virtio_device *d, unsigned queue)
{
	struct net *n = to_net(d);
	unsigned pair = queue / 2;

	configure(n);
	if (net_has(n, NET_F_CTRL_VQ) && queue == control_queue(n))
		return serve_control(n, &n->queue[queue]);
	if (pair >= n->state.pairs)
		return false;
	if (queue % 2 == 0) {
		metric_inc(&n->count.rx_queue_event_count);
		n->pair[pair].rx_starved = false;
		net_serve_rx(n, pair);
		return false;
	}
	metric_inc(&n->count.tx_queue_event_count);
	/* What waits for the backend or the limiter is served by their callbacks. */
	if (n->pair[pair].tx_blocked || n->pair[pair].tx_timer.armed)
		return false;
	return net_serve_tx(n, pair);
}

/* Perhaps on a vCPU's thread. The first frame, or the first notification, does the rest. */
static int net_activate(struct virtio_device *d)
{
	struct net *n = to_net(d);

	for (unsigned i = 0; i < n->state.pairs; i++) {
		n->pair[i].rx_starved = false;
		net_watch(n, &n->pair[i]);
	}
	if (n->link_changed)
		virtio_config_changed(d);
	n->link_changed = false;
	return 0;
}

static void net_wire(struct virtio_device *d, struct wire *w)
{
	wire_u16(w, &to_net(d)->state.pairs);
}

/* The link may have gone down or come back; everything else is as the guest knows it. */
static int net_check(struct virtio_device *d, const void *config, uint32_t len, struct err *e)
{
	struct net *n = to_net(d);
	struct net_space was;

	if (len != sizeof(was))
		return err_set(e, EINVAL, "%s: a configuration space of %u bytes", n->name, len);
	memcpy(&was, config, sizeof(was));
	n->link_changed = was.status != n->space.status;
	was.status = n->space.status;
	if (memcmp(&was, &n->space, sizeof(was)) != 0)
		return err_set(e, EINVAL, "%s: guest_mac, mtu or queue_pairs have changed",
			       n->name);
	if (n->state.pairs < 1 || n->state.pairs > n->pairs)
		return err_set(e, EINVAL, "%s: %u queue pairs", n->name, n->state.pairs);
	return 0;
}

/* On a vCPU's thread: no timer, no backend. Stale timers find the device not ready. */
static void net_reset(struct virtio_device *d)
{
	struct net *n = to_net(d);

	n->configured = false;
	n->state.pairs = 1;
	for (unsigned i = 0; i < n->pairs; i++) {
		struct net_pair *p = &n->pair[i];

		p->rx_most = 0;
		/* Until the driver offers buffers. */
		p->rx_starved = true;
		p->tx_blocked = false;
		net_watch(n, p);
	}
}

static void net_destroy(struct virtio_device *d)
{
	struct net *n = to_net(d);

	for (unsigned i = 0; i < n->pairs; i++) {
		loop_del(d->env.loop, &n->pair[i].source);
		loop_timer_clear(d->env.loop, &n->pair[i].rx_timer);
		loop_timer_clear(d->env.loop, &n->pair[i].tx_timer);
	}
	if (n->mmds)
		mmdsnet_attach(n->mmds, NULL, NULL);
	loop_timer_clear(d->env.loop, &n->mmds_timer);
	if (n->backend)
		n->backend->ops->destroy(n->backend);
	netguard_finish(&n->guard);
	free(n);
}

static const struct virtio_ops net_ops = {
	.notify = net_notify,
	.activate = net_activate,
	.wire = net_wire,
	.check = net_check,
	.reset = net_reset,
	.destroy = net_destroy,
};

static void init_pairs(struct net *n)
{
	for (unsigned i = 0; i < n->pairs; i++) {
		struct net_pair *p = &n->pair[i];

		p->rx_timer = (struct loop_timer){
			.expired = rx_expired, .arg = n, .lock = n->dev.env.lock};
		p->tx_timer = (struct loop_timer){
			.expired = tx_expired, .arg = n, .lock = n->dev.env.lock};
		p->rx_starved = true;
	}
}

/* All of them, or none. */
static int add_sources(struct net *n, const struct netbackend *b, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < n->pairs; i++) {
		struct net_pair *p = &n->pair[i];

		p->watched = 0;
		p->source = (struct loop_source){
			.fd = b->fd[i],
			.ready = backend_ready,
			.arg = n,
			.lock = n->dev.env.lock,
		};
		r = loop_add(n->dev.env.loop, &p->source, 0, e);
	}
	for (unsigned i = 0; r < 0 && i < n->pairs; i++)
		loop_del(n->dev.env.loop, &n->pair[i].source);
	return r;
}

static uint64_t offered(const struct net_config *cfg, const struct net *n)
{
	return VIRTIO_FEATURES_COMMON | NET_F_MRG_RXBUF | NET_F_STATUS |
	       (cfg->placeholder ? cfg->offloads : n->backend->offloads) |
	       (cfg->mac ? NET_F_MAC : 0) | (cfg->mtu ? NET_F_MTU : 0) |
	       (n->pairs > 1 ? NET_F_CTRL_VQ | NET_F_MQ : 0);
}

/* Whether the guest can be given frames of it, as it was told. */
static int check_fits(const struct net *n, const struct netbackend *b, uint64_t offloads,
		      struct err *e)
{
	if (b->pairs != n->pairs)
		return err_set(e, EINVAL, "%u queue pairs, the placeholder has %u", b->pairs,
			       n->pairs);
	if (offloads & ~b->offloads)
		return err_set(e, ENOTSUP,
			       "without the offloads that a placeholder offers (feature bit %d)",
			       __builtin_ctzll(offloads & ~b->offloads));
	return 0;
}

struct virtio_device *net_create(const struct net_config *cfg, struct netbackend *backend,
				 const struct virtio_env *env, struct err *e)
{
	struct net *n = calloc(1, sizeof(*n));

	if (!n) {
		err_set(e, ENOMEM, "network interface '%s': out of memory", cfg->id);
		return NULL;
	}
	assert(backend || cfg->placeholder);
	n->backend = backend;
	n->dead = !backend;
	n->placeholder = cfg->placeholder;
	n->offloads = cfg->offloads;
	n->pairs = cfg->placeholder ? cfg->pairs : backend->pairs;
	n->state.pairs = 1;
	n->has_mac = cfg->mac;
	if (cfg->mac)
		memcpy(n->space.mac, cfg->mac, NETFRAME_MAC);
	n->space.status = backend ? STATUS_LINK_UP : 0;
	n->space.max_pairs = (uint16_t)n->pairs;
	n->space.mtu = cfg->mtu;
	snprintf(n->name, sizeof(n->name), "net '%s'", cfg->id);
	limiter_set(&n->rx_limit, &cfg->rx, now_ns());
	limiter_set(&n->tx_limit, &cfg->tx, now_ns());
	n->dev = (struct virtio_device){
		.ops = &net_ops,
		.type = VIRTIO_ID_NET,
		.name = n->name,
		.features = offered(cfg, n),
		.config = &n->space,
		.config_len = sizeof(n->space),
		.queue = n->queue,
		.num_queues = n->pairs > 1 ? 2 * n->pairs + 1 : 2,
		.env = *env,
	};
	n->mmds_timer = (struct loop_timer){.expired = mmds_expired, .arg = n, .lock = env->lock};
	for (unsigned i = 0; i < n->dev.num_queues; i++)
		virtq_init(&n->queue[i], VIRTQ_SIZE_MAX);
	init_pairs(n);
	if (backend &&
	    (check_fits(n, backend, cfg->offloads, e) < 0 || add_sources(n, backend, e) < 0)) {
		free(n);
		return NULL;
	}
	return &n->dev;
}

void net_set_mmds(struct virtio_device *d, struct mmdsnet_port *port)
{
	struct net *n = to_net(d);

	n->mmds = port;
	mmdsnet_attach(port, wake_for_mmds, n);
}

/* --- changes while running --- */

static int update_failed(struct net *n, int r)
{
	metric_inc(&n->count.update_fails);
	return r;
}

static void take_out(struct net *n)
{
	struct netbackend *b = n->backend;

	if (!n->dead)
		link_down(n);
	n->backend = NULL;
	if (b)
		b->ops->destroy(b);
	/* Frames that waited for it are dropped like those that come from now on. */
	for (unsigned i = 0; i < n->pairs; i++) {
		if (n->pair[i].tx_blocked)
			loop_timer_set(n->dev.env.loop, &n->pair[i].tx_timer, 0);
		n->pair[i].tx_blocked = false;
	}
}

static void put_in(struct net *n, struct netbackend *b)
{
	n->backend = b;
	n->dead = false;
	n->configured = false;
	n->space.status |= STATUS_LINK_UP;
	if (virtio_active(&n->dev))
		configure(n);
	for (unsigned i = 0; virtio_active(&n->dev) && i < n->state.pairs; i++) {
		n->pair[i].rx_starved = false;
		net_watch(n, &n->pair[i]);
	}
	virtio_config_changed(&n->dev);
}

int net_set_backend(struct virtio_device *d, struct netbackend *backend, struct err *e)
{
	struct net *n = to_net(d);
	int r = 0;

	if (!n->placeholder)
		r = err_set(e, EINVAL, "%s is no placeholder", n->name);
	else if (backend && !n->dead)
		r = err_set(e, EBUSY, "%s is in use", n->name);
	else if (backend)
		r = check_fits(n, backend, n->offloads, e);
	if (r == 0 && backend)
		r = add_sources(n, backend, e);
	if (r < 0)
		return update_failed(n, r);
	if (n->backend)
		take_out(n);
	if (backend)
		put_in(n, backend);
	metric_inc(&n->count.update_count);
	return 0;
}

void net_set_limits(struct virtio_device *d, const struct limiter_config *rx,
		    const struct limiter_config *tx)
{
	struct net *n = to_net(d);
	uint64_t now = now_ns();

	limiter_set(&n->rx_limit, rx, now);
	limiter_set(&n->tx_limit, tx, now);
	for (unsigned i = 0; i < n->pairs; i++) {
		struct net_pair *p = &n->pair[i];

		/* Who waits has tokens now. */
		if (p->rx_timer.armed)
			loop_timer_set(d->env.loop, &p->rx_timer, 0);
		if (p->tx_timer.armed)
			loop_timer_set(d->env.loop, &p->tx_timer, 0);
	}
}

struct netguard *net_guard(struct virtio_device *d)
{
	return &to_net(d)->guard;
}

/* RFC 903: hardware type, protocol, lengths of their addresses, request reverse. */
#define RARP_ETHERTYPE 0x80, 0x35
#define RARP_REQUEST   0, 1, 8, 0, 6, 4, 0, 3
#define RARP_LEN       60u /* padded to the shortest frame */

void net_announce(struct virtio_device *d)
{
	static const uint8_t type[] = {RARP_ETHERTYPE, RARP_REQUEST};
	struct net *n = to_net(d);
	uint8_t *frame = n->head + NETBACKEND_HEADER;

	if (n->dead || !n->has_mac)
		return;
	memset(frame, 0, RARP_LEN);
	memset(frame, 0xff, NETFRAME_MAC);
	memcpy(frame + NETFRAME_MAC, n->space.mac, NETFRAME_MAC);
	memcpy(frame + 2 * NETFRAME_MAC, type, sizeof(type));
	memcpy(frame + NETFRAME_ARP_SENDER_MAC, n->space.mac, NETFRAME_MAC);
	memcpy(frame + NETFRAME_ARP_TARGET_MAC, n->space.mac, NETFRAME_MAC);
	net_send_own(n, RARP_LEN);
}

struct net_metrics *net_metrics(struct virtio_device *d)
{
	return &to_net(d)->count;
}
