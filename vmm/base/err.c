/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* snprintf's result as what was really stored: a message that is too long is cut. */
static size_t stored(int n, size_t room)
{
	if (n < 0)
		return 0;
	return MIN((size_t)n, room - 1);
}

/* Puts ": <text>" behind the first `at` bytes of the message, cut where the room ends. */
static void append(struct err *e, size_t at, const char *text)
{
	const char *part[] = {": ", text};

	for (size_t i = 0; i < ARRAY_SIZE(part); i++) {
		size_t len = MIN(strlen(part[i]), sizeof(e->msg) - 1 - at);

		memcpy(e->msg + at, part[i], len);
		at += len;
	}
	e->msg[at] = '\0';
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
	va_list ap;

	if (!e)
		return -code;
	e->code = code;
	va_start(ap, fmt);
	vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
	va_end(ap);
	return -code;
}

int err_sys(struct err *e, const char *fmt, ...)
{
	int code = errno ? errno : EIO; /* a failure is never reported as success */
	va_list ap;
	size_t n;

	if (!e)
		return -code;
	e->code = code;
	va_start(ap, fmt);
	n = stored(vsnprintf(e->msg, sizeof(e->msg), fmt, ap), sizeof(e->msg));
	va_end(ap);
	append(e, n, strerror(code));
	return -code;
}

int err_wrap(struct err *e, const char *fmt, ...)
{
	char tail[sizeof(e->msg)];
	va_list ap;
	size_t n;

	if (!e)
		return -EIO;
	memcpy(tail, e->msg, sizeof(tail));
	va_start(ap, fmt);
	n = stored(vsnprintf(e->msg, sizeof(e->msg), fmt, ap), sizeof(e->msg));
	va_end(ap);
	append(e, n, tail);
	if (!e->code) /* nobody filled it: still a failure */
		e->code = EIO;
	return -e->code;
}

/* Length of the valid UTF-8 sequence at `s`, or 0. */
static size_t utf8_length(const unsigned char *s)
{
	size_t len = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;

	if (s[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < len; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	/* Overlong forms, surrogates and what lies beyond U+10FFFF. */
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return len;
}

void err_clean_text(char *s)
{
	while (*s) {
		size_t len = utf8_length((unsigned char *)s);

		if (len == 0 || (unsigned char)*s < ' ' || *s == 0x7f) {
			*s = '?';
			len = 1;
		}
		s += len;
	}
}
