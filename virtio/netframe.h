/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the head of an Ethernet frame says: the one parser behind the network policy
 * (virtio/netpolicy.h) and the address rewriting (virtio/netrewrite.h).
 *
 * A frame comes from a guest or from a network; both may be hostile. It is parsed from a copy of
 * its first NETFRAME_HEAD bytes that nobody else can change, and what is later sent is that copy.
 * A frame whose headers do not fit into the copy, contradict each other or hide something (source
 * routing, a transport header cut apart by fragments) is malformed as a whole.
 * RFC 791, 792, 826, 768, 8200, 4443, 4861, 9293.
 */
#pragma once

#include <netinet/in.h>

#include "vmm/base/util.h"

#define NETFRAME_HEAD	  192u
#define NETFRAME_ETH	  14u
#define NETFRAME_MIN	  NETFRAME_ETH
#define NETFRAME_MAX	  (65535u + 40u + NETFRAME_ETH + 4u) /* largest IPv6 datagram, with a VLAN tag */
#define NETFRAME_MAC	  6u
#define NETFRAME_ICMP_ANY 1 /* what `protocol` is for ICMP and ICMPv6 alike */

enum netframe_kind { NETFRAME_OTHER, NETFRAME_ARP, NETFRAME_IPV4, NETFRAME_IPV6 };

/* Which way a frame goes: out of the guest, or to it. */
enum netframe_way { NETFRAME_EGRESS, NETFRAME_INGRESS };

/* An IPv4 address is kept as the last four bytes behind ::ffff, as in RFC 4291 section 2.5.5.2. */
struct netaddr {
	uint64_t word[2]; /* in network byte order */
};

/* Addresses and what tells one conversation from another. */
struct netframe_tuple {
	struct netaddr src, dst;
	uint8_t protocol;      /* as in IP, but ICMPv6 is NETFRAME_ICMP_ANY */
	uint16_t sport, dport; /* host order; ICMP echo: both its identifier; 0 when none */
};

enum netframe_fragment {
	NETFRAME_WHOLE,
	NETFRAME_FIRST, /* has the transport header; more follow */
	NETFRAME_LATER, /* has none */
};

struct netframe {
	uint8_t *head;	   /* the copy; borrowed */
	uint32_t head_len; /* of it: min(len, NETFRAME_HEAD) */
	uint32_t len;	   /* of the frame */
	enum netframe_kind kind;

	/* IPv4 and IPv6 only. */
	uint32_t l3, l4; /* offsets; l4 is behind the last header that we know */
	struct netframe_tuple tuple;
	uint8_t hops;	   /* TTL, hop limit */
	uint8_t tcp_flags; /* TCP with a header */
	uint8_t icmp_type; /* ICMP with a header */
	enum netframe_fragment fragment;
	uint32_t fragment_id;

	/* An ICMP error: what it is about, as that was sent. */
	bool has_inner;
	uint32_t inner_l3, inner_l4; /* inner_l4 0: its transport header is not there */
	struct netframe_tuple inner;
};

/* TCP flags that matter here. */
#define NETFRAME_TCP_SYN 0x02u
#define NETFRAME_TCP_ACK 0x10u

/* ICMP types (v4 / v6). */
enum {
	NETFRAME_V4_ECHO_REPLY = 0,
	NETFRAME_V4_UNREACHABLE = 3,
	NETFRAME_V4_REDIRECT = 5,
	NETFRAME_V4_ECHO = 8,
	NETFRAME_V4_TIME_EXCEEDED = 11,
	NETFRAME_V4_PARAMETER = 12,
	NETFRAME_V6_UNREACHABLE = 1,
	NETFRAME_V6_PARAMETER = 4,
	NETFRAME_V6_ECHO = 128,
	NETFRAME_V6_ECHO_REPLY = 129,
	NETFRAME_V6_MLD_QUERY = 130,
	NETFRAME_V6_MLD_REPORT = 131,
	NETFRAME_V6_MLD_DONE = 132,
	NETFRAME_V6_ROUTER_SOLICIT = 133,
	NETFRAME_V6_ROUTER_ADVERT = 134,
	NETFRAME_V6_SOLICIT = 135,
	NETFRAME_V6_ADVERT = 136,
	NETFRAME_V6_REDIRECT = 137,
	NETFRAME_V6_MLD2_REPORT = 143,
};

/*
 * Parses the `head_len` bytes at `head`, the beginning of a frame of `len`. 0, or -EINVAL when it
 * is malformed. Nothing of `head` is changed; `f` borrows it.
 */
int netframe_parse(struct netframe *f, uint8_t *head, uint32_t head_len, uint32_t len);

/* ARP for IPv4 over Ethernet, RFC 826; only of NETFRAME_ARP frames. */
struct netframe_arp {
	uint16_t operation; /* 1 request, 2 reply */
	const uint8_t *sender_mac, *target_mac;
	struct netaddr sender, target;
};
#define NETFRAME_ARP_LEN	28u
#define NETFRAME_ARP_SENDER_MAC (NETFRAME_ETH + 8u)
#define NETFRAME_ARP_SENDER	(NETFRAME_ETH + 14u)
#define NETFRAME_ARP_TARGET_MAC (NETFRAME_ETH + 18u)
#define NETFRAME_ARP_TARGET	(NETFRAME_ETH + 24u)
void netframe_arp(const struct netframe *f, struct netframe_arp *a);

/*
 * The header in front of every frame between a driver, us and a tap: struct virtio_net_hdr of
 * virtio 1.2 section 5.1.6, with num_buffers. Little-endian.
 */
struct netframe_offload {
	uint8_t flags;
	uint8_t gso_type;
	uint16_t hdr_len;
	uint16_t gso_size;
	uint16_t csum_start;
	uint16_t csum_offset;
	uint16_t num_buffers;
};
#define NETFRAME_NEEDS_CSUM 1u
#define NETFRAME_GSO_NONE   0u
#define NETFRAME_GSO_TCPV4  1u
#define NETFRAME_GSO_UFO    3u
#define NETFRAME_GSO_TCPV6  4u
#define NETFRAME_GSO_UDP_L4 5u
#define NETFRAME_GSO_ECN    0x80u

/*
 * Whether what the header asks the host to do later leaves a parsed frame what it is: the checksum
 * goes into the checksum field of the transport header that was parsed, and the frame is cut up
 * by that header's protocol. Without this a guest could have a word of its choice rewritten
 * after the frame was judged.
 */
bool netframe_offload_fine(const struct netframe *f, const struct netframe_offload *o);

static inline const uint8_t *netframe_dst_mac(const struct netframe *f)
{
	return f->head;
}

static inline const uint8_t *netframe_src_mac(const struct netframe *f)
{
	return f->head + NETFRAME_MAC;
}

/* From four or sixteen bytes as they are in a packet. */
struct netaddr netaddr_v4(const uint8_t bytes[4]);
struct netaddr netaddr_v6(const uint8_t bytes[16]);
/* "10.0.0.1" or "fd00::1". 0, or -EINVAL. */
int netaddr_parse(const char *text, struct netaddr *a);

static inline bool netaddr_equal(const struct netaddr *a, const struct netaddr *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1];
}

/* Mapped IPv4. */
bool netaddr_is_v4(const struct netaddr *a);
static inline bool netaddr_is_zero(const struct netaddr *a)
{
	return !a->word[0] && !a->word[1];
}

/* The four bytes of a mapped address. */
static inline const uint8_t *netaddr_v4_bytes(const struct netaddr *a)
{
	return (const uint8_t *)&a->word[1] + 4;
}

/* Numbers of the network in a packet, at any alignment. */
static inline uint16_t netframe_get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t netframe_get32(const uint8_t *p)
{
	return (uint32_t)netframe_get16(p) << 16 | netframe_get16(p + 2);
}

static inline void netframe_put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}
