/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata service: a JSON document that the host writes (PUT and PATCH /mmds) and the guest
 * reads over HTTP at a link-local address, as on other clouds. Names, rules and answers are
 * Firecracker's; docs/mmds.md tells them. The network in between is virtio/mmdsnet.h.
 *
 * The document belongs to the process, not to the microVM: it is there before the start and is not
 * in a snapshot. The configuration is. Main thread.
 */
#pragma once

#include <jansson.h>

#include "virtio/mmdsnet.h"
#include "vmm/http.h"
#include "vmm/mmds_token.h"
#include "vmm/netconfig.h"

#define MMDS_LIMIT_DEFAULT 51200u
#define MMDS_ADDRESS	   "169.254.169.254"
#define MMDS_TTL_MAX_S	   21600u

/* PUT /mmds/config */
struct mmds_config {
	bool v2;		  /* only with a token */
	bool imds_compat;	  /* text whatever the guest accepts */
	char ipv4_address[16];	  /* default MMDS_ADDRESS */
	struct vector interfaces; /* char[NETCONFIG_ID_MAX + 1]; none: not configured */
};

struct mmds {
	uint64_t limit;			  /* bytes of `store` as JSON text */
	json_t *store;			  /* owned; NULL: nothing was put yet */
	const struct mmds_config *config; /* of the running microVM; borrowed */
	struct mmds_tokens tokens;
	struct mmdsnet_metrics count;
};

void mmds_init(struct mmds *m);
void mmds_finish(struct mmds *m);

/* Replaces the document. -EFBIG when it is over the limit. `value` is copied or shared. */
int mmds_put(struct mmds *m, json_t *value, struct err *e);
/* Merges into it (RFC 7396). -ENODATA when there is none, -EFBIG. Fails before any change. */
int mmds_patch(struct mmds *m, const json_t *patch, struct err *e);
/* A new reference; an empty object when there is none. */
json_t *mmds_get(const struct mmds *m);

/* Headers that mmds_answer() looks at: for http_keep(). */
extern const char *const mmds_headers[];
/* Answers the request that `h` has ready. `now_ns`: CLOCK_MONOTONIC. */
void mmds_answer(struct mmds *m, const struct http_reader *h, uint64_t now_ns,
		 struct http_response *r);

/* --- vmm/mmds_config.c --- */

void mmds_config_init(struct mmds_config *c);
void mmds_config_finish(struct mmds_config *c);
static inline bool mmds_configured(const struct mmds_config *c)
{
	return c->interfaces.count > 0;
}
/* Whether the service is reached through this interface. */
bool mmds_config_has(const struct mmds_config *c, const char *iface_id);
/* Replaces it; its interfaces have to be there. */
int config_set_mmds(struct config *c, struct mmds_config *piece, struct err *e);

/*
 * The network over which `m` answers, without ports, for mmdsnet_destroy(). Both are borrowed for
 * its life. NULL with `e` filled.
 */
struct mmdsnet *mmds_open(struct mmds *m, const struct mmds_config *c, struct loop *loop,
			  struct err *e);
