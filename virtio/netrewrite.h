/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 1:1 address rewriting: the guest keeps the addresses it was born with, and the network sees
 * others. Clones of one snapshot, which all believe to be the same machine, so share one bridge
 * without a network namespace each.
 *
 * A map is a list of pairs (inside, outside) of IPv4 addresses, and optionally one of MAC
 * addresses. Out of the guest every inside address in the Ethernet, ARP or IPv4 header becomes its
 * outside one, to the guest the other way round; the datagram that an ICMP error quotes included.
 * Besides the guest's own address, that of its gateway can be in the map. Checksums are updated
 * incrementally (RFC 1624), so that a broken one stays broken, and also where a checksum is only
 * begun because an offload will complete it. Addresses inside a payload (DHCP, FTP) stay.
 *
 * What would blur the map is dropped: out of the guest, a source that is somebody's outside
 * address; to the guest, anything for an inside address, which is the neighbours' business when
 * they are clones too. Only IPv4 and ARP go through: IPv6 addresses are not rewritten, and clones
 * with equal ones must not meet.
 *
 * Nothing allocates but create. Under the device's lock.
 */
#pragma once

#include "virtio/netframe.h"
#include "vmm/base/err.h"

#define NETREWRITE_PAIRS_MAX 8

struct netrewrite_pair {
	struct netaddr inside, outside; /* both IPv4 */
};

struct netrewrite {
	unsigned count;
	struct netrewrite_pair pair[NETREWRITE_PAIRS_MAX];
	bool has_mac;
	uint8_t inside_mac[NETFRAME_MAC], outside_mac[NETFRAME_MAC];
};

/* -EINVAL with `e` filled unless it is a map: IPv4 unicast, no address twice. */
int netrewrite_check(const struct netrewrite *w, struct err *e);

/*
 * Rewrites f->head in place and parses it again, so that `f` says what it is now. `o` tells which
 * checksum is only begun. 0, or -EPERM when the frame must not go on.
 */
int netrewrite_apply(const struct netrewrite *w, enum netframe_way way, struct netframe *f,
		     const struct netframe_offload *o);
