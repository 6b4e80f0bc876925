/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/nettap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "vmm/base/fd.h"

/* Newer than the headers of some distributions (Linux 6.2). */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

struct nettap {
	struct netbackend b;
	unsigned attached; /* queues that the kernel may give frames to */
};

/* --- opening --- */

static int check_exists(const char *name, struct err *e)
{
	/* Of the kind that the filters allow anyway: any socket will do. */
	cleanup_fd int s = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct ifreq ifr = {0};

	if (name[0] == '\0' || strlen(name) >= sizeof(ifr.ifr_name))
		return err_set(e, EINVAL, "'%.32s' is not the name of an interface", name);
	if (s < 0)
		return err_sys(e, "create a socket");
	memcpy(ifr.ifr_name, name, strlen(name));
	/* TUNSETIFF would make an interface that nobody has set up. */
	if (ioctl(s, SIOCGIFINDEX, &ifr) < 0)
		return err_sys(e, "interface '%s'", name);
	return 0;
}

static int attach(const char *name, unsigned flags, struct err *e)
{
	struct ifreq ifr = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | flags)};
	int fd = fd_open_path("/dev/net/tun", O_RDWR | O_NONBLOCK, 0);

	if (fd < 0)
		return err_set(e, -fd, "open '/dev/net/tun': %s", strerror(-fd));
	memcpy(ifr.ifr_name, name, strlen(name));
	if (ioctl(fd, TUNSETIFF, &ifr) < 0) {
		int r = err_sys(e, "attach to tap '%s'", name);

		fd_close(&fd);
		return r;
	}
	return fd;
}

int nettap_open(const char *name, unsigned pairs, int *fd, struct err *e)
{
	unsigned flags = pairs > 1 ? IFF_MULTI_QUEUE : 0;
	int r = check_exists(name, e);

	for (unsigned i = 0; r >= 0 && i < pairs; i++) {
		r = attach(name, flags, e);
		/* A tap made with multi_queue is as good with one queue, but has to be told. */
		if (r == -EINVAL && !flags)
			r = attach(name, IFF_MULTI_QUEUE, e);
		if (r == -EINVAL)
			err_set(e, EINVAL, "'%s' is not a tap%s", name,
				flags ? " with multi_queue" : "");
		fd[i] = r < 0 ? -1 : r;
		if (r < 0)
			while (i > 0)
				fd_close(&fd[--i]);
	}
	return r < 0 ? r : 0;
}

int nettap_check(int fd, struct err *e)
{
	struct ifreq ifr = {0};

	if (ioctl(fd, TUNGETIFF, &ifr) < 0)
		return err_sys(e, "file descriptor %d is not an attached tap", fd);
	if (!(ifr.ifr_flags & IFF_TAP))
		return err_set(e, EINVAL, "file descriptor %d is a tun, not a tap", fd);
	if (!(ifr.ifr_flags & IFF_NO_PI) || !(ifr.ifr_flags & IFF_VNET_HDR))
		return err_set(e, EINVAL,
			       "tap '%.*s' was not opened with IFF_NO_PI and IFF_VNET_HDR",
			       IFNAMSIZ, ifr.ifr_name);
	return 0;
}

/* --- data --- */

static int32_t next(struct netbackend *b, unsigned pair)
{
	(void)b;
	(void)pair;
	return NETBACKEND_UNKNOWN;
}

static ssize_t receive(struct netbackend *b, unsigned pair, const struct iovec *iov, int n)
{
	ssize_t r;

	do {
		r = fd_readv(b->fd[pair], iov, n, -1);
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

static int send_frame(struct netbackend *b, unsigned pair, struct iovec *iov, int n, uint32_t len)
{
	ssize_t r;

	(void)len;
	do {
		r = fd_writev(b->fd[pair], iov, n, -1);
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

/* --- offloads --- */

static const struct {
	uint64_t feature;
	unsigned flag;
} offload_flags[] = {
	{NET_F_GUEST_CSUM, TUN_F_CSUM}, {NET_F_GUEST_TSO4, TUN_F_TSO4},
	{NET_F_GUEST_TSO6, TUN_F_TSO6}, {NET_F_GUEST_ECN, TUN_F_TSO_ECN},
	{NET_F_GUEST_UFO, TUN_F_UFO},	{NET_F_GUEST_USO4, TUN_F_USO4},
	{NET_F_GUEST_USO6, TUN_F_USO6},
};

static unsigned flags_of(uint64_t features)
{
	unsigned flags = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(offload_flags); i++)
		if (features & offload_flags[i].feature)
			flags |= offload_flags[i].flag;
	/* The kernel takes USO for both families or not at all. */
	if ((flags & (TUN_F_USO4 | TUN_F_USO6)) != (TUN_F_USO4 | TUN_F_USO6))
		flags &= ~(unsigned)(TUN_F_USO4 | TUN_F_USO6);
	return flags;
}

static int set_offload(struct netbackend *b, unsigned flags)
{
	return ioctl(b->fd[0], TUNSETOFFLOAD, (unsigned long)flags) < 0 ? -errno : 0;
}

static void configure(struct netbackend *b, uint64_t features, unsigned pairs)
{
	struct nettap *t = CONTAINER_OF(b, struct nettap, b);

	/* Cannot be refused: the probe has seen all of it taken. */
	set_offload(b, flags_of(features));
	for (unsigned i = 1; i < b->pairs; i++) {
		struct ifreq ifr = {.ifr_flags = i < pairs ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE};

		if ((i < pairs) != (i < t->attached))
			ioctl(b->fd[i], TUNSETQUEUE, &ifr);
	}
	t->attached = pairs;
}

static void destroy(struct netbackend *b)
{
	for (unsigned i = 0; i < b->pairs; i++)
		fd_close(&b->fd[i]);
	free(CONTAINER_OF(b, struct nettap, b));
}

static const struct netbackend_ops ops = {
	.next = next,
	.recv = receive,
	.send = send_frame,
	.configure = configure,
	.destroy = destroy,
};

/*
 * What the kernel can do: ask for everything, then for less (USO came with Linux 6.2). What the
 * guest may send needs no setting.
 */
static uint64_t probe(struct netbackend *b)
{
	const uint64_t base = NETTAP_OFFLOADS;
	const uint64_t ufo = NET_F_GUEST_UFO | NET_F_HOST_UFO;
	const uint64_t uso = NET_F_GUEST_USO4 | NET_F_GUEST_USO6 | NET_F_HOST_USO;
	const uint64_t tries[] = {base | ufo | uso, base | ufo, base};

	for (unsigned i = 0; i < ARRAY_SIZE(tries); i++)
		if (set_offload(b, flags_of(tries[i])) == 0)
			return tries[i];
	return 0;
}

struct netbackend *nettap_create(const int *fd, unsigned pairs, struct err *e)
{
	struct nettap *t = calloc(1, sizeof(*t));
	int header = NETBACKEND_HEADER;

	if (!t) {
		err_set(e, ENOMEM, "out of memory");
		return NULL;
	}
	t->b = (struct netbackend){.ops = &ops, .pairs = pairs};
	t->attached = pairs;
	memcpy(t->b.fd, fd, pairs * sizeof(fd[0]));
	for (unsigned i = 0; i < pairs; i++) {
		if (ioctl(fd[i], TUNSETVNETHDRSZ, &header) == 0)
			continue;
		err_sys(e, "set the header size of the tap");
		free(t);
		return NULL;
	}
	t->b.offloads = probe(&t->b);
	/* Nothing is offloaded until a driver says what it takes. */
	set_offload(&t->b, 0);
	return &t->b;
}
