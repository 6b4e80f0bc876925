/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "tests/lib/scratch.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/boot_images.h"

void scratch_init(struct scratch *s)
{
	*s = (struct scratch){.dir = "/tmp/spore-test-XXXXXX"};
	if (!mkdtemp(s->dir))
		abort();
}

void scratch_finish(struct scratch *s)
{
	DIR *d = opendir(s->dir);
	struct dirent *entry;

	while (d && (entry = readdir(d)))
		unlinkat(dirfd(d), entry->d_name, 0);
	if (d)
		closedir(d);
	rmdir(s->dir);
	for (size_t i = 0; i < ARRAY_SIZE(s->path); i++)
		free(s->path[i]);
}

const char *scratch_path(struct scratch *s, const char *name)
{
	char **path = &s->path[s->next++ % ARRAY_SIZE(s->path)];

	free(*path);
	if (asprintf(path, "%s/%s", s->dir, name) < 0)
		abort();
	return *path;
}

const char *scratch_file(struct scratch *s, const char *name, const void *data, size_t len)
{
	const char *path = scratch_path(s, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, data, len) != (ssize_t)len)
		abort();
	close(fd);
	return path;
}

const char *scratch_fifo(struct scratch *s, const char *name)
{
	const char *path = scratch_path(s, name);

	if (mkfifo(path, 0600) < 0)
		abort();
	return path;
}

const char *scratch_kernel(struct scratch *s, const char *name)
{
	static struct image img;

	make_elf(&img);
	return scratch_file(s, name, img.byte, img.len);
}
