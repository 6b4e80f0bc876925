/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the two halves of the network device share: virtio/net.c is the device, with its control
 * queue, configuration space and callbacks; virtio/net_io.c moves frames. Nobody else includes this.
 */
#pragma once

#include "virtio/mmdsnet.h"
#include "virtio/net.h"
#include "virtio/netpool.h"

/* A frame with its header, and as much of it as is copied and judged. */
#define NET_FRAME_MAX (NETBACKEND_HEADER + NETFRAME_MAX)
#define NET_HEAD_MAX  (NETBACKEND_HEADER + NETFRAME_HEAD)
/* Frames in one callback: about a millisecond of large ones. */
#define NET_TURN      64u
/* Turns that take what comes alone, after one in which a frame was. */
#define NET_ALONE     16u

/* Section 5.1.4. */
struct net_space {
	uint8_t mac[NETFRAME_MAC];
	uint16_t status;
	uint16_t max_pairs;
	uint16_t mtu;
};

struct net_state {
	uint16_t pairs; /* in use */
};

struct net_pair {
	struct loop_source source;	      /* [m] the backend's fd */
	uint32_t watched;		      /* [s] what it is watched for */
	struct loop_timer rx_timer, tx_timer; /* [m] armed while a limit or a turn is over */
	uint64_t rx_most; /* [s] most bytes that the driver had on offer at once */
	unsigned
		rx_alone; /* [s] turns that take one frame each, before one looks for a second again */
	unsigned rx_silent; /* [s] turns of sending behind which nothing is looked for */
	bool rx_starved;    /* [s] waits for buffers */
	bool tx_blocked;    /* [s] waits for the backend */
};

struct net {
	struct virtio_device dev;
	struct virtq queue[2 * NETBACKEND_PAIRS_MAX + 1]; /* [s] */
	struct net_space space;				  /* [s] */
	struct net_metrics count;			  /* [a] */
	struct netbackend *backend;			  /* [s] owned; NULL: a placeholder's */
	bool dead;					  /* [s] there is none, or it is gone */
	bool placeholder;				  /* [I] */
	uint64_t offloads;				  /* [I] a placeholder's */
	unsigned pairs;					  /* [I] that the guest may use */
	bool has_mac;					  /* [I] */
	struct net_state state;				  /* [s] */
	bool link_changed;				  /* [s] while it was saved */
	bool configured;		   /* [s] the backend knows what was negotiated */
	struct limiter rx_limit, tx_limit; /* [s] */
	struct netguard guard;		   /* [s] */
	struct mmdsnet_port *mmds;    /* [I] the metadata service; NULL: not on this interface */
	struct loop_timer mmds_timer; /* [m] armed while it has frames for the guest */
	struct net_pair pair[NETBACKEND_PAIRS_MAX];
	char name[80]; /* [I] */

	/* Scratch of the callbacks. */
	struct virtq_chain chain;
	struct netpool pool;
	uint8_t head[NET_HEAD_MAX];
	struct iovec iov[VIRTQ_SIZE_MAX + 1];
	uint8_t frame[NET_FRAME_MAX];
};

_Static_assert(sizeof(struct net_space) == 12, "virtio 1.2 section 5.1.4");

static inline bool net_has(const struct net *n, uint64_t feature)
{
	return virtio_has_feature(&n->dev, feature);
}

/* Watches the backend for what the pair waits for. Any thread. */
void net_watch(struct net *n, struct net_pair *p);
/* Nothing will ever come from the backend again: takes the link down. Main thread. */
void net_died(struct net *n, int error);

/* One turn of a transmit queue, main thread. True: there may be more, come again. */
bool net_serve_tx(struct net *n, unsigned pair);
/* Sends `len` bytes of a frame of our own, which are in n->head behind room for the header. */
void net_send_own(struct net *n, uint32_t len);
/* One turn of a receive queue, main thread. Comes again by itself when there may be more. */
void net_serve_rx(struct net *n, unsigned pair);
