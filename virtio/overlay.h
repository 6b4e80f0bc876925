/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copy-on-write disks: an overlay file holds what one VM wrote, the base behind it is read-only and
 * shared by any number of VMs. docs/overlay-format.md is the format.
 *
 * The file has a header, a map with one bit for each sector of 512 bytes, and a sparse data area
 * in which sector n of the disk has its fixed place. A set bit: the sector is in the overlay;
 * else it is the base's. So there is nothing to allocate, a write never copies anything from the
 * base however small it is, and no number in the file can point anywhere: a hostile map can only
 * choose between base and overlay, sector by sector.
 *
 * Why it is whole after a crash. Bits are only ever set. A bit is set in memory when its data has
 * been written, and the map reaches the file in overlay_flush() between two fdatasync(): first the
 * data is on the medium, then the bits that make it visible. So whatever part of a map page a torn
 * write leaves behind is right, no page needs a checksum or a journal, and the worst that a crash
 * can do is what a disk may do: sectors that were written but not flushed are as they were before.
 *
 * Memory and file are sparse: a page of the map (4 KiB) stands for 16 MiB of the disk and exists
 * once something there was written.
 *
 * Files are borrowed. Nothing here locks; the owner does. Reading and writing data is the owner's
 * business too (virtio/block.c): this module says where.
 */
#pragma once

#include "vmm/base/err.h"

#define OVERLAY_SECTOR 512u

struct overlay;

/*
 * Makes an empty file (0 bytes, open for reading and writing) into an overlay of `base`, a regular
 * file or block device whose size is rounded down to sectors, and syncs it.
 */
int overlay_format(int fd, int base, struct err *e);

/*
 * Opens an overlay over its base. Everything in the file is checked. `base` must be the one that
 * it was made for: the same size, and either the same time of modification or the same fingerprint
 * (then it is a copy). -1 for `base`: not looked at; for tools.
 */
struct overlay *overlay_open(int fd, int base, struct err *e);
/* Forgets the map in memory: what was marked and neither flushed nor written is lost. NULL is fine. */
void overlay_close(struct overlay *o);

/* Bytes of the disk, a multiple of OVERLAY_SECTOR. */
uint64_t overlay_size(const struct overlay *o);
/* Bytes that are in the overlay, holes included. */
uint64_t overlay_own_bytes(const struct overlay *o);
/* Where byte `at` of the disk is in the overlay file. */
uint64_t overlay_offset(const struct overlay *o, uint64_t at);

/* A stretch of sectors that are all in the overlay, or all in the base. */
struct overlay_run {
	uint64_t sectors; /* 1..max */
	bool own;	  /* in the overlay */
};

/* The stretch that begins at `sector`, at most `max` long (not 0), all of it on the disk. */
struct overlay_run overlay_run(const struct overlay *o, uint64_t sector, uint64_t max);

/* Says that these sectors have been written into the overlay file. All of them on the disk. */
void overlay_mark(struct overlay *o, uint64_t sector, uint64_t count);

/* Whether the map in memory has bits that the file has not. */
bool overlay_dirty(const struct overlay *o);
/*
 * Brings data and map to the medium, in this order. 0, or -errno; then it can be tried again.
 * Data path: no allocation.
 */
int overlay_flush(struct overlay *o);
/*
 * Writes the map into the file without any sync: enough to survive the end of this process, and
 * nothing for a crash of the host.
 */
int overlay_write_map(struct overlay *o);

/* --- for tools --- */

/*
 * Copies what is in the overlay into `base`, open for writing, and makes the overlay an empty one of the
 * changed base. An interrupted commit is repeated by calling this again; until then overlay_open() with a
 * base refuses.
 */
int overlay_commit(struct overlay *o, int base, struct err *e);
/* Writes the disk as the guest sees it into `out`, an empty file open for writing; sparse. */
int overlay_flatten(const struct overlay *o, int base, int out, struct err *e);
