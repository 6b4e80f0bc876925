/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/lib/driver.h"
#include "tests/lib/frames.h"
#include "virtio/net.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

/* As the specification has them (section 5.1), on purpose not shared with the device. */
enum { RX = 0, TX = 1 };
#define F_CSUM	     (1ull << 0)
#define F_GUEST_CSUM (1ull << 1)
#define F_MTU	     (1ull << 3)
#define F_MAC	     (1ull << 5)
#define F_GUEST_TSO4 (1ull << 7)
#define F_HOST_TSO4  (1ull << 11)
#define F_MRG_RXBUF  (1ull << 15)
#define F_STATUS     (1ull << 16)
#define F_CTRL_VQ    (1ull << 17)
#define F_MQ	     (1ull << 22)
#define HDR	     12u

/* A backend whose other end is in the test's hand: a socket that keeps frames apart. */
struct fake {
	struct netbackend b;
	int peer[NETBACKEND_PAIRS_MAX];
	uint64_t features;
	unsigned pairs, configured;
	int fail_send;	/* -errno */
	unsigned sends; /* calls */
	unsigned recvs;
	bool answers; /* each frame comes back while it is sent */
	bool gone;
};

static struct driver g;
static struct virtio_device *dev;
static struct net_metrics *count;
static struct fake *fake;
static bool destroyed;

static int32_t fake_next(struct netbackend *b, unsigned pair)
{
	(void)pair;
	return CONTAINER_OF(b, struct fake, b)->gone ? -EBADFD : NETBACKEND_UNKNOWN;
}

static ssize_t fake_recv(struct netbackend *b, unsigned pair, const struct iovec *iov, int n)
{
	ssize_t r = readv(b->fd[pair], iov, n);

	CONTAINER_OF(b, struct fake, b)->recvs++;
	return r < 0 ? -errno : r;
}

static int fake_send(struct netbackend *b, unsigned pair, struct iovec *iov, int n, uint32_t len)
{
	struct fake *f = CONTAINER_OF(b, struct fake, b);

	(void)len;
	f->sends++;
	if (f->fail_send)
		return f->fail_send;
	if (f->answers)
		cr_assert_gt(writev(f->peer[pair], iov, n), 0);
	return writev(b->fd[pair], iov, n) < 0 ? -errno : 0;
}

static void fake_configure(struct netbackend *b, uint64_t features, unsigned pairs)
{
	struct fake *f = CONTAINER_OF(b, struct fake, b);

	f->features = features;
	f->pairs = pairs;
	f->configured++;
}

static void fake_destroy(struct netbackend *b)
{
	struct fake *f = CONTAINER_OF(b, struct fake, b);

	for (unsigned i = 0; i < b->pairs; i++) {
		close(b->fd[i]);
		close(f->peer[i]);
	}
	free(f);
	destroyed = true;
}

static const struct netbackend_ops fake_ops = {
	.next = fake_next,
	.recv = fake_recv,
	.send = fake_send,
	.configure = fake_configure,
	.destroy = fake_destroy,
};

static struct fake *fake_create(unsigned pairs, uint64_t offloads)
{
	struct fake *f = calloc(1, sizeof(*f));
	int s[2];

	cr_assert(f);
	f->b = (struct netbackend){.ops = &fake_ops, .offloads = offloads, .pairs = pairs};
	for (unsigned i = 0; i < pairs; i++) {
		cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, s), 0);
		setsockopt(s[1], SOL_SOCKET, SO_SNDBUF, &(int){1 << 20}, sizeof(int));
		f->b.fd[i] = s[0];
		f->peer[i] = s[1];
	}
	return f;
}

static void create(struct net_config cfg, unsigned pairs, uint64_t offloads)
{
	cfg.id = "eth0";
	driver_init(&g);
	fake = fake_create(pairs, offloads);
	dev = net_create(&cfg, &fake->b, &g.env, NULL);
	driver_attach(&g, dev);
	count = net_metrics(dev);
}

/* Everything anew, with these features beside the common ones. */
static void again(struct net_config cfg, unsigned pairs, uint64_t offloads, uint64_t features)
{
	driver_finish(&g);
	create(cfg, pairs, offloads);
	driver_start(&g, VIRTIO_FEATURES_COMMON | features);
}

static void start(void)
{
	log_set_level(LOG_OFF);
	create((struct net_config){.mac = frame_mac_a}, 1,
	       F_CSUM | F_GUEST_CSUM | F_HOST_TSO4 | F_GUEST_TSO4);
	driver_start(&g, VIRTIO_FEATURES_COMMON | F_MAC | F_MRG_RXBUF);
}

static void finish(void)
{
	driver_finish(&g);
}

TestSuite(net, .init = start, .fini = finish, .timeout = 60);

/* --- helpers --- */

/* Writes header and frame into guest memory; returns where. */
static gpa_t put_frame(const struct netframe_offload *o, const struct frame *f)
{
	gpa_t at = driver_alloc(&g, HDR + f->len);

	memset(driver_ptr(&g, at, HDR), 0, HDR);
	if (o)
		memcpy(driver_ptr(&g, at, HDR), o, HDR);
	memcpy(driver_ptr(&g, at + HDR, f->len), f->byte, f->len);
	return at;
}

static void add_tx(const struct netframe_offload *o, const struct frame *f)
{
	gpa_t at = put_frame(o, f);

	driver_add(&g, TX, (struct driver_buf[]){{at, HDR + f->len, false}}, 1);
}

static void send_one(const struct netframe_offload *o, const struct frame *f)
{
	add_tx(o, f);
	driver_kick(&g, TX);
	cr_assert(driver_used(&g, TX, NULL, NULL));
}

/* What the network got; 0 when nothing. */
static uint32_t network_got(unsigned pair, uint8_t *buf, size_t size)
{
	ssize_t r = read(fake->peer[pair], buf, size);

	return r < 0 ? 0 : (uint32_t)r;
}

static bool network_got_frame(const struct frame *f)
{
	uint8_t buf[HDR + FRAME_MAX_LEN];

	return network_got(0, buf, sizeof(buf)) == HDR + f->len &&
	       memcmp(buf + HDR, f->byte, f->len) == 0;
}

static bool network_got_nothing(void)
{
	uint8_t buf[HDR + FRAME_MAX_LEN];

	return network_got(0, buf, sizeof(buf)) == 0;
}

/* A frame comes from the network. */
static void arrive(unsigned pair, const struct frame *f)
{
	uint8_t buf[HDR + FRAME_MAX_LEN] = {0};

	memcpy(buf + HDR, f->byte, f->len);
	cr_assert_eq(write(fake->peer[pair], buf, HDR + f->len), (ssize_t)(HDR + f->len));
}

/* A frame larger than struct frame: each byte tells its place. */
static uint8_t pattern(uint32_t i)
{
	return (uint8_t)(i * 13 + (i >> 8));
}

static void arrive_large(uint32_t len)
{
	uint8_t *buf = calloc(1, HDR + len);

	for (uint32_t i = 0; i < len; i++)
		buf[HDR + i] = pattern(i);
	cr_assert_eq(write(fake->peer[0], buf, HDR + len), (ssize_t)(HDR + len));
	free(buf);
}

static gpa_t add_rx(uint32_t len)
{
	gpa_t at = driver_alloc(&g, len);

	memset(driver_ptr(&g, at, len), 0xee, len);
	driver_add(&g, RX, (struct driver_buf[]){{at, len, true}}, 1);
	return at;
}

static bool guest_has(gpa_t at, const struct frame *f)
{
	return memcmp(driver_ptr(&g, at + HDR, f->len), f->byte, f->len) == 0;
}

static unsigned num_buffers(gpa_t at)
{
	const uint8_t *p = driver_ptr(&g, at, HDR);

	return (unsigned)(p[10] | p[11] << 8);
}

static struct frame udp(void)
{
	struct frame f;

	frame_udp(&f, "10.0.0.2", 1000, "10.0.0.1", 53, 100);
	return f;
}

/* --- what it offers --- */

Test(net, identity_and_configuration)
{
	uint8_t mac[6];

	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_DEVICE_ID), 1);
	cr_assert_eq(driver_offered(&g), VIRTIO_FEATURES_COMMON | F_MAC | F_MRG_RXBUF | F_STATUS |
						 F_CSUM | F_GUEST_CSUM | F_HOST_TSO4 |
						 F_GUEST_TSO4);
	driver_read_bytes(&g, 0x100, mac, 4);
	driver_read_bytes(&g, 0x104, mac + 4, 2);
	cr_assert_arr_eq(mac, frame_mac_a, 6);
	cr_assert_eq(driver_read(&g, 0x104) >> 16, 1, "the link is up");
	driver_write(&g, 0x100, 0xffffffff);
	driver_read_bytes(&g, 0x100, mac, 4);
	cr_assert_arr_eq(mac, frame_mac_a, 4, "nothing is writable");
}

Test(net, features_follow_the_configuration)
{
	again((struct net_config){.mtu = 9000}, 1, 0, 0);
	cr_assert_eq(driver_offered(&g), VIRTIO_FEATURES_COMMON | F_MTU | F_MRG_RXBUF | F_STATUS);
	cr_assert_eq(driver_read(&g, 0x108) >> 16, 9000);
	again((struct net_config){0}, 3, 0, 0);
	cr_assert_eq(driver_offered(&g),
		     VIRTIO_FEATURES_COMMON | F_MRG_RXBUF | F_STATUS | F_CTRL_VQ | F_MQ);
	cr_assert_eq(driver_read(&g, 0x108) & 0xffff, 3);
}

Test(net, the_backend_learns_what_was_negotiated)
{
	cr_assert_eq(fake->configured, 0, "not by register accesses: they are on a vCPU's thread");
	driver_kick(&g, RX);
	cr_assert_eq(fake->configured, 1);
	cr_assert_eq(fake->features & F_GUEST_TSO4, 0);
	cr_assert_eq(fake->pairs, 1);
	driver_kick(&g, TX);
	cr_assert_eq(fake->configured, 1);
	driver_start(&g, VIRTIO_FEATURES_COMMON | F_CSUM | F_GUEST_CSUM | F_GUEST_TSO4);
	driver_kick(&g, RX);
	cr_assert_eq(fake->configured, 2);
	cr_assert_eq(fake->features & F_GUEST_TSO4, F_GUEST_TSO4);
}

Test(net, destroy_closes_the_backend)
{
	destroyed = false;
	driver_finish(&g);
	cr_assert(destroyed);
	start();
}

/* --- transmit --- */

Test(net, sends_frames_in_one_piece_whatever_the_buffers)
{
	struct frame f = udp();
	gpa_t at = put_frame(NULL, &f);
	uint32_t all = HDR + f.len;
	const struct driver_buf cut[][4] = {
		{{at, all, false}},
		{{at, HDR, false}, {at + HDR, f.len, false}},
		{{at, 1, false},
		 {at + 1, HDR + 5, false},
		 {at + HDR + 6, 0, false},
		 {at + HDR + 6, f.len - 6, false}},
		{{at, all - 1, false}, {at + all - 1, 1, false}},
	};
	static const unsigned parts[] = {1, 2, 4, 2};

	for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
		driver_add(&g, TX, cut[i], parts[i]);
		driver_kick(&g, TX);
		cr_assert(driver_used(&g, TX, NULL, NULL));
		cr_assert(network_got_frame(&f), "cut %u", i);
	}
	driver_add_indirect(&g, TX, cut[2], 4, NULL);
	driver_kick(&g, TX);
	cr_assert(network_got_frame(&f));
	cr_assert_eq(metric_take(&count->tx_packets_count), 5);
	cr_assert_eq(metric_take(&count->tx_bytes_count), 5 * f.len);
	cr_assert_eq(fake->sends, 5);
}

Test(net, a_byte_for_each_descriptor)
{
	struct frame f = udp();
	gpa_t at = put_frame(NULL, &f);
	struct driver_buf buf[VIRTQ_SIZE_MAX];
	uint32_t n = HDR + f.len;

	for (uint32_t i = 0; i < n; i++)
		buf[i] = (struct driver_buf){at + i, 1, false};
	driver_add_indirect(&g, TX, buf, n, NULL);
	driver_kick(&g, TX);
	cr_assert(network_got_frame(&f));
}

Test(net, a_full_queue_is_one_batch)
{
	struct frame f = udp();

	for (unsigned i = 0; i < DRIVER_QUEUE_SIZE; i++)
		add_tx(NULL, &f);
	driver_used_event(&g, TX, DRIVER_QUEUE_SIZE - 1);
	driver_kick(&g, TX);
	for (unsigned i = 0; i < DRIVER_QUEUE_SIZE; i++) {
		cr_assert(driver_used(&g, TX, NULL, NULL), "%u", i);
		cr_assert(network_got_frame(&f), "%u", i);
	}
	cr_assert(driver_irq(&g));
	cr_assert_not(driver_irq(&g));
	add_tx(NULL, &f);
	cr_assert(driver_wants_kick(&g, TX));
}

Test(net, the_header_goes_with_the_frame)
{
	struct frame f = udp();
	struct netframe_offload o = {
		.flags = 1, .csum_start = 34, .csum_offset = 6, .num_buffers = 7};
	uint8_t buf[HDR + FRAME_MAX_LEN];

	driver_start(&g, VIRTIO_FEATURES_COMMON | F_CSUM | F_MAC);
	send_one(&o, &f);
	cr_assert_eq(network_got(0, buf, sizeof(buf)), HDR + f.len);
	cr_assert_eq(memcmp(buf, &o, 10), 0);
}

Test(net, malformed_frames_are_dropped_and_counted)
{
	struct frame f = udp();
	gpa_t at = put_frame(NULL, &f), big = driver_alloc(&g, 200000);

	driver_add(&g, TX, (struct driver_buf[]){{at, HDR, false}}, 1);
	driver_add(&g, TX, (struct driver_buf[]){{at, HDR + 13, false}}, 1);
	driver_add(&g, TX, (struct driver_buf[]){{at, 0, false}}, 1);
	driver_add(&g, TX, (struct driver_buf[]){{at, HDR + f.len, true}}, 1);
	driver_add(&g, TX, (struct driver_buf[]){{at, HDR + f.len, false}, {big, 9, true}}, 2);
	driver_add(&g, TX, (struct driver_buf[]){{big, HDR + NETFRAME_MAX + 1, false}}, 1);
	driver_add(&g, TX, (struct driver_buf[]){{big, 200000, false}}, 1);
	driver_kick(&g, TX);
	for (unsigned i = 0; i < 7; i++)
		cr_assert(driver_used(&g, TX, NULL, NULL), "%u", i);
	cr_assert(network_got_nothing());
	cr_assert_eq(metric_take(&count->tx_malformed_frames), 7);
	cr_assert_not(driver_broken(&g));
}

Test(net, offloads_that_were_not_negotiated_do_not_reach_the_host)
{
	static const struct netframe_offload bad[] = {
		{.flags = 1, .csum_start = 34, .csum_offset = 6},
		{.gso_type = 1, .gso_size = 1000},
		{.flags = 1, .gso_type = 1, .gso_size = 1000, .csum_start = 34, .csum_offset = 16},
		{.gso_type = 0x80},
		{.gso_type = 2},
	};
	struct frame f = udp();

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		send_one(&bad[i], &f);
		cr_assert(network_got_nothing(), "%u", i);
	}
	cr_assert_eq(metric_take(&count->tx_malformed_frames), ARRAY_SIZE(bad));
}

Test(net, negotiated_offloads_have_to_make_sense)
{
	static const struct netframe_offload bad[] = {
		{.flags = 1, .csum_start = 0, .csum_offset = 6},
		{.flags = 1, .csum_start = 13, .csum_offset = 1},
		{.flags = 1, .csum_start = 34, .csum_offset = 200},
		{.flags = 1, .csum_start = 0xffff, .csum_offset = 0xffff},
		{.gso_type = 1, .gso_size = 1000}, /* without a checksum to complete */
		{.flags = 1, .gso_type = 4, .gso_size = 100, .csum_start = 34, .csum_offset = 16},
		{.flags = 1,
		 .gso_type = 0x81,
		 .gso_size = 100,
		 .csum_start = 34,
		 .csum_offset = 16},
	};
	struct frame f = udp();

	driver_start(&g, VIRTIO_FEATURES_COMMON | F_CSUM | F_HOST_TSO4 | F_MAC);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		send_one(&bad[i], &f);
		cr_assert(network_got_nothing(), "%u", i);
	}
	cr_assert_eq(metric_take(&count->tx_malformed_frames), ARRAY_SIZE(bad));
}

Test(net, a_spoofed_mac_is_dropped)
{
	struct frame f = udp();

	frame_to(&f, frame_mac_b, frame_mac_b);
	send_one(NULL, &f);
	cr_assert(network_got_nothing());
	cr_assert_eq(metric_take(&count->tx_spoofed_mac_count), 1);
	cr_assert_eq(metric_take(&count->tx_packets_count), 0);
	again((struct net_config){0}, 1, 0, 0);
	send_one(NULL, &f);
	cr_assert(network_got_frame(&f), "without guest_mac the guest chooses");
}

/* The test changes the frame after the device copied its head and before it is on the wire. */
static int evil_send(struct netbackend *b, unsigned pair, struct iovec *iov, int n, uint32_t len)
{
	memset(driver_ptr(&g, DRIVER_HIGH, 4096), 0x66, 4096);
	return fake_send(b, pair, iov, n, len);
}

Test(net, the_head_that_was_judged_is_what_is_sent)
{
	struct netbackend_ops ops = fake_ops;
	struct frame f;
	uint8_t buf[HDR + FRAME_MAX_LEN];

	frame_udp(&f, "10.0.0.2", 1000, "10.0.0.1", 53, 1000);
	ops.send = evil_send;
	fake->b.ops = &ops;
	send_one(NULL, &f);
	cr_assert_eq(network_got(0, buf, sizeof(buf)), HDR + f.len);
	cr_assert_arr_eq(buf + HDR, f.byte, NETFRAME_HEAD, "the copy");
	cr_assert_eq(buf[HDR + 500], 0x66, "the rest comes straight from the guest");
	fake->b.ops = &fake_ops;
}

Test(net, a_busy_backend_stops_the_queue_until_it_is_writable)
{
	struct frame f = udp();

	fake->fail_send = -EAGAIN;
	add_tx(NULL, &f);
	add_tx(NULL, &f);
	driver_add(&g, TX, (struct driver_buf[]){{DRIVER_HIGH, 1, false}}, 1);
	/* One pass of the loop: the socket is writable, so that the queue is tried again and again. */
	driver_write(&g, VIRTIO_MMIO_QUEUE_NOTIFY, TX);
	loop_run_once(&g.loop, 0);
	cr_assert_not(driver_used(&g, TX, NULL, NULL));
	cr_assert(network_got_nothing());
	fake->fail_send = 0;
	driver_run(&g);
	for (unsigned i = 0; i < 3; i++)
		cr_assert(driver_used(&g, TX, NULL, NULL));
	cr_assert(network_got_frame(&f));
	cr_assert(network_got_frame(&f));
	cr_assert(network_got_nothing());
	cr_assert_eq(metric_take(&count->tx_packets_count), 2);
}

Test(net, a_frame_that_the_host_refuses_is_lost_alone)
{
	struct frame f = udp();

	fake->fail_send = -EIO;
	send_one(NULL, &f);
	cr_assert_eq(metric_take(&count->tap_write_fails), 1);
	fake->fail_send = 0;
	send_one(NULL, &f);
	cr_assert(network_got_frame(&f));
}

/* --- receive --- */

Test(net, receives_into_one_buffer)
{
	struct frame f = udp();
	gpa_t at = add_rx(1526);
	uint32_t head, len;

	driver_kick(&g, RX);
	cr_assert_not(driver_used(&g, RX, NULL, NULL));
	arrive(0, &f);
	driver_run(&g);
	cr_assert(driver_used(&g, RX, &head, &len));
	cr_assert_eq(len, HDR + f.len);
	cr_assert(guest_has(at, &f));
	cr_assert_eq(num_buffers(at), 1);
	cr_assert(driver_irq(&g));
	cr_assert_eq(metric_take(&count->rx_packets_count), 1);
	cr_assert_eq(metric_take(&count->rx_bytes_count), f.len);
}

Test(net, a_large_frame_fills_as_many_buffers_as_it_needs)
{
	gpa_t at[8];
	uint32_t len = 5000, seen = 0;

	again((struct net_config){.mtu = 9000}, 1, 0, F_MRG_RXBUF | F_MTU);
	for (unsigned i = 0; i < 8; i++)
		at[i] = add_rx(1300);
	driver_kick(&g, RX);
	arrive_large(len);
	driver_run(&g);
	cr_assert_eq(num_buffers(at[0]), 4);
	for (unsigned i = 0; i < 4; i++) {
		uint32_t used, skip = i ? 0 : HDR;

		cr_assert(driver_used(&g, RX, NULL, &used));
		for (uint32_t k = skip; k < used; k++)
			cr_assert_eq(*(uint8_t *)driver_ptr(&g, at[i] + k, 1), pattern(seen++));
	}
	cr_assert_eq(seen, len);
	cr_assert_not(driver_used(&g, RX, NULL, NULL));
	cr_assert_eq(*(uint8_t *)driver_ptr(&g, at[4], 1), 0xee, "the others are untouched");
	for (unsigned i = 0; i < 4; i++)
		add_rx(1300);
	driver_kick(&g, RX);
	arrive_large(60);
	driver_run(&g);
	cr_assert(driver_used(&g, RX, NULL, NULL));
	cr_assert_eq(num_buffers(at[4]), 1);
}

Test(net, many_frames_in_one_batch)
{
	struct frame f = udp();
	gpa_t at[10];

	for (unsigned i = 0; i < 10; i++)
		at[i] = add_rx(1526);
	for (unsigned i = 0; i < 12; i++)
		arrive(0, &f);
	driver_used_event(&g, RX, 9);
	driver_kick(&g, RX);
	for (unsigned i = 0; i < 10; i++) {
		cr_assert(driver_used(&g, RX, NULL, NULL), "%u", i);
		cr_assert(guest_has(at[i], &f), "%u", i);
	}
	cr_assert(driver_irq(&g));
	cr_assert_not(driver_irq(&g));
	add_rx(1526);
	cr_assert(driver_wants_kick(&g, RX));
	add_rx(1526);
	driver_kick(&g, RX);
	cr_assert(driver_used(&g, RX, NULL, NULL));
	cr_assert(driver_used(&g, RX, NULL, NULL));
}

/* Counts the turns of the loop in which something was ready. */
static unsigned busy_turns(unsigned turns)
{
	unsigned busy = 0;

	for (unsigned i = 0; i < turns; i++) {
		struct epoll_event ev;

		busy += epoll_wait(g.loop.epfd, &ev, 1, 0) > 0;
		loop_run_once(&g.loop, 0);
	}
	return busy;
}

/* They are looked for in pairs again from time to time, and then taken by the turn. */
Test(net, frames_that_come_alone_cost_a_call_each)
{
	struct frame f = udp();
	unsigned used = 0;

	for (unsigned i = 0; i < 8; i++)
		add_rx(1526);
	driver_kick(&g, RX);
	fake->recvs = 0;
	for (unsigned i = 0; i < 64; i++) {
		arrive(0, &f);
		driver_run(&g);
		cr_assert(driver_used(&g, RX, NULL, NULL), "%u", i);
		add_rx(1526);
	}
	cr_expect_leq(fake->recvs, 64 + 4, "%u calls", fake->recvs);
	for (unsigned round = 0; round < 5; round++) {
		for (unsigned i = 0; i < 5; i++)
			arrive(0, &f);
		fake->recvs = 0;
		driver_run(&g);
		for (; driver_used(&g, RX, NULL, NULL); used++)
			add_rx(1526);
	}
	cr_expect_eq(used, 25);
	cr_expect_eq(fake->recvs, 6, "all in one turn again");
}

/* What the host answers with while it is given a frame comes in the same turn, with one interrupt. */
Test(net, answers_are_taken_behind_what_was_sent)
{
	struct frame f = udp();
	uint64_t irqs = 0;

	for (unsigned i = 0; i < 8; i++)
		add_rx(1526);
	driver_kick(&g, RX);
	(void)driver_irq(&g);
	fake->recvs = 0;
	fake->answers = true;
	for (unsigned i = 0; i < 3; i++)
		add_tx(NULL, &f);
	driver_kick(&g, TX);
	driver_run(&g);
	cr_expect_eq(fake->recvs, 3, "%u calls: as many as were sent", fake->recvs);
	cr_assert_eq(read(g.irq_fd, &irqs, sizeof(irqs)), (ssize_t)sizeof(irqs));
	cr_expect_eq(irqs, 1);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert(driver_used(&g, TX, NULL, NULL));
		cr_assert(driver_used(&g, RX, NULL, NULL));
		cr_assert(network_got_frame(&f));
	}
}

/* Who only sends is not made to look for answers each time. */
Test(net, answers_that_never_come_are_seldom_looked_for)
{
	struct frame f = udp();

	for (unsigned i = 0; i < 8; i++)
		add_rx(1526);
	driver_kick(&g, RX);
	fake->recvs = 0;
	for (unsigned i = 0; i < 68; i++) {
		send_one(NULL, &f);
		cr_assert(network_got_frame(&f));
	}
	cr_expect_eq(fake->recvs, 4, "%u calls", fake->recvs);
	arrive(0, &f);
	driver_run(&g);
	cr_assert(driver_used(&g, RX, NULL, NULL));
}

/* Nothing is received behind the driver's back. */
Test(net, answers_wait_for_buffers_and_sound_rings)
{
	struct frame f = udp();

	send_one(NULL, &f);
	arrive(0, &f);
	send_one(NULL, &f);
	cr_expect_eq(fake->recvs, 0, "no buffers");
	add_rx(1526);
	driver_kick(&g, RX);
	cr_assert(driver_used(&g, RX, NULL, NULL));
	arrive(0, &f);
	add_rx(1526);
	add_tx(NULL, &f);
	driver_publish(&g, TX, DRIVER_QUEUE_SIZE);
	fake->recvs = 0;
	driver_kick(&g, TX);
	driver_run(&g);
	cr_assert(driver_broken(&g));
	cr_expect_eq(fake->recvs, 0, "a broken ring");
}

Test(net, a_receive_ring_that_breaks_behind_what_was_sent)
{
	struct frame f = udp();

	add_rx(100); /* too little, so the ring is looked at again */
	driver_kick(&g, RX);
	add_tx(NULL, &f);
	fake->answers = true;
	driver_publish(&g, RX, DRIVER_QUEUE_SIZE);
	driver_kick(&g, TX);
	cr_assert(driver_broken(&g));
	cr_assert(driver_used(&g, TX, NULL, NULL), "what was sent is told all the same");
	driver_start(&g, VIRTIO_FEATURES_COMMON | F_MAC | F_MRG_RXBUF);
	send_one(NULL, &f);
}

Test(net, without_buffers_nobody_is_woken)
{
	struct frame f = udp();

	arrive(0, &f);
	cr_assert_leq(busy_turns(5), 1, "before the first buffers");
	driver_kick(&g, RX);
	cr_assert_eq(busy_turns(5), 0, "none given");
	add_rx(1526);
	driver_kick(&g, RX);
	cr_assert(driver_used(&g, RX, NULL, NULL));
	cr_assert_eq(busy_turns(5), 0, "nothing to receive");
	arrive(0, &f);
	busy_turns(3);
	cr_assert_eq(busy_turns(5), 0, "the buffer was the last one");
	driver_write(&g, VIRTIO_MMIO_STATUS, 0);
	cr_assert_eq(busy_turns(5), 0, "after a reset");
}

Test(net, one_chain_a_frame_without_mergeable_buffers)
{
	struct frame f = udp();
	gpa_t at, small;
	uint32_t len;

	driver_start(&g, VIRTIO_FEATURES_COMMON);
	at = driver_alloc(&g, 4096);
	driver_add(&g, RX, (struct driver_buf[]){{at, HDR, true}, {at + HDR, 2000, true}}, 2);
	small = add_rx(HDR + 50);
	add_rx(1526);
	driver_kick(&g, RX);
	arrive(0, &f);
	driver_run(&g);
	cr_assert(driver_used(&g, RX, NULL, &len));
	cr_assert_eq(len, HDR + f.len);
	cr_assert(guest_has(at, &f));
	cr_assert_eq(num_buffers(at), 1);
	arrive(0, &f);
	driver_run(&g);
	cr_assert_not(driver_used(&g, RX, NULL, NULL), "too large for the next chain");
	cr_assert_eq(metric_take(&count->rx_fails), 1);
	f.len = 50;
	arrive(0, &f);
	driver_run(&g);
	cr_assert(driver_used(&g, RX, NULL, NULL));
	cr_assert(guest_has(small, &f));
}

Test(net, who_never_offers_enough_gets_what_fits)
{
	struct frame f = udp();
	gpa_t at;

	driver_start(&g, VIRTIO_FEATURES_COMMON | F_MRG_RXBUF | F_GUEST_CSUM | F_GUEST_TSO4);
	at = add_rx(2000);
	driver_kick(&g, RX);
	arrive_large(5000);
	arrive(0, &f);
	driver_run(&g);
	cr_assert(driver_used(&g, RX, NULL, NULL));
	cr_assert(guest_has(at, &f));
	cr_assert_eq(metric_take(&count->rx_fails), 1);
}

Test(net, who_once_offered_enough_is_waited_for)
{
	driver_start(&g, VIRTIO_FEATURES_COMMON | F_MRG_RXBUF | F_GUEST_CSUM | F_GUEST_TSO4);
	for (unsigned i = 0; i < 2; i++)
		add_rx(HDR + NETFRAME_MAX);
	driver_kick(&g, RX);
	for (unsigned i = 0; i < 2; i++)
		arrive_large(60000);
	driver_run(&g);
	cr_assert(driver_used(&g, RX, NULL, NULL));
	cr_assert(driver_used(&g, RX, NULL, NULL));
	add_rx(2000);
	driver_kick(&g, RX);
	arrive_large(5000);
	driver_run(&g);
	cr_assert_not(driver_used(&g, RX, NULL, NULL));
	cr_assert_eq(metric_take(&count->rx_fails), 0, "nothing was lost");
	add_rx(20000);
	cr_assert(driver_wants_kick(&g, RX));
	for (unsigned i = 0; i < 3; i++)
		add_rx(20000);
	driver_kick(&g, RX);
	cr_assert(driver_used(&g, RX, NULL, NULL));
}

Test(net, nothing_is_held_between_batches)
{
	struct frame f = udp();

	for (unsigned i = 0; i < 8; i++)
		add_rx(1526);
	driver_kick(&g, RX);
	arrive(0, &f);
	driver_run(&g);
	cr_assert_eq(dev->queue[RX].state.next_avail, 1);
	cr_assert_eq(dev->queue[RX].state.next_used, 1);
}

/* --- the lying driver --- */

Test(net, readable_receive_buffers_have_no_room)
{
	struct frame f = udp();
	gpa_t at = driver_alloc(&g, 4096);

	driver_add(&g, RX, (struct driver_buf[]){{at, 2000, false}}, 1);
	driver_add(&g, RX, (struct driver_buf[]){{at, 0, true}}, 1);
	driver_kick(&g, RX);
	arrive(0, &f);
	driver_run(&g);
	cr_assert_not(driver_broken(&g));
	cr_assert_eq(metric_take(&count->rx_packets_count), 0);
}

Test(net, a_header_cut_into_single_bytes)
{
	struct frame f = udp();
	gpa_t at = driver_alloc(&g, 4096);
	struct driver_buf buf[HDR + 1];

	for (unsigned i = 0; i < HDR; i++)
		buf[i] = (struct driver_buf){at + i, 1, true};
	buf[HDR] = (struct driver_buf){at + HDR, 2000, true};
	driver_add(&g, RX, buf, HDR + 1);
	driver_kick(&g, RX);
	arrive(0, &f);
	driver_run(&g);
	cr_assert(driver_used(&g, RX, NULL, NULL));
	cr_assert(guest_has(at, &f));
	cr_assert_eq(num_buffers(at), 1);
}

Test(net, chains_shorter_than_a_header_are_filled_all_the_same)
{
	struct frame f = udp();
	gpa_t at = driver_alloc(&g, 4096);
	uint32_t len, sum = 0;

	for (unsigned i = 0; i < 14; i++)
		driver_add(&g, RX, (struct driver_buf[]){{at + i, 1, true}}, 1);
	driver_add(&g, RX, (struct driver_buf[]){{at + 14, 2000, true}}, 1);
	driver_kick(&g, RX);
	arrive(0, &f);
	driver_run(&g);
	for (unsigned i = 0; i < 15; i++) {
		cr_assert(driver_used(&g, RX, NULL, &len));
		sum += len;
	}
	cr_assert_eq(sum, HDR + f.len);
	cr_assert_eq(num_buffers(at), 15);
	cr_assert(guest_has(at, &f));
}

Test(net, broken_rings_need_a_reset)
{
	struct frame f = udp();

	for (unsigned queue = RX; queue <= TX; queue++) {
		add_rx(1526);
		add_tx(NULL, &f);
		arrive(0, &f);
		driver_publish(&g, queue, DRIVER_QUEUE_SIZE);
		driver_kick(&g, queue);
		driver_run(&g);
		cr_assert(driver_broken(&g), "queue %u", queue);
		cr_assert_eq(busy_turns(3), 0);
		driver_start(&g, VIRTIO_FEATURES_COMMON | F_MAC | F_MRG_RXBUF);
		send_one(NULL, &f);
		cr_assert(network_got_frame(&f), "as new after a reset");
		while (network_got_frame(&f))
			;
	}
	cr_assert_eq(metric_take(&count->event_fails), 2);
}

Test(net, kicks_before_driver_ok_and_for_nothing)
{
	struct frame f = udp();

	driver_negotiate(&g, VIRTIO_FEATURES_COMMON | F_MRG_RXBUF);
	for (unsigned q = RX; q <= TX; q++) {
		driver_place_queue(&g, q, DRIVER_QUEUE_SIZE);
		driver_set_queue(&g, q);
	}
	add_tx(NULL, &f);
	add_rx(1526);
	arrive(0, &f);
	driver_kick(&g, TX);
	driver_kick(&g, RX);
	cr_assert(network_got_nothing());
	cr_assert_not(driver_used(&g, RX, NULL, NULL));
	cr_assert(driver_ok(&g));
	driver_kick(&g, RX);
	driver_kick(&g, TX);
	cr_assert(driver_used(&g, RX, NULL, NULL));
	cr_assert(network_got_frame(&f));
	driver_kick(&g, TX);
	driver_kick(&g, RX);
	driver_kick(&g, 7);
	cr_assert_eq(metric_take(&count->no_tx_avail_buffer), 1);
}

Test(net, reset_while_frames_wait_in_both_directions)
{
	struct frame f = udp();

	fake->fail_send = -EAGAIN;
	add_tx(NULL, &f);
	driver_write(&g, VIRTIO_MMIO_QUEUE_NOTIFY, TX);
	loop_run_once(&g.loop, 0);
	add_rx(1526);
	driver_write(&g, VIRTIO_MMIO_QUEUE_NOTIFY, RX);
	loop_run_once(&g.loop, 0);
	arrive(0, &f);
	driver_write(&g, VIRTIO_MMIO_STATUS, 0);
	cr_assert_eq(busy_turns(3), 0);
	fake->fail_send = 0;
	driver_start(&g, VIRTIO_FEATURES_COMMON | F_MRG_RXBUF);
	driver_run(&g);
	cr_assert(network_got_nothing(), "the old queue is forgotten");
	add_rx(1526);
	driver_kick(&g, RX);
	cr_assert(driver_used(&g, RX, NULL, NULL));
}

/* --- the backend's end --- */

/* --- placeholders --- */

#define SLOT_OFFLOADS (F_CSUM | F_GUEST_CSUM | F_HOST_TSO4 | F_GUEST_TSO4)

/* A placeholder without a backend, running. */
static void empty_slot(unsigned pairs, uint64_t features)
{
	const struct net_config cfg = {
		.id = "slot", .placeholder = true, .pairs = pairs, .offloads = SLOT_OFFLOADS};

	driver_finish(&g);
	driver_init(&g);
	dev = net_create(&cfg, NULL, &g.env, NULL);
	cr_assert_not_null(dev);
	driver_attach(&g, dev);
	count = net_metrics(dev);
	driver_start(&g, VIRTIO_FEATURES_COMMON | features);
}

static int set_backend(struct fake *f, struct err *e)
{
	int r;

	pthread_mutex_lock(&g.lock);
	r = net_set_backend(dev, f ? &f->b : NULL, e);
	pthread_mutex_unlock(&g.lock);
	if (r == 0)
		fake = f;
	return r;
}

static unsigned link_state(void)
{
	return driver_read(&g, 0x104) >> 16;
}

Test(net, a_slot_is_filled_emptied_and_filled_again)
{
	struct frame f = udp();
	gpa_t at;

	empty_slot(1, F_MRG_RXBUF | F_STATUS | F_CSUM);
	cr_assert_eq(driver_offered(&g) & SLOT_OFFLOADS, SLOT_OFFLOADS);
	cr_assert_eq(link_state(), 0);
	send_one(NULL, &f);
	cr_assert_eq(metric_take(&count->tx_fails), 1, "answered, and dropped");
	at = add_rx(2048);
	driver_kick(&g, RX);
	for (unsigned i = 0; i < 2; i++) {
		driver_irq(&g);
		cr_assert_eq(set_backend(fake_create(1, SLOT_OFFLOADS), NULL), 0);
		cr_assert_eq(driver_read(&g, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_IRQ_CONFIG);
		cr_assert(driver_irq(&g));
		cr_assert_eq(link_state(), 1);
		cr_assert_eq(fake->configured, 1, "told what the driver takes");
		cr_assert_eq(fake->features & SLOT_OFFLOADS, F_CSUM);
		send_one(NULL, &f);
		cr_assert(network_got_frame(&f));
		arrive(0, &f);
		driver_run(&g);
		cr_assert(driver_used(&g, RX, NULL, NULL));
		cr_assert(guest_has(at, &f));
		at = add_rx(2048);
		driver_kick(&g, RX);
		driver_irq(&g);
		destroyed = false;
		cr_assert_eq(set_backend(NULL, NULL), 0);
		cr_assert(destroyed);
		cr_assert_eq(driver_read(&g, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_IRQ_CONFIG);
		cr_assert_eq(link_state(), 0);
	}
	cr_assert_eq(metric_take(&count->update_count), 4);
	cr_assert_not(driver_broken(&g));
}

Test(net, what_waits_for_a_backend_that_goes_is_dropped)
{
	struct frame f = udp();

	empty_slot(1, F_MRG_RXBUF);
	cr_assert_eq(set_backend(fake_create(1, SLOT_OFFLOADS), NULL), 0);
	fake->fail_send = -EAGAIN;
	add_tx(NULL, &f);
	pthread_mutex_lock(&g.lock);
	dev->ops->notify(dev, TX);
	pthread_mutex_unlock(&g.lock);
	cr_assert_not(driver_used(&g, TX, NULL, NULL), "it waits");
	cr_assert_eq(set_backend(NULL, NULL), 0);
	driver_run(&g);
	cr_assert(driver_used(&g, TX, NULL, NULL));
	cr_assert_eq(metric_take(&count->tx_fails), 1);
}

Test(net, backends_that_do_not_fit_change_nothing)
{
	struct fake *poor = fake_create(1, F_CSUM), *wide = fake_create(2, SLOT_OFFLOADS);
	struct fake *more = fake_create(1, SLOT_OFFLOADS);
	struct err e = {0};

	cr_assert_eq(set_backend(more, &e), -EINVAL, "no placeholder");
	cr_assert_eq(set_backend(NULL, &e), -EINVAL);
	cr_assert_eq(link_state(), 1);
	empty_slot(1, F_MRG_RXBUF | F_HOST_TSO4);
	cr_assert_eq(set_backend(poor, &e), -ENOTSUP);
	cr_assert(strstr(e.msg, "offloads"), "%s", e.msg);
	cr_assert_eq(set_backend(wide, &e), -EINVAL);
	cr_assert_eq(link_state(), 0);
	cr_assert_eq(set_backend(more, &e), 0);
	cr_assert_eq(set_backend(poor, &e), -EBUSY, "in use");
	cr_assert_eq(fake, more);
	cr_assert_eq(link_state(), 1);
	cr_assert_eq(metric_take(&count->update_fails), 3);
	fake_destroy(&poor->b);
	fake_destroy(&wide->b);
}

Test(net, a_slot_that_lost_its_backend_gets_another)
{
	struct frame f = udp();

	empty_slot(1, F_MRG_RXBUF);
	cr_assert_eq(set_backend(fake_create(1, SLOT_OFFLOADS), NULL), 0);
	add_rx(2048);
	fake->gone = true;
	driver_kick(&g, RX);
	cr_assert_eq(link_state(), 0);
	cr_assert_eq(set_backend(fake_create(1, SLOT_OFFLOADS), NULL), 0);
	cr_assert_eq(link_state(), 1);
	arrive(0, &f);
	driver_run(&g);
	cr_assert(driver_used(&g, RX, NULL, NULL));
}

Test(net, a_slot_that_is_filled_before_the_driver_is_there)
{
	struct frame f = udp();

	empty_slot(1, F_MRG_RXBUF);
	driver_write(&g, VIRTIO_MMIO_STATUS, 0);
	cr_assert_eq(set_backend(fake_create(1, SLOT_OFFLOADS), NULL), 0);
	cr_assert_eq(fake->configured, 0);
	driver_start(&g, VIRTIO_FEATURES_COMMON | F_MRG_RXBUF);
	send_one(NULL, &f);
	cr_assert(network_got_frame(&f));
}

Test(net, a_backend_that_goes_takes_the_link_down)
{
	struct frame f = udp();

	add_rx(1526);
	driver_kick(&g, RX);
	driver_irq(&g);
	fake->gone = true;
	arrive(0, &f);
	driver_run(&g);
	cr_assert_eq(driver_read(&g, 0x104) >> 16, 0, "status");
	cr_assert(driver_irq(&g), "the driver is told");
	cr_assert_eq(busy_turns(3), 0);
	add_tx(NULL, &f);
	driver_kick(&g, TX);
	cr_assert(driver_used(&g, TX, NULL, NULL), "frames go nowhere, buffers come back");
	cr_assert_eq(metric_take(&count->tx_fails), 1);
	driver_start(&g, VIRTIO_FEATURES_COMMON);
	add_rx(1526);
	driver_kick(&g, RX);
	driver_write(&g, VIRTIO_MMIO_STATUS, 0);
}

Test(net, a_hang_up_while_nobody_reads)
{
	shutdown(fake->peer[0], SHUT_RDWR);
	driver_run(&g);
	cr_assert_eq(driver_read(&g, 0x104) >> 16, 0);
	cr_assert_eq(busy_turns(3), 0);
}

/* --- limits --- */

Test(net, a_limit_holds_the_transmit_queue_and_a_timer_resumes_it)
{
	struct frame f = udp();
	const struct net_config cfg = {.tx = {.ops = {2, 20, 0}}};

	again(cfg, 1, 0, 0);
	for (unsigned i = 0; i < 4; i++)
		add_tx(NULL, &f);
	driver_kick(&g, TX);
	cr_assert(driver_used(&g, TX, NULL, NULL));
	cr_assert(driver_used(&g, TX, NULL, NULL));
	cr_assert_not(driver_used(&g, TX, NULL, NULL));
	cr_assert_eq(metric_take(&count->tx_rate_limiter_throttled), 1);
	cr_assert_neq(g.loop.timers, NULL);
	driver_kick(&g, TX);
	cr_assert_eq(metric_take(&count->tx_rate_limiter_throttled), 0, "it waits for its timer");
	while (metric_take(&count->tx_packets_count) < 4 && g.loop.timers) {
		loop_run_once(&g.loop, -1);
		while (network_got_frame(&f))
			;
		if (dev->queue[TX].state.next_used == 4)
			break;
	}
	cr_assert_eq(dev->queue[TX].state.next_used, 4);
	cr_assert_gt(metric_take(&count->tx_rate_limiter_event_count), 0);
	cr_assert_eq(g.loop.timers, NULL, "no timer when nothing waits");
}

Test(net, a_limit_holds_receiving_without_losing_frames)
{
	struct frame f = udp();
	const struct net_config cfg = {.rx = {.bandwidth = {f.len, 500, 0}}};

	again(cfg, 1, 0, F_MRG_RXBUF);
	for (unsigned i = 0; i < 4; i++)
		add_rx(1526);
	arrive(0, &f);
	arrive(0, &f);
	driver_kick(&g, RX);
	cr_assert(driver_used(&g, RX, NULL, NULL));
	cr_assert_not(driver_used(&g, RX, NULL, NULL));
	cr_assert_eq(metric_take(&count->rx_rate_limiter_throttled), 1);
	cr_assert_neq(g.loop.timers, NULL);
	cr_assert_eq(busy_turns(2), 0, "and does not spin");
	while (g.loop.timers)
		loop_run_once(&g.loop, -1);
	cr_assert(driver_used(&g, RX, NULL, NULL));
}

Test(net, new_limits_release_what_waits)
{
	struct frame f = udp();
	const struct net_config cfg = {.tx = {.ops = {1, 1000000, 0}},
				       .rx = {.ops = {1, 1000000, 0}}};

	again(cfg, 1, 0, F_MRG_RXBUF);
	for (unsigned i = 0; i < 3; i++) {
		add_tx(NULL, &f);
		add_rx(1526);
		arrive(0, &f);
	}
	driver_kick(&g, TX);
	driver_kick(&g, RX);
	cr_assert_eq(dev->queue[TX].state.next_used, 1);
	cr_assert_eq(dev->queue[RX].state.next_used, 1);
	net_set_limits(dev, NULL, NULL);
	driver_run(&g);
	driver_run(&g);
	cr_assert_eq(dev->queue[TX].state.next_used, 3);
	cr_assert_eq(dev->queue[RX].state.next_used, 3);
	cr_assert_eq(g.loop.timers, NULL);
}

Test(net, unlimited_needs_no_timer)
{
	struct frame f = udp();

	add_rx(1526);
	add_tx(NULL, &f);
	arrive(0, &f);
	driver_kick(&g, RX);
	driver_kick(&g, TX);
	cr_assert_eq(g.loop.timers, NULL);
	cr_assert(driver_used(&g, RX, NULL, NULL));
	cr_assert(driver_used(&g, TX, NULL, NULL));
}

Test(net, reset_and_destruction_while_throttled)
{
	struct frame f = udp();
	const struct net_config cfg = {.tx = {.ops = {1, 10, 0}}};

	again(cfg, 1, 0, 0);
	for (unsigned i = 0; i < 3; i++)
		add_tx(NULL, &f);
	driver_kick(&g, TX);
	driver_write(&g, VIRTIO_MMIO_STATUS, 0);
	while (g.loop.timers)
		loop_run_once(&g.loop, -1);
	driver_start(&g, VIRTIO_FEATURES_COMMON);
	for (unsigned i = 0; i < 3; i++)
		add_tx(NULL, &f);
	driver_kick(&g, TX);
	cr_assert_neq(g.loop.timers, NULL);
}

/* --- policy and rewriting, as far as the device is concerned --- */

static struct netpolicy *deny_all_but_53(void)
{
	static struct netpolicy_config c;

	c = (struct netpolicy_config){0};
	c.way[NETFRAME_EGRESS].count = 1;
	c.way[NETFRAME_EGRESS].rule[0] = (struct netpolicy_rule){.allow = true,
								 .any_address = true,
								 .protocol = IPPROTO_UDP,
								 .port_low = 53,
								 .port_high = 53};
	return netpolicy_create(&c, frame_mac_a, NULL);
}

Test(net, the_policy_stands_in_both_directions)
{
	struct frame out = udp(), bad, answer;
	gpa_t at;

	netguard_set_policy(net_guard(dev), deny_all_but_53());
	frame_udp(&bad, "10.0.0.2", 1000, "10.0.0.1", 54, 10);
	send_one(NULL, &bad);
	cr_assert(network_got_nothing());
	cr_assert_eq(metric_take(&count->tx_denied), 1);
	at = add_rx(1526);
	add_rx(1526);
	driver_kick(&g, RX);
	frame_udp(&answer, "10.0.0.1", 53, "10.0.0.2", 1000, 10);
	frame_to(&answer, frame_mac_a, frame_mac_b);
	arrive(0, &answer);
	driver_run(&g);
	cr_assert_not(driver_used(&g, RX, NULL, NULL));
	cr_assert_eq(metric_take(&count->rx_denied), 1);
	for (unsigned i = 0; i < 1526; i++)
		cr_assert_eq(*(uint8_t *)driver_ptr(&g, at + i, 1), 0xee, "not a byte of it");
	send_one(NULL, &out);
	cr_assert(network_got_frame(&out));
	arrive(0, &answer);
	driver_run(&g);
	cr_assert(driver_used(&g, RX, NULL, NULL));
	cr_assert(guest_has(at, &answer));
	netguard_set_policy(net_guard(dev), NULL);
	send_one(NULL, &bad);
	cr_assert(network_got_frame(&bad));
}

Test(net, checksum_offload_cannot_rewrite_a_judged_address)
{
	struct frame f;
	struct netframe_offload o = {.flags = 1, .csum_start = 14, .csum_offset = 16};

	driver_start(&g, VIRTIO_FEATURES_COMMON | F_CSUM | F_MAC);
	frame_udp(&f, "10.0.0.2", 1000, "10.0.0.1", 53, 10);
	netguard_set_policy(net_guard(dev), deny_all_but_53());
	send_one(&o, &f);
	cr_assert(network_got_nothing());
	o = (struct netframe_offload){.flags = 1, .csum_start = 34, .csum_offset = 6};
	send_one(&o, &f);
	cr_assert(network_got_frame(&f));
}

Test(net, addresses_are_rewritten_both_ways)
{
	struct netrewrite map = {.count = 1};
	struct frame out, in, seen;
	gpa_t at;

	netaddr_parse("10.0.0.2", &map.pair[0].inside);
	netaddr_parse("172.16.5.17", &map.pair[0].outside);
	netguard_set_rewrite(net_guard(dev), &map);
	frame_udp(&out, "10.0.0.2", 1000, "10.0.0.1", 53, 700);
	frame_udp(&seen, "172.16.5.17", 1000, "10.0.0.1", 53, 700);
	send_one(NULL, &out);
	cr_assert(network_got_frame(&seen));
	at = add_rx(1526);
	driver_kick(&g, RX);
	frame_udp(&in, "10.0.0.1", 53, "172.16.5.17", 1000, 700);
	frame_udp(&seen, "10.0.0.1", 53, "10.0.0.2", 1000, 700);
	arrive(0, &in);
	driver_run(&g);
	cr_assert(driver_used(&g, RX, NULL, NULL));
	cr_assert(guest_has(at, &seen));
	cr_assert_eq(num_buffers(at), 1);
}

/* --- several pairs --- */

static uint8_t control(unsigned queue, unsigned class, unsigned command, unsigned pairs,
		       uint32_t len)
{
	gpa_t at = driver_alloc(&g, 16);
	uint8_t *p = driver_ptr(&g, at, 16);

	p[0] = (uint8_t) class;
	p[1] = (uint8_t)command;
	p[2] = (uint8_t)pairs;
	p[8] = 0xee;
	driver_add(&g, queue, (struct driver_buf[]){{at, len, false}, {at + 8, 1, true}}, 2);
	driver_kick(&g, queue);
	cr_assert(driver_used(&g, queue, NULL, NULL));
	return p[8];
}

Test(net, pairs_are_switched_on_by_the_control_queue)
{
	struct frame f = udp();
	gpa_t at;

	again((struct net_config){0}, 3, 0, F_CTRL_VQ | F_MQ | F_MRG_RXBUF);
	driver_kick(&g, RX);
	cr_assert_eq(fake->pairs, 1);
	add_tx(NULL, &f);
	driver_kick(&g, 3);
	cr_assert_eq(control(6, 4, 0, 3, 4), 0);
	cr_assert_eq(fake->pairs, 3);
	driver_add(&g, 5, (struct driver_buf[]){{put_frame(NULL, &f), HDR + f.len, false}}, 1);
	driver_kick(&g, 5);
	cr_assert(driver_used(&g, 5, NULL, NULL));
	cr_assert_neq(network_got(2, (uint8_t[2048]){0}, 2048), 0);
	at = driver_alloc(&g, 2000);
	driver_add(&g, 4, (struct driver_buf[]){{at, 2000, true}}, 1);
	driver_kick(&g, 4);
	arrive(2, &f);
	driver_run(&g);
	cr_assert(driver_used(&g, 4, NULL, NULL));
	cr_assert(guest_has(at, &f));
	driver_write(&g, VIRTIO_MMIO_STATUS, 0);
	driver_start(&g, VIRTIO_FEATURES_COMMON);
	driver_kick(&g, RX);
	cr_assert_eq(fake->pairs, 1);
}

Test(net, the_control_queue_refuses_nonsense)
{
	gpa_t at;

	again((struct net_config){0}, 3, 0, F_CTRL_VQ | F_MQ);
	cr_assert_eq(control(6, 4, 0, 0, 4), 1);
	cr_assert_eq(control(6, 4, 0, 4, 4), 1);
	cr_assert_eq(control(6, 4, 1, 1, 4), 1);
	cr_assert_eq(control(6, 0, 0, 1, 4), 1);
	cr_assert_eq(control(6, 4, 0, 1, 3), 1);
	cr_assert_eq(control(6, 4, 0, 2, 4), 0);
	at = driver_alloc(&g, 16);
	driver_add(&g, 6, (struct driver_buf[]){{at, 4, false}}, 1);
	driver_kick(&g, 6);
	cr_assert(driver_used(&g, 6, NULL, NULL), "nowhere to answer to");
	again((struct net_config){0}, 3, 0, F_CTRL_VQ);
	cr_assert_eq(control(2, 4, 0, 2, 4), 1, "without MQ it is the third queue, and cannot");
}

/* --- the metadata service --- */

static const uint8_t mmds_address[4] = {169, 254, 169, 254};
static struct mmdsnet_metrics mmds_count;
static struct loop mmds_loop; /* it outlives the device, and so the driver's loop */

static void *mmds_open_none(void *arg)
{
	(void)arg;
	return NULL;
}

static struct mmdsnet *add_mmds(struct net_config cfg)
{
	static const struct mmdsnet_service none = {.open = mmds_open_none};
	struct mmdsnet *m;

	again(cfg, 1, F_CSUM, F_MAC | F_MRG_RXBUF | F_CSUM);
	cr_assert_eq(loop_init(&mmds_loop, NULL), 0);
	m = mmdsnet_create(&mmds_loop, mmds_address, &none, &mmds_count, NULL);
	cr_assert_not_null(m);
	net_set_mmds(dev, mmdsnet_add(m, 0, NULL));
	return m;
}

/* Ends both in the order in which the machine does it; another device is there afterwards. */
static void end_mmds(struct mmdsnet *m)
{
	again((struct net_config){.mac = frame_mac_a}, 1, 0, F_MAC);
	mmdsnet_destroy(m);
	loop_finish(&mmds_loop);
}

static struct frame arp_for(const char *address)
{
	struct frame f;

	frame_arp(&f, 1, frame_mac_a, "10.0.0.2", address);
	return f;
}

Test(net, the_metadata_service_is_taken_out_and_goes_first)
{
	struct mmdsnet *m = add_mmds((struct net_config){.mac = frame_mac_a});
	struct frame ask = arp_for("169.254.169.254"), other = arp_for("10.0.0.1"), from = udp();
	gpa_t first, second;
	uint8_t *p;

	add_tx(NULL, &ask);
	driver_kick(&g, TX);
	cr_assert(driver_used(&g, TX, NULL, NULL));
	cr_expect(network_got_nothing());
	cr_expect_eq(fake->sends, 0);
	cr_expect_eq(mmds_count.rx_accepted.value, 1);
	/* It waits for buffers, and what the network has behind it. */
	arrive(0, &from);
	first = add_rx(100);
	second = add_rx(2000);
	driver_kick(&g, RX);
	p = driver_ptr(&g, first, HDR + 42);
	cr_expect_eq(num_buffers(first), 1);
	cr_expect_arr_eq(p, "\0\0\0\0\0\0\0\0\0\0\1\0", 12);
	cr_expect_arr_eq(p + HDR, frame_mac_a, 6);
	cr_expect_arr_eq(p + HDR + 28, mmds_address, 4);
	cr_expect(guest_has(second, &from));
	cr_expect_eq(mmds_count.tx_frames.value, 1);
	/* With buffers there, the answer needs no kick. */
	first = add_rx(100);
	driver_kick(&g, RX);
	add_tx(NULL, &ask);
	driver_kick(&g, TX);
	driver_run(&g);
	cr_expect_eq(num_buffers(first), 1);
	send_one(NULL, &other);
	cr_expect(network_got_frame(&other));
	end_mmds(m);
}

Test(net, the_metadata_service_stands_before_the_policy_but_behind_the_mac)
{
	static struct netpolicy_config deny;
	struct mmdsnet *m = add_mmds((struct net_config){.mac = frame_mac_a});
	struct frame f;

	netguard_set_policy(net_guard(dev), netpolicy_create(&deny, frame_mac_a, NULL));
	frame_tcp(&f, "10.0.0.2", 1000, "169.254.169.254", 80, 2, 0);
	send_one(&(struct netframe_offload){.flags = 1, .csum_start = 34, .csum_offset = 16}, &f);
	cr_expect_eq(mmds_count.rx_count.value, 1);
	frame_to(&f, frame_mac_b, frame_mac_b);
	send_one(NULL, &f);
	cr_expect_eq(mmds_count.rx_count.value, 1);
	cr_expect_eq(count->tx_spoofed_mac_count.value, 1);
	frame_tcp(&f, "10.0.0.2", 1000, "169.254.169.253", 80, 2, 0);
	send_one(NULL, &f);
	cr_expect_eq(count->tx_denied.value, 1);
	cr_expect(network_got_nothing());
	end_mmds(m);
}

Test(net, the_metadata_service_gets_what_was_judged)
{
	struct mmdsnet *m = add_mmds((struct net_config){.mac = frame_mac_a});
	struct frame f;
	gpa_t at;

	/* A segment longer than what is judged, in single bytes. */
	frame_tcp(&f, "10.0.0.2", 1000, "169.254.169.254", 80, 16, 1400);
	at = put_frame(NULL, &f);
	driver_add(&g, TX,
		   (struct driver_buf[]){{at, 5, false},
					 {at + 5, 200, false},
					 {at + 205, 1, false},
					 {at + 206, HDR + f.len - 206, false}},
		   4);
	driver_kick(&g, TX);
	cr_expect_eq(mmds_count.rx_count.value, 1);
	cr_expect_eq(mmds_count.rx_accepted_err.value, 0);
	end_mmds(m);
}

Test(net, answers_that_no_buffer_holds_are_lost_and_block_nothing)
{
	struct mmdsnet *m = add_mmds((struct net_config){.mac = frame_mac_a});
	struct frame ask = arp_for("169.254.169.254"), from = udp();

	for (int i = 0; i < 5; i++)
		send_one(NULL, &ask);
	add_rx(20);
	driver_kick(&g, RX);
	cr_expect_eq(mmds_count.tx_errors.value, 5);
	cr_expect_eq(count->rx_packets_count.value, 0);
	arrive(0, &from);
	add_rx(2000);
	driver_kick(&g, RX);
	cr_expect_eq(count->rx_packets_count.value, 1);
	end_mmds(m);
}

Test(net, a_reset_while_answers_wait)
{
	struct mmdsnet *m = add_mmds((struct net_config){.mac = frame_mac_a});
	struct frame ask = arp_for("169.254.169.254");
	gpa_t at;

	send_one(NULL, &ask);
	driver_write(&g, VIRTIO_MMIO_STATUS, 0);
	driver_run(&g);
	driver_start(&g, VIRTIO_FEATURES_COMMON | F_MAC | F_MRG_RXBUF);
	at = add_rx(100);
	driver_kick(&g, RX);
	cr_expect_eq(num_buffers(at), 1);
	send_one(NULL, &ask);
	end_mmds(m);
}

Test(net, a_guest_that_has_moved_is_announced_by_its_address)
{
	static const uint8_t rarp[] = {0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3};
	uint8_t got[256];
	const uint8_t *frame = got + HDR;

	net_announce(dev);
	cr_assert_eq(recv(fake->peer[0], got, sizeof(got), 0), (ssize_t)(HDR + 60));
	for (unsigned i = 0; i < HDR; i++)
		cr_expect_eq(got[i], 0);
	for (unsigned i = 0; i < 6; i++)
		cr_expect_eq(frame[i], 0xff);
	cr_expect_arr_eq(frame + 6, frame_mac_a, 6);
	cr_expect_arr_eq(frame + 12, rarp, sizeof(rarp));
	cr_expect_arr_eq(frame + 22, frame_mac_a, 6, "sender");
	cr_expect_arr_eq(frame + 32, frame_mac_a, 6, "target");
	cr_expect_eq(metric_take(&count->tx_packets_count), 0, "it is not the guest's");
	/* What policy does not let out stays in. */
	netguard_set_policy(net_guard(dev), deny_all_but_53());
	net_announce(dev);
	cr_expect_lt(recv(fake->peer[0], got, sizeof(got), 0), 0);
	netguard_set_policy(net_guard(dev), NULL);
	/* An address that only the guest knows. */
	again((struct net_config){0}, 1, 0, 0);
	net_announce(dev);
	cr_expect_lt(recv(fake->peer[0], got, sizeof(got), 0), 0);
}
