/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "vmm/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

void fd_close(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	errno = saved;
}

static const char *kind_name(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR:
		return "a directory";
	case S_IFIFO:
		return "a FIFO";
	case S_IFSOCK:
		return "a socket";
	case S_IFCHR:
		return "a character device";
	case S_IFBLK:
		return "a block device";
	default:
		return "not a regular file";
	}
}

/* Set once, before there is a second thread: who opens a path need not know where we are. */
static bool confined;

void fd_confine(void)
{
	confined = true;
}

static int open_how(int dir, const char *path, uint64_t flags, mode_t mode, uint64_t resolve)
{
	const struct open_how how = {.flags = flags | O_CLOEXEC, .mode = mode, .resolve = resolve};
	long fd = syscall(SYS_openat2, dir, path, &how, sizeof(how));

	return fd < 0 ? -errno : (int)fd;
}

int fd_open_path(const char *path, int flags, mode_t mode)
{
	/* Absolute paths too begin at the working directory, which is the root of the jail. */
	const uint64_t jail = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
	/* openat2() is strict about flags that mean nothing with O_PATH. */
	unsigned all = (unsigned)flags | (flags & O_PATH ? 0u : (unsigned)O_NOCTTY);

	return open_how(AT_FDCWD, path, all, mode, confined ? jail : 0);
}

int fd_create_at(int dir, const char *name)
{
	return open_how(dir, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600, RESOLVE_BENEATH);
}

int fd_stat(int fd, struct stat *st)
{
	/* Not fstatat(), which musl makes an fd_stat() of. */
	return (int)syscall(SYS_newfstatat, fd, "", st, AT_EMPTY_PATH);
}

int fd_open_sink(const char *path, struct err *e)
{
	cleanup_fd int fd = fd_open_path(path, O_RDWR | O_CREAT | O_APPEND | O_NONBLOCK, 0600);
	struct stat st;

	if (fd < 0)
		return err_set(e, -fd, "open '%s': %s", path, strerror(-fd));
	if (fd_stat(fd, &st) < 0)
		return err_sys(e, "stat '%s'", path);
	if (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode) && (confined || !S_ISCHR(st.st_mode)))
		return err_set(e, EINVAL, "'%s' is %s, need a regular file or FIFO", path,
			       kind_name(st.st_mode));
	if (S_ISREG(st.st_mode) && st.st_nlink > 1)
		return err_set(e, EMLINK, "'%s' is a file with more than one name", path);
	return TAKE_FD(fd);
}

static int check_kind(int fd, const char *path, bool block_too, struct err *e)
{
	struct stat st;

	if (fd_stat(fd, &st) < 0)
		return err_sys(e, "stat '%s'", path);
	if (!S_ISREG(st.st_mode) && !(block_too && S_ISBLK(st.st_mode)))
		return err_set(e, EINVAL, "'%s' is %s, need a regular file%s", path,
			       kind_name(st.st_mode), block_too ? " or block device" : "");
	return 0;
}

/* The number in "/dev/fd/<number>"; -1: another path. */
static int number_in(const char *path)
{
	static const char prefix[] = "/dev/fd/";
	const char *digits = path + sizeof(prefix) - 1;
	long n = -1;
	char *end;

	if (strncmp(path, prefix, sizeof(prefix) - 1) != 0 || digits[0] < '0' || digits[0] > '9')
		return -1;
	errno = 0;
	n = strtol(digits, &end, 10);
	return *end || errno || n > INT_MAX ? -1 : (int)n;
}

/* Our own descriptors are all O_CLOEXEC, and an inherited one cannot have been. */
static int check_inherited(int number, const char *path, struct err *e)
{
	int has = fcntl(number, F_GETFD);

	if (number <= STDERR_FILENO || has < 0 || has & FD_CLOEXEC)
		return err_set(e, EBADF, "'%s' is not a descriptor that was inherited", path);
	return 0;
}

int fd_inherit(const char *path, struct err *e)
{
	int number = number_in(path);
	cleanup_fd int fd = -1;
	struct stat st;

	if (number < 0)
		return -ENOENT;
	if (check_inherited(number, path, e) < 0)
		return -EBADF;
	if (fd_stat(number, &st) < 0 || !S_ISSOCK(st.st_mode))
		return err_set(e, ENOTSOCK, "'%s' is no socket", path);
	fd = fcntl(number, F_DUPFD_CLOEXEC, 0);
	if (fd < 0 || fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
		return err_sys(e, "duplicate '%s'", path);
	return TAKE_FD(fd);
}

static int open_inherited(int number, const char *path, int flags, bool block_too, struct err *e)
{
	cleanup_fd int fd = -1;
	int has;

	if (check_inherited(number, path, e) < 0)
		return -EBADF;
	if (check_kind(number, path, block_too, e) < 0)
		return -EINVAL;
	has = fcntl(number, F_GETFL) & O_ACCMODE;
	if (has != O_RDWR && has != flags)
		return err_set(e, EACCES, "'%s' is not open for %s", path,
			       flags == O_RDONLY ? "reading" : "reading and writing");
	fd = fcntl(number, F_DUPFD_CLOEXEC, 0);
	return fd < 0 ? err_sys(e, "duplicate '%s'", path) : TAKE_FD(fd);
}

int fd_open_file(const char *path, int flags, bool block_too, struct err *e)
{
	/*
	 * Looked at before it is opened: opening alone starts a watchdog or rewinds a tape. Looked
	 * at again afterwards, since the name may mean something else by then; O_NONBLOCK so that a
	 * FIFO put there does not make us wait.
	 */
	int number = number_in(path);
	cleanup_fd int name = number < 0 ? fd_open_path(path, O_PATH, 0) : -1;
	cleanup_fd int fd = -1;

	if (number >= 0)
		return open_inherited(number, path, flags, block_too, e);
	if (name < 0)
		return err_set(e, -name, "open '%s': %s", path, strerror(-name));
	if (check_kind(name, path, block_too, e) < 0)
		return -EINVAL;
	fd = fd_open_path(path, flags | O_NONBLOCK, 0);
	if (fd < 0)
		return err_set(e, -fd, "open '%s': %s", path, strerror(-fd));
	if (check_kind(fd, path, block_too, e) < 0)
		return -EINVAL;
	/* io_uring takes O_NONBLOCK seriously also on files: it would answer EAGAIN. */
	if (fcntl(fd, F_SETFL, flags) < 0)
		return err_sys(e, "reset the flags of '%s'", path);
	return TAKE_FD(fd);
}

int64_t fd_size(int fd)
{
	struct stat st;
	uint64_t bytes;

	if (fd_stat(fd, &st) < 0)
		return -errno;
	if (!S_ISBLK(st.st_mode))
		return st.st_size;
	if (ioctl(fd, BLKGETSIZE64, &bytes) < 0)
		return -errno;
	return bytes > INT64_MAX ? -EFBIG : (int64_t)bytes;
}

ssize_t fd_readv(int fd, const struct iovec *iov, int n, int64_t off)
{
	return syscall(SYS_preadv2, fd, iov, n, (off_t)off, 0, 0);
}

ssize_t fd_writev(int fd, const struct iovec *iov, int n, int64_t off)
{
	return syscall(SYS_pwritev2, fd, iov, n, (off_t)off, 0, 0);
}

ssize_t fd_read(int fd, void *buf, size_t len)
{
	struct iovec iov = {buf, len};

	return fd_readv(fd, &iov, 1, -1);
}

ssize_t fd_write(int fd, const void *buf, size_t len)
{
	struct iovec iov = {(void *)(uintptr_t)buf, len};

	return fd_writev(fd, &iov, 1, -1);
}

int fd_pwrite_full(int fd, const void *buf, size_t len, uint64_t off)
{
	const char *p = buf;

	if (off > INT64_MAX)
		return -EINVAL;
	while (len > 0) {
		struct iovec iov = {(void *)(uintptr_t)p, len};
		ssize_t n = fd_writev(fd, &iov, 1, (int64_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		p += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int fd_pread_full(int fd, void *buf, size_t len, uint64_t off)
{
	char *p = buf;

	/* -1 would mean the current position. */
	if (off > INT64_MAX)
		return -EINVAL;
	while (len > 0) {
		struct iovec iov = {p, len};
		ssize_t n = fd_readv(fd, &iov, 1, (int64_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENODATA;
		p += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int fd_extend(int fd, uint64_t size, struct err *e)
{
	const int64_t now = fd_size(fd), page = 4096;
	int r = now < 0 ? (int)now : 0;

	if (r == 0 && (uint64_t)now < size) {
		const int64_t last = (int64_t)(size - 1) / page * page;

		r = fd_pwrite_full(fd, "", 1, size - 1);
		if (r == 0 && now <= last)
			fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, last, page);
	}
	return r < 0 ? err_set(e, -r, "make it %llu bytes long: %s", (unsigned long long)size,
			       strerror(-r))
		     : 0;
}

int fd_write_full(int fd, const void *buf, size_t len)
{
	const char *p = buf;

	while (len > 0) {
		ssize_t n = fd_write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

static int set_lock(int fd, short type)
{
	/* The first byte only: others, QEMU for one, give meanings to the locks of further ones. */
	struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_len = 1};

	if (fcntl(fd, F_OFD_SETLK, &l) == 0)
		return 0;
	return errno == EAGAIN || errno == EACCES ? -EWOULDBLOCK : 0;
}

int fd_try_lock(int fd, bool exclusive)
{
	return set_lock(fd, exclusive ? F_WRLCK : F_RDLCK);
}

void fd_unlock(int fd)
{
	set_lock(fd, F_UNLCK);
}

int fd_lock(int fd, bool exclusive)
{
	for (unsigned tries = 0; fd_try_lock(fd, exclusive) < 0; tries++) {
		if (tries == 20)
			return -EWOULDBLOCK;
		poll(NULL, 0, 5);
	}
	return 0;
}

void fd_event_signal(int fd)
{
	const eventfd_t one = 1;

	/* Fails only with EAGAIN at the counter's limit, and then the reader has an event anyway. */
	(void)!fd_write(fd, &one, sizeof(one));
}

bool fd_event_drain(int fd)
{
	eventfd_t n;

	return fd_read(fd, &n, sizeof(n)) == sizeof(n);
}
