/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vsock between a guest and a host that both do anything: packets with any header, buffers of any
 * shape, and clients and servers on Unix sockets that write, read, half-close and go away.
 *
 * The input is a program of one byte each and its operands:
 *
 *	0x00..0x3f  a packet: op (1), which connection (1), length (2), flags (1), and lies about
 *		    credit, ids, type or length by the low bits
 *	0x40..0x5f  rx buffers: how many, how they are cut (1), room (2)
 *	0x60..0x6f  a host client connects, and says CONNECT, or something
 *	0x70..0x9f  a host socket writes (2), reads, half-closes or closes
 *	0xa0..0xaf  the server accepts what waits
 *	0xb0..0xb7  a timer expires
 *	0xb8..0xbf  reset and start, or a transport reset
 *	0xc0..0xc7  anything into the rings: a head, a descriptor
 *	other	    collect what was used, and what the guest was told of connections
 *
 * What must hold: no crash, no leak; the device never has more connections than sockets that it
 * may have; what it writes into an rx buffer is a sound packet, never beyond the buffer; the credit
 * that the guest gave is never exceeded while it tells the truth.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fuzz/input.h"
#include "tests/lib/driver.h"
#include "virtio/vsock_conn.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#define CID   5u
#define PORT  7u
#define HOSTS 8u
#define RX_AT (DRIVER_HIGH + 0x40000)
#define TX_AT (DRIVER_HIGH + 0x1000)

static struct driver g;
static struct vsock *v;
static int host[HOSTS], server;
static gpa_t rx_of[DRIVER_QUEUE_SIZE];
static uint32_t rx_len[DRIVER_QUEUE_SIZE];
static char path[64];

/* The ports of a connection, or of none. */
static void choose(uint8_t which, uint32_t *host_port, uint32_t *guest_port)
{
	const struct vsock_conn *c = &v->conn[which % 8];

	*host_port = PORT + (which >> 7);
	*guest_port = 1000 + which % 4;
	if (which & 8 && c->state != VSOCK_FREE) {
		*host_port = c->host_port;
		*guest_port = c->guest_port;
	}
}

static void packet(struct program *in, uint8_t lies)
{
	uint8_t op = (uint8_t)take(in, 1), which = (uint8_t)take(in, 1);
	uint32_t len = (uint32_t)take(in, 2);
	struct vsock_hdr h = {
		.src_cid = CID,
		.dst_cid = VSOCK_HOST_CID,
		.type = VSOCK_TYPE_STREAM,
		.op = op < 0xf0 ? op % 8 : op,
		.flags = (uint32_t)take(in, 1),
		.buf_alloc = 0x2000,
	};
	uint32_t host_port, guest_port;
	struct vsock_conn *c;

	choose(which, &host_port, &guest_port);
	h.dst_port = host_port;
	h.src_port = guest_port;
	if (h.op != VSOCK_OP_RW)
		len = len % 8 ? 0 : len;
	h.len = len;
	c = vsock_mux_find(v, h.dst_port, h.src_port);
	h.fwd_cnt = c ? c->sent : 0;
	if (lies & 1)
		h.fwd_cnt = (uint32_t)take(in, 4);
	if (lies & 2)
		h.buf_alloc = (uint32_t)take(in, 4);
	if ((lies & 0x3c) == 4)
		h.len = (uint32_t)take(in, 4);
	if ((lies & 0x3c) == 8)
		h.src_cid = take(in, 8);
	if ((lies & 0x3c) == 12)
		h.type = (uint16_t)take(in, 2);
	memcpy(driver_ptr(&g, TX_AT, sizeof(h)), &h, sizeof(h));
	driver_add(&g, 1,
		   (struct driver_buf[]){{TX_AT, (lies & 0x3c) == 16 ? 20 : 44, false},
					 {TX_AT + 44, len, false}},
		   2);
	if (!(lies & 0x20))
		driver_kick(&g, 1);
}

static void buffers(struct program *in, uint8_t n)
{
	uint8_t cut = (uint8_t)take(in, 1);
	uint32_t room = (uint32_t)take(in, 2);
	uint32_t first = MIN((uint32_t)cut, room);

	for (unsigned i = 0; i <= n % 8; i++) {
		gpa_t at = RX_AT + (gpa_t)(g.queue[0].avail_idx % 8) * 0x10000;
		const struct driver_buf buf[] = {{at, first, true},
						 {at + first, room - first, true}};
		uint16_t head = driver_add(&g, 0, buf, 2);

		rx_of[head] = at;
		rx_len[head] = room;
	}
	driver_kick(&g, 0);
}

static void open_client(struct program *in)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	uint8_t how = (uint8_t)take(in, 1);
	char line[40];
	int *fd = &host[how % HOSTS], len;

	fd_close(fd);
	*fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	if (connect(*fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		return;
	len = snprintf(line, sizeof(line), "CONNECT %u\nmore", 1000 + how % 4);
	for (int i = 0; how & 0x80 && i < len; i++)
		line[i] ^= (char)(take(in, 1) & 0x1f);
	if (send(*fd, line, (size_t)len - (how & 0x40 ? 4 : 0), MSG_NOSIGNAL) < 0)
		fd_close(fd);
	driver_run(&g);
}

static void host_acts(struct program *in, uint8_t op)
{
	static uint8_t buf[0x20000];
	uint8_t which = (uint8_t)take(in, 1);
	int *fd = &host[which % HOSTS];
	size_t len = take(in, 2) * 2;
	ssize_t r = 0;

	if (op < 0x80)
		r = send(*fd, buf, len, MSG_NOSIGNAL);
	else if (op < 0x90)
		r = recv(*fd, buf, len, 0);
	else if (which & 0x80)
		r = shutdown(*fd, which & 0x40 ? SHUT_RD : SHUT_WR);
	else
		fd_close(fd);
	(void)r; /* to be refused is fine */
	driver_run(&g);
}

static void accept_one(uint8_t which)
{
	int fd = accept4(server, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return;
	fd_close(&host[which % HOSTS]);
	host[which % HOSTS] = fd;
	driver_run(&g);
}

static void restart(uint8_t how)
{
	if (how & 1) {
		pthread_mutex_lock(&g.lock);
		vsock_transport_reset(g.mmio.dev);
		pthread_mutex_unlock(&g.lock);
	} else {
		driver_start(&g, VIRTIO_FEATURES_COMMON);
		driver_run(&g);
	}
}

static void scribble(struct program *in, uint8_t op)
{
	unsigned queue = op % 3;
	uint16_t i = (uint16_t)take(in, 1);

	if (op & 4)
		driver_publish(&g, queue, i);
	else
		driver_desc(&g, queue, i % DRIVER_QUEUE_SIZE,
			    (struct virtq_desc){take(in, 4), (uint32_t)take(in, 2),
						(uint16_t)(take(in, 1) & 7),
						(uint16_t)take(in, 1)});
	driver_kick(&g, queue);
}

static void collect(bool honest)
{
	uint32_t head, len;

	while (driver_used(&g, 1, NULL, NULL))
		;
	while (driver_used(&g, 0, &head, &len)) {
		struct vsock_hdr h;

		if (!honest || len == 0)
			continue;
		must(head < DRIVER_QUEUE_SIZE && len >= sizeof(h), "a packet has a header");
		must(len <= rx_len[head], "a packet is within its buffer");
		memcpy(&h, driver_ptr(&g, rx_of[head], sizeof(h)), sizeof(h));
		must(h.src_cid == VSOCK_HOST_CID && h.dst_cid == CID, "a packet is addressed");
		must(len == sizeof(h) + h.len, "a packet says its length");
		must(h.op >= VSOCK_OP_REQUEST && h.op <= VSOCK_OP_CREDIT_REQUEST, "a known op");
		must(h.len == 0 || h.op == VSOCK_OP_RW, "only RW has data");
	}
}

/* Somebody will look at what the host sends, or has sent. */
static bool is_alive(const struct vsock_conn *c)
{
	if (c->state != VSOCK_ESTABLISHED || c->ended || c->guest_shut & VSOCK_SHUTDOWN_RCV)
		return true;
	return c->readable ? c->queued || c->asked || c->waits == &v->news : c->watched & EPOLLIN;
}

static void check_connections(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
		const struct vsock_conn *c = &v->conn[i];

		if (!(v->used[i / 64] >> i % 64 & 1))
			continue;
		n++;
		must(c->state != VSOCK_FREE, "a used entry has a state");
		must(c->kept_len <= c->buf_alloc, "what is kept fits");
		must(c->got - c->passed == c->kept_len || c->deaf || c->state == VSOCK_DEAD,
		     "every byte was passed on or is kept");
		must(is_alive(c), "no input is forgotten");
		must(!c->waits || c->waits->timer.armed, "a deadline has its timer");
	}
	must(n == v->conn_count, "connections are counted");
	must(!TAILQ_EMPTY(&v->answers.list) || !v->answers.timer.armed, "no timer for nobody");
	must(!TAILQ_EMPTY(&v->news.list) || !v->news.timer.armed, "no timer for nobody");
}

static void expire(void)
{
	struct vsock_conn *c;

	TAILQ_FOREACH(c, &v->news.list, waiting)
	c->deadline_ns = 0;
	TAILQ_FOREACH(c, &v->answers.list, waiting)
	c->deadline_ns = 0;
	g.loop.timers->at_ns = 0;
}

static void run(struct program *in)
{
	bool honest = true;

	while (in->p < in->end) {
		uint8_t op = (uint8_t)take(in, 1);

		if (op < 0x40)
			packet(in, op);
		else if (op < 0x60)
			buffers(in, op);
		else if (op < 0x70)
			open_client(in);
		else if (op < 0xa0)
			host_acts(in, op);
		else if (op < 0xb0)
			accept_one(op);
		else if (op < 0xb8 && g.loop.timers)
			expire();
		else if (op >= 0xb8 && op < 0xc0)
			restart(op);
		else if (op >= 0xc0 && op < 0xc8)
			honest = false, scribble(in, op);
		else
			driver_run(&g);
		collect(honest);
		check_connections();
	}
}

static void set_up(void)
{
	static struct vsock_listener listener = {.fd = -1};
	struct vsock_setup cfg = {.guest_cid = CID, .uds_path = path};
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	if (listener.fd < 0) {
		snprintf(path, sizeof(path), "/tmp/fuzz-vsock-%d", getpid());
		must(vsock_listener_open(&listener, path, NULL) == 0, "a socket");
		snprintf(a.sun_path, sizeof(a.sun_path), "%s_%u", path, PORT);
		server = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		must(bind(server, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(server, 2) == 0,
		     "a server");
	}
	log_set_level(LOG_OFF);
	driver_init(&g);
	cfg.listen_fd = fcntl(listener.fd, F_DUPFD_CLOEXEC, 0);
	driver_attach(&g, vsock_create(&cfg, &g.env, NULL));
	driver_start(&g, VIRTIO_FEATURES_COMMON);
	driver_run(&g);
	v = CONTAINER_OF(g.mmio.dev, struct vsock, dev);
	for (unsigned i = 0; i < HOSTS; i++)
		host[i] = -1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct program in = {data, data + size};
	int fd;

	set_up();
	run(&in);
	driver_finish(&g);
	for (unsigned i = 0; i < HOSTS; i++)
		fd_close(&host[i]);
	while ((fd = accept4(server, NULL, NULL, SOCK_NONBLOCK)) >= 0)
		close(fd);
	return 0;
}
