/* SPDX-License-Identifier: Apache-2.0 */
#include "snapshot/hash.h"

/* Compiled in: one function of the library, in one file. */
#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t hash_bytes(const void *p, size_t len, uint64_t seed)
{
	return XXH3_64bits_withSeed(p, len, seed);
}
