/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A function that is warm: memory of its own, of which each request needs much; for tests/bench/workset.
 * Linked statically, for an image that has no libraries.
 *
 *	heap READ WRITE    has READ + WRITE MiB of data and says "prepared"; for each line from standard input
 *			   reads a word of each page of the first, writes one to each of the others, says "answer"
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB  (1u << 20)
#define PAGE 4096u

int main(int argc, char *argv[])
{
	size_t read_len = argc == 3 ? strtoul(argv[1], NULL, 10) * MIB : 0;
	size_t len = argc == 3 ? read_len + strtoul(argv[2], NULL, 10) * MIB : 0;
	uint8_t *heap = aligned_alloc(PAGE, len);
	char line[16];

	if (len == 0 || !heap)
		return 2;
	/* No two pages are alike, and none is zero. */
	for (size_t at = 0; at < len; at += sizeof(uint64_t))
		memcpy(heap + at, &(uint64_t){at * 0x9e3779b97f4a7c15u + 1}, sizeof(uint64_t));
	printf("prepared\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		uint64_t wrong = 0;

		for (size_t at = 0; at < read_len; at += PAGE) {
			uint64_t word;

			memcpy(&word, heap + at, sizeof(word));
			wrong += word != at * 0x9e3779b97f4a7c15u + 1;
		}
		for (size_t at = read_len; at < len; at += PAGE)
			heap[at]++;
		printf(wrong ? "WRONG\n" : "answer\n");
		fflush(stdout);
	}
	return 0;
}
