/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mprotect() of a program that is linked with musl: in the place of musl's own, so that the seccomp
 * filters need not allow the call.
 *
 * Nobody but musl calls it, and only to make pages usable that it has reserved and that were never
 * touched: malloc() its tables, pthread_create() a stack behind its guard. To map them anew comes
 * to the same. Never call it for pages that hold something: they would be empty.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#ifndef __GLIBC__

int __mprotect(void *page, size_t len, int rights);

int __mprotect(void *page, size_t len, int rights)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;

	return mmap(page, len, rights, flags, -1, 0) == MAP_FAILED ? -1 : 0;
}

int mprotect(void *page, size_t len, int rights)
{
	return __mprotect(page, len, rights);
}

#endif
