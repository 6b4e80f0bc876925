/* SPDX-License-Identifier: Apache-2.0 */
/* One connection: greeting, then the one request it is for. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <linux/random.h>

#include "ctl/agent/agent.h"

static struct frame_in in;

static void send_done(int sock)
{
	static const uint8_t none[4];

	(void)frame_write(sock, AGENT_DONE, none, sizeof(none));
}

void serve_error(int sock, int code, const char *what)
{
	static struct frame_out o;

	o.len = 0;
	frame_put_number(&o, (uint64_t)(code > 0 ? code : EIO), 4);
	frame_put_string(&o, what);
	(void)frame_write(sock, AGENT_ERROR, o.buf, o.len);
	/* Closing with input unread would reset the connection, and the message be lost. */
	shutdown(sock, SHUT_WR);
	while (read(sock, in.buf, sizeof(in.buf)) > 0)
		;
}

static void serve_get(int sock, const struct frame *f)
{
	struct frame_cursor c = frame_open(f);
	const char *path = frame_string(&c);
	static struct copy_err e;

	if (!frame_closed(&c))
		return;
	if (copy_send(sock, path, NULL, NULL, &e) < 0 && e.code)
		serve_error(sock, e.code, e.what);
}

static void serve_put(int sock, struct frame f)
{
	static struct copy_in t;
	static struct copy_err e;
	struct frame_cursor c = frame_open(&f);
	const char *path = frame_string(&c), *name = frame_string(&c);
	int r;

	if (!frame_closed(&c))
		return;
	t.mode_mask = 07777;
	r = copy_open(&t, path, name, &e);
	while (r == 0) {
		if (frame_wait(&in, sock, &f) < 0)
			return;
		r = copy_take(&t, &f, &e);
	}
	copy_close(&t);
	if (r < 0)
		serve_error(sock, e.code, e.what);
	else
		send_done(sock);
}

/* --- identity --- */

static int add_entropy(const uint8_t *data, uint32_t len)
{
	struct {
		struct rand_pool_info info;
		uint8_t buf[1024];
	} pool = {.info = {.entropy_count = (int)len * 8, .buf_size = (int)len}};
	int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC), r = -1;

	memcpy(pool.info.buf, data, len);
	if (fd >= 0) {
		r = ioctl(fd, RNDADDENTROPY, &pool);
		/* So that it counts from now on, not after minutes. */
		if (r == 0)
			r = ioctl(fd, RNDRESEEDCRNG);
		close(fd);
	}
	return r;
}

static void serve_identity(int sock, const struct frame *f)
{
	struct frame_cursor c = frame_open(f);
	uint64_t ns = frame_number(&c, 8);
	const char *host = frame_string(&c);
	uint32_t len = (uint32_t)(c.end - c.p);
	struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u),
			     .tv_nsec = (long)(ns % 1000000000u)};

	if (c.bad)
		return;
	/* Randomness first: what reads it then is another one's already. */
	if (len > 0 && add_entropy(c.p, len) < 0)
		serve_error(sock, errno, "add entropy");
	else if (ns && clock_settime(CLOCK_REALTIME, &t) < 0)
		serve_error(sock, errno, "set the time");
	else if (host[0] && sethostname(host, strlen(host)) < 0)
		serve_error(sock, errno, "set the host name");
	else
		send_done(sock);
}

/* --- shutdown --- */

/* What the kernel does on Ctrl-Alt-Del; many have no driver for a keyboard. Never to the init of a test's machine. */
static void serve_shutdown(int sock)
{
	struct sockaddr_storage a;
	socklen_t len = sizeof(a);

	if (getsockname(sock, (struct sockaddr *)&a, &len) < 0 || a.ss_family != AF_VSOCK)
		errno = EPERM;
	else if (kill(1, SIGINT) == 0) {
		send_done(sock);
		return;
	}
	serve_error(sock, errno, "tell process 1");
}

/* --- */

void serve(int sock)
{
	struct frame f;

	if (frame_wait(&in, sock, &f) < 0 || !frame_hello(&f))
		return;
	/* A host of another version is told ours, and knows what to say. */
	if (frame_send_hello(sock) < 0 || frame_hello(&f) != AGENT_VERSION)
		return;
	while (frame_wait(&in, sock, &f) == 0) {
		switch (f.type) {
		case AGENT_PING:
			if (frame_write(sock, AGENT_PONG, f.data, f.len) < 0)
				return;
			continue;
		case AGENT_EXEC:
			exec_serve(sock, &in, &f);
			return;
		case AGENT_GET:
			serve_get(sock, &f);
			return;
		case AGENT_PUT:
			serve_put(sock, f);
			return;
		case AGENT_IDENTITY:
			serve_identity(sock, &f);
			return;
		case AGENT_SHUTDOWN:
			serve_shutdown(sock);
			return;
		default:
			return;
		}
	}
}
