/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/netpasst.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "virtio/netframe.h"
#include "vmm/base/fd.h"

#define LENGTH	4u
/* Several large frames by one recv(). */
#define IN_SIZE 262144u

struct netpasst {
	struct netbackend b;
	uint32_t in_at, in_end;	  /* what is in in[] and not taken yet */
	uint32_t out_at, out_end; /* the rest of a frame that was sent in part */
	uint8_t in[IN_SIZE];
	uint8_t out[LENGTH + NETFRAME_MAX];
};

int netpasst_connect(const char *path, struct err *e)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd;

	if (strlen(path) >= sizeof(sun.sun_path))
		return err_set(e, ENAMETOOLONG, "'%.60s...': longer than %zu bytes", path,
			       sizeof(sun.sun_path) - 1);
	memcpy(sun.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_sys(e, "create a socket");
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0) {
		int r = err_sys(e, "connect to '%s'", path);

		fd_close(&fd);
		return r;
	}
	return fd;
}

static struct netpasst *to_passt(struct netbackend *b)
{
	return CONTAINER_OF(b, struct netpasst, b);
}

/* Length of the frame at in_at; 0: not there yet, -EPROTO: it cannot be one. */
static int32_t next_length(const struct netpasst *p)
{
	uint32_t have = p->in_end - p->in_at, len;

	if (have < LENGTH)
		return 0;
	len = netframe_get32(p->in + p->in_at);
	if (len < NETFRAME_MIN || len > NETFRAME_MAX)
		return -EPROTO;
	return have - LENGTH < len ? 0 : (int32_t)len;
}

/* Makes room behind in_end for at least one whole frame, and reads what there is. */
static int fill(struct netpasst *p)
{
	ssize_t r;

	memmove(p->in, p->in + p->in_at, p->in_end - p->in_at);
	p->in_end -= p->in_at;
	p->in_at = 0;
	do {
		r = fd_read(p->b.fd[0], p->in + p->in_end, IN_SIZE - p->in_end);
	} while (r < 0 && errno == EINTR);
	if (r == 0)
		return -EPIPE;
	if (r < 0)
		return errno == EAGAIN ? 0 : -errno;
	p->in_end += (uint32_t)r;
	return 1;
}

static int32_t next(struct netbackend *b, unsigned pair)
{
	struct netpasst *p = to_passt(b);
	int32_t len = next_length(p);

	(void)pair;
	if (len == 0) {
		int r = fill(p);

		if (r <= 0)
			return r;
		len = next_length(p);
	}
	return len > 0 ? len + (int32_t)NETBACKEND_HEADER : len;
}

/* Copies into the buffers, as far as they reach. */
static void scatter(const struct iovec *iov, int n, const uint8_t *header, const uint8_t *frame,
		    uint32_t len)
{
	const uint8_t *from = header;
	size_t left = NETBACKEND_HEADER;

	for (int i = 0; i < n; i++) {
		uint8_t *to = iov[i].iov_base;
		size_t room = iov[i].iov_len;

		while (room > 0 && left > 0) {
			size_t part = MIN(room, left);

			memcpy(to, from, part);
			to += part;
			from += part;
			room -= part;
			left -= part;
			if (left == 0 && len > 0) {
				from = frame;
				left = len;
				len = 0;
			}
		}
	}
}

static ssize_t receive(struct netbackend *b, unsigned pair, const struct iovec *iov, int n)
{
	static const uint8_t header[NETBACKEND_HEADER];
	struct netpasst *p = to_passt(b);
	int32_t len = next_length(p);

	(void)pair;
	if (len <= 0)
		return len ? len : -EAGAIN;
	scatter(iov, n, header, p->in + p->in_at + LENGTH, (uint32_t)len);
	p->in_at += LENGTH + (uint32_t)len;
	return len + (ssize_t)NETBACKEND_HEADER;
}

static bool flush(struct netbackend *b, unsigned pair)
{
	struct netpasst *p = to_passt(b);

	(void)pair;
	while (p->out_at < p->out_end) {
		ssize_t r = fd_write(b->fd[0], p->out + p->out_at, p->out_end - p->out_at);

		if (r < 0 && errno == EINTR)
			continue;
		/* A broken connection is noticed by who reads. */
		if (r < 0)
			return errno != EAGAIN;
		p->out_at += (uint32_t)r;
	}
	return true;
}

/* Keeps what is behind the first `sent` bytes. */
static void keep(struct netpasst *p, const struct iovec *iov, size_t n, size_t sent)
{
	p->out_at = p->out_end = 0;
	for (size_t i = 0; i < n; i++) {
		size_t skip = MIN(sent, iov[i].iov_len), part = iov[i].iov_len - skip;

		memcpy(p->out + p->out_end, (uint8_t *)iov[i].iov_base + skip, part);
		p->out_end += (uint32_t)part;
		sent -= skip;
	}
}

static int send_frame(struct netbackend *b, unsigned pair, struct iovec *iov, int n, uint32_t len)
{
	struct netpasst *p = to_passt(b);
	uint8_t *length = (uint8_t *)iov[0].iov_base + NETBACKEND_HEADER - LENGTH;
	uint32_t frame = len - NETBACKEND_HEADER;
	ssize_t r;

	if (!flush(b, pair))
		return -EAGAIN;
	/* The length takes the place of the header's last bytes. */
	netframe_put16(length, (uint16_t)(frame >> 16));
	netframe_put16(length + 2, (uint16_t)frame);
	iov[0].iov_base = length;
	iov[0].iov_len -= NETBACKEND_HEADER - LENGTH;
	do {
		r = fd_writev(b->fd[0], iov, n, -1);
	} while (r < 0 && errno == EINTR);
	if (r < 0)
		return -errno;
	if ((size_t)r < LENGTH + frame)
		keep(p, iov, (size_t)n, (size_t)r);
	return 0;
}

static void configure(struct netbackend *b, uint64_t features, unsigned pairs)
{
	(void)b;
	(void)features;
	(void)pairs;
}

static void destroy(struct netbackend *b)
{
	fd_close(&b->fd[0]);
	free(to_passt(b));
}

static const struct netbackend_ops ops = {
	.next = next,
	.recv = receive,
	.send = send_frame,
	.flush = flush,
	.configure = configure,
	.destroy = destroy,
};

struct netbackend *netpasst_create(int fd, struct err *e)
{
	struct netpasst *p = calloc(1, sizeof(*p));

	if (!p) {
		err_set(e, ENOMEM, "out of memory");
		return NULL;
	}
	p->b = (struct netbackend){.ops = &ops, .pairs = 1, .fd = {fd}};
	return &p->b;
}
