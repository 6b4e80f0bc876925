/* SPDX-License-Identifier: Apache-2.0 */
#include "snapshot/file.h"

#include <errno.h>
#include <string.h>

#include "snapshot/hash.h"
#include "vmm/base/fd.h"

#define MAGIC	      "SPORSNAP"
#define FLAG_OPTIONAL 1u
#define ALIGN	      8u

/* Header and section header as they are in the file; both are multiples of 8 bytes long. */
struct header {
	char magic[8];
	uint32_t format, sections;
	uint64_t len;	   /* of the whole file */
	uint64_t checksum; /* of what is before it */
};
_Static_assert(sizeof(struct header) == 32, "file format");

struct section_header {
	uint32_t tag, instance;
	uint16_t version, flags;
	uint32_t reserved; /* 0 */
	uint64_t len;	   /* of the bytes that follow, without the zeroes up to a multiple of 8 */
	uint64_t checksum; /* of what is before it, and of the bytes with these zeroes */
};
_Static_assert(sizeof(struct section_header) == 32, "file format");

static uint64_t header_checksum(const struct header *h)
{
	return hash_bytes(h, offsetof(struct header, checksum), 0);
}

/* `data` has all bytes, the zeroes at its end included. */
static uint64_t section_checksum(const struct section_header *h, const uint8_t *data)
{
	uint64_t seed = hash_bytes(h, offsetof(struct section_header, checksum), 0);

	return hash_bytes(data, align_up(h->len, ALIGN), seed);
}

/* --- read --- */

static int check_header(const struct header *h, size_t len, struct err *e)
{
	if (memcmp(h->magic, MAGIC, sizeof(h->magic)) != 0)
		return err_set(e, EINVAL, "not a snapshot of spore");
	if (h->checksum != header_checksum(h))
		return err_set(e, EBADMSG, "header: wrong checksum: the file is damaged");
	if (h->format != SNAPFILE_FORMAT)
		return err_set(e, ENOTSUP, "format %u, this spore reads %u", h->format,
			       SNAPFILE_FORMAT);
	if (h->len != len)
		return err_set(e, EBADMSG, "the file has %zu bytes, and should have %llu", len,
			       (unsigned long long)h->len);
	if (h->sections > SNAPFILE_SECTIONS_MAX)
		return err_set(e, EBADMSG, "%u sections", h->sections);
	return 0;
}

static int parse_section(struct snapfile *f, size_t *pos, struct err *e)
{
	struct section_header h;
	const uint8_t *data;

	if (!range_within(*pos, sizeof(h), f->len))
		return err_set(e, EBADMSG, "beyond the end of the file");
	memcpy(&h, f->buf + *pos, sizeof(h));
	*pos += sizeof(h);
	data = f->buf + *pos;
	if (h.len > SNAPFILE_SIZE_MAX || !range_within(*pos, align_up(h.len, ALIGN), f->len))
		return err_set(e, EBADMSG, "beyond the end of the file");
	if (h.checksum != section_checksum(&h, data))
		return err_set(e, EBADMSG, "wrong checksum: the file is damaged");
	if (snapfile_find(f, h.tag, h.instance))
		return err_set(e, EBADMSG, "is there twice");
	*pos += align_up(h.len, ALIGN);
	f->section[f->count++] = (struct snapfile_section){
		.tag = h.tag,
		.instance = h.instance,
		.version = h.version,
		.optional = h.flags & FLAG_OPTIONAL,
		.data = data,
		.len = h.len,
	};
	return 0;
}

static int parse(struct snapfile *f, struct err *e)
{
	size_t pos = sizeof(struct header);
	struct header h;
	int r;

	if (f->len < sizeof(h))
		return err_set(e, EBADMSG, "%zu bytes are no snapshot", f->len);
	memcpy(&h, f->buf, sizeof(h));
	r = check_header(&h, f->len, e);
	if (r < 0)
		return r;
	f->section = calloc(h.sections ? h.sections : 1, sizeof(*f->section));
	if (!f->section)
		return err_set(e, ENOMEM, "out of memory");
	for (uint32_t i = 0; i < h.sections; i++)
		if (parse_section(f, &pos, e) < 0)
			return err_wrap(e, "section %u", i + 1);
	if (pos != f->len)
		return err_set(e, EBADMSG, "%zu bytes behind the last section", f->len - pos);
	return 0;
}

static int parse_all(struct snapfile *f, struct err *e)
{
	int r = parse(f, e);

	if (r < 0)
		snapfile_finish(f);
	return r;
}

int snapfile_parse(struct snapfile *f, uint8_t *buf, size_t len, struct err *e)
{
	*f = (struct snapfile){.buf = buf, .len = len};
	return parse_all(f, e);
}

int snapfile_read(struct snapfile *f, int fd, struct err *e)
{
	return snapfile_read_to(f, fd, NULL, 0, e);
}

int snapfile_read_to(struct snapfile *f, int fd, uint8_t *room, size_t len, struct err *e)
{
	int64_t size = fd_size(fd);
	int r;

	*f = (struct snapfile){0};
	if (size < 0)
		return err_set(e, (int)-size, "size: %s", strerror((int)-size));
	if ((uint64_t)size > SNAPFILE_SIZE_MAX)
		return err_set(e, EFBIG, "%lld bytes are no snapshot's state", (long long)size);
	f->borrowed = room && (uint64_t)size <= len;
	f->len = (size_t)size;
	f->buf = f->borrowed ? room : malloc(f->len + 1); /* malloc(0) may be NULL */
	if (!f->buf)
		return err_set(e, ENOMEM, "out of memory");
	r = fd_pread_full(fd, f->buf, f->len, 0);
	if (r < 0) {
		snapfile_finish(f);
		return err_set(e, -r, "read: %s", strerror(-r));
	}
	return parse_all(f, e);
}

void snapfile_finish(struct snapfile *f)
{
	free(f->section);
	if (!f->borrowed)
		free(f->buf);
	*f = (struct snapfile){0};
}

const struct snapfile_section *snapfile_find(const struct snapfile *f, uint32_t tag,
					     uint32_t instance)
{
	for (unsigned i = 0; i < f->count; i++)
		if (f->section[i].tag == tag && f->section[i].instance == instance)
			return &f->section[i];
	return NULL;
}

/* --- write --- */

void snapfile_start(struct snapfile_writer *out)
{
	struct header h = {.magic = MAGIC, .format = SNAPFILE_FORMAT};

	*out = (struct snapfile_writer){0};
	wire_writer(&out->wire, 0);
	wire_bytes(&out->wire, &h, sizeof(h));
}

struct wire *snapfile_begin(struct snapfile_writer *out, uint32_t tag, uint32_t instance,
			    uint16_t version, bool optional)
{
	struct section_header h = {
		.tag = tag,
		.instance = instance,
		.version = version,
		.flags = optional ? FLAG_OPTIONAL : 0,
	};

	out->begin = out->wire.pos;
	out->wire.version = version;
	wire_bytes(&out->wire, &h, sizeof(h));
	return &out->wire;
}

void snapfile_end(struct snapfile_writer *out)
{
	static const uint8_t zeroes[ALIGN];
	size_t data = out->begin + sizeof(struct section_header);
	struct section_header h;

	if (out->wire.error)
		return;
	memcpy(&h, out->wire.buf + out->begin, sizeof(h));
	h.len = out->wire.pos - data;
	wire_bytes(&out->wire, (void *)(uintptr_t)zeroes, align_up(h.len, ALIGN) - h.len);
	if (out->wire.error)
		return;
	h.checksum = section_checksum(&h, out->wire.buf + data);
	memcpy(out->wire.buf + out->begin, &h, sizeof(h));
	out->count++;
}

int snapfile_close(struct snapfile_writer *out)
{
	struct header h;

	if (out->wire.error)
		return out->wire.error;
	if (out->count > SNAPFILE_SECTIONS_MAX || out->wire.pos > SNAPFILE_SIZE_MAX)
		return -EFBIG;
	memcpy(&h, out->wire.buf, sizeof(h));
	h.sections = out->count;
	h.len = out->wire.pos;
	h.checksum = header_checksum(&h);
	memcpy(out->wire.buf, &h, sizeof(h));
	return 0;
}

void snapfile_drop(struct snapfile_writer *out)
{
	wire_finish(&out->wire);
}
