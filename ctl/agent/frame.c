/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/agent/frame.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* Who may send what, and how long it is. */
static const struct rule {
	uint8_t type;
	bool host, agent;
	uint32_t min, max;
} rules[] = {
	{AGENT_HELLO, true, true, 8, 8},
	{AGENT_ENTRY, true, true, 23, 21 + 2 * AGENT_PATH_MAX},
	{AGENT_DATA, true, true, 0, AGENT_FRAME_MAX},
	{AGENT_DONE, true, true, 4, 4},
	{AGENT_ERROR, true, true, 5, 4 + AGENT_PATH_MAX + 256},
	{AGENT_PING, true, false, 0, 64},
	{AGENT_EXEC, true, false, 25, AGENT_FRAME_MAX},
	{AGENT_STDIN, true, false, 0, AGENT_FRAME_MAX},
	{AGENT_WINDOW, true, false, 4, 4},
	{AGENT_SIGNAL, true, false, 4, 4},
	{AGENT_PUT, true, false, 2, 2 * AGENT_PATH_MAX},
	{AGENT_GET, true, false, 1, AGENT_PATH_MAX},
	{AGENT_IDENTITY, true, false, 9, 1024},
	{AGENT_SHUTDOWN, true, false, 0, 0},
	{AGENT_PONG, false, true, 0, 64},
	{AGENT_STARTED, false, true, 4, 4},
	{AGENT_STDOUT, false, true, 1, AGENT_FRAME_MAX},
	{AGENT_STDERR, false, true, 1, AGENT_FRAME_MAX},
	{AGENT_TAKEN, false, true, 4, 4},
	{AGENT_EXITED, false, true, 2, 2},
};

static bool allowed(bool from_agent, uint8_t type, uint32_t len)
{
	for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
		const struct rule *r = &rules[i];

		if (r->type == type)
			return (from_agent ? r->agent : r->host) && len >= r->min && len <= r->max;
	}
	return false;
}

static uint64_t little(const uint8_t *p, unsigned bytes)
{
	uint64_t v = 0;

	while (bytes-- > 0)
		v = v << 8 | p[bytes];
	return v;
}

/* --- receiving --- */

int frame_fill(struct frame_in *in, int fd)
{
	ssize_t n;

	if (in->used > 0) {
		memmove(in->buf, in->buf + in->used, in->have - in->used);
		in->have -= in->used;
		in->used = 0;
	}
	do
		n = read(fd, in->buf + in->have, sizeof(in->buf) - in->have);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	in->have += (uint32_t)n;
	return (int)n;
}

int frame_next(struct frame_in *in, struct frame *f)
{
	const uint8_t *p = in->buf + in->used;
	uint32_t have = in->have - in->used;

	if (have < AGENT_HEADER)
		return 0;
	f->len = (uint32_t)little(p, 4);
	f->type = p[4];
	f->data = p + AGENT_HEADER;
	if (little(p + 5, 3) != 0 || !allowed(in->from_agent, f->type, f->len))
		return -EPROTO;
	if (have - AGENT_HEADER < f->len)
		return 0;
	in->used += AGENT_HEADER + f->len;
	return 1;
}

int frame_wait(struct frame_in *in, int fd, struct frame *f)
{
	int r;

	while ((r = frame_next(in, f)) == 0) {
		r = frame_fill(in, fd);
		if (r <= 0)
			return r ? r : -ECONNRESET;
	}
	return r < 0 ? r : 0;
}

/* --- sending --- */

void frame_header(uint8_t *header, enum agent_frame type, uint32_t len)
{
	memset(header, 0, AGENT_HEADER);
	for (unsigned i = 0; i < 4; i++)
		header[i] = (uint8_t)(len >> 8 * i);
	header[4] = (uint8_t)type;
}

int frame_write(int fd, enum agent_frame type, const void *data, uint32_t len)
{
	uint8_t header[AGENT_HEADER];
	/* writev() only reads through it. */
	struct iovec iov[2] = {{header, sizeof(header)}, {(void *)(uintptr_t)data, len}};

	frame_header(header, type, len);
	while (iov[0].iov_len + iov[1].iov_len > 0) {
		ssize_t n = writev(fd, iov, 2);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		for (unsigned i = 0; i < 2; i++) {
			size_t part = (size_t)n < iov[i].iov_len ? (size_t)n : iov[i].iov_len;

			iov[i].iov_base = (uint8_t *)iov[i].iov_base + part;
			iov[i].iov_len -= part;
			n -= (ssize_t)part;
		}
	}
	return 0;
}

/* --- fields --- */

struct frame_cursor frame_open(const struct frame *f)
{
	return (struct frame_cursor){.p = f->data, .end = f->data + f->len};
}

uint64_t frame_number(struct frame_cursor *c, unsigned bytes)
{
	uint64_t v;

	c->bad |= (size_t)(c->end - c->p) < bytes;
	if (c->bad)
		return 0;
	v = little(c->p, bytes);
	c->p += bytes;
	return v;
}

const char *frame_string(struct frame_cursor *c)
{
	const char *s = (const char *)c->p;
	const uint8_t *nul = c->bad ? NULL : memchr(c->p, 0, (size_t)(c->end - c->p));

	c->bad |= !nul;
	if (!nul)
		return "";
	c->p = nul + 1;
	return s;
}

bool frame_closed(const struct frame_cursor *c)
{
	return !c->bad && c->p == c->end;
}

void frame_put_bytes(struct frame_out *o, const void *data, size_t len)
{
	o->full |= len > sizeof(o->buf) - o->len;
	if (o->full)
		return;
	memcpy(o->buf + o->len, data, len);
	o->len += (uint32_t)len;
}

void frame_put_number(struct frame_out *o, uint64_t value, unsigned bytes)
{
	uint8_t b[8];

	for (unsigned i = 0; i < bytes; i++)
		b[i] = (uint8_t)(value >> 8 * i);
	frame_put_bytes(o, b, bytes);
}

void frame_put_string(struct frame_out *o, const char *s)
{
	frame_put_bytes(o, s, strlen(s) + 1);
}

/* --- both begin with it --- */

int frame_send_hello(int fd)
{
	static const uint8_t hello[8] = {'S', 'P', 'R', 'A', AGENT_VERSION};

	return frame_write(fd, AGENT_HELLO, hello, sizeof(hello));
}

unsigned frame_hello(const struct frame *f)
{
	struct frame_cursor c = frame_open(f);

	if (f->type != AGENT_HELLO || frame_number(&c, 4) != AGENT_MAGIC)
		return 0;
	return (unsigned)frame_number(&c, 2);
}
