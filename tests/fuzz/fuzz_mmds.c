/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that does anything to the metadata service: frames into its network on two interfaces, and
 * requests over its connections.
 *
 * Byte 0 chooses version and imds_compat. The rest is a program for up to four connections:
 *
 *	0x00..0x3f  a segment as it would be next: connection, flags, length (1), then bytes
 *	0x40..0x5f  a raw frame: interface, length (1), then bytes
 *	0x60..0x8f  a segment with a byte changed: connection, flags, offset, value, cut (1)
 *	0x90..0x9f  a quarter of a second
 *	0xa0..0xbf  the guest takes what there is, and acknowledges it on honest connections
 *	0xc0..0xcf  a connection is made: connection, interface
 *	0xd0..0xff  a request out of pieces: connection, pieces (1), then their numbers
 *
 * What must hold: no crash, no leak; what comes out is a frame from the service's own address that fits
 * the MTU; without connections the timer ends; a token that was never given opens nothing.
 */
#include <stdio.h>

#include "tests/fuzz/input.h"
#include "tests/lib/mmdspeer.h"
#include "vmm/mmds.h"

#define PEERS 4u

static struct mmdspeer peer[PEERS];

static uint8_t take_byte(struct program *in)
{
	return (uint8_t)take(in, 1);
}

static void tick(struct loop *l)
{
	struct loop_timer *t = l->timers;

	if (!t)
		return;
	loop_timer_clear(l, t);
	t->expired(t);
}

static void look(struct mmdsnet_port *port, struct mmdspeer *p)
{
	static const uint8_t mac[6] = {0x06, 0x01, 0x23, 0x45, 0x67, 0x01};
	const uint8_t *bytes;
	uint32_t len;

	while ((bytes = mmdsnet_peek(port, &len))) {
		struct frame f = {.len = len};

		must(len >= 34 && len <= 1514, "fits");
		must(memcmp(bytes + 6, mac, 6) == 0, "its own MAC");
		memcpy(f.byte, bytes, len);
		mmdsnet_next(port, true);
		if (frame_get16(&f, 12) == 0x0806)
			continue;
		must(f.byte[22] == 1 && f.byte[23] == 6 && frame_sums_right(&f, 6), "TCP");
		for (unsigned i = 0; i < PEERS; i++) {
			uint32_t before = p[i].ack;

			if (p[i].port != port || frame_get16(&f, 36) != p[i].sport)
				continue;
			peer_take(&p[i], &f);
			if (p[i].ack != before)
				peer_send(&p[i], PEER_ACK, NULL, 0);
		}
	}
}

static void say(struct mmdspeer *p, struct program *in)
{
	static const char *const piece[] = {
		"GET ",
		"PUT ",
		"/latest/api/token",
		"/",
		"/a",
		"/b/0",
		"~1",
		" HTTP/1.1\r\n",
		"X-metadata-token: ",
		"X-metadata-token-ttl-seconds: ",
		"60\r\n",
		"0123456789abcdef",
		"Accept: application/json\r\n",
		"Connection: close\r\n",
		"X-Forwarded-For: x\r\n",
		"\r\n",
		"Content-Length: 5\r\n",
		"Transfer-Encoding: chunked\r\n",
		"5\r\nhello\r\n0\r\n",
		"Expect: 100-continue\r\n",
		"HEAD ",
		"POST ",
		"http://x",
		"*",
	};
	char text[1400];
	size_t n = 0;

	for (unsigned left = take_byte(in); left > 0; left--) {
		const char *s = piece[take_byte(in) % ARRAY_SIZE(piece)];

		if (n + strlen(s) < sizeof(text))
			n += (size_t)sprintf(text + n, "%s", s);
	}
	peer_send(p, PEER_ACK | PEER_PSH, text, (uint32_t)n);
}

static void step(struct mmdsnet_port *const port[2], struct loop *loop, struct program *in)
{
	uint8_t op = take_byte(in), buf[256];
	struct mmdspeer *p;
	unsigned len, flags;
	struct frame f;

	if (op >= 0x90 && op < 0xa0) {
		tick(loop);
		return;
	}
	if (op >= 0xa0 && op < 0xc0) {
		look(port[0], peer);
		look(port[1], peer);
		return;
	}
	p = &peer[take_byte(in) % PEERS];
	if (op < 0x40) {
		flags = take_byte(in);
		len = take_byte(in);
		for (unsigned i = 0; i < len; i++)
			buf[i] = take_byte(in);
		peer_send(p, flags, buf, len);
	} else if (op < 0x60) {
		len = take_byte(in);
		for (unsigned i = 0; i < len; i++)
			buf[i] = take_byte(in);
		peer_frame(port[op & 1], buf, len);
	} else if (op < 0x90) {
		peer_segment(p, &f, take_byte(in), "GET /a HTTP/1.1\r\n\r\n", 19);
		f.byte[take_byte(in) % f.len] = take_byte(in);
		f.len -= take_byte(in) % f.len;
		peer_frame(p->port, f.byte, f.len);
	} else if (op < 0xd0) {
		peer_connect(p, port[op & 1], "10.0.0.2", 1000u + take_byte(in));
		peer_send(p, PEER_ACK, NULL, 0);
	} else {
		say(p, in);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct program in = {data, data + size};
	struct mmdsnet_port *port[2];
	struct mmds_config config;
	struct mmdsnet *net;
	struct loop loop;
	struct mmds m;
	json_t *v = json_loads("{\"a\":\"secret\",\"b\":[1,\"x\"]}", 0, NULL);
	unsigned n = 0;

	must(v && loop_init(&loop, NULL) == 0, "a loop");
	mmds_init(&m);
	mmds_config_init(&config);
	config.v2 = data && size > 0 && *data & 1;
	config.imds_compat = take_byte(&in) & 2;
	must(mmds_put(&m, v, NULL) == 0, "a document");
	json_decref(v);
	net = mmds_open(&m, &config, &loop, NULL);
	must(net, "a network");
	for (unsigned i = 0; i < 2; i++)
		port[i] = mmdsnet_add(net, i ? 576 : 0, NULL);
	for (unsigned i = 0; i < PEERS; i++)
		peer[i] =
			(struct mmdspeer){.port = port[i % 2], .ip = "10.0.0.2", .sport = 1000 + i};
	while (in.p < in.end)
		step(port, &loop, &in);
	for (unsigned i = 0; i < PEERS; i++)
		must(!config.v2 || m.tokens.token || !strstr(peer[i].got, "secret"), "a token");
	while (loop.timers && n++ < 1000) {
		tick(&loop);
		look(port[0], peer);
		look(port[1], peer);
	}
	must(!loop.timers, "the timer ends");
	must(m.count.connections_created.value == m.count.connections_destroyed.value, "closed");
	mmdsnet_destroy(net);
	mmds_finish(&m);
	mmds_config_finish(&config);
	loop_finish(&loop);
	return 0;
}
