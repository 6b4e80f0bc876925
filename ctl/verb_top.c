/* SPDX-License-Identifier: Apache-2.0 */
/* top: ps again and again, with what each has used of a processor since the time before. */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ctl/stat.h"
#include "ctl/table.h"
#include "ctl/verbs.h"
#include "vmm/base/util.h"

static const struct table_column columns[] = {
	{"name", "NAME", TABLE_TEXT},	   {"pid", "PID", TABLE_NUMBER},
	{"state", "STATE", TABLE_STATE},   {"cpu", "CPU", TABLE_PERCENT},
	{"vcpus", "VCPUS", TABLE_NUMBER},  {"memory", "MEMORY", TABLE_BYTES},
	{"rss", "RSS", TABLE_BYTES},	   {"pss", "PSS", TABLE_BYTES},
	{"shared", "SHARED", TABLE_BYTES}, {"uptime", "UPTIME", TABLE_SECONDS},
};

static const json_t *same_process(const json_t *rows, const json_t *row)
{
	const json_t *other;
	size_t i;

	json_array_foreach(rows, i, other)
	{
		if (json_object_get(row, "pid") &&
		    json_equal(json_object_get(other, "pid"), json_object_get(row, "pid")))
			return other;
	}
	return NULL;
}

/* Per cent of one processor, where both samples know it. */
static void add_cpu(json_t *rows, const json_t *before, double seconds)
{
	json_t *row;
	size_t i;

	json_array_foreach(rows, i, row)
	{
		const json_t *now = json_object_get(row, "cpu_seconds");
		const json_t *was = json_object_get(same_process(before, row), "cpu_seconds");

		if (now && was)
			json_object_set_new(
				row, "cpu",
				json_real(100 * (json_number_value(now) - json_number_value(was)) /
					  seconds));
	}
}

int verb_top(struct ctl *c, int argc, char **argv)
{
	struct args {
		uint64_t seconds;
	} args = {.seconds = 2};
	static const struct ctl_option options[] = {
		{"seconds", 's', CTL_NUMBER, offsetof(struct args, seconds), "N",
		 "between two looks [2]"},
		{0},
	};
	static const struct ctl_usage usage = {
		.arguments = "",
		.options = options,
		.examples = "sporectl top\n"
			    "# not on a terminal: once, after the first interval\n"
			    "sporectl top --json --seconds 5\n",
	};
	json_t *before, *rows;
	struct err e;

	if (!ctl_parse(c, &usage, &argc, &argv, &args))
		return c->exit_code;
	args.seconds = args.seconds ? MIN(args.seconds, (uint64_t)3600) : 1;
	before = stat_all(c, &e);
	while (before) {
		sleep((unsigned)args.seconds);
		rows = stat_all(c, &e);
		if (!rows)
			break;
		add_cpu(rows, before, (double)args.seconds);
		json_decref(before);
		if (!c->terminal || c->json)
			return table_show(c, columns, ARRAY_SIZE(columns), rows);
		printf("\033[H\033[J"); /* from the top of an empty screen */
		table_print(c, columns, ARRAY_SIZE(columns), rows);
		fflush(stdout);
		before = rows;
	}
	json_decref(before);
	return ctl_fail(c, &e);
}
