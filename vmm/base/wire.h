/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bounded little-endian cursor over bytes: the one list of fields in an `x_state_wire()` function
 * writes a state and reads it again.
 *
 * The error is sticky: after the first one a reader fills in zeroes and a writer adds nothing, so
 * that a list of fields needs one check at its end. Reading is for hostile bytes: it never looks
 * beyond the end, a bool is 0 or 1, a text holds no NUL byte. What the values mean is the `x_check()`
 * function's to judge. Any thread; only writing and wire_text() allocate.
 */
#pragma once

#include "vmm/base/err.h"

struct wire {
	uint8_t *buf;
	size_t len;	  /* reading: bytes there are; writing: bytes allocated */
	size_t pos;	  /* bytes read or written */
	unsigned version; /* of what is being read or written: later fields depend on it */
	bool writing;
	int error; /* -errno, 0 while all is well */
};

/* `buf` is borrowed and not written to. */
void wire_reader(struct wire *w, const void *buf, size_t len, unsigned version);
/* Grows as needed; wire_finish() frees w->buf, which holds w->pos bytes. */
void wire_writer(struct wire *w, unsigned version);
void wire_finish(struct wire *w);

void wire_u8(struct wire *w, uint8_t *v);
void wire_u16(struct wire *w, uint16_t *v);
void wire_u32(struct wire *w, uint32_t *v);
void wire_u64(struct wire *w, uint64_t *v);
void wire_bool(struct wire *w, bool *v);
/* For an `unsigned` or enum member of a struct that is not a state: 32 bits. */
void wire_unsigned(struct wire *w, unsigned *v);
/* Exactly `len` bytes as they are. */
void wire_bytes(struct wire *w, void *p, size_t len);
/* A zero-terminated string in an array of `size` bytes. */
void wire_name(struct wire *w, char *name, size_t size);
/* An owned string of at most `max` bytes, or NULL. Reading frees what *s had. */
void wire_text(struct wire *w, char **s, size_t max);

/* Makes the error sticky that a field list has found itself. */
void wire_fail(struct wire *w, int error);

/*
 * The end: 0, or -errno: -EBADMSG for bytes that are no such state, -ENODATA when there were too
 * few of them, -EMSGSIZE when a reader has some left, -ENOMEM.
 */
int wire_end(const struct wire *w);
