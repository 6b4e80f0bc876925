/* SPDX-License-Identifier: Apache-2.0 */
/*
 * File descriptors: -1 when absent, O_CLOEXEC, closed once by their owner. Any thread.
 */
#pragma once

#include <sys/types.h>

#include "vmm/base/err.h"

/* Closes *fd when there is one and leaves -1. errno is kept. */
void fd_close(int *fd);
#define cleanup_fd __attribute__((cleanup(fd_close)))

/*
 * Opens `path` and refuses everything but a regular file (or, with `block_too`, a block device)
 * without ever waiting: a FIFO or a device with side effects is named and refused. `flags` are
 * O_RDONLY or O_RDWR. Returns an fd that the caller owns, or -errno with `e` filled.
 */
int fd_open_file(const char *path, int flags, bool block_too, struct err *e);

/* Size in bytes of a regular file or block device. -errno on failure. */
int64_t fd_size(int fd);

/* Exactly `len` bytes at `off`, or -errno; -ENODATA when the file ends before. Restarts on EINTR. */
int fd_pread_full(int fd, void *buf, size_t len, uint64_t off);

/* Writes all `len` bytes to a stream; -errno (also -EAGAIN half-way on a non-blocking one). */
int fd_write_full(int fd, const void *buf, size_t len);

/* Adds 1 to an eventfd (signals it). Never blocks: a counter at its limit is signalled already. */
void fd_event_signal(int fd);

/* Resets an eventfd (EFD_NONBLOCK) to 0. True when it had been signalled. */
bool fd_event_drain(int fd);
