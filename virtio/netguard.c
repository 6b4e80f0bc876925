/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/netguard.h"

#include <string.h>

void netguard_set_policy(struct netguard *g, struct netpolicy *policy)
{
	netpolicy_destroy(g->policy);
	g->policy = policy;
}

void netguard_set_rewrite(struct netguard *g, const struct netrewrite *map)
{
	g->rewrite = map;
	if (map)
		g->map = *map;
}

void netguard_finish(struct netguard *g)
{
	netguard_set_policy(g, NULL);
}

static uint32_t clock_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint32_t)ts.tv_sec;
}

static bool malformed(struct netguard *g, enum netframe_way way)
{
	if (g->policy)
		netpolicy_malformed(g->policy, way);
	return false;
}

bool netguard_tx(struct netguard *g, uint8_t *head, uint32_t len)
{
	uint8_t *frame = head + NETBACKEND_HEADER;
	struct netframe_offload o;
	struct netframe f;

	memcpy(&o, head, sizeof(o));
	if (netframe_parse(&f, frame, MIN(len, NETFRAME_HEAD), len) < 0 ||
	    !netframe_offload_fine(&f, &o))
		return malformed(g, NETFRAME_EGRESS);
	if (g->policy && !netpolicy_judge(g->policy, NETFRAME_EGRESS, &f, clock_s()))
		return false;
	return !g->rewrite || netrewrite_apply(&g->map, NETFRAME_EGRESS, &f, &o) == 0;
}

bool netguard_rx(struct netguard *g, uint8_t *head, uint32_t len)
{
	uint8_t *frame = head + NETBACKEND_HEADER;
	struct netframe_offload o;
	struct netframe f;

	memcpy(&o, head, sizeof(o));
	if (netframe_parse(&f, frame, MIN(len, NETFRAME_HEAD), len) < 0)
		return malformed(g, NETFRAME_INGRESS);
	if (g->rewrite && netrewrite_apply(&g->map, NETFRAME_INGRESS, &f, &o) < 0)
		return false;
	return !g->policy || netpolicy_judge(g->policy, NETFRAME_INGRESS, &f, clock_s());
}
