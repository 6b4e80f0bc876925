/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows for a person as a table, for a program as JSON: the same objects. Colour is only used where
 * struct ctl says so.
 */
#pragma once

#include "ctl/ctl.h"

enum table_kind {
	TABLE_TEXT,
	TABLE_STATE,   /* text, coloured by what it says */
	TABLE_NUMBER,  /* integer or real */
	TABLE_BYTES,   /* integer */
	TABLE_SECONDS, /* integer or real */
	TABLE_PERCENT, /* real */
};

struct table_column {
	const char *key, *title;
	enum table_kind kind;
};

/* `rows` is an array of objects; a member that is missing or null is "-". Borrowed. */
void table_print(const struct ctl *c, const struct table_column *column, size_t columns,
		 const json_t *rows);
/* With --json the rows as they are, else the table. Takes `rows`. Returns the exit code. */
int table_show(struct ctl *c, const struct table_column *column, size_t columns, json_t *rows);

/* "1.5G", "12K", "0"; "3d 2h", "1m 5s", "0.4s". */
void table_bytes(uint64_t bytes, char buf[16]);
void table_seconds(double seconds, char buf[16]);

/* SGR sequences, or "" where there are no colours. */
enum table_color { TABLE_PLAIN, TABLE_BOLD, TABLE_GREEN, TABLE_YELLOW, TABLE_RED, TABLE_DIM };
const char *table_color(const struct ctl *c, enum table_color color);
