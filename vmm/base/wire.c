/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/base/wire.h"

#include <errno.h>
#include <string.h>

#define FIRST_ROOM 4096u

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "integers are copied without swapping");

void wire_reader(struct wire *w, const void *buf, size_t len, unsigned version)
{
	*w = (struct wire){.buf = (uint8_t *)(uintptr_t)buf, .len = len, .version = version};
}

void wire_writer(struct wire *w, unsigned version)
{
	*w = (struct wire){.writing = true, .version = version};
}

void wire_finish(struct wire *w)
{
	if (w->writing)
		free(w->buf);
	*w = (struct wire){0};
}

void wire_fail(struct wire *w, int error)
{
	if (!w->error)
		w->error = error;
}

static bool grow(struct wire *w, size_t more)
{
	size_t len = w->len ? w->len : FIRST_ROOM;
	uint8_t *buf;

	if (range_within(w->pos, more, w->len))
		return true;
	while (len - w->pos < more)
		if (__builtin_mul_overflow(len, 2, &len))
			return false;
	buf = realloc(w->buf, len);
	if (!buf)
		return false;
	w->buf = buf;
	w->len = len;
	return true;
}

static void write_bytes(struct wire *w, const void *p, size_t len)
{
	if (!w->error && !grow(w, len))
		w->error = -ENOMEM;
	if (w->error || len == 0)
		return;
	memcpy(w->buf + w->pos, p, len);
	w->pos += len;
}

static void read_bytes(struct wire *w, void *p, size_t len)
{
	if (!w->error && !range_within(w->pos, len, w->len))
		w->error = -ENODATA;
	if (len == 0)
		return;
	if (w->error) {
		memset(p, 0, len);
		return;
	}
	memcpy(p, w->buf + w->pos, len);
	w->pos += len;
}

void wire_bytes(struct wire *w, void *p, size_t len)
{
	if (w->writing)
		write_bytes(w, p, len);
	else
		read_bytes(w, p, len);
}

void wire_u8(struct wire *w, uint8_t *v)
{
	wire_bytes(w, v, sizeof(*v));
}

void wire_u16(struct wire *w, uint16_t *v)
{
	wire_bytes(w, v, sizeof(*v));
}

void wire_u32(struct wire *w, uint32_t *v)
{
	wire_bytes(w, v, sizeof(*v));
}

void wire_u64(struct wire *w, uint64_t *v)
{
	wire_bytes(w, v, sizeof(*v));
}

void wire_unsigned(struct wire *w, unsigned *v)
{
	uint32_t n = *v;

	wire_u32(w, &n);
	*v = n;
}

void wire_bool(struct wire *w, bool *v)
{
	uint8_t b = w->writing ? *v : 0;

	wire_u8(w, &b);
	if (b > 1)
		wire_fail(w, -EBADMSG);
	*v = b == 1;
}

void wire_name(struct wire *w, char *name, size_t size)
{
	uint16_t len = w->writing ? (uint16_t)strnlen(name, size - 1) : 0;

	wire_u16(w, &len);
	if (len >= size) {
		wire_fail(w, -EBADMSG);
		len = 0;
	}
	wire_bytes(w, name, len);
	if (w->writing)
		return;
	name[len] = '\0';
	if (strlen(name) != len)
		wire_fail(w, -EBADMSG);
	if (w->error)
		name[0] = '\0';
}

static void read_text(struct wire *w, char **s, size_t max)
{
	uint32_t len = 0;

	free(TAKE(*s));
	wire_u32(w, &len);
	if (len > max)
		wire_fail(w, -EBADMSG);
	if (!w->error && !range_within(w->pos, len, w->len))
		w->error = -ENODATA;
	if (w->error)
		return;
	*s = malloc((size_t)len + 1);
	if (!*s) {
		w->error = -ENOMEM;
		return;
	}
	read_bytes(w, *s, len);
	(*s)[len] = '\0';
	if (strlen(*s) != len)
		wire_fail(w, -EBADMSG);
}

void wire_text(struct wire *w, char **s, size_t max)
{
	bool present = *s != NULL;
	uint32_t len;

	wire_bool(w, &present);
	if (!w->writing) {
		if (present)
			read_text(w, s, max);
		else
			free(TAKE(*s));
		return;
	}
	if (!present)
		return;
	if (strlen(*s) > max)
		wire_fail(w, -EMSGSIZE);
	len = (uint32_t)strlen(*s);
	wire_u32(w, &len);
	write_bytes(w, *s, len);
}

int wire_end(const struct wire *w)
{
	if (w->error || w->writing)
		return w->error;
	return w->pos == w->len ? 0 : -EMSGSIZE;
}
