/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "snapshot/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/base/fd.h"

#ifndef USERFAULTFD_IOC_NEW /* since Linux 6.1 */
#define USERFAULTFD_IOC	    0xAA
#define USERFAULTFD_IOC_NEW _IO(USERFAULTFD_IOC, 0x00)
#endif

#define PAGE_2M MIB(2)

/* The device gives the right to faults of the kernel (KVM's) to whoever may open it. */
static int create(struct err *e)
{
	cleanup_fd int dev = fd_open_path("/dev/userfaultfd", O_RDWR, 0);
	int fd = -1;

	if (dev >= 0)
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return err_sys(e, "create a userfaultfd (need /dev/userfaultfd or CAP_SYS_PTRACE)");
	return fd;
}

static int register_memory(int fd, const struct gmem *m, struct err *e)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
	struct uffdio_register reg = {
		.range = {.start = (uintptr_t)gmem_base(m), .len = gmem_size(m)},
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	if (ioctl(fd, UFFDIO_API, &api) < 0)
		return err_sys(e, "userfaultfd (UFFDIO_API)");
	if (ioctl(fd, UFFDIO_REGISTER, &reg) < 0)
		return err_sys(e, "register guest memory (UFFDIO_REGISTER)");
	return 0;
}

int uffd_open(const struct gmem *m, struct err *e)
{
	cleanup_fd int fd = create(e);
	int r = fd < 0 ? fd : register_memory(fd, m, e);

	return r < 0 ? r : TAKE_FD(fd);
}

static int connect_handler(const char *path, struct err *e)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	cleanup_fd int fd = -1;

	if (strlen(path) >= sizeof(addr.sun_path))
		return err_set(e, ENAMETOOLONG, "page fault handler '%.64s...': path too long",
			       path);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_sys(e, "create a socket");
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		return err_sys(e, "connect to the page fault handler '%s'", path);
	return TAKE_FD(fd);
}

static size_t describe(const struct gmem *m, char *text, size_t size)
{
	unsigned long long page = m->backing == GMEM_HUGETLB_2M ? PAGE_2M : GMEM_PAGE, off = 0;
	size_t n = 0;

	for (unsigned i = 0; i < m->count; i++) {
		const struct gmem_region *r = &m->region[i];

		n += (size_t)snprintf(text + n, size - n,
				      "%s{\"base_host_virt_addr\":%llu,\"size\":%llu,"
				      "\"offset\":%llu,\"page_size\":%llu,\"page_size_kib\":%llu}",
				      i ? "," : "[", (unsigned long long)(uintptr_t)r->host,
				      (unsigned long long)r->len, off, page, page);
		off += r->len;
	}
	return n + (size_t)snprintf(text + n, size - n, "]");
}

static int hand_over(const struct gmem *m, int socket, int fd, struct err *e)
{
	char text[GMEM_RAM_MAX * 160 + 2];
	struct iovec iov = {.iov_base = text, .iov_len = describe(m, text, sizeof(text))};
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof(control.buf),
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	if (sendmsg(socket, &msg, MSG_NOSIGNAL) != (ssize_t)iov.iov_len)
		return err_sys(e, "send guest memory to the page fault handler");
	return 0;
}

int uffd_serve(const struct gmem *m, const char *socket_path, int *uffd, int *handler,
	       struct err *e)
{
	cleanup_fd int fd = uffd_open(m, e);
	cleanup_fd int peer = -1;
	int r;

	if (fd < 0)
		return fd;
	peer = connect_handler(socket_path, e);
	if (peer < 0)
		return peer;
	r = hand_over(m, peer, fd, e);
	if (r < 0)
		return r;
	*uffd = TAKE_FD(fd);
	*handler = TAKE_FD(peer);
	return 0;
}
