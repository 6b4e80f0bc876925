/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/agentio.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "ctl/session.h"
#include "ctl/vms.h"
#include "vmm/base/fd.h"

int agentio_find(struct ctl *c, const char *name, char *path, struct err *e)
{
	struct vms_vm vm;
	int r;

	if (strchr(name, '/')) {
		if (strlen(name) >= VMS_PATH_MAX)
			return err_set(e, ENAMETOOLONG, "'%s' is too long for a socket", name);
		memcpy(path, name, strlen(name) + 1);
		return 0;
	}
	r = vms_find_alive(c, name, &vm, e);
	if (r < 0)
		return r;
	vms_path(&vm, "vsock.sock", path);
	if (access(path, F_OK) < 0) {
		ctl_hint(c, "sporectl run without --no-vsock");
		return err_set(e, ENOENT, "microVM '%s' has no vsock device", name);
	}
	return 0;
}

/* The monitor's handshake. 0; -EAGAIN: nobody listens in the guest; or -errno. */
static int handshake(int fd)
{
	char line[64];
	int n = snprintf(line, sizeof(line), "CONNECT %u\n", AGENT_PORT);

	if (fd_write_full(fd, line, (size_t)n) < 0)
		return -EAGAIN;
	for (n = 0; n < (int)sizeof(line); n++) {
		ssize_t r = read(fd, &line[n], 1);

		if (r <= 0)
			return r < 0 && errno == EINTR ? -EINTR : -EAGAIN;
		if (line[n] == '\n')
			return strncmp(line, "OK ", 3) == 0 ? 0 : -EPROTO;
	}
	return -EPROTO;
}

static int try_connect(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct timeval limit = {.tv_sec = 5};
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int r;

	strncpy(a.sun_path, path, sizeof(a.sun_path) - 1);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		return -errno;
	/* A monitor that is paused does not answer. */
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	r = handshake(fd);
	limit.tv_sec = 0;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	return r < 0 ? r : TAKE_FD(fd);
}

int agentio_connect(struct ctl *c, const char *path, uint64_t seconds, struct err *e)
{
	uint64_t deadline = now_ns() + seconds * 1000000000u;
	int fd;

	while ((fd = try_connect(path)) == -EAGAIN && now_ns() < deadline)
		poll(NULL, 0, 20);
	if (fd >= 0)
		return fd;
	if (fd != -EAGAIN) {
		errno = -fd;
		return err_sys(e, "connect to '%s'", path);
	}
	ctl_hint(c, "start spore-agent in the guest: docs/agent.md; --wait SECONDS waits longer");
	return err_set(e, ETIMEDOUT, "no agent answers in the guest");
}

/* HELLO has been sent; waits for the agent's. */
static int greet(int fd, struct frame_in *in, uint64_t seconds, struct err *e)
{
	uint64_t deadline = now_ns() + (seconds + 1) * 1000000000u;
	struct pollfd p = {.fd = fd, .events = POLLIN};
	struct frame f;
	int r;

	while ((r = frame_next(in, &f)) == 0) {
		uint64_t now = now_ns();

		if (now >= deadline)
			return err_set(e, ETIMEDOUT, "the guest's agent does not answer");
		if (poll(&p, 1, (int)MIN((deadline - now) / 1000000u + 1, (uint64_t)60000)) != 1)
			continue;
		r = frame_fill(in, fd);
		if (r <= 0)
			return err_set(e, ECONNRESET,
				       "the guest's agent has closed the connection");
	}
	if (r < 0)
		return err_set(e, EPROTO, "what listens in the guest is not spore's agent");
	return session_greeted(&f, e);
}

int agentio_open(struct ctl *c, const char *name, uint64_t seconds, struct frame_in *in,
		 struct err *e)
{
	char path[VMS_PATH_MAX];
	cleanup_fd int fd = -1;
	int r = agentio_find(c, name, path, e);

	if (r < 0)
		return r;
	fd = agentio_connect(c, path, seconds, e);
	if (fd < 0)
		return fd;
	in->from_agent = true;
	in->used = in->have = 0;
	(void)frame_send_hello(fd);
	r = greet(fd, in, seconds, e);
	return r < 0 ? r : TAKE_FD(fd);
}

int agentio_done(int fd, struct frame_in *in, struct err *e)
{
	struct frame f;
	int r = frame_wait(in, fd, &f);

	if (r == 0 && f.type == AGENT_DONE)
		return 0;
	if (r == 0 && f.type == AGENT_ERROR)
		return session_error(&f, e);
	return err_set(e, r && r != -EPROTO ? -r : EPROTO,
		       r && r != -EPROTO ? "the guest's agent has closed the connection"
					 : "the guest's agent breaks the protocol");
}

int agentio_shutdown(struct ctl *c, const char *name, struct err *e)
{
	static struct frame_in in;
	const struct timeval limit = {.tv_sec = 1};
	cleanup_fd int fd = agentio_open(c, name, 0, &in, e);

	if (fd < 0)
		return fd;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	(void)frame_write(fd, AGENT_SHUTDOWN, NULL, 0);
	return agentio_done(fd, &in, e);
}

int agentio_identify(struct ctl *c, const char *name, const char *host, uint64_t seconds,
		     struct err *e)
{
	static struct frame_in in;
	static struct frame_out o;
	uint8_t entropy[64];
	struct timespec t;
	cleanup_fd int fd = agentio_open(c, name, seconds, &in, e);

	if (fd < 0)
		return fd;
	if (getrandom(entropy, sizeof(entropy), 0) != sizeof(entropy))
		return err_sys(e, "entropy");
	clock_gettime(CLOCK_REALTIME, &t);
	o.len = 0;
	frame_put_number(&o, (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec, 8);
	frame_put_string(&o, host ? host : "");
	frame_put_bytes(&o, entropy, sizeof(entropy));
	if (o.len > 1024)
		return err_set(e, EINVAL, "the host name is longer than 64 bytes");
	(void)frame_write(fd, AGENT_IDENTITY, o.buf, o.len);
	return agentio_done(fd, &in, e);
}
