/* SPDX-License-Identifier: Apache-2.0 */
/*
 * policy ROUNDS: what judging a frame costs beside sending it. Needs root, for a tap in a network
 * namespace of its own. Prints the CSV of bench.h; each value is for 1000 frames.
 *
 *	none		frames of 64 KiB, as a guest's TCP hands them over, into the tap: the least
 *			that the host's kernel takes for one, since nobody receives them
 *	rules		the same, with a policy of 100 rules judging each; the last one allows it
 *	judge, judge_0	the judgement alone, with 100 rules and with none
 */
#define _GNU_SOURCE
#include <sched.h>

#include "tests/bench/bench.h"
#include "tests/lib/frames.h"
#include "virtio/net.h"
#include "virtio/netguard.h"
#include "virtio/nettap.h"

#define FRAMES	1000u
#define PAYLOAD 65000u
#define HEAD	(NETBACKEND_HEADER + NETFRAME_HEAD)
#define LENGTH	(NETFRAME_ETH + 40 + PAYLOAD)

static struct netbackend *make_tap(void)
{
	struct netbackend *b;
	struct err e;
	int fd[NETBACKEND_PAIRS_MAX];

	if (unshare(CLONE_NEWNET) < 0)
		err(1, "a network namespace");
	if (system("ip tuntap add dev tap0 mode tap && ip link set tap0 up") != 0)
		errx(1, "cannot make a tap");
	if (nettap_open("tap0", 1, fd, &e) < 0)
		errx(1, "%s", e.msg);
	b = nettap_create(fd, 1, &e);
	if (!b)
		errx(1, "%s", e.msg);
	return b;
}

/* The first bytes of a segment that the host is to cut into frames of 1514 bytes. */
static void make_head(uint8_t head[HEAD])
{
	const struct netframe_offload o = {
		.flags = NETFRAME_NEEDS_CSUM,
		.gso_type = NETFRAME_GSO_TCPV4,
		.hdr_len = NETFRAME_ETH + 40,
		.gso_size = 1460,
		.csum_start = NETFRAME_ETH + 20,
		.csum_offset = 16,
	};
	struct frame f;

	frame_ethernet(&f, frame_mac_b, frame_mac_a, 0x0800);
	frame_ip(&f, "10.0.0.2", "8.8.8.8", IPPROTO_TCP, 20 + PAYLOAD);
	frame_put16(&f, f.len, 4000);
	frame_put16(&f, f.len + 2, 443);
	f.byte[f.len + 12] = 5u << 4;
	f.byte[f.len + 13] = NETFRAME_TCP_ACK;
	memcpy(head, &o, sizeof(o));
	memcpy(head + NETBACKEND_HEADER, f.byte, NETFRAME_HEAD);
}

static void make_policy(struct netguard *g, unsigned rules)
{
	static struct netpolicy_config c;
	struct netpolicy_rules *out = &c.way[NETFRAME_EGRESS];
	struct netpolicy *p;
	struct err e;

	out->count = 0;
	out->allow = true;
	for (unsigned i = 0; i + 1 < rules; i++) {
		struct netpolicy_rule *r = &out->rule[out->count++];
		char text[32];

		snprintf(text, sizeof(text), "192.168.%u.0/24", i);
		*r = (struct netpolicy_rule){.protocol = IPPROTO_TCP};
		if (netpolicy_parse_cidr(text, r) < 0 || netpolicy_parse_ports("1-1000", r) < 0)
			errx(1, "rule");
	}
	if (rules)
		out->rule[out->count++] = (struct netpolicy_rule){
			.allow = true, .any_address = true, .any_port = true};
	c.addresses = 1;
	if (netaddr_parse("10.0.0.2", &c.address[0]) < 0)
		errx(1, "address");
	p = netpolicy_create(&c, frame_mac_a, &e);
	if (!p)
		errx(1, "%s", e.msg);
	netguard_set_policy(g, p);
}

/* Nanoseconds for FRAMES frames; without a backend they are only judged. */
static uint64_t run(struct netbackend *b, struct netguard *g, uint8_t head[HEAD])
{
	static uint8_t body[LENGTH];
	uint64_t start = bench_now();

	for (unsigned i = 0; i < FRAMES; i++) {
		struct iovec iov[] = {{head, HEAD}, {body, LENGTH - NETFRAME_HEAD}};

		if (netguard_on(g) && !netguard_tx(g, head, LENGTH))
			errx(1, "the policy denies it");
		if (b && b->ops->send(b, 0, iov, 2, NETBACKEND_HEADER + LENGTH) < 0)
			errx(1, "the tap does not take it");
	}
	return bench_now() - start;
}

int main(int argc, char **argv)
{
	struct netguard none = {0}, open = {0}, full = {0};
	unsigned rounds = argc == 2 ? (unsigned)atoi(argv[1]) : 0;
	struct netbackend *tap = make_tap();
	uint8_t head[HEAD];

	make_head(head);
	make_policy(&open, 0);
	make_policy(&full, 100);
	for (unsigned i = 0; i < rounds; i++) {
		bench_row("policy", i, "none", run(tap, &none, head));
		bench_row("policy", i, "rules", run(tap, &full, head));
		bench_row("policy", i, "judge_0", run(NULL, &open, head));
		bench_row("policy", i, "judge", run(NULL, &full, head));
	}
	netguard_finish(&open);
	netguard_finish(&full);
	tap->ops->destroy(tap);
	return 0;
}
