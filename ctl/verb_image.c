/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images of root file systems in the cache: images/KEY.TYPE, where KEY is a digest of the source's content and of all
 * that was asked for, with what they are beside them in images/KEY.json. They appear whole (rename) and are not
 * written again: `run` puts an overlay on them.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/cache.h"
#include "ctl/image.h"
#include "ctl/table.h"
#include "ctl/verbs.h"
#include "vmm/base/fd.h"

/* Changes when the same source would become another image. */
#define RECIPE "spore-image-2"
#define ROOM   MIB(64) /* free, unless --size says otherwise */

struct args {
	const char *output, *type, *tag, *variant, *include, *mirror;
	uint64_t size, limit;
	bool no_agent, is_default, rebuild;
};

#define AT(member) offsetof(struct args, member)
static const struct ctl_option options[] = {
	{"output", 'o', CTL_TEXT, AT(output), "FILE", "write a copy there that is yours to change"},
	{"default", 0, CTL_FLAG, AT(is_default), NULL,
	 "take it when 'run' is not told a root file system"},
	{"type", 0, CTL_TEXT, AT(type), "TYPE", "ext4, squashfs or erofs [ext4]"},
	{"size", 's', CTL_SIZE, AT(size), "SIZE", "of an ext4 [what is in it, a quarter and 64M]"},
	{"limit", 0, CTL_SIZE, AT(limit), "SIZE",
	 "what the source may take unpacked [half of the free disk]"},
	{"include", 0, CTL_TEXT, AT(include), "PACKAGE,...", "more packages of a suite"},
	{"variant", 0, CTL_TEXT, AT(variant), "NAME",
	 "of a suite: extract, essential, minbase... as in mmdebstrap [minbase]"},
	{"mirror", 0, CTL_TEXT, AT(mirror), "URL", "where a suite is taken from"},
	{"tag", 0, CTL_TEXT, AT(tag), "NAME", "of a container image, if there are several"},
	{"no-agent", 0, CTL_FLAG, AT(no_agent), NULL, "without spore-agent: no exec, no cp"},
	{"rebuild", 0, CTL_FLAG, AT(rebuild), NULL, "even if the cache has it"},
	{0},
};

static const struct ctl_usage usage = {
	.arguments = "build SOURCE | ls | rm KEY...",
	.options = options,
	.min = 1,
	.max = CTL_MANY,
	.examples = "# a directory, a tar, containers (OCI layout or archive, docker save)\n"
		    "sporectl image build ./rootfs\n"
		    "sporectl image build rootfs.tar.xz -o root.ext4 --size 2G\n"
		    "sporectl image build app.oci.tar --type squashfs\n"
		    "# Debian, ready for: sporectl run\n"
		    "sporectl image build debian:bookworm --include make --default\n"
		    "sporectl image ls\n"
		    "sporectl image rm 5f2c1b7d9a604e38\n",
};

/* --- the file system --- */

static uint64_t ext4_size(const struct image *im, const struct args *a)
{
	uint64_t inodes = im->files * 256;

	return a->size ? a->size : align_up(im->bytes + inodes + im->bytes / 4 + ROOM, MIB(4));
}

/* Identifiers out of the key: the same image is the same bytes. */
static int make_ext4(const struct image *im, const struct args *a, const char *key, char *tree,
		     char *file, struct err *e)
{
	char size[32], inodes[32], uuid[40], extended[160];
	struct tool t = {.package = "e2fsprogs",
			 .title = "writing ext4",
			 .total = im->bytes,
			 .done = tool_blocks,
			 .arg = file,
			 .fakeroot = im->fakeroot};
	const char *argv[] = {"mke2fs", "-q",	  "-t", "ext4", "-b", "4096", "-L",
			      "root",	"-m",	  "0",	"-U",	uuid, "-N",   inodes,
			      "-E",	extended, "-d", tree,	file, size,   NULL};

	snprintf(size, sizeof(size), "%luK", (unsigned long)(ext4_size(im, a) / 1024));
	snprintf(inodes, sizeof(inodes), "%lu", (unsigned long)(im->files + im->files / 4 + 4096));
	snprintf(uuid, sizeof(uuid), "%.8s-%.4s-4%.3s-8%.3s-%.12s", key, key + 8, key + 1, key + 5,
		 key + 3);
	snprintf(extended, sizeof(extended),
		 "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,hash_seed=%s", uuid);
	setenv("E2FSPROGS_FAKE_TIME", "1", 1);
	if (tool_run(im->c, &t, argv, e) == 0)
		return 0;
	if (strstr(e->msg, "ould not allocate") || strstr(e->msg, "too small"))
		ctl_hint(im->c, "--size with more than %luM",
			 (unsigned long)(ext4_size(im, a) >> 20));
	return -e->code;
}

static int make_other(const struct image *im, const char *type, char *tree, char *file,
		      struct err *e)
{
	bool squashfs = strcmp(type, "squashfs") == 0;
	struct tool t = {.package = squashfs ? "squashfs-tools" : "erofs-utils",
			 .title = squashfs ? "writing squashfs" : "writing erofs",
			 .total = im->bytes,
			 .done = tool_blocks,
			 .arg = file,
			 .fakeroot = im->fakeroot};
	const char *squash_argv[] = {
		"mksquashfs",	tree,	     file, "-comp",	 "zstd", "-noappend",
		"-no-progress", "-all-time", "0",  "-mkfs-time", "0",	 NULL};
	const char *erofs_argv[] = {"mkfs.erofs", "-T1", "-zlz4hc", file, tree, NULL};

	if (im->length > im->limit) {
		ctl_hint(im->c, "--type ext4");
		return err_set(e, EFBIG, "the holes in '%s' would be read: %lu MiB", im->source,
			       (unsigned long)(im->length >> 20));
	}
	return tool_run(im->c, &t, squashfs ? squash_argv : erofs_argv, e);
}

static int check_args(struct ctl *c, struct args *a, struct err *e)
{
	if (!a->type)
		a->type = "ext4";
	if (strcmp(a->type, "ext4") != 0 && a->size) {
		ctl_hint(c, "the same without --size");
		return err_set(e, EINVAL, "--size: only an ext4 has one; others cannot be written");
	}
	if (strcmp(a->type, "ext4") == 0 || strcmp(a->type, "squashfs") == 0 ||
	    strcmp(a->type, "erofs") == 0)
		return 0;
	ctl_hint(c, "--type ext4");
	return err_set(e, EINVAL, "--type: '%s' is not ext4, squashfs or erofs", a->type);
}

/* --- the cache --- */

static const char *or_empty(const char *s)
{
	return s ? s : "";
}

/* The first 64 bits are enough of a name; e2fsprogs takes more of it for a UUID. */
static int make_key(const struct image *im, const struct args *a, const char *agent, char key[65],
		    struct err *e)
{
	char agent_digest[65] = "none";
	cleanup_fd int fd = memfd_create("key", MFD_CLOEXEC), in = -1;
	int r = 0;

	if (agent) {
		in = open(agent, O_RDONLY | O_CLOEXEC);
		r = in < 0 ? err_sys(e, "open '%s'", agent)
			   : image_sha256(im->c, in, 0, agent_digest, e);
	}
	if (r < 0)
		return r;
	if (fd < 0 ||
	    dprintf(fd, "%s\n%d\n%s\n%s\n%s\n%lu\n%s\n%s\n%s\n%d\n", RECIPE, (int)im->kind,
		    im->digest, agent_digest, a->type, (unsigned long)a->size, or_empty(a->include),
		    or_empty(a->variant), or_empty(a->tag), im->fakeroot != NULL) < 0 ||
	    lseek(fd, 0, SEEK_SET) < 0)
		return err_sys(e, "make a key");
	return image_sha256(im->c, fd, 0, key, e);
}

static int describe(const struct image *im, const struct args *a, const char *key, const char *file,
		    bool cached, json_t **out, struct err *e)
{
	char path[PATH_MAX];
	struct stat st;

	if (stat(file, &st) < 0)
		return err_sys(e, "'%s'", file);
	*out = json_pack("{s:o, s:s, s:s, s:s, s:I, s:b, s:I}", "key", json_stringn(key, 16),
			 "source", im->source, "type", a->type, "path", file, "size",
			 (json_int_t)st.st_size, "agent", !a->no_agent, "made",
			 (json_int_t)st.st_mtime);
	snprintf(path, sizeof(path), "%.*s.json", (int)(strlen(file) - strlen(a->type) - 1), file);
	if (!cached && json_dump_file(*out, path, JSON_INDENT(2)) < 0)
		return err_sys(e, "write '%s'", path);
	json_object_set_new(*out, "cached", json_boolean(cached));
	return 0;
}

/* --- build --- */

static int make(struct image *im, const struct args *a, const char *agent, const char *key,
		const char *file, struct err *e)
{
	char tree[PATH_MAX], made[PATH_MAX];
	int r = image_unpack(im, e);

	snprintf(tree, sizeof(tree), "%s/tree", im->work);
	snprintf(made, sizeof(made), "%s/image", im->work);
	if (r == 0)
		r = image_dress(im, agent, e);
	if (r == 0)
		r = strcmp(a->type, "ext4") == 0 ? make_ext4(im, a, key, tree, made, e)
						 : make_other(im, a->type, tree, made, e);
	if (r == 0 && (chmod(made, 0444) < 0 || rename(made, file) < 0))
		r = err_sys(e, "'%s'", file);
	return r;
}

static int hand_out(struct ctl *c, const struct args *a, const char *file, struct err *e)
{
	struct tool t = {.title = "copying"};
	const char *argv[] = {
		"cp", "--sparse=always", "--reflink=auto", "--no-preserve=mode", file, a->output,
		NULL};
	int r = a->output ? tool_run(c, &t, argv, e) : 0;

	return r == 0 && a->is_default ? cache_link("default/rootfs", file, e) : r;
}

static int build_in(struct image *im, const struct args *a, const char *dir, json_t **out,
		    struct err *e)
{
	char agent_path[PATH_MAX], key[65], file[PATH_MAX];
	const char *agent = a->no_agent ? NULL : agent_path;
	bool cached = false;
	int r = agent ? image_find_agent(im->c, agent_path, e) : 0;

	if (r == 0)
		r = image_digest(im, e);
	if (r == 0)
		r = make_key(im, a, agent, key, e);
	if (r < 0)
		return r;
	if (snprintf(file, sizeof(file), "%s/%.16s.%s", dir, key, a->type) >= (int)sizeof(file))
		return err_set(e, ENAMETOOLONG, "the path of the cache is too long");
	cached = !a->rebuild && access(file, R_OK) == 0;
	if (!cached)
		r = make(im, a, agent, key, file, e);
	if (r == 0)
		r = describe(im, a, key, file, cached, out, e);
	return r == 0 ? hand_out(im->c, a, file, e) : r;
}

static int build(struct ctl *c, const struct args *a, const char *source, json_t **out,
		 struct err *e)
{
	struct image im = {.c = c,
			   .source = source,
			   .tag = a->tag,
			   .variant = a->variant,
			   .include = a->include,
			   .mirror = a->mirror,
			   .limit = a->limit};
	char dir[PATH_MAX], fakeroot[PATH_MAX];
	int r = cache_directory("images", dir, e);

	if (r == 0)
		r = image_open(&im, e);
	if (r == 0)
		r = cache_work(dir, im.work, sizeof(im.work), e);
	if (r < 0)
		return r;
	if (geteuid() != 0) {
		snprintf(fakeroot, sizeof(fakeroot), "%s/fakeroot", im.work);
		close(open(fakeroot, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
		im.fakeroot = fakeroot;
	}
	r = build_in(&im, a, dir, out, e);
	cache_drop(c, im.work);
	return r;
}

static int verb_build(struct ctl *c, const struct args *a, const char *source)
{
	uint64_t start = now_ns();
	const char *path;
	json_t *out = NULL;
	struct err e;

	if (build(c, a, source, &out, &e) < 0) {
		json_decref(out);
		return ctl_fail(c, &e);
	}
	if (c->json)
		return ctl_print_json(c, out);
	path = a->output ? a->output : json_string_value(json_object_get(out, "path"));
	ctl_note(c, "%s after %.1f s; to start it: sporectl run %s%s",
		 json_is_true(json_object_get(out, "cached")) ? "found in the cache" : "made",
		 (double)(now_ns() - start) / 1e9, a->is_default ? "" : "-k KERNEL -r ",
		 a->is_default ? "" : path);
	puts(path);
	json_decref(out);
	return 0;
}

/* --- ls and rm --- */

static int enter_cache(struct err *e)
{
	char dir[PATH_MAX];
	int r = cache_directory("images", dir, e);

	return r == 0 && chdir(dir) < 0 ? err_sys(e, "enter '%s'", dir) : r;
}

static int verb_ls(struct ctl *c)
{
	static const struct table_column columns[] = {{"key", "KEY", TABLE_TEXT},
						      {"source", "SOURCE", TABLE_TEXT},
						      {"type", "TYPE", TABLE_TEXT},
						      {"size", "SIZE", TABLE_BYTES},
						      {"age", "AGE", TABLE_SECONDS}};
	json_t *rows = json_array(), *row;
	struct dirent **names;
	struct err e;
	int n;

	if (enter_cache(&e) < 0)
		return ctl_fail(c, &e);
	n = scandir(".", &names, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		const char *dot = strrchr(names[i]->d_name, '.');

		row = dot && strcmp(dot, ".json") == 0 ? json_load_file(names[i]->d_name, 0, NULL)
						       : NULL;
		free(names[i]);
		if (!json_is_object(row)) {
			json_decref(row);
			continue;
		}
		json_object_set_new(row, "age",
				    json_integer(time(NULL) -
						 json_integer_value(json_object_get(row, "made"))));
		json_array_append_new(rows, row);
	}
	if (n >= 0)
		free(names);
	return table_show(c, columns, ARRAY_SIZE(columns), rows);
}

static int verb_remove(struct ctl *c, int argc, char **argv)
{
	static const char *const types[] = {"ext4", "squashfs", "erofs", "json"};
	char path[64];
	struct err e;

	if (enter_cache(&e) < 0)
		return ctl_fail(c, &e);
	for (int i = 0; i < argc; i++) {
		bool found = false;

		for (size_t t = 0; t < ARRAY_SIZE(types); t++) {
			snprintf(path, sizeof(path), "%.16s.%s", argv[i], types[t]);
			found = (!strchr(argv[i], '/') && unlink(path) == 0) || found;
		}
		if (found)
			continue;
		ctl_hint(c, "sporectl image ls");
		err_set(&e, ENOENT, "there is no image '%.64s'", argv[i]);
		return ctl_fail(c, &e);
	}
	return 0;
}

int verb_image(struct ctl *c, int argc, char **argv)
{
	struct args args = {0};
	struct err e;

	if (!ctl_parse(c, &usage, &argc, &argv, &args))
		return c->exit_code;
	if (check_args(c, &args, &e) < 0) {
		ctl_fail(c, &e);
		return CTL_USAGE;
	}
	if (strcmp(argv[0], "build") == 0 && argc == 2)
		return verb_build(c, &args, argv[1]);
	if (strcmp(argv[0], "ls") == 0 && argc == 1)
		return verb_ls(c);
	if (strcmp(argv[0], "rm") == 0 && argc > 1)
		return verb_remove(c, argc - 1, argv + 1);
	ctl_hint(c, "sporectl image build SOURCE; or: image ls, image rm KEY");
	err_set(&e, EINVAL, "'image %.64s' %s", argv[0],
		argc > 1 ? "takes other arguments" : "needs more");
	ctl_fail(c, &e);
	return CTL_USAGE;
}
