/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A table of conversations that a policy let begin, so that the answers may come back.
 *
 * A fixed number of entries in sets of eight, found by a keyed hash that nobody outside can steer
 * (no chains to grow, no memory to exhaust). An entry lives as long as it is used, up to a limit of
 * its kind; a full set gives up the entry that was idle for longest. So a flood of new
 * conversations costs others theirs at worst, and only those that began in the same direction when
 * each direction has a table of its own. The caller's lock protects it; no function but
 * netflow_create() allocates.
 */
#pragma once

#include "virtio/netframe.h"
#include "vmm/base/util.h"

/* From the guest's point of view, so that a frame and its answer have the same key. */
struct netflow_key {
	struct netaddr local, remote;
	uint16_t local_port, remote_port;
	uint8_t protocol;
	uint8_t kind;	     /* NETFLOW_ */
	uint8_t fragment_of; /* NETFLOW_FRAGMENT: the protocol; the ports are the datagram's id */
	uint8_t zero;
};

enum { NETFLOW_CONVERSATION, NETFLOW_FRAGMENT };

struct netflow;

/* An empty table, or NULL when out of memory. */
struct netflow *netflow_create(void);
void netflow_destroy(struct netflow *t);
/* Forgets everything. */
void netflow_clear(struct netflow *t);

/* `now_s` is any clock in seconds that does not go backwards. Adds the entry or uses it. */
void netflow_add(struct netflow *t, const struct netflow_key *key, uint32_t now_s);
/* Whether it is there; it counts as used. */
bool netflow_find(struct netflow *t, const struct netflow_key *key, uint32_t now_s);
