/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tap interface of Linux as a network device's backend (Documentation/networking/tuntap.rst): one
 * readv or writev for each frame, up to 64 KiB of it, straight between guest memory and kernel,
 * the virtio header passed through.
 */
#pragma once

#include "virtio/net.h"

/* What every tap can do, of whatever kernel that there is KVM on. */
#define NETTAP_OFFLOADS                                                                          \
	(NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_ECN | NET_F_CSUM | \
	 NET_F_HOST_TSO4 | NET_F_HOST_TSO6 | NET_F_HOST_ECN)

/*
 * Attaches to the existing tap interface `name` with `pairs` queues; fills fd[0..pairs), which the
 * caller owns. 0, or -errno with `e` filled: no such interface, not a tap, in use, not permitted,
 * or not made with multi_queue when there is more than one pair.
 */
int nettap_open(const char *name, unsigned pairs, int *fd, struct err *e);
/* Whether `fd` is a queue of a tap that was opened with IFF_VNET_HDR and IFF_NO_PI. */
int nettap_check(int fd, struct err *e);

/* Takes the fds on success. NULL with `e` filled otherwise. */
struct netbackend *nettap_create(const int *fd, unsigned pairs, struct err *e);
