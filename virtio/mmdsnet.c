/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/mmdsnet.h"

#include <errno.h>
#include <lwip/init.h>
#include <lwip/ip.h>
#include <lwip/netif.h>
#include <lwip/priv/tcp_priv.h>
#include <lwip/tcp.h>
#include <string.h>

#include "virtio/netframe.h"

#define HTTP_PORT  80
#define TICK_NS	   (TCP_TMR_INTERVAL * 1000000ull)
/* tcp_poll() counts in half seconds; then idle connections give way to new ones, and are ended. */
#define POLL	   2
#define IDLE_YIELD 5u
#define IDLE_END   30u

#define ETHERTYPE_V4  0x0800u
#define ETHERTYPE_ARP 0x0806u
#define V4_PROTOCOL   (NETFRAME_ETH + 9u)
#define V4_DST	      (NETFRAME_ETH + 16u)
#define V4_HEADER     20u
#define TCP_BEGIN     (NETFRAME_ETH + V4_HEADER)
#define TCP_HEADER    20u
#define TCP_OFFSET    (TCP_BEGIN + 12u)

enum { TCP_OPTION_END, TCP_OPTION_NOP };

_Static_assert(MEMP_NUM_TCP_PCB == 30, "mmdsnet.h says so");
_Static_assert(MMDSNET_FRAME_MAX >= NETFRAME_ETH + 60 + 60 + TCP_WND, "a window fits");

/* Locally administered; the same as Firecracker's, since guests may have it in a table. */
static const uint8_t own_mac[NETFRAME_MAC] = {0x06, 0x01, 0x23, 0x45, 0x67, 0x01};

struct frame {
	uint32_t len;
	uint8_t byte[NETFRAME_ETH + MMDSNET_MTU];
};

struct mmdsnet_port {
	struct mmdsnet *m;
	struct mmdsnet_port *next;
	struct netif netif;
	struct tcp_pcb *listener;
	uint8_t mac[NETFRAME_MAC]; /* of the guest, as it was last seen */
	void (*wake)(void *arg);   /* NULL: nobody takes the frames yet */
	void *wake_arg;
	unsigned first, count;
	struct frame ring[MMDSNET_RING];
};

struct mmdsnet {
	struct loop *loop;
	struct loop_timer tick;
	uint8_t address[4];
	struct mmdsnet_service service;
	struct mmdsnet_metrics *count;
	struct mmdsnet_port *ports;
};

/*
 * One connection. Bytes are given back to TCP's window only when the service has used them, so that
 * in[] cannot run over; an answer is not copied: it stays until all of it was acknowledged.
 */
struct conn {
	struct mmdsnet *m;
	struct tcp_pcb *pcb;
	void *session;
	struct mmdsnet_answer out;
	size_t written, acked; /* of `out` */
	bool eof;	       /* the guest sends no more */
	unsigned idle;	       /* polls without a sign of life */
	unsigned in_len;
	char in[TCP_WND];
};

/* lwIP tells that a connection came to be; see arm(). */
void tcp_timer_needed(void)
{
}

static void arm(struct mmdsnet *m)
{
	if (!m->tick.armed && (tcp_active_pcbs || tcp_tw_pcbs))
		loop_timer_set(m->loop, &m->tick, TICK_NS);
}

static void on_tick(struct loop_timer *t)
{
	tcp_tmr();
	arm(t->arg);
}

/* --- connections --- */

static void conn_free(struct conn *c)
{
	metric_inc(&c->m->count->connections_destroyed);
	c->m->service.close(c->session);
	free(c->out.bytes);
	free(c);
}

/* The connection is gone already: reset, given up, or aborted by us. */
static void on_error(void *arg, err_t error)
{
	(void)error;
	if (arg)
		conn_free(arg);
}

static err_t conn_abort(struct conn *c)
{
	tcp_abort(c->pcb);
	return ERR_ABRT;
}

static err_t conn_close(struct conn *c)
{
	struct tcp_pcb *pcb = c->pcb;

	/* Else it would be a reset, which may overtake what was sent. */
	tcp_recved(pcb, (u16_t)c->in_len);
	tcp_arg(pcb, NULL);
	tcp_recv(pcb, NULL);
	tcp_sent(pcb, NULL);
	tcp_err(pcb, NULL);
	tcp_poll(pcb, NULL, 0);
	conn_free(c);
	if (tcp_close(pcb) == ERR_OK)
		return ERR_OK;
	tcp_abort(pcb);
	return ERR_ABRT;
}

/* Hands on as much of the answer as TCP takes; the rest when that was acknowledged. */
static void conn_write(struct conn *c)
{
	while (c->written < c->out.len) {
		size_t n = MIN(c->out.len - c->written, (size_t)tcp_sndbuf(c->pcb));

		/* Small segments fill its queue before the bytes do: it takes all or nothing. */
		while (n > 0 && tcp_write(c->pcb, c->out.bytes + c->written, (u16_t)n, 0) != ERR_OK)
			n /= 2;
		if (n == 0)
			return;
		c->written += n;
	}
}

/* Lets the service have what has come, up to the next answer. */
static err_t conn_serve(struct conn *c)
{
	unsigned at = 0;

	while (at < c->in_len && !c->out.bytes && !c->out.close)
		at += (unsigned)c->m->service.input(c->session, c->in + at, c->in_len - at,
						    &c->out);
	memmove(c->in, c->in + at, c->in_len - at);
	c->in_len -= at;
	tcp_recved(c->pcb, (u16_t)at);
	if (c->out.bytes)
		conn_write(c);
	else if (c->out.close || c->eof)
		return conn_close(c);
	return ERR_OK;
}

static void conn_alive(struct conn *c)
{
	c->idle = 0;
	tcp_setprio(c->pcb, TCP_PRIO_NORMAL);
}

static err_t on_receive(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t error)
{
	struct conn *c = arg;
	u16_t len = p ? p->tot_len : 0;

	(void)pcb;
	(void)error;
	if (len > sizeof(c->in) - c->in_len) {
		pbuf_free(p);
		return conn_abort(c);
	}
	conn_alive(c);
	if (p) {
		pbuf_copy_partial(p, c->in + c->in_len, len, 0);
		c->in_len += len;
		pbuf_free(p);
	} else {
		c->eof = true;
	}
	return c->out.bytes ? ERR_OK : conn_serve(c);
}

static err_t on_sent(void *arg, struct tcp_pcb *pcb, u16_t len)
{
	struct conn *c = arg;
	bool close = c->out.close;

	(void)pcb;
	conn_alive(c);
	c->acked += len;
	if (c->acked < c->out.len) {
		conn_write(c);
		return ERR_OK;
	}
	free(c->out.bytes);
	c->out = (struct mmdsnet_answer){0};
	c->written = c->acked = 0;
	return close ? conn_close(c) : conn_serve(c);
}

static err_t on_poll(void *arg, struct tcp_pcb *pcb)
{
	struct conn *c = arg;

	if (++c->idle >= IDLE_END)
		return conn_abort(c);
	if (c->idle >= IDLE_YIELD)
		tcp_setprio(pcb, TCP_PRIO_MIN);
	conn_write(c);
	return ERR_OK;
}

static err_t on_accept(void *arg, struct tcp_pcb *pcb, err_t error)
{
	struct mmdsnet *m = arg;
	struct conn *c = pcb && error == ERR_OK ? calloc(1, sizeof(*c)) : NULL;

	if (c)
		c->session = m->service.open(m->service.arg);
	/* lwIP aborts what is not accepted. */
	if (!c || !c->session) {
		free(c);
		return ERR_MEM;
	}
	c->m = m;
	c->pcb = pcb;
	tcp_arg(pcb, c);
	tcp_recv(pcb, on_receive);
	tcp_sent(pcb, on_sent);
	tcp_err(pcb, on_error);
	tcp_poll(pcb, on_poll, POLL);
	metric_inc(&m->count->connections_created);
	return ERR_OK;
}

/* --- frames to the guest --- */

/* Room for a frame with its Ethernet header; NULL: there is none. */
static struct frame *ring_add(struct mmdsnet_port *p, uint16_t type)
{
	struct frame *f = &p->ring[(p->first + p->count) % MMDSNET_RING];

	if (p->count == MMDSNET_RING) {
		metric_inc(&p->m->count->tx_errors);
		return NULL;
	}
	memcpy(f->byte, p->mac, NETFRAME_MAC);
	memcpy(f->byte + NETFRAME_MAC, own_mac, NETFRAME_MAC);
	netframe_put16(f->byte + 2 * NETFRAME_MAC, type);
	if (p->count++ == 0 && p->wake)
		p->wake(p->wake_arg);
	return f;
}

/* A packet of lwIP's. What is refused stays with TCP and is sent by tcp_txnow(). */
static err_t on_output(struct netif *netif, struct pbuf *packet, const ip4_addr_t *to)
{
	struct frame *f;

	(void)to;
	if (packet->tot_len > MMDSNET_MTU)
		return ERR_BUF;
	f = ring_add(netif->state, ETHERTYPE_V4);
	if (!f)
		return ERR_MEM;
	pbuf_copy_partial(packet, f->byte + NETFRAME_ETH, packet->tot_len, 0);
	f->len = NETFRAME_ETH + packet->tot_len;
	return ERR_OK;
}

const uint8_t *mmdsnet_peek(const struct mmdsnet_port *p, uint32_t *len)
{
	const struct frame *f = &p->ring[p->first];

	*len = f->len;
	return p->count ? f->byte : NULL;
}

void mmdsnet_next(struct mmdsnet_port *p, bool delivered)
{
	struct mmdsnet_metrics *count = p->m->count;

	if (delivered) {
		metric_inc(&count->tx_count);
		metric_inc(&count->tx_frames);
		metric_add(&count->tx_bytes, p->ring[p->first].len);
	} else {
		metric_inc(&count->tx_errors);
	}
	p->first = (p->first + 1) % MMDSNET_RING;
	/* What found no room is still with TCP. */
	if (--p->count == 0)
		tcp_txnow();
}

/* --- frames from the guest --- */

/* RFC 826; an answer is asked for with the question's own bytes. */
static void answer_arp(struct mmdsnet_port *p, const uint8_t *ask)
{
	struct frame *f = ring_add(p, ETHERTYPE_ARP);
	uint8_t *arp;

	if (!f)
		return;
	arp = f->byte + NETFRAME_ETH;
	memcpy(arp, ask + NETFRAME_ETH, 6); /* Ethernet and IPv4 */
	netframe_put16(arp + 6, 2);
	memcpy(arp + 8, own_mac, NETFRAME_MAC);
	memcpy(arp + 14, p->m->address, 4);
	memcpy(arp + 18, ask + NETFRAME_ARP_SENDER_MAC, NETFRAME_MAC + 4u);
	f->len = NETFRAME_ETH + NETFRAME_ARP_LEN;
}

static bool is_arp_request(const uint8_t *frame, uint32_t len)
{
	static const uint8_t begin[] = {0, 1, ETHERTYPE_V4 >> 8, 0, NETFRAME_MAC, 4, 0, 1};

	return len >= NETFRAME_ETH + NETFRAME_ARP_LEN &&
	       memcmp(frame + NETFRAME_ETH, begin, sizeof(begin)) == 0;
}

bool mmdsnet_wants(const struct mmdsnet_port *p, const uint8_t *head, uint32_t len)
{
	uint16_t type = len >= NETFRAME_ETH ? netframe_get16(head + 2 * NETFRAME_MAC) : 0;

	if (type == ETHERTYPE_V4)
		return len >= NETFRAME_ETH + V4_HEADER &&
		       memcmp(head + V4_DST, p->m->address, 4) == 0;
	return type == ETHERTYPE_ARP && is_arp_request(head, len) &&
	       memcmp(head + NETFRAME_ARP_TARGET, p->m->address, 4) == 0;
}

/*
 * Whether IPv4 without options has a TCP header whose options end where they should (RFC 9293 section
 * 3.1). lwIP reads the length of one that has no room for a length, which may be behind the frame.
 */
static bool headers_fine(const uint8_t *frame, uint32_t len)
{
	uint32_t at = TCP_BEGIN + TCP_HEADER, end;

	if (len < at || frame[NETFRAME_ETH] != (4 << 4 | V4_HEADER / 4))
		return false;
	end = TCP_BEGIN + (uint32_t)(frame[TCP_OFFSET] >> 4) * 4;
	if (end < at || end > len)
		return false;
	while (at < end && frame[at] != TCP_OPTION_END) {
		uint32_t size = 1;

		if (frame[at] != TCP_OPTION_NOP) {
			size = at + 1 < end ? frame[at + 1] : 0;
			if (size < 2 || size > end - at)
				return false;
		}
		at += size;
	}
	return true;
}

/*
 * The buffer is ours for the length of this call only, and that is enough: what lwIP keeps of a
 * segment it has copied (no queue of segments out of order, and on_receive() takes everything).
 */
static bool input_tcp(struct mmdsnet_port *p, uint8_t *frame, uint32_t len)
{
	struct pbuf *packet;

	if (len > MMDSNET_FRAME_MAX || !headers_fine(frame, len))
		return false;
	packet = pbuf_alloc(PBUF_RAW, (u16_t)(len - NETFRAME_ETH), PBUF_REF);
	if (!packet)
		return false;
	packet->payload = frame + NETFRAME_ETH;
	/* It frees the packet, whatever becomes of it. */
	p->netif.input(packet, &p->netif);
	metric_inc(&p->m->count->rx_count);
	arm(p->m);
	return true;
}

void mmdsnet_input(struct mmdsnet_port *p, uint8_t *frame, uint32_t len)
{
	struct mmdsnet_metrics *count = p->m->count;

	metric_inc(&count->rx_accepted);
	memcpy(p->mac, frame + NETFRAME_MAC, NETFRAME_MAC);
	if (netframe_get16(frame + 2 * NETFRAME_MAC) == ETHERTYPE_ARP)
		answer_arp(p, frame);
	else if (frame[V4_PROTOCOL] != IP_PROTO_TCP)
		metric_inc(&count->rx_accepted_unusual);
	else if (!input_tcp(p, frame, len))
		metric_inc(&count->rx_accepted_err);
}

/* --- create/destroy --- */

static err_t init_netif(struct netif *netif)
{
	netif->output = on_output;
	return ERR_OK;
}

/*
 * A listener of this port only. Several may not listen on one address and port, but that is asked
 * only of those who said they would share it: each says so only while it matters.
 */
static struct tcp_pcb *listen_on(struct mmdsnet_port *p)
{
	struct tcp_pcb *pcb = tcp_new(), *listener = NULL;

	if (!pcb)
		return NULL;
	ip_set_option(pcb, SOF_REUSEADDR);
	if (tcp_bind(pcb, &p->netif.ip_addr, HTTP_PORT) == ERR_OK) {
		tcp_bind_netif(pcb, &p->netif);
		ip_reset_option(pcb, SOF_REUSEADDR);
		listener = tcp_listen(pcb);
	}
	if (!listener) {
		tcp_abort(pcb);
		return NULL;
	}
	ip_set_option(listener, SOF_REUSEADDR);
	tcp_arg(listener, p->m);
	tcp_accept(listener, on_accept);
	return listener;
}

struct mmdsnet_port *mmdsnet_add(struct mmdsnet *m, unsigned mtu, struct err *e)
{
	struct mmdsnet_port *p = calloc(1, sizeof(*p));
	ip4_addr_t address, any = {0};

	if (!p) {
		err_set(e, ENOMEM, "metadata service: out of memory");
		return NULL;
	}
	p->m = m;
	memcpy(&address.addr, m->address, sizeof(address.addr));
	/* Without a mask the whole world is on this link: that of the guest. */
	netif_add(&p->netif, &address, &any, &any, p, init_netif, ip_input);
	p->netif.mtu = (u16_t)(mtu ? MIN(mtu, MMDSNET_MTU) : MMDSNET_MTU);
	netif_set_up(&p->netif);
	netif_set_link_up(&p->netif);
	p->listener = listen_on(p);
	if (!p->listener) {
		netif_remove(&p->netif);
		free(p);
		err_set(e, ENOSPC, "metadata service: too many interfaces");
		return NULL;
	}
	p->next = m->ports;
	m->ports = p;
	return p;
}

void mmdsnet_attach(struct mmdsnet_port *p, void (*wake)(void *arg), void *arg)
{
	p->wake = wake;
	p->wake_arg = arg;
}

struct mmdsnet *mmdsnet_create(struct loop *loop, const uint8_t address[4],
			       const struct mmdsnet_service *service, struct mmdsnet_metrics *count,
			       struct err *e)
{
	struct mmdsnet *m;

	if (netif_list) {
		err_set(e, EBUSY, "metadata service: there is one already");
		return NULL;
	}
	m = calloc(1, sizeof(*m));
	if (!m) {
		err_set(e, ENOMEM, "metadata service: out of memory");
		return NULL;
	}
	m->loop = loop;
	m->tick = (struct loop_timer){.expired = on_tick, .arg = m};
	memcpy(m->address, address, sizeof(m->address));
	m->service = *service;
	m->count = count;
	lwip_init();
	return m;
}

static void port_destroy(struct mmdsnet_port *p)
{
	tcp_close(p->listener);
	netif_remove(&p->netif);
	free(p);
}

void mmdsnet_destroy(struct mmdsnet *m)
{
	if (!m)
		return;
	for (struct mmdsnet_port *p = m->ports; p; p = p->next)
		p->wake = NULL;
	while (tcp_active_pcbs)
		tcp_abort(tcp_active_pcbs);
	while (tcp_tw_pcbs)
		tcp_abort(tcp_tw_pcbs);
	while (m->ports) {
		struct mmdsnet_port *p = m->ports;

		m->ports = p->next;
		port_destroy(p);
	}
	loop_timer_clear(m->loop, &m->tick);
	free(m);
}
