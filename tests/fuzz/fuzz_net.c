/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that does anything to a network device with three queue pairs, and a network that does
 * anything to the guest.
 *
 * Byte 0 chooses limits, policy and rewriting, and whether frames come through the passt framing;
 * byte 1 the features that an honest start accepts. The rest is a program:
 *
 *	0x00..0x1f  write a register: offset / 4 (1) and value (4)
 *	0x20..0x2f  read the configuration space: offset (1), width (1)
 *	0x30..0x3f  write memory: address (2, low region), length (1), that many bytes
 *	0x40..0x5f  a descriptor: queue, index, address (1 kind, 3 offset), len (4), flags, next
 *	0x60..0x6f  put a head into an available ring: queue, head
 *	0x70..0x8f  a frame to send: queue, length (2), header (12), then bytes
 *	0x90..0x9f  a buffer to receive: queue, length (2)
 *	0xa0..0xbf  a frame from the network: pair, length (2), then bytes
 *	0xc0..0xc7  reset and start honestly
 *	other	    kick a queue
 *
 * What must hold: no crash, no leak, no endless loop; what the network gets is a frame with the
 * guest's own MAC, unless the guest may choose one; the status has known bits only.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fuzz/input.h"
#include "tests/lib/driver.h"
#include "tests/lib/frames.h"
#include "virtio/net.h"
#include "virtio/netpasst.h"
#include "vmm/base/log.h"

#define HDR   NETBACKEND_HEADER
#define PAIRS 3u

/* A backend over sockets that keep frames apart, which fails now and then. */
struct fake {
	struct netbackend b;
	int peer[PAIRS];
	unsigned calls;
	bool fails;
};

static int32_t fake_next(struct netbackend *b, unsigned pair)
{
	(void)b;
	(void)pair;
	return NETBACKEND_UNKNOWN;
}

static ssize_t fake_recv(struct netbackend *b, unsigned pair, const struct iovec *iov, int n)
{
	ssize_t r = readv(b->fd[pair], iov, n);

	return r < 0 ? -errno : r;
}

static int fake_send(struct netbackend *b, unsigned pair, struct iovec *iov, int n, uint32_t len)
{
	struct fake *f = CONTAINER_OF(b, struct fake, b);

	(void)len;
	must(iov[0].iov_len >= HDR, "the header is in one piece");
	if (f->fails && ++f->calls % 5 == 0)
		return f->calls % 2 ? -EIO : -EAGAIN;
	return writev(b->fd[pair], iov, n) < 0 ? -errno : 0;
}

static void fake_configure(struct netbackend *b, uint64_t features, unsigned pairs)
{
	(void)features;
	must(pairs >= 1 && pairs <= b->pairs, "as many pairs as there are");
}

static void fake_destroy(struct netbackend *b)
{
	for (unsigned i = 0; i < b->pairs; i++)
		close(b->fd[i]);
	free(CONTAINER_OF(b, struct fake, b));
}

static const struct netbackend_ops fake_ops = {
	.next = fake_next,
	.recv = fake_recv,
	.send = fake_send,
	.configure = fake_configure,
	.destroy = fake_destroy,
};

static struct netbackend *make_backend(bool passt, bool fails, int peer[PAIRS])
{
	struct fake *f;
	int s[2];

	if (passt) {
		must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s) == 0, "sockets");
		peer[0] = s[1];
		return netpasst_create(s[0], NULL);
	}
	f = calloc(1, sizeof(*f));
	must(f, "memory");
	f->fails = fails;
	f->b = (struct netbackend){.ops = &fake_ops, .pairs = PAIRS};
	f->b.offloads =
		NET_F_CSUM | NET_F_GUEST_CSUM | NET_F_HOST_TSO4 | NET_F_GUEST_TSO4 | NET_F_HOST_USO;
	for (unsigned i = 0; i < PAIRS; i++) {
		must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, s) == 0, "sockets");
		f->b.fd[i] = s[0];
		peer[i] = s[1];
	}
	return &f->b;
}

static void add_guard(struct virtio_device *d, uint8_t how)
{
	static struct netpolicy_config c;
	struct netrewrite map = {.count = 1};

	c = (struct netpolicy_config){0};
	c.way[0].allow = how & 0x10;
	c.way[1].allow = how & 0x20;
	netaddr_parse("10.0.0.2", &map.pair[0].inside);
	netaddr_parse("172.16.5.17", &map.pair[0].outside);
	netguard_set_policy(net_guard(d), how & 1 ? netpolicy_create(&c, frame_mac_a, NULL) : NULL);
	netguard_set_rewrite(net_guard(d), how & 2 ? &map : NULL);
}

static unsigned queue_of(struct driver *g, uint64_t v)
{
	return (unsigned)v % g->mmio.dev->num_queues;
}

static void write_memory(struct driver *g, struct program *in)
{
	gpa_t at = take(in, 2);
	uint64_t len = take(in, 1);

	for (uint64_t i = 0; i < len; i++)
		*(uint8_t *)driver_ptr(g, at + i, 1) = (uint8_t)take(in, 1);
}

static void write_descriptor(struct driver *g, struct program *in)
{
	static const gpa_t base[] = {0, DRIVER_HIGH, DRIVER_LOW_END - 64, DRIVER_HIGH_END - 64,
				     UINT64_MAX - 64};
	unsigned queue = queue_of(g, take(in, 1));
	uint16_t i = (uint16_t)take(in, 1);
	uint64_t kind = take(in, 1);
	gpa_t addr = base[kind % ARRAY_SIZE(base)] + take(in, 3);
	uint32_t len = (uint32_t)take(in, 4);
	uint16_t flags = (uint16_t)take(in, 1);
	uint16_t next = (uint16_t)take(in, 1);

	driver_desc(g, queue, i, (struct virtq_desc){addr, len, flags, next});
}

static void add_frame(struct driver *g, struct program *in)
{
	unsigned queue = queue_of(g, take(in, 1));
	uint32_t len = (uint32_t)take(in, 2);
	uint8_t *p = driver_ptr(g, DRIVER_HIGH, 0x10000);
	struct frame f;

	for (unsigned i = 0; i < HDR; i++)
		p[i] = (uint8_t)take(in, 1);
	frame_udp(&f, "10.0.0.2", 1, "8.8.8.8", 53, 100);
	memcpy(p + HDR, f.byte, f.len);
	for (uint32_t i = (uint32_t)take(in, 1), n = (uint32_t)take(in, 1); n > 0; n--)
		p[HDR + i++] = (uint8_t)take(in, 1);
	driver_add(g, queue,
		   (struct driver_buf[]){{DRIVER_HIGH, len / 2, false},
					 {DRIVER_HIGH + len / 2, len - len / 2, false}},
		   2);
}

static void add_room(struct driver *g, struct program *in)
{
	unsigned queue = queue_of(g, take(in, 1));
	uint32_t len = (uint32_t)take(in, 2);

	driver_add(g, queue, (struct driver_buf[]){{DRIVER_HIGH + 0x20000, len, true}}, 1);
}

/* What a socket does not take is lost, as on any network. */
static void network_says(int fd, struct program *in, bool passt)
{
	static uint8_t buf[HDR + 70000];
	uint32_t len = (uint32_t)take(in, 2);
	struct frame f;
	ssize_t r;

	frame_udp(&f, "8.8.8.8", 53, "172.16.5.17", 1, 100);
	memcpy(buf + HDR, f.byte, f.len);
	for (uint32_t i = (uint32_t)take(in, 1), n = (uint32_t)take(in, 1); n > 0; n--)
		buf[HDR + i++] = (uint8_t)take(in, 1);
	if (passt) {
		buf[8] = buf[9] = 0;
		netframe_put16(buf + 10, (uint16_t)len);
		r = write(fd, buf + 8, 4 + len);
	} else {
		r = write(fd, buf, HDR + len);
	}
	(void)r;
}

static void network_hears(const int *peer, unsigned pairs, bool passt, bool has_mac)
{
	static uint8_t buf[HDR + 70000];

	for (unsigned i = 0; i < pairs; i++) {
		ssize_t r;

		while ((r = read(peer[i], buf, sizeof(buf))) > 0) {
			if (passt)
				continue;
			must(r >= HDR + NETFRAME_MIN, "a whole frame");
			if (has_mac)
				must(memcmp(buf + HDR + 6, frame_mac_a, 6) == 0, "its own MAC");
		}
	}
}

static void step(struct driver *g, struct program *in, const int *peer, bool passt,
		 uint64_t features)
{
	uint8_t op = (uint8_t)take(in, 1);
	unsigned pairs = passt ? 1 : PAIRS;
	uint64_t off, v = 0;

	if (op < 0x20) {
		off = (take(in, 1) & 0x3f) * 4;
		driver_write(g, off, (uint32_t)take(in, 4));
	} else if (op < 0x30) {
		off = 0x100 + take(in, 1);
		driver_read_bytes(g, off, &v, 1u << (take(in, 1) & 3));
	} else if (op < 0x40) {
		write_memory(g, in);
	} else if (op < 0x60) {
		write_descriptor(g, in);
	} else if (op < 0x70) {
		unsigned queue = queue_of(g, take(in, 1));

		driver_publish(g, queue, (uint16_t)take(in, 1));
	} else if (op < 0x90) {
		add_frame(g, in);
	} else if (op < 0xa0) {
		add_room(g, in);
	} else if (op < 0xc0) {
		network_says(peer[take(in, 1) % pairs], in, passt);
	} else if (op < 0xc8) {
		driver_start(g, features);
	} else {
		driver_write(g, VIRTIO_MMIO_QUEUE_NOTIFY, queue_of(g, op));
		for (unsigned i = 0; i < 4; i++)
			loop_run_once(&g->loop, 0);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct program in = {data, data + size};
	uint8_t how = (uint8_t)take(&in, 1);
	bool passt = how & 4, has_mac = !(how & 8);
	struct net_config cfg = {.id = "fuzz", .mac = has_mac ? frame_mac_a : NULL, .mtu = 1400};
	struct virtio_device *d;
	int peer[PAIRS] = {-1, -1, -1};
	uint64_t features;
	struct driver g;

	log_set_level(LOG_OFF);
	if (how & 0x40)
		cfg.tx = cfg.rx =
			(struct limiter_config){.ops = {2, 1, 3}, .bandwidth = {1000, 1, 0}};
	driver_init(&g);
	d = net_create(&cfg, make_backend(passt, how & 0x80, peer), &g.env, NULL);
	driver_attach(&g, d);
	add_guard(d, how);
	features = VIRTIO_F_VERSION_1 | (driver_offered(&g) & ~take(&in, 4));
	for (unsigned i = 0; i < d->num_queues; i++)
		driver_place_queue(&g, i, DRIVER_QUEUE_SIZE);
	driver_start(&g, features);

	while (in.p < in.end) {
		step(&g, &in, peer, passt, features);
		network_hears(peer, passt ? 1 : PAIRS, passt, has_mac && !(how & 2));
	}
	must(!(driver_read(&g, VIRTIO_MMIO_STATUS) & ~0xcfu), "the status has known bits only");
	driver_finish(&g);
	for (unsigned i = 0; i < PAIRS; i++)
		if (peer[i] >= 0)
			close(peer[i]);
	return 0;
}
