/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>

#include "tests/lib/frames.h"
#include "virtio/netflow.h"
#include "virtio/netpolicy.h"

#define OUT NETFRAME_EGRESS
#define IN  NETFRAME_INGRESS

/* The guest is frame_mac_a with 10.0.0.2 and fd00::2; its EUI-64 address is fe80::400:ff:fe00:a. */
#define LINK_LOCAL "fe80::400:ff:fe00:a"

static struct netpolicy_config cfg;
static struct netpolicy *p;
static uint32_t now = 1000;

/* "allow udp 10.0.0.0/8 53", '*' for any. */
static void rule(enum netframe_way way, bool allow, uint8_t protocol, const char *cidr,
		 const char *ports)
{
	struct netpolicy_rules *r = &cfg.way[way];
	struct netpolicy_rule *n = &r->rule[r->count++];

	*n = (struct netpolicy_rule){
		.allow = allow, .protocol = protocol, .any_address = true, .any_port = true};
	if (cidr)
		cr_assert_eq(netpolicy_parse_cidr(cidr, n), 0, "%s", cidr);
	if (ports)
		cr_assert_eq(netpolicy_parse_ports(ports, n), 0, "%s", ports);
}

static void address(const char *text)
{
	cr_assert_eq(netaddr_parse(text, &cfg.address[cfg.addresses++]), 0);
}

static void make(void)
{
	netpolicy_destroy(p);
	p = netpolicy_create(&cfg, frame_mac_a, NULL);
	cr_assert(p);
}

static void start(void)
{
	cfg = (struct netpolicy_config){0};
	make();
}

static void finish(void)
{
	netpolicy_destroy(p);
	p = NULL;
}

TestSuite(netpolicy, .init = start, .fini = finish, .timeout = 60);

static bool judge_raw(enum netframe_way way, struct frame *f)
{
	struct netframe nf;
	struct frame before = *f;
	bool fine;

	if (netframe_parse(&nf, f->byte, MIN(f->len, NETFRAME_HEAD), f->len) < 0) {
		netpolicy_malformed(p, way);
		return false;
	}
	fine = netpolicy_judge(p, way, &nf, now);
	cr_assert_arr_eq(before.byte, f->byte, f->len, "judging changes nothing");
	return fine;
}

/* To the guest, frames get its MAC as destination. */
static bool judge(enum netframe_way way, struct frame *f)
{
	if (way == IN && !(f->byte[0] & 1))
		frame_to(f, frame_mac_a, frame_mac_b);
	return judge_raw(way, f);
}

static bool tcp(enum netframe_way way, const char *src, unsigned sport, const char *dst,
		unsigned dport, unsigned flags)
{
	struct frame f;

	frame_tcp(&f, src, sport, dst, dport, flags, 10);
	return judge(way, &f);
}

static bool udp(enum netframe_way way, const char *src, unsigned sport, const char *dst,
		unsigned dport)
{
	struct frame f;

	frame_udp(&f, src, sport, dst, dport, 10);
	return judge(way, &f);
}

static bool icmp(enum netframe_way way, const char *src, const char *dst, unsigned type,
		 uint32_t rest)
{
	struct frame f;

	frame_icmp(&f, src, dst, type, rest, 8);
	return judge(way, &f);
}

static uint64_t hits(enum netframe_way way, unsigned i)
{
	return metric_take(&netpolicy_metrics(p)->rule[way][i]);
}

/* --- texts --- */

Test(netpolicy, cidr_texts)
{
	static const char *const bad[] = {
		"",
		"/",
		"10.0.0.1/",
		"10.0.0.1/33",
		"10.0.0.1/-1",
		"10.0.0.1/24",
		"10.0.0.0/24x",
		"10.0.0.0/ 24",
		"fd00::/129",
		"fd00::1/64",
		"10.0.0",
		"host",
		"::ffff:10.0.0.1",
		"10.0.0.0/08x",
		"10.0.0.0/99999999999999999999",
	};
	struct netpolicy_rule r = {.any_address = true};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		cr_assert_eq(netpolicy_parse_cidr(bad[i], &r), -EINVAL, "'%s'", bad[i]);
	cr_assert_eq(netpolicy_parse_cidr("10.0.0.0/8", &r), 0);
	cr_assert_eq(r.prefix, 104);
	cr_assert_not(r.any_address);
	cr_assert_eq(netpolicy_parse_cidr("192.0.2.7", &r), 0);
	cr_assert_eq(r.prefix, 128);
	cr_assert_eq(netpolicy_parse_cidr("fd00::/16", &r), 0);
	cr_assert_eq(r.prefix, 16);
	cr_assert_eq(netpolicy_parse_cidr("0.0.0.0/0", &r), 0);
	cr_assert_eq(r.prefix, 96, "IPv4 only");
	cr_assert_eq(netpolicy_parse_cidr("::/0", &r), 0);
}

Test(netpolicy, port_texts)
{
	static const char *const bad[] = {"",
					  "-",
					  "80-",
					  "-80",
					  "80-79",
					  "65536",
					  "80,81",
					  "80 ",
					  "0x50",
					  "1-65536",
					  "99999999999999999999"};
	struct netpolicy_rule r = {.any_port = true};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		cr_assert_eq(netpolicy_parse_ports(bad[i], &r), -EINVAL, "'%s'", bad[i]);
	cr_assert(r.any_port);
	cr_assert_eq(netpolicy_parse_ports("0-65535", &r), 0);
	cr_assert_eq(netpolicy_parse_ports("443", &r), 0);
	cr_assert_eq(r.port_low, 443);
	cr_assert_eq(r.port_high, 443);
}

/* --- rules --- */

Test(netpolicy, nothing_passes_an_empty_policy)
{
	cr_assert_not(tcp(OUT, "10.0.0.2", 1, "8.8.8.8", 443, 2));
	cr_assert_not(udp(IN, "8.8.8.8", 1, "10.0.0.2", 2));
	cr_assert_not(udp(OUT, "fd00::2", 1, "fd00::1", 2));
	cr_assert_eq(metric_take(&netpolicy_metrics(p)->by_default[OUT]), 2);
	cr_assert_eq(metric_take(&netpolicy_metrics(p)->by_default[IN]), 1);
}

Test(netpolicy, the_first_rule_that_matches_decides_and_counts)
{
	rule(OUT, false, 0, "10.1.0.0/16", NULL);
	rule(OUT, true, IPPROTO_TCP, "10.0.0.0/8", "80-443");
	rule(OUT, true, IPPROTO_UDP, NULL, "53");
	rule(OUT, true, NETFRAME_ICMP_ANY, NULL, NULL);
	make();
	cr_assert_not(tcp(OUT, "10.0.0.2", 1, "10.1.2.3", 80, 2));
	cr_assert(tcp(OUT, "10.0.0.2", 1, "10.2.2.3", 80, 2));
	cr_assert(tcp(OUT, "10.0.0.2", 1, "10.255.255.255", 443, 2));
	cr_assert_not(tcp(OUT, "10.0.0.2", 1, "10.2.2.3", 79, 2));
	cr_assert_not(tcp(OUT, "10.0.0.2", 1, "10.2.2.3", 444, 2));
	cr_assert_not(tcp(OUT, "10.0.0.2", 80, "11.0.0.0", 80, 2));
	cr_assert_not(udp(OUT, "10.0.0.2", 1, "10.2.2.3", 80));
	cr_assert(udp(OUT, "10.0.0.2", 1, "8.8.8.8", 53));
	cr_assert(udp(OUT, "fd00::2", 1, "fd00::1", 53));
	cr_assert_not(tcp(OUT, "fd00::2", 1, "fd00::1", 80, 2));
	cr_assert(icmp(OUT, "10.0.0.2", "8.8.8.8", 8, 0x10000));
	cr_assert(icmp(OUT, "fd00::2", "fd00::1", 128, 0x10000));
	cr_assert_eq(hits(OUT, 0), 1);
	cr_assert_eq(hits(OUT, 1), 2);
	cr_assert_eq(hits(OUT, 2), 2);
	cr_assert_eq(hits(OUT, 3), 2);
	cr_assert_eq(metric_take(&netpolicy_metrics(p)->by_default[OUT]), 5);
}

Test(netpolicy, an_ipv4_rule_is_not_for_ipv6)
{
	rule(OUT, true, 0, "0.0.0.0/0", NULL);
	make();
	cr_assert(udp(OUT, "10.0.0.2", 1, "8.8.8.8", 53));
	cr_assert_not(udp(OUT, "fd00::2", 1, "fd00::1", 53));
	cfg.way[OUT].count = 0;
	rule(OUT, true, 0, "fd00::/16", NULL);
	make();
	cr_assert_not(udp(OUT, "10.0.0.2", 1, "8.8.8.8", 53));
	cr_assert(udp(OUT, "fd00::2", 1, "fd00:ffff::1", 53));
	cr_assert_not(udp(OUT, "fd00::2", 1, "fd01::1", 53));
}

Test(netpolicy, ingress_rules_look_at_the_source_and_the_guests_port)
{
	rule(IN, true, IPPROTO_TCP, "192.0.2.0/24", "22");
	make();
	cr_assert(tcp(IN, "192.0.2.9", 5000, "10.0.0.2", 22, 2));
	cr_assert_not(tcp(IN, "192.0.3.9", 5000, "10.0.0.2", 22, 2));
	cr_assert_not(tcp(IN, "192.0.2.9", 22, "10.0.0.2", 5000, 2));
}

Test(netpolicy, default_allow_with_exceptions)
{
	cfg.way[OUT].allow = true;
	rule(OUT, false, 0, "169.254.169.254", NULL);
	make();
	cr_assert(tcp(OUT, "10.0.0.2", 1, "8.8.8.8", 443, 2));
	cr_assert_not(tcp(OUT, "10.0.0.2", 1, "169.254.169.254", 80, 2));
}

/* --- conversations --- */

Test(netpolicy, answers_come_back_and_nothing_else)
{
	rule(OUT, true, 0, NULL, NULL);
	make();
	cr_assert_not(tcp(IN, "8.8.8.8", 443, "10.0.0.2", 4000, 0x12));
	cr_assert(tcp(OUT, "10.0.0.2", 4000, "8.8.8.8", 443, 2));
	cr_assert(tcp(IN, "8.8.8.8", 443, "10.0.0.2", 4000, 0x12));
	cr_assert(tcp(IN, "8.8.8.8", 443, "10.0.0.2", 4000, 0x10));
	cr_assert_not(tcp(IN, "8.8.8.8", 443, "10.0.0.2", 4001, 0x10), "another port");
	cr_assert_not(tcp(IN, "8.8.8.9", 443, "10.0.0.2", 4000, 0x10), "another host");
	cr_assert_not(tcp(IN, "8.8.8.8", 443, "10.0.0.2", 4000, 0x02),
		      "a SYN begins something new");
	cr_assert_not(udp(IN, "8.8.8.8", 443, "10.0.0.2", 4000), "another protocol");
	cr_assert_eq(metric_take(&netpolicy_metrics(p)->answers[IN]), 2);
	cr_assert(udp(OUT, "fd00::2", 4000, "fd00::1", 53));
	cr_assert(udp(IN, "fd00::1", 53, "fd00::2", 4000));
}

Test(netpolicy, a_server_may_answer)
{
	rule(IN, true, IPPROTO_TCP, NULL, "80");
	make();
	cr_assert_not(tcp(OUT, "10.0.0.2", 80, "8.8.8.8", 5000, 0x12));
	cr_assert(tcp(IN, "8.8.8.8", 5000, "10.0.0.2", 80, 2));
	cr_assert(tcp(OUT, "10.0.0.2", 80, "8.8.8.8", 5000, 0x12));
	cr_assert_not(tcp(OUT, "10.0.0.2", 5001, "8.8.8.8", 5000, 2), "but not begin");
}

Test(netpolicy, conversations_end)
{
	rule(OUT, true, 0, NULL, NULL);
	make();
	udp(OUT, "10.0.0.2", 1, "8.8.8.8", 53);
	tcp(OUT, "10.0.0.2", 1, "8.8.8.8", 53, 2);
	icmp(OUT, "10.0.0.2", "8.8.8.8", 8, 0x70001);
	now += 30;
	cr_assert(icmp(IN, "8.8.8.8", "10.0.0.2", 0, 0x70001));
	now += 150;
	cr_assert(udp(IN, "8.8.8.8", 53, "10.0.0.2", 1));
	cr_assert_not(icmp(IN, "8.8.8.8", "10.0.0.2", 0, 0x70001));
	now += 180;
	cr_assert(udp(IN, "8.8.8.8", 53, "10.0.0.2", 1), "used, it stays");
	now += 181;
	cr_assert_not(udp(IN, "8.8.8.8", 53, "10.0.0.2", 1));
	cr_assert(tcp(IN, "8.8.8.8", 53, "10.0.0.2", 1, 0x10));
	now += 3601;
	cr_assert_not(tcp(IN, "8.8.8.8", 53, "10.0.0.2", 1, 0x10));
}

Test(netpolicy, echo)
{
	rule(OUT, true, NETFRAME_ICMP_ANY, NULL, NULL);
	make();
	cr_assert(icmp(OUT, "10.0.0.2", "8.8.8.8", 8, 0x70001));
	cr_assert(icmp(IN, "8.8.8.8", "10.0.0.2", 0, 0x70001));
	cr_assert(icmp(IN, "8.8.8.8", "10.0.0.2", 0, 0x70002), "the next sequence number");
	cr_assert_not(icmp(IN, "8.8.8.8", "10.0.0.2", 0, 0x80001), "another identifier");
	cr_assert_not(icmp(IN, "8.8.8.8", "10.0.0.2", 8, 0x70001), "a request is no answer");
	cr_assert_not(icmp(IN, "8.8.8.8", "10.0.0.2", 13, 0), "nor is a timestamp request");
}

Test(netpolicy, errors_about_a_conversation)
{
	struct frame sent, f;

	rule(OUT, true, IPPROTO_UDP, NULL, NULL);
	make();
	frame_udp(&sent, "10.0.0.2", 4000, "8.8.8.8", 53, 10);
	frame_icmp_error(&f, "9.9.9.9", "10.0.0.2", 3, &sent, 28);
	cr_assert_not(judge(IN, &f));
	cr_assert(judge(OUT, &sent));
	cr_assert(judge(IN, &f));
	frame_icmp_error(&f, "9.9.9.9", "10.0.0.2", 11, &sent, 28);
	cr_assert(judge(IN, &f));
	frame_icmp_error(&f, "9.9.9.9", "10.0.0.2", 5, &sent, 28);
	cr_assert_not(judge(IN, &f), "a redirect");
	frame_icmp_error(&f, "9.9.9.9", "10.0.0.2", 3, &sent, 20);
	cr_assert_not(judge(IN, &f), "without ports it could be about anything");
	frame_icmp_error(&f, "9.9.9.9", "10.0.0.3", 3, &sent, 28);
	cr_assert_not(judge(IN, &f), "sent to somebody else");
	frame_udp(&sent, "10.0.0.2", 4001, "8.8.8.8", 53, 10);
	frame_icmp_error(&f, "9.9.9.9", "10.0.0.2", 3, &sent, 28);
	cr_assert_not(judge(IN, &f));
	frame_udp(&sent, "fd00::2", 4001, "fd00::1", 53, 10);
	cr_assert(judge(OUT, &sent));
	frame_icmp_error(&f, "fd00::9", "fd00::2", 2, &sent, 48);
	cr_assert(judge(IN, &f), "packet too big");
	cr_assert_not(icmp(OUT, "10.0.0.2", "8.8.8.8", 3, 0), "quotes nothing");
}

Test(netpolicy, the_guests_own_errors_about_what_it_was_sent)
{
	struct frame sent, f;

	rule(IN, true, IPPROTO_UDP, NULL, "53");
	make();
	frame_udp(&sent, "8.8.8.8", 4000, "10.0.0.2", 53, 10);
	frame_icmp_error(&f, "10.0.0.2", "8.8.8.8", 3, &sent, 28);
	cr_assert_not(judge(OUT, &f));
	cr_assert(judge(IN, &sent));
	cr_assert(judge(OUT, &f), "port unreachable");
}

Test(netpolicy, a_flood_from_outside_does_not_cost_the_guest_its_own_conversations)
{
	rule(OUT, true, 0, NULL, NULL);
	rule(IN, true, IPPROTO_UDP, NULL, "53");
	make();
	for (unsigned i = 0; i < 50; i++)
		udp(OUT, "10.0.0.2", 1000 + i, "8.8.8.8", 99);
	now++;
	for (unsigned i = 0; i < 20000; i++)
		udp(IN, "9.9.9.9", 1000 + i, "10.0.0.2", 53);
	for (unsigned i = 0; i < 50; i++)
		cr_assert(udp(IN, "8.8.8.8", 99, "10.0.0.2", 1000 + i), "%u", i);
}

Test(netpolicy, a_table_holds_thousands_and_prefers_the_youngest)
{
	struct netflow *t = netflow_create();
	struct netflow_key k = {.protocol = IPPROTO_UDP};
	unsigned found = 0;

	for (unsigned i = 0; i < 2000; i++) {
		k.local_port = (uint16_t)i;
		netflow_add(t, &k, 1);
	}
	for (unsigned i = 0; i < 2000; i++) {
		k.local_port = (uint16_t)i;
		found += netflow_find(t, &k, 2);
	}
	cr_assert_gt(found, 1500, "%u: the hash has a new key each time", found);
	for (unsigned i = 0; i < 60000; i++) {
		k.local_port = (uint16_t)i;
		k.remote_port = 1;
		netflow_add(t, &k, 3);
		cr_assert(netflow_find(t, &k, 3), "the last one is always there");
	}
	netflow_clear(t);
	cr_assert_not(netflow_find(t, &k, 3));
	netflow_destroy(t);
}

/* --- fragments --- */

static void fragment(struct frame *f, unsigned offset8, bool more, unsigned id)
{
	frame_put16(f, 18, id);
	frame_put16(f, 20, (more ? 0x2000u : 0) | offset8);
	frame_fix_ip(f);
}

Test(netpolicy, later_fragments_follow_the_first)
{
	struct frame f;

	rule(OUT, true, IPPROTO_UDP, NULL, "53");
	make();
	frame_udp(&f, "10.0.0.2", 1, "8.8.8.8", 53, 80);
	fragment(&f, 10, false, 7);
	cr_assert_not(judge(OUT, &f), "before the first");
	frame_udp(&f, "10.0.0.2", 1, "8.8.8.8", 53, 80);
	fragment(&f, 0, true, 7);
	cr_assert(judge(OUT, &f));
	fragment(&f, 10, true, 7);
	cr_assert(judge(OUT, &f));
	fragment(&f, 20, false, 7);
	cr_assert(judge(OUT, &f));
	fragment(&f, 20, false, 8);
	cr_assert_not(judge(OUT, &f), "of another datagram");
	frame_udp(&f, "10.0.0.2", 1, "8.8.8.8", 54, 80);
	fragment(&f, 0, true, 9);
	cr_assert_not(judge(OUT, &f));
	fragment(&f, 10, false, 9);
	cr_assert_not(judge(OUT, &f), "its first one was denied");
}

Test(netpolicy, answers_in_fragments)
{
	struct frame f;

	rule(OUT, true, IPPROTO_UDP, NULL, "53");
	make();
	udp(OUT, "10.0.0.2", 1, "8.8.8.8", 53);
	frame_udp(&f, "8.8.8.8", 53, "10.0.0.2", 1, 80);
	fragment(&f, 0, true, 7);
	cr_assert(judge(IN, &f));
	fragment(&f, 10, false, 7);
	cr_assert(judge(IN, &f));
	fragment(&f, 10, false, 8);
	cr_assert_not(judge(IN, &f));
}

Test(netpolicy, tiny_and_overlapping_fragments_are_malformed)
{
	struct frame f;

	cfg.way[OUT].allow = true;
	make();
	frame_tcp(&f, "10.0.0.2", 1, "8.8.8.8", 80, 2, 80);
	fragment(&f, 1, false, 7);
	cr_assert_not(judge(OUT, &f), "into the TCP header");
	frame_tcp(&f, "10.0.0.2", 1, "8.8.8.8", 80, 2, 80);
	frame_put16(&f, 16, 20 + 8);
	fragment(&f, 0, true, 7);
	cr_assert_not(judge(OUT, &f), "the header is cut");
	cr_assert_eq(metric_take(&netpolicy_metrics(p)->malformed[OUT]), 2);
}

/* --- whose it is --- */

Test(netpolicy, other_macs)
{
	struct frame f;

	cfg.way[OUT].allow = cfg.way[IN].allow = true;
	make();
	frame_udp(&f, "10.0.0.2", 1, "8.8.8.8", 53, 0);
	cr_assert(judge_raw(OUT, &f));
	frame_to(&f, frame_mac_a, frame_mac_b);
	cr_assert_not(judge_raw(OUT, &f), "a source that is not its own");
	frame_udp(&f, "8.8.8.8", 1, "10.0.0.2", 53, 0);
	cr_assert_not(judge_raw(IN, &f), "for somebody else");
	frame_to(&f, frame_mac_all, frame_mac_b);
	cr_assert(judge_raw(IN, &f));
	cr_assert_eq(metric_take(&netpolicy_metrics(p)->not_own[IN]), 1);
}

Test(netpolicy, other_source_addresses)
{
	cfg.way[OUT].allow = cfg.way[IN].allow = true;
	address("10.0.0.2");
	address("fd00::2");
	make();
	cr_assert(udp(OUT, "10.0.0.2", 1, "8.8.8.8", 53));
	cr_assert_not(udp(OUT, "10.0.0.3", 1, "8.8.8.8", 53));
	cr_assert(udp(OUT, "fd00::2", 1, "fd00::1", 53));
	cr_assert_not(udp(OUT, "fd00::3", 1, "fd00::1", 53));
	cr_assert(udp(OUT, LINK_LOCAL, 1, "ff02::fb", 5353), "EUI-64");
	cr_assert_not(udp(OUT, "fe80::1", 1, "ff02::fb", 5353));
	cr_assert_not(udp(IN, "10.0.0.2", 1, "10.0.0.2", 53), "from outside as the guest itself");
	cr_assert(udp(OUT, "0.0.0.0", 68, "255.255.255.255", 67), "DHCP");
	cr_assert_not(udp(OUT, "0.0.0.0", 68, "8.8.8.8", 67));
	cr_assert_not(udp(OUT, "0.0.0.0", 69, "255.255.255.255", 67));
}

Test(netpolicy, an_ipv4_address_in_an_ipv6_header_is_malformed)
{
	struct frame f;

	cfg.way[OUT].allow = true;
	make();
	frame_udp(&f, "::ffff:10.0.0.2", 1, "fd00::1", 53, 0);
	cr_assert_not(judge(OUT, &f));
	frame_udp(&f, "fd00::2", 1, "::ffff:8.8.8.8", 53, 0);
	cr_assert_not(judge(OUT, &f));
}

Test(netpolicy, arp_from_the_guest)
{
	struct frame f;

	address("10.0.0.2");
	make();
	frame_arp(&f, 1, frame_mac_a, "10.0.0.2", "10.0.0.1");
	cr_assert(judge_raw(OUT, &f));
	frame_arp(&f, 2, frame_mac_a, "10.0.0.2", "10.0.0.1");
	cr_assert(judge_raw(OUT, &f));
	frame_arp(&f, 1, frame_mac_a, "0.0.0.0", "10.0.0.2");
	cr_assert(judge_raw(OUT, &f), "a probe");
	frame_arp(&f, 2, frame_mac_a, "0.0.0.0", "10.0.0.2");
	cr_assert_not(judge_raw(OUT, &f));
	frame_arp(&f, 2, frame_mac_a, "10.0.0.1", "10.0.0.9");
	cr_assert_not(judge_raw(OUT, &f), "it is not the gateway");
	frame_arp(&f, 2, frame_mac_b, "10.0.0.2", "10.0.0.1");
	frame_to(&f, frame_mac_all, frame_mac_a);
	cr_assert_not(judge_raw(OUT, &f), "another MAC inside");
	frame_arp(&f, 3, frame_mac_a, "10.0.0.2", "10.0.0.1");
	cr_assert_not(judge_raw(OUT, &f));
	frame_arp(&f, 1, frame_mac_a, "10.0.0.2", "10.0.0.1");
	f.byte[17] = 6;
	cr_assert_not(judge_raw(OUT, &f), "ARP for something else");
}

Test(netpolicy, arp_to_the_guest)
{
	struct frame f;

	address("10.0.0.2");
	make();
	frame_arp(&f, 1, frame_mac_b, "10.0.0.1", "10.0.0.2");
	cr_assert(judge_raw(IN, &f));
	frame_arp(&f, 2, frame_mac_b, "10.0.0.1", "10.0.0.2");
	frame_to(&f, frame_mac_a, frame_mac_b);
	cr_assert(judge_raw(IN, &f));
	frame_arp(&f, 1, frame_mac_b, "10.0.0.1", "10.0.0.3");
	cr_assert_not(judge_raw(IN, &f), "asks for somebody else");
	frame_arp(&f, 1, frame_mac_b, "10.0.0.1", "10.0.0.1");
	cr_assert(judge_raw(IN, &f), "an announcement");
	frame_arp(&f, 2, frame_mac_b, "10.0.0.2", "10.0.0.2");
	cr_assert_not(judge_raw(IN, &f), "takes the guest's address away");
}

/* A neighbour message about `target` with one link-layer option. */
static void nd(struct frame *f, const char *src, const char *dst, unsigned type, const char *target,
	       const uint8_t *option_mac)
{
	frame_icmp(f, src, dst, type, 0, 24);
	f->byte[21] = 255;
	inet_pton(AF_INET6, target, f->byte + 62);
	f->byte[78] = 1;
	f->byte[79] = 1;
	memcpy(f->byte + 80, option_mac, 6);
	frame_fix_l4(f, IPPROTO_ICMPV6);
}

Test(netpolicy, neighbour_discovery_from_the_guest)
{
	struct frame f;

	address("fd00::2");
	make();
	nd(&f, "fd00::2", "ff02::1:ff00:1", 135, "fd00::1", frame_mac_a);
	cr_assert(judge(OUT, &f));
	nd(&f, LINK_LOCAL, "ff02::1:ff00:1", 135, "fd00::1", frame_mac_a);
	cr_assert(judge(OUT, &f));
	nd(&f, "fd00::2", "fd00::1", 136, "fd00::2", frame_mac_a);
	cr_assert(judge(OUT, &f));
	nd(&f, "fd00::2", "fd00::1", 136, "fd00::1", frame_mac_a);
	cr_assert_not(judge(OUT, &f), "claims another's address");
	nd(&f, "fd00::2", "fd00::1", 136, "fd00::2", frame_mac_b);
	cr_assert_not(judge(OUT, &f), "another MAC");
	nd(&f, "fd00::2", "fd00::1", 135, "fd00::1", frame_mac_b);
	cr_assert_not(judge(OUT, &f));
	nd(&f, "::", "ff02::1:ff00:2", 135, "fd00::2", frame_mac_a);
	cr_assert(judge(OUT, &f), "is its own address free?");
	nd(&f, "::", "ff02::1:ff00:1", 135, "fd00::1", frame_mac_a);
	cr_assert_not(judge(OUT, &f));
	nd(&f, "fd00::2", "ff02::1", 134, "fd00::2", frame_mac_a);
	cr_assert_not(judge(OUT, &f), "it is no router");
	nd(&f, "fd00::2", "fd00::1", 137, "fd00::2", frame_mac_a);
	cr_assert_not(judge(OUT, &f), "redirect");
	nd(&f, "fd00::2", "fd00::1", 136, "fd00::2", frame_mac_a);
	f.byte[21] = 254;
	cr_assert_not(judge(OUT, &f), "came through a router");
	nd(&f, "fd00::2", "fd00::1", 136, "fd00::2", frame_mac_a);
	f.byte[79] = 0;
	cr_assert_not(judge(OUT, &f), "an option without length");
	f.byte[79] = 9;
	cr_assert_not(judge(OUT, &f), "an option behind the end");
	frame_icmp(&f, LINK_LOCAL, "ff02::2", 133, 0, 0);
	f.byte[21] = 255;
	cr_assert(judge(OUT, &f), "router solicitation");
	frame_icmp(&f, LINK_LOCAL, "ff02::16", 143, 0, 0);
	f.byte[21] = 1;
	cr_assert(judge(OUT, &f), "group membership");
}

Test(netpolicy, neighbour_discovery_to_the_guest)
{
	struct frame f;

	address("fd00::2");
	make();
	nd(&f, "fd00::1", "ff02::1:ff00:2", 135, "fd00::2", frame_mac_b);
	cr_assert(judge(IN, &f));
	nd(&f, "fd00::1", "ff02::1:ff00:2", 135, "fd00::3", frame_mac_b);
	cr_assert_not(judge(IN, &f));
	nd(&f, "fd00::1", "fd00::2", 136, "fd00::1", frame_mac_b);
	cr_assert(judge(IN, &f));
	nd(&f, "fd00::1", "fd00::2", 136, "fd00::2", frame_mac_b);
	cr_assert_not(judge(IN, &f), "takes the guest's address away");
	nd(&f, "fe80::1", "ff02::1", 134, "fd00::1", frame_mac_b);
	cr_assert(judge(IN, &f));
	nd(&f, "fe80::1", "fd00::2", 137, "fd00::1", frame_mac_b);
	cr_assert_not(judge(IN, &f), "redirect");
}

/* --- what cannot be judged --- */

Test(netpolicy, other_protocols_of_ethernet)
{
	static const unsigned types[] = {0x8100, 0x88a8, 0x88cc, 0x8847, 0x0026, 0x8864};
	struct frame f;

	cfg.way[OUT].allow = cfg.way[IN].allow = true;
	make();
	for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
		frame_udp(&f, "10.0.0.2", 1, "8.8.8.8", 53, 10);
		frame_put16(&f, 12, types[i]);
		cr_assert_not(judge(OUT, &f), "%x", types[i]);
		cr_assert_not(judge(IN, &f), "%x", types[i]);
	}
}

Test(netpolicy, headers_that_lie)
{
	struct frame good, f;

	cfg.way[OUT].allow = true;
	make();
	frame_tcp(&good, "10.0.0.2", 1, "8.8.8.8", 80, 2, 4);
	cr_assert(judge(OUT, &good));
	for (uint32_t len = 14; len < 54; len++) {
		f = good;
		f.len = len;
		cr_assert_not(judge(OUT, &f), "cut at %u", len);
	}
	f = good;
	f.byte[14] = 0x44;
	cr_assert_not(judge(OUT, &f), "a header of 16 bytes");
	f = good;
	f.byte[14] = 0x4f;
	cr_assert_not(judge(OUT, &f), "a header longer than the packet");
	f = good;
	f.byte[14] = 0x65;
	cr_assert_not(judge(OUT, &f), "version 6");
	f = good;
	frame_put16(&f, 16, f.len);
	cr_assert_not(judge(OUT, &f), "longer than the frame");
	f = good;
	frame_put16(&f, 16, 39);
	cr_assert_not(judge(OUT, &f), "too short for TCP");
	f = good;
	f.len += 6;
	cr_assert(judge(OUT, &f), "padding is fine");
	frame_udp(&f, "fd00::2", 1, "fd00::1", 53, 10);
	frame_put16(&f, 18, 0);
	cr_assert_not(judge(OUT, &f), "jumbogram");
	frame_put16(&f, 18, 19);
	cr_assert_not(judge(OUT, &f), "longer than the frame");
}

/* Puts `len` bytes of an extension header in front of the transport of an IPv6 frame. */
static void extend(struct frame *f, uint8_t type, const uint8_t *bytes, uint32_t len)
{
	memmove(f->byte + 54 + len, f->byte + 54, f->len - 54);
	memcpy(f->byte + 54, bytes, len);
	f->byte[54] = f->byte[20];
	f->byte[20] = type;
	f->len += len;
	frame_put16(f, 18, f->len - 54);
}

Test(netpolicy, extension_headers)
{
	static const uint8_t pad[8] = {0, 0, 1, 4}, frag_first[8] = {0, 0, 0, 1, 0, 0, 0, 9},
			     frag_later[8] = {0, 0, 0, 80, 0, 0, 0, 9};
	struct frame f;

	rule(OUT, true, IPPROTO_UDP, NULL, "53");
	make();
	frame_udp(&f, "fd00::2", 1, "fd00::1", 53, 10);
	extend(&f, 60, pad, 8);
	extend(&f, 0, pad, 8);
	cr_assert(judge(OUT, &f));
	frame_udp(&f, "fd00::2", 1, "fd00::1", 54, 10);
	extend(&f, 60, pad, 8);
	cr_assert_not(judge(OUT, &f), "the port is looked for behind them");
	frame_udp(&f, "fd00::2", 1, "fd00::1", 53, 10);
	extend(&f, 43, pad, 8);
	cr_assert_not(judge(OUT, &f), "source routing");
	frame_udp(&f, "fd00::2", 1, "fd00::1", 53, 10);
	for (unsigned i = 0; i < 12; i++)
		extend(&f, 60, pad, 8);
	cr_assert_not(judge(OUT, &f), "more of them than anybody needs");
	frame_udp(&f, "fd00::2", 1, "fd00::1", 53, 10);
	extend(&f, 44, frag_later, 8);
	cr_assert_not(judge(OUT, &f));
	frame_udp(&f, "fd00::2", 1, "fd00::1", 53, 10);
	extend(&f, 44, frag_first, 8);
	cr_assert(judge(OUT, &f));
	frame_udp(&f, "fd00::2", 1, "fd00::1", 53, 10);
	extend(&f, 44, frag_later, 8);
	cr_assert(judge(OUT, &f));
}

Test(netpolicy, source_routes)
{
	static const uint8_t options[][4] = {{131, 3, 4, 0}, {137, 3, 4, 0}, {1, 131, 3, 4},
					     {7, 1, 0, 0},   {7, 0, 0, 0},   {148, 4, 0, 0}};
	struct frame f;

	cfg.way[OUT].allow = true;
	make();
	for (unsigned i = 0; i < ARRAY_SIZE(options); i++) {
		frame_udp(&f, "10.0.0.2", 1, "8.8.8.8", 53, 10);
		memmove(f.byte + 38, f.byte + 34, f.len - 34);
		memcpy(f.byte + 34, options[i], 4);
		f.len += 4;
		f.byte[14] = 0x46;
		frame_put16(&f, 16, f.len - 14);
		frame_fix_ip(&f);
		cr_assert_eq(judge(OUT, &f), i == 5, "%u: only the router alert", i);
	}
}

Test(netpolicy, offloads_that_fit_the_frame)
{
	static const struct {
		bool tcp, fine;
		struct netframe_offload o;
	} cases[] = {
		{true, true, {0}},
		{true, true, {.flags = 1, .csum_start = 34, .csum_offset = 16}},
		{true,
		 true,
		 {.flags = 1,
		  .gso_type = 1,
		  .gso_size = 1448,
		  .csum_start = 34,
		  .csum_offset = 16}},
		{true,
		 true,
		 {.flags = 1,
		  .gso_type = 0x81,
		  .gso_size = 1448,
		  .csum_start = 34,
		  .csum_offset = 16}},
		{true, false, {.flags = 1, .gso_type = 4, .csum_start = 34, .csum_offset = 16}},
		{true, false, {.flags = 1, .gso_type = 3, .csum_start = 34, .csum_offset = 16}},
		{true, false, {.flags = 1, .gso_type = 5, .csum_start = 34, .csum_offset = 16}},
		{true, false, {.flags = 1, .csum_start = 34, .csum_offset = 6}},
		{true, false, {.flags = 1, .csum_start = 33, .csum_offset = 17}},
		{true, false, {.flags = 1, .csum_start = 14, .csum_offset = 16}},
		{true, false, {.gso_type = 1, .gso_size = 1448}},
		{false, true, {.flags = 1, .csum_start = 34, .csum_offset = 6}},
		{false,
		 true,
		 {.flags = 1, .gso_type = 5, .gso_size = 1000, .csum_start = 34, .csum_offset = 6}},
		{false, false, {.flags = 1, .gso_type = 1, .csum_start = 34, .csum_offset = 6}},
		{false, false, {.flags = 1, .csum_start = 34, .csum_offset = 16}},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct netframe nf;
		struct frame f;

		if (cases[i].tcp)
			frame_tcp(&f, "10.0.0.2", 1, "8.8.8.8", 80, 2, 100);
		else
			frame_udp(&f, "10.0.0.2", 1, "8.8.8.8", 80, 100);
		cr_assert_eq(netframe_parse(&nf, f.byte, f.len, f.len), 0);
		cr_assert_eq(netframe_offload_fine(&nf, &cases[i].o), cases[i].fine, "%u", i);
	}
}

Test(netpolicy, limits_of_the_configuration)
{
	struct err e = {0};

	cfg.way[OUT].count = NETPOLICY_RULES_MAX + 1;
	cr_assert_null(netpolicy_create(&cfg, NULL, &e));
	cr_assert(e.msg[0]);
	cfg.way[OUT].count = 0;
	cfg.addresses = NETPOLICY_ADDRESSES_MAX + 1;
	cr_assert_null(netpolicy_create(&cfg, NULL, &e));
}
