/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/lib/scratch.h"
#include "virtio/netframe.h"
#include "virtio/netpasst.h"
#include "virtio/nettap.h"
#include "vmm/base/util.h"

#define HDR NETBACKEND_HEADER

static struct netbackend *b;
static int peer = -1;

static void start(void)
{
	int s[2];

	signal(SIGPIPE, SIG_IGN); /* as main() does */
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s), 0);
	b = netpasst_create(s[0], NULL);
	cr_assert(b);
	peer = s[1];
}

static void finish(void)
{
	b->ops->destroy(b);
	close(peer);
}

TestSuite(netpasst, .init = start, .fini = finish, .timeout = 60);

static uint8_t pattern(uint32_t i)
{
	return (uint8_t)(i * 11 + (i >> 8));
}

/* A frame as passt sends it, into `buf`; returns its length with the prefix. */
static uint32_t wire_frame(uint8_t *buf, uint32_t len)
{
	buf[0] = buf[1] = 0;
	buf[1] = (uint8_t)(len >> 16);
	netframe_put16(buf + 2, (uint16_t)len);
	for (uint32_t i = 0; i < len; i++)
		buf[4 + i] = pattern(i);
	return 4 + len;
}

static void give(const void *buf, size_t len)
{
	cr_assert_eq(write(peer, buf, len), (ssize_t)len);
}

static bool is_frame(const uint8_t *p, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++)
		if (p[i] != pattern(i))
			return false;
	return true;
}

Test(netpasst, has_no_offloads_and_one_pair)
{
	cr_assert_eq(b->offloads, 0);
	cr_assert_eq(b->pairs, 1);
}

Test(netpasst, a_frame_in_pieces)
{
	uint8_t wire[2000], got[2000];
	struct iovec iov[3] = {{got, 5}, {got + 5, 100}, {got + 105, sizeof(got) - 105}};
	uint32_t len = wire_frame(wire, 1000);

	cr_assert_eq(b->ops->next(b, 0), 0);
	for (uint32_t i = 0; i < len; i++) {
		cr_assert_eq(b->ops->next(b, 0), 0, "%u", i);
		cr_assert_eq(b->ops->recv(b, 0, iov, 3), -EAGAIN);
		give(wire + i, 1);
	}
	cr_assert_eq(b->ops->next(b, 0), HDR + 1000);
	memset(got, 0xee, sizeof(got));
	cr_assert_eq(b->ops->recv(b, 0, iov, 3), HDR + 1000);
	for (unsigned i = 0; i < HDR; i++)
		cr_assert_eq(got[i], 0);
	cr_assert(is_frame(got + HDR, 1000));
	cr_assert_eq(got[HDR + 1000], 0xee);
	cr_assert_eq(b->ops->next(b, 0), 0);
}

Test(netpasst, many_frames_in_one_piece)
{
	uint8_t wire[20000], got[2000];
	struct iovec iov = {got, sizeof(got)};
	uint32_t len = 0;

	for (uint32_t i = 0; i < 20; i++)
		len += wire_frame(wire + len, 14 + i * 40);
	give(wire, len);
	for (uint32_t i = 0; i < 20; i++) {
		cr_assert_eq(b->ops->next(b, 0), (int32_t)(HDR + 14 + i * 40));
		cr_assert_eq(b->ops->recv(b, 0, &iov, 1), (ssize_t)(HDR + 14 + i * 40));
		cr_assert(is_frame(got + HDR, 14 + i * 40));
	}
	cr_assert_eq(b->ops->next(b, 0), 0);
}

Test(netpasst, what_does_not_fit_is_lost_and_the_next_frame_is_whole)
{
	uint8_t wire[3000], got[500];
	struct iovec iov = {got, sizeof(got)};
	uint32_t len = wire_frame(wire, 1400);

	len += wire_frame(wire + len, 60);
	give(wire, len);
	cr_assert_eq(b->ops->next(b, 0), HDR + 1400);
	cr_assert_eq(b->ops->recv(b, 0, &iov, 1), HDR + 1400);
	cr_assert_eq(b->ops->next(b, 0), HDR + 60);
	cr_assert_eq(b->ops->recv(b, 0, &iov, 1), HDR + 60);
	cr_assert(is_frame(got + HDR, 60));
}

Test(netpasst, lengths_that_cannot_be_end_it)
{
	static const uint8_t bad[][4] = {
		{0, 0, 0, 0}, {0, 0, 0, 13}, {0, 2, 0, 0}, {0xff, 0xff, 0xff, 0xff}};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		give(bad[i], 4);
		cr_assert_eq(b->ops->next(b, 0), -EPROTO, "%u", i);
		finish();
		start();
	}
}

Test(netpasst, its_end)
{
	close(peer);
	peer = -1;
	cr_assert_eq(b->ops->next(b, 0), -EPIPE);
}

/* Sends one frame of `len` bytes from three buffers. */
static int send_one(uint32_t len)
{
	static uint8_t buf[HDR + NETFRAME_MAX];
	struct iovec iov[3] = {{buf, HDR + 10}, {buf + HDR + 10, 4}, {buf + HDR + 14, len - 14}};

	memset(buf, 0x55, HDR);
	for (uint32_t i = 0; i < len; i++)
		buf[HDR + i] = pattern(i);
	return b->ops->send(b, 0, iov, 3, HDR + len);
}

static void take(uint8_t *buf, uint32_t len)
{
	uint32_t done = 0;

	while (done < len) {
		ssize_t r = read(peer, buf + done, len - done);

		if (r > 0)
			done += (uint32_t)r;
		else
			b->ops->flush(b, 0);
	}
}

Test(netpasst, sends_with_the_length_in_front)
{
	uint8_t buf[2000];

	cr_assert_eq(send_one(1000), 0);
	cr_assert(b->ops->flush(b, 0));
	take(buf, 1004);
	cr_assert_arr_eq(buf, ((uint8_t[]){0, 0, 3, 232}), 4);
	cr_assert(is_frame(buf + 4, 1000));
}

Test(netpasst, a_full_socket_takes_a_part_and_gets_the_rest_later)
{
	static uint8_t buf[4 + NETFRAME_MAX];
	unsigned sent = 0;
	int r;

	setsockopt(b->fd[0], SOL_SOCKET, SO_SNDBUF, &(int){100000}, sizeof(int));
	while ((r = send_one(60000)) == 0)
		sent++;
	cr_assert_eq(r, -EAGAIN);
	cr_assert_gt(sent, 1);
	for (unsigned i = 0; i < sent; i++) {
		take(buf, 60004);
		cr_assert_arr_eq(buf, ((uint8_t[]){0, 0, 234, 96}), 4);
		cr_assert(is_frame(buf + 4, 60000), "frame %u", i);
	}
	cr_assert(b->ops->flush(b, 0));
	cr_assert_eq(read(peer, buf, 1), -1, "and nothing else");
}

Test(netpasst, connecting_to_what_is_not_there)
{
	char longer[200];
	struct scratch s;
	struct err e;

	scratch_init(&s);
	cr_assert_eq(netpasst_connect(scratch_path(&s, "none"), &e), -ENOENT);
	cr_assert(strstr(e.msg, "none"));
	cr_assert_eq(netpasst_connect(scratch_file(&s, "file", "x", 1), &e), -ECONNREFUSED);
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	cr_assert_eq(netpasst_connect(longer, &e), -ENAMETOOLONG);
	scratch_finish(&s);
}

/* --- the tap, as far as it goes without one --- */

Test(netpasst, taps_that_are_none)
{
	int fd[1] = {-1}, null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct err e;

	cr_assert_eq(nettap_open("no-such-tap", 1, fd, &e), -ENODEV);
	cr_assert(strstr(e.msg, "no-such-tap"));
	cr_assert_eq(nettap_open("", 1, fd, &e), -EINVAL);
	cr_assert_eq(nettap_open("a-name-of-more-than-15", 1, fd, &e), -EINVAL);
	cr_assert_lt(nettap_open("lo", 1, fd, &e), 0);
	cr_assert_lt(nettap_check(null, &e), 0);
	cr_assert_lt(nettap_check(-1, &e), 0);
	cr_assert_null(nettap_create(&null, 1, &e));
	close(null);
}
