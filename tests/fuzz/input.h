/* SPDX-License-Identifier: Apache-2.0 */
/* What the fuzz targets share: numbers taken off the input, and invariants that must hold. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct program {
	const uint8_t *p, *end;
};

/* Little-endian number of `n` bytes; zero behind the end. */
static inline uint64_t take(struct program *in, unsigned n)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < n && in->p < in->end; i++)
		v |= (uint64_t)*in->p++ << 8 * i;
	return v;
}

static inline void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "broken invariant: %s\n", what);
	abort();
}
