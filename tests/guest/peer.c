/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One end of a vsock or TCP connection for the tests, in the guest and on the host (static, so that it runs in any
 * guest).
 *
 *	peer ADDRESS echo                         send back what comes, for ever
 *	peer ADDRESS streams COUNT BYTES          COUNT connections at once to such an echo
 *	peer ADDRESS short COUNT PROCESSES        COUNT connections of one byte each
 *	peer ADDRESS send BYTES                   one way, as fast as it goes; tells MB/s
 *	peer ADDRESS sink                         reads, for ever
 *	peer ADDRESS receive BYTES                the other way
 *	peer ADDRESS source                       writes, for ever
 *
 * ADDRESS: vsock:PORT (listen), vsock:CID:PORT (connect), unix:PATH and tcp:IPV4:PORT (both), and
 * unix:PATH:PORT to connect to a guest's port through the monitor's socket.
 *
 * Of the streams every 8th reads slowly, and every 10th is killed half-way; all others are
 * half-closed when they have sent everything, and compare each byte that comes back. Exit status 0
 * only if all is as it should be.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define CHUNK 65536
#define MANY  1100

struct address {
	union {
		struct sockaddr any;
		struct sockaddr_un un;
		struct sockaddr_vm vm;
		struct sockaddr_in in;
	} sa;
	socklen_t len;
	unsigned port; /* through a monitor's socket; 0: directly */
};

static void die(const char *what)
{
	fprintf(stderr, "peer: %s: %s\n", what, strerror(errno));
	exit(1);
}

static struct address parse(char *s)
{
	struct address a = {0};
	char *colon;

	if (strncmp(s, "vsock:", 6) == 0) {
		colon = strchr(s + 6, ':');
		a.sa.vm.svm_family = AF_VSOCK;
		a.sa.vm.svm_cid = colon ? (unsigned)strtoul(s + 6, NULL, 10) : VMADDR_CID_ANY;
		a.sa.vm.svm_port = (unsigned)strtoul(colon ? colon + 1 : s + 6, NULL, 10);
		a.len = sizeof(a.sa.vm);
		return a;
	}
	if (strncmp(s, "tcp:", 4) == 0) {
		colon = strchr(s + 4, ':');
		if (!colon)
			die("tcp:ADDRESS:PORT expected");
		*colon = '\0';
		a.sa.in.sin_family = AF_INET;
		a.sa.in.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
		a.len = sizeof(a.sa.in);
		if (inet_pton(AF_INET, s + 4, &a.sa.in.sin_addr) != 1)
			die(s);
		return a;
	}
	s += strncmp(s, "unix:", 5) == 0 ? 5 : 0;
	colon = strchr(s, ':');
	if (colon) {
		*colon = '\0';
		a.port = (unsigned)strtoul(colon + 1, NULL, 10);
	}
	a.sa.un.sun_family = AF_UNIX;
	strncpy(a.sa.un.sun_path, s, sizeof(a.sa.un.sun_path) - 1);
	a.len = sizeof(a.sa.un);
	return a;
}

static int open_socket(const struct address *a)
{
	int fd = socket(a->sa.any.sa_family, SOCK_STREAM, 0);

	if (fd < 0)
		die("socket");
	return fd;
}

/* Through the monitor: "CONNECT port", and "OK ..." up to the end of the line, not a byte more. */
static int handshake(int fd, unsigned port)
{
	char line[64];
	int n = snprintf(line, sizeof(line), "CONNECT %u\n", port);

	if (write(fd, line, (size_t)n) != n)
		return -1;
	for (n = 0; n < (int)sizeof(line); n++) {
		if (read(fd, &line[n], 1) != 1)
			return -1;
		if (line[n] == '\n')
			return memcmp(line, "OK ", 3) == 0 ? 0 : -1;
	}
	return -1;
}

/* Tries for a while: the other side may not listen yet. */
static int connect_to(const struct address *a)
{
	for (int tries = 0; tries < 600; tries++) {
		int fd = open_socket(a);

		if (connect(fd, &a->sa.any, a->len) == 0 &&
		    (!a->port || handshake(fd, a->port) == 0))
			return fd;
		close(fd);
		usleep(50000);
	}
	die("connect");
	return -1;
}

static int listen_at(const struct address *a)
{
	int fd = open_socket(a);

	if (a->sa.any.sa_family == AF_UNIX)
		unlink(a->sa.un.sun_path);
	if (bind(fd, &a->sa.any, a->len) < 0 || listen(fd, 128) < 0)
		die("listen");
	fcntl(fd, F_SETFL, O_NONBLOCK);
	printf("peer: listening\n");
	fflush(stdout);
	return fd;
}

/* --- echo --- */

struct echo {
	int at, len;
	char *buf;
};

/* False when the connection is over. */
static bool echo_once(struct echo *e, int fd)
{
	ssize_t n;

	if (e->at == e->len) {
		n = read(fd, e->buf, CHUNK);
		if (n <= 0)
			return n < 0 && errno == EAGAIN;
		e->at = 0;
		e->len = (int)n;
	}
	n = write(fd, e->buf + e->at, (size_t)(e->len - e->at));
	if (n < 0)
		return errno == EAGAIN;
	e->at += (int)n;
	return true;
}

_Noreturn static void do_echo(const struct address *a, bool sink)
{
	static struct pollfd p[MANY];
	static struct echo e[MANY];
	int n = 1;

	p[0] = (struct pollfd){.fd = listen_at(a), .events = POLLIN};
	for (;;) {
		if (poll(p, (nfds_t)n, -1) < 0)
			die("poll");
		for (int i = n - 1; i > 0; i--) {
			bool over = false;

			if (!p[i].revents)
				continue;
			if (sink) {
				ssize_t r = read(p[i].fd, e[i].buf, CHUNK);

				over = r == 0 || (r < 0 && errno != EAGAIN);
			} else {
				over = !echo_once(&e[i], p[i].fd);
			}
			p[i].events = e[i].at == e[i].len ? POLLIN : POLLOUT;
			if (over) {
				close(p[i].fd);
				free(e[i].buf);
				p[i] = p[--n];
				e[i] = e[n];
			}
		}
		while (p[0].revents && n < MANY) {
			int fd = accept(p[0].fd, NULL, NULL);

			if (fd < 0)
				break;
			fcntl(fd, F_SETFL, O_NONBLOCK);
			p[n] = (struct pollfd){.fd = fd, .events = POLLIN};
			e[n++] = (struct echo){.buf = malloc(CHUNK)};
		}
	}
}

/* --- streams --- */

struct stream {
	size_t sent, got;
	uint64_t seed;
	bool slow, kill, shut;
};

/* Byte `at` of a stream: of a hash of the place, so that nothing repeats. */
static unsigned char byte_at(uint64_t seed, size_t at)
{
	uint64_t z = seed + (at / 8 + 1) * 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return (unsigned char)((z ^ z >> 31) >> 8 * (at % 8));
}

static void fill(uint64_t seed, size_t at, unsigned char *buf, size_t len)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = byte_at(seed, at + i);
}

/* 1: goes on, 0: all came back, -1: it did not. */
static int stream_once(struct stream *s, int fd, size_t bytes)
{
	static unsigned char buf[CHUNK], want[CHUNK];
	ssize_t n;

	if (s->sent < bytes) {
		size_t len = bytes - s->sent < CHUNK ? bytes - s->sent : CHUNK;

		fill(s->seed, s->sent, buf, len);
		n = write(fd, buf, len);
		if (n < 0 && errno != EAGAIN)
			return -1;
		s->sent += n > 0 ? (size_t)n : 0;
	}
	if (s->sent == bytes && !s->shut) {
		shutdown(fd, SHUT_WR);
		s->shut = true;
	}
	n = read(fd, buf, s->slow ? 3000 : CHUNK);
	if (n < 0)
		return errno == EAGAIN ? 1 : -1;
	fill(s->seed, s->got, want, (size_t)n);
	if (memcmp(buf, want, (size_t)n) != 0) {
		printf("peer: what came back differs\n");
		return -1;
	}
	s->got += (size_t)n;
	return n > 0 ? 1 : s->got == bytes ? 0 : -1;
}

static int do_streams(const struct address *a, int count, size_t bytes)
{
	static struct pollfd p[MANY];
	static struct stream s[MANY];
	int open = count, bad = 0, killed = 0;

	for (int i = 0; i < count; i++) {
		p[i] = (struct pollfd){.fd = connect_to(a)};
		fcntl(p[i].fd, F_SETFL, O_NONBLOCK);
		s[i] = (struct stream){.seed = (uint64_t)getpid() << 32 | (uint64_t)i << 8,
				       .slow = i % 8 == 3,
				       .kill = i % 10 == 7};
	}
	for (unsigned round = 0; open > 0; round++) {
		for (int i = 0; i < count; i++)
			p[i].events = s[i].slow && round % 16 ? 0
				      : s[i].sent < bytes     ? POLLIN | POLLOUT
							      : POLLIN;
		if (poll(p, (nfds_t)count, 1) < 0)
			die("poll");
		for (int i = 0; i < count; i++) {
			bool dies = s[i].kill && s[i].sent > bytes / 2;
			int r;

			if (p[i].fd < 0 || !(dies || p[i].revents))
				continue;
			r = dies ? 0 : stream_once(&s[i], p[i].fd, bytes);
			if (r > 0)
				continue;
			if (r < 0)
				printf("peer: stream %d: sent %zu, got %zu\n", i, s[i].sent,
				       s[i].got);
			bad += r < 0;
			killed += dies;
			close(p[i].fd);
			p[i].fd = -1;
			open--;
		}
	}
	printf("peer: %d streams of %zu bytes, %d killed, %d bad\n", count, bytes, killed, bad);
	return bad > 0;
}

/* --- short --- */

static int do_short(const struct address *a, int count, int processes)
{
	int bad = 0, status;

	for (int p = 0; p < processes; p++) {
		if (fork() != 0)
			continue;
		for (int i = p; i < count; i += processes) {
			int fd = connect_to(a);
			char c = (char)i, back = 0;

			if (write(fd, &c, 1) != 1 || read(fd, &back, 1) != 1 || back != c)
				die("one byte");
			close(fd);
		}
		_exit(0);
	}
	while (wait(&status) > 0)
		bad += status != 0;
	printf("peer: %d short connections, %d bad\n", count, bad);
	return bad > 0;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int do_send(const struct address *a, size_t bytes)
{
	static char buf[4 * CHUNK];
	int fd = connect_to(a);
	double start = now();

	for (size_t left = bytes; left > 0;) {
		ssize_t n = write(fd, buf, left < sizeof(buf) ? left : sizeof(buf));

		if (n < 0)
			die("write");
		left -= (size_t)n;
	}
	shutdown(fd, SHUT_WR);
	while (read(fd, buf, sizeof(buf)) > 0)
		;
	start = now() - start;
	printf("peer: %07.1f MB/s, us %010.0f\n", (double)bytes / 1e6 / start, start * 1e6);
	return 0;
}

static int do_receive(const struct address *a, size_t bytes)
{
	static char buf[4 * CHUNK];
	int fd = connect_to(a);
	double start = now();

	for (size_t left = bytes; left > 0;) {
		ssize_t n = read(fd, buf, left < sizeof(buf) ? left : sizeof(buf));

		if (n <= 0)
			die("read");
		left -= (size_t)n;
	}
	start = now() - start;
	printf("peer: %07.1f MB/s, us %010.0f\n", (double)bytes / 1e6 / start, start * 1e6);
	return 0;
}

/* A process for each connection, until its other end has gone. */
_Noreturn static void do_source(const struct address *a)
{
	static char buf[4 * CHUNK];
	int listener = listen_at(a);

	signal(SIGCHLD, SIG_IGN);
	fcntl(listener, F_SETFL, 0);
	for (;;) {
		int fd = accept(listener, NULL, NULL);

		if (fd < 0)
			die("accept");
		if (fork() == 0) {
			while (write(fd, buf, sizeof(buf)) > 0)
				;
			_exit(0);
		}
		close(fd);
	}
}

int main(int argc, char **argv)
{
	struct address a;

	if (argc < 3)
		return 2;
	signal(SIGPIPE, SIG_IGN);
	a = parse(argv[1]);
	if (strcmp(argv[2], "echo") == 0)
		do_echo(&a, false);
	if (strcmp(argv[2], "sink") == 0)
		do_echo(&a, true);
	if (strcmp(argv[2], "source") == 0)
		do_source(&a);
	if (strcmp(argv[2], "receive") == 0 && argc == 4)
		return do_receive(&a, strtoull(argv[3], NULL, 10));
	if (strcmp(argv[2], "send") == 0 && argc == 4)
		return do_send(&a, strtoull(argv[3], NULL, 10));
	if (argc == 5 && strcmp(argv[2], "streams") == 0)
		return do_streams(&a, atoi(argv[3]), strtoull(argv[4], NULL, 10));
	if (argc == 5 && strcmp(argv[2], "short") == 0)
		return do_short(&a, atoi(argv[3]), atoi(argv[4]));
	return 2;
}
