/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network of the metadata service: a host with one address that exists only inside the network
 * devices of this VM. What a guest sends to that address on an interface that has a port here is
 * taken out of its transmit queue (virtio/net_io.c) and never reaches a backend; the answers are put
 * into its receive queue.
 *
 * Ethernet and ARP are done here: every answer goes to the MAC address that the last frame came
 * from, so there is no table to poison. TCP is lwIP's (virtio/lwip/lwipopts.h), whose state is the
 * process's: there can be one of these at a time. All memory is bounded: 30 connections, each with a
 * window of received bytes and one answer; MMDSNET_RING frames for each port. A frame that finds no
 * room is sent again later by TCP. Timers run only while there is a connection.
 *
 * A hostile guest can at worst use up the connections, which only it can have, until they have been
 * idle. Main thread.
 */
#pragma once

#include "vmm/base/loop.h"
#include "vmm/base/metric.h"

#define MMDSNET_MTU	  1500u
#define MMDSNET_FRAME_MAX (14u + 8192u) /* received: more than a window in one segment */
#define MMDSNET_RING	  16u

/* What Firecracker's metrics call "mmds". rx: from the guest. */
struct mmdsnet_metrics {
	struct metric rx_accepted;	   /* frames that were taken */
	struct metric rx_accepted_err;	   /* of those: nothing could be done with */
	struct metric rx_accepted_unusual; /* of those: neither ARP nor TCP */
	struct metric rx_bad_eth; /* cannot happen: such frames get no further than the device */
	struct metric rx_count;	  /* segments */
	struct metric tx_bytes, tx_count, tx_errors, tx_frames;
	struct metric connections_created, connections_destroyed;
	struct metric rx_invalid_token, rx_no_token; /* counted by the service */
};

/* What is to be sent; `bytes` is malloc'ed and NULL while there is nothing. */
struct mmdsnet_answer {
	char *bytes;
	size_t len;
	bool close; /* and then, or without bytes at once, the connection is closed */
};

/* Who speaks over the connections. */
struct mmdsnet_service {
	/* A connection: what the others are given. NULL: refused. */
	void *(*open)(void *arg);
	/*
	 * Bytes from the guest. Returns how many were used: all of them, or those up to the end of
	 * a request for which `a` was filled; the rest comes again when that has been sent.
	 */
	size_t (*input)(void *session, const char *buf, size_t len, struct mmdsnet_answer *a);
	void (*close)(void *session);
	void *arg;
};

struct mmdsnet;
struct mmdsnet_port;

/* `service` is copied, `loop` and `count` are borrowed. NULL with `e` filled on failure. */
struct mmdsnet *mmdsnet_create(struct loop *loop, const uint8_t address[4],
			       const struct mmdsnet_service *service, struct mmdsnet_metrics *count,
			       struct err *e);
/* Ends all connections and destroys the ports. NULL is fine. */
void mmdsnet_destroy(struct mmdsnet *m);

/* A port for one interface, destroyed with `m`; `mtu` 0: not told. NULL with `e` filled on failure. */
struct mmdsnet_port *mmdsnet_add(struct mmdsnet *m, unsigned mtu, struct err *e);
/* `wake` is called whenever there is a frame after there was none; from anywhere in here. */
void mmdsnet_attach(struct mmdsnet_port *p, void (*wake)(void *arg), void *arg);

/* Whether a frame is for the service. `head` has the first `len` bytes of it, at least 64 if it does. */
bool mmdsnet_wants(const struct mmdsnet_port *p, const uint8_t *head, uint32_t len);
/* Takes such a frame; its bytes are changed. */
void mmdsnet_input(struct mmdsnet_port *p, uint8_t *frame, uint32_t len);

/* The next frame for the guest, which stays until mmdsnet_next(); NULL: none. */
const uint8_t *mmdsnet_peek(const struct mmdsnet_port *p, uint32_t *len);
/* It was delivered, or is lost. */
void mmdsnet_next(struct mmdsnet_port *p, bool delivered);
