/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory that a thread of spore brings from the memory file when it is touched (userfaultfd(2)):
 * what a page fault handler does, without another process. The pages are anonymous ones, of 2 MiB if
 * the memory is, so that a guest has them from the first access on, which no mapping of a file gives.
 *
 * A page is brought once. What was discarded since (balloon, memory hotplug) reads as zeroes, as in any
 * other memory.
 */
#pragma once

#include "jailer/seccomp.h"
#include "vmm/base/gmem.h"

struct pager;

/*
 * Serves all of `m`, which is new (GMEM_ANON or GMEM_HUGETLB_2M), from `file`: as long, and left as it is
 * meanwhile; taken, also on failure. If it cannot be read, the process ends like one whose mapped file is cut short.
 * The thread puts itself under the filter FETCH. Main thread. NULL with `e` filled.
 */
struct pager *pager_create(const struct gmem *m, int file, const struct seccomp *seccomp,
			   struct err *e);
/* When nobody waits for a page any more; `m` may be gone. Takes NULL. */
void pager_destroy(struct pager *p);
