/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Policy and rewriting of one interface together: what stands between its guest and its backend.
 * The policy always sees the guest's own point of view: frames out of the guest before they
 * are rewritten, frames to it afterwards. Under the device's lock.
 */
#pragma once

#include "virtio/netbackend.h"
#include "virtio/netpolicy.h"
#include "virtio/netrewrite.h"

struct netguard {
	struct netpolicy *policy; /* owned, or NULL: everything passes */
	struct netrewrite map;
	bool rewrite;
};

static inline bool netguard_on(const struct netguard *g)
{
	return g->policy || g->rewrite;
}

/* Takes the policy (NULL: none) and destroys the one before. */
void netguard_set_policy(struct netguard *g, struct netpolicy *policy);
/* Copies the map, which has been checked. NULL: none. */
void netguard_set_rewrite(struct netguard *g, const struct netrewrite *map);
void netguard_finish(struct netguard *g);

/*
 * Judges a frame of `len` bytes behind its header of NETBACKEND_HEADER bytes, of which `head` has
 * the first NETFRAME_HEAD at least, and rewrites it in place. `head` is nobody else's. True: it
 * may go on. Out of the guest, what the header asks for has to fit the frame, too.
 */
bool netguard_tx(struct netguard *g, uint8_t *head, uint32_t len);
bool netguard_rx(struct netguard *g, uint8_t *head, uint32_t len);
