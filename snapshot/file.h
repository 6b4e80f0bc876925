/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The container of a state file: a header, then sections. docs/snapshot-format.md has the bytes.
 *
 * Each section is {tag, instance, version, flags, length} and its bytes, under a checksum of its own;
 * the header has one too, and says how many sections and bytes there are. So nothing can be cut
 * off, lost or changed without being noticed. Whoever does not know a section may leave it out
 * when it is marked optional, and has to refuse the file otherwise.
 *
 * Checksums are for accidents: a file is judged as hostile all the same, here for its frame and by
 * the `x_check()` functions for what is in it. Any thread; one at a time for one object.
 */
#pragma once

#include "vmm/base/wire.h"

#define SNAPFILE_FORMAT	      1u
#define SNAPFILE_SIZE_MAX     MIB(256)
#define SNAPFILE_SECTIONS_MAX 1024u

/* Four letters, readable in a hex dump. */
#define SNAPFILE_TAG(a, b, c, d) \
	((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)

struct snapfile_section {
	uint32_t tag, instance;
	uint16_t version;
	bool optional;
	const uint8_t *data; /* in the file's buffer */
	size_t len;
};

struct snapfile {
	uint8_t *buf; /* owned, unless it is borrowed */
	bool borrowed;
	size_t len;
	struct snapfile_section *section; /* owned; in the order of the file */
	unsigned count;
};

/* Reads and checks the whole file. The messages do not name it. 0 or -errno with `e` filled. */
int snapfile_read(struct snapfile *f, int fd, struct err *e);
/* The same into `room` (borrowed), if the file fits into its `len` bytes. */
int snapfile_read_to(struct snapfile *f, int fd, uint8_t *room, size_t len, struct err *e);
/* The same from memory. Takes `buf` (from malloc), also when it fails. */
int snapfile_parse(struct snapfile *f, uint8_t *buf, size_t len, struct err *e);
void snapfile_finish(struct snapfile *f);
/* NULL when there is none. */
const struct snapfile_section *snapfile_find(const struct snapfile *f, uint32_t tag,
					     uint32_t instance);

/*
 *	snapfile_start(&out);
 *	x_state_wire(&state, snapfile_begin(&out, TAG, 0, X_STATE_VERSION, false));
 *	snapfile_end(&out);
 *	r = snapfile_close(&out);	then wire.buf has wire.pos bytes
 *	snapfile_drop(&out);
 */
struct snapfile_writer {
	struct wire wire;
	size_t begin; /* of the open section's header */
	unsigned count;
};

void snapfile_start(struct snapfile_writer *out);
struct wire *snapfile_begin(struct snapfile_writer *out, uint32_t tag, uint32_t instance,
			    uint16_t version, bool optional);
void snapfile_end(struct snapfile_writer *out);
/* Completes the header. 0, -ENOMEM, or what a field list has found. */
int snapfile_close(struct snapfile_writer *out);
void snapfile_drop(struct snapfile_writer *out);
