/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clone NAME ROUNDS LIVE DIR KERNEL MONITOR
 *
 * MONITOR, which speaks Firecracker's API, starts a guest of 128 MiB with KERNEL (which must go on by
 * itself), pauses it and writes a snapshot into DIR. Then ROUNDS times, one after the other: a new
 * process loads the snapshot and lets the guest run. `clone` is from its exec to the answer, `load` of
 * this the request alone. The last LIVE of them stay and are looked at when all run: `pss` and
 * `private` are bytes, of smaps_rollup.
 */
#include <signal.h>
#include <sys/stat.h>

#include "tests/bench/bench.h"

#define LIVE_MAX 64

static const char *monitor, *dir;

struct instance {
	struct bench_child child;
	int fd;
	char socket[200];
};

static struct instance spawn(unsigned nth)
{
	struct instance i;
	char *argv[] = {(char *)monitor, (char *)"--api-sock", i.socket, NULL};

	snprintf(i.socket, sizeof(i.socket), "%s/api%u", dir, nth);
	unlink(i.socket);
	i.child = bench_spawn(argv, -1);
	i.fd = bench_connect(i.socket);
	return i;
}

static void end(struct instance *i)
{
	close(i->fd);
	kill(i->child.pid, SIGKILL);
	bench_wait(i->child.pid);
	unlink(i->socket);
}

static void make_snapshot(const char *kernel)
{
	struct instance i = spawn(0);
	char body[1024];

	snprintf(body, sizeof(body), "{\"kernel_image_path\":\"%s\"}", kernel);
	bench_request(i.fd, "PUT", "/boot-source", body);
	bench_request(i.fd, "PUT", "/machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":128}");
	bench_request(i.fd, "PUT", "/actions", "{\"action_type\":\"InstanceStart\"}");
	bench_request(i.fd, "PATCH", "/vm", "{\"state\":\"Paused\"}");
	snprintf(body, sizeof(body),
		 "{\"snapshot_type\":\"Full\",\"snapshot_path\":\"%s/state\","
		 "\"mem_file_path\":\"%s/memory\"}",
		 dir, dir);
	bench_request(i.fd, "PUT", "/snapshot/create", body);
	end(&i);
}

/* The sum of a field of smaps_rollup, bytes. */
static uint64_t memory(pid_t pid, const char *field)
{
	char path[64], line[256];
	unsigned long kib;
	uint64_t sum = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", pid);
	f = fopen(path, "re");
	if (!f)
		err(1, "%s", path);
	while (fgets(line, sizeof(line), f))
		if (strncmp(line, field, strlen(field)) == 0 &&
		    sscanf(strchr(line, ':') + 1, "%lu", &kib) == 1)
			sum += (uint64_t)kib << 10;
	fclose(f);
	return sum;
}

int main(int argc, char **argv)
{
	struct instance live[LIVE_MAX];
	char body[1024];
	unsigned rounds, keep, kept = 0;

	if (argc != 7 || (keep = (unsigned)atoi(argv[3])) > LIVE_MAX)
		errx(1, "usage: clone NAME ROUNDS LIVE DIR KERNEL MONITOR");
	rounds = (unsigned)atoi(argv[2]);
	dir = argv[4];
	monitor = argv[6];
	make_snapshot(argv[5]);
	snprintf(body, sizeof(body),
		 "{\"snapshot_path\":\"%s/state\",\"resume_vm\":true,"
		 "\"mem_backend\":{\"backend_type\":\"File\",\"backend_path\":\"%s/memory\"}}",
		 dir, dir);
	for (unsigned n = 0; n < rounds; n++) {
		struct instance i = spawn(n + 1);
		uint64_t asked = bench_now(), done;

		bench_request(i.fd, "PUT", "/snapshot/load", body);
		done = bench_now();
		bench_row(argv[1], n, "clone", done - i.child.exec_at);
		bench_row(argv[1], n, "load", done - asked);
		if (n + keep >= rounds)
			live[kept++] = i;
		else
			end(&i);
	}
	for (unsigned n = 0; n < kept; n++) {
		bench_row(argv[1], n, "pss", memory(live[n].child.pid, "Pss:"));
		bench_row(argv[1], n, "private",
			  memory(live[n].child.pid, "Private_Clean:") +
				  memory(live[n].child.pid, "Private_Dirty:"));
	}
	while (kept > 0)
		end(&live[--kept]);
	return 0;
}
