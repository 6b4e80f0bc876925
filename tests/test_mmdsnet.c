/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>

#include "tests/lib/mmdspeer.h"

#define GUEST	      "10.0.0.2"
#define TICKS_IDLE    (31 * 4) /* 250 ms each */
#define TICKS_FOREVER 4000

static struct loop loop;
static struct mmdsnet *net;
static struct mmdsnet_port *port;
static struct mmdsnet_metrics count;
static unsigned sessions, wakes;
static bool refuse_all;
static struct mmdspeer peer, other;

/*
 * The service of these tests: a request is a line, answered with its text and, behind a colon, as
 * many bytes as it says; "bye" ends the connection.
 */
struct line {
	size_t len;
	char text[6000];
};

static void *line_open(void *arg)
{
	(void)arg;
	if (refuse_all)
		return NULL;
	sessions++;
	return calloc(1, sizeof(struct line));
}

static void line_close(void *session)
{
	sessions--;
	free(session);
}

static size_t line_input(void *session, const char *buf, size_t len, struct mmdsnet_answer *a)
{
	struct line *l = session;
	const char *end = memchr(buf, '\n', len);
	size_t used = end ? (size_t)(end - buf) + 1 : len;
	unsigned long more;

	if (l->len + used >= sizeof(l->text)) {
		a->close = true;
		return len;
	}
	memcpy(l->text + l->len, buf, used);
	l->len += used;
	if (!end)
		return used;
	l->text[l->len - 1] = '\0';
	more = strchr(l->text, ':') ? strtoul(strchr(l->text, ':') + 1, NULL, 10) : 0;
	a->len = l->len - 1 + more;
	a->bytes = malloc(a->len + 1);
	memcpy(a->bytes, l->text, l->len - 1);
	for (size_t i = 0; i < more; i++)
		a->bytes[l->len - 1 + i] = (char)('a' + i % 23);
	a->close = strcmp(l->text, "bye") == 0;
	l->len = 0;
	return used;
}

static void wake(void *arg)
{
	(void)arg;
	wakes++;
}

static void start(void)
{
	static const uint8_t address[4] = {169, 254, 169, 254};
	const struct mmdsnet_service service = {line_open, line_input, line_close, NULL};

	cr_assert_eq(loop_init(&loop, NULL), 0);
	net = mmdsnet_create(&loop, address, &service, &count, NULL);
	cr_assert_not_null(net);
	port = mmdsnet_add(net, 0, NULL);
	cr_assert_not_null(port);
	mmdsnet_attach(port, wake, NULL);
}

static void finish(void)
{
	mmdsnet_destroy(net);
	cr_expect_eq(sessions, 0, "every session is closed");
	cr_expect_null(loop.timers);
	loop_finish(&loop);
}

TestSuite(mmdsnet, .init = start, .fini = finish, .timeout = 60);

/* A quarter of a second passes, if anybody waits for it. */
static bool tick(void)
{
	struct loop_timer *t = loop.timers;

	if (!t)
		return false;
	loop_timer_clear(&loop, t);
	t->expired(t);
	return true;
}

static void drain(void)
{
	uint32_t len;

	while (mmdsnet_peek(port, &len))
		mmdsnet_next(port, true);
}

static void connect_or_fail(struct mmdspeer *p, unsigned sport)
{
	cr_assert(peer_connect(p, port, GUEST, sport));
	peer_send(p, PEER_ACK, NULL, 0);
}

static bool works(unsigned sport)
{
	struct mmdspeer *p = malloc(sizeof(*p));
	bool fine;

	fine = peer_connect(p, port, GUEST, sport);
	peer_send(p, PEER_ACK, NULL, 0);
	peer_say(p, "still here\n");
	peer_pull(p);
	fine = fine && strcmp(p->got, "still here") == 0 && !p->bad;
	peer_send(p, PEER_RST, NULL, 0);
	free(p);
	return fine;
}

/* --- Ethernet and ARP --- */

Test(mmdsnet, arp_requests_for_the_address_are_answered)
{
	static const uint8_t mac[6] = {0x06, 0x01, 0x23, 0x45, 0x67, 0x01};
	struct frame f;
	const uint8_t *got;
	uint32_t len;

	frame_arp(&f, 1, frame_mac_a, GUEST, MMDS_IP);
	cr_assert(peer_frame(port, f.byte, f.len));
	got = mmdsnet_peek(port, &len);
	cr_assert(got);
	cr_assert_eq(len, 42);
	cr_expect_arr_eq(got, frame_mac_a, 6);
	cr_expect_arr_eq(got + 6, mac, 6);
	cr_expect_arr_eq(got + 12, "\x08\x06\0\1\x08\0\6\4\0\2", 10);
	cr_expect_arr_eq(got + 22, mac, 6);
	cr_expect_arr_eq(got + 28, f.byte + 38, 4);
	cr_expect_arr_eq(got + 32, f.byte + 22, 10);
	mmdsnet_next(port, true);
	cr_expect_null(mmdsnet_peek(port, &len));
	cr_expect_eq(count.rx_accepted.value, 1);
	cr_expect_eq(count.tx_frames.value, 1);
	cr_expect_eq(count.tx_bytes.value, 42);
	cr_expect_eq(wakes, 1);
	cr_expect_null(loop.timers, "no connection, no timer");
}

Test(mmdsnet, what_is_for_others_is_not_taken)
{
	struct frame f;

	frame_arp(&f, 1, frame_mac_a, GUEST, "169.254.169.253");
	cr_expect_not(peer_frame(port, f.byte, f.len));
	frame_arp(&f, 2, frame_mac_a, GUEST, MMDS_IP);
	cr_expect_not(peer_frame(port, f.byte, f.len), "a reply");
	frame_arp(&f, 1, frame_mac_a, GUEST, MMDS_IP);
	f.byte[18] = 8;
	cr_expect_not(peer_frame(port, f.byte, f.len), "addresses of another length");
	frame_tcp(&f, GUEST, 1, "169.254.169.253", 80, PEER_SYN, 0);
	cr_expect_not(peer_frame(port, f.byte, f.len));
	frame_tcp(&f, MMDS_IP, 80, GUEST, 1, PEER_SYN, 0);
	cr_expect_not(peer_frame(port, f.byte, f.len));
	frame_tcp(&f, "fd00::2", 1, "fd00::1", 80, PEER_SYN, 0);
	cr_expect_not(peer_frame(port, f.byte, f.len));
	cr_expect_eq(count.rx_accepted.value, 0);
}

Test(mmdsnet, other_protocols_are_swallowed)
{
	struct frame f;
	uint32_t len;

	frame_udp(&f, GUEST, 1, MMDS_IP, 53, 10);
	cr_expect(peer_frame(port, f.byte, f.len));
	frame_icmp(&f, GUEST, MMDS_IP, 8, 0, 10);
	cr_expect(peer_frame(port, f.byte, f.len));
	cr_expect_eq(count.rx_accepted_unusual.value, 2);
	cr_expect_null(mmdsnet_peek(port, &len));
}

Test(mmdsnet, frames_cut_anywhere)
{
	struct frame f;

	frame_arp(&f, 1, frame_mac_a, GUEST, MMDS_IP);
	for (uint32_t len = 0; len < f.len; len++)
		cr_assert_not(peer_frame(port, f.byte, len));
	connect_or_fail(&peer, 1000);
	peer_segment(&peer, &f, PEER_ACK | PEER_PSH, "hello\n", 6);
	for (uint32_t len = 0; len < f.len; len++)
		peer_frame(port, f.byte, len);
	drain();
	cr_expect_eq(peer.len, 0);
	peer_say(&peer, "hello\n");
	peer_pull(&peer);
	cr_expect_str_eq(peer.got, "hello");
}

Test(mmdsnet, headers_that_lie)
{
	struct frame good, f;

	connect_or_fail(&peer, 1000);
	peer_segment(&peer, &good, PEER_ACK | PEER_PSH, "x", 1);
	/* Each byte of the IP and TCP headers becomes each of these. */
	for (uint32_t at = 14; at < 54; at++) {
		static const uint8_t value[] = {0,    1,    0x0f, 0x40, 0x46,
						0x4f, 0x7f, 0x80, 0xf0, 0xff};

		for (size_t i = 0; i < sizeof(value); i++) {
			f = good;
			f.byte[at] = value[i];
			peer_frame(port, f.byte, f.len);
			drain();
		}
	}
	cr_expect(works(2000));
}

Test(mmdsnet, options_that_lie)
{
	struct frame f;

	for (unsigned kind = 0; kind < 256; kind++) {
		for (unsigned len = 0; len < 256; len += len < 12 ? 1 : 61) {
			frame_tcp(&f, GUEST, 3000, MMDS_IP, 80, PEER_SYN, 12);
			f.byte[46] = 0x80;
			f.byte[54] = (uint8_t)kind;
			f.byte[55] = (uint8_t)len;
			peer_frame(port, f.byte, f.len);
			drain();
			frame_tcp(&f, GUEST, 3000, MMDS_IP, 80, PEER_RST, 0);
			peer_put32(&f, 38, 1);
			peer_frame(port, f.byte, f.len);
		}
	}
	cr_expect(works(2000));
}

/* --- connections --- */

Test(mmdsnet, a_line_and_its_answer)
{
	connect_or_fail(&peer, 1000);
	cr_expect_eq(sessions, 1);
	peer_say(&peer, "hel");
	peer_pull(&peer);
	cr_expect_eq(peer.len, 0);
	peer_say(&peer, "lo\n");
	peer_pull(&peer);
	cr_expect_str_eq(peer.got, "hello");
	cr_expect_eq(peer.bad, 0);
	cr_expect_not(peer.fin);
	peer_send(&peer, PEER_ACK | PEER_FIN, NULL, 0);
	peer_pull(&peer);
	cr_expect(peer.fin);
	cr_expect_eq(sessions, 0);
	cr_expect_eq(count.connections_created.value, 1);
	cr_expect_eq(count.connections_destroyed.value, 1);
	while (tick())
		;
}

Test(mmdsnet, the_service_closes)
{
	unsigned n = 0;

	connect_or_fail(&peer, 1000);
	peer_say(&peer, "bye\n");
	peer_pull(&peer);
	cr_expect_str_eq(peer.got, "bye");
	cr_expect(peer.fin);
	cr_expect_not(peer.reset);
	cr_expect_eq(sessions, 0);
	peer_send(&peer, PEER_ACK | PEER_FIN, NULL, 0);
	while (tick())
		cr_assert_lt(n++, TICKS_FOREVER, "the timer ends");
}

Test(mmdsnet, lines_behind_each_other)
{
	connect_or_fail(&peer, 1000);
	peer_say(&peer, "one:3000\ntwo:3000\nth");
	peer_say(&peer, "ree\nbye\nnever");
	peer_pull(&peer);
	cr_expect_eq(peer.len, 8 + 3000 + 8 + 3000 + 5 + 3);
	cr_expect_str_eq(peer.got + peer.len - 8, "threebye");
	cr_expect(peer.fin);
}

Test(mmdsnet, who_has_said_everything_gets_the_answer)
{
	connect_or_fail(&peer, 1000);
	peer_send(&peer, PEER_ACK | PEER_FIN, "big:40000\n", 10);
	peer_pull(&peer);
	cr_expect_eq(peer.len, 40009);
	cr_expect(peer.fin);
	cr_expect_not(peer.reset);
	cr_expect_eq(sessions, 0);
}

static bool is_whole(const struct mmdspeer *p, size_t prefix, size_t len)
{
	bool fine = p->len == prefix + len;

	for (size_t i = 0; fine && i < len; i++)
		fine = p->got[prefix + i] == (char)('a' + i % 23);
	return fine;
}

Test(mmdsnet, a_large_answer)
{
	connect_or_fail(&peer, 1000);
	peer_say(&peer, "big:60000\n");
	peer_pull(&peer);
	cr_expect(is_whole(&peer, 9, 60000), "%zu", peer.len);
	cr_expect_eq(peer.bad, 0);
}

Test(mmdsnet, lost_frames_are_sent_again)
{
	for (unsigned lose = 2; lose < 6; lose++) {
		unsigned n = 0;

		connect_or_fail(&peer, 1000 + lose);
		peer.lose = lose;
		peer_say(&peer, "big:40000\n");
		while (!is_whole(&peer, 9, 40000)) {
			peer_pull(&peer);
			tick();
			cr_assert_lt(n++, TICKS_FOREVER, "%zu bytes", peer.len);
		}
		cr_expect_eq(peer.bad, 0);
		peer_send(&peer, PEER_RST, NULL, 0);
	}
}

Test(mmdsnet, who_takes_no_frames_gets_them_later)
{
	enum { PEERS = 12 };
	struct mmdspeer *p = calloc(PEERS, sizeof(*p));
	const uint8_t *bytes;
	uint32_t len;

	for (unsigned i = 0; i < PEERS; i++)
		connect_or_fail(&p[i], 1000 + i);
	for (unsigned i = 0; i < PEERS; i++)
		peer_say(&p[i], "big:30000\n");
	cr_expect_gt(count.tx_errors.value, 0, "the ring is full");
	/* No tick: TCP is told at once that there is room again. */
	while ((bytes = mmdsnet_peek(port, &len))) {
		struct frame f = {.len = len};
		struct mmdspeer *to;

		memcpy(f.byte, bytes, len);
		mmdsnet_next(port, true);
		to = &p[(frame_get16(&f, 36) - 1000) % PEERS];
		peer_take(to, &f);
		peer_send(to, PEER_ACK, NULL, 0);
	}
	for (unsigned i = 0; i < PEERS; i++)
		cr_expect(is_whole(&p[i], 9, 30000), "%u: %zu", i, p[i].len);
	free(p);
}

Test(mmdsnet, small_segments_if_the_guest_wants_them)
{
	struct frame f;

	peer = (struct mmdspeer){.port = port, .ip = GUEST, .sport = 1000};
	frame_tcp(&f, GUEST, 1000, MMDS_IP, 80, PEER_SYN, 4);
	frame_put16(&f, 48, 60000);
	f.byte[46] = 0x60;
	memcpy(f.byte + 54, "\2\4\0\1", 4);
	peer_frame(port, f.byte, f.len);
	peer.seq = 1;
	peer_pull(&peer);
	cr_assert(peer.connected);
	peer_send(&peer, PEER_ACK, NULL, 0);
	peer_say(&peer, "big:500\n");
	for (int i = 0; i < 100; i++) {
		peer_pull(&peer);
		tick();
	}
	cr_expect(is_whole(&peer, 7, 500), "%zu", peer.len);
}

Test(mmdsnet, overlapping_and_disordered_segments)
{
	uint32_t begin;

	connect_or_fail(&peer, 1000);
	begin = peer.seq;
	peer_say(&peer, "abc");
	/* Again, with other bytes: the first ones count. */
	peer.seq = begin;
	peer_say(&peer, "XYZde");
	peer.seq = begin + 10;
	peer_say(&peer, "lost\n");
	peer.seq = begin - 100;
	peer_say(&peer, "old");
	peer.seq = begin + 4;
	peer_say(&peer, "Xf\n");
	peer_pull(&peer);
	cr_expect_str_eq(peer.got, "abcdef");
	cr_expect_not(peer.reset);
}

Test(mmdsnet, more_than_the_window)
{
	char big[1400];

	memset(big, 'x', sizeof(big));
	connect_or_fail(&peer, 1000);
	/* An answer that is not taken keeps what comes behind it in the window. */
	peer_say(&peer, "big:60000\n");
	for (int i = 0; i < 20; i++)
		peer_send(&peer, PEER_ACK, big, sizeof(big));
	cr_expect_eq(sessions, 1);
	peer_pull(&peer);
	cr_expect_eq(peer.bad, 0);
	cr_expect(works(2000));
}

Test(mmdsnet, flags_that_make_no_sense)
{
	for (unsigned flags = 0; flags < 256; flags++) {
		peer = (struct mmdspeer){.port = port, .ip = GUEST, .sport = 1000 + flags};
		peer_send(&peer, flags, "x", flags & 1);
		drain();
		connect_or_fail(&peer, 2000 + flags);
		peer_send(&peer, flags, "x\n", 2);
		drain();
		peer_send(&peer, PEER_RST | PEER_ACK, NULL, 0);
		peer.seq -= 2;
		peer_send(&peer, PEER_RST | PEER_ACK, NULL, 0);
		peer.seq += 1;
		peer_send(&peer, PEER_RST | PEER_ACK, NULL, 0);
		for (int i = 0; i < TICKS_IDLE && tick(); i++)
			drain();
		cr_assert_eq(sessions, 0);
	}
	cr_expect(works(5000));
}

Test(mmdsnet, other_ports_are_closed)
{
	struct frame f;

	peer = (struct mmdspeer){.port = port, .ip = GUEST, .sport = 1000};
	frame_tcp(&f, GUEST, 1000, MMDS_IP, 81, PEER_SYN, 0);
	peer_frame(port, f.byte, f.len);
	peer_pull(&peer);
	cr_expect(peer.reset);
	cr_expect_eq(sessions, 0);
}

/* --- limits --- */

Test(mmdsnet, a_thousand_syns)
{
	unsigned n = 0;

	for (unsigned i = 0; i < 1000; i++) {
		peer = (struct mmdspeer){.port = port, .ip = GUEST, .sport = 1000 + i};
		peer_send(&peer, PEER_SYN, NULL, 0);
	}
	drain();
	cr_expect_eq(sessions, 0);
	while (tick()) {
		drain();
		cr_assert_lt(n++, TICKS_FOREVER, "they are given up");
	}
	cr_expect(works(9000));
}

Test(mmdsnet, thirty_connections_and_idle_ones_give_way)
{
	unsigned n = 0, established = 0;

	for (unsigned i = 0; i < 40; i++) {
		bool fine = peer_connect(&peer, port, GUEST, 1000 + i);

		if (fine)
			peer_send(&peer, PEER_ACK, NULL, 0);
		established += fine;
		drain();
	}
	cr_expect_eq(established, 30);
	cr_expect_eq(sessions, 30);
	cr_expect_not(works(3000), "all are in use");
	for (int i = 0; i < 6 * 4; i++) {
		tick();
		drain();
	}
	cr_expect(works(3001), "after five seconds one gives way");
	cr_expect_eq(sessions, 29);
	while (tick()) {
		drain();
		cr_assert_lt(n++, TICKS_FOREVER, "they are ended");
	}
	cr_expect_eq(sessions, 0);
}

Test(mmdsnet, idle_connections_are_ended_and_busy_ones_not)
{
	connect_or_fail(&peer, 1000);
	connect_or_fail(&other, 1001);
	for (int i = 0; i < TICKS_IDLE; i++) {
		tick();
		peer_pull(&peer);
		if (i % 40 == 0)
			peer_say(&peer, "hello\n");
	}
	cr_expect_eq(sessions, 1);
	cr_expect_not(peer.reset);
	peer_send(&peer, PEER_RST, NULL, 0);
	cr_expect_eq(sessions, 0);
}

Test(mmdsnet, a_reader_that_stops_is_given_up)
{
	connect_or_fail(&peer, 1000);
	peer_say(&peer, "big:60000\n");
	for (int i = 0; i < TICKS_FOREVER && tick(); i++)
		drain();
	cr_expect_eq(sessions, 0);
	cr_expect_null(loop.timers);
}

Test(mmdsnet, a_session_that_is_refused)
{
	refuse_all = true;
	peer_connect(&peer, port, GUEST, 1000);
	peer_send(&peer, PEER_ACK, NULL, 0);
	peer_pull(&peer);
	cr_expect(peer.reset);
	cr_expect_eq(count.connections_created.value, 0);
}

/* --- several interfaces --- */

Test(mmdsnet, each_port_has_its_own_connections)
{
	struct mmdsnet_port *second = mmdsnet_add(net, 0, NULL);
	uint32_t len;

	cr_assert_not_null(second);
	/* The same addresses and ports on both. */
	cr_assert(peer_connect(&peer, port, GUEST, 1000));
	cr_expect_null(mmdsnet_peek(second, &len));
	cr_assert(peer_connect(&other, second, GUEST, 1000));
	cr_expect_null(mmdsnet_peek(port, &len));
	peer_send(&peer, PEER_ACK, NULL, 0);
	peer_send(&other, PEER_ACK, NULL, 0);
	peer_say(&peer, "first:5000\n");
	peer_say(&other, "second:5000\n");
	peer_pull(&peer);
	peer_pull(&other);
	cr_expect(is_whole(&peer, 10, 5000));
	cr_expect(is_whole(&other, 11, 5000));
	/* A reset for what nobody knows goes back to where it came from. */
	peer = (struct mmdspeer){.port = second, .ip = GUEST, .sport = 3000};
	peer_send(&peer, PEER_ACK, NULL, 0);
	peer_pull(&peer);
	cr_expect(peer.reset);
	cr_expect_null(mmdsnet_peek(port, &len));
}

Test(mmdsnet, sixteen_ports_and_one_network)
{
	struct err e = {0};
	unsigned n = 1;

	while (mmdsnet_add(net, 1400, &e))
		n++;
	cr_expect_eq(n, 16);
	cr_expect_eq(e.code, ENOSPC);
	cr_expect_null(
		mmdsnet_create(&loop, (uint8_t[4]){1}, &(struct mmdsnet_service){0}, &count, &e));
	cr_expect_eq(e.code, EBUSY);
	cr_expect(works(1000));
}

Test(mmdsnet, the_mtu_bounds_the_frames)
{
	struct mmdsnet_port *small = mmdsnet_add(net, 576, NULL);
	uint32_t len, longest = 0;

	cr_assert(peer_connect(&peer, small, GUEST, 1000));
	peer_send(&peer, PEER_ACK, NULL, 0);
	peer_say(&peer, "big:5000\n");
	while (mmdsnet_peek(small, &len)) {
		longest = len > longest ? len : longest;
		mmdsnet_next(small, true);
	}
	cr_expect_gt(longest, 14 + 500);
	cr_expect_leq(longest, 14 + 576);
	mmdsnet_destroy(NULL);
}
