/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "vmm/base/random.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "vmm/base/fd.h"

#define LEN 1000

static void expect_random(void)
{
	static const uint8_t zero[LEN];
	uint8_t a[LEN] = {0}, b[LEN] = {0};

	cr_assert_eq(random_bytes(a, sizeof(a)), sizeof(a));
	cr_assert_eq(random_bytes(b, sizeof(b)), sizeof(b));
	cr_expect_neq(memcmp(a, b, sizeof(a)), 0);
	/* To the last byte, at least in one of them. */
	cr_expect_neq(memcmp(a + LEN - 16, zero, 16), 0);
	cr_expect_eq(random_bytes(a, 0), 0);
}

Test(random, of_the_call_and_of_the_device)
{
	expect_random();
	cr_assert(random_open(), "/dev/urandom");
	expect_random();
	cr_expect(random_open(), "again");
}

Test(random, a_device_that_has_none_to_give_says_so)
{
	uint8_t a[LEN];
	cleanup_fd int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int next = fcntl(null, F_DUPFD_CLOEXEC, 0);

	/* The lowest free number is what it gets; then it is something else. */
	close(next);
	cr_assert(random_open());
	cr_assert_eq(dup3(null, next, O_CLOEXEC), next);
	cr_expect_eq(random_bytes(a, sizeof(a)), 0);
}
