/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot as one compressed file, to be moved between hosts: spore-snapshot pack and unpack.
 *
 *	"SPORPACK", version (u32, little-endian), then one zstd frame with its checksum; in it
 *	length of the state file (u64) and its bytes,
 *	for each run of written pages: first page, count (u64 each) and the pages,
 *	two zero u64.
 */
#pragma once

#include "snapshot/merge.h"

/* Full and diff snapshots. `out` appears complete and fsynced, or not at all. */
int snapshot_pack(const struct snapshot_files *s, const char *out, int level, struct err *e);
/* Both files appear at once, or nothing changes. */
int snapshot_unpack(const char *in, const struct snapshot_files *s, struct err *e);
