/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/aml.h"

#include <assert.h>
#include <string.h>

enum aml_op {
	AML_NAME = 0x08,
	AML_BYTE = 0x0a,
	AML_WORD = 0x0b,
	AML_DWORD = 0x0c,
	AML_STRING = 0x0d,
	AML_QWORD = 0x0e,
	AML_SCOPE = 0x10,
	AML_BUFFER = 0x11,
	AML_PACKAGE = 0x12,
	AML_METHOD = 0x14,
	AML_EXT = 0x5b,
	AML_ARG0 = 0x68,
	AML_EXT_DEVICE = 0x82,
	AML_NOTIFY = 0x86,
	AML_EQUAL = 0x93,
	AML_IF = 0xa0,
	AML_ROOT = '\\',
};

void aml_init(struct aml *a, uint8_t *buf, size_t size)
{
	*a = (struct aml){.buf = buf, .size = size};
}

/* Lengths stand before what they measure, so they are put in when the end is known. */
static void insert(struct aml *a, size_t at, const void *bytes, size_t n)
{
	if (a->full || n > a->size - a->len) {
		a->full = true;
		return;
	}
	memmove(a->buf + at + n, a->buf + at, a->len - at);
	memcpy(a->buf + at, bytes, n);
	a->len += n;
}

static void append(struct aml *a, const void *bytes, size_t n)
{
	insert(a, a->len, bytes, n);
}

static void op(struct aml *a, uint8_t byte)
{
	append(a, &byte, 1);
}

static void segment(struct aml *a, const char *name)
{
	assert(strlen(name) == 4);
	append(a, name, 4);
}

size_t aml_scope(struct aml *a, const char *name)
{
	size_t mark;

	op(a, AML_SCOPE);
	mark = a->len;
	op(a, AML_ROOT);
	segment(a, name);
	return mark;
}

size_t aml_device(struct aml *a, const char *name)
{
	size_t mark;

	op(a, AML_EXT);
	op(a, AML_EXT_DEVICE);
	mark = a->len;
	segment(a, name);
	return mark;
}

size_t aml_package(struct aml *a, uint8_t count)
{
	size_t mark;

	op(a, AML_PACKAGE);
	mark = a->len;
	op(a, count);
	return mark;
}

/*
 * PkgLength (section 20.2.4) counts itself. One byte holds 6 bits; more bytes hold 4 bits in the
 * first, which has their number in its top bits, and 8 in each that follows.
 */
void aml_end(struct aml *a, size_t mark)
{
	size_t body = a->len - mark, total;
	uint8_t out[4];
	unsigned more = 0;

	if (body + 1 >= 1u << 6)
		for (more = 1; body + 1 + more >= (size_t)1 << (4 + 8 * more); more++)
			assert(more < 3);
	total = body + 1 + more;
	out[0] = (uint8_t)(more ? more << 6 | (total & 0xf) : total);
	for (unsigned i = 1; i <= more; i++)
		out[i] = (uint8_t)(total >> (8 * i - 4));
	insert(a, mark, out, 1 + more);
}

void aml_name(struct aml *a, const char *name)
{
	op(a, AML_NAME);
	segment(a, name);
}

/* The shortest form. Returns its length. */
static size_t encode_integer(uint8_t out[9], uint64_t v)
{
	size_t bytes = v <= UINT8_MAX ? 1 : v <= UINT16_MAX ? 2 : v <= UINT32_MAX ? 4 : 8;

	if (v <= 1) { /* ZeroOp and OneOp */
		out[0] = (uint8_t)v;
		return 1;
	}
	out[0] = bytes == 1 ? AML_BYTE : bytes == 2 ? AML_WORD : bytes == 4 ? AML_DWORD : AML_QWORD;
	memcpy(out + 1, &v, bytes); /* little-endian like the host */
	return 1 + bytes;
}

void aml_integer(struct aml *a, uint64_t v)
{
	uint8_t out[9];

	append(a, out, encode_integer(out, v));
}

void aml_string(struct aml *a, const char *s)
{
	op(a, AML_STRING);
	append(a, s, strlen(s) + 1);
}

static unsigned hex_digit(char c)
{
	return (unsigned)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* Section 19.3.4: letters in 5 bits each, digits in 4, the most significant byte first. */
void aml_eisaid(struct aml *a, const char *id)
{
	uint32_t v = 0;
	uint8_t out[5];

	assert(strlen(id) == 7);
	for (unsigned i = 0; i < 3; i++)
		v = v << 5 | (uint32_t)(id[i] - '@');
	for (unsigned i = 3; i < 7; i++)
		v = v << 4 | hex_digit(id[i]);
	v = __builtin_bswap32(v);
	out[0] = AML_DWORD;
	memcpy(out + 1, &v, 4);
	append(a, out, sizeof(out));
}

size_t aml_method(struct aml *a, const char *name, uint8_t args)
{
	enum { SERIALIZED = 8 };
	size_t mark;

	op(a, AML_METHOD);
	mark = a->len;
	segment(a, name);
	op(a, (uint8_t)(args | SERIALIZED));
	return mark;
}

size_t aml_if_arg0_is(struct aml *a, uint64_t v)
{
	size_t mark;

	op(a, AML_IF);
	mark = a->len;
	op(a, AML_EQUAL);
	op(a, AML_ARG0);
	aml_integer(a, v);
	return mark;
}

void aml_notify(struct aml *a, const char *name, uint8_t v)
{
	op(a, AML_NOTIFY);
	segment(a, name);
	aml_integer(a, v);
}

size_t aml_resources(struct aml *a)
{
	aml_name(a, "_CRS");
	op(a, AML_BUFFER);
	return a->len;
}

void aml_resources_end(struct aml *a, size_t mark)
{
	static const uint8_t end_tag[] = {0x79, 0}; /* checksum 0: none */
	uint8_t size[9];

	append(a, end_tag, sizeof(end_tag));
	insert(a, mark, size, encode_integer(size, a->len - mark));
	aml_end(a, mark);
}

void aml_io(struct aml *a, uint16_t port, uint8_t len)
{
	const struct __attribute__((packed)) {
		uint8_t tag, decode16;
		uint16_t min, max;
		uint8_t align, len;
	} d = {.tag = 0x47, .decode16 = 1, .min = port, .max = port, .align = 1, .len = len};

	append(a, &d, sizeof(d));
}

void aml_memory(struct aml *a, uint32_t base, uint32_t len)
{
	const struct __attribute__((packed)) {
		uint8_t tag;
		uint16_t tag_len;
		uint8_t writable;
		uint32_t base, len;
	} d = {.tag = 0x86, .tag_len = sizeof(d) - 3, .writable = 1, .base = base, .len = len};

	append(a, &d, sizeof(d));
}

void aml_interrupt(struct aml *a, uint32_t gsi)
{
	enum { CONSUMER = 1, EDGE = 2 };
	const struct __attribute__((packed)) {
		uint8_t tag;
		uint16_t tag_len;
		uint8_t flags, count;
		uint32_t gsi;
	} d = {.tag = 0x89,
	       .tag_len = sizeof(d) - 3,
	       .flags = CONSUMER | EDGE,
	       .count = 1,
	       .gsi = gsi};

	append(a, &d, sizeof(d));
}
