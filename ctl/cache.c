/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/cache.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/tool.h"

int cache_directory(const char *name, char path[PATH_MAX], struct err *e)
{
	int r = ctl_cache_path(name, path, PATH_MAX, e);

	if (r < 0)
		return r;
	for (char *p = path + 1; (p = strchr(p, '/')); p++) {
		*p = '\0';
		mkdir(path, 0755);
		*p = '/';
	}
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		return err_sys(e, "mkdir '%s'", path);
	return 0;
}

void cache_print(char path[PATH_MAX], const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(path, PATH_MAX, fmt, ap);
	va_end(ap);
}

int cache_work(const char *dir, char *path, size_t size, struct err *e)
{
	if (snprintf(path, size, "%s/work-XXXXXX", dir) >= (int)size)
		return err_set(e, ENAMETOOLONG, "the path of the cache is too long");
	return mkdtemp(path) ? 0 : err_sys(e, "mkdir '%s'", path);
}

void cache_drop(struct ctl *c, const char *path)
{
	const struct tool t = {0};
	const char *argv[] = {"rm", "-rf", "--one-file-system", "--", path, NULL};
	char hint[sizeof(c->hint)];
	struct err e;

	memcpy(hint, c->hint, sizeof(hint));
	if (tool_run(c, &t, argv, &e) < 0)
		ctl_note(c, "sporectl: '%s' is left behind: %s", path, e.msg);
	memcpy(c->hint, hint, sizeof(hint));
}

int cache_link(const char *name, const char *target, struct err *e)
{
	char path[PATH_MAX], fresh[PATH_MAX], *slash;
	int r = ctl_cache_path(name, path, sizeof(path) - 8, e);

	if (r < 0)
		return r;
	slash = strrchr(path, '/');
	*slash = '\0';
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		return err_sys(e, "mkdir '%s'", path);
	*slash = '/';
	snprintf(fresh, sizeof(fresh), "%.*s.new", (int)sizeof(fresh) - 8, path);
	if (!target)
		return unlink(path) == 0 || errno == ENOENT ? 0 : err_sys(e, "remove '%s'", path);
	unlink(fresh);
	if (symlink(target, fresh) < 0 || rename(fresh, path) < 0)
		return err_sys(e, "link '%s'", path);
	return 0;
}
