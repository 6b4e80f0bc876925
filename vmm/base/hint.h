/* SPDX-License-Identifier: Apache-2.0 */
/* What to type next, told behind an error to the person who has just met it. */
#pragma once

#include <stddef.h>

/* A hint for messages in which all the words are; the first row that fits counts. */
struct hint {
	const char *words[3]; /* fewer: NULL */
	const char *hint;
};

/* The hint in table[0..count) for the error `text`, or `otherwise`, which may be NULL. */
const char *hint_find(const struct hint *table, size_t count, const char *text,
		      const char *otherwise);
