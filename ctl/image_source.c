/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "ctl/image.h"
#include "vmm/base/fd.h"

#define SUITE	 "debian:"
#define DEBIAN	 "http://deb.debian.org/debian"
#define SECURITY "http://deb.debian.org/debian-security"
#define VARIANT	 "minbase"

static uint64_t size_of(int fd)
{
	int64_t size = fd_size(fd);

	return size > 0 ? (uint64_t)size : 0;
}

/* --- what it is --- */

/* Options of tar for what the file is compressed with: from a pipe it does not look itself. */
static const char *compression(int fd)
{
	static const struct {
		const char *magic, *option;
		size_t len;
	} kinds[] = {
		{"\x1f\x8b", "-z", 2},
		{"BZh", "-j", 3},
		{"\xfd"
		 "7zXZ",
		 "-J", 5},
		{"\x28\xb5\x2f\xfd", "--zstd", 4},
	};
	char head[8] = {0};

	if (fd_pread_full(fd, head, sizeof(head), 0) < 0)
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (memcmp(head, kinds[i].magic, kinds[i].len) == 0)
			return kinds[i].option;
	return NULL;
}

/* An archive of `docker save` may be both. What is no archive at all, unpacking tells. */
static int open_archive(struct image *im, struct err *e)
{
	static const char script[] = "tar --force-local -tf \"$0\" 2>/dev/null | "
				     "grep -xE '(\\./)?(oci-layout|manifest\\.json)' | sort -u";
	char out[128];
	struct tool t = {.output = out, .size = sizeof(out)};
	const char *argv[] = {"sh", "-c", script, im->source, NULL};
	int r = tool_run(im->c, &t, argv, e);

	im->kind = strstr(out, "oci-layout")	  ? IMAGE_OCI_ARCHIVE
		   : strstr(out, "manifest.json") ? IMAGE_DOCKER_ARCHIVE
						  : IMAGE_TAR;
	return r;
}

int image_open(struct image *im, struct err *e)
{
	char path[PATH_MAX];
	struct stat st;

	if (strncmp(im->source, SUITE, strlen(SUITE)) == 0) {
		im->kind = IMAGE_SUITE;
		if (im->source[strlen(SUITE)] &&
		    !im->source[strspn(im->source, "abcdefghijklmnopqrstuvwxyz0123456789-:")])
			return 0;
		ctl_hint(im->c, "sporectl image build debian:bookworm");
		return err_set(e, EINVAL, "'%s' names no suite of Debian", im->source);
	}
	if (stat(im->source, &st) < 0) {
		ctl_hint(im->c, "ls -l %s; a suite of Debian is written debian:bookworm",
			 im->source);
		return err_sys(e, "'%s'", im->source);
	}
	snprintf(path, sizeof(path), "%s/oci-layout", im->source);
	if (S_ISREG(st.st_mode))
		return open_archive(im, e);
	if (!S_ISDIR(st.st_mode)) {
		ctl_hint(im->c, "file %s", im->source);
		return err_set(e, EINVAL, "'%s' is neither a directory nor a file", im->source);
	}
	im->kind = access(path, F_OK) == 0 ? IMAGE_OCI : IMAGE_DIRECTORY;
	return 0;
}

/* --- what is in it --- */

int image_sha256(struct ctl *c, int fd, uint64_t total, char hex[65], struct err *e)
{
	char out[128];
	struct tool t = {.title = "reading",
			 .in = fd,
			 .output = out,
			 .size = sizeof(out),
			 .total = total,
			 .done = tool_offset,
			 .arg = &fd};
	const char *argv[] = {"sha256sum", NULL};
	int r = tool_run(c, &t, argv, e);

	snprintf(hex, 65, "%.64s", r == 0 ? out : "");
	return r;
}

static int digest_file(struct image *im, const char *path, struct err *e)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(e, "open '%s'", path);
	return image_sha256(im->c, fd, size_of(fd), im->digest, e);
}

static int digest_directory(struct image *im, struct err *e)
{
	static const char script[] =
		"tar --sort=name --one-file-system --format=posix --numeric-owner "
		"--pax-option=delete=atime,delete=ctime -C \"$0\" -c . | sha256sum";
	char out[128];
	struct tool t = {.title = "reading", .output = out, .size = sizeof(out)};
	const char *argv[] = {"sh", "-c", script, im->source, NULL};
	int r = tool_run(im->c, &t, argv, e);

	snprintf(im->digest, sizeof(im->digest), "%.64s", r == 0 ? out : "");
	return r;
}

static int fetch(struct image *im, const char *url, const char *file, struct err *e)
{
	struct tool t = {.package = "apt", .title = "asking the mirror"};
	const char *argv[] = {"/usr/lib/apt/apt-helper",
			      "-o",
			      "APT::Sandbox::User=",
			      "download-file",
			      url,
			      file,
			      NULL};

	unlink(file);
	return tool_run(im->c, &t, argv, e);
}

/* A suite is what its signed lists of today say; the mirror's security updates belong to it. */
static int digest_suite(struct image *im, struct err *e)
{
	const char *suite = im->source + strlen(SUITE);
	char url[512], first[PATH_MAX], second[PATH_MAX];
	struct err none;
	int r;

	snprintf(first, sizeof(first), "%s/InRelease", im->work);
	snprintf(second, sizeof(second), "%s/InRelease.security", im->work);
	snprintf(url, sizeof(url), "%s/dists/%s/InRelease", im->mirror ? im->mirror : DEBIAN,
		 suite);
	r = fetch(im, url, first, e);
	if (r < 0) {
		ctl_hint(im->c, "curl -I %s; another mirror: --mirror URL", url);
		return r;
	}
	snprintf(url, sizeof(url), "%s/dists/%s-security/InRelease", SECURITY, suite);
	if (!im->mirror && fetch(im, url, second, &none) == 0) {
		struct tool t = {0};
		const char *argv[] = {"sh", "-c", "cat \"$1\" >>\"$0\"", first, second, NULL};

		tool_run(im->c, &t, argv, &none);
	}
	return digest_file(im, first, e);
}

int image_digest(struct image *im, struct err *e)
{
	char path[PATH_MAX];

	switch (im->kind) {
	case IMAGE_DIRECTORY:
		return digest_directory(im, e);
	case IMAGE_SUITE:
		return digest_suite(im, e);
	case IMAGE_OCI: /* names all else by its digest */
		snprintf(path, sizeof(path), "%s/index.json", im->source);
		return digest_file(im, path, e);
	case IMAGE_TAR:
	case IMAGE_OCI_ARCHIVE:
	case IMAGE_DOCKER_ARCHIVE:
		break;
	}
	return digest_file(im, im->source, e);
}

/* --- unpacking it --- */

static int unpack_tar(struct image *im, const char *file, struct err *e)
{
	char tree[PATH_MAX];
	cleanup_fd int fd = open(file, O_RDONLY | O_CLOEXEC);
	struct tool t = {.title = "unpacking",
			 .in = fd,
			 .total = size_of(fd),
			 .done = tool_offset,
			 .arg = &fd,
			 .fakeroot = im->fakeroot,
			 .allowed = image_allowed,
			 .allowed_arg = im};
	const char *how = fd >= 0 ? compression(fd) : NULL;
	const char *argv[] = {"tar", "-x", "-p", "--numeric-owner", "-f", "-", "-C",
			      tree,  how,  NULL};
	int r;

	if (fd < 0)
		return err_sys(e, "open '%s'", file);
	snprintf(tree, sizeof(tree), "%s/tree", im->work);
	if (mkdir(tree, 0755) < 0)
		return err_sys(e, "mkdir '%s'", tree);
	r = tool_run(im->c, &t, argv, e);
	if (r == -ECHILD && strstr(e->msg, "not look like a tar"))
		ctl_hint(im->c, "file %s; it takes a directory, a tar or a container image", file);
	else if (r == -ECHILD)
		ctl_hint(im->c, "tar -tvf %s; what leads outside is refused", file);
	return r;
}

static int copy_directory(struct image *im, struct err *e)
{
	char from[PATH_MAX], tree[PATH_MAX];
	struct tool t = {.title = "copying",
			 .fakeroot = im->fakeroot,
			 .allowed = image_allowed,
			 .allowed_arg = im};
	const char *argv[] = {"cp", "-a", "-x", "--reflink=auto", "--", from, tree, NULL};

	snprintf(from, sizeof(from), "%s/.", im->source);
	snprintf(tree, sizeof(tree), "%s/tree", im->work);
	return tool_run(im->c, &t, argv, e);
}

static int unpack_suite(struct image *im, struct err *e)
{
	const char *variant = im->variant ? im->variant : VARIANT;
	char tar[PATH_MAX], how[64], include[1024];
	struct tool t = {.package = "mmdebstrap", .title = im->source};
	const char *argv[] = {"mmdebstrap", how,	include, im->source + strlen(SUITE),
			      tar,	    im->mirror, NULL};
	int r;

	if (snprintf(include, sizeof(include), "--include=%s", im->include ? im->include : "") >=
	    (int)sizeof(include))
		return err_set(e, E2BIG, "--include: at most 1000 letters are possible");
	snprintf(how, sizeof(how), "--variant=%.40s", variant);
	snprintf(tar, sizeof(tar), "%s/root.tar", im->work);
	r = tool_run(im->c, &t, argv, e);
	if (r == 0)
		r = unpack_tar(im, tar, e);
	unlink(tar);
	return r;
}

/* The words of a container's command as a script for the agent. */
static void put_words(FILE *f, const json_t *words)
{
	const json_t *w;
	size_t i;

	json_array_foreach(words, i, w)
	{
		fputs(" '", f);
		for (const char *s = json_string_value(w); s && *s; s++)
			fputs(*s == '\'' ? "'\\''" : (char[]){*s, '\0'}, f);
		fputc('\'', f);
	}
}

/* Others do exist: Env of a container is no shell's. */
static bool is_variable(const char *s)
{
	size_t n = strcspn(s, "=");

	return s[n] && n && !strchr("0123456789", s[0]) &&
	       strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789") == n;
}

/* Beside the tree until image_dress() puts it in. */
static void write_command(const struct image *im, const json_t *image)
{
	const json_t *config = json_object_get(image, "config"), *w;
	const char *dir = json_string_value(json_object_get(config, "WorkingDir"));
	char path[PATH_MAX];
	size_t i;
	FILE *f;

	snprintf(path, sizeof(path), "%s/command", im->work);
	f = fopen(path, "we");
	if (!f)
		return;
	fputs("#!/bin/sh\n# What the container image says that is run.\n", f);
	json_array_foreach(json_object_get(config, "Env"), i, w)
	{
		json_t *one;

		if (!json_is_string(w) || !is_variable(json_string_value(w)))
			continue;
		one = json_pack("[O]", w);
		fputs("export", f);
		put_words(f, one);
		fputc('\n', f);
		json_decref(one);
	}
	if (dir && *dir) {
		json_t *one = json_pack("[s]", dir);

		fputs("cd", f);
		put_words(f, one);
		fputs(" || exit 126\n", f);
		json_decref(one);
	}
	fputs("set --", f);
	put_words(f, json_object_get(config, "Entrypoint"));
	put_words(f, json_object_get(config, "Cmd"));
	fputs(" \"$@\"\nexec \"${@:-/bin/sh}\"\n", f);
	fclose(f);
}

/* Into `work`, under names without a colon: skopeo and umoci take what follows one for a tag. */
static int copy_container(struct image *im, struct err *e)
{
	static const char *const transport[] = {[IMAGE_OCI] = "oci",
						[IMAGE_OCI_ARCHIVE] = "oci-archive",
						[IMAGE_DOCKER_ARCHIVE] = "docker-archive"};
	char from[PATH_MAX], here[PATH_MAX];
	struct tool t = {.package = "skopeo",
			 .title = "reading layers",
			 .dir = im->work,
			 .allowed = image_allowed,
			 .allowed_arg = im};
	/*
	 * Whose image it is, its user has decided; the policy is about registries. gzip is what every umoci
	 * knows.
	 */
	const char *argv[] = {"skopeo",
			      "--insecure-policy",
			      "--tmpdir=.",
			      "copy",
			      "-q",
			      "--dest-compress",
			      "--dest-compress-format=gzip",
			      from,
			      "oci:oci:image",
			      NULL};

	if (!realpath(im->source, from))
		return err_sys(e, "'%s'", im->source);
	snprintf(here, sizeof(here), "%s/source", im->work);
	if (symlink(from, here) < 0)
		return err_sys(e, "link '%s'", here);
	snprintf(from, sizeof(from), "%s:source%s%s", transport[im->kind], im->tag ? ":" : "",
		 im->tag ? im->tag : "");
	return tool_run(im->c, &t, argv, e);
}

/* What the image says of itself; `text` is for the tool. */
static int read_config(struct image *im, char *text, size_t size, json_t **config, struct err *e)
{
	struct tool t = {.package = "skopeo", .dir = im->work, .output = text, .size = size};
	const char *argv[] = {"skopeo", "inspect", "--config", "oci:oci:image", NULL};
	int r = tool_run(im->c, &t, argv, e);

	*config = r == 0 ? json_loads(text, 0, NULL) : NULL;
	if (r == 0 && !*config)
		return err_set(e, EFBIG, "the configuration in '%s' has more than %zu KiB",
			       im->source, size >> 10);
	return r;
}

static int unpack_container(struct image *im, struct err *e)
{
	struct tool t = {.package = "umoci",
			 .title = "unpacking layers",
			 .dir = im->work,
			 .allowed = image_allowed,
			 .allowed_arg = im};
	const char *argv[] = {"umoci",	 "--log=error", "raw",	"unpack",
			      "--image", "oci:image",	"tree", im->fakeroot ? "--rootless" : NULL,
			      NULL};
	cleanup_free char *text = malloc(MIB(1));
	json_t *config = NULL;
	int r = text ? copy_container(im, e) : err_set(e, ENOMEM, "no memory");

	if (r == 0)
		r = read_config(im, text, MIB(1), &config, e);
	if (r == 0) {
		r = tool_run(im->c, &t, argv, e);
		if (r == -ECHILD)
			ctl_hint(im->c, "skopeo inspect --help; what leads outside is refused");
	}
	if (r == 0)
		write_command(im, config);
	json_decref(config);
	return r;
}

static int unpack(struct image *im, struct err *e)
{
	switch (im->kind) {
	case IMAGE_DIRECTORY:
		return copy_directory(im, e);
	case IMAGE_TAR:
		return unpack_tar(im, im->source, e);
	case IMAGE_SUITE:
		return unpack_suite(im, e);
	case IMAGE_OCI:
	case IMAGE_OCI_ARCHIVE:
	case IMAGE_DOCKER_ARCHIVE:
		return unpack_container(im, e);
	}
	return -EINVAL;
}

/* What only root could read else: fakeroot remembers the modes. */
static int make_readable(struct image *im, struct err *e)
{
	struct tool t = {.dir = im->work};
	const char *argv[] = {"chmod", "-R", "u+rwX", "tree", NULL};

	return tool_run(im->c, &t, argv, e);
}

int image_unpack(struct image *im, struct err *e)
{
	struct statvfs fs;
	int r;

	if (!im->limit && statvfs(im->work, &fs) < 0)
		return err_sys(e, "'%s'", im->work);
	/* Some file systems do not say how large they are. */
	if (!im->limit)
		im->limit = fs.f_blocks ? (uint64_t)fs.f_bavail * fs.f_frsize / 2 : UINT64_MAX;
	r = unpack(im, e);
	if (r == 0 && im->fakeroot)
		r = make_readable(im, e);
	/* A tenth of a second may have gone by since it was asked last. */
	return r == 0 ? image_allowed(im, e) : r;
}
