/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/ctl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ctl/hint.h"

int ctl_hint(struct ctl *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(c->hint, sizeof(c->hint), fmt, ap);
	va_end(ap);
	return -1;
}

int ctl_fail(struct ctl *c, const struct err *e)
{
	const char *known = c->hint[0] ? c->hint : hint_for(e->msg);
	char text[sizeof(e->msg)], usage[64];

	strcpy(text, e->msg);
	err_clean_text(text);
	snprintf(usage, sizeof(usage), "sporectl %.40s --help", c->verb ? c->verb : "");
	if (!known)
		known = usage;
	if (c->json) {
		json_t *o = json_pack("{s:s, s:s}", "error", text, "try", known);

		json_dumpf(o, stderr, JSON_COMPACT);
		fputc('\n', stderr);
		json_decref(o);
	} else {
		fprintf(stderr, "sporectl: %s\n     try: %s\n", text, known);
	}
	return CTL_FAILED;
}

void ctl_note(const struct ctl *c, const char *fmt, ...)
{
	va_list ap;

	if (c->json)
		return;
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

int ctl_print_json(struct ctl *c, json_t *value)
{
	struct err e;
	int r = value ? json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY) : -1;

	json_decref(value);
	if (r == 0 && putchar('\n') != EOF && fflush(stdout) == 0)
		return 0;
	err_set(&e, EIO, "standard output: %s", strerror(errno ? errno : ENOMEM));
	ctl_hint(c, "df -h");
	return ctl_fail(c, &e);
}

int ctl_cache_path(const char *file, char *buf, size_t size, struct err *e)
{
	const char *cache = getenv("SPORE_CACHE"), *xdg = getenv("XDG_CACHE_HOME"),
		   *home = getenv("HOME");
	int n = cache && *cache ? snprintf(buf, size, "%s/%s", cache, file)
		: xdg && *xdg	? snprintf(buf, size, "%s/spore/%s", xdg, file)
				: snprintf(buf, size, "%s/.cache/spore/%s", home ? home : "", file);

	if (n < 0 || (size_t)n >= size)
		return err_set(e, ENAMETOOLONG, "the path of the cache is too long");
	return 0;
}
