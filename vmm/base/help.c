/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/base/help.h"

#include <stdio.h>
#include <string.h>

#define COLUMNS 80

/* How much of `text` stands on one line of that many columns. */
static size_t line_of(const char *text, size_t columns)
{
	size_t end = 0;

	for (size_t at = strcspn(text, " ");; at += 1 + strcspn(text + at + 1, " ")) {
		if (at > columns && end)
			return end;
		end = at;
		if (!text[at])
			return end;
	}
}

void help_print(int fd, const char *left, unsigned width, const char *text)
{
	for (;;) {
		size_t n = line_of(text, COLUMNS - 3 - width);

		dprintf(fd, "  %-*.63s %.*s\n", (int)width, left, (int)n, text);
		if (!text[n])
			return;
		text += n + 1;
		left = "";
	}
}
