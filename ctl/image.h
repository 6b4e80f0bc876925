/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Root file systems out of what people have: a directory, a tar, a Debian suite, a container image. The steps of
 * `sporectl image build`: image_open() says what the source is, image_digest() what is in it, image_unpack() puts it
 * into a directory, image_dress() adds the agent, and verb_image.c packs it. Nothing is mounted, no loop device is
 * needed, and root is only needed where fakeroot is not enough.
 *
 * A source is not trusted: what it unpacks stays below its directory (tar and umoci see to it, image_dress() resolves
 * its links inside), and that is ours alone (0700) while it exists. What it takes there is limited while it grows.
 */
#pragma once

#include <limits.h>

#include "ctl/tool.h"

enum image_kind {
	IMAGE_DIRECTORY,
	IMAGE_TAR,
	IMAGE_SUITE,	      /* debian:SUITE */
	IMAGE_OCI,	      /* a directory with the file oci-layout */
	IMAGE_OCI_ARCHIVE,    /* the same as a tar */
	IMAGE_DOCKER_ARCHIVE, /* a tar with a manifest.json */
};

struct image {
	struct ctl *c;
	enum image_kind kind;
	const char *source;
	const char *tag;			/* of a container image; NULL: the only one */
	const char *variant, *include, *mirror; /* of a suite; may be NULL */
	const char *fakeroot;			/* tool.h; NULL for root */
	char work[PATH_MAX /
		  2]; /* a directory for what is in between; "tree" in it is the result */
	char digest[65];
	uint64_t limit;	       /* bytes that `work` may take; 0: half of what is free */
	uint64_t bytes, files; /* of the tree, in blocks of 4 KiB; after image_dress() */
	uint64_t length;       /* the same with the holes of its files */
};

/* Looks what `source` is. 0 or -errno. */
int image_open(struct image *im, struct err *e);
/* Fills `digest`: the same for the same content. `work` exists. */
int image_digest(struct image *im, struct err *e);
/* -EFBIG: more than the limit. */
int image_unpack(struct image *im, struct err *e);
/* The tool's allowed() for what writes below `work`; `arg` is the image. Fills `bytes`, `files` and `length` of all there. */
int image_allowed(void *arg, struct err *e);
/* The agent, an init if there is none, the directories that it mounts upon. `agent` NULL: only measures. */
int image_dress(struct image *im, const char *agent, struct err *e);

/* SHA-256 of what is read from `fd`, in hex. */
int image_sha256(struct ctl *c, int fd, uint64_t total, char hex[65], struct err *e);
/* The guest's agent: beside sporectl, else in ../lib/spore. 0, or -ENOENT with advice. */
int image_find_agent(struct ctl *c, char path[PATH_MAX], struct err *e);
