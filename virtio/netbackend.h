/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the frames of a network device go to and come from: a tap (virtio/nettap.h), a passt process
 * (virtio/netpasst.h), or a test. The device owns its backend and calls it from the main thread
 * under its lock; nothing here blocks or, but for create, allocates.
 *
 * Every frame has the virtio header of 12 bytes in front (struct netframe_offload). A backend
 * without offloads gives one of zeroes and ignores what it gets.
 */
#pragma once

#include <sys/uio.h>

#include "vmm/base/err.h"

#define NETBACKEND_PAIRS_MAX 3 /* three queue pairs and the control queue: as many as fit */
#define NETBACKEND_HEADER    12u
#define NETBACKEND_UNKNOWN   INT32_MAX

struct netbackend;

struct netbackend_ops {
	/*
	 * Bytes of the next frame with its header, if that can be known; NETBACKEND_UNKNOWN if it
	 * cannot; 0: there is none now, the fd becomes readable when there is. -errno: there will
	 * never be one again.
	 */
	int32_t (*next)(struct netbackend *b, unsigned pair);
	/* Reads one frame; what does not fit is lost. Bytes with the header, -EAGAIN or -errno. */
	ssize_t (*recv)(struct netbackend *b, unsigned pair, const struct iovec *iov, int n);
	/*
	 * Sends one frame of `len` bytes with its header, which is in iov[0] whole; header and
	 * iov[] may be changed. 0; -EAGAIN: nothing was taken, the fd becomes writable; -errno:
	 * this frame is lost.
	 */
	int (*send)(struct netbackend *b, unsigned pair, struct iovec *iov, int n, uint32_t len);
	/*
	 * Sends on what was taken and is still here. True: all of it went. NULL: the backend holds
	 * nothing itself, in either direction.
	 */
	bool (*flush)(struct netbackend *b, unsigned pair);
	/*
	 * The driver accepted these feature bits of `offloads` (it may be given frames with those)
	 * and uses `pairs` queue pairs.
	 */
	void (*configure)(struct netbackend *b, uint64_t features, unsigned pairs);
	void (*destroy)(struct netbackend *b);
};

struct netbackend {
	const struct netbackend_ops *ops; /* [I] */
	uint64_t offloads;		  /* [I] feature bits that it can do, NET_F_ of net.h */
	unsigned pairs;			  /* [I] */
	int fd[NETBACKEND_PAIRS_MAX];	  /* [I] what to watch, owned by the backend */
};
