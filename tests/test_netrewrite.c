/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>

#include "tests/lib/frames.h"
#include "virtio/netrewrite.h"

#define OUT NETFRAME_EGRESS
#define IN  NETFRAME_INGRESS

static struct netrewrite map;
static const struct netframe_offload none;

static void pair(unsigned i, const char *inside, const char *outside)
{
	cr_assert_eq(netaddr_parse(inside, &map.pair[i].inside), 0);
	cr_assert_eq(netaddr_parse(outside, &map.pair[i].outside), 0);
}

static void start(void)
{
	map = (struct netrewrite){.count = 2};
	pair(0, "10.0.0.2", "172.16.5.17");
	pair(1, "10.0.0.1", "172.16.5.1");
}

TestSuite(netrewrite, .init = start, .timeout = 60);

static int apply_with(enum netframe_way way, struct frame *f, const struct netframe_offload *o)
{
	struct netframe nf;

	if (netframe_parse(&nf, f->byte, MIN(f->len, NETFRAME_HEAD), f->len) < 0)
		return -EINVAL;
	return netrewrite_apply(&map, way, &nf, o);
}

static int apply(enum netframe_way way, struct frame *f)
{
	return apply_with(way, f, &none);
}

static bool same(const struct frame *a, const struct frame *b)
{
	return a->len == b->len && memcmp(a->byte, b->byte, a->len) == 0;
}

Test(netrewrite, tcp_udp_and_icmp_both_ways_give_the_frame_made_with_those_addresses)
{
	for (uint32_t len = 0; len < 600; len += 7) {
		struct frame f, want;

		frame_tcp(&f, "10.0.0.2", 4000 + len, "8.8.8.8", 443, 0x18, len);
		frame_tcp(&want, "172.16.5.17", 4000 + len, "8.8.8.8", 443, 0x18, len);
		cr_assert_eq(apply(OUT, &f), 0);
		cr_assert(same(&f, &want), "TCP out %u", len);
		frame_udp(&f, "10.0.0.2", 5000 + len, "10.0.0.1", 53, len);
		frame_udp(&want, "172.16.5.17", 5000 + len, "172.16.5.1", 53, len);
		cr_assert_eq(apply(OUT, &f), 0);
		cr_assert(same(&f, &want), "UDP out %u", len);
		frame_udp(&f, "172.16.5.1", 53, "172.16.5.17", 5000 + len, len);
		frame_udp(&want, "10.0.0.1", 53, "10.0.0.2", 5000 + len, len);
		cr_assert_eq(apply(IN, &f), 0);
		cr_assert(same(&f, &want), "UDP in %u", len);
		frame_icmp(&f, "172.16.5.1", "172.16.5.17", 0, len, len);
		frame_icmp(&want, "10.0.0.1", "10.0.0.2", 0, len, len);
		cr_assert_eq(apply(IN, &f), 0);
		cr_assert(same(&f, &want), "ICMP in %u", len);
	}
}

Test(netrewrite, every_address_keeps_the_checksums_right)
{
	uint32_t seed = 1;

	for (unsigned i = 0; i < 20000; i++) {
		char src[16], dst[16], inside[16], outside[16];
		struct frame f;

		seed = seed * 1664525 + 1013904223;
		snprintf(inside, sizeof(inside), "10.%u.%u.%u", seed >> 24, seed >> 16 & 255,
			 seed >> 8 & 255);
		snprintf(outside, sizeof(outside), "192.%u.%u.%u", seed >> 12 & 255,
			 seed >> 20 & 255, seed >> 15 & 255);
		snprintf(dst, sizeof(dst), "100.%u.0.%u", seed >> 22 & 255, seed >> 10 & 255);
		memcpy(src, inside, sizeof(src));
		map.count = 1;
		pair(0, inside, outside);
		frame_udp(&f, src, seed & 0xffff, dst, seed >> 16, seed >> 28);
		cr_assert_eq(apply(OUT, &f), 0);
		cr_assert(frame_sums_right(&f, IPPROTO_UDP), "%s -> %s", inside, outside);
		cr_assert_neq(frame_get16(&f, 34 + 6), 0, "0 would mean: no checksum");
		frame_tcp(&f, src, seed & 0xffff, dst, seed >> 16, 2, seed >> 28);
		cr_assert_eq(apply(OUT, &f), 0);
		cr_assert(frame_sums_right(&f, IPPROTO_TCP), "%s -> %s", inside, outside);
	}
}

Test(netrewrite, a_wrong_checksum_stays_wrong)
{
	struct frame f;

	frame_tcp(&f, "10.0.0.2", 1, "8.8.8.8", 2, 2, 10);
	f.byte[60] ^= 1;
	cr_assert_eq(apply(OUT, &f), 0);
	cr_assert_not(frame_sums_right(&f, IPPROTO_TCP));
	frame_tcp(&f, "10.0.0.2", 1, "8.8.8.8", 2, 2, 10);
	f.byte[22]--;
	cr_assert_eq(apply(OUT, &f), 0);
	cr_assert_neq(frame_sum(f.byte + 14, 20, 0), 0xffff);
}

Test(netrewrite, a_checksum_that_is_only_begun)
{
	static const unsigned protocols[] = {IPPROTO_TCP, IPPROTO_UDP};

	for (unsigned i = 0; i < 2; i++) {
		unsigned p = protocols[i];
		uint32_t at = 34 + frame_sum_at(p);
		struct netframe_offload o = {
			.flags = 1, .csum_start = 34, .csum_offset = (uint16_t)frame_sum_at(p)};
		struct frame f, want;

		if (p == IPPROTO_TCP) {
			frame_tcp(&f, "10.0.0.2", 1, "8.8.8.8", 2, 2, 1000);
			frame_tcp(&want, "172.16.5.17", 1, "8.8.8.8", 2, 2, 1000);
		} else {
			frame_udp(&f, "10.0.0.2", 1, "8.8.8.8", 2, 1000);
			frame_udp(&want, "172.16.5.17", 1, "8.8.8.8", 2, 1000);
		}
		frame_put16(&f, at, frame_l4_sum(&f, 34, f.len - 34, p, false));
		frame_put16(&want, at, frame_l4_sum(&want, 34, want.len - 34, p, false));
		cr_assert_eq(apply_with(OUT, &f, &o), 0);
		cr_assert(same(&f, &want), "protocol %u", p);
	}
}

Test(netrewrite, udp_without_a_checksum_keeps_none)
{
	struct frame f;

	frame_udp(&f, "10.0.0.2", 1, "8.8.8.8", 2, 10);
	frame_put16(&f, 40, 0);
	cr_assert_eq(apply(OUT, &f), 0);
	cr_assert_eq(frame_get16(&f, 40), 0);
}

Test(netrewrite, icmp_errors_and_what_they_quote)
{
	static const uint32_t quoted[] = {28, 40, 60};

	for (unsigned i = 0; i < ARRAY_SIZE(quoted); i++) {
		struct frame sent, f, want;

		frame_tcp(&sent, "172.16.5.17", 4000, "8.8.8.8", 443, 2, 30);
		frame_icmp_error(&f, "172.16.5.1", "172.16.5.17", 3, &sent, quoted[i]);
		frame_tcp(&sent, "10.0.0.2", 4000, "8.8.8.8", 443, 2, 30);
		frame_icmp_error(&want, "10.0.0.1", "10.0.0.2", 3, &sent, quoted[i]);
		cr_assert_eq(apply(IN, &f), 0);
		cr_assert(same(&f, &want), "%u bytes quoted to the guest", quoted[i]);
		frame_udp(&sent, "8.8.8.8", 53, "10.0.0.2", 4000, 30);
		frame_icmp_error(&f, "10.0.0.2", "8.8.8.8", 3, &sent,
				 quoted[i] < 58 ? quoted[i] : 58);
		frame_udp(&sent, "8.8.8.8", 53, "172.16.5.17", 4000, 30);
		frame_icmp_error(&want, "172.16.5.17", "8.8.8.8", 3, &sent,
				 quoted[i] < 58 ? quoted[i] : 58);
		cr_assert_eq(apply(OUT, &f), 0);
		cr_assert(same(&f, &want), "%u bytes quoted by the guest", quoted[i]);
	}
}

Test(netrewrite, fragments)
{
	struct frame f, want;

	frame_udp(&f, "10.0.0.2", 1, "8.8.8.8", 2, 80);
	frame_udp(&want, "172.16.5.17", 1, "8.8.8.8", 2, 80);
	frame_put16(&f, 20, 0x2000);
	frame_put16(&want, 20, 0x2000);
	frame_fix_ip(&f);
	frame_fix_ip(&want);
	cr_assert_eq(apply(OUT, &f), 0);
	cr_assert(same(&f, &want), "the first has the checksum of all");
	frame_udp(&f, "10.0.0.2", 1, "8.8.8.8", 2, 80);
	frame_put16(&f, 20, 10);
	frame_fix_ip(&f);
	want = f;
	memcpy(want.byte + 26, (uint8_t[]){172, 16, 5, 17}, 4);
	frame_fix_ip(&want);
	cr_assert_eq(apply(OUT, &f), 0);
	cr_assert(same(&f, &want), "a later one has none, whatever its bytes look like");
}

Test(netrewrite, options_move_the_transport_header)
{
	struct frame f;

	frame_tcp(&f, "10.0.0.2", 1, "8.8.8.8", 2, 2, 40);
	memmove(f.byte + 38, f.byte + 34, f.len - 34);
	memset(f.byte + 34, 1, 4);
	f.len += 4;
	f.byte[14] = 0x46;
	frame_put16(&f, 16, f.len - 14);
	frame_fix_ip(&f);
	cr_assert(frame_sums_right(&f, IPPROTO_TCP));
	cr_assert_eq(apply(OUT, &f), 0);
	cr_assert(frame_sums_right(&f, IPPROTO_TCP));
	cr_assert_eq(f.byte[26], 172);
}

Test(netrewrite, arp)
{
	struct frame f, want;

	frame_arp(&f, 1, frame_mac_a, "10.0.0.2", "10.0.0.1");
	frame_arp(&want, 1, frame_mac_a, "172.16.5.17", "172.16.5.1");
	cr_assert_eq(apply(OUT, &f), 0);
	cr_assert(same(&f, &want));
	frame_arp(&f, 1, frame_mac_b, "172.16.5.1", "172.16.5.17");
	frame_arp(&want, 1, frame_mac_b, "10.0.0.1", "10.0.0.2");
	cr_assert_eq(apply(IN, &f), 0);
	cr_assert(same(&f, &want));
	frame_arp(&f, 1, frame_mac_b, "10.0.0.9", "10.0.0.2");
	cr_assert_eq(apply(IN, &f), -EPERM, "a neighbour that is a clone, asking for itself");
	frame_arp(&f, 2, frame_mac_a, "172.16.5.17", "10.0.0.9");
	cr_assert_eq(apply(OUT, &f), -EPERM, "the guest claims an outside address");
}

Test(netrewrite, strangers_are_dropped)
{
	struct frame f;

	frame_udp(&f, "172.16.5.17", 1, "8.8.8.8", 2, 0);
	cr_assert_eq(apply(OUT, &f), -EPERM);
	frame_udp(&f, "172.16.5.1", 1, "8.8.8.8", 2, 0);
	cr_assert_eq(apply(OUT, &f), -EPERM);
	frame_udp(&f, "8.8.8.8", 1, "10.0.0.2", 2, 0);
	cr_assert_eq(apply(IN, &f), -EPERM);
	frame_udp(&f, "fd00::1", 1, "fd00::2", 2, 0);
	cr_assert_eq(apply(OUT, &f), -EPERM, "IPv6");
	frame_ethernet(&f, frame_mac_b, frame_mac_a, 0x88cc);
	f.len = 60;
	cr_assert_eq(apply(OUT, &f), -EPERM, "LLDP");
}

Test(netrewrite, what_is_not_in_the_map_passes_as_it_is)
{
	struct frame f, want;

	frame_udp(&f, "10.0.0.77", 1, "8.8.8.8", 2, 5);
	want = f;
	cr_assert_eq(apply(OUT, &f), 0);
	cr_assert(same(&f, &want));
}

Test(netrewrite, macs)
{
	static const uint8_t outside[6] = {0x06, 1, 2, 3, 4, 5};
	struct frame f, want;

	map.has_mac = true;
	memcpy(map.inside_mac, frame_mac_a, 6);
	memcpy(map.outside_mac, outside, 6);
	frame_arp(&f, 1, frame_mac_a, "10.0.0.2", "10.0.0.1");
	frame_arp(&want, 1, outside, "172.16.5.17", "172.16.5.1");
	cr_assert_eq(apply(OUT, &f), 0);
	cr_assert(same(&f, &want));
	frame_arp(&f, 2, frame_mac_b, "172.16.5.1", "172.16.5.17");
	memcpy(f.byte, outside, 6);
	memcpy(f.byte + 32, outside, 6);
	frame_arp(&want, 2, frame_mac_b, "10.0.0.1", "10.0.0.2");
	memcpy(want.byte, frame_mac_a, 6);
	memcpy(want.byte + 32, frame_mac_a, 6);
	cr_assert_eq(apply(IN, &f), 0);
	cr_assert(same(&f, &want));
	frame_udp(&f, "8.8.8.8", 1, "172.16.5.17", 2, 5);
	frame_to(&f, frame_mac_a, frame_mac_b);
	cr_assert_eq(apply(IN, &f), -EPERM, "for a clone's MAC inside");
	frame_to(&f, outside, frame_mac_b);
	cr_assert_eq(apply(IN, &f), 0);
	cr_assert_arr_eq(f.byte, frame_mac_a, 6);
}

Test(netrewrite, truncated_frames_never_get_here)
{
	struct frame whole, f;

	frame_tcp(&whole, "10.0.0.2", 1, "8.8.8.8", 2, 2, 0);
	for (uint32_t len = 0; len < whole.len; len++) {
		f = whole;
		f.len = len;
		cr_assert_lt(apply(OUT, &f), 0, "%u", len);
	}
}

Test(netrewrite, maps_that_are_none)
{
	struct err e;

	cr_assert_eq(netrewrite_check(&map, &e), 0);
	pair(1, "10.0.0.2", "172.16.5.1");
	cr_assert_eq(netrewrite_check(&map, &e), -EINVAL);
	pair(1, "172.16.5.17", "172.16.5.1");
	cr_assert_eq(netrewrite_check(&map, &e), -EINVAL, "an address on both sides");
	pair(1, "224.0.0.1", "172.16.5.1");
	cr_assert_eq(netrewrite_check(&map, &e), -EINVAL);
	pair(1, "fd00::1", "172.16.5.1");
	cr_assert_eq(netrewrite_check(&map, &e), -EINVAL);
	map.count = NETREWRITE_PAIRS_MAX + 1;
	cr_assert_eq(netrewrite_check(&map, &e), -EINVAL);
	start();
	map.has_mac = true;
	map.outside_mac[0] = 1;
	cr_assert_eq(netrewrite_check(&map, &e), -EINVAL);
}
