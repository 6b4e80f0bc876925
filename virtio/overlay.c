/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#define XXH_INLINE_ALL
#include "virtio/overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "vmm/base/fd.h"

#define MAGIC	       "SPOREOVL"
#define VERSION	       1u
#define PAGE	       4096u
#define MAP_AT	       (2 * PAGE) /* behind the two header slots */
#define DATA_UNIT      KIB(64)
/* A disk larger than any file system's files; keeps all sums below far from 2^63. */
#define SIZE_MAX_BYTES (1ull << 56)
/* Sectors that one page of the map stands for. */
#define PAGE_SECTORS   (PAGE * 8ull)

enum state { STATE_USABLE = 0, STATE_COMMITTING = 1 };

/* On disk, little-endian. The slot with the higher sequence counts, if its checksum is right. */
struct header {
	char magic[8];
	uint32_t version;
	uint32_t state;
	uint64_t sequence;
	uint64_t size;		/* of the disk, bytes */
	uint64_t base_size;	/* of the base, bytes, not rounded */
	uint64_t base_mtime_ns; /* 0: the base is a block device */
	uint64_t base_print;	/* fingerprint() of the base */
	uint64_t map_at, data_at;
	uint64_t checksum; /* XXH64 of what precedes it */
};
_Static_assert(sizeof(struct header) == 80, "docs/overlay-format.md");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "headers go to disk as they are");

struct overlay {
	int fd;
	struct header header;
	uint64_t sectors;
	uint64_t own; /* bits set */
	uint64_t *map;
	size_t map_len;	 /* bytes, whole pages */
	uint8_t *dirty;	 /* a byte for each page of the map */
	size_t dirty_lo; /* no dirty page before it ... */
	size_t dirty_hi; /* ... or from here on */
};

static uint64_t map_bytes(uint64_t size)
{
	return align_up((size / OVERLAY_SECTOR + 7) / 8, PAGE);
}

static uint64_t data_start(uint64_t size)
{
	return align_up(MAP_AT + map_bytes(size), DATA_UNIT);
}

/* --- the base --- */

/*
 * A hash of the first 64 KiB and of 16 pages spread over the file. A file system that is mounted
 * for writing changes its superblock, so this finds what is likely to happen by mistake.
 */
static int fingerprint(int fd, uint64_t size, uint64_t *print)
{
	static const unsigned samples = 16;
	uint8_t buf[PAGE];
	XXH64_state_t hash;
	uint64_t head = MIN(KIB(64), size), step = size / samples;

	XXH64_reset(&hash, size);
	for (uint64_t at = 0, n; at < head; at += n) {
		int r = fd_pread_full(fd, buf, n = MIN((uint64_t)PAGE, head - at), at);

		if (r < 0)
			return r;
		XXH64_update(&hash, buf, n);
	}
	for (unsigned i = 1; i < samples; i++) {
		uint64_t at = step * i, n = MIN((uint64_t)PAGE, size - at);
		int r = fd_pread_full(fd, buf, n, at);

		if (r < 0)
			return r;
		XXH64_update(&hash, buf, n);
	}
	*print = XXH64_digest(&hash);
	return 0;
}

static int base_facts(int base, struct header *h, struct err *e)
{
	int64_t size = fd_size(base);
	struct stat st;

	if (size < 0 || fd_stat(base, &st) < 0)
		return err_set(e, size < 0 ? (int)-size : errno, "size of the base: %s",
			       strerror(size < 0 ? (int)-size : errno));
	if ((uint64_t)size > SIZE_MAX_BYTES)
		return err_set(e, EFBIG, "the base is larger than 64 PiB");
	h->base_size = (uint64_t)size;
	h->size = (uint64_t)size / OVERLAY_SECTOR * OVERLAY_SECTOR;
	h->base_mtime_ns = 0;
	if (S_ISREG(st.st_mode))
		h->base_mtime_ns =
			(uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec;
	return 0;
}

static int base_print(int base, struct header *h, struct err *e)
{
	int r = fingerprint(base, h->base_size, &h->base_print);

	return r < 0 ? err_set(e, -r, "read the base: %s", strerror(-r)) : 0;
}

static int check_base(const struct header *h, int base, struct err *e)
{
	struct header now = {0};
	int r = base_facts(base, &now, e);

	if (r < 0)
		return r;
	if (now.base_size != h->base_size)
		return err_set(e, EINVAL, "the overlay's base had %llu bytes, this one has %llu",
			       (unsigned long long)h->base_size, (unsigned long long)now.base_size);
	if (now.base_mtime_ns && now.base_mtime_ns == h->base_mtime_ns)
		return 0;
	r = base_print(base, &now, e);
	if (r == 0 && now.base_print != h->base_print)
		r = err_set(e, EINVAL,
			    "the base is not the one that the overlay was made for, or was "
			    "changed since");
	return r;
}

/* --- the header --- */

static uint64_t checksum(const struct header *h)
{
	return XXH64(h, offsetof(struct header, checksum), 0);
}

/* Into the slot that does not hold the current one, so that a torn write changes nothing. */
static int write_header(int fd, struct header *h)
{
	uint8_t slot[PAGE] = {0};
	int r;

	h->sequence++;
	h->checksum = checksum(h);
	memcpy(slot, h, sizeof(*h));
	r = fd_pwrite_full(fd, slot, sizeof(slot), h->sequence % 2 * PAGE);
	if (r == 0 && fdatasync(fd) < 0)
		r = -errno;
	return r;
}

static bool header_valid(const struct header *h)
{
	return memcmp(h->magic, MAGIC, sizeof(h->magic)) == 0 && h->checksum == checksum(h);
}

static int check_header(const struct header *h, int64_t file_size, struct err *e)
{
	if (h->version != VERSION)
		return err_set(e, EINVAL, "version %u of the format, need %u", h->version, VERSION);
	if (h->state > STATE_COMMITTING || h->base_size > SIZE_MAX_BYTES ||
	    h->size != h->base_size / OVERLAY_SECTOR * OVERLAY_SECTOR || h->map_at != MAP_AT ||
	    h->data_at != data_start(h->size))
		return err_set(e, EINVAL, "the header contradicts itself");
	if (file_size < 0 || (uint64_t)file_size < h->data_at + h->size)
		return err_set(e, EINVAL, "the file is truncated: %lld bytes, need %llu",
			       (long long)file_size, (unsigned long long)h->data_at + h->size);
	return 0;
}

static int read_header(int fd, struct header *h, struct err *e)
{
	struct header slot[2];

	for (unsigned i = 0; i < 2; i++) {
		int r = fd_pread_full(fd, &slot[i], sizeof(slot[i]), i * PAGE);

		if (r == -ENODATA)
			slot[i].magic[0] = '\0';
		else if (r < 0)
			return err_set(e, -r, "read the header: %s", strerror(-r));
	}
	if (header_valid(&slot[0]) && header_valid(&slot[1]))
		*h = slot[slot[1].sequence > slot[0].sequence];
	else if (header_valid(&slot[0]))
		*h = slot[0];
	else if (header_valid(&slot[1]))
		*h = slot[1];
	else
		return err_set(e, EINVAL, "not an overlay file, or its header is damaged");
	return check_header(h, fd_size(fd), e);
}

int overlay_format(int fd, int base, struct err *e)
{
	struct header h = {.magic = MAGIC, .version = VERSION, .map_at = MAP_AT};
	int r = base_facts(base, &h, e);

	if (r == 0)
		r = base_print(base, &h, e);
	if (r < 0)
		return r;
	if (fd_size(fd) != 0)
		return err_set(e, EEXIST, "the file for the overlay is not empty");
	h.data_at = data_start(h.size);
	if (ftruncate(fd, (off_t)(h.data_at + h.size)) < 0)
		return err_sys(e, "set the size of the overlay");
	r = write_header(fd, &h);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	return r < 0 ? err_set(e, -r, "write the overlay's header: %s", strerror(-r)) : 0;
}

/* --- the map --- */

static uint64_t count_bits(const uint64_t *word, size_t n)
{
	uint64_t bits = 0;

	for (size_t i = 0; i < n; i++)
		bits += (uint64_t)__builtin_popcountll(word[i]);
	return bits;
}

/* Reads the parts of the map that are not holes; the memory is zero so far. */
static int load_map(struct overlay *o)
{
	uint64_t at = 0;

	while (at < o->map_len) {
		off_t data = lseek(o->fd, (off_t)(MAP_AT + at), SEEK_DATA), hole;
		uint64_t end = o->map_len;
		int r;

		if (data < 0 && errno == ENXIO)
			break;
		if (data >= 0) {
			at = ((uint64_t)data - MAP_AT) / PAGE * PAGE;
			hole = lseek(o->fd, data, SEEK_HOLE);
			if (hole > data)
				end = MIN(end, align_up((uint64_t)hole - MAP_AT, PAGE));
		}
		if (at >= o->map_len)
			break;
		r = fd_pread_full(o->fd, (char *)o->map + at, end - at, MAP_AT + at);
		if (r < 0)
			return r;
		o->own += count_bits(o->map + at / 8, (end - at) / 8);
		at = end;
	}
	return 0;
}

/* Bits behind the disk's last sector stand for nothing: they must not be there. */
static bool tail_is_clear(const struct overlay *o)
{
	for (uint64_t i = o->sectors; i < o->map_len * 8; i++)
		if (o->map[i / 64] >> i % 64 & 1)
			return false;
	return true;
}

static int make_map(struct overlay *o, struct err *e)
{
	const int prot = PROT_READ | PROT_WRITE,
		  flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	int r;

	o->sectors = o->header.size / OVERLAY_SECTOR;
	o->map_len = map_bytes(o->header.size);
	o->dirty_lo = o->map_len / PAGE;
	/* A disk of no sectors has no map, and mmap() does not take 0. */
	o->map = mmap(NULL, o->map_len + PAGE, prot, flags, -1, 0);
	o->dirty = calloc(o->map_len / PAGE + 1, 1);
	if (o->map == MAP_FAILED || !o->dirty)
		return err_set(e, ENOMEM, "out of memory for the overlay's map");
	r = load_map(o);
	if (r < 0)
		return err_set(e, -r, "read the overlay's map: %s", strerror(-r));
	return tail_is_clear(o) ? 0 : err_set(e, EINVAL, "the map has bits behind the disk's end");
}

struct overlay *overlay_open(int fd, int base, struct err *e)
{
	struct overlay *o = calloc(1, sizeof(*o));
	int r;

	if (!o) {
		err_set(e, ENOMEM, "out of memory");
		return NULL;
	}
	o->fd = fd;
	o->map = MAP_FAILED;
	r = read_header(fd, &o->header, e);
	if (r == 0 && base >= 0 && o->header.state == STATE_COMMITTING)
		r = err_set(e, EBUSY, "a commit into its base was interrupted: repeat it");
	if (r == 0 && base >= 0)
		r = check_base(&o->header, base, e);
	if (r == 0)
		r = make_map(o, e);
	if (r < 0) {
		overlay_close(o);
		return NULL;
	}
	return o;
}

void overlay_close(struct overlay *o)
{
	if (!o)
		return;
	if (o->map != MAP_FAILED)
		munmap(o->map, o->map_len + PAGE);
	free(o->dirty);
	free(o);
}

uint64_t overlay_size(const struct overlay *o)
{
	return o->header.size;
}

uint64_t overlay_own_bytes(const struct overlay *o)
{
	return o->own * OVERLAY_SECTOR;
}

uint64_t overlay_offset(const struct overlay *o, uint64_t at)
{
	return o->header.data_at + at;
}

struct overlay_run overlay_run(const struct overlay *o, uint64_t sector, uint64_t max)
{
	bool own = o->map[sector / 64] >> sector % 64 & 1;
	uint64_t flip = own ? UINT64_MAX : 0, n = 0;

	while (n < max) {
		uint64_t at = sector + n;
		uint64_t differs = (o->map[at / 64] ^ flip) >> at % 64;

		if (differs) {
			n += (uint64_t)__builtin_ctzll(differs);
			break;
		}
		n += 64 - at % 64;
	}
	return (struct overlay_run){.sectors = MIN(n, max), .own = own};
}

static void mark_dirty(struct overlay *o, uint64_t sector)
{
	size_t page = sector / PAGE_SECTORS;

	o->dirty[page] = 1;
	o->dirty_lo = MIN(o->dirty_lo, page);
	if (page >= o->dirty_hi)
		o->dirty_hi = page + 1;
}

void overlay_mark(struct overlay *o, uint64_t sector, uint64_t count)
{
	while (count > 0) {
		uint64_t n = MIN(64 - sector % 64, count);
		uint64_t bits = (n == 64 ? UINT64_MAX : (1ull << n) - 1) << sector % 64;
		uint64_t fresh = bits & ~o->map[sector / 64];

		if (fresh) {
			o->map[sector / 64] |= fresh;
			o->own += (uint64_t)__builtin_popcountll(fresh);
			mark_dirty(o, sector);
		}
		sector += n;
		count -= n;
	}
}

bool overlay_dirty(const struct overlay *o)
{
	return o->dirty_lo < o->dirty_hi;
}

static int write_pages(const struct overlay *o)
{
	for (size_t i = o->dirty_lo; i < o->dirty_hi; i++) {
		int r = 0;

		if (o->dirty[i])
			r = fd_pwrite_full(o->fd, (char *)o->map + i * PAGE, PAGE,
					   MAP_AT + i * PAGE);
		if (r < 0)
			return r;
	}
	return 0;
}

static void set_clean(struct overlay *o)
{
	if (overlay_dirty(o))
		memset(o->dirty + o->dirty_lo, 0, o->dirty_hi - o->dirty_lo);
	o->dirty_lo = o->map_len / PAGE;
	o->dirty_hi = 0;
}

int overlay_write_map(struct overlay *o)
{
	int r = write_pages(o);

	if (r == 0)
		set_clean(o);
	return r;
}

/* Pages stay dirty until the sync has succeeded: after a failed one the kernel may forget them. */
int overlay_flush(struct overlay *o)
{
	int r;

	if (fdatasync(o->fd) < 0)
		return -errno;
	if (!overlay_dirty(o))
		return 0;
	r = write_pages(o);
	if (r == 0 && fdatasync(o->fd) < 0)
		r = -errno;
	if (r == 0)
		set_clean(o);
	return r;
}

/* --- for tools --- */

/* Copies bytes between files; what is a hole stays one when `sparse`. */
static int copy_range(int from, uint64_t from_at, int to, uint64_t to_at, uint64_t len, bool sparse)
{
	static const uint8_t zero[KIB(64)];
	uint8_t buf[KIB(64)];
	int r = 0;

	while (r == 0 && len > 0) {
		size_t n = MIN(len, sizeof(buf));

		r = fd_pread_full(from, buf, n, from_at);
		if (r == 0 && !(sparse && memcmp(buf, zero, n) == 0))
			r = fd_pwrite_full(to, buf, n, to_at);
		from_at += n;
		to_at += n;
		len -= n;
	}
	return r;
}

static int set_state(struct overlay *o, enum state state, struct err *e)
{
	int r;

	o->header.state = state;
	r = write_header(o->fd, &o->header);
	return r < 0 ? err_set(e, -r, "write the overlay's header: %s", strerror(-r)) : 0;
}

/*
 * Map and data become holes; the file keeps its size. First the map, and that for certain: a bit
 * that outlives its data would make a repeated commit write zeros into the base.
 */
static int empty(struct overlay *o, struct err *e)
{
	const int how = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	if (o->map_len == 0)
		return 0;
	if (fallocate(o->fd, how, MAP_AT, (off_t)o->map_len) < 0 || fdatasync(o->fd) < 0 ||
	    fallocate(o->fd, how, (off_t)o->header.data_at, (off_t)o->header.size) < 0)
		return err_sys(e, "empty the overlay");
	memset(o->map, 0, o->map_len);
	o->own = 0;
	set_clean(o);
	return 0;
}

int overlay_commit(struct overlay *o, int base, struct err *e)
{
	struct header now = o->header;
	int64_t size = fd_size(base);
	int r;

	/* Once begun, the base has other contents and another time: only its size can be compared. */
	if (o->header.state == STATE_USABLE)
		r = check_base(&o->header, base, e);
	else
		r = size == (int64_t)o->header.base_size
			    ? 0
			    : err_set(e, EINVAL, "the base has another size");
	if (r == 0)
		r = set_state(o, STATE_COMMITTING, e);
	for (uint64_t at = 0; r == 0 && at < o->sectors;) {
		struct overlay_run run = overlay_run(o, at, o->sectors - at);
		uint64_t byte = at * OVERLAY_SECTOR, len = run.sectors * OVERLAY_SECTOR;

		if (run.own &&
		    (r = copy_range(o->fd, o->header.data_at + byte, base, byte, len, false)) < 0)
			err_set(e, -r, "copy into the base: %s", strerror(-r));
		at += run.sectors;
	}
	if (r == 0 && fsync(base) < 0)
		r = err_sys(e, "sync the base");
	if (r == 0)
		r = empty(o, e);
	if (r == 0)
		r = base_facts(base, &now, e);
	if (r == 0)
		r = base_print(base, &now, e);
	if (r < 0)
		return r;
	now.sequence = o->header.sequence;
	o->header = now;
	return set_state(o, STATE_USABLE, e);
}

int overlay_flatten(const struct overlay *o, int base, int out, struct err *e)
{
	int r = 0;

	if (ftruncate(out, (off_t)o->header.size) < 0)
		return err_sys(e, "set the size of the new file");
	for (uint64_t at = 0; r == 0 && at < o->sectors;) {
		struct overlay_run run = overlay_run(o, at, o->sectors - at);
		uint64_t byte = at * OVERLAY_SECTOR, len = run.sectors * OVERLAY_SECTOR;

		if (run.own)
			r = copy_range(o->fd, o->header.data_at + byte, out, byte, len, true);
		else
			r = copy_range(base, byte, out, byte, len, true);
		at += run.sectors;
	}
	if (r == 0 && fsync(out) < 0)
		r = -errno;
	return r < 0 ? err_set(e, -r, "copy into the new file: %s", strerror(-r)) : 0;
}
