/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ethernet frames made in code, with right checksums, and an independent check of those.
 */
#pragma once

#include <arpa/inet.h>
#include <string.h>

#include "vmm/base/util.h"

#define FRAME_MAX_LEN 2048u

struct frame {
	uint8_t byte[FRAME_MAX_LEN];
	uint32_t len;
};

static const uint8_t frame_mac_a[6] = {0x06, 0, 0, 0, 0, 0x0a},
		     frame_mac_b[6] = {0x06, 0, 0, 0, 0, 0x0b},
		     frame_mac_all[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

static inline void frame_put16(struct frame *f, uint32_t at, unsigned v)
{
	f->byte[at] = (uint8_t)(v >> 8);
	f->byte[at + 1] = (uint8_t)v;
}

static inline unsigned frame_get16(const struct frame *f, uint32_t at)
{
	return (unsigned)(f->byte[at] << 8 | f->byte[at + 1]);
}

/* The Internet checksum, the slow way: folded, not complemented. */
static inline uint32_t frame_sum(const uint8_t *p, uint32_t len, uint32_t sum)
{
	for (uint32_t i = 0; i < len; i++)
		sum += (uint32_t)p[i] << (i % 2 ? 0 : 8);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static inline void frame_ethernet(struct frame *f, const uint8_t *dst, const uint8_t *src,
				  unsigned type)
{
	memset(f, 0, sizeof(*f));
	memcpy(f->byte, dst, 6);
	memcpy(f->byte + 6, src, 6);
	frame_put16(f, 12, type);
	f->len = 14;
}

static inline bool frame_is_v6(const struct frame *f)
{
	return frame_get16(f, 12) == 0x86dd;
}

/* Offset of the transport header of a frame made here. */
static inline uint32_t frame_l4(const struct frame *f)
{
	return frame_is_v6(f) ? 54 : 14 + (f->byte[14] & 15u) * 4u;
}

/* Sum of the pseudo-header and `len` bytes at `l4`. */
static inline uint32_t frame_l4_sum(const struct frame *f, uint32_t l4, uint32_t len,
				    unsigned protocol, bool data)
{
	uint32_t sum =
		frame_is_v6(f) ? frame_sum(f->byte + 22, 32, 0) : frame_sum(f->byte + 26, 8, 0);

	sum += protocol + len;
	return frame_sum(f->byte + l4, data ? len : 0, sum);
}

/* Adds an IP header for `len` bytes behind it. */
static inline void frame_ip(struct frame *f, const char *src, const char *dst, unsigned protocol,
			    uint32_t len)
{
	if (frame_is_v6(f)) {
		f->byte[14] = 0x60;
		frame_put16(f, 18, len);
		f->byte[20] = (uint8_t)protocol;
		f->byte[21] = 64;
		inet_pton(AF_INET6, src, f->byte + 22);
		inet_pton(AF_INET6, dst, f->byte + 38);
		f->len = 54;
		return;
	}
	f->byte[14] = 0x45;
	frame_put16(f, 16, 20 + len);
	frame_put16(f, 18, 0x1234);
	f->byte[22] = 64;
	f->byte[23] = (uint8_t)protocol;
	inet_pton(AF_INET, src, f->byte + 26);
	inet_pton(AF_INET, dst, f->byte + 30);
	frame_put16(f, 24, ~frame_sum(f->byte + 14, 20, 0) & 0xffff);
	f->len = 34;
}

/* After changing the IPv4 header. */
static inline void frame_fix_ip(struct frame *f)
{
	frame_put16(f, 24, 0);
	frame_put16(f, 24, ~frame_sum(f->byte + 14, (f->byte[14] & 15u) * 4u, 0) & 0xffff);
}

static inline void frame_payload(struct frame *f, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++)
		f->byte[f->len++] = (uint8_t)(i * 7 + 3);
}

static inline uint32_t frame_sum_at(unsigned protocol)
{
	return protocol == IPPROTO_TCP ? 16 : protocol == IPPROTO_UDP ? 6 : 2;
}

/* Fills in the checksum of what is behind the IP header. */
static inline void frame_fix_l4(struct frame *f, unsigned protocol)
{
	uint32_t l4 = frame_l4(f), len = f->len - l4, at = l4 + frame_sum_at(protocol);
	bool pseudo = protocol != IPPROTO_ICMP;
	uint32_t sum;

	frame_put16(f, at, 0);
	sum = pseudo ? frame_l4_sum(f, l4, len, protocol, true) : frame_sum(f->byte + l4, len, 0);
	sum = ~sum & 0xffff;
	frame_put16(f, at, protocol == IPPROTO_UDP && !sum ? 0xffff : sum);
}

static inline void frame_begin(struct frame *f, const char *src)
{
	frame_ethernet(f, frame_mac_b, frame_mac_a, strchr(src, ':') ? 0x86dd : 0x0800);
}

static inline void frame_tcp(struct frame *f, const char *src, unsigned sport, const char *dst,
			     unsigned dport, unsigned flags, uint32_t data)
{
	frame_begin(f, src);
	frame_ip(f, src, dst, IPPROTO_TCP, 20 + data);
	frame_put16(f, f->len, sport);
	frame_put16(f, f->len + 2, dport);
	f->byte[f->len + 12] = 0x50;
	f->byte[f->len + 13] = (uint8_t)flags;
	f->len += 20;
	frame_payload(f, data);
	frame_fix_l4(f, IPPROTO_TCP);
}

static inline void frame_udp(struct frame *f, const char *src, unsigned sport, const char *dst,
			     unsigned dport, uint32_t data)
{
	frame_begin(f, src);
	frame_ip(f, src, dst, IPPROTO_UDP, 8 + data);
	frame_put16(f, f->len, sport);
	frame_put16(f, f->len + 2, dport);
	frame_put16(f, f->len + 4, 8 + data);
	f->len += 8;
	frame_payload(f, data);
	frame_fix_l4(f, IPPROTO_UDP);
}

/* ICMP or ICMPv6 with eight bytes of header; `rest` are its last four, as a number. */
static inline void frame_icmp(struct frame *f, const char *src, const char *dst, unsigned type,
			      uint32_t rest, uint32_t data)
{
	unsigned protocol = strchr(src, ':') ? IPPROTO_ICMPV6 : IPPROTO_ICMP;

	frame_begin(f, src);
	frame_ip(f, src, dst, protocol, 8 + data);
	f->byte[f->len] = (uint8_t)type;
	frame_put16(f, f->len + 4, rest >> 16);
	frame_put16(f, f->len + 6, rest & 0xffff);
	f->len += 8;
	frame_payload(f, data);
	frame_fix_l4(f, protocol);
}

/* An ICMP error that quotes the first `len` bytes of the IP packet in `about`. */
static inline void frame_icmp_error(struct frame *f, const char *src, const char *dst,
				    unsigned type, const struct frame *about, uint32_t len)
{
	frame_icmp(f, src, dst, type, 0, len);
	memcpy(f->byte + f->len - len, about->byte + 14, len);
	frame_fix_l4(f, strchr(src, ':') ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

static inline void frame_arp(struct frame *f, unsigned operation, const uint8_t *sender_mac,
			     const char *sender, const char *target)
{
	static const uint8_t fixed[6] = {0, 1, 8, 0, 6, 4};

	frame_ethernet(f, frame_mac_all, sender_mac, 0x0806);
	memcpy(f->byte + 14, fixed, 6);
	frame_put16(f, 20, operation);
	memcpy(f->byte + 22, sender_mac, 6);
	inet_pton(AF_INET, sender, f->byte + 28);
	inet_pton(AF_INET, target, f->byte + 38);
	f->len = 42;
}

static inline void frame_to(struct frame *f, const uint8_t *dst_mac, const uint8_t *src_mac)
{
	memcpy(f->byte, dst_mac, 6);
	memcpy(f->byte + 6, src_mac, 6);
}

/* Whether IPv4 header and transport checksum of a frame of `protocol` are right. */
static inline bool frame_sums_right(const struct frame *f, unsigned protocol)
{
	uint32_t l4 = frame_l4(f), len = f->len - l4;

	if (!frame_is_v6(f) && frame_sum(f->byte + 14, l4 - 14, 0) != 0xffff)
		return false;
	if (protocol == IPPROTO_ICMP)
		return frame_sum(f->byte + l4, len, 0) == 0xffff;
	return frame_l4_sum(f, l4, len, protocol, true) == 0xffff;
}
