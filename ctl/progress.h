/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One line on standard error that tells how far long work is, with its rate and the time that is left.
 * Only on a terminal and not with --json; else nothing is printed.
 */
#pragma once

#include "ctl/ctl.h"

struct progress {
	char title[40];
	uint64_t total; /* bytes; 0: not known */
	uint64_t start_ns, drawn_ns;
	bool shown;
};

void progress_begin(struct progress *p, const struct ctl *c, const char *title, uint64_t total);
/* `done` bytes so far. Draws at most ten times a second. */
void progress_update(struct progress *p, uint64_t done);
/* Takes the line away. */
void progress_end(struct progress *p);
