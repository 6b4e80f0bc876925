/* SPDX-License-Identifier: Apache-2.0 */
/*
 * start ROUNDS DIR SPORE KERNEL KVMCOST [restore | shell]
 *
 * InstanceStart to the first exit of the guest: 128 MiB, one vCPU, a block and an entropy device,
 * through the API. In turn with KVMCOST, which does the bare KVM calls, each in a new process.
 * DIR is for the socket, the disk and the metrics file, from which the figures of "spore" are
 * taken (group start_us, vmm/metrics.h), and which has `request` too: from the sending of the
 * request to the first exit. KERNEL has to end its guest by itself.
 *
 * With "shell" a restore of 128 MiB into a warm shell ("shell"), into one that is primed with the snapshot ("primed"),
 * both filtered like any other, one in a new process ("spore"), and the bare KVM calls of a claim.
 *
 * With "restore" it is PUT /snapshot/load with resume_vm instead, of a guest with 128 MiB ("spore") and
 * one with 1 GiB ("large"); KERNEL has to make exits for ever.
 */
#include <signal.h>
#include <stdbool.h>

#include "tests/bench/bench.h"

struct paths {
	char socket[256], disk[256], metrics[256], state[256], memory[256];
};

static void configure(int fd, const struct paths *p, const char *kernel, unsigned mib)
{
	char body[2048];

	snprintf(body, sizeof(body), "{\"kernel_image_path\":\"%s\"}", kernel);
	bench_request(fd, "PUT", "/boot-source", body);
	snprintf(body, sizeof(body), "{\"vcpu_count\":1,\"mem_size_mib\":%u}", mib);
	bench_request(fd, "PUT", "/machine-config", body);
	snprintf(body, sizeof(body),
		 "{\"drive_id\":\"d\",\"path_on_host\":\"%s\",\"is_root_device\":false}", p->disk);
	bench_request(fd, "PUT", "/drives/d", body);
	bench_request(fd, "PUT", "/entropy", "{}");
}

static void set_metrics(int fd, const struct paths *p)
{
	char body[512];

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

static void report(const char *who, unsigned round, const char *at, uint64_t sent_ns)
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
			bench_row(who, round, name, us * 1000);
		if (strcmp(name, "first_exit") == 0)
			first_exit = us * 1000;
	}
	if (!begin || !first_exit)
		errx(1, "the guest did not run");
	bench_row(who, round, "request", begin + first_exit - sent_ns);
}

static int spawn_with(const struct paths *p, char *spore, const char *option, const char *value,
		      struct bench_child *child)
{
	char *argv[] = {spore,
			(char[]){"--api-sock"},
			(char *)(uintptr_t)p->socket,
			(char *)(uintptr_t)option,
			(char *)(uintptr_t)value,
			NULL};

	unlink(p->socket);
	unlink(p->metrics);
	close(open(p->metrics, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	*child = bench_spawn(argv, -1);
	return bench_connect(p->socket);
}

static int spawn(const struct paths *p, char *spore, struct bench_child *child)
{
	return spawn_with(p, spore, NULL, NULL, child);
}

static void measure_spore(unsigned round, const struct paths *p, char *spore, const char *kernel)
{
	char buf[16384];
	struct bench_child child;
	int fd = spawn(p, spore, &child);
	uint64_t sent;

	configure(fd, p, kernel, 128);
	set_metrics(fd, p);
	sent = bench_now();
	bench_request(fd, "PUT", "/actions", "{\"action_type\":\"InstanceStart\"}");
	bench_wait(child.pid);
	close(fd);
	report("spore", round, read_metrics(p->metrics, buf, sizeof(buf)), sent);
}

static void make_snapshot(const struct paths *p, char *spore, const char *kernel, unsigned mib)
{
	char body[1024];
	struct bench_child child;
	int fd = spawn(p, spore, &child);

	configure(fd, p, kernel, mib);
	bench_request(fd, "PUT", "/actions", "{\"action_type\":\"InstanceStart\"}");
	nanosleep(&(const struct timespec){.tv_nsec = 300000000}, NULL);
	bench_request(fd, "PATCH", "/vm", "{\"state\":\"Paused\"}");
	snprintf(body, sizeof(body), "{\"snapshot_path\":\"%s\",\"mem_file_path\":\"%s\"}",
		 p->state, p->memory);
	bench_request(fd, "PUT", "/snapshot/create", body);
	kill(child.pid, SIGKILL);
	bench_wait(child.pid);
	close(fd);
}

/* Its metrics are asked for until it has made an exit. */
static void measure_restore(const char *who, unsigned round, const struct paths *p, char *spore)
{
	char buf[16384], body[1024], *at = buf;
	bool primed = strcmp(who, "primed") == 0, shell = primed || strcmp(who, "shell") == 0;
	struct bench_child child;
	int fd = spawn_with(p, spore, shell ? "--shell" : NULL, "vcpus=1,mem_mib=128", &child);
	bool ran = false;
	uint64_t sent;

	set_metrics(fd, p);
	if (primed) {
		snprintf(body, sizeof(body),
			 "{\"snapshot_path\":\"%s\",\"mem_backend\":{\"backend_type\":\"File\","
			 "\"backend_path\":\"%s\"}}",
			 p->state, p->memory);
		bench_request(fd, "PUT", "/snapshot/prime", body);
	}
	/* What happens at the beginning of a process is over: a pool has made it long ago. */
	nanosleep(&(const struct timespec){.tv_nsec = 5000000}, NULL);
	snprintf(body, sizeof(body),
		 "{\"snapshot_path\":\"%s\",\"resume_vm\":true,\"mem_backend\":{\"backend_type\":"
		 "\"File\","
		 "\"backend_path\":\"%s\"}}",
		 p->state, p->memory);
	sent = bench_now();
	bench_request(fd, "PUT", "/snapshot/load", body);
	for (unsigned i = 0; i < 200 && !ran; i++) {
		nanosleep(&(const struct timespec){.tv_nsec = 10000000}, NULL);
		bench_request(fd, "PUT", "/actions", "{\"action_type\":\"FlushMetrics\"}");
		at = read_metrics(p->metrics, buf, sizeof(buf));
		ran = strstr(at, "\"first_exit\":") && !strstr(at, "\"first_exit\":0");
	}
	kill(child.pid, SIGKILL);
	bench_wait(child.pid);
	close(fd);
	report(who, round, at, sent);
}

static void measure_bare(unsigned round, char *kvmcost, const char *name)
{
	char number[16];
	char *argv[] = {kvmcost, (char *)(uintptr_t)name, number, NULL};

	snprintf(number, sizeof(number), "%u", round);
	fflush(stdout);
	if (bench_wait(bench_spawn(argv, 1).pid) != 0)
		errx(1, "%s failed", kvmcost);
}

static void fill_paths(struct paths *p, const char *dir, const char *name)
{
	snprintf(p->socket, sizeof(p->socket), "%s/start.sock", dir);
	snprintf(p->disk, sizeof(p->disk), "%s/disk", dir);
	snprintf(p->metrics, sizeof(p->metrics), "%s/metrics", dir);
	snprintf(p->state, sizeof(p->state), "%s/%s.state", dir, name);
	snprintf(p->memory, sizeof(p->memory), "%s/%s.mem", dir, name);
}

int main(int argc, char *argv[])
{
	bool shell = argc == 7 && strcmp(argv[6], "shell") == 0;
	bool restore = shell || (argc == 7 && strcmp(argv[6], "restore") == 0);
	struct paths p, large;
	unsigned rounds;
	int fd;

	if (argc != 6 && !restore)
		errx(2, "usage: start ROUNDS DIR SPORE KERNEL KVMCOST [restore | shell]");
	rounds = (unsigned)atoi(argv[1]);
	fill_paths(&p, argv[2], "small");
	fill_paths(&large, argv[2], "large");
	fd = open(p.disk, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, 1 << 20) < 0)
		err(1, "%s", p.disk);
	if (restore) {
		make_snapshot(&p, argv[3], argv[4], 128);
		make_snapshot(&large, argv[3], argv[4], 1024);
	}
	for (unsigned round = 0; round < rounds; round++) {
		if (restore) {
			measure_restore("spore", round, &p, argv[3]);
			measure_restore(shell ? "shell" : "large", round, shell ? &p : &large,
					argv[3]);
			if (shell)
				measure_restore("primed", round, &p, argv[3]);
		} else {
			measure_spore(round, &p, argv[3], argv[4]);
		}
		measure_bare(round, argv[5], shell ? "claim" : restore ? "restore" : "bare");
	}
	return 0;
}
