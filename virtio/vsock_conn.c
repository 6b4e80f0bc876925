/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "virtio/vsock_conn.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/base/fd.h"

#define INPUT (EPOLLIN | EPOLLRDHUP)

/* "CONNECT 4294967295\r\n" and some blanks */
#define CONNECT_MAX 32

static uint16_t bit(enum vsock_op op)
{
	return (uint16_t)(1u << op);
}

static struct vsock_metrics *count(struct vsock_conn *c)
{
	return &c->v->count;
}

void vsock_conn_init(struct vsock *v, struct vsock_conn *c, enum vsock_conn_state state, int fd)
{
	size_t i = (size_t)(c - v->conn), big = MIN(i, (size_t)VSOCK_BIG_SLOTS);

	*c = (struct vsock_conn){
		.v = v,
		.host = {.fd = fd, .ready = vsock_conn_event, .arg = c, .lock = v->dev.env.lock},
		.state = state,
		.buf_alloc = (uint32_t)(i < VSOCK_BIG_SLOTS ? VSOCK_BIG_ALLOC : VSOCK_ALLOC),
		.kept = v->kept + big * VSOCK_BIG_ALLOC + (i - big) * VSOCK_ALLOC,
		.guess = VSOCK_READ_FIRST,
	};
}

/* SHUTDOWN flags that the guest has not been sent yet. */
static uint8_t shut_owed(const struct vsock_conn *c)
{
	unsigned want = (c->ended ? VSOCK_SHUTDOWN_SND : 0u) | (c->deaf ? VSOCK_SHUTDOWN_RCV : 0u);

	return c->state == VSOCK_ESTABLISHED ? (uint8_t)(want & ~c->shut_sent) : 0;
}

static uint32_t in_flight(const struct vsock_conn *c)
{
	return c->sent - c->peer_passed;
}

static uint32_t credit(const struct vsock_conn *c)
{
	return in_flight(c) < c->peer_alloc ? c->peer_alloc - in_flight(c) : 0;
}

/* The host may have something for a guest that listens. */
static bool has_input(const struct vsock_conn *c)
{
	return c->state == VSOCK_ESTABLISHED && c->readable && !c->ended &&
	       !(c->guest_shut & VSOCK_SHUTDOWN_RCV);
}

/* The guest has enough of a fast stream to go on with, and will say when it has not. */
static bool is_busy(const struct vsock_conn *c)
{
	uint32_t quarter = c->peer_alloc / 4;

	if (!c->fast)
		return false;
	return c->tells ? in_flight(c) > quarter
			: credit(c) < MIN(quarter, (uint32_t)VSOCK_NEWS_SURE);
}

uint32_t vsock_conn_wants(const struct vsock_conn *c)
{
	return has_input(c) && !is_busy(c) ? MIN(credit(c), c->guess) : 0;
}

void vsock_conn_ready(struct vsock_conn *c)
{
	if (has_input(c) && !c->asked && !vsock_conn_wants(c))
		vsock_mux_wait(c, &c->v->news);
	else if (c->waits == &c->v->news)
		vsock_mux_wait(c, NULL);
	if (c->queued || !(c->owed || shut_owed(c) || vsock_conn_wants(c)))
		return;
	c->queued = true;
	TAILQ_INSERT_TAIL(&c->v->ready, c, ready);
}

static void owe(struct vsock_conn *c, enum vsock_op op)
{
	c->owed |= bit(op);
	vsock_conn_ready(c);
}

/* A guest that gives news of its credit on request only is asked, once for each stall. */
void vsock_conn_insist(struct vsock_conn *c)
{
	c->tells = false;
	c->fast = false;
	if (credit(c) == 0) {
		c->asked = true;
		c->owed |= bit(VSOCK_OP_CREDIT_REQUEST);
	}
	vsock_conn_ready(c);
}

static void close_host(struct vsock_conn *c)
{
	loop_del(c->v->dev.env.loop, &c->host);
	fd_close(&c->host.fd);
}

void vsock_conn_kill(struct vsock_conn *c)
{
	if (c->state == VSOCK_DEAD)
		return;
	close_host(c);
	vsock_mux_wait(c, NULL);
	/* Before REQUEST and after RST the guest knows of no connection. */
	if (!c->hashed) {
		vsock_mux_free(c);
		return;
	}
	c->state = VSOCK_DEAD;
	c->owed = 0;
	owe(c, VSOCK_OP_RST);
}

static void fail(struct vsock_conn *c)
{
	metric_inc(&count(c)->conn_event_fails);
	vsock_conn_kill(c);
}

static void watch(struct vsock_conn *c, uint32_t events, bool on)
{
	uint32_t watched = on ? c->watched | events : c->watched & ~events;

	if (c->watched == watched || !c->host.added)
		return;
	c->watched = watched;
	loop_mod(c->v->dev.env.loop, &c->host, watched | EPOLLET);
}

/* --- guest to host --- */

/* Tells the guest once half of what it may send is free again and it does not know. */
static void news_of_credit(struct vsock_conn *c)
{
	if (c->passed - c->told >= c->buf_alloc / 2)
		owe(c, VSOCK_OP_CREDIT_UPDATE);
}

/* All that the guest sent has been passed on: what it wanted afterwards is done now. */
static void all_passed(struct vsock_conn *c)
{
	if (c->state == VSOCK_LINGERING)
		vsock_conn_kill(c);
	else if (c->guest_shut & VSOCK_SHUTDOWN_SND)
		shutdown(c->host.fd, SHUT_WR);
}

/* The host takes no more. What it has not taken counts as passed on, so that the guest goes on. */
static void go_deaf(struct vsock_conn *c)
{
	c->deaf = true;
	c->passed = c->got;
	c->kept_len = 0;
	watch(c, EPOLLOUT, false);
	if (c->state == VSOCK_LINGERING)
		vsock_conn_kill(c);
	else
		news_of_credit(c);
}

/* Sends without waiting. Returns the bytes taken, maybe 0, or -errno when the host is gone. */
static ssize_t send_some(struct vsock_conn *c, struct iovec *iov, unsigned n)
{
	ssize_t r;

	do {
		r = fd_writev(c->host.fd, iov, (int)n, -1);
	} while (r < 0 && errno == EINTR);
	if (r < 0)
		return errno == EAGAIN || errno == ENOBUFS ? 0 : -errno;
	return r;
}

/* Wraps a place in `kept` that is beyond its end by less than its size. */
static uint32_t in_ring(const struct vsock_conn *c, uint32_t at)
{
	return at < c->buf_alloc ? at : at - c->buf_alloc;
}

/* Appends `len` bytes of `iov`, from `skip` on, to the ring. vsock_conn_accepts() made room. */
static void keep(struct vsock_conn *c, const struct iovec *iov, size_t skip, uint32_t len)
{
	while (len > 0) {
		uint32_t at = in_ring(c, c->kept_at + c->kept_len), n;

		if (skip >= iov->iov_len) {
			skip -= iov++->iov_len;
			continue;
		}
		n = MIN(len, c->buf_alloc - at);
		n = (uint32_t)MIN(iov->iov_len - skip, (size_t)n);
		memcpy(c->kept + at, (const uint8_t *)iov->iov_base + skip, n);
		c->kept_len += n;
		skip += n;
		len -= n;
	}
}

bool vsock_conn_accepts(struct vsock_conn *c, uint32_t len)
{
	if (c->state == VSOCK_LINGERING || c->state == VSOCK_DEAD)
		return false;
	if (c->state != VSOCK_ESTABLISHED || c->guest_shut & VSOCK_SHUTDOWN_SND ||
	    len > c->buf_alloc - (c->got - c->passed)) {
		fail(c);
		return false;
	}
	c->got += len;
	return true;
}

void vsock_conn_write(struct vsock_conn *c, struct iovec *iov, unsigned iovs, uint32_t len)
{
	ssize_t r = 0;

	if (c->state != VSOCK_ESTABLISHED) /* a packet behind these was its end */
		return;
	if (!c->kept_len && !c->deaf)
		r = send_some(c, iov, iovs);
	if (r < 0) {
		metric_inc(&count(c)->tx_write_fails);
		go_deaf(c);
	} else if (c->deaf) {
		c->passed += len;
		news_of_credit(c);
	} else {
		c->passed += (uint32_t)r;
		keep(c, iov, (size_t)r, len - (uint32_t)r);
		if (c->kept_len)
			watch(c, EPOLLOUT, true);
		news_of_credit(c);
	}
	vsock_conn_ready(c);
}

/* The socket has room. */
static void flush(struct vsock_conn *c)
{
	uint32_t first = MIN(c->kept_len, c->buf_alloc - c->kept_at);
	struct iovec iov[2] = {{c->kept + c->kept_at, first}, {c->kept, c->kept_len - first}};
	ssize_t r;

	if (!c->kept_len) {
		watch(c, EPOLLOUT, false);
		return;
	}
	r = send_some(c, iov, 2);
	if (r < 0) {
		metric_inc(&count(c)->tx_flush_fails);
		go_deaf(c);
		return;
	}
	c->passed += (uint32_t)r;
	c->kept_at = in_ring(c, c->kept_at + (uint32_t)r);
	c->kept_len -= (uint32_t)r;
	news_of_credit(c);
	if (!c->kept_len)
		all_passed(c);
}

/* --- packets of the guest --- */

void vsock_conn_credit(struct vsock_conn *c, const struct vsock_hdr *h)
{
	uint32_t news = h->fwd_cnt - c->peer_passed;

	c->peer_alloc = h->buf_alloc;
	c->peer_passed = h->fwd_cnt;
	c->tells |= h->op == VSOCK_OP_CREDIT_UPDATE && !c->asked && in_flight(c) == 0 && news > 0 &&
		    news < c->peer_alloc / 2;
	if (credit(c))
		c->asked = false;
	vsock_conn_ready(c);
}

static void guest_accepted(struct vsock_conn *c)
{
	char text[24];
	int len = snprintf(text, sizeof(text), "OK %u\n", c->host_port);

	if (c->state != VSOCK_REQUESTED) {
		fail(c);
		return;
	}
	vsock_mux_wait(c, NULL);
	if (send_some(c, &(struct iovec){text, (size_t)len}, 1) != len) {
		fail(c);
		return;
	}
	c->state = VSOCK_ESTABLISHED;
	c->readable = true;
	vsock_conn_ready(c);
}

static void guest_shut_down(struct vsock_conn *c, uint8_t flags)
{
	if (c->state != VSOCK_ESTABLISHED) {
		vsock_conn_kill(c);
		return;
	}
	c->guest_shut |= flags & VSOCK_SHUTDOWN_ALL;
	if (c->guest_shut == VSOCK_SHUTDOWN_ALL) {
		/* The guest may forget the connection, and use its ports again, right away. */
		vsock_mux_wait(c, NULL);
		if (!c->kept_len) {
			vsock_conn_kill(c);
			return;
		}
		c->state = VSOCK_LINGERING;
		c->owed = 0;
		owe(c, VSOCK_OP_RST);
		return;
	}
	if (flags & VSOCK_SHUTDOWN_RCV)
		shutdown(c->host.fd, SHUT_RD);
	if (!c->kept_len)
		all_passed(c);
}

void vsock_conn_packet(struct vsock_conn *c, const struct vsock_hdr *h)
{
	switch (h->op) {
	case VSOCK_OP_RESPONSE:
		guest_accepted(c);
		break;
	case VSOCK_OP_RST:
		/* Nothing is owed any more; only what lingers does so for the host's sake. */
		if (c->state == VSOCK_LINGERING) {
			vsock_mux_unhash(c);
			c->owed = 0;
		} else {
			vsock_mux_free(c);
		}
		break;
	case VSOCK_OP_SHUTDOWN:
		if (c->state != VSOCK_LINGERING)
			guest_shut_down(c, (uint8_t)(h->flags & VSOCK_SHUTDOWN_ALL));
		break;
	case VSOCK_OP_CREDIT_REQUEST:
		if (c->state == VSOCK_ESTABLISHED)
			owe(c, VSOCK_OP_CREDIT_UPDATE);
		break;
	case VSOCK_OP_CREDIT_UPDATE: /* every header is one */
		break;
	default: /* also a REQUEST for a connection that is there */
		fail(c);
	}
}

/* --- packets for the guest --- */

enum vsock_op vsock_conn_next(const struct vsock_conn *c, bool before_data)
{
	static const enum vsock_op first[] = {VSOCK_OP_RST, VSOCK_OP_REQUEST, VSOCK_OP_RESPONSE};
	static const enum vsock_op last[] = {VSOCK_OP_CREDIT_UPDATE, VSOCK_OP_CREDIT_REQUEST};

	for (unsigned i = 0; before_data && i < ARRAY_SIZE(first); i++)
		if (c->owed & bit(first[i]))
			return first[i];
	if (before_data)
		return 0;
	for (unsigned i = 0; i < ARRAY_SIZE(last); i++)
		if (c->owed & bit(last[i]))
			return last[i];
	return shut_owed(c) ? VSOCK_OP_SHUTDOWN : 0;
}

void vsock_conn_header(struct vsock_conn *c, enum vsock_op op, uint32_t len, struct vsock_hdr *h)
{
	if (op == VSOCK_OP_SHUTDOWN)
		c->shut_sent |= shut_owed(c);
	*h = (struct vsock_hdr){
		.src_cid = VSOCK_HOST_CID,
		.dst_cid = c->v->guest_cid,
		.src_port = c->host_port,
		.dst_port = c->guest_port,
		.len = len,
		.type = VSOCK_TYPE_STREAM,
		.op = (uint16_t)op,
		.flags = op == VSOCK_OP_SHUTDOWN ? c->shut_sent : 0,
		.buf_alloc = c->buf_alloc,
		.fwd_cnt = c->passed,
	};
	c->sent += len;
	c->told = c->passed;
	c->owed &= (uint16_t) ~(bit(op) | bit(VSOCK_OP_CREDIT_UPDATE));
}

void vsock_conn_was_sent(struct vsock_conn *c, enum vsock_op op)
{
	if (op == VSOCK_OP_SHUTDOWN && c->shut_sent == VSOCK_SHUTDOWN_ALL)
		vsock_mux_wait(c, &c->v->answers);
	if (op != VSOCK_OP_RST)
		return;
	vsock_mux_unhash(c);
	if (c->state == VSOCK_DEAD)
		vsock_mux_free(c);
}

void vsock_conn_was_read(struct vsock_conn *c, ssize_t n, size_t asked, bool cut)
{
	if (n > 0) {
		if ((size_t)n == asked || n < (ssize_t)VSOCK_READ_FIRST) {
			c->fast = (size_t)n == asked;
			c->guess = (uint32_t)(c->fast ? VSOCK_READ_MAX : VSOCK_READ_FIRST);
		}
		/* Nothing else would call us again when its end was announced, or it is not watched. */
		c->readable = (size_t)n == asked || cut || c->end_near || !(c->watched & INPUT);
		return;
	}
	c->readable = false;
	watch(c, INPUT, true);
	if (n == -EAGAIN || n == -EINTR) {
		c->readable = n == -EINTR;
		return;
	}
	if (n < 0)
		metric_inc(&count(c)->rx_read_fails);
	c->ended = true;
	if ((n < 0 || c->hup) && !c->deaf)
		go_deaf(c);
}

/* --- the host's socket --- */

void vsock_conn_connected(struct vsock_conn *c)
{
	vsock_mux_wait(c, NULL);
	if (vsock_mux_watch(c) < 0) {
		fail(c);
		return;
	}
	c->state = VSOCK_ESTABLISHED;
	c->readable = true;
	owe(c, VSOCK_OP_RESPONSE);
}

/* "CONNECT <port>" in any case, blanks around the words. */
static bool parse_connect(char *line, uint32_t *port)
{
	char *end;
	unsigned long long n;

	if (strncasecmp(line, "CONNECT", 7) != 0 || !isblank((unsigned char)line[7]))
		return false;
	line += 7 + strspn(line + 7, " \t");
	if (!isdigit((unsigned char)*line))
		return false;
	n = strtoull(line, &end, 10);
	if (n > UINT32_MAX || end[strspn(end, " \t\r")])
		return false;
	*port = (uint32_t)n;
	return true;
}

/*
 * Takes the client's line off the socket, and nothing behind it. 1: *port is set, 0: it is not
 * complete yet, -1: it never will be.
 */
static int read_connect(struct vsock_conn *c, uint32_t *port)
{
	char line[CONNECT_MAX + 1];
	struct iovec iov = {line, CONNECT_MAX};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n = recvmsg(c->host.fd, &m, MSG_PEEK | MSG_DONTWAIT);
	char *end;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		return -1;
	end = memchr(line, '\n', (size_t)n);
	if (!end)
		return n == CONNECT_MAX || c->hup ? -1 : 0;
	if (fd_read(c->host.fd, line, (size_t)(end - line) + 1) != end - line + 1)
		return -1;
	*end = '\0';
	return parse_connect(line, port) ? 1 : -1;
}

static void handshake(struct vsock_conn *c)
{
	uint32_t port;
	int r = read_connect(c, &port);

	if (r < 0) {
		metric_inc(&count(c)->muxer_event_fails);
		vsock_mux_free(c);
	}
	if (r <= 0)
		return;
	c->guest_port = port;
	c->host_port = vsock_mux_host_port(c->v, port);
	c->state = VSOCK_REQUESTED;
	vsock_mux_hash(c);
	vsock_mux_wait(c, &c->v->answers);
	owe(c, VSOCK_OP_REQUEST);
}

static void established_event(struct vsock_conn *c, uint32_t events)
{
	if (events & EPOLLOUT)
		flush(c);		     /* never frees an established connection */
	if (c->readable && events & EPOLLIN) /* known already, and not wanted yet */
		watch(c, INPUT, false);
	c->readable |= (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
	/* Closed for good, and nothing is left to be read: the guest has not heard that yet. */
	c->ended |= c->hup && c->guest_shut & VSOCK_SHUTDOWN_RCV;
	if (c->hup && c->ended && !c->deaf)
		go_deaf(c);
	vsock_conn_ready(c);
}

void vsock_conn_event(struct loop_source *s, uint32_t events)
{
	struct vsock_conn *c = s->arg;
	struct vsock *v = c->v;

	if (vsock_mux_settle(v))
		return;
	c->hup |= (events & (EPOLLHUP | EPOLLERR)) != 0;
	c->end_near |= c->hup || events & EPOLLRDHUP;
	switch (c->state) {
	case VSOCK_HANDSHAKE:
		handshake(c);
		break;
	case VSOCK_REQUESTED:
		if (c->hup)
			vsock_conn_kill(c);
		break;
	case VSOCK_ESTABLISHED:
		established_event(c, events);
		break;
	case VSOCK_LINGERING:
		if (c->hup)
			go_deaf(c);
		else if (events & EPOLLOUT)
			flush(c);
		break;
	case VSOCK_FREE:
	case VSOCK_CONNECTING:
	case VSOCK_DEAD:
		break;
	}
	vsock_pump(v);
}
