/* SPDX-License-Identifier: Apache-2.0 */
#include "snapshot/pageset.h"

#include <string.h>

static uint64_t words(uint64_t pages)
{
	return align_up(pages, PAGESET_CHUNK) / 64;
}

int pageset_init(struct pageset *s, uint64_t pages, struct err *e)
{
	s->pages = pages;
	s->bit = calloc(words(pages), sizeof(*s->bit));
	return s->bit ? 0 : err_set(e, ENOMEM, "out of memory for a bitmap of pages");
}

void pageset_finish(struct pageset *s)
{
	free(s->bit);
	*s = (struct pageset){0};
}

void pageset_clear(struct pageset *s)
{
	memset(s->bit, 0, words(s->pages) * sizeof(*s->bit));
}

void pageset_add_range(struct pageset *s, uint64_t first, uint64_t count)
{
	uint64_t end;

	if (first >= s->pages)
		return;
	end = first + MIN(count, s->pages - first);
	while (first < end) {
		uint64_t n = MIN(end - first, 64 - first % 64);
		uint64_t mask = n == 64 ? ~0ull : ((1ull << n) - 1) << (first % 64);

		s->bit[first / 64] |= mask;
		first += n;
	}
}

void pageset_add_all(struct pageset *s, const struct pageset *other)
{
	for (uint64_t i = 0; i < words(s->pages); i++)
		s->bit[i] |= other->bit[i];
}

uint64_t pageset_count(const struct pageset *s)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < words(s->pages); i++)
		n += (uint64_t)__builtin_popcountll(s->bit[i]);
	return n;
}

uint64_t pageset_run(const struct pageset *s, uint64_t *at, uint64_t end)
{
	uint64_t page = *at, last;

	while (page < end) {
		uint64_t word = s->bit[page / 64] >> (page % 64);

		if (word) {
			page += (uint64_t)__builtin_ctzll(word);
			break;
		}
		page = (page | 63) + 1;
	}
	if (page >= end)
		return 0;
	for (last = page; last < end;) {
		uint64_t word = ~s->bit[last / 64] >> (last % 64);

		if (word) {
			last += (uint64_t)__builtin_ctzll(word);
			break;
		}
		last = (last | 63) + 1;
	}
	*at = page;
	return MIN(last, end) - page;
}
