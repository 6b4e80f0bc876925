/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/scratch.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/boot_images.h"

void scratch_init(struct scratch *s)
{
	*s = (struct scratch){.dir = "/tmp/spore-test-XXXXXX"};
	cr_assert_not_null(mkdtemp(s->dir));
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
}

const char *scratch_path(struct scratch *s, const char *name)
{
	char *path = s->path[s->next++ % ARRAY_SIZE(s->path)];

	snprintf(path, sizeof(s->path[0]), "%s/%s", s->dir, name);
	return path;
}

const char *scratch_file(struct scratch *s, const char *name, const void *data, size_t len)
{
	const char *path = scratch_path(s, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	cr_assert(fd >= 0);
	cr_assert_eq(write(fd, data, len), (ssize_t)len);
	close(fd);
	return path;
}

const char *scratch_fifo(struct scratch *s, const char *name)
{
	const char *path = scratch_path(s, name);

	cr_assert_eq(mkfifo(path, 0600), 0);
	return path;
}
