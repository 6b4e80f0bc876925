/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A load in two steps, for a microVM that comes over a stream (snapshot/receive.c): the machine is made from
 * what its state was when it began to move, then its memory comes, then its state. Nobody else includes this.
 * Main thread.
 */
#pragma once

#include "snapshot/snapshot.h"

struct load;

/*
 * Steps 1 to 4 of load.c, from the bytes of a state file: takes `buf`. `p` is borrowed, its backend is
 * SNAPSHOT_BACKEND_STREAM. NULL on failure; *usable: as if nothing had been
 * asked.
 */
struct load *load_arrive(struct vm *vm, struct snapshot_history *h,
			 const struct snapshot_load_params *p, uint8_t *buf, size_t len,
			 bool *usable, struct err *e);
/* To be filled. */
const struct gmem *load_memory(const struct load *l);
/*
 * The other steps, from the state that belongs to the memory; takes `buf`. Disks are locked from here on.
 * Devices do nothing as long as the loop holds them. On failure there is still load_abandon().
 */
int load_arrived(struct load *l, uint8_t *buf, size_t len, struct err *e);
/* Behind that; cannot fail. It is the microVM of this process, and frees `l`. */
void load_let_go(struct load *l, bool run);
/* Takes everything back; may be NULL. */
void load_abandon(struct load *l);
