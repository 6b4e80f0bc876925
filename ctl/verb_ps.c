/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/stat.h"
#include "ctl/table.h"
#include "ctl/verbs.h"

static const struct table_column columns[] = {
	{"name", "NAME", TABLE_TEXT},	   {"pid", "PID", TABLE_NUMBER},
	{"state", "STATE", TABLE_STATE},   {"vcpus", "VCPUS", TABLE_NUMBER},
	{"memory", "MEMORY", TABLE_BYTES}, {"uptime", "UPTIME", TABLE_SECONDS},
	{"rss", "RSS", TABLE_BYTES},	   {"pss", "PSS", TABLE_BYTES},
	{"shared", "SHARED", TABLE_BYTES}, {"status", "EXIT", TABLE_NUMBER},
};

int verb_ps(struct ctl *c, int argc, char **argv)
{
	struct args {
		bool quiet;
	} args = {0};
	static const struct ctl_option options[] = {
		{"quiet", 'q', CTL_FLAG, offsetof(struct args, quiet), NULL, "names only"},
		{0},
	};
	static const struct ctl_usage usage = {
		.arguments = "",
		.options = options,
		.examples =
			"sporectl ps\n"
			"sporectl ps --json | jq '.[] | select(.state == \"running\") | .name'\n"
			"sporectl stop $(sporectl ps -q)\n",
	};
	struct err e;
	json_t *rows, *row;
	size_t i;

	if (!ctl_parse(c, &usage, &argc, &argv, &args))
		return c->exit_code;
	rows = stat_all(c, &e);
	if (!rows)
		return ctl_fail(c, &e);
	if (!args.quiet)
		return table_show(c, columns, ARRAY_SIZE(columns), rows);
	json_array_foreach(rows, i, row)
	{
		puts(json_string_value(json_object_get(row, "name")));
	}
	json_decref(rows);
	return 0;
}
