/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "virtio/uring.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* liburing 2.3 has functions for this in its static library only. */
static int ring_register(const struct io_uring *ring, unsigned op, const void *arg, unsigned n)
{
	return syscall(SYS_io_uring_register, ring->ring_fd, op, arg, n) < 0 ? -errno : 0;
}

static int restrict_it(struct io_uring *ring)
{
	struct io_uring_restriction r[] = {
		{.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READV},
		{.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_WRITEV},
		{.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_FSYNC},
	};

	return ring_register(ring, IORING_REGISTER_RESTRICTIONS, r, ARRAY_SIZE(r));
}

int uring_init(struct uring *u, struct err *e)
{
	struct io_uring_params p = {.flags = IORING_SETUP_R_DISABLED};
	int r;

	memset(u, 0, sizeof(*u));
	r = io_uring_queue_init_params(URING_ENTRIES, &u->ring, &p);
	if (r < 0) {
		u->ring.ring_fd = 0;
		return err_set(e, -r, "create an io_uring: %s%s", strerror(-r),
			       r == -EPERM ? " (see /proc/sys/kernel/io_uring_disabled)" : "");
	}
	if (!(p.features & IORING_FEAT_SUBMIT_STABLE) || !(p.features & IORING_FEAT_NODROP))
		r = -EOPNOTSUPP;
	if (r == 0)
		r = restrict_it(&u->ring);
	if (r == 0)
		r = ring_register(&u->ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	if (r < 0) {
		uring_finish(u);
		return err_set(e, -r, "set up an io_uring: %s", strerror(-r));
	}
	return 0;
}

void uring_finish(struct uring *u)
{
	if (u->ring.ring_fd > 0)
		io_uring_queue_exit(&u->ring);
	u->ring.ring_fd = 0;
}

int uring_fd(const struct uring *u)
{
	return u->ring.ring_fd > 0 ? u->ring.ring_fd : -1;
}

/* As many as fit into both queues: so the completion queue never overflows. */
bool uring_has_room(const struct uring *u, unsigned n)
{
	return io_uring_sq_space_left(&u->ring) >= n &&
	       u->in_flight + n <= *u->ring.cq.kring_entries;
}

static struct io_uring_sqe *prepare(struct uring *u, struct uring_op *op, uint8_t opcode, int file,
				    const struct iovec *iov, unsigned n, uint64_t off)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	io_uring_prep_rw(opcode, sqe, file, iov, n, off);
	io_uring_sqe_set_data(sqe, op);
	u->in_flight++;
	return sqe;
}

void uring_readv(struct uring *u, struct uring_op *op, int file, const struct iovec *iov,
		 unsigned n, uint64_t off)
{
	prepare(u, op, IORING_OP_READV, file, iov, n, off);
}

void uring_writev(struct uring *u, struct uring_op *op, int file, const struct iovec *iov,
		  unsigned n, uint64_t off)
{
	prepare(u, op, IORING_OP_WRITEV, file, iov, n, off);
}

void uring_fdatasync(struct uring *u, struct uring_op *op, int file)
{
	prepare(u, op, IORING_OP_FSYNC, file, NULL, 0, 0)->fsync_flags = IORING_FSYNC_DATASYNC;
}

int uring_submit(struct uring *u)
{
	while (io_uring_sq_ready(&u->ring) > 0) {
		int r = io_uring_submit(&u->ring);

		if (r < 0 && r != -EINTR)
			return r;
	}
	return 0;
}

unsigned uring_reap(struct uring *u)
{
	struct io_uring_cqe *cqe;
	unsigned n = 0;

	while (io_uring_peek_cqe(&u->ring, &cqe) == 0) {
		struct uring_op *op = io_uring_cqe_get_data(cqe);
		int32_t result = cqe->res;

		io_uring_cqe_seen(&u->ring, cqe);
		u->in_flight--;
		n++;
		op->done(op, result);
	}
	return n;
}

void uring_wait(struct uring *u)
{
	while (u->in_flight > 0) {
		io_uring_submit_and_wait(&u->ring, 1);
		uring_reap(u);
	}
}
