/* SPDX-License-Identifier: Apache-2.0 */
/* XXH3 (xxhash), 64 bits: finds accidents, stops nobody who means harm. Pure. */
#pragma once

#include <stddef.h>
#include <stdint.h>

uint64_t hash_bytes(const void *p, size_t len, uint64_t seed);
