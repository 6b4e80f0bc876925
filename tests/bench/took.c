/* SPDX-License-Identifier: Apache-2.0 */
/*
 * took NAME ROUNDS COMMAND ARGS...
 *
 * Runs COMMAND again and again; `whole` is from its exec to its end, which has to be a status of 0.
 */
#include "tests/bench/bench.h"

int main(int argc, char **argv)
{
	unsigned rounds;

	if (argc < 4)
		errx(1, "usage: took NAME ROUNDS COMMAND ARGS...");
	rounds = (unsigned)atoi(argv[2]);
	for (unsigned n = 0; n < rounds; n++) {
		struct bench_child child = bench_spawn(argv + 3, -1);
		int status = bench_wait(child.pid);
		uint64_t took = bench_now() - child.exec_at;

		if (status != 0)
			errx(1, "%s: status %d", argv[3], status);
		bench_row(argv[1], n, "whole", took);
	}
	return 0;
}
