/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/base/hint.h"

#include <stdbool.h>
#include <string.h>

#include "vmm/base/util.h"

const char *hint_find(const struct hint *table, size_t count, const char *text,
		      const char *otherwise)
{
	for (size_t i = 0; i < count; i++) {
		bool fits = true;

		for (size_t n = 0; n < ARRAY_SIZE(table[i].words) && table[i].words[n]; n++)
			fits = fits && strstr(text, table[i].words[n]);
		if (fits)
			return table[i].hint;
	}
	return otherwise;
}
