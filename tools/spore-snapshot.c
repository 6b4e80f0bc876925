/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spore-snapshot: looks after snapshots (docs/snapshot-format.md) while no microVM uses them.
 *
 *	spore-snapshot info STATE
 *	spore-snapshot verify STATE MEMORY
 *	spore-snapshot merge STATE MEMORY DIFF-STATE DIFF-MEMORY NEW-STATE NEW-MEMORY
 *	spore-snapshot pack STATE MEMORY PACK
 *	spore-snapshot unpack PACK STATE MEMORY
 *
 * "verify" reads all of the memory file and compares it with the hashes in the state file. "merge"
 * makes a complete snapshot of a diff and the one that it is a diff of; NEW may be BASE or DIFF.
 * "pack" makes one compressed file of both, to be moved to another host, and "unpack" both of it.
 * Exit status: 0 done, 1 refused or failed, 2 wrong usage.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "snapshot/merge.h"
#include "snapshot/state.h"
#include "tools/snapshot-pack.h"
#include "vmm/base/fd.h"

static int info(char *arg[], struct err *e)
{
	cleanup_fd int fd = fd_open_file(arg[0], O_RDONLY, false, e);

	if (fd < 0)
		return fd;
	return state_describe(fd, STDOUT_FILENO, e) < 0 ? err_wrap(e, "'%s'", arg[0]) : 0;
}

static int verify(char *arg[], struct err *e)
{
	return snapshot_verify(&(struct snapshot_files){arg[0], arg[1]}, e);
}

static int merge(char *arg[], struct err *e)
{
	return snapshot_merge(&(struct snapshot_files){arg[0], arg[1]},
			      &(struct snapshot_files){arg[2], arg[3]},
			      &(struct snapshot_files){arg[4], arg[5]}, e);
}

/* zstd's own default. */
#define PACK_LEVEL 3

static int pack(char *arg[], struct err *e)
{
	return snapshot_pack(&(struct snapshot_files){arg[0], arg[1]}, arg[2], PACK_LEVEL, e);
}

static int unpack(char *arg[], struct err *e)
{
	return snapshot_unpack(arg[0], &(struct snapshot_files){arg[1], arg[2]}, e);
}

static const struct {
	const char *name;
	int args;
	int (*run)(char *arg[], struct err *e);
	const char *usage;
} verbs[] = {
	{"info", 1, info, "STATE"},
	{"verify", 2, verify, "STATE MEMORY"},
	{"merge", 6, merge, "STATE MEMORY DIFF-STATE DIFF-MEMORY NEW-STATE NEW-MEMORY"},
	{"pack", 3, pack, "STATE MEMORY PACK"},
	{"unpack", 3, unpack, "PACK STATE MEMORY"},
};

int main(int argc, char *argv[])
{
	struct err e = {0};

	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
		if (argc != verbs[i].args + 2 || strcmp(argv[1], verbs[i].name) != 0)
			continue;
		if (verbs[i].run(argv + 2, &e) == 0)
			return 0;
		fprintf(stderr, "spore-snapshot: %s\n", e.msg);
		return 1;
	}
	fprintf(stderr, "usage:\n");
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		fprintf(stderr, "  spore-snapshot %s %s\n", verbs[i].name, verbs[i].usage);
	return 2;
}
