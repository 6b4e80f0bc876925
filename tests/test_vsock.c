/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/lib/driver.h"
#include "virtio/vsock_conn.h"
#include "vmm/base/fd.h"
#include "vmm/base/wire.h"

#define CID	  42u
#define ALLOC	  KIB(256) /* what our guest promises */
#define HOST_PORT (1u << 30)
#define RX_BUFS	  12u

enum { RX, TX, EVENT };

static struct driver g;
static struct vsock *v;
static struct vsock_listener listener;
static char dir[] = "/tmp/vsock-test-XXXXXX", path[64];

/* What our guest puts into its headers. */
static uint32_t my_alloc, my_fwd;
static gpa_t tx_at, rx_at;
static gpa_t rx_of[DRIVER_QUEUE_SIZE]; /* by head */
static unsigned rx_posted;

static void start(void)
{
	struct vsock_setup cfg = {.guest_cid = CID, .uds_path = path};

	signal(SIGPIPE, SIG_IGN); /* as main() does */
	cr_assert(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/v.sock", dir);
	cr_assert_eq(vsock_listener_open(&listener, path, NULL), 0);
	cfg.listen_fd = fcntl(listener.fd, F_DUPFD_CLOEXEC, 0);
	driver_init(&g);
	driver_attach(&g, vsock_create(&cfg, &g.env, NULL));
	driver_start(&g, VIRTIO_FEATURES_COMMON);
	driver_run(&g); /* the reset that begins every start */
	v = CONTAINER_OF(g.mmio.dev, struct vsock, dev);
	my_alloc = ALLOC;
	my_fwd = 0;
	tx_at = driver_alloc(&g, KIB(80));
	rx_at = driver_alloc(&g, KIB(512));
}

static void finish(void)
{
	vsock_listener_close(&listener, path);
	driver_finish(&g);
	cr_assert_eq(rmdir(dir), 0, "the path was removed");
}

TestSuite(vsock, .init = start, .fini = finish, .timeout = 60);

/* --- the guest --- */

static void send_raw(const struct vsock_hdr *h, const void *data, uint32_t len)
{
	const struct driver_buf buf[] = {{tx_at, sizeof(*h), false}, {tx_at + 64, len, false}};

	memcpy(driver_ptr(&g, tx_at, sizeof(*h)), h, sizeof(*h));
	if (len)
		memcpy(driver_ptr(&g, tx_at + 64, len), data, len);
	driver_add(&g, TX, buf, len ? 2 : 1);
	driver_kick(&g, TX);
}

static struct vsock_hdr header(uint32_t host_port, uint32_t guest_port, uint16_t op)
{
	return (struct vsock_hdr){
		.src_cid = CID,
		.dst_cid = VSOCK_HOST_CID,
		.src_port = guest_port,
		.dst_port = host_port,
		.type = VSOCK_TYPE_STREAM,
		.op = op,
		.buf_alloc = my_alloc,
		.fwd_cnt = my_fwd,
	};
}

static void guest_send(uint32_t host_port, uint32_t guest_port, uint16_t op, const void *data,
		       uint32_t len)
{
	struct vsock_hdr h = header(host_port, guest_port, op);

	h.len = len;
	send_raw(&h, data, len);
	cr_assert(driver_used(&g, TX, NULL, NULL), "the packet came back");
}

static void guest_shutdown(uint32_t host_port, uint32_t guest_port, uint32_t flags)
{
	struct vsock_hdr h = header(host_port, guest_port, VSOCK_OP_SHUTDOWN);

	h.flags = flags;
	send_raw(&h, NULL, 0);
	cr_assert(driver_used(&g, TX, NULL, NULL));
}

/* Offers `n` buffers with `room` bytes behind the header. */
static void post(unsigned n, uint32_t room)
{
	for (unsigned i = 0; i < n; i++) {
		gpa_t at = rx_at + (rx_posted++ % RX_BUFS) * KIB(36);
		uint16_t head = driver_add(&g, RX, (struct driver_buf[]){{at, 44 + room, true}}, 1);

		rx_of[head] = at;
	}
	driver_kick(&g, RX);
}

/* The next packet; false when there is none. `data` has room for KIB(36). */
static bool got(struct vsock_hdr *h, void *data)
{
	uint32_t head, len;

	if (!driver_used(&g, RX, &head, &len))
		return false;
	memcpy(h, driver_ptr(&g, rx_of[head], sizeof(*h)), sizeof(*h));
	cr_assert_eq(len, 44 + h->len);
	cr_assert_eq(h->src_cid, VSOCK_HOST_CID);
	cr_assert_eq(h->dst_cid, CID);
	if (data && h->len)
		memcpy(data, driver_ptr(&g, rx_of[head] + 44, h->len), h->len);
	return true;
}

/* The next packet has to be this one. */
static struct vsock_hdr expect(enum vsock_op op)
{
	struct vsock_hdr h;

	cr_assert(got(&h, NULL), "no packet, expected op %d", op);
	cr_assert_eq(h.op, op, "op %d, expected %d", h.op, op);
	return h;
}

static void expect_nothing(void)
{
	struct vsock_hdr h;

	cr_assert_not(got(&h, NULL), "op %d", h.op);
}

/* --- the host --- */

static int listen_at(uint32_t port, int backlog)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s_%u", path, port);
	cr_assert_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	cr_assert_eq(listen(fd, backlog), 0);
	return fd;
}

static void stop_listening(int fd, uint32_t port)
{
	char p[128];

	snprintf(p, sizeof(p), "%s_%u", path, port);
	close(fd);
	unlink(p);
}

static int client(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	cr_assert_eq(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	driver_run(&g);
	return fd;
}

static void say(int fd, const char *text)
{
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	driver_run(&g);
}

static void hears(int fd, const char *text)
{
	char buf[100];
	ssize_t n = read(fd, buf, sizeof(buf) - 1);

	cr_assert_geq(n, 0, "%s", strerror(errno));
	buf[n] = '\0';
	cr_assert_str_eq(buf, text);
}

static bool is_closed(int fd)
{
	char c;

	return recv(fd, &c, 1, MSG_PEEK) == 0 || (errno != EAGAIN);
}

/* A connection of a client to guest port 52. */
static int connected(uint32_t *host_port)
{
	int fd = client();
	char ok[32];

	say(fd, "CONNECT 52\n");
	*host_port = expect(VSOCK_OP_REQUEST).src_port;
	guest_send(*host_port, 52, VSOCK_OP_RESPONSE, NULL, 0);
	snprintf(ok, sizeof(ok), "OK %u\n", *host_port);
	hears(fd, ok);
	return fd;
}

/* --- tests --- */

Test(vsock, identity)
{
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_DEVICE_ID), 19);
	cr_assert_eq(driver_offered(&g), VIRTIO_FEATURES_COMMON);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_CONFIG), CID);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_CONFIG + 4), 0);
}

Test(vsock, host_connects_and_both_sides_talk)
{
	struct vsock_hdr h;
	char data[KIB(36)];
	uint32_t port;
	int fd;

	post(8, 4096);
	fd = connected(&port);
	cr_assert_eq(port, HOST_PORT);
	guest_send(port, 52, VSOCK_OP_RW, "from guest", 10);
	hears(fd, "from guest");
	say(fd, "from host");
	cr_assert(got(&h, data));
	cr_assert_eq(h.op, VSOCK_OP_RW);
	cr_assert_eq(h.src_port, port);
	cr_assert_eq(h.dst_port, 52);
	cr_assert_eq(h.fwd_cnt, 10);
	cr_assert_arr_eq(data, "from host", 9);
	cr_assert(driver_irq(&g));
	cr_assert_eq(metric_take(&v->count.rx_bytes_count), 9);
	cr_assert_eq(metric_take(&v->count.tx_bytes_count), 10);
	close(fd);
	driver_run(&g);
	h = expect(VSOCK_OP_SHUTDOWN);
	cr_assert_eq(h.flags, 3);
	guest_send(port, 52, VSOCK_OP_RST, NULL, 0);
	cr_assert_eq(v->conn_count, 0);
	cr_assert_null(g.loop.timers, "nothing pending, no timer");
	expect_nothing();
}

Test(vsock, connect_line_in_pieces_with_data_behind_it)
{
	struct vsock_hdr h;
	char data[KIB(36)];
	int fd = client();

	post(8, 4096);
	say(fd, "CONN");
	expect_nothing();
	say(fd, "ECT 52\nearly");
	h = expect(VSOCK_OP_REQUEST);
	expect_nothing();
	guest_send(h.src_port, 52, VSOCK_OP_RESPONSE, NULL, 0);
	hears(fd, "OK 1073741824\n");
	cr_assert(got(&h, data));
	cr_assert_eq(h.len, 5);
	cr_assert_arr_eq(data, "early", 5);
	close(fd);
}

Test(vsock, bad_connect_lines_are_hung_up)
{
	static const char *const bad[] = {"GET / HTTP/1.1\r\n",
					  "CONNECT\n",
					  "CONNECT \n",
					  "CONNECT x\n",
					  "CONNECT -1\n",
					  "CONNECT 4294967296\n",
					  "CONNECT 52 53\n",
					  "CONNECT 000000000000000000000000000000000000000052\n",
					  "\n",
					  "CONNECT52\n"};

	post(8, 4096);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		int fd = client();

		say(fd, bad[i]);
		cr_assert(is_closed(fd), "%s", bad[i]);
		close(fd);
	}
	expect_nothing();
	cr_assert_eq(v->conn_count, 0);
	cr_assert_eq(metric_take(&v->count.muxer_event_fails), ARRAY_SIZE(bad));
}

Test(vsock, client_that_leaves_early_leaves_nothing)
{
	int fd = client();

	close(fd);
	driver_run(&g);
	cr_assert_eq(v->conn_count, 0);
	post(4, 4096);
	fd = client();
	say(fd, "connect 52\r\n");
	expect(VSOCK_OP_REQUEST);
	close(fd);
	driver_run(&g);
	expect(VSOCK_OP_RST);
	cr_assert_eq(v->conn_count, 0);
	cr_assert_null(g.loop.timers);
}

Test(vsock, guest_refuses)
{
	int fd = client();
	struct vsock_hdr h;

	post(4, 4096);
	say(fd, "CONNECT 52\n");
	h = expect(VSOCK_OP_REQUEST);
	guest_send(h.src_port, 52, VSOCK_OP_RST, NULL, 0);
	cr_assert(is_closed(fd));
	cr_assert_eq(v->conn_count, 0);
	close(fd);
}

Test(vsock, guest_connects)
{
	int l = listen_at(7, 4), fd;

	post(4, 4096);
	guest_send(7, 1000, VSOCK_OP_REQUEST, NULL, 0);
	expect(VSOCK_OP_RESPONSE);
	fd = accept4(l, NULL, NULL, SOCK_NONBLOCK);
	guest_send(7, 1000, VSOCK_OP_RW, "hello", 5);
	hears(fd, "hello");
	guest_send(8, 1000, VSOCK_OP_REQUEST, NULL, 0);
	cr_assert_eq(expect(VSOCK_OP_RST).src_port, 8, "nobody listens");
	cr_assert_eq(v->conn_count, 1);
	close(fd);
	stop_listening(l, 7);
}

Test(vsock, full_backlog_is_tried_again)
{
	int l = listen_at(7, 0), a, b;

	post(8, 4096);
	guest_send(7, 1000, VSOCK_OP_REQUEST, NULL, 0);
	expect(VSOCK_OP_RESPONSE);
	guest_send(7, 1001, VSOCK_OP_REQUEST, NULL, 0);
	guest_send(7, 1002, VSOCK_OP_REQUEST, NULL, 0);
	expect_nothing();
	cr_assert(v->retry.armed);
	a = accept(l, NULL, NULL);
	g.loop.timers->at_ns = 0;
	driver_run(&g);
	expect(VSOCK_OP_RESPONSE);
	expect_nothing();
	b = accept(l, NULL, NULL);
	g.loop.timers->at_ns = 0;
	driver_run(&g);
	expect(VSOCK_OP_RESPONSE);
	cr_assert_not(v->answers.timer.armed);
	close(a);
	close(b);
	stop_listening(l, 7);
}

Test(vsock, nobody_accepts_in_time)
{
	int l = listen_at(7, 0), fd;

	post(8, 4096);
	guest_send(7, 1000, VSOCK_OP_REQUEST, NULL, 0);
	expect(VSOCK_OP_RESPONSE);
	guest_send(7, 1001, VSOCK_OP_REQUEST, NULL, 0);
	fd = client();
	say(fd, "CONNECT 52\n");
	expect(VSOCK_OP_REQUEST);
	for (struct vsock_conn *c = TAILQ_FIRST(&v->answers.list); c; c = TAILQ_NEXT(c, waiting))
		c->deadline_ns = 0;
	loop_timer_set(&g.loop, &v->answers.timer, 0);
	driver_run(&g);
	expect(VSOCK_OP_RST);
	expect(VSOCK_OP_RST);
	cr_assert(is_closed(fd));
	cr_assert_eq(v->conn_count, 1);
	cr_assert_eq(metric_take(&v->count.conns_killed), 2);
	close(fd);
	stop_listening(l, 7);
}

Test(vsock, data_is_cut_to_the_guests_buffers)
{
	char out[5000], in[KIB(36)];
	struct vsock_hdr h;
	uint32_t port, at = 0;
	int fd;

	post(2, 1000);
	fd = connected(&port);
	for (unsigned i = 0; i < sizeof(out); i++)
		out[i] = (char)(i * 7 + i / 256);
	cr_assert_eq(write(fd, out, sizeof(out)), (ssize_t)sizeof(out));
	driver_run(&g);
	while (at < sizeof(out)) {
		if (!got(&h, in)) {
			post(3, 700);
			continue;
		}
		cr_assert_eq(h.op, VSOCK_OP_RW);
		cr_assert_arr_eq(in, out + at, h.len);
		at += h.len;
	}
	cr_assert_eq(at, sizeof(out));
	expect_nothing();
	close(fd);
}

Test(vsock, header_and_data_in_odd_pieces)
{
	gpa_t at = driver_alloc(&g, 256);
	const struct driver_buf in[] = {{at, 7, true},
					{at + 7, 0, true},
					{at + 7, 30, true},
					{at + 37, 10, true},
					{at + 47, 50, true}};
	struct driver_buf out[60];
	struct vsock_hdr h;
	uint32_t port, head, len;
	int fd;

	post(1, 100);
	fd = connected(&port);
	driver_add(&g, RX, in, 5);
	driver_kick(&g, RX);
	say(fd, "0123456789");
	cr_assert(driver_used(&g, RX, &head, &len));
	cr_assert_eq(len, 54);
	cr_assert_arr_eq(driver_ptr(&g, at + 44, 10), "0123456789", 10);
	memcpy(&h, driver_ptr(&g, at, 44), 44);
	cr_assert_eq(h.len, 10);
	cr_assert_eq(h.op, VSOCK_OP_RW);

	h = header(port, 52, VSOCK_OP_RW);
	h.len = 9;
	memcpy(driver_ptr(&g, at, 44), &h, 44);
	memcpy(driver_ptr(&g, at + 44, 9), "abcdefghi", 9);
	for (unsigned i = 0; i < 53; i++)
		out[i] = (struct driver_buf){at + i, 1, false};
	driver_add_indirect(&g, TX, out, 53, NULL);
	driver_kick(&g, TX);
	hears(fd, "abcdefghi");
	close(fd);
}

/* No news of credit came for a while. */
static void patience_ends(void)
{
	struct vsock_conn *c;

	cr_assert(v->news.timer.armed);
	TAILQ_FOREACH(c, &v->news.list, waiting)
	c->deadline_ns = 0;
	loop_timer_set(&g.loop, &v->news.timer, 0);
	driver_run(&g);
}

Test(vsock, the_guests_credit_is_kept_to)
{
	struct vsock_hdr h;
	char data[KIB(36)];
	uint32_t port;
	int fd;

	my_alloc = 4;
	post(10, 4096);
	fd = connected(&port);
	say(fd, "0123456789");
	cr_assert(got(&h, data));
	cr_assert_eq(h.len, 4);
	expect_nothing();
	patience_ends();
	expect(VSOCK_OP_CREDIT_REQUEST);
	expect_nothing();
	cr_assert_not(v->news.timer.armed, "asked once");
	guest_send(port, 52, VSOCK_OP_CREDIT_UPDATE, NULL, 0);
	expect_nothing();
	my_fwd = 3;
	guest_send(port, 52, VSOCK_OP_CREDIT_UPDATE, NULL, 0);
	cr_assert(got(&h, data));
	cr_assert_eq(h.len, 3);
	cr_assert_arr_eq(data, "456", 3);
	expect_nothing();
	patience_ends();
	expect(VSOCK_OP_CREDIT_REQUEST);
	/* Lies: more taken than was ever sent, and a window that shrinks below what is under way. */
	my_fwd = 100;
	guest_send(port, 52, VSOCK_OP_CREDIT_UPDATE, NULL, 0);
	expect_nothing();
	my_fwd = 7;
	my_alloc = UINT32_MAX;
	guest_send(port, 52, VSOCK_OP_CREDIT_REQUEST, NULL, 0);
	cr_assert(got(&h, data));
	cr_assert_eq(h.op, VSOCK_OP_RW, "which carries our credit too");
	cr_assert_eq(h.len, 3);
	cr_assert_arr_eq(data, "789", 3);
	expect_nothing();
	close(fd);
}

static uint32_t got_bytes(void)
{
	struct vsock_hdr h;
	uint32_t bytes = 0;

	while (got(&h, NULL)) {
		cr_assert_eq(h.op, VSOCK_OP_RW);
		bytes += h.len;
	}
	return bytes;
}

/* The guest has taken so much since the start. */
static void tell(uint32_t port, uint32_t fwd)
{
	my_fwd = fwd;
	guest_send(port, 52, VSOCK_OP_CREDIT_UPDATE, NULL, 0);
}

Test(vsock, a_fast_stream_waits_for_a_guest_that_is_bound_to_tell)
{
	static const char much[KIB(120)];
	uint32_t port;
	int fd;

	my_alloc = KIB(32);
	post(RX_BUFS, KIB(32));
	fd = connected(&port);
	cr_assert_eq(write(fd, much, sizeof(much)), (ssize_t)sizeof(much));
	driver_run(&g);
	cr_expect_eq(got_bytes(), KIB(32));
	tell(port, KIB(4));
	cr_expect_eq(got_bytes(), 0, "less than a quarter");
	tell(port, KIB(8));
	cr_expect_eq(got_bytes(), KIB(8));
	patience_ends();
	expect(VSOCK_OP_CREDIT_REQUEST);
	tell(port, KIB(12));
	cr_expect_eq(got_bytes(), KIB(4), "as it was asked, maybe this is all that it tells");
	tell(port, KIB(44));
	cr_expect_eq(got_bytes(), KIB(32));
	tell(port, KIB(48));
	cr_expect_eq(got_bytes(), 0);
	patience_ends();
	cr_expect_eq(got_bytes(), KIB(4), "better a little than nothing");
	guest_send(port, 52, VSOCK_OP_RST, NULL, 0);
	cr_expect_not(v->news.timer.armed);
	close(fd);
}

Test(vsock, a_fast_stream_waits_until_a_guest_that_tells_has_read_nearly_all)
{
	static const char much[KIB(120)];
	uint32_t port;
	int fd;

	my_alloc = KIB(128);
	post(RX_BUFS, KIB(32));
	fd = connected(&port);
	say(fd, "a little");
	cr_expect_eq(got_bytes(), 8);
	tell(port, 8);
	cr_assert_eq(write(fd, much, KIB(50)), KIB(50));
	driver_run(&g);
	cr_expect_eq(got_bytes(), KIB(50));
	cr_assert_eq(write(fd, much, KIB(10)), KIB(10));
	driver_run(&g);
	cr_expect_eq(got_bytes(), 0, "it has more than a quarter of its window");
	cr_expect(v->conn[0].watched & EPOLLIN);
	say(fd, "more");
	cr_expect_not(v->conn[0].watched & EPOLLIN, "it is known by now");
	tell(port, 8 + KIB(17));
	cr_expect_eq(got_bytes(), 0);
	tell(port, 8 + KIB(18));
	cr_expect_eq(got_bytes(), KIB(10) + 4);
	cr_expect(v->conn[0].watched & EPOLLIN, "there was no more");
	say(fd, "x");
	cr_expect_eq(got_bytes(), 1);
	close(fd);
	driver_run(&g);
	expect(VSOCK_OP_SHUTDOWN);
}

static uint8_t pattern(uint32_t i)
{
	return (uint8_t)(i ^ i >> 8 ^ i >> 15);
}

static void fill(uint8_t *buf, uint32_t from, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++)
		buf[i] = pattern(from + i);
}

/* Sends what is allowed of [0, max) to a host that does not read. Returns how much went. */
static uint32_t stuff(uint32_t port, uint32_t max)
{
	static uint8_t buf[KIB(64)];
	uint32_t sent = 0, fwd = 0, alloc = (uint32_t)VSOCK_BIG_ALLOC;
	struct vsock_hdr h;

	while (sent < max && alloc - (sent - fwd) > 0) {
		uint32_t len = MIN((uint32_t)sizeof(buf), alloc - (sent - fwd));

		len = MIN(len, max - sent);
		fill(buf, sent, len);
		guest_send(port, 52, VSOCK_OP_RW, buf, len);
		sent += len;
		while (got(&h, NULL)) {
			cr_assert_neq(h.op, VSOCK_OP_RST);
			fwd = h.fwd_cnt;
			alloc = h.buf_alloc;
			post(1, 4096);
		}
	}
	return sent;
}

/* Reads until nothing comes; compares with the pattern from *at on. */
static void drain(int fd, uint32_t *at)
{
	static uint8_t buf[30011];
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		for (ssize_t i = 0; i < n; i++)
			cr_assert_eq(buf[i], pattern(*at + (uint32_t)i), "at %u", *at);
		*at += (uint32_t)n;
		driver_run(&g);
	}
}

Test(vsock, host_that_does_not_read_stops_the_guest_and_nothing_is_lost)
{
	uint32_t port, sent, at = 0;
	int fd;

	post(8, 4096);
	fd = connected(&port);
	sent = stuff(port, UINT32_MAX);
	cr_assert_gt(sent, VSOCK_BIG_ALLOC);
	cr_assert(v->conn[0].watched & EPOLLOUT);
	drain(fd, &at);
	cr_assert_eq(at, sent);
	cr_assert_not(v->conn[0].watched & EPOLLOUT);
	cr_assert_eq(v->conn[0].passed, sent);
	close(fd);
}

Test(vsock, more_than_was_promised_is_the_end)
{
	static uint8_t more[KIB(64)];
	struct vsock_hdr h;
	uint32_t port;
	int fd;

	post(8, 4096);
	fd = connected(&port);
	cr_assert_gt(stuff(port, UINT32_MAX), 0);
	while (got(&h, NULL))
		;
	post(2, 4096);
	/* The guest may not know yet what was passed on: less than half of what it may send. */
	for (unsigned i = 0; i < 3; i++)
		guest_send(port, 52, VSOCK_OP_RW, more, sizeof(more));
	do {
		cr_assert(got(&h, NULL));
	} while (h.op == VSOCK_OP_CREDIT_UPDATE);
	cr_assert_eq(h.op, VSOCK_OP_RST);
	driver_run(&g);
	while (got(&h, NULL))
		cr_assert_eq(h.op, VSOCK_OP_RST, "for a connection that is gone");
	cr_assert_eq(v->conn_count, 0);
	close(fd);
}

Test(vsock, guest_closes_and_what_it_sent_still_arrives)
{
	uint32_t port, sent, at = 0;
	struct vsock_hdr h;
	int fd;

	post(8, 4096);
	fd = connected(&port);
	sent = stuff(port, KIB(400));
	while (got(&h, NULL))
		;
	post(4, 4096);
	guest_shutdown(port, 52, 3);
	expect(VSOCK_OP_RST);
	cr_assert_null(vsock_mux_find(v, port, 52), "the ports are free");
	cr_assert_eq(v->conn_count, 1);
	drain(fd, &at);
	cr_assert_eq(at, sent);
	cr_assert(is_closed(fd));
	cr_assert_eq(v->conn_count, 0);
	expect_nothing();
	close(fd);
}

Test(vsock, host_dies_while_bytes_are_kept_for_it)
{
	uint32_t port;
	struct vsock_hdr h;
	int fd;

	post(8, 4096);
	fd = connected(&port);
	stuff(port, UINT32_MAX);
	while (got(&h, NULL))
		;
	post(6, 4096);
	close(fd);
	driver_run(&g);
	while (got(&h, NULL))
		if (h.op == VSOCK_OP_SHUTDOWN)
			break;
	cr_assert_eq(h.op, VSOCK_OP_SHUTDOWN);
	cr_assert_eq(h.flags, 3);
	guest_send(port, 52, VSOCK_OP_RW, "unheard", 7);
	guest_shutdown(port, 52, 3);
	expect(VSOCK_OP_RST);
	cr_assert_eq(v->conn_count, 0);
	cr_assert_null(g.loop.timers);
}

Test(vsock, half_close_by_the_guest)
{
	struct vsock_hdr h;
	char data[KIB(36)];
	uint32_t port;
	int fd;

	post(8, 4096);
	fd = connected(&port);
	guest_send(port, 52, VSOCK_OP_RW, "last", 4);
	guest_shutdown(port, 52, 2);
	hears(fd, "last");
	hears(fd, "");
	say(fd, "reply");
	cr_assert(got(&h, data));
	cr_assert_eq(h.len, 5);
	close(fd);
	driver_run(&g);
	cr_assert_eq(expect(VSOCK_OP_SHUTDOWN).flags, 3);
	guest_send(port, 52, VSOCK_OP_RST, NULL, 0);
	cr_assert_eq(v->conn_count, 0);
}

Test(vsock, half_close_by_the_host)
{
	uint32_t port;
	int fd;

	post(8, 4096);
	fd = connected(&port);
	cr_assert_eq(write(fd, "last", 4), 4);
	shutdown(fd, SHUT_WR);
	driver_run(&g);
	cr_assert_eq(expect(VSOCK_OP_RW).len, 4);
	cr_assert_eq(expect(VSOCK_OP_SHUTDOWN).flags, 2);
	cr_assert_null(g.loop.timers, "half a shutdown waits for nobody");
	guest_send(port, 52, VSOCK_OP_RW, "answer", 6);
	hears(fd, "answer");
	guest_shutdown(port, 52, 3);
	expect(VSOCK_OP_RST);
	hears(fd, "");
	cr_assert_eq(v->conn_count, 0);
	close(fd);
}

Test(vsock, guest_that_does_not_read_any_more)
{
	uint32_t port;
	int fd;

	post(8, 4096);
	fd = connected(&port);
	guest_shutdown(port, 52, 1);
	cr_assert_eq(send(fd, "x", 1, MSG_NOSIGNAL), -1);
	cr_assert_eq(errno, EPIPE);
	guest_send(port, 52, VSOCK_OP_RW, "still", 5);
	hears(fd, "still");
	close(fd);
	driver_run(&g);
	cr_assert_eq(expect(VSOCK_OP_SHUTDOWN).flags, 3);
	guest_shutdown(port, 52, 3);
	expect(VSOCK_OP_RST);
	cr_assert_eq(v->conn_count, 0);
}

Test(vsock, shutdown_without_an_answer_ends_by_the_clock)
{
	uint32_t port;
	int fd;

	post(8, 4096);
	fd = connected(&port);
	close(fd);
	driver_run(&g);
	expect(VSOCK_OP_SHUTDOWN);
	cr_assert(v->answers.timer.armed);
	v->conn[0].deadline_ns = 0;
	loop_timer_set(&g.loop, &v->answers.timer, 0);
	driver_run(&g);
	expect(VSOCK_OP_RST);
	cr_assert_eq(v->conn_count, 0);
	cr_assert_null(g.loop.timers);
}

Test(vsock, lies_in_headers)
{
	uint32_t port;
	struct vsock_hdr h;
	int fd;

	post(12, 4096);
	fd = connected(&port);
	h = header(port, 52, VSOCK_OP_RW);
	h.len = 100;
	send_raw(&h, "x", 1);
	h.len = UINT32_MAX;
	send_raw(&h, "x", 1);
	h = header(port, 52, VSOCK_OP_RST);
	h.src_cid = CID + 1;
	send_raw(&h, NULL, 0);
	h = header(port, 52, VSOCK_OP_RST);
	h.dst_cid = 0;
	send_raw(&h, NULL, 0);
	driver_add(&g, TX, (struct driver_buf[]){{tx_at, 43, false}}, 1);
	driver_add(&g, TX, (struct driver_buf[]){{tx_at, 44, true}}, 1);
	driver_kick(&g, TX);
	expect_nothing();
	cr_assert_eq(metric_take(&v->count.tx_queue_event_fails), 6);
	for (unsigned i = 0; i < 6; i++)
		cr_assert(driver_used(&g, TX, NULL, NULL));
	h = header(port, 52, VSOCK_OP_RW);
	h.type = 2;
	send_raw(&h, NULL, 0);
	cr_assert(driver_used(&g, TX, NULL, NULL));
	h = expect(VSOCK_OP_RST);
	cr_assert_eq(h.type, 2);
	guest_send(port, 53, VSOCK_OP_RW, "y", 1);
	cr_assert_eq(expect(VSOCK_OP_RST).dst_port, 53);
	guest_send(port, 53, VSOCK_OP_RST, NULL, 0);
	expect_nothing();
	cr_assert_eq(v->conn_count, 1);
	guest_send(port, 52, VSOCK_OP_RW, "fine", 4);
	hears(fd, "fine");
	guest_send(port, 52, 77, NULL, 0);
	expect(VSOCK_OP_RST);
	cr_assert(is_closed(fd));
	cr_assert_not(driver_broken(&g));
	close(fd);
}

Test(vsock, packets_out_of_order_end_the_connection)
{
	int l = listen_at(7, 4), fd;
	uint32_t port;

	post(12, 4096);
	guest_send(7, 1000, VSOCK_OP_REQUEST, NULL, 0);
	expect(VSOCK_OP_RESPONSE);
	guest_send(7, 1000, VSOCK_OP_REQUEST, NULL, 0);
	expect(VSOCK_OP_RST);
	guest_send(7, 1000, VSOCK_OP_REQUEST, NULL, 0);
	expect(VSOCK_OP_RESPONSE);
	guest_send(7, 1000, VSOCK_OP_RESPONSE, NULL, 0);
	expect(VSOCK_OP_RST);
	fd = client();
	say(fd, "CONNECT 52\n");
	port = expect(VSOCK_OP_REQUEST).src_port;
	guest_send(port, 52, VSOCK_OP_RW, "too early", 9);
	expect(VSOCK_OP_RST);
	close(fd);
	fd = connected(&port);
	guest_shutdown(port, 52, 2);
	guest_send(port, 52, VSOCK_OP_RW, "too late", 8);
	expect(VSOCK_OP_RST);
	cr_assert_eq(v->conn_count, 0);
	close(fd);
	stop_listening(l, 7);
}

Test(vsock, rx_buffers_without_room_are_given_back)
{
	int fd = client();
	uint32_t len;

	say(fd, "CONNECT 52\n");
	driver_add(&g, RX, (struct driver_buf[]){{rx_at, 43, true}}, 1);
	driver_add(&g, RX, (struct driver_buf[]){{rx_at, 4096, false}}, 1);
	driver_kick(&g, RX);
	cr_assert(driver_used(&g, RX, NULL, &len));
	cr_assert_eq(len, 0);
	cr_assert(driver_used(&g, RX, NULL, &len));
	cr_assert_eq(len, 0);
	post(1, 100);
	expect(VSOCK_OP_REQUEST);
	cr_assert_eq(metric_take(&v->count.rx_queue_event_fails), 2);
	close(fd);
}

Test(vsock, without_rx_buffers_the_tx_queue_waits)
{
	struct vsock_hdr h = header(1, 1, VSOCK_OP_RW);
	unsigned sent = 0, resets = 0;

	memcpy(driver_ptr(&g, tx_at, sizeof(h)), &h, sizeof(h));
	for (unsigned round = 0; round < 20; round++) {
		for (unsigned i = 0; i < 4; i++, sent++)
			driver_add(&g, TX, (struct driver_buf[]){{tx_at, 44, false}}, 1);
		driver_kick(&g, TX);
		while (driver_used(&g, TX, NULL, NULL))
			;
	}
	cr_assert_eq(v->orphan_count, VSOCK_ORPHANS_MAX);
	cr_assert_eq(g.queue[TX].used_idx, VSOCK_ORPHANS_MAX);
	while (resets < sent) {
		post(8, 100);
		for (unsigned i = 0; i < 8; i++, resets++)
			expect(VSOCK_OP_RST);
	}
	cr_assert_eq(sent, 80);
	driver_run(&g);
	while (driver_used(&g, TX, NULL, NULL))
		;
	cr_assert_eq(g.queue[TX].used_idx, 80);
}

Test(vsock, reset_of_the_device_hangs_up)
{
	uint32_t port;
	int fd, other;

	post(4, 4096);
	fd = connected(&port);
	other = client();
	driver_write(&g, VIRTIO_MMIO_STATUS, 0);
	driver_run(&g);
	cr_assert(is_closed(fd));
	cr_assert(is_closed(other));
	cr_assert_eq(v->conn_count, 0);
	close(fd);
	close(other);
	driver_start(&g, VIRTIO_FEATURES_COMMON);
	post(4, 4096);
	fd = connected(&port);
	cr_assert_eq(port, HOST_PORT + 1);
	/* The reset is seen by whatever comes first. */
	driver_write(&g, VIRTIO_MMIO_STATUS, 0);
	say(fd, "to nobody");
	driver_start(&g, VIRTIO_FEATURES_COMMON);
	cr_assert(is_closed(fd));
	close(fd);
}

Test(vsock, broken_rings_need_a_reset)
{
	uint32_t port;
	int fd;

	post(4, 4096);
	fd = connected(&port);
	driver_publish(&g, TX, DRIVER_QUEUE_SIZE);
	driver_kick(&g, TX);
	cr_assert(driver_broken(&g));
	say(fd, "nothing happens");
	driver_start(&g, VIRTIO_FEATURES_COMMON);
	driver_publish(&g, RX, DRIVER_QUEUE_SIZE);
	close(fd);
	fd = client();
	say(fd, "CONNECT 52\n");
	cr_assert(driver_broken(&g));
	cr_assert_eq(metric_take(&v->count.rx_queue_event_fails), 1);
	close(fd);
}

Test(vsock, transport_reset_event)
{
	gpa_t at = driver_alloc(&g, 16);
	uint32_t port, len, *id = driver_ptr(&g, at, 4);
	int fd;

	post(4, 4096);
	fd = connected(&port);
	*id = 77;
	vsock_transport_reset(g.mmio.dev);
	cr_assert(is_closed(fd));
	cr_assert_eq(v->state.reset_owed, 1);
	driver_add(&g, EVENT, (struct driver_buf[]){{at, 2, true}}, 1);
	driver_add(&g, EVENT, (struct driver_buf[]){{at, 4, true}}, 1);
	driver_kick(&g, EVENT);
	cr_assert(driver_used(&g, EVENT, NULL, &len));
	cr_assert_eq(len, 0, "no room for it");
	cr_assert(driver_used(&g, EVENT, NULL, &len));
	cr_assert_eq(len, 4);
	cr_assert_eq(*id, 0);
	cr_assert_eq(v->state.reset_owed, 0);
	close(fd);
}

/* A driver that deals with the event later than with a request for a connection would reset that too. */
Test(vsock, a_connection_waits_until_a_transport_reset_was_seen)
{
	gpa_t at = driver_alloc(&g, 16);
	int fd;

	post(4, 4096);
	for (unsigned i = 0; i < 4; i++)
		driver_add(&g, EVENT, (struct driver_buf[]){{at, 4, true}}, 1);
	vsock_transport_reset(g.mmio.dev);
	cr_assert(driver_used(&g, EVENT, NULL, NULL));
	fd = client();
	say(fd, "CONNECT 52\n");
	expect_nothing();
	driver_kick(&g, EVENT);
	expect_nothing();
	driver_add(&g, EVENT, (struct driver_buf[]){{at, 4, true}}, 1);
	cr_assert(driver_wants_kick(&g, EVENT));
	driver_kick(&g, EVENT);
	expect(VSOCK_OP_REQUEST);
	/* One that never gives a buffer back is not waited for without end. */
	vsock_transport_reset(g.mmio.dev);
	close(fd);
	fd = client();
	say(fd, "CONNECT 53\n");
	expect_nothing();
	usleep(1050000);
	driver_run(&g);
	expect(VSOCK_OP_REQUEST);
	close(fd);
}

Test(vsock, data_behind_a_passed_descriptor_is_not_lost)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {.h = {.cmsg_len = CMSG_LEN(sizeof(int)),
			   .cmsg_level = SOL_SOCKET,
			   .cmsg_type = SCM_RIGHTS}};
	struct iovec iov = {"first", 5};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = &control,
			   .msg_controllen = sizeof(control)};
	struct vsock_hdr h;
	char in[KIB(36)];
	uint32_t port;
	int fd;

	post(8, 4096);
	fd = connected(&port);
	*(int *)(void *)CMSG_DATA(&control.h) = fd;
	cr_assert_eq(sendmsg(fd, &m, 0), 5);
	cr_assert_eq(write(fd, "second", 6), 6);
	driver_run(&g);
	cr_assert(got(&h, in));
	cr_assert_arr_eq(in, "first", 5);
	cr_assert(got(&h, in));
	cr_assert_arr_eq(in, "second", 6);
	close(fd);
}

Test(vsock, table_full)
{
	int fd;

	while (vsock_mux_add(v, VSOCK_HANDSHAKE, -1))
		;
	cr_assert_eq(v->conn_count, VSOCK_CONNS_MAX);
	cr_assert_eq(v->conn[VSOCK_CONNS_MAX - 1].kept + VSOCK_ALLOC - v->kept,
		     64 * KIB(208) + 959 * KIB(64));
	memset(v->conn[VSOCK_CONNS_MAX - 1].kept, 1, VSOCK_ALLOC);
	post(1, 4096);
	guest_send(7, 1000, VSOCK_OP_REQUEST, NULL, 0);
	expect(VSOCK_OP_RST);
	fd = client();
	cr_assert(is_closed(fd));
	close(fd);
	vsock_mux_free(&v->conn[500]);
	fd = client();
	cr_assert_eq(v->conn[500].state, VSOCK_HANDSHAKE);
	cr_assert_not(is_closed(fd));
	close(fd);
}

static uint32_t seed = 1;
static uint32_t rnd(uint32_t below)
{
	seed = seed * 1103515245 + 12345;
	return (seed >> 8) % below;
}

/* Random sizes, times and buffers in both directions at once; every byte is compared. */
Test(vsock, both_ways_at_random)
{
	static uint8_t buf[KIB(64)];
	const uint32_t total = KIB(1500);
	uint32_t port, up = 0, up_at = 0, down = 0, down_at = 0, fwd = 0;
	struct vsock_hdr h;
	unsigned posted;
	int fd;

	my_alloc = KIB(48);
	post(1, 2000);
	fd = connected(&port);
	posted = 0;
	while (up_at < total || down_at < total) {
		uint32_t len;

		switch (rnd(5)) {
		case 0:
			len = MIN(rnd(KIB(64)) + 1, (uint32_t)VSOCK_BIG_ALLOC - (up - fwd));
			len = MIN(len, total - up);
			fill(buf, up, len);
			guest_send(port, 52, VSOCK_OP_RW, buf, len);
			up += len;
			break;
		case 1:
			if (rnd(2))
				drain(fd, &up_at);
			break;
		case 2:
			len = MIN(rnd(KIB(60)), total - down);
			fill(buf, down, len);
			ssize_t n = write(fd, buf, len);

			down += n > 0 ? (uint32_t)n : 0;
			driver_run(&g);
			break;
		case 3:
			if (posted < RX_BUFS) {
				len = rnd(RX_BUFS - posted) + 1;
				post(len, rnd(KIB(33)) + 1);
				posted += len;
			}
			break;
		default:
			while (got(&h, buf)) {
				cr_assert_neq(h.op, VSOCK_OP_RST);
				posted--;
				fwd = h.fwd_cnt;
				for (uint32_t i = 0; i < h.len; i++)
					cr_assert_eq(buf[i], pattern(down_at + i));
				down_at += h.len;
			}
			my_fwd = down_at - (rnd(2) ? MIN(down_at, rnd(KIB(40))) : 0);
			guest_send(port, 52, VSOCK_OP_CREDIT_UPDATE, NULL, 0);
		}
	}
	cr_assert_eq(v->conn_count, 1);
	close(fd);
}

Test(vsock, listener_takes_no_path_that_exists_and_removes_only_its_own)
{
	struct vsock_listener other, l = {.fd = -1};
	struct err e;
	char p[100], far[200];

	snprintf(p, sizeof(p), "%s/other", dir);
	cr_assert_eq(vsock_listener_open(&other, path, &e), -EADDRINUSE);
	cr_assert_eq(vsock_listener_open(&other, p, &e), 0);
	unlink(p);
	cr_assert_eq(vsock_listener_open(&l, p, &e), 0);
	vsock_listener_close(&other, p);
	cr_assert_eq(access(p, F_OK), 0, "that one is not ours");
	vsock_listener_close(&l, p);
	cr_assert_neq(access(p, F_OK), 0);
	memset(far, 'x', sizeof(far) - 1);
	far[sizeof(far) - 1] = '\0';
	cr_assert_eq(vsock_listener_open(&l, far, &e), -ENAMETOOLONG);
	vsock_listener_close(&l, p);
}

/* What a snapshot does: the state goes out and comes back, and the guest is told. */
Test(vsock, saved_and_restored)
{
	const struct virtio_ops *ops = g.mmio.dev->ops;
	gpa_t at = driver_alloc(&g, 16);
	uint64_t cid = CID;
	struct wire w, r;
	uint32_t port;
	int fd;

	post(4, 4096);
	fd = connected(&port);
	close(fd);
	wire_writer(&w, 1);
	ops->wire(g.mmio.dev, &w);
	driver_start(&g, VIRTIO_FEATURES_COMMON);
	driver_run(&g);
	v->state = (struct vsock_state){0};
	wire_reader(&r, w.buf, w.pos, 1);
	ops->wire(g.mmio.dev, &r);
	cr_assert_eq(wire_end(&r), 0);
	wire_finish(&w);
	cr_assert_eq(ops->check(g.mmio.dev, &cid, sizeof(cid), NULL), 0);
	driver_add(&g, EVENT, (struct driver_buf[]){{at, 8, true}}, 1);
	cr_assert_eq(ops->activate(g.mmio.dev), 0);
	cr_assert(driver_used(&g, EVENT, NULL, NULL));
	post(4, 4096);
	driver_add(&g, EVENT, (struct driver_buf[]){{at, 8, true}}, 1);
	driver_kick(&g, EVENT); /* it was seen */
	fd = connected(&port);
	cr_assert_eq(port, HOST_PORT + 1, "no port is used again");
	close(fd);
	cid++;
	cr_assert_eq(ops->check(g.mmio.dev, &cid, sizeof(cid), NULL), -EINVAL);
	cr_assert_eq(ops->check(g.mmio.dev, &cid, 4, NULL), -EINVAL);
}
