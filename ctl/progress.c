/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ctl/table.h"

#define BAR 24u

void progress_begin(struct progress *p, const struct ctl *c, const char *title, uint64_t total)
{
	*p = (struct progress){.total = total, .start_ns = now_ns()};
	snprintf(p->title, sizeof(p->title), "%s", title);
	p->shown = !c->json && isatty(STDERR_FILENO);
}

static void progress_line(const struct progress *p, uint64_t done, double seconds, char *buf,
			  size_t size)
{
	double rate = seconds > 0 ? (double)done / seconds : 0;
	char bar[BAR + 1], amount[16], speed[16], left[16] = "";
	unsigned filled;

	table_bytes(done, amount);
	table_bytes((uint64_t)rate, speed);
	if (p->total == 0) {
		snprintf(buf, size, "%s  %s  %s/s", p->title, amount, speed);
		return;
	}
	done = MIN(done, p->total);
	filled = (unsigned)((double)done / (double)p->total * BAR);
	memset(bar, '.', BAR);
	memset(bar, '#', filled);
	bar[BAR] = '\0';
	if (rate > 0)
		table_seconds((double)(p->total - done) / rate, left);
	snprintf(buf, size, "%s [%s] %3.0f%%  %s  %s/s%s%s", p->title, bar,
		 (double)done / (double)p->total * 100, amount, speed, *left ? "  left " : "",
		 left);
}

void progress_update(struct progress *p, uint64_t done)
{
	uint64_t now = now_ns();
	char line[200];

	if (!p->shown || (p->drawn_ns && now - p->drawn_ns < 100000000))
		return;
	p->drawn_ns = now;
	progress_line(p, done, (double)(now - p->start_ns) / 1e9, line, sizeof(line));
	fprintf(stderr, "\r%.79s\033[K", line);
}

void progress_end(struct progress *p)
{
	if (p->shown && p->drawn_ns)
		fprintf(stderr, "\r\033[K");
	p->shown = false;
}
