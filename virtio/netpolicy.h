/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network policy of one interface: which frames may leave the guest and which may reach it.
 *
 * Every frame is judged from a private copy of its head (virtio/netframe.h), in this order:
 *
 *	1. Malformed: dropped. So are VLAN tags and every EtherType but IPv4, IPv6 and ARP.
 *	2. Somebody else's: out of the guest, a source MAC that is not its own, or with `address`
 *	   given, a source IP that is not in the list; to the guest, a unicast destination MAC that
 *	   is not its own. The list needs no entry for what an interface says before it has an
 *	   address (DHCP from 0.0.0.0, IPv6 duplicate detection from ::) and for the link-local
 *	   address that follows from the MAC (EUI-64).
 *	3. ARP and IPv6 neighbour discovery pass when they speak of the guest's own addresses: it
 *	   can neither claim another's nor be told that its own are elsewhere. Out of the guest,
 *	   router advertisements and redirects never pass; redirects to it neither.
 *	4. Answers pass: what belongs to a conversation that a rule let begin in the other
 *	   direction, ICMP errors about any, and later fragments of a datagram that passed.
 *	   A TCP SYN is never an answer.
 *	5. The rules, first match, else the default.
 *
 * A rule's address is the far end's (destination of egress, source of ingress), its ports are
 * destination ports. Rules with ports match TCP and UDP only.
 *
 * The guest itself cannot get around it by offloads: netframe_offload_fine() refuses a frame whose
 * checksum would be written elsewhere than into the checksum field of the header that was
 * judged, and one that would be cut up by other rules than that header's.
 *
 * Rules are replaced by making a new policy; conversations begin again then. All functions under
 * the device's lock; no function but create allocates. Counters are read by the main thread.
 */
#pragma once

#include "virtio/netframe.h"
#include "vmm/base/err.h"
#include "vmm/base/metric.h"

#define NETPOLICY_RULES_MAX	256
#define NETPOLICY_ADDRESSES_MAX 16

struct netpolicy_rule {
	bool allow;
	uint8_t protocol; /* IPPROTO_TCP, IPPROTO_UDP, NETFRAME_ICMP_ANY; 0: any */
	bool any_address; /* of both families */
	struct netaddr address;
	unsigned prefix; /* bits of `address` that count: 0..128, IPv4 96..128 */
	bool any_port;
	uint16_t port_low, port_high;
};

/* One direction. */
struct netpolicy_rules {
	bool allow; /* the default */
	unsigned count;
	struct netpolicy_rule rule[NETPOLICY_RULES_MAX];
};

struct netpolicy_config {
	struct netpolicy_rules way[2]; /* by enum netframe_way */
	unsigned addresses;	       /* 0: source addresses are not checked */
	struct netaddr address[NETPOLICY_ADDRESSES_MAX];
};

/* "10.0.0.0/8", "fd00::/16", "192.0.2.1". -EINVAL also when bits behind the prefix are set. */
int netpolicy_parse_cidr(const char *text, struct netpolicy_rule *rule);
/* "443" or "8000-8999". -EINVAL. */
int netpolicy_parse_ports(const char *text, struct netpolicy_rule *rule);

/* Frames by what became of them, each frame once. */
struct netpolicy_metrics {
	struct metric rule[2][NETPOLICY_RULES_MAX]; /* decided by this rule */
	struct metric by_default[2];
	struct metric answers[2];   /* let pass in step 4 */
	struct metric neighbour[2]; /* let pass in step 3 */
	struct metric not_own[2];   /* dropped in step 2 or 3 */
	struct metric malformed[2];
};

struct netpolicy;

/* Copies `cfg`. `mac` is the guest's, or NULL: unknown, and MACs are not judged. */
struct netpolicy *netpolicy_create(const struct netpolicy_config *cfg, const uint8_t *mac,
				   struct err *e);
void netpolicy_destroy(struct netpolicy *p);

/* Whether the frame may go on; counted. `now_s`: a clock in seconds. */
bool netpolicy_judge(struct netpolicy *p, enum netframe_way way, const struct netframe *f,
		     uint32_t now_s);
/* Counts a frame that could not even be parsed. */
void netpolicy_malformed(struct netpolicy *p, enum netframe_way way);

struct netpolicy_metrics *netpolicy_metrics(struct netpolicy *p);
unsigned netpolicy_rule_count(const struct netpolicy *p, enum netframe_way way);
