/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A saved state made in code, always the same: two vCPUs, 4 MiB, an entropy device. Every field has
 * a value of its own where any is allowed, so that a mixed-up order shows.
 */
#pragma once

#include "snapshot/state.h"

/* `s` is zeroed first; state_finish() frees it. `t` may be NULL. */
void saved_fill(struct state *s, struct memory_table *t);
/* The state file of that, from malloc. */
uint8_t *saved_file(size_t *len);
