/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of the agent's protocol (ctl/agent/proto.h), for both sides: cutting a stream into frames
 * and judging their lengths, and reading and writing the fields in them. What comes is hostile: a
 * frame that is longer than its type may be is refused before its bytes are read. One thread; no
 * allocation.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ctl/agent/proto.h"

struct frame {
	uint8_t type; /* enum agent_frame */
	uint32_t len;
	const uint8_t *data; /* `len` bytes; valid until the next frame is asked for */
};

/* The receiving end of a connection. Zeroed but for `from_agent`. */
struct frame_in {
	bool from_agent; /* we are the host: only what an agent may send is let in */
	uint32_t used, have;
	uint8_t buf[AGENT_HEADER + AGENT_FRAME_MAX];
};

/* Reads once from `fd`. The number of bytes, 0 at the end, or -errno (-EAGAIN: none now). */
int frame_fill(struct frame_in *in, int fd);

/* The next whole frame in what was read: 1, or 0 when more has to be read, or -EPROTO. */
int frame_next(struct frame_in *in, struct frame *f);

/* The next frame of a blocking descriptor. 0, -ECONNRESET at the end of the stream, or -errno. */
int frame_wait(struct frame_in *in, int fd, struct frame *f);

/* Writes a whole frame to a blocking descriptor. 0 or -errno. */
int frame_write(int fd, enum agent_frame type, const void *data, uint32_t len);

/* Fills `header` (AGENT_HEADER bytes). */
void frame_header(uint8_t *header, enum agent_frame type, uint32_t len);

/* Reads fields; behind the end, or after an error, all are 0 or "" and `bad` is set. */
struct frame_cursor {
	const uint8_t *p, *end;
	bool bad;
};

struct frame_cursor frame_open(const struct frame *f);
uint64_t frame_number(struct frame_cursor *c, unsigned bytes);
const char *frame_string(struct frame_cursor *c); /* never NULL */
/* Nothing went wrong and nothing is left. */
bool frame_closed(const struct frame_cursor *c);

/* Collects fields. What does not fit sets `full`, and the content is worth nothing. */
struct frame_out {
	uint32_t len;
	bool full;
	uint8_t buf[AGENT_FRAME_MAX];
};

void frame_put_number(struct frame_out *o, uint64_t value, unsigned bytes);
void frame_put_string(struct frame_out *o, const char *s);
void frame_put_bytes(struct frame_out *o, const void *data, size_t len);

/* HELLO of this side. 0 or -errno. */
int frame_send_hello(int fd);
/* The version that the other side speaks, or 0 when this is no HELLO. */
unsigned frame_hello(const struct frame *f);
