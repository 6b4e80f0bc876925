/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/stat.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ctl/http.h"
#include "ctl/table.h"
#include "vmm/base/fd.h"

static void set_integer(json_t *row, const char *key, uint64_t value)
{
	json_object_set_new(row, key, json_integer((json_int_t)value));
}

/* --- /proc --- */

static bool read_proc(pid_t pid, const char *file, char *buf, size_t size)
{
	char path[64];
	cleanup_fd int fd = -1;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd >= 0 ? read(fd, buf, size - 1) : -1;
	buf[n > 0 ? n : 0] = '\0';
	return n > 0;
}

/* KiB behind "KEY:" at the beginning of a line, added up. */
static uint64_t sum_kib(const char *text, const char *key)
{
	size_t len = strlen(key);
	uint64_t sum = 0;

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, key, len) == 0 && line[len] == ':')
			sum += strtoull(line + len + 1, NULL, 10);
	}
	return sum;
}

void stat_read_rollup(const char *text, json_t *row)
{
	uint64_t shared = sum_kib(text, "Shared_Clean") + sum_kib(text, "Shared_Dirty");

	set_integer(row, "rss", sum_kib(text, "Rss") << 10);
	set_integer(row, "pss", sum_kib(text, "Pss") << 10);
	set_integer(row, "shared", shared << 10);
}

bool stat_read_times(const char *text, long ticks, double *cpu, double *start)
{
	enum { USER = 14, SYSTEM = 15, START = 22, END }; /* numbered as in proc(5) */
	uint64_t field[END] = {0};
	/* The name in parentheses may hold anything, ')' too. */
	const char *at = strrchr(text, ')');
	char *end;

	if (!at || ticks <= 0 || strlen(at) < 4)
		return false;
	at += 3; /* behind the state, a letter */
	for (unsigned i = 4; i < END; i++) {
		field[i] = strtoull(at, &end, 10);
		if (end == at)
			return false;
		at = end;
	}
	*cpu = (double)(field[USER] + field[SYSTEM]) / (double)ticks;
	*start = (double)field[START] / (double)ticks;
	return true;
}

static void add_process(json_t *row, pid_t pid)
{
	char text[4096];
	double cpu, start;
	struct timespec now;

	set_integer(row, "pid", (uint64_t)pid);
	if (read_proc(pid, "smaps_rollup", text, sizeof(text)))
		stat_read_rollup(text, row);
	clock_gettime(CLOCK_BOOTTIME, &now);
	if (!read_proc(pid, "stat", text, sizeof(text)) ||
	    !stat_read_times(text, sysconf(_SC_CLK_TCK), &cpu, &start))
		return;
	json_object_set_new(row, "cpu_seconds", json_real(cpu));
	json_object_set_new(row, "uptime",
			    json_real((double)now.tv_sec + (double)now.tv_nsec / 1e9 - start));
}

/* --- its socket --- */

static const char *state_of(json_t *instance)
{
	const char *said = json_string_value(json_object_get(instance, "state"));

	if (!said)
		return "no answer";
	return strcmp(said, "Running") == 0  ? "running"
	       : strcmp(said, "Paused") == 0 ? "paused"
					     : "starting";
}

static void add_answers(struct ctl *c, json_t *row, const struct vms_vm *vm)
{
	char socket[VMS_PATH_MAX];
	json_t *instance, *machine;
	struct err e;

	vms_path(vm, "api.sock", socket);
	http_ask(c, socket, "/", &instance, &e);
	json_object_set_new(row, "state", json_string(state_of(instance)));
	if (instance && http_ask(c, socket, "/machine-config", &machine, &e) == 0) {
		json_object_set(row, "vcpus", json_object_get(machine, "vcpu_count"));
		set_integer(row, "memory",
			    (uint64_t)json_integer_value(json_object_get(machine, "mem_size_mib"))
				    << 20);
		json_decref(machine);
	}
	json_decref(instance);
	c->hint[0] = '\0'; /* one that does not answer is no error here */
}

json_t *stat_one(struct ctl *c, const struct vms_vm *vm)
{
	json_t *row = json_pack("{s:s}", "name", vm->name);
	long status;
	pid_t pid = 0;
	int pidfd;

	if (!vms_alive(vm)) {
		json_object_set_new(row, "state", json_string("ended"));
		if (vms_read_number(vm, "status", &status))
			json_object_set_new(row, "status", json_integer(status));
		return row;
	}
	pidfd = vms_pidfd(vm, &pid, NULL);
	if (pidfd < 0) {
		json_object_set_new(row, "state", json_string("starting"));
		return row;
	}
	add_process(row, pid);
	add_answers(c, row, vm);
	fd_close(&pidfd);
	return row;
}

json_t *stat_all(struct ctl *c, struct err *e)
{
	struct vms_vm *list;
	size_t count;
	json_t *rows = NULL;

	if (vms_list(c, &list, &count, e) == 0) {
		rows = json_array();
		for (size_t i = 0; i < count; i++)
			json_array_append_new(rows, stat_one(c, &list[i]));
	}
	free(list);
	return rows;
}

int stat_show(struct ctl *c, json_t *rows)
{
	static const struct table_column columns[] = {
		{"name", "NAME", TABLE_TEXT},	 {"pid", "PID", TABLE_NUMBER},
		{"state", "STATE", TABLE_STATE}, {"rss", "RSS", TABLE_BYTES},
		{"pss", "PSS", TABLE_BYTES},	 {"shared", "SHARED", TABLE_BYTES},
	};

	if (json_array_size(rows) || c->json)
		return table_show(c, columns, ARRAY_SIZE(columns), rows);
	json_decref(rows);
	return 0;
}
