/* SPDX-License-Identifier: Apache-2.0 */
/*
 * faas SPORE SNAPSHOT PORT [COUNT]: answers each HTTP request on 127.0.0.1:PORT in a microVM of its own, restored from the
 * directory SNAPSHOT, and prints how long that took when COUNT requests are answered, or at SIGINT.
 *
 * What comes behind the '/' of the request's path is the function's input, and goes to vsock port 5000 of the clone.
 * An example, to be read from the bottom up: errors end it, and requests are answered one at a time.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PORT	 5000
#define REQUESTS 10000
#define TEXT	 4096

struct clone {
	char dir[64], api[96], vsock[96];
	pid_t pid;
};

/* One row for each request: microseconds until spore ran, the clone ran, the answer was there. */
static double times[REQUESTS][3];
static size_t served;
static volatile sig_atomic_t enough;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int connect_unix(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strncpy(a.sun_path, path, sizeof(a.sun_path) - 1);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		die(path);
	return fd;
}

static void send_all(int fd, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

		if (n < 0)
			die("send");
		data += n;
		len -= (size_t)n;
	}
}

/* Until `end` was read, or the end of the stream. */
static size_t read_until(int fd, char *buf, size_t size, const char *end)
{
	size_t len = 0;

	for (;;) {
		ssize_t n = read(fd, buf + len, size - 1 - len);

		if (n < 0 && errno == EINTR && !enough)
			continue;
		len += n > 0 ? (size_t)n : 0;
		buf[len] = '\0';
		if (n <= 0 || (end && strstr(buf, end)) || len == size - 1)
			return len;
	}
}

/* --- a clone --- */

static void start_spore(struct clone *k, const char *spore)
{
	int ready[2];
	char number[12], byte;

	strcpy(k->dir, "/tmp/faas-XXXXXX");
	if (!mkdtemp(k->dir) || pipe2(ready, O_CLOEXEC) < 0)
		die("start");
	snprintf(k->api, sizeof(k->api), "%s/api", k->dir);
	snprintf(k->vsock, sizeof(k->vsock), "%s/vsock", k->dir);
	snprintf(number, sizeof(number), "%d", ready[1]);
	k->pid = fork();
	if (k->pid == 0) {
		const int null = open("/dev/null", O_RDWR | O_CLOEXEC);

		dup2(null, 0);
		dup2(null, 1);
		fcntl(ready[1], F_SETFD, 0);
		execl(spore, spore, "--api-sock", k->api, "--ready-fd", number, (char *)NULL);
		_exit(127);
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		die(spore);
	close(ready[0]);
}

static void load(const struct clone *k, const char *snapshot)
{
	char body[1024], request[1400], answer[2048];
	int fd = connect_unix(k->api);

	snprintf(body, sizeof(body),
		 "{\"snapshot_path\": \"%.300s/state\", \"resume_vm\": true, "
		 "\"mem_backend\": {\"backend_type\": \"File\", \"backend_path\": "
		 "\"%.300s/memory\"}, "
		 "\"vsock_override\": {\"uds_path\": \"%s\"}}",
		 snapshot, snapshot, k->vsock);
	snprintf(request, sizeof(request),
		 "PUT /snapshot/load HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
		 "application/json\r\n"
		 "Content-Length: %zu\r\n\r\n%s",
		 strlen(body), body);
	send_all(fd, request, strlen(request));
	read_until(fd, answer, sizeof(answer), "\r\n\r\n");
	close(fd);
	if (strncmp(answer, "HTTP/1.1 204", 12) != 0) {
		fprintf(stderr, "snapshot/load: %s\n", answer);
		exit(1);
	}
}

/* False when the connection was lost without a word. */
static bool call(const struct clone *k, const char *input, char *output, size_t size)
{
	char line[64];
	size_t n = 0;
	int fd = connect_unix(k->vsock);

	snprintf(line, sizeof(line), "CONNECT %d\n", PORT);
	send_all(fd, line, strlen(line));
	send_all(fd, input, strlen(input));
	shutdown(fd, SHUT_WR);
	/* "OK <port>", byte by byte: what follows is the answer. */
	while (n < sizeof(line) - 1 && read(fd, line + n, 1) == 1 && line[n++] != '\n')
		;
	n = read_until(fd, output, size, NULL);
	close(fd);
	return n > 0;
}

static void end(const struct clone *k)
{
	kill(k->pid, SIGKILL);
	waitpid(k->pid, NULL, 0);
	unlink(k->api);
	unlink(k->vsock);
	rmdir(k->dir);
}

/* --- HTTP --- */

static void answer(int fd, const char *spore, const char *snapshot)
{
	char request[TEXT], output[TEXT], header[160], input[TEXT] = "";
	double begin, *t = times[served];
	struct clone k;

	read_until(fd, request, sizeof(request), "\r\n\r\n");
	sscanf(request, "%*s /%4000[^ \r\n]", input);
	begin = now_us();
	start_spore(&k, spore);
	t[0] = now_us() - begin;
	load(&k, snapshot);
	t[1] = now_us() - begin;
	if (!call(&k, input, output, sizeof(output)))
		snprintf(output, sizeof(output), "the clone did not answer\n");
	t[2] = now_us() - begin;
	snprintf(header, sizeof(header),
		 "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n"
		 "Connection: close\r\n\r\n",
		 strlen(output));
	send_all(fd, header, strlen(header));
	send_all(fd, output, strlen(output));
	close(fd);
	/* Taking a microVM down is slow: nobody has to wait for it. */
	end(&k);
	served++;
}

static int compare(const void *a, const void *b)
{
	double d = *(const double *)a - *(const double *)b;

	return (d > 0) - (d < 0);
}

static void report(void)
{
	static const char *const names[] = {"spore runs", "the clone runs", "the answer is there"};
	static const double shares[] = {0, 0.5, 0.9, 0.99, 1};
	static double sorted[REQUESTS];

	printf("%zu requests, each in a microVM of its own; ms until\n", served);
	printf("%-22s %9s %9s %9s %9s %9s\n", "", "min", "p50", "p90", "p99", "max");
	for (size_t row = 0; row < 3 && served; row++) {
		for (size_t i = 0; i < served; i++)
			sorted[i] = times[i][row];
		qsort(sorted, served, sizeof(*sorted), compare);
		printf("%-22s", names[row]);
		for (size_t s = 0; s < 5; s++)
			printf(" %9.2f",
			       sorted[(size_t)(shares[s] * (double)(served - 1) + 0.5)] / 1e3);
		putchar('\n');
	}
}

static void on_signal(int sig)
{
	enough = sig;
}

static int listen_http(uint16_t port)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
				.sin_port = htons(port),
				.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 128) < 0)
		die("listen");
	return fd;
}

int main(int argc, char **argv)
{
	const struct sigaction sa = {.sa_handler = on_signal};
	size_t count = argc > 4 ? (size_t)strtoul(argv[4], NULL, 10) : REQUESTS;
	char snapshot[PATH_MAX];
	int listener;

	if (argc < 4 || !realpath(argv[2], snapshot)) {
		fprintf(stderr, "usage: faas SPORE SNAPSHOT PORT [COUNT]\n");
		return 2;
	}
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	listener = listen_http((uint16_t)strtoul(argv[3], NULL, 10));
	printf("try: curl http://127.0.0.1:%s/hello\n", argv[3]);
	fflush(stdout);
	while (!enough && served < count && served < REQUESTS) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd >= 0)
			answer(fd, argv[1], snapshot);
		else if (errno != EINTR)
			die("accept");
	}
	report();
	return 0;
}
