/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "tools/snapshot-pack.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include "snapshot/output.h"
#include "snapshot/state.h"
#include "vmm/base/fd.h"

#define MAGIC	"SPORPACK"
#define VERSION 1u

struct head {
	char magic[8];
	uint32_t version;
};
#define HEAD_BYTES 12u

/* What a pack is made of, or is made into. */
struct parts {
	struct snapfile file;
	struct state_meta meta;
	struct memory_table table;
	struct pageset pages;
};

static void parts_finish(struct parts *p)
{
	memory_table_finish(&p->table);
	pageset_finish(&p->pages);
	snapfile_finish(&p->file);
}

/* Everything that is to be known of a state file whose bytes have been read. */
static int understand(struct parts *p, struct err *e)
{
	uint64_t pages;
	int r = state_read_meta(&p->meta, &p->file, e);

	if (r < 0)
		return r;
	pages = p->meta.mem_size / GMEM_PAGE;
	r = state_read_table(&p->table, &p->file, pages, e);
	if (r == 0 && !snapfile_find(&p->file, STATE_TAG_MTAB, 0))
		r = err_set(e, EINVAL, "it has no memory table");
	if (r == 0)
		r = pageset_init(&p->pages, pages, e);
	if (r == 0)
		memory_table_pages(&p->table, &p->pages);
	return r;
}

/* Of a diff that was not merged the file alone has not what the probes tell. */
static int check_probes(const struct parts *p, int memory)
{
	return state_is_diff(&p->meta) ? 0
				       : memory_check_probes(memory, p->meta.probe, p->meta.probes);
}

/* --- pack --- */

struct packer {
	ZSTD_CCtx *z;
	int fd;
	uint8_t *page; /* PAGESET_CHUNK of them */
	uint8_t *out;
	size_t out_size;
};

static int put(struct packer *p, const void *bytes, size_t len, bool last, struct err *e)
{
	ZSTD_inBuffer in = {bytes, len, 0};
	size_t left;

	do {
		ZSTD_outBuffer out = {p->out, p->out_size, 0};
		int r;

		left = ZSTD_compressStream2(p->z, &out, &in, last ? ZSTD_e_end : ZSTD_e_continue);
		if (ZSTD_isError(left))
			return err_set(e, EIO, "compress: %s", ZSTD_getErrorName(left));
		r = fd_write_full(p->fd, p->out, out.pos);
		if (r < 0)
			return err_set(e, -r, "write: %s", strerror(-r));
	} while (last ? left != 0 : in.pos < in.size);
	return 0;
}

static int put_run(struct packer *p, int memory, uint64_t first, uint64_t count, struct err *e)
{
	uint64_t head[2] = {first, count};
	int r = put(p, head, sizeof(head), false, e);

	while (r == 0 && count > 0) {
		uint64_t n = MIN(count, (uint64_t)PAGESET_CHUNK);

		r = fd_pread_full(memory, p->page, n * GMEM_PAGE, first * GMEM_PAGE);
		if (r < 0)
			return err_set(e, -r, "read the memory file: %s", strerror(-r));
		r = put(p, p->page, n * GMEM_PAGE, false, e);
		first += n;
		count -= n;
	}
	return r;
}

static int put_all(struct packer *p, const struct parts *s, int memory, struct err *e)
{
	struct head head = {.magic = MAGIC, .version = VERSION};
	uint64_t len = s->file.len, end[2] = {0}, at = 0, n;
	int r = fd_write_full(p->fd, &head, HEAD_BYTES);

	if (r < 0)
		return err_set(e, -r, "write: %s", strerror(-r));
	r = put(p, &len, sizeof(len), false, e);
	if (r == 0)
		r = put(p, s->file.buf, s->file.len, false, e);
	for (; r == 0 && (n = pageset_run(&s->pages, &at, s->pages.pages)); at += n)
		r = put_run(p, memory, at, n, e);
	return r == 0 ? put(p, end, sizeof(end), true, e) : r;
}

static int pack_into(struct output_file *f, const struct parts *s, int memory, int level,
		     struct err *e)
{
	struct packer p = {.z = ZSTD_createCCtx(), .fd = f->fd, .out_size = ZSTD_CStreamOutSize()};
	int r;

	p.page = malloc((size_t)PAGESET_CHUNK * GMEM_PAGE);
	p.out = malloc(p.out_size);
	if (!p.z || !p.page || !p.out)
		r = err_set(e, ENOMEM, "out of memory");
	else if (ZSTD_isError(ZSTD_CCtx_setParameter(p.z, ZSTD_c_compressionLevel, level)) ||
		 ZSTD_isError(ZSTD_CCtx_setParameter(p.z, ZSTD_c_checksumFlag, 1)))
		r = err_set(e, EINVAL, "level %d", level);
	else
		r = put_all(&p, s, memory, e);
	ZSTD_freeCCtx(p.z);
	free(p.page);
	free(p.out);
	if (r == 0 && fsync(f->fd) < 0)
		r = err_sys(e, "fsync");
	return r == 0 ? output_commit_one(f, e) : r;
}

static int open_parts(struct parts *p, const struct snapshot_files *s, int *memory, struct err *e)
{
	cleanup_fd int fd = fd_open_file(s->state, O_RDONLY, false, e);
	int r;

	if (fd < 0)
		return fd;
	r = snapfile_read(&p->file, fd, e);
	if (r == 0)
		r = understand(p, e);
	if (r < 0)
		return err_wrap(e, "state file '%s'", s->state);
	*memory = output_open_memory(s->memory, p->meta.mem_inode, e);
	if (*memory < 0)
		return *memory;
	r = check_probes(p, *memory);
	return r < 0 ? err_set(e, -r, "'%s' is not the memory of '%s'", s->memory, s->state) : 0;
}

int snapshot_pack(const struct snapshot_files *s, const char *out, int level, struct err *e)
{
	cleanup_fd int memory = -1;
	struct parts p = {0};
	struct output_file f;
	int r = open_parts(&p, s, &memory, e);

	if (r == 0)
		r = output_create_one(&f, out, e);
	if (r == 0) {
		r = pack_into(&f, &p, memory, level, e);
		output_drop_one(&f);
		if (r < 0)
			err_wrap(e, "'%s'", out);
	}
	parts_finish(&p);
	return r;
}

/* --- unpack: the file may come from anybody --- */

struct unpacker {
	ZSTD_DCtx *z;
	int fd;
	uint8_t *page, *buf;
	size_t buf_size;
	ZSTD_inBuffer in;
	size_t hint; /* 0: the frame is complete and its checksum right */
};

static int more(struct unpacker *u, struct err *e)
{
	ssize_t n;

	do
		n = read(u->fd, u->buf, u->buf_size);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_sys(e, "read");
	if (n == 0)
		return err_set(e, ENODATA, "it ends too early");
	u->in = (ZSTD_inBuffer){u->buf, (size_t)n, 0};
	return 0;
}

static int get(struct unpacker *u, void *bytes, size_t len, struct err *e)
{
	ZSTD_outBuffer out = {bytes, len, 0};

	while (out.pos < len) {
		size_t before = out.pos, in_before = u->in.pos;

		u->hint = ZSTD_decompressStream(u->z, &out, &u->in);
		if (ZSTD_isError(u->hint))
			return err_set(e, EBADMSG, "decompress: %s", ZSTD_getErrorName(u->hint));
		if (out.pos == len)
			break;
		if (u->hint == 0)
			return err_set(e, EBADMSG, "it ends too early");
		if (u->in.pos == u->in.size && out.pos == before && in_before == u->in.pos &&
		    more(u, e) < 0)
			return -e->code;
	}
	return 0;
}

/* Nothing follows, and the checksum is right. */
static int get_end(struct unpacker *u, struct err *e)
{
	uint8_t none;

	while (u->hint != 0) {
		ZSTD_outBuffer out = {&none, 1, 0};

		if (u->in.pos == u->in.size && more(u, e) < 0)
			return -e->code;
		u->hint = ZSTD_decompressStream(u->z, &out, &u->in);
		if (ZSTD_isError(u->hint))
			return err_set(e, EBADMSG, "decompress: %s", ZSTD_getErrorName(u->hint));
		if (out.pos > 0)
			return err_set(e, EBADMSG, "there is something behind its end");
	}
	return 0;
}

static int get_state(struct unpacker *u, struct parts *p, struct err *e)
{
	uint64_t len;
	uint8_t *buf;
	int r = get(u, &len, sizeof(len), e);

	if (r < 0)
		return r;
	if (len > SNAPFILE_SIZE_MAX)
		return err_set(e, EFBIG, "a state file of %llu bytes", (unsigned long long)len);
	buf = malloc(len ? len : 1);
	if (!buf)
		return err_set(e, ENOMEM, "out of memory");
	r = get(u, buf, len, e);
	if (r < 0) {
		free(buf);
		return r;
	}
	r = snapfile_parse(&p->file, buf, len, e);
	return r == 0 ? understand(p, e) : r;
}

static int get_run(struct unpacker *u, int memory, uint64_t first, uint64_t count, struct err *e)
{
	int r = 0;

	while (r == 0 && count > 0) {
		uint64_t n = MIN(count, (uint64_t)PAGESET_CHUNK);

		r = get(u, u->page, n * GMEM_PAGE, e);
		if (r == 0 && pwrite(memory, u->page, n * GMEM_PAGE, (off_t)(first * GMEM_PAGE)) !=
				      (ssize_t)(n * GMEM_PAGE))
			r = err_sys(e, "write the memory file");
		first += n;
		count -= n;
	}
	return r;
}

/* Exactly the runs that the table in the state file says. */
static int get_memory(struct unpacker *u, const struct parts *p, int memory, struct err *e)
{
	uint64_t head[2], at = 0, n;
	int r = 0;

	if (ftruncate(memory, (off_t)p->meta.mem_size) < 0)
		return err_sys(e, "size the memory file");
	for (; r == 0 && (n = pageset_run(&p->pages, &at, p->pages.pages)); at += n) {
		r = get(u, head, sizeof(head), e);
		if (r == 0 && (head[0] != at || head[1] != n))
			r = err_set(e, EBADMSG, "its pages are not those of its state file");
		if (r == 0)
			r = get_run(u, memory, at, n, e);
	}
	if (r == 0)
		r = get(u, head, sizeof(head), e);
	if (r == 0 && (head[0] || head[1]))
		r = err_set(e, EBADMSG, "it has more pages than its state file");
	return r == 0 ? get_end(u, e) : r;
}

/* The new memory file has another inode, which the state file has to know. */
static int put_state(struct parts *p, struct output *o, struct err *e)
{
	struct snapfile_writer out;
	int r;

	p->meta.mem_inode = o->memory.inode;
	r = state_rewrite(&p->file, &p->meta, &p->table, &out, e);
	if (r == 0) {
		r = fd_write_full(o->state.fd, out.wire.buf, out.wire.pos);
		if (r < 0)
			err_set(e, -r, "write '%s': %s", o->state.path, strerror(-r));
	}
	snapfile_drop(&out);
	return r;
}

static int unpack_into(struct unpacker *u, struct parts *p, const struct snapshot_files *s,
		       struct err *e)
{
	struct output o;
	int r = output_create(&o, s->state, s->memory, e);

	if (r < 0)
		return r;
	r = get_memory(u, p, o.memory.fd, e);
	if (r == 0 && check_probes(p, o.memory.fd) < 0)
		r = err_set(e, ESTALE, "its memory is not that of its state");
	if (r == 0)
		r = put_state(p, &o, e);
	if (r == 0)
		r = output_commit(&o, e);
	output_drop(&o);
	return r;
}

static int check_head(int fd, struct err *e)
{
	struct head head = {0};
	int r = fd_pread_full(fd, &head, HEAD_BYTES, 0);

	if (r < 0 || memcmp(head.magic, MAGIC, sizeof(head.magic)) != 0)
		return err_set(e, EINVAL, "it is not a packed snapshot of spore");
	if (head.version != VERSION)
		return err_set(e, ENOTSUP, "its version is %u, known is %u", head.version, VERSION);
	return lseek(fd, HEAD_BYTES, SEEK_SET) < 0 ? err_sys(e, "seek") : 0;
}

static int unpack(struct unpacker *u, const struct snapshot_files *s, struct err *e)
{
	struct parts p = {0};
	int r = check_head(u->fd, e);

	if (r < 0)
		return r;
	u->z = ZSTD_createDCtx();
	u->page = malloc((size_t)PAGESET_CHUNK * GMEM_PAGE);
	u->buf = malloc(u->buf_size);
	if (!u->z || !u->page || !u->buf)
		r = err_set(e, ENOMEM, "out of memory");
	else
		r = get_state(u, &p, e);
	if (r == 0)
		r = unpack_into(u, &p, s, e);
	parts_finish(&p);
	ZSTD_freeDCtx(u->z);
	free(u->page);
	free(u->buf);
	return r;
}

int snapshot_unpack(const char *in, const struct snapshot_files *s, struct err *e)
{
	cleanup_fd int fd = fd_open_file(in, O_RDONLY, false, e);
	struct unpacker u = {.fd = fd, .buf_size = ZSTD_DStreamInSize()};

	if (fd < 0)
		return fd;
	return unpack(&u, s, e) < 0 ? err_wrap(e, "'%s'", in) : 0;
}
