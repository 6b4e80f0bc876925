/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "vmm/metrics.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/scratch.h"

static struct scratch s;
static struct loop loop;
static struct vm vm;
static struct metrics m;
static struct err e;

static void start(void)
{
	scratch_init(&s);
	cr_assert_eq(loop_init(&loop, NULL), 0);
	vm_init(&vm, &loop, "vm-1");
	metrics_init(&m, &vm);
}

static void finish(void)
{
	metrics_finish(&m);
	vm_finish(&vm);
	loop_finish(&loop);
	scratch_finish(&s);
}

TestSuite(metrics, .init = start, .fini = finish, .timeout = 30);

static void open_sink(const char *path)
{
	struct metrics_config piece;

	metrics_config_init(&piece);
	piece.metrics_path = strdup(path);
	piece.emit_id = true;
	cr_assert_eq(config_set_metrics(&vm.config, &piece, &e), 0, "%s", e.msg);
}

/* Line `n` of the file, parsed. */
static json_t *line(unsigned n)
{
	FILE *f = fopen(vm.config.metrics.metrics_path, "re");
	char text[16384];
	json_t *json;

	for (unsigned i = 0; i <= n; i++)
		cr_assert_not_null(fgets(text, sizeof(text), f), "line %u", i);
	fclose(f);
	json = json_loads(text, 0, NULL);
	cr_assert_not_null(json, "%s", text);
	return json;
}

/* A number in it; -1 when it is not there. */
static json_int_t number(const json_t *json, const char *group, const char *name)
{
	const json_t *v = json_object_get(json_object_get(json, group), name);

	return json_is_integer(v) ? json_integer_value(v) : -1;
}

Test(metrics, nothing_without_a_file)
{
	cr_expect_eq(metrics_flush(&m, &e), 0);
	metrics_start(&m);
	cr_expect_null(loop.timers);
}

Test(metrics, groups_are_there_without_a_device)
{
	static const char *const groups[] = {"api_server",
					     "get_api_requests",
					     "put_api_requests",
					     "patch_api_requests",
					     "block",
					     "entropy",
					     "vcpu",
					     "i8042",
					     "uart",
					     "logger",
					     "latencies_us",
					     "start_us"};
	json_t *json;

	open_sink(scratch_path(&s, "m"));
	cr_assert_eq(metrics_flush(&m, &e), 0);
	json = line(0);
	for (size_t i = 0; i < ARRAY_SIZE(groups); i++)
		cr_expect(json_is_object(json_object_get(json, groups[i])), "%s", groups[i]);
	cr_expect_gt(json_integer_value(json_object_get(json, "utc_timestamp_ms")), 1700000000000);
	cr_expect_str_eq(json_string_value(json_object_get(json, "id")), "vm-1");
	cr_expect_eq(number(json, "block", "read_bytes"), 0);
	cr_expect_eq(number(json_object_get(json, "block"), "read_agg", "sum_us"), 0);
	cr_expect_eq(number(json, "vcpu", "exit_mmio_read"), 0);
	cr_expect_eq(number(json, "uart", "write_count"), 0);
	json_decref(json);
}

Test(metrics, every_field_that_firecracker_writes)
{
	FILE *f = fopen("tests/data/metrics-fields.txt", "re");
	char text[128], group[64], field[64], part[64];
	json_t *json;
	unsigned n = 0;

	cr_assert_not_null(f, "run the tests from the top of the tree");
	open_sink(scratch_path(&s, "m"));
	cr_assert_eq(metrics_flush(&m, &e), 0);
	json = line(0);
	while (fgets(text, sizeof(text), f)) {
		int words = sscanf(text, "%63s %63s %63s", group, field, part);
		json_t *v = json_object_get(json_object_get(json, group), field);

		if (text[0] == '#')
			continue;
		cr_expect_geq(words, 2);
		cr_expect(json_is_integer(words == 3 ? json_object_get(v, part) : v), "%s", text);
		n++;
	}
	fclose(f);
	json_decref(json);
	cr_expect_gt(n, 200);
}

Test(metrics, properties_are_in_every_line)
{
	struct metrics_config piece;
	json_t *json;

	metrics_config_init(&piece);
	piece.metrics_path = strdup(scratch_path(&s, "m"));
	piece.properties = strdup("{\"a\":\"b \\\"c\"}");
	cr_assert_eq(config_set_metrics(&vm.config, &piece, &e), 0, "%s", e.msg);
	for (unsigned i = 0; i < 2; i++) {
		cr_assert_eq(metrics_flush(&m, &e), 0);
		json = line(i);
		cr_expect_str_eq(json_string_value(
					 json_object_get(json_object_get(json, "properties"), "a")),
				 "b \"c");
		json_decref(json);
	}
}

Test(metrics, a_look_at_the_sums_takes_nothing_from_the_lines)
{
	json_t *json;

	open_sink(scratch_path(&s, "m"));
	metric_add(&m.count[METRICS_PUT_DRIVE], 3);
	m.pause_us = 17;
	json = metrics_totals(&m);
	cr_expect_eq(number(json, "put_api_requests", "drive_count"), 3);
	json_decref(json);
	metric_add(&m.count[METRICS_PUT_DRIVE], 2);
	json = metrics_totals(&m);
	cr_expect_eq(number(json, "put_api_requests", "drive_count"), 5);
	cr_expect_eq(number(json, "latencies_us", "pause_vm"), 17, "not a sum");
	json_decref(json);
	metric_add(&m.count[METRICS_PUT_DRIVE], 1);
	cr_assert_eq(metrics_flush(&m, &e), 0);
	cr_assert_eq(metrics_flush(&m, &e), 0);
	json = line(0);
	cr_expect_eq(number(json, "put_api_requests", "drive_count"), 6);
	cr_expect_eq(number(json, "latencies_us", "pause_vm"), 17);
	json_decref(json);
	json = line(1);
	cr_expect_eq(number(json, "put_api_requests", "drive_count"), 0);
	json_decref(json);
	json = metrics_totals(&m);
	cr_expect_eq(number(json, "put_api_requests", "drive_count"), 6);
	json_decref(json);
}

/* Whether `name` is one that the format and its linter take. */
static bool good_name(const char *name)
{
	return strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == strlen(name) &&
	       strncmp(name, "spore_", 6) == 0 && !strstr(name, "__") && !strstr(name, "_us");
}

/*
 * Prometheus' text format, strictly: a family is HELP, TYPE and then its samples, comes once, and
 * is named as promtool's linter wants it. Returns the number of families.
 */
static unsigned check_page(char *text)
{
	char family[128] = "", seen[65536] = " ", type[16] = "";
	unsigned families = 0;

	for (char *l = strtok(text, "\n"); l; l = strtok(NULL, "\n")) {
		char name[128] = "", rest[256] = "", key[160];
		double value;

		if (sscanf(l, "# HELP %127s %255[^\n]", name, rest) == 2) {
			snprintf(key, sizeof(key), " %s ", name);
			cr_expect(good_name(name), "%s", l);
			cr_expect_null(strstr(seen, key), "%s comes twice", name);
			snprintf(family, sizeof(family), "%s", name);
			strcat(strcat(seen, name), " ");
			families++;
		} else if (sscanf(l, "# TYPE %127s %15s", name, type) == 2) {
			bool total =
				strlen(name) > 6 && strcmp(name + strlen(name) - 6, "_total") == 0;

			cr_expect_str_eq(name, family);
			cr_expect_eq(total, strcmp(type, "counter") == 0, "%s", l);
		} else {
			size_t len = strcspn(l, "{ ");
			const char *number = strrchr(l, ' ');

			cr_assert(number && sscanf(number, "%lf", &value) == 1, "%s", l);
			cr_expect_geq(value, 0, "%s", l);
			cr_expect(strncmp(l, family, strlen(family)) == 0, "%s in %s", l, family);
			cr_expect(len == strlen(family) || strcmp(type, "histogram") == 0, "%s", l);
			cr_expect(l[len] == ' ' || number[-1] == '}', "%s", l);
		}
	}
	return families;
}

Test(metrics, prometheus)
{
	cleanup_free char *text = NULL;

	metrics_watch_process(&m);
	metric_add(&m.count[METRICS_PUT_DRIVE], 3);
	metrics_api_took(&m, 20000);
	metrics_api_took(&m, 200000);
	metrics_api_took(&m, 9000000000);
	m.pause_us = 1500;
	text = metrics_prometheus(&m);
	cr_assert_not_null(text);
	cr_expect(strstr(text, "\nspore_put_api_requests_drive_total 3\n"));
	cr_expect(strstr(text, "\nspore_block_read_seconds_total 0.000000\n"));
	cr_expect(strstr(text, "{operation=\"pause_vm\"} 0.001500\n"));
	cr_expect(strstr(text, "_seconds_bucket{le=\"5e-05\"} 1\n"));
	cr_expect(strstr(text, "_seconds_bucket{le=\"0.00025\"} 2\n"));
	cr_expect(strstr(text, "_seconds_bucket{le=\"+Inf\"} 3\n"));
	cr_expect(strstr(text, "\nspore_process_page_faults_total{kind=\"minor\"} "));
	cr_expect(strstr(text, "\nspore_process_proportional_memory_bytes "));
	cr_expect_gt(check_page(text), 150);
}

Test(metrics, reopened_where_it_was_moved_away)
{
	const char *path = scratch_path(&s, "m"), *old = scratch_path(&s, "m.1");

	open_sink(path);
	cr_assert_eq(metrics_flush(&m, &e), 0);
	cr_assert_eq(rename(path, old), 0);
	cr_assert_eq(metrics_flush(&m, &e), 0);
	cr_expect_neq(access(path, F_OK), 0);
	cr_assert_eq(metrics_reopen(&m, &e), 0, "%s", e.msg);
	cr_assert_eq(metrics_flush(&m, &e), 0);
	json_decref(line(0));
	free(vm.config.metrics.metrics_path);
	vm.config.metrics.metrics_path = strdup("/no/dir/m");
	cr_expect_lt(metrics_reopen(&m, &e), 0);
	cr_expect(strstr(e.msg, "/no/dir/m"));
	cr_expect_eq(metrics_flush(&m, &e), 0, "the old one stays");
}

Test(metrics, counters_are_increments_and_times_are_not)
{
	json_t *json;

	open_sink(scratch_path(&s, "m"));
	metric_add(&m.count[METRICS_PUT_DRIVE], 3);
	metric_inc(&m.fails[METRICS_PUT_DRIVE]);
	m.pause_us = 17;
	vm.times.kernel_us = 5;
	cr_assert_eq(metrics_flush(&m, &e), 0);
	metric_add(&m.count[METRICS_PUT_DRIVE], 2);
	cr_assert_eq(metrics_flush(&m, &e), 0);

	json = line(0);
	cr_expect_eq(number(json, "put_api_requests", "drive_count"), 3);
	cr_expect_eq(number(json, "put_api_requests", "drive_fails"), 1);
	cr_expect_eq(number(json, "latencies_us", "pause_vm"), 17);
	json_decref(json);
	json = line(1);
	cr_expect_eq(number(json, "put_api_requests", "drive_count"), 2);
	cr_expect_eq(number(json, "put_api_requests", "drive_fails"), 0);
	cr_expect_eq(number(json, "latencies_us", "pause_vm"), 17);
	cr_expect_eq(number(json, "start_us", "kernel"), 5);
	json_decref(json);
}

Test(metrics, start_writes_and_sets_the_rhythm)
{
	open_sink(scratch_path(&s, "m"));
	metrics_start(&m);
	for (unsigned i = 0; i < 2; i++) {
		cr_assert_eq(loop.timers, &m.timer);
		m.timer.at_ns = 0;
		cr_assert_eq(loop_run_once(&loop, 0), 0);
		json_decref(line(i));
	}
	cr_expect_eq(loop.timers, &m.timer, "and again in a minute");
}

Test(metrics, a_full_disk_is_told_and_counted)
{
	open_sink("/dev/full");
	cr_expect_eq(metrics_flush(&m, &e), -ENOSPC);
	cr_expect(strstr(e.msg, "'/dev/full'"));
	cr_expect(strstr(e.msg, "No space left"));
	cr_expect_eq(m.missed.value, 1);
	cr_expect_not(m.torn);
}

Test(metrics, a_full_fifo_loses_lines_but_tears_none_in_silence)
{
	char text[65536];
	unsigned lines = 0;
	int fd;

	open_sink(scratch_fifo(&s, "fifo"));
	while (metrics_flush(&m, &e) == 0)
		cr_assert_lt(++lines, 10000);
	cr_expect_gt(m.missed.value, 0);
	fd = vm.config.metrics.fd;
	while (read(fd, text, sizeof(text)) > 0)
		;
	cr_assert_eq(metrics_flush(&m, &e), 0, "there is room again");
	memset(text, 0, sizeof(text));
	cr_assert_gt(read(fd, text, sizeof(text) - 1), 0);
	cr_expect(strstr(text, "\"missed_metrics_count\":1"));
	cr_expect(text[0] == '{' || strncmp(text, "\n{", 2) == 0, "a torn line is ended first");
}
