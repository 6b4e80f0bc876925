/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON objects to and from the structs of vmm/config.h, by tables.
 *
 * A `struct body` lists the fields of one object and where each is stored. Reading refuses unknown
 * and missing fields, wrong types and numbers out of range with a message that names the field;
 * a JSON null is an absent field. Strings cannot hold NUL bytes, keys cannot repeat. Any thread.
 */
#pragma once

#include <jansson.h>

#include "vmm/base/err.h"

enum body_type {
	BODY_BOOL,   /* bool */
	BODY_UINT,   /* unsigned or uint64_t, min..max */
	BODY_STRING, /* char *, owned; NULL when absent; at most `max` bytes */
	BODY_ID,     /* char[size]: 1..size-1 letters, digits and '_' */
	BODY_TEXT,   /* char[size]: at most size-1 bytes; "" when absent */
	BODY_ENUM,   /* an enum or bool, by `names` */
	BODY_OBJECT, /* a struct inside, by `body`; printed as null while it is all zeroes */
	BODY_LIST,  /* struct vector of at most `max` items of `item` bytes, given once in a body if
			     they own something: structs by `body`, or without one texts */
	BODY_MAP,   /* char *, owned: an object of at most `max` texts, as JSON text */
	BODY_JSON,  /* const json_t *: an object as it came, borrowed from `json`; not printed */
	BODY_ARRAY, /* an array that the action reads itself; not stored, not printed */
	BODY_UNSUPPORTED, /* Firecracker has it and spore does not: only null is accepted */
};

enum body_flags {
	BODY_REQUIRED = 1,
	BODY_ANY_CASE = 2, /* BODY_ENUM: upper and lower case are the same */
	BODY_HIDDEN = 4,   /* not printed */
	BODY_WHOLE = 8,	   /* BODY_OBJECT: given, it replaces all of the old one, in a PATCH too */
	BODY_OWNED = 16,   /* BODY_OBJECT: a pointer to `item` zeroed bytes, NULL when absent */
};

#define BODY_REFUSED (-1)

/* The JSON strings of an enum, up to the first NULL name; the first of a value is printed. */
struct body_name {
	const char *name;
	int value; /* BODY_REFUSED: a value of Firecracker's that spore does not have */
};

struct body_field {
	const char *name;
	enum body_type type;
	unsigned flags;
	size_t offset, size; /* in the struct; size 0: checked, but stored nowhere */
	uint64_t min, max;
	const struct body_name *names;
	const struct body *body; /* BODY_OBJECT, BODY_LIST */
	size_t item;		 /* BODY_LIST, BODY_OWNED: bytes of one */
};

struct body {
	const char *name; /* as in openapi.yaml */
	const struct body_field *field;
	unsigned count;
	bool may_miss; /* a request without a body means one without fields */
};

/* Parses one JSON text. Returns a reference that the caller owns, or NULL with `e` filled. */
json_t *body_parse(const char *text, size_t len, struct err *e);

/*
 * Stores what `json` says into `out`, which holds the defaults; fields that `json` does not have
 * stay. `partial` (PATCH) makes every field optional. On failure `out` may be changed in part: the
 * caller frees it. 0, or -EINVAL with `e` filled, or -ENOMEM.
 */
int body_read(const struct body *b, const json_t *json, bool partial, void *out, struct err *e);

/* The object as JSON; absent strings are null. NULL when out of memory. */
json_t *body_print(const struct body *b, const void *in);

/* Whether `id` may name a resource; says why not. */
int body_check_id(const char *id, size_t max_len, struct err *e);
