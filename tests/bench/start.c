/* SPDX-License-Identifier: Apache-2.0 */
/*
 * start ROUNDS DIR SPORE KERNEL KVMCOST
 *
 * InstanceStart to the first exit of the guest: 128 MiB, one vCPU, a block and an entropy device,
 * through the API. In turn with KVMCOST, which does the bare KVM calls, each in a new process.
 * DIR is for the socket, the disk and the metrics file, from which the figures of "spore" are
 * taken (group start_us, vmm/metrics.h), and which has `request` too: from the sending of the
 * request to the first exit. KERNEL has to end its guest by itself.
 */
#include "tests/bench/bench.h"

struct paths {
	char socket[256], disk[256], metrics[256];
};

static void configure(int fd, const struct paths *p, const char *kernel)
{
	char body[1024];

	snprintf(body, sizeof(body), "{\"kernel_image_path\":\"%s\"}", kernel);
	bench_request(fd, "PUT", "/boot-source", body);
	bench_request(fd, "PUT", "/machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":128}");
	snprintf(body, sizeof(body),
		 "{\"drive_id\":\"d\",\"path_on_host\":\"%s\",\"is_root_device\":false}", p->disk);
	bench_request(fd, "PUT", "/drives/d", body);
	bench_request(fd, "PUT", "/entropy", "{}");
	snprintf(body, sizeof(body), "{\"metrics_path\":\"%s\"}", p->metrics);
	bench_request(fd, "PUT", "/metrics", body);
}

/* The last line of the metrics file, where the group's numbers are. */
static char *read_metrics(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
	char *group;
	ssize_t n;

	if (end < 0)
		err(1, "%s", path);
	n = pread(fd, buf, size - 1, end > (off_t)size - 1 ? end - (off_t)size + 1 : 0);
	close(fd);
	buf[n < 0 ? 0 : n] = 0;
	group = NULL;
	for (char *at = buf; (at = strstr(at, "\"start_us\":{")); at++)
		group = at;
	if (!group)
		errx(1, "%s has no start_us", path);
	return strchr(group, '{') + 1;
}

static void report(unsigned round, const char *at, uint64_t sent_ns)
{
	uint64_t begin = 0, first_exit = 0;
	unsigned long long us;
	char name[32];
	int used;

	while (sscanf(at, "\"%31[a-z_]\":%llu%n", name, &us, &used) == 2) {
		at += used + (at[used] == ',');
		if (strcmp(name, "begin") == 0)
			begin = us * 1000;
		else
			bench_row("spore", round, name, us * 1000);
		if (strcmp(name, "first_exit") == 0)
			first_exit = us * 1000;
	}
	if (!begin || !first_exit)
		errx(1, "the guest did not run");
	bench_row("spore", round, "request", begin + first_exit - sent_ns);
}

static void measure_spore(unsigned round, const struct paths *p, char *spore, const char *kernel)
{
	char *argv[] = {spore, (char[]){"--api-sock"}, (char *)(uintptr_t)p->socket, NULL};
	char buf[16384];
	struct bench_child child;
	uint64_t sent;
	int fd;

	unlink(p->socket);
	unlink(p->metrics);
	close(open(p->metrics, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	child = bench_spawn(argv, -1);
	fd = bench_connect(p->socket);
	configure(fd, p, kernel);
	sent = bench_now();
	bench_request(fd, "PUT", "/actions", "{\"action_type\":\"InstanceStart\"}");
	bench_wait(child.pid);
	close(fd);
	report(round, read_metrics(p->metrics, buf, sizeof(buf)), sent);
}

static void measure_bare(unsigned round, char *kvmcost)
{
	char number[16];
	char *argv[] = {kvmcost, (char[]){"bare"}, number, NULL};

	snprintf(number, sizeof(number), "%u", round);
	fflush(stdout);
	if (bench_wait(bench_spawn(argv, 1).pid) != 0)
		errx(1, "%s failed", kvmcost);
}

int main(int argc, char *argv[])
{
	struct paths p;
	unsigned rounds;
	int fd;

	if (argc != 6)
		errx(2, "usage: start ROUNDS DIR SPORE KERNEL KVMCOST");
	rounds = (unsigned)atoi(argv[1]);
	snprintf(p.socket, sizeof(p.socket), "%s/start.sock", argv[2]);
	snprintf(p.disk, sizeof(p.disk), "%s/disk", argv[2]);
	snprintf(p.metrics, sizeof(p.metrics), "%s/metrics", argv[2]);
	fd = open(p.disk, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, 1 << 20) < 0)
		err(1, "%s", p.disk);
	for (unsigned round = 0; round < rounds; round++) {
		measure_spore(round, &p, argv[3], argv[4]);
		measure_bare(round, argv[5]);
	}
	return 0;
}
