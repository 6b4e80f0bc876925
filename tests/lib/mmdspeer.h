/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's side of the metadata service's network: a TCP client made of frames, honest unless its
 * user makes it lie.
 */
#pragma once

#include "tests/lib/frames.h"
#include "virtio/mmdsnet.h"

#define MMDS_IP "169.254.169.254"

enum { PEER_FIN = 1, PEER_SYN = 2, PEER_RST = 4, PEER_PSH = 8, PEER_ACK = 16 };

struct mmdspeer {
	struct mmdsnet_port *port;
	const char *ip;
	unsigned sport;
	uint32_t seq, ack; /* next to send, next to get */
	bool connected, fin, reset;
	unsigned frames, bad; /* received; of those: not what a guest can use */
	unsigned lose;	      /* every n-th frame is lost; 0: none */
	size_t len;	      /* in got[] */
	char got[100000];
};

static inline void peer_put32(struct frame *f, uint32_t at, uint32_t v)
{
	frame_put16(f, at, v >> 16);
	frame_put16(f, at + 2, v & 0xffff);
}

static inline uint32_t peer_get32(const struct frame *f, uint32_t at)
{
	return frame_get16(f, at) << 16 | frame_get16(f, at + 2);
}

/* A segment of the connection as it would be next; its `data` of `len` bytes. */
static inline void peer_segment(const struct mmdspeer *p, struct frame *f, unsigned flags,
				const void *data, uint32_t len)
{
	frame_tcp(f, p->ip, p->sport, MMDS_IP, 80, flags, len);
	peer_put32(f, 38, p->seq);
	peer_put32(f, 42, flags & PEER_ACK ? p->ack : 0);
	frame_put16(f, 48, 60000);
	if (len)
		memcpy(f->byte + 54, data, len);
	frame_fix_l4(f, IPPROTO_TCP);
}

/* As the device does it: a buffer of its own for each frame, so that a sanitizer sees its end. */
static inline bool peer_frame(struct mmdsnet_port *port, const uint8_t *bytes, uint32_t len)
{
	uint8_t *copy = malloc(len ? len : 1);
	bool wanted;

	memcpy(copy, bytes, len);
	wanted = mmdsnet_wants(port, copy, MIN(len, 192u));
	if (wanted)
		mmdsnet_input(port, copy, len);
	free(copy);
	return wanted;
}

static inline void peer_send(struct mmdspeer *p, unsigned flags, const void *data, uint32_t len)
{
	struct frame f;

	peer_segment(p, &f, flags, data, len);
	p->seq += len + (flags & (PEER_SYN | PEER_FIN) ? 1 : 0);
	peer_frame(p->port, f.byte, f.len);
}

static inline void peer_take(struct mmdspeer *p, const struct frame *f)
{
	unsigned flags = f->byte[47];
	uint32_t seq = peer_get32(f, 38), begin = 34 + (f->byte[46] >> 4) * 4u;
	uint32_t len = frame_get16(f, 16) + 14u - begin;

	p->bad += f->len < 54 || !frame_sums_right(f, IPPROTO_TCP) || f->byte[22] != 1 ||
		  memcmp(f->byte, frame_mac_a, 6) != 0 || frame_get16(f, 34) != 80;
	if (frame_get16(f, 36) != p->sport)
		return;
	if (flags & PEER_RST) {
		p->reset = true;
		return;
	}
	if (flags & PEER_SYN) {
		p->connected = true;
		p->ack = seq + 1;
		return;
	}
	if (seq == p->ack && len && p->len + len < sizeof(p->got)) {
		memcpy(p->got + p->len, f->byte + begin, len);
		p->len += len;
		p->got[p->len] = '\0';
		p->ack += len;
	}
	if (flags & PEER_FIN && seq + len == p->ack && !p->fin) {
		p->fin = true;
		p->ack++;
	}
}

/* Takes and acknowledges what there is, until there is nothing. Returns the number of frames. */
static inline unsigned peer_pull(struct mmdspeer *p)
{
	unsigned taken = 0;
	const uint8_t *bytes;
	uint32_t len;

	while ((bytes = mmdsnet_peek(p->port, &len))) {
		struct frame f = {.len = len};
		uint32_t before = p->ack;
		bool lost = p->lose && ++p->frames % p->lose == 0;

		memcpy(f.byte, bytes, len);
		mmdsnet_next(p->port, true);
		taken++;
		if (lost)
			continue;
		peer_take(p, &f);
		if (p->ack != before)
			peer_send(p, PEER_ACK, NULL, 0);
	}
	return taken;
}

/* From nothing to an established connection. False: nobody has answered. */
static inline bool peer_connect(struct mmdspeer *p, struct mmdsnet_port *port, const char *ip,
				unsigned sport)
{
	*p = (struct mmdspeer){.port = port, .ip = ip, .sport = sport, .seq = 0xfffffff0u};
	peer_send(p, PEER_SYN, NULL, 0);
	peer_pull(p);
	return p->connected;
}

static inline void peer_say(struct mmdspeer *p, const char *text)
{
	peer_send(p, PEER_ACK | PEER_PSH, text, (uint32_t)strlen(text));
}
