/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any packet, in any order and both directions, through policy and rewriting.
 *
 * The input is a list of packets: a byte that says which way it goes, how it begins and whether a
 * checksum is left to the other side, a length, and that many bytes. It begins as one of a few good
 * frames, over which the bytes are laid at the offset that the first of them names.
 *
 * What must hold: nothing outside of the frame is touched, and nothing in it behind the head; what
 * a policy lets out has the guest's own MAC and a source address that it may have; what is rewritten
 * has no inside address left in its header, and checksums that are right when they were right.
 */
#include <stdio.h>

#include "tests/fuzz/input.h"
#include "tests/lib/frames.h"
#include "virtio/netguard.h"

#define HDR NETBACKEND_HEADER

static struct netpolicy *make_policy(void)
{
	static struct netpolicy_config c;
	struct netpolicy_rules *out = &c.way[NETFRAME_EGRESS], *in = &c.way[NETFRAME_INGRESS];
	struct netpolicy_rule any = {.allow = true, .any_address = true, .any_port = true};

	c = (struct netpolicy_config){.addresses = 2};
	netaddr_parse("10.0.0.2", &c.address[0]);
	netaddr_parse("fd00::2", &c.address[1]);
	out->rule[out->count] = any;
	netpolicy_parse_ports("53-90", &out->rule[out->count++]);
	out->rule[out->count] = any;
	out->rule[out->count++].protocol = NETFRAME_ICMP_ANY;
	in->rule[in->count] = any;
	netpolicy_parse_cidr("8.0.0.0/8", &in->rule[in->count++]);
	return netpolicy_create(&c, frame_mac_a, NULL);
}

static void make_map(struct netrewrite *map)
{
	*map = (struct netrewrite){.count = 2, .has_mac = true};
	netaddr_parse("10.0.0.2", &map->pair[0].inside);
	netaddr_parse("172.16.5.17", &map->pair[0].outside);
	netaddr_parse("10.0.0.1", &map->pair[1].inside);
	netaddr_parse("172.16.5.1", &map->pair[1].outside);
	memcpy(map->inside_mac, frame_mac_a, 6);
	memcpy(map->outside_mac, ((uint8_t[]){6, 1, 1, 1, 1, 1}), 6);
}

static void make_frame(struct frame *f, unsigned kind)
{
	struct frame about;

	switch (kind % 8) {
	case 0:
		frame_tcp(f, "10.0.0.2", 4000, "8.8.8.8", 80, 2, 20);
		break;
	case 1:
		frame_udp(f, "10.0.0.2", 4000, "10.0.0.1", 53, 30);
		break;
	case 2:
		frame_icmp(f, "10.0.0.2", "8.8.8.8", 8, 7, 8);
		break;
	case 3:
		frame_arp(f, 1, frame_mac_a, "10.0.0.2", "10.0.0.1");
		break;
	case 4:
		frame_udp(f, "8.8.8.8", 53, "172.16.5.17", 4000, 30);
		frame_to(f, (uint8_t[]){6, 1, 1, 1, 1, 1}, frame_mac_b);
		break;
	case 5:
		frame_udp(&about, "172.16.5.17", 4000, "8.8.8.8", 53, 30);
		frame_icmp_error(f, "172.16.5.1", "172.16.5.17", 3, &about, 40);
		frame_to(f, (uint8_t[]){6, 1, 1, 1, 1, 1}, frame_mac_b);
		break;
	case 6:
		frame_udp(f, "fd00::2", 4000, "fd00::1", 53, 30);
		break;
	default:
		frame_icmp(f, "fd00::2", "ff02::1", 135, 0, 24);
		f->byte[21] = 255;
		break;
	}
}

/* Whether the transport checksum of a plain IPv4 frame is right; false also when it has none. */
static bool transport_right(const struct frame *f, const struct netframe *nf)
{
	uint32_t len = frame_get16(f, 16) - (nf->l4 - 14);
	uint8_t p = nf->tuple.protocol;

	if (nf->kind != NETFRAME_IPV4 || nf->fragment != NETFRAME_WHOLE)
		return false;
	if (p == IPPROTO_ICMP)
		return frame_sum(f->byte + nf->l4, len, 0) == 0xffff;
	if (p == IPPROTO_UDP && frame_get16(f, nf->l4 + 6) == 0)
		return false;
	return (p == IPPROTO_TCP || p == IPPROTO_UDP) &&
	       frame_l4_sum(f, nf->l4, len, p, true) == 0xffff;
}

static void check_out(const struct frame *was, const struct frame *now, bool policy, bool rewrite)
{
	struct netframe before, after;
	struct frame a = *was, b = *now;

	if (netframe_parse(&before, a.byte, MIN(a.len, NETFRAME_HEAD), a.len) < 0)
		return;
	must(netframe_parse(&after, b.byte, MIN(b.len, NETFRAME_HEAD), b.len) == 0,
	     "what was let pass can be parsed");
	if (policy)
		must(memcmp(was->byte + 6, frame_mac_a, 6) == 0, "the guest's own MAC");
	if (policy && before.kind == NETFRAME_IPV4) {
		struct netaddr own, nobody = netaddr_v4((uint8_t[4]){0});

		netaddr_parse("10.0.0.2", &own);
		must(netaddr_equal(&before.tuple.src, &own) ||
			     netaddr_equal(&before.tuple.src, &nobody),
		     "the guest's own address");
	}
	if (rewrite && after.kind == NETFRAME_IPV4) {
		static const uint8_t inside[2][4] = {{10, 0, 0, 2}, {10, 0, 0, 1}};

		for (unsigned i = 0; i < 2; i++)
			must(memcmp(now->byte + 26, inside[i], 4) &&
				     memcmp(now->byte + 30, inside[i], 4),
			     "no inside address is left");
		must((frame_sum(was->byte + 14, (was->byte[14] & 15u) * 4u, 0) == 0xffff) ==
			     (frame_sum(now->byte + 14, (now->byte[14] & 15u) * 4u, 0) == 0xffff),
		     "the header's checksum is as right as it was");
		if (transport_right(was, &before))
			must(transport_right(now, &after), "the transport's checksum stays right");
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct netguard g = {0};
	struct netrewrite map;
	bool policy, rewrite;

	if (size < 1)
		return 0;
	policy = data[0] & 1;
	rewrite = data[0] & 2;
	make_map(&map);
	netguard_set_policy(&g, policy ? make_policy() : NULL);
	netguard_set_rewrite(&g, rewrite ? &map : NULL);
	data++, size--;
	while (size >= 3) {
		uint8_t how = data[0], at = data[1];
		size_t n = MIN((size_t)data[2], size - 3);
		struct frame f, was;
		uint8_t *head, offload = how & 0x10;
		uint32_t head_len;
		bool passed;

		make_frame(&f, how);
		for (size_t i = 0; i < n && at + i < sizeof(f.byte); i++)
			f.byte[at + i] = data[3 + i];
		if (how & 0x20)
			f.len = MIN(at + (uint32_t)n, (uint32_t)sizeof(f.byte));
		if (f.len < NETFRAME_MIN)
			f.len = NETFRAME_MIN;
		data += 3 + n;
		size -= 3 + n;
		was = f;
		/* Exactly as long as the device makes it, so that a byte too far is seen. */
		head_len = MIN(f.len, NETFRAME_HEAD);
		head = calloc(1, HDR + head_len);
		must(head != NULL, "memory");
		if (offload) {
			head[0] = 1;
			head[6] = at;
			head[8] = (uint8_t)n;
			head[1] = how >> 6;
		}
		memcpy(head + HDR, f.byte, head_len);
		if (how & 8)
			passed = netguard_rx(&g, head, f.len);
		else
			passed = netguard_tx(&g, head, f.len);
		memcpy(f.byte, head + HDR, head_len);
		free(head);
		if (passed && !(how & 8) && !offload)
			check_out(&was, &f, policy, rewrite);
	}
	netguard_finish(&g);
	return 0;
}
