/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernels for guests, in the cache: kernels/VERSION/{vmlinux,initrd} of a package of Debian, minimal-DIGEST/vmlinux
 * built from Debian's source with the lines of a configuration (the tests build theirs at the same place).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/cache.h"
#include "ctl/image.h"
#include "ctl/kernel.h"
#include "ctl/verbs.h"
#include "vmm/base/fd.h"

#define PACKAGE "linux-image-cloud-amd64"
#define SOURCE	"linux-source-6.1"

struct args {
	const char *config, *package;
	bool is_default;
};

struct kernel {
	char path[PATH_MAX], initrd[PATH_MAX]; /* initrd "": it needs none */
	char version[128];
	bool cached;
};

static const struct ctl_option options[] = {
	{"package", 'p', CTL_TEXT, offsetof(struct args, package), "NAME",
	 "of Debian [" PACKAGE ", or " SOURCE " to build]"},
	{"config", 0, CTL_TEXT, offsetof(struct args, config), "FILE",
	 "lines of configuration to build with [the one that the tests use]"},
	{"default", 0, CTL_FLAG, offsetof(struct args, is_default), NULL,
	 "take it when 'run' is not told a kernel"},
	{0},
};

static const struct ctl_usage usage = {
	.arguments = "get | build",
	.options = options,
	.min = 1,
	.max = 1,
	.examples = "# Debian's own kernel, and a RAM disk of the modules that it needs\n"
		    "sporectl kernel get --default\n"
		    "sporectl kernel get --package linux-image-6.1.0-56-cloud-amd64\n"
		    "# a small one without modules, quick to boot; compiling takes minutes\n"
		    "sporectl kernel build --default\n"
		    "sporectl run --rm -- uname -a\n",
};

static int download(struct ctl *c, const char *work, const char *package, char deb[PATH_MAX],
		    struct err *e)
{
	struct tool t = {.package = "apt", .title = package, .dir = work};
	const char *argv[] = {"apt-get",  "-qq",   "-o", "APT::Sandbox::User=root",
			      "download", package, NULL};
	char pattern[PATH_MAX];
	glob_t found = {0};
	int r = tool_run(c, &t, argv, e);

	if (r < 0) {
		ctl_hint(c, "sudo apt-get update; apt-cache policy %s", package);
		return r;
	}
	cache_print(pattern, "%s/%.200s_*.deb", work, package);
	if (glob(pattern, 0, NULL, &found) == 0)
		snprintf(deb, PATH_MAX, "%s", found.gl_pathv[0]);
	else
		r = err_set(e, ENOENT, "apt-get has downloaded no '%s'", package);
	globfree(&found);
	return r;
}

/* A metapackage names the kernel of today. */
static int resolve(struct ctl *c, const char *package, const char *deb, char name[128],
		   struct err *e)
{
	char depends[4096], *at;
	struct tool t = {.package = "dpkg", .output = depends, .size = sizeof(depends)};
	const char *argv[] = {"dpkg-deb", "--field", deb, "Depends", NULL};
	int r;

	snprintf(name, 128, "%s", package);
	if (strlen(package) > 12 && strchr("0123456789", package[12]))
		return 0;
	r = tool_run(c, &t, argv, e);
	at = r == 0 ? strstr(depends, "linux-image-") : NULL;
	if (r == 0 && !at)
		return err_set(e, EINVAL, "the package '%s' is no kernel", package);
	if (at)
		snprintf(name, 128, "%.*s", (int)strcspn(at, " ,\n("), at);
	return r;
}

static int unpack(struct ctl *c, const char *work, const char *deb, const char *version,
		  const char *dir, struct err *e)
{
	char root[PATH_MAX], image[PATH_MAX], lib[PATH_MAX], made[PATH_MAX], vmlinux[PATH_MAX],
		initrd[PATH_MAX];
	struct tool t = {.package = "dpkg", .title = "unpacking the package"};
	int r;

	cache_print(root, "%s/root", work);
	cache_print(made, "%s/made", work);
	cache_print(lib, "%s/lib", root);
	cache_print(image, "%s/boot/vmlinuz-%s", root, version);
	cache_print(vmlinux, "%s/vmlinux", made);
	cache_print(initrd, "%s/initrd", made);
	if (mkdir(made, 0755) < 0)
		return err_sys(e, "mkdir '%s'", made);
	r = tool_run(c, &t, (const char *[]){"dpkg-deb", "-x", deb, root, NULL}, e);
	/* Modules are in /usr/lib since Debian 13; depmod looks in /lib. */
	if (r == 0 && access(lib, F_OK) < 0 && symlink("usr/lib", lib) < 0)
		r = err_sys(e, "link '%s'", lib);
	if (r == 0)
		r = kernel_unpack(c, image, vmlinux, e);
	if (r == 0)
		r = kernel_initrd(c, root, version, work, initrd, e);
	if (r == 0 && rename(made, dir) < 0 && errno != EEXIST && errno != ENOTEMPTY)
		r = err_sys(e, "'%s'", dir);
	return r;
}

static int get_in(struct ctl *c, const struct args *a, const char *kernels, const char *work,
		  struct kernel *k, struct err *e)
{
	const char *package = a->package ? a->package : PACKAGE;
	char deb[PATH_MAX], name[128], dir[PATH_MAX];
	int r = download(c, work, package, deb, e);

	if (r == 0)
		r = resolve(c, package, deb, name, e);
	if (r < 0)
		return r;
	snprintf(k->version, sizeof(k->version), "%s", name + strlen("linux-image-"));
	if (snprintf(dir, sizeof(dir), "%s/%s", kernels, k->version) > PATH_MAX - 16)
		return err_set(e, ENAMETOOLONG, "the path of the cache is too long");
	k->cached = access(dir, F_OK) == 0;
	if (!k->cached && strcmp(name, package) != 0)
		r = download(c, work, name, deb, e);
	if (!k->cached && r == 0)
		r = unpack(c, work, deb, k->version, dir, e);
	cache_print(k->path, "%s/vmlinux", dir);
	cache_print(k->initrd, "%s/initrd", dir);
	return r;
}

/* --- build --- */

/* Beside sporectl in the source tree, or where `make install` puts it. */
static int find_own(const char *in_tree, const char *installed, char path[PATH_MAX], struct err *e)
{
	const char *const places[] = {in_tree, installed};
	char here[PATH_MAX / 2];
	ssize_t n = readlink("/proc/self/exe", here, sizeof(here) - 1);

	here[n > 0 ? n : 0] = '\0';
	if (strrchr(here, '/'))
		*strrchr(here, '/') = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		cache_print(path, "%s/../%s", here, places[i]);
		if (access(path, R_OK) == 0)
			return 0;
	}
	return err_set(e, ENOENT, "'%s' is not beside sporectl", in_tree);
}

/* Its name without downloading it: "'URL' NAME SIZE HASH". */
static int source_name(struct ctl *c, const char *package, char name[256], struct err *e)
{
	char line[1024], *at;
	struct tool t = {.package = "apt", .output = line, .size = sizeof(line)};
	const char *argv[] = {"apt-get", "download", "--print-uris", package, NULL};
	int r = tool_run(c, &t, argv, e);

	at = r == 0 ? strstr(line, "' ") : NULL;
	if (!at) {
		ctl_hint(c, "sudo apt-get update; apt-cache policy %s", package);
		return r < 0 ? r : err_set(e, ENOENT, "apt knows no '%s'", package);
	}
	snprintf(name, 256, "%.*s", (int)strcspn(at + 2, " \n"), at + 2);
	return 0;
}

/* As tests/guest/kernels does: comments do not count. */
static int build_key(struct ctl *c, const char *config, const char *source, char key[65],
		     struct err *e)
{
	static const char script[] = "{ grep -v '^#  *[^C]' \"$0\"; echo \"$1\"; } | sha256sum";
	char out[128];
	struct tool t = {.output = out, .size = sizeof(out)};
	int r = tool_run(c, &t, (const char *[]){"sh", "-c", script, config, source, NULL}, e);

	snprintf(key, 65, "%.64s", r == 0 ? out : "");
	return r;
}

static int build_in(struct ctl *c, const struct args *a, const char *work, struct kernel *k,
		    struct err *e)
{
	const char *package = a->package ? a->package : SOURCE, *config = a->config;
	char own[PATH_MAX], script[PATH_MAX], name[256], key[65], dir[PATH_MAX], deb[PATH_MAX];
	struct tool t = {.title = "compiling, 1200 objects in all"};
	int r = find_own("tools/build-kernel", "lib/spore/build-kernel", script, e);

	if (r == 0 && !config) {
		r = find_own("tests/guest/minimal.config", "lib/spore/minimal.config", own, e);
		config = own;
	}
	if (r == 0)
		r = source_name(c, package, name, e);
	if (r == 0)
		r = build_key(c, config, name, key, e);
	if (r < 0)
		return r;
	snprintf(k->version, sizeof(k->version), "minimal-%.16s", key);
	r = ctl_cache_path(k->version, dir, sizeof(dir) - 16, e);
	if (r < 0)
		return r;
	cache_print(k->path, "%s/vmlinux", dir);
	k->cached = access(k->path, R_OK) == 0;
	if (k->cached)
		return 0;
	r = download(c, work, package, deb, e);
	if (r == 0) {
		r = tool_run(c, &t, (const char *[]){script, deb, config, dir, NULL}, e);
		if (r == -ECHILD)
			ctl_hint(c, "tail %.200s.log", dir);
	}
	return r;
}

/* --- */

static int make(struct ctl *c, const struct args *a, bool build, struct kernel *k, struct err *e)
{
	char kernels[PATH_MAX], work[PATH_MAX / 2];
	int r = cache_directory("kernels", kernels, e);

	if (r == 0)
		r = cache_work(kernels, work, sizeof(work), e);
	if (r < 0)
		return r;
	r = build ? build_in(c, a, work, k, e) : get_in(c, a, kernels, work, k, e);
	cache_drop(c, work);
	if (r == 0 && a->is_default)
		r = cache_link("default/kernel", k->path, e);
	if (r == 0 && a->is_default)
		r = cache_link("default/initrd", k->initrd[0] ? k->initrd : NULL, e);
	return r;
}

int verb_kernel(struct ctl *c, int argc, char **argv)
{
	struct args args = {0};
	struct kernel k = {0};
	struct err e;
	bool build;

	if (!ctl_parse(c, &usage, &argc, &argv, &args))
		return c->exit_code;
	build = strcmp(argv[0], "build") == 0;
	if (!build && strcmp(argv[0], "get") != 0) {
		ctl_hint(c, "sporectl kernel get; or: sporectl kernel build");
		err_set(&e, EINVAL, "'kernel %.64s': get and build are possible", argv[0]);
		ctl_fail(c, &e);
		return CTL_USAGE;
	}
	if (make(c, &args, build, &k, &e) < 0)
		return ctl_fail(c, &e);
	if (c->json)
		return ctl_print_json(c,
				      json_pack("{s:s, s:s, s:s*, s:b}", "version", k.version,
						"kernel", k.path, "initrd",
						k.initrd[0] ? k.initrd : NULL, "cached", k.cached));
	ctl_note(c, "%s%s; to start it: sporectl run%s%s%s%s -r IMAGE", k.version,
		 k.cached ? " is in the cache" : "", args.is_default ? "" : " -k ",
		 args.is_default ? "" : k.path, args.is_default || !k.initrd[0] ? "" : " -i ",
		 args.is_default ? "" : k.initrd);
	puts(k.path);
	if (k.initrd[0])
		puts(k.initrd);
	return 0;
}
