/* SPDX-License-Identifier: Apache-2.0 */
/* What a person reads: numbers, tables; and of /proc's texts, what is in them. */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <stdio.h>
#include <string.h>

#include "ctl/stat.h"
#include "ctl/table.h"

static const struct table_column columns[] = {
	{"name", "NAME", TABLE_TEXT}, {"state", "STATE", TABLE_STATE},
	{"n", "N", TABLE_NUMBER},     {"memory", "MEMORY", TABLE_BYTES},
	{"up", "UP", TABLE_SECONDS},  {"cpu", "CPU", TABLE_PERCENT},
};

static const char *print(const struct ctl *c, const char *rows)
{
	static char said[4096];
	json_t *array = json_loads(rows, 0, NULL);
	size_t n;

	cr_assert(array);
	cr_redirect_stdout();
	table_print(c, columns, ARRAY_SIZE(columns), array);
	fflush(stdout);
	json_decref(array);
	n = fread(said, 1, sizeof(said) - 1, cr_get_redirected_stdout());
	said[n] = '\0';
	return said;
}

TestSuite(ctl_table, .timeout = 30);

Test(ctl_table, bytes)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} cases[] = {{0, "0"},
		     {1023, "1023"},
		     {1024, "1.0K"},
		     {10 << 10, "10K"},
		     {1536 << 10, "1.5M"},
		     {1023 << 10, "1023K"},
		     {(1 << 20) - 1, "1.0M"},
		     {1ull << 40, "1.0T"},
		     {UINT64_MAX, "16E"}};
	char buf[16];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		table_bytes(cases[i].bytes, buf);
		cr_expect_str_eq(buf, cases[i].text);
	}
}

Test(ctl_table, seconds)
{
	static const struct {
		double seconds;
		const char *text;
	} cases[] = {{-1, "0ms"},   {0.25, "250ms"}, {1, "1.0s"},
		     {65, "1m 5s"}, {3600, "1h 0m"}, {86400 * 3 + 7200, "3d 2h"}};
	char buf[16];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		table_seconds(cases[i].seconds, buf);
		cr_expect_str_eq(buf, cases[i].text);
	}
}

Test(ctl_table, columns_are_as_wide_as_what_is_in_them)
{
	const struct ctl c = {0};

	cr_expect_str_eq(print(&c, "[{\"name\": \"a-long-name\", \"state\": \"running\", \"n\": "
				   "12, \"memory\": 1048576,"
				   " \"up\": 65, \"cpu\": 1.25}, {\"name\": \"b\", \"n\": 0.5}]"),
			 "NAME         STATE       N  MEMORY     UP   CPU\n"
			 "a-long-name  running    12    1.0M  1m 5s  1.2%\n"
			 "b            -        0.50       -      -     -\n");
}

Test(ctl_table, no_rows)
{
	const struct ctl c = {0};

	cr_expect_str_eq(print(&c, "[]"), "NAME  STATE  N  MEMORY  UP  CPU\n");
}

Test(ctl_table, a_name_paints_nothing)
{
	const struct ctl c = {0};

	cr_expect_null(strchr(print(&c, "[{\"name\": \"\\u001b[31mred\\u0007\"}]"), '\033'));
}

Test(ctl_table, colours_only_where_they_are_wanted)
{
	const struct ctl plain = {0}, coloured = {.color = true};

	cr_expect_str_eq(table_color(&plain, TABLE_RED), "");
	cr_expect_str_eq(table_color(&coloured, TABLE_RED), "\033[31m");
}

Test(ctl_table, what_does_not_fit_is_cut)
{
	const struct ctl c = {0};
	char rows[600];
	const char *said;

	snprintf(rows, sizeof(rows), "[{\"name\": \"%0500d\"}]", 0);
	said = print(&c, rows);
	cr_expect_lt(strlen(said), 600);
}

Test(ctl_table, smaps_rollup)
{
	json_t *row = json_object();

	stat_read_rollup(
		"00400000-7ffd [rollup]\nRss:     100 kB\nPss:      40 kB\nPss_Dirty: 9 kB\n"
		"Shared_Clean:  50 kB\nShared_Dirty:  10 kB\n",
		row);
	cr_expect_eq(json_integer_value(json_object_get(row, "rss")), 100 << 10);
	cr_expect_eq(json_integer_value(json_object_get(row, "pss")), 40 << 10);
	cr_expect_eq(json_integer_value(json_object_get(row, "shared")), 60 << 10);
	json_decref(row);
}

Test(ctl_table, proc_stat_with_any_name)
{
	const char *tail = "S 1 1 1 0 -1 4 5 6 7 8 250 50 0 0 20 0 2 0 12345 99";
	char text[256];
	double cpu = 0, start = 0;

	for (size_t i = 0; i < 3; i++) {
		static const char *const names[] = {"spore", "a b", ") S 1 (("};

		snprintf(text, sizeof(text), "42 (%s) %s", names[i], tail);
		cr_assert(stat_read_times(text, 100, &cpu, &start), "%s", names[i]);
		cr_expect_float_eq(cpu, 3.0, 1e-9);
		cr_expect_float_eq(start, 123.45, 1e-9);
	}
	cr_expect_not(stat_read_times("42 (spore) S 1 2", 100, &cpu, &start));
	cr_expect_not(stat_read_times("42 (spore)", 100, &cpu, &start));
	cr_expect_not(stat_read_times("", 100, &cpu, &start));
	cr_expect_not(stat_read_times(text, 0, &cpu, &start));
}
