/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/netframe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#define ETHERTYPE_IPV4 0x0800u
#define ETHERTYPE_ARP  0x0806u
#define ETHERTYPE_IPV6 0x86ddu

#define IPV4_MIN     20u
#define IPV6_LEN     40u
#define TCP_MIN	     20u
#define UDP_LEN	     8u
#define ICMP_MIN     8u
#define V6_HEADERS   8u /* extension headers in a row; nobody needs three */
#define OPT_LSRR     131u
#define OPT_SSRR     137u
#define V6_HOP	     0u
#define V6_ROUTING   43u
#define V6_FRAGMENT  44u
#define V6_ICMP	     58u
#define V6_DEST_OPTS 60u

_Static_assert(sizeof(struct netframe_offload) == 12, "virtio 1.2 section 5.1.6");

static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

struct netaddr netaddr_v4(const uint8_t bytes[4])
{
	struct netaddr a;

	memcpy(&a, mapped, sizeof(mapped));
	memcpy((uint8_t *)&a + sizeof(mapped), bytes, 4);
	return a;
}

struct netaddr netaddr_v6(const uint8_t bytes[16])
{
	struct netaddr a;

	memcpy(&a, bytes, sizeof(a));
	return a;
}

bool netaddr_is_v4(const struct netaddr *a)
{
	return memcmp(a, mapped, sizeof(mapped)) == 0;
}

int netaddr_parse(const char *text, struct netaddr *a)
{
	uint8_t bytes[16];

	if (inet_pton(AF_INET, text, bytes) == 1) {
		*a = netaddr_v4(bytes);
		return 0;
	}
	if (inet_pton(AF_INET6, text, bytes) != 1)
		return -EINVAL;
	*a = netaddr_v6(bytes);
	/* "::ffff:10.0.0.1" would be taken for the IPv4 address. */
	return netaddr_is_v4(a) ? -EINVAL : 0;
}

/* A stretch of the head that a header may use: [at, end), and how far the datagram goes. */
struct span {
	const uint8_t *head;
	uint32_t at;
	uint32_t head_end;   /* bytes that we have */
	uint32_t packet_end; /* bytes that the datagram has, perhaps beyond the head */
};

static bool have(const struct span *s, uint32_t len)
{
	return range_within(s->at, len, MIN(s->head_end, s->packet_end));
}

/* Ports or the echo identifier of the transport header at s->at. */
static int parse_transport(const struct span *s, struct netframe_tuple *t, bool v6,
			   struct netframe *f)
{
	const uint8_t *p = s->head + s->at;

	switch (t->protocol) {
	case IPPROTO_TCP:
		if (!have(s, TCP_MIN))
			return -EINVAL;
		f->tcp_flags = p[13];
		break;
	case IPPROTO_UDP:
		if (!have(s, UDP_LEN))
			return -EINVAL;
		break;
	case NETFRAME_ICMP_ANY:
		if (!have(s, ICMP_MIN))
			return -EINVAL;
		f->icmp_type = p[0];
		if (v6 ? p[0] == NETFRAME_V6_ECHO || p[0] == NETFRAME_V6_ECHO_REPLY
		       : p[0] == NETFRAME_V4_ECHO || p[0] == NETFRAME_V4_ECHO_REPLY)
			t->sport = t->dport = netframe_get16(p + 4);
		return 0;
	default:
		return 0;
	}
	t->sport = netframe_get16(p);
	t->dport = netframe_get16(p + 2);
	return 0;
}

/*
 * The datagram that an ICMP error quotes, as far as it is there: addresses and, for TCP, UDP and
 * echo, the first eight bytes of the transport header. A quotation that makes no sense is left
 * out, and then the error belongs to nothing.
 */
static void parse_inner_v4(struct netframe *f, const struct span *s)
{
	const uint8_t *p = s->head + s->at;
	struct netframe_tuple *t = &f->inner;
	uint32_t header;
	struct span l4 = *s;

	if (!have(s, IPV4_MIN) || p[0] >> 4 != 4)
		return;
	header = (p[0] & 15u) * 4u;
	l4.at += header;
	if (header < IPV4_MIN || !have(&l4, 8))
		return;
	*t = (struct netframe_tuple){netaddr_v4(p + 12), netaddr_v4(p + 16), p[9], 0, 0};
	f->inner_l3 = s->at;
	f->has_inner = true;
	if (netframe_get16(p + 6) & 0x1fff)
		return;
	f->inner_l4 = l4.at;
	p = l4.head + l4.at;
	if (t->protocol == IPPROTO_TCP || t->protocol == IPPROTO_UDP) {
		t->sport = netframe_get16(p);
		t->dport = netframe_get16(p + 2);
	} else if (t->protocol == NETFRAME_ICMP_ANY) {
		t->sport = t->dport = netframe_get16(p + 4);
	}
}

static void parse_inner_v6(struct netframe *f, const struct span *s)
{
	const uint8_t *p = s->head + s->at;
	struct netframe_tuple *t = &f->inner;

	if (!have(s, IPV6_LEN + 8) || p[0] >> 4 != 6)
		return;
	*t = (struct netframe_tuple){netaddr_v6(p + 8), netaddr_v6(p + 24), p[6], 0, 0};
	f->inner_l3 = s->at;
	f->inner_l4 = s->at + IPV6_LEN;
	f->has_inner = true;
	p += IPV6_LEN;
	if (t->protocol == IPPROTO_TCP || t->protocol == IPPROTO_UDP) {
		t->sport = netframe_get16(p);
		t->dport = netframe_get16(p + 2);
	} else if (t->protocol == V6_ICMP) {
		t->protocol = NETFRAME_ICMP_ANY;
		t->sport = t->dport = netframe_get16(p + 4);
	}
}

static int parse_l4(struct netframe *f, const struct span *s, bool v6)
{
	struct span inner = *s;
	int r = parse_transport(s, &f->tuple, v6, f);

	f->l4 = s->at;
	if (r < 0 || f->tuple.protocol != NETFRAME_ICMP_ANY)
		return r;
	inner.at += ICMP_MIN;
	if (v6 && f->icmp_type >= NETFRAME_V6_UNREACHABLE && f->icmp_type <= NETFRAME_V6_PARAMETER)
		parse_inner_v6(f, &inner);
	else if (!v6 && (f->icmp_type == NETFRAME_V4_UNREACHABLE ||
			 f->icmp_type == NETFRAME_V4_TIME_EXCEEDED ||
			 f->icmp_type == NETFRAME_V4_PARAMETER))
		parse_inner_v4(f, &inner);
	return 0;
}

/* Source routes send a datagram elsewhere than its destination says. */
static bool options_fine(const uint8_t *p, uint32_t len)
{
	uint32_t at = 0;

	while (at < len && p[at] != 0) {
		if (p[at] == OPT_LSRR || p[at] == OPT_SSRR)
			return false;
		if (p[at] == 1) {
			at++;
			continue;
		}
		if (len - at < 2 || p[at + 1] < 2)
			return false;
		at += p[at + 1];
	}
	return at <= len;
}

static int parse_v4(struct netframe *f)
{
	struct span s = {f->head, f->l3, f->head_len, f->len};
	const uint8_t *p = f->head + f->l3;
	uint32_t header, total, offset;

	if (!have(&s, IPV4_MIN) || p[0] >> 4 != 4)
		return -EINVAL;
	header = (p[0] & 15u) * 4u;
	total = netframe_get16(p + 2);
	if (header < IPV4_MIN || total < header || total > f->len - f->l3 || !have(&s, header) ||
	    !options_fine(p + IPV4_MIN, header - IPV4_MIN))
		return -EINVAL;
	f->hops = p[8];
	f->tuple = (struct netframe_tuple){netaddr_v4(p + 12), netaddr_v4(p + 16), p[9], 0, 0};
	f->fragment_id = netframe_get16(p + 4);
	offset = netframe_get16(p + 6) & 0x1fffu;
	s.at += header;
	s.packet_end = f->l3 + total;
	f->l4 = s.at;
	if (offset) {
		f->fragment = NETFRAME_LATER;
		/* A later piece that begins inside the TCP header: RFC 3128. */
		return p[9] == IPPROTO_TCP && offset * 8 < TCP_MIN ? -EINVAL : 0;
	}
	f->fragment = p[6] & 0x20 ? NETFRAME_FIRST : NETFRAME_WHOLE;
	return parse_l4(f, &s, false);
}

/* One extension header. 1: `next` is behind it, 0: `next` is the transport, or -EINVAL. */
static int skip_v6(struct netframe *f, struct span *s, uint8_t *next)
{
	const uint8_t *p = s->head + s->at;
	uint32_t len;

	switch (*next) {
	case V6_HOP:
	case V6_DEST_OPTS:
		if (!have(s, 8))
			return -EINVAL;
		len = (p[1] + 1u) * 8u;
		break;
	case V6_FRAGMENT:
		if (!have(s, 8) || f->fragment != NETFRAME_WHOLE)
			return -EINVAL;
		len = 8;
		f->fragment_id = netframe_get32(p + 4);
		if (netframe_get16(p + 2) & 0xfff8u)
			f->fragment = NETFRAME_LATER;
		else if (p[3] & 1)
			f->fragment = NETFRAME_FIRST;
		break;
	case V6_ROUTING:
		return -EINVAL;
	default:
		return 0;
	}
	if (!have(s, len))
		return -EINVAL;
	*next = p[0];
	s->at += len;
	return f->fragment == NETFRAME_LATER ? 0 : 1;
}

static int parse_v6(struct netframe *f)
{
	struct span s = {f->head, f->l3, f->head_len, f->len};
	const uint8_t *p = f->head + f->l3;
	uint8_t next;
	int r = 1;

	if (!have(&s, IPV6_LEN) || p[0] >> 4 != 6)
		return -EINVAL;
	/* A length of 0 is a jumbogram: too big for every frame. */
	if (netframe_get16(p + 4) == 0 || netframe_get16(p + 4) > f->len - f->l3 - IPV6_LEN)
		return -EINVAL;
	s.packet_end = f->l3 + IPV6_LEN + netframe_get16(p + 4);
	s.at += IPV6_LEN;
	next = p[6];
	f->hops = p[7];
	f->tuple.src = netaddr_v6(p + 8);
	f->tuple.dst = netaddr_v6(p + 24);
	if (netaddr_is_v4(&f->tuple.src) || netaddr_is_v4(&f->tuple.dst))
		return -EINVAL;
	for (unsigned i = 0; r > 0; i++) {
		if (i > V6_HEADERS)
			return -EINVAL;
		r = skip_v6(f, &s, &next);
	}
	if (r < 0 || next == IPPROTO_ICMP)
		return -EINVAL;
	f->tuple.protocol = next == V6_ICMP ? NETFRAME_ICMP_ANY : next;
	f->l4 = s.at;
	return f->fragment == NETFRAME_LATER ? 0 : parse_l4(f, &s, true);
}

static int parse_arp(const struct netframe *f)
{
	static const uint8_t ethernet_ipv4[6] = {0, 1, 8, 0, 6, 4};

	if (f->len < NETFRAME_ETH + NETFRAME_ARP_LEN)
		return -EINVAL;
	return memcmp(f->head + NETFRAME_ETH, ethernet_ipv4, sizeof(ethernet_ipv4)) ? -EINVAL : 0;
}

int netframe_parse(struct netframe *f, uint8_t *head, uint32_t head_len, uint32_t len)
{
	*f = (struct netframe){.head = head, .head_len = head_len, .len = len, .l3 = NETFRAME_ETH};
	if (len < NETFRAME_MIN || len > NETFRAME_MAX)
		return -EINVAL;
	switch (netframe_get16(head + 2 * NETFRAME_MAC)) {
	case ETHERTYPE_IPV4:
		f->kind = NETFRAME_IPV4;
		return parse_v4(f);
	case ETHERTYPE_IPV6:
		f->kind = NETFRAME_IPV6;
		return parse_v6(f);
	case ETHERTYPE_ARP:
		f->kind = NETFRAME_ARP;
		return parse_arp(f);
	default:
		return 0;
	}
}

void netframe_arp(const struct netframe *f, struct netframe_arp *a)
{
	*a = (struct netframe_arp){
		.operation = netframe_get16(f->head + NETFRAME_ETH + 6),
		.sender_mac = f->head + NETFRAME_ARP_SENDER_MAC,
		.sender = netaddr_v4(f->head + NETFRAME_ARP_SENDER),
		.target_mac = f->head + NETFRAME_ARP_TARGET_MAC,
		.target = netaddr_v4(f->head + NETFRAME_ARP_TARGET),
	};
}

/* Where the checksum is in a transport header; 0 when nobody else may write one. */
static uint16_t checksum_offset(uint8_t protocol)
{
	return protocol == IPPROTO_TCP ? 16 : protocol == IPPROTO_UDP ? 6 : 0;
}

static bool gso_fine(const struct netframe *f, uint8_t type)
{
	uint8_t protocol = f->tuple.protocol;

	switch (type) {
	case NETFRAME_GSO_TCPV4:
		return f->kind == NETFRAME_IPV4 && protocol == IPPROTO_TCP;
	case NETFRAME_GSO_TCPV6:
		return f->kind == NETFRAME_IPV6 && protocol == IPPROTO_TCP;
	case NETFRAME_GSO_UFO:
	case NETFRAME_GSO_UDP_L4:
		return protocol == IPPROTO_UDP;
	default:
		return false;
	}
}

bool netframe_offload_fine(const struct netframe *f, const struct netframe_offload *o)
{
	bool ip = f->kind == NETFRAME_IPV4 || f->kind == NETFRAME_IPV6;
	uint8_t gso = o->gso_type & (uint8_t)~NETFRAME_GSO_ECN;

	if (!(o->flags & NETFRAME_NEEDS_CSUM))
		return gso == NETFRAME_GSO_NONE;
	if (!ip || f->fragment != NETFRAME_WHOLE || o->csum_start != f->l4 ||
	    !checksum_offset(f->tuple.protocol) ||
	    o->csum_offset != checksum_offset(f->tuple.protocol))
		return false;
	return gso == NETFRAME_GSO_NONE || gso_fine(f, gso);
}
