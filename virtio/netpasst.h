/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A passt process (https://passt.top) as a network device's backend: a working network for a
 * microVM whose user is not root and has no tap. passt turns the guest's connections into sockets
 * of its own.
 *
 * They talk through a Unix stream socket on which each Ethernet frame has its length in front, 32
 * bits big-endian: the protocol of QEMU's "-netdev stream", which other programs speak as well.
 * There are no offloads on it; large frames (an MTU up to 65520) are what makes it fast.
 *
 * The other side is another process of the same user; we survive all it may send.
 */
#pragma once

#include "virtio/netbackend.h"

/* Connects to the socket at `path`. Returns an fd that the caller owns, or -errno with `e` filled. */
int netpasst_connect(const char *path, struct err *e);

/* Takes the connected stream socket on success. NULL with `e` filled otherwise. */
struct netbackend *netpasst_create(int fd, struct err *e);
