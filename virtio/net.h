/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-net (virtio 1.2 section 5.1): queue pairs over a backend, with checksum and segmentation
 * offloads, mergeable receive buffers, rate limits, a network policy and address rewriting.
 */
#pragma once

#include "virtio/device.h"
#include "virtio/limiter.h"
#include "virtio/mmdsnet.h"
#include "virtio/netbackend.h"
#include "virtio/netguard.h"
#include "vmm/base/metric.h"

/* Feature bits, section 5.1.3; the last three are of virtio 1.3. */
#define NET_F_CSUM	 (1ull << 0)
#define NET_F_GUEST_CSUM (1ull << 1)
#define NET_F_MTU	 (1ull << 3)
#define NET_F_MAC	 (1ull << 5)
#define NET_F_GUEST_TSO4 (1ull << 7)
#define NET_F_GUEST_TSO6 (1ull << 8)
#define NET_F_GUEST_ECN	 (1ull << 9)
#define NET_F_GUEST_UFO	 (1ull << 10)
#define NET_F_HOST_TSO4	 (1ull << 11)
#define NET_F_HOST_TSO6	 (1ull << 12)
#define NET_F_HOST_ECN	 (1ull << 13)
#define NET_F_HOST_UFO	 (1ull << 14)
#define NET_F_MRG_RXBUF	 (1ull << 15)
#define NET_F_STATUS	 (1ull << 16)
#define NET_F_CTRL_VQ	 (1ull << 17)
#define NET_F_MQ	 (1ull << 22)
#define NET_F_GUEST_USO4 (1ull << 54)
#define NET_F_GUEST_USO6 (1ull << 55)
#define NET_F_HOST_USO	 (1ull << 56)

#define NET_MTU_MIN 68u
#define NET_MTU_MAX 65535u

struct net_config {
	const char *id;		      /* shown in messages; copied */
	const uint8_t *mac;	      /* six bytes, copied; NULL: the guest chooses one */
	uint16_t mtu;		      /* 0: not told to the guest */
	struct limiter_config rx, tx; /* rx: to the guest */
	/*
	 * Its backend may come and go: `pairs` queue pairs, and those of `offloads` that every one
	 * of its backends has to have, are what the guest is offered. Else they are the backend's.
	 */
	bool placeholder;
	unsigned pairs;
	uint64_t offloads;
};

/* What Firecracker's metrics call "net" and "net_<id>". Bumped by the main thread. */
struct net_metrics {
	struct metric event_fails; /* notifications that met a broken ring */
	struct metric no_rx_avail_buffer, no_tx_avail_buffer;
	struct metric rx_queue_event_count, tx_queue_event_count;
	struct metric rx_tap_event_count; /* times the backend became readable */
	struct metric rx_bytes_count, rx_packets_count, rx_count;
	struct metric rx_fails; /* frames that found no place */
	struct metric rx_rate_limiter_throttled, rx_event_rate_limiter_count;
	struct metric tx_bytes_count, tx_packets_count, tx_count;
	struct metric tx_fails, tx_malformed_frames, tx_spoofed_mac_count;
	struct metric tx_rate_limiter_throttled, tx_rate_limiter_event_count;
	struct metric tx_remaining_reqs_count; /* a turn ended before the queue was empty */
	struct metric tap_read_fails, tap_write_fails;
	struct metric_agg tap_write_agg;
	struct metric activate_fails, cfg_fails;  /* cannot happen */
	struct metric rx_denied, tx_denied;	  /* (+) by policy or rewriting */
	struct metric update_count, update_fails; /* (+) net_set_backend() */
};

/*
 * Creates the device and takes `backend`; on failure returns NULL with `e` filled and the backend
 * is still the caller's. A placeholder may have none: its link is down. Main thread.
 */
struct virtio_device *net_create(const struct net_config *cfg, struct netbackend *backend,
				 const struct virtio_env *env, struct err *e);

/*
 * The guest reaches the metadata service through this interface: frames for it are taken out before
 * policy, rewriting and backend, and the transmit limit does not count them. The port is borrowed. Before the start.
 */
void net_set_mmds(struct virtio_device *d, struct mmdsnet_port *port);

/*
 * Puts a backend into a placeholder that has none or lost its own, and takes it; or with NULL takes
 * out and destroys the one that it has. The guest is told by its link. -errno with `e` filled and
 * nothing changed. Main thread, lock held.
 */
int net_set_backend(struct virtio_device *d, struct netbackend *backend, struct err *e);

/* Changes of a running device: main thread, env.lock held. Both buckets of a limiter fill up. */
void net_set_limits(struct virtio_device *d, const struct limiter_config *rx,
		    const struct limiter_config *tx);
/* Policy and rewriting, none after create. Lock held; counters of a policy: main thread. */
struct netguard *net_guard(struct virtio_device *d);

/*
 * The guest is on this host now: a reverse ARP request with its address, broadcast, so that switches learn the port.
 * Nothing is sent when the guest has chosen its address itself, and what policy does not let out. Main thread,
 * lock held.
 */
void net_announce(struct virtio_device *d);

/* Counters of a device made by net_create(); they live as long as it does. */
struct net_metrics *net_metrics(struct virtio_device *d);
