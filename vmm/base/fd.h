/* SPDX-License-Identifier: Apache-2.0 */
/*
 * File descriptors: -1 when absent, O_CLOEXEC, closed once by their owner. Any thread.
 */
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include "vmm/base/err.h"

/* Closes *fd when there is one and leaves -1. errno is kept. */
void fd_close(int *fd);
#define cleanup_fd __attribute__((cleanup(fd_close)))

/*
 * From now on paths are opened as in a jail whose root is "/": no symbolic link is followed, and nothing leads out.
 * For the whole process; call it while there is one thread.
 */
void fd_confine(void);

/* open() under these rules, always with O_CLOEXEC and O_NOCTTY. `mode` is 0 without O_CREAT. An fd, or -errno. */
int fd_open_path(const char *path, int flags, mode_t mode);

/* Creates the file `name`, 0600, which must not be there, in the directory `dir`; to read and write. An fd, or -errno. */
int fd_create_at(int dir, const char *name);

/* fstat(), by the one call that the filters allow. 0, or -1 with errno. */
struct stat;
int fd_stat(int fd, struct stat *st);

/*
 * Opens something that lines are appended to: a regular file (created 0600) or FIFO, or in no jail
 * a terminal or another character device. Never waits; O_RDWR, so that a FIFO without a reader can be opened and keeps what is
 * written for it. A file that has a second name is refused: who has given it that may want us to
 * write into another file than the one that was named.
 */
int fd_open_sink(const char *path, struct err *e);

/*
 * Opens `path` and refuses everything but a regular file (or, with `block_too`, a block device)
 * without ever waiting: a FIFO or a device with side effects is named and refused. `flags` are
 * O_RDONLY or O_RDWR. "/dev/fd/<number>" is a descriptor that whoever started the process has left
 * open: it is duplicated, in a jail too; none of spore's own can be named so. Returns an fd that
 * the caller owns, or -errno with `e` filled.
 */
int fd_open_file(const char *path, int flags, bool block_too, struct err *e);

/*
 * The socket that "/dev/fd/<number>" is, as above, made non-blocking: an fd that the caller owns; -ENOENT, without `e`: it is another
 * path.
 */
int fd_inherit(const char *path, struct err *e);

/* Size in bytes of a regular file or block device. -errno on failure. */
int64_t fd_size(int fd);

/*
 * preadv2(2) and pwritev2(2), for files at `off`, and for what has no offset (taps, pipes, sockets)
 * with `off` -1: one system call of each direction is all that the filters have to allow.
 */
ssize_t fd_readv(int fd, const struct iovec *iov, int n, int64_t off);
ssize_t fd_writev(int fd, const struct iovec *iov, int n, int64_t off);

/* read(2) and write(2) by these. Async-signal-safe. */
ssize_t fd_read(int fd, void *buf, size_t len);
ssize_t fd_write(int fd, const void *buf, size_t len);

/* Exactly `len` bytes at `off`, or -errno; -ENODATA when the file ends before. Restarts on EINTR. */
int fd_pread_full(int fd, void *buf, size_t len, uint64_t off);
/* All `len` bytes at `off`, or -errno. Restarts on EINTR. */
int fd_pwrite_full(int fd, const void *buf, size_t len, uint64_t off);

/*
 * Makes a file at least `size` bytes long, as ftruncate(2) would and by calls that the filters allow anyway; what is new is a
 * hole, but for the last page where the file system cannot make one. 0, or -errno with `e` filled.
 */
int fd_extend(int fd, uint64_t size, struct err *e);

/* Writes all `len` bytes to a stream; -errno (also -EAGAIN half-way on a non-blocking one). */
int fd_write_full(int fd, const void *buf, size_t len);

/*
 * Locks the open file (fcntl(2), "open file description locks", the first byte) against others that do so too.
 * An exclusive lock needs a file that is open for writing. 0, also where locks do not exist, or -EWOULDBLOCK.
 */
int fd_try_lock(int fd, bool exclusive);
void fd_unlock(int fd);

/*
 * fd_try_lock() that waits up to 100 ms: the kernel takes apart the io_uring of a process that was
 * killed after its end, and a file that a request is in flight for stays open until then.
 */
int fd_lock(int fd, bool exclusive);

/* Adds 1 to an eventfd (signals it). Never blocks: a counter at its limit is signalled already. */
void fd_event_signal(int fd);

/* Resets an eventfd (EFD_NONBLOCK) to 0. True when it had been signalled. */
bool fd_event_drain(int fd);
