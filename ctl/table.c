/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/table.h"

#include <stdio.h>
#include <string.h>

#define COLUMNS_MAX 16
#define CELL_MAX    128

const char *table_color(const struct ctl *c, enum table_color color)
{
	static const char *const sgr[] = {
		[TABLE_PLAIN] = "\033[0m",   [TABLE_BOLD] = "\033[1m", [TABLE_GREEN] = "\033[32m",
		[TABLE_YELLOW] = "\033[33m", [TABLE_RED] = "\033[31m", [TABLE_DIM] = "\033[2m",
	};

	return c->color ? sgr[color] : "";
}

void table_bytes(uint64_t bytes, char buf[16])
{
	static const char units[] = " KMGTPE";
	unsigned unit = 0;
	double n = (double)bytes;

	while (n >= 1023.5 && units[unit + 1]) {
		n /= 1024;
		unit++;
	}
	if (unit == 0)
		snprintf(buf, 16, "%.0f", n);
	else
		snprintf(buf, 16, n < 9.95 ? "%.1f%c" : "%.0f%c", n, units[unit]);
}

void table_seconds(double seconds, char buf[16])
{
	uint64_t s = seconds > 0 ? (uint64_t)seconds : 0;

	if (seconds < 1)
		snprintf(buf, 16, "%.0fms", seconds > 0 ? seconds * 1000 : 0);
	else if (s < 60)
		snprintf(buf, 16, "%.1fs", seconds);
	else if (s < 3600)
		snprintf(buf, 16, "%um %us", (unsigned)(s / 60), (unsigned)(s % 60));
	else if (s < 86400)
		snprintf(buf, 16, "%uh %um", (unsigned)(s / 3600), (unsigned)(s / 60 % 60));
	else
		snprintf(buf, 16, "%ud %uh", (unsigned)(s / 86400 % 100000),
			 (unsigned)(s / 3600 % 24));
}

static void format(const struct table_column *col, const json_t *v, char buf[CELL_MAX])
{
	double number = json_number_value(v);
	const char *text = json_string_value(v);

	if (!v || json_is_null(v)) {
		strcpy(buf, "-");
		return;
	}
	switch (col->kind) {
	case TABLE_TEXT:
	case TABLE_STATE:
		snprintf(buf, CELL_MAX, "%s", text ? text : json_is_true(v) ? "yes" : "no");
		err_clean_text(buf);
		return;
	case TABLE_NUMBER:
		snprintf(buf, CELL_MAX, json_is_integer(v) ? "%.0f" : "%.2f", number);
		return;
	case TABLE_BYTES:
		table_bytes(number > 0 ? (uint64_t)number : 0, buf);
		return;
	case TABLE_SECONDS:
		table_seconds(number, buf);
		return;
	case TABLE_PERCENT:
		snprintf(buf, CELL_MAX, "%.1f%%", number);
		return;
	}
}

/* By the first word: states, and what doctor finds. */
static enum table_color state_color(const char *text)
{
	static const struct {
		const char *begin;
		enum table_color color;
	} known[] = {
		{"running", TABLE_GREEN}, {"ok", TABLE_GREEN},	    {"paused", TABLE_YELLOW},
		{"warn", TABLE_YELLOW},	  {"no answer", TABLE_RED}, {"fail", TABLE_RED},
		{"ended", TABLE_DIM},
	};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (strncmp(text, known[i].begin, strlen(known[i].begin)) == 0)
			return known[i].color;
	return TABLE_PLAIN;
}

static bool is_text(const struct table_column *col)
{
	return col->kind == TABLE_TEXT || col->kind == TABLE_STATE;
}

static void print_cell(const struct ctl *c, const struct table_column *col, const char *text,
		       int width, bool last)
{
	const char *on = col->kind == TABLE_STATE ? table_color(c, state_color(text)) : "";

	/* Nothing behind the last column: lines that are too long would wrap for blanks. */
	printf("%s%*s%s%s", on,
	       !is_text(col) ? width
	       : last	     ? 0
			     : -width,
	       text, *on ? table_color(c, TABLE_PLAIN) : "", last ? "\n" : "  ");
}

void table_print(const struct ctl *c, const struct table_column *column, size_t columns,
		 const json_t *rows)
{
	int width[COLUMNS_MAX] = {0};
	char cell[CELL_MAX];
	const json_t *row;
	size_t i;

	columns = MIN(columns, (size_t)COLUMNS_MAX);
	for (size_t n = 0; n < columns; n++) {
		width[n] = (int)strlen(column[n].title);
		json_array_foreach(rows, i, row)
		{
			int len;

			format(&column[n], json_object_get(row, column[n].key), cell);
			len = (int)strlen(cell);
			if (len > width[n])
				width[n] = len;
		}
	}
	for (size_t n = 0; n < columns; n++)
		printf("%s%*s%s%s", table_color(c, TABLE_BOLD),
		       !is_text(&column[n]) ? width[n]
		       : n + 1 == columns   ? 0
					    : -width[n],
		       column[n].title, table_color(c, TABLE_PLAIN),
		       n + 1 == columns ? "\n" : "  ");
	json_array_foreach(rows, i, row)
	{
		for (size_t n = 0; n < columns; n++) {
			format(&column[n], json_object_get(row, column[n].key), cell);
			print_cell(c, &column[n], cell, width[n], n + 1 == columns);
		}
	}
}

int table_show(struct ctl *c, const struct table_column *column, size_t columns, json_t *rows)
{
	if (c->json)
		return ctl_print_json(c, rows);
	table_print(c, column, columns, rows);
	json_decref(rows);
	return 0;
}
