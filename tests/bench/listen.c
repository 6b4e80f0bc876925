/* SPDX-License-Identifier: Apache-2.0 */
/*
 * listen PATH: the least that a static C program can do to accept connections, for comparison.
 */
#include "tests/bench/bench.h"

int main(int argc, char *argv[])
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (argc != 2 || fd < 0 || strlen(argv[1]) >= sizeof(addr.sun_path))
		return 2;
	strcpy(addr.sun_path, argv[1]);
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 16) < 0)
		err(1, "listen on %s", addr.sun_path);
	for (;;)
		pause();
}
