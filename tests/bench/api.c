/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api ROUNDS SOCKET SPORE [CONFIG]
 *
 * What the API costs an idle spore: the figures "get" (GET /) and "put" (PUT /machine-config) over
 * one kept-alive connection, "connect" (a new connection and its GET /), then "rss": bytes by which
 * its resident memory has grown over 1000 requests, and "malformed": 10,000 requests that are none,
 * each on a connection of its own, after which it has to answer as before. With a config file only
 * "busy": GET / while its guest runs.
 */
#include <signal.h>

#include "tests/bench/bench.h"

#define MACHINE "{\"vcpu_count\":1,\"mem_size_mib\":128}"

static uint64_t get(int fd, const char *method, const char *path, const char *body)
{
	uint64_t start = bench_now();

	bench_request(fd, method, path, body);
	return bench_now() - start;
}

/* Not statm: the kernel counts there in batches of many pages. */
static uint64_t rss(pid_t pid)
{
	char path[64], buf[2048], *at;
	int fd;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (n <= 0)
		err(1, "%s", path);
	buf[n] = 0;
	at = strstr(buf, "\nRss:");
	if (!at)
		errx(1, "%s: %s", path, buf);
	return strtoull(at + 5, NULL, 10) * 1024;
}

static void send_malformed(const char *socket, unsigned i)
{
	static const char *const text[] = {
		"nonsense\r\n\r\n",
		"GET / HTTP/9.9\r\n\r\n",
		"PUT /machine-config HTTP/1.1\r\nContent-Length: x\r\n\r\n",
		"PUT /machine-config HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
		"GET / HTTP/1.1\r\nbroken header\r\n\r\n",
		"\x16\x03\x01\x02\x00\x01",
	};
	const char *p = text[i % (sizeof(text) / sizeof(text[0]))];
	int fd = bench_connect(socket);
	char buf[512];

	if (write(fd, p, strlen(p)) < 0 || read(fd, buf, sizeof(buf)) < 0)
		err(1, "malformed request %u", i);
	close(fd);
}

static int measure_busy(unsigned rounds, char *argv[])
{
	char *const spore[] = {argv[3], "--api-sock", argv[2], "--config-file", argv[4], NULL};
	struct bench_child child = bench_spawn(spore, -1);
	int fd = bench_connect(argv[2]);

	for (unsigned i = 0; i < rounds; i++) {
		usleep(2000);
		bench_row("spore", i, "busy", get(fd, "GET", "/", ""));
	}
	kill(child.pid, SIGTERM);
	bench_wait(child.pid);
	return 0;
}

int main(int argc, char *argv[])
{
	unsigned rounds = argc == 4 || argc == 5 ? (unsigned)atoi(argv[1]) : 0;
	char *const spore[] = {argv[3], "--api-sock", argv[2], NULL};
	struct bench_child child;
	uint64_t before, start;
	int fd;

	if (rounds == 0)
		errx(2, "usage: api ROUNDS SOCKET SPORE [CONFIG]");
	if (argc == 5)
		return measure_busy(rounds, argv);
	child = bench_spawn(spore, -1);
	fd = bench_connect(argv[2]);
	for (unsigned i = 0; i < rounds; i++) {
		int other;

		bench_row("spore", i, "get", get(fd, "GET", "/", ""));
		bench_row("spore", i, "put", get(fd, "PUT", "/machine-config", MACHINE));
		start = bench_now();
		other = bench_connect(argv[2]);
		bench_request(other, "GET", "/", "");
		bench_row("spore", i, "connect", bench_now() - start);
		close(other);
	}
	/* The first time round, the heap may grow again by what closing connections gave back. */
	before = 0;
	for (unsigned i = 0; i < 1500; i++) {
		if (i == 1000)
			before = rss(child.pid);
		get(fd, "GET", "/", "");
		get(fd, "PUT", "/machine-config", MACHINE);
	}
	bench_row("spore", 0, "rss", rss(child.pid) - before);
	start = bench_now();
	for (unsigned i = 0; i < 10000; i++)
		send_malformed(argv[2], i);
	bench_row("spore", 0, "malformed", bench_now() - start);
	get(fd, "GET", "/", "");
	kill(child.pid, SIGTERM);
	bench_wait(child.pid);
	return 0;
}
