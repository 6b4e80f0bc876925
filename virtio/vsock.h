/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-vsock (virtio 1.2 section 5.10): stream connections between the guest and Unix sockets of
 * the host. docs/vsock.md tells users; the protocol on the host's side is Firecracker's:
 *
 *	host to guest	connect to uds_path, send "CONNECT <port>\n", read "OK <host port>\n"
 *	guest to host	a connection to port P of CID 2 is made to the socket <uds_path>_<P>
 *
 * Lossless both ways: a full socket or a slow guest stops the other side by credit, never by
 * dropping. Bytes go between guest buffers and the socket in one system call for up to 256 KiB.
 */
#pragma once

#include <sys/types.h>

#include "virtio/device.h"
#include "vmm/base/metric.h"

#define VSOCK_HOST_CID	2u
#define VSOCK_CID_MIN	3u
#define VSOCK_CID_MAX	(UINT32_MAX - 1)
#define VSOCK_CONNS_MAX 1023u

struct vsock_setup {
	uint32_t guest_cid;   /* VSOCK_CID_MIN..VSOCK_CID_MAX */
	const char *uds_path; /* copied */
	int listen_fd;	      /* listening at uds_path, non-blocking */
};

/* What Firecracker's metrics call "vsock". rx is to the guest, tx from it. Main thread. */
struct vsock_metrics {
	struct metric activate_fails, cfg_fails; /* never: there is nothing that could fail */
	struct metric rx_queue_event_count, tx_queue_event_count; /* notifications */
	struct metric rx_queue_event_fails, tx_queue_event_fails; /* bad buffers, bad packets */
	struct metric ev_queue_event_fails;			  /* broken event queue */
	struct metric muxer_event_fails;			  /* host clients turned away */
	struct metric conn_event_fails; /* connections reset for what the guest or host did */
	struct metric rx_packets_count, rx_bytes_count, rx_read_fails;
	struct metric tx_packets_count, tx_bytes_count, tx_write_fails, tx_flush_fails;
	struct metric conns_added, conns_removed;
	struct metric conns_killed; /* by a timeout */
	struct metric killq_resync; /* never: there is no such queue */
};

/* What a snapshot keeps. Connections do not survive; the guest is told (vsock_transport_reset). */
struct vsock_state {
	uint32_t next_host_port; /* for the next host-initiated connection */
	uint32_t reset_owed;	 /* 1: the guest has not been told of a transport reset yet */
};

/* A listening socket at a path. */
struct vsock_listener {
	int fd; /* -1: none */
	dev_t dev;
	ino_t ino;
};

/* Binds and listens; a path that exists is an error. 0, or -errno with `e` filled. */
int vsock_listener_open(struct vsock_listener *l, const char *path, struct err *e);
/* Closes it, and removes `path` when it is still the socket that was bound. */
void vsock_listener_close(struct vsock_listener *l, const char *path);

/*
 * Creates the device and takes cfg->listen_fd; on failure returns NULL with `e` filled and the fd
 * is still the caller's. Main thread.
 */
struct virtio_device *vsock_create(const struct vsock_setup *cfg, const struct virtio_env *env,
				   struct err *e);

/* Of a device made by vsock_create(). */
struct vsock_metrics *vsock_metrics(struct virtio_device *d);
struct vsock_state *vsock_state(struct virtio_device *d);

/*
 * All connections are gone (restore): closes what there is and sends the guest a transport reset
 * event (section 5.10.6.7). Main thread, lock held.
 */
void vsock_transport_reset(struct virtio_device *d);
