/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An io_uring of one drive: reads and writes that the kernel carries out by itself, many of them
 * handed over by one io_uring_enter().
 *
 * Each asynchronous drive has a ring of its own, where one for the whole VM could do: the lock of
 * the drive's bus slot protects it, so that a reset on a vCPU thread can wait for this drive's
 * requests without a lock that two slots share and without touching another device's completions. A
 * batch belongs to one drive anyway, the kernel's worker threads are shared by all rings of a
 * process, and a ring costs 10 us once.
 *
 * What the page cache holds is served while it is submitted: its completion is there when
 * uring_submit() returns, and no event is needed for it. For the rest the ring's descriptor becomes
 * readable.
 *
 * The ring is restricted (IORING_REGISTER_RESTRICTIONS) to readv, writev and fsync, which the
 * seccomp filter allows on any descriptor too, so that it is no way around it. Files are not
 * registered: to put another one in the place of one that is would take a system call which nothing
 * else needs, and a killed process would keep them open, and locked, for as long as the kernel
 * takes to end its rings.
 *
 * All functions: the owner's lock held. Nothing but uring_init() allocates.
 */
#pragma once

#include <liburing.h>

#include "vmm/base/err.h"

#define URING_ENTRIES 256u

/* Embedded by the caller into what it waits for; stays where it is until done() was called. */
struct uring_op {
	/* `result`: as of the system call, -errno for an error. */
	void (*done)(struct uring_op *op, int32_t result);
};

struct uring {
	struct io_uring ring;
	unsigned in_flight; /* prepared or submitted, done() not yet called */
};

/* On failure there is nothing to finish. */
int uring_init(struct uring *u, struct err *e);
/* Nothing is in flight. A zeroed one is fine. */
void uring_finish(struct uring *u);
/* To be watched for EPOLLIN; -1 when there is no ring. Not the caller's. */
int uring_fd(const struct uring *u);

/* Room for `n` more operations. */
bool uring_has_room(const struct uring *u, unsigned n);
/*
 * Prepare one operation each, on the descriptor `file`; there is room. `iov` must stay until
 * uring_submit() has returned 0, the buffers until done().
 */
void uring_readv(struct uring *u, struct uring_op *op, int file, const struct iovec *iov,
		 unsigned n, uint64_t off);
void uring_writev(struct uring *u, struct uring_op *op, int file, const struct iovec *iov,
		  unsigned n, uint64_t off);
void uring_fdatasync(struct uring *u, struct uring_op *op, int file);

/* Hands over all that was prepared. 0, or -errno: what the kernel did not take stays prepared. */
int uring_submit(struct uring *u);
/* Calls done() of what is complete. Returns how many there were. Does not wait. */
unsigned uring_reap(struct uring *u);
/* Until nothing is in flight. */
void uring_wait(struct uring *u);
