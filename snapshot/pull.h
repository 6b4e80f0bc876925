/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The target's half of post-copy: memory that is still at the source of a migration, and comes when somebody
 * touches it, or by itself (userfaultfd(2)). stream.c has the protocol.
 *
 * From the stopped guest's state on a thread is the only one that reads the stream and writes to it. What it
 * hears is told by an eventfd. What cannot be had ends the process at once: there is
 * no guest without it, and whoever waits for a page cannot be told.
 */
#pragma once

#include "jailer/seccomp.h"
#include "snapshot/pageset.h"
#include "snapshot/stream.h"

enum pull_state {
	PULL_HELD,	/* the source has the guest */
	PULL_COMMITTED, /* it is ours */
	PULL_DONE,	/* with all of its memory */
};

struct pull;

/*
 * What LEFT says: the pages of `m`, which nobody has touched yet. Those that are there are dropped. *left is the
 * caller's. -EPROTO: it is no such thing; -ENOTSUP: memory that is not of ordinary anonymous pages.
 */
int pull_parse(const struct gmem *m, const struct stream_in *in, struct pageset *left,
	       struct err *e);
/*
 * Serves all of `m` from now on; takes *left. `in` and `out` are borrowed, and nobody else's until
 * pull_destroy(). The thread puts itself under the filter FETCH. Main thread. NULL with `e` filled.
 */
struct pull *pull_create(const struct gmem *m, struct pageset *left, struct stream_in *in,
			 struct stream_out *out, const struct seccomp *seccomp, struct err *e);
/* Readable when the state has changed, or another one wants to hear of it. Borrowed. */
int pull_event(const struct pull *p);
/* `run`: what COMMIT says. May be NULL. */
enum pull_state pull_state(struct pull *p, bool *run);
/* Nothing can fail any more; so many pages have come before. READY is said, and RUNNING behind COMMIT. */
void pull_ready(struct pull *p, uint64_t pages);
/* Pages that are still at the source; bytes that have come. */
uint64_t pull_left(const struct pull *p);
uint64_t pull_bytes(const struct pull *p);
/* Unless it is DONE nobody may look at `m` afterwards. Takes NULL. */
void pull_destroy(struct pull *p);
