/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "snapshot/pager.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "snapshot/uffd.h"

#define SIZE  MIB(4)
#define PAGES (SIZE / GMEM_PAGE)

static struct gmem mem;
static struct pager *pager;
static int file;
static struct err e;

/* A page of the file begins with its number plus 1. */
static void start(void)
{
	const struct gmem_region ram = {.len = SIZE};

	file = memfd_create("memory", MFD_CLOEXEC);
	cr_assert_eq(ftruncate(file, SIZE), 0);
	for (uint64_t i = 0; i < PAGES; i++)
		cr_assert_eq(pwrite(file, &(uint64_t){i + 1}, 8, (off_t)(i * GMEM_PAGE)), 8);
	cr_assert_eq(gmem_init(&mem, &ram, 1, GMEM_ANON, false, &e), 0);
}

static void serve(void)
{
	int fd = uffd_open(&mem, &e);

	if (fd < 0)
		cr_skip_test("no userfaultfd for this user: %s", e.msg);
	close(fd);
	pager = pager_create(&mem, file, NULL, &e);
	cr_assert_not_null(pager, "%s", e.msg);
}

static void finish(void)
{
	gmem_finish(&mem);
	pager_destroy(pager);
}

TestSuite(pager, .init = start, .fini = finish, .timeout = 60);

static uint64_t first_of(uint64_t page)
{
	return *(volatile uint64_t *)(void *)(gmem_base(&mem) + page * GMEM_PAGE);
}

static void *read_all(void *arg)
{
	uint64_t stride = *(uint64_t *)arg, wrong = 0;

	for (uint64_t i = 0; i < PAGES; i++) {
		uint64_t page = i * stride % PAGES;

		wrong += first_of(page) != page + 1;
	}
	*(uint64_t *)arg = wrong;
	return NULL;
}

Test(pager, threads_that_want_the_same_pages_get_what_the_file_has)
{
	uint64_t stride[] = {1, 3, 17, 255, PAGES - 1};
	pthread_t thread[ARRAY_SIZE(stride)];

	serve();
	for (unsigned i = 0; i < ARRAY_SIZE(stride); i++)
		cr_assert_eq(pthread_create(&thread[i], NULL, read_all, &stride[i]), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(stride); i++) {
		pthread_join(thread[i], NULL);
		cr_expect_eq(stride[i], 0, "thread %u read %llu wrong pages", i,
			     (unsigned long long)stride[i]);
	}
}

Test(pager, what_was_discarded_is_zero_whether_it_was_there_or_not)
{
	serve();
	cr_expect_eq(first_of(3), 4);
	cr_assert_geq(gmem_discard(&mem, gmem_base(&mem) + 3 * GMEM_PAGE, GMEM_PAGE), 0);
	cr_assert_geq(gmem_discard(&mem, gmem_base(&mem) + 500 * GMEM_PAGE, 5 * GMEM_PAGE), 0);
	cr_expect_eq(first_of(3), 0);
	cr_expect_eq(first_of(2), 3);
	for (uint64_t i = 500; i < 505; i++)
		cr_expect_eq(first_of(i), 0);
	cr_expect_eq(first_of(499), 500);
	cr_expect_eq(first_of(505), 506);
	*(volatile uint64_t *)(void *)(gmem_base(&mem) + 501 * GMEM_PAGE) = 7;
	cr_expect_eq(first_of(501), 7);
}

Test(pager, only_what_is_touched_is_brought)
{
	unsigned char in[PAGES];
	unsigned there = 0;

	serve();
	cr_expect_eq(first_of(512), 513);
	cr_assert_eq(mincore(gmem_base(&mem), SIZE, in), 0);
	for (uint64_t i = 0; i < PAGES; i++)
		there += in[i] & 1;
	cr_expect_leq(there, 16);
	cr_expect_geq(there, 1);
}
