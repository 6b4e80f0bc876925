/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/netrewrite.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

/* Offsets in headers. */
#define IPV4_SUM 10u
#define IPV4_SRC 12u
#define IPV4_DST 16u
#define TCP_SUM	 16u
#define UDP_SUM	 6u
#define ICMP_SUM 2u

int netrewrite_check(const struct netrewrite *w, struct err *e)
{
	if (w->count > NETREWRITE_PAIRS_MAX)
		return err_set(e, EINVAL, "more than %d pairs", NETREWRITE_PAIRS_MAX);
	for (unsigned i = 0; i < 2 * w->count; i++) {
		const struct netaddr *a = i % 2 ? &w->pair[i / 2].outside : &w->pair[i / 2].inside;
		uint8_t first = netaddr_v4_bytes(a)[0];

		if (!netaddr_is_v4(a))
			return err_set(e, EINVAL, "pair %u: not an IPv4 address", i / 2);
		if (first == 0 || first == 127 || first >= 224)
			return err_set(e, EINVAL, "pair %u: not a unicast address", i / 2);
		for (unsigned k = 0; k < i; k++)
			if (netaddr_equal(a,
					  k % 2 ? &w->pair[k / 2].outside : &w->pair[k / 2].inside))
				return err_set(e, EINVAL, "pair %u: an address that is there twice",
					       i / 2);
	}
	if (w->has_mac && (w->inside_mac[0] & 1 || w->outside_mac[0] & 1))
		return err_set(e, EINVAL, "a multicast MAC address");
	return 0;
}

static const struct netaddr *from(const struct netrewrite_pair *p, enum netframe_way way)
{
	return way == NETFRAME_EGRESS ? &p->inside : &p->outside;
}

static const struct netaddr *to(const struct netrewrite_pair *p, enum netframe_way way)
{
	return way == NETFRAME_EGRESS ? &p->outside : &p->inside;
}

/* The pair that rewrites `a` in this direction, or NULL. */
static const struct netrewrite_pair *find(const struct netrewrite *w, enum netframe_way way,
					  const struct netaddr *a)
{
	for (unsigned i = 0; i < w->count; i++)
		if (netaddr_equal(a, from(&w->pair[i], way)))
			return &w->pair[i];
	return NULL;
}

/* An address of the far side of the map: it would be taken for a rewritten one. */
static bool is_stranger(const struct netrewrite *w, enum netframe_way way, const struct netaddr *a)
{
	for (unsigned i = 0; i < w->count; i++)
		if (netaddr_equal(a, to(&w->pair[i], way)))
			return true;
	return false;
}

/*
 * A checksum field that follows changes of the words it covers. `begun`: it holds the folded sum of
 * the pseudo-header, which is not complemented yet.
 */
struct sum {
	uint8_t *field; /* NULL: there is none */
	bool begun;
};

/* RFC 1624 equation 3: HC' = ~(~HC + ~m + m'). */
static void follow(const struct sum *s, uint16_t old, uint16_t new)
{
	uint16_t flip = s->begun ? 0 : 0xffff;
	uint32_t v;

	if (!s->field)
		return;
	v = (uint32_t)(netframe_get16(s->field) ^ flip) + (uint16_t)~old + new;
	v = (v & 0xffff) + (v >> 16);
	v = (v & 0xffff) + (v >> 16);
	netframe_put16(s->field, (uint16_t)v ^ flip);
}

/* Writes the new address over the four bytes at `at`; up to two checksums follow. */
static void replace(uint8_t *at, const struct netaddr *a, const struct sum *s1,
		    const struct sum *s2)
{
	const uint8_t *new = netaddr_v4_bytes(a);

	for (unsigned i = 0; i < 4; i += 2) {
		follow(s1, netframe_get16(at + i), netframe_get16(new + i));
		follow(s2, netframe_get16(at + i), netframe_get16(new + i));
	}
	memcpy(at, new, 4);
}

static void rewrite_macs(const struct netrewrite *w, enum netframe_way way, struct netframe *f)
{
	bool out = way == NETFRAME_EGRESS;
	const uint8_t *old = out ? w->inside_mac : w->outside_mac;
	const uint8_t *new = out ? w->outside_mac : w->inside_mac;
	const uint32_t places[] = {0, NETFRAME_MAC, NETFRAME_ARP_SENDER_MAC,
				   NETFRAME_ARP_TARGET_MAC};

	for (unsigned i = 0; w->has_mac && i < (f->kind == NETFRAME_ARP ? 4 : 2); i++)
		if (memcmp(f->head + places[i], old, NETFRAME_MAC) == 0)
			memcpy(f->head + places[i], new, NETFRAME_MAC);
}

static int rewrite_arp(const struct netrewrite *w, enum netframe_way way, struct netframe *f)
{
	const struct netrewrite_pair *p;
	const struct sum none = {NULL, false};
	struct netframe_arp a;

	netframe_arp(f, &a);
	if (is_stranger(w, way, way == NETFRAME_EGRESS ? &a.sender : &a.target))
		return -EPERM;
	p = find(w, way, &a.sender);
	if (p)
		replace(f->head + NETFRAME_ARP_SENDER, to(p, way), &none, &none);
	p = find(w, way, &a.target);
	if (p)
		replace(f->head + NETFRAME_ARP_TARGET, to(p, way), &none, &none);
	return 0;
}

/* The checksum of a transport header at `l4` that covers the addresses of the IP header. */
static struct sum transport_sum(uint8_t *head, uint32_t l4, uint32_t end, uint8_t protocol,
				bool begun)
{
	struct sum s = {NULL, begun};

	if (protocol == IPPROTO_TCP && range_within(l4 + TCP_SUM, 2, end))
		s.field = head + l4 + TCP_SUM;
	if (protocol == IPPROTO_UDP && range_within(l4 + UDP_SUM, 2, end)) {
		s.field = head + l4 + UDP_SUM;
		/* 0 says that there is no checksum. */
		if (!begun && netframe_get16(s.field) == 0)
			s.field = NULL;
	}
	return s;
}

/* A complete UDP checksum that became 0 is sent as its other representation. */
static void finish_udp(const struct sum *s, uint8_t protocol)
{
	if (protocol == IPPROTO_UDP && s->field && !s->begun && netframe_get16(s->field) == 0)
		netframe_put16(s->field, 0xffff);
}

/* The addresses of the IPv4 header at `l3`, and the checksums of that header and behind it. */
static void rewrite_header(const struct netrewrite *w, enum netframe_way way, uint8_t *head,
			   uint32_t l3, const struct netframe_tuple *t, const struct sum *transport)
{
	const struct sum ip = {head + l3 + IPV4_SUM, false};
	const struct netrewrite_pair *p = find(w, way, &t->src);

	if (p)
		replace(head + l3 + IPV4_SRC, to(p, way), &ip, transport);
	p = find(w, way, &t->dst);
	if (p)
		replace(head + l3 + IPV4_DST, to(p, way), &ip, transport);
	finish_udp(transport, t->protocol);
}

/*
 * What an ICMP error quotes. The ICMP checksum covers the quoted words, header checksum and all, so
 * it follows each of them from before to after.
 */
static void rewrite_inner(const struct netrewrite *w, enum netframe_way way, struct netframe *f)
{
	const struct sum icmp = {f->head + f->l4 + ICMP_SUM, false};
	struct sum transport = {NULL, false};
	uint32_t at = f->inner_l3 + IPV4_SUM, sum_at = 0;
	uint16_t before[(IPV4_DST + 4 - IPV4_SUM) / 2];
	uint16_t old = 0;

	assert(f->head);
	if (f->inner_l4)
		transport = transport_sum(f->head, f->inner_l4, MIN(f->head_len, f->len),
					  f->inner.protocol, false);
	if (transport.field) {
		sum_at = (uint32_t)(transport.field - f->head);
		old = netframe_get16(transport.field);
	}
	for (uint32_t i = 0; i < ARRAY_SIZE(before); i++)
		before[i] = netframe_get16(f->head + at + 2 * i);
	rewrite_header(w, way, f->head, f->inner_l3, &f->inner, &transport);
	for (uint32_t i = 0; i < ARRAY_SIZE(before); i++)
		follow(&icmp, before[i], netframe_get16(f->head + at + 2 * i));
	if (transport.field)
		follow(&icmp, old, netframe_get16(f->head + sum_at));
}

static int rewrite_v4(const struct netrewrite *w, enum netframe_way way, struct netframe *f,
		      const struct netframe_offload *o)
{
	bool begun = o->flags & NETFRAME_NEEDS_CSUM && o->csum_start == f->l4;
	struct sum transport = {NULL, false};

	if (is_stranger(w, way, way == NETFRAME_EGRESS ? &f->tuple.src : &f->tuple.dst))
		return -EPERM;
	if (f->fragment != NETFRAME_LATER)
		transport = transport_sum(f->head, f->l4, f->head_len, f->tuple.protocol, begun);
	rewrite_header(w, way, f->head, f->l3, &f->tuple, &transport);
	if (f->has_inner)
		rewrite_inner(w, way, f);
	return 0;
}

int netrewrite_apply(const struct netrewrite *w, enum netframe_way way, struct netframe *f,
		     const struct netframe_offload *o)
{
	int r;

	/* For the inside MAC outside of the guest: a neighbour that is a clone as well. */
	if (w->has_mac && way == NETFRAME_INGRESS &&
	    memcmp(netframe_dst_mac(f), w->inside_mac, NETFRAME_MAC) == 0 &&
	    memcmp(w->outside_mac, w->inside_mac, NETFRAME_MAC) != 0)
		return -EPERM;
	if (f->kind == NETFRAME_ARP)
		r = rewrite_arp(w, way, f);
	else if (f->kind == NETFRAME_IPV4)
		r = rewrite_v4(w, way, f, o);
	else
		r = -EPERM;
	if (r < 0)
		return r;
	rewrite_macs(w, way, f);
	return netframe_parse(f, f->head, f->head_len, f->len) < 0 ? -EPERM : 0;
}
