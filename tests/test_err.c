/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/base/err.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

Test(err, set_returns_the_negative_code)
{
	struct err e = {0};

	cr_assert_eq(err_set(&e, ENOSPC, "drive %u", 3u), -ENOSPC);
	cr_assert_eq(e.code, ENOSPC);
	cr_assert_str_eq(e.msg, "drive 3");
}

Test(err, sys_takes_errno_and_says_it)
{
	struct err e;

	errno = ENOENT;
	cr_assert_eq(err_sys(&e, "open '%s'", "/img"), -ENOENT);
	cr_assert_eq(e.code, ENOENT);
	cr_assert_str_eq(e.msg, "open '/img': No such file or directory");
}

Test(err, each_layer_wraps_once)
{
	struct err e;

	errno = EACCES;
	err_sys(&e, "open 'x'");
	cr_assert_eq(err_wrap(&e, "drive '%s'", "root"), -EACCES);
	cr_assert_eq(err_wrap(&e, "start"), -EACCES);
	cr_assert_str_eq(e.msg, "start: drive 'root': open 'x': Permission denied");
}

/* A caller that does not want the words. */
Test(err, null_is_allowed)
{
	errno = EBADF;
	cr_assert_eq(err_sys(NULL, "x"), -EBADF);
	cr_assert_eq(err_set(NULL, EINVAL, "x"), -EINVAL);
	cr_assert_lt(err_wrap(NULL, "x"), 0);
}

/* Whatever a callee forgot, a failure must not turn into 0. */
Test(err, a_failure_never_becomes_success)
{
	struct err e = {0};

	cr_assert_lt(err_wrap(&e, "vCPU 1"), 0);
	cr_assert_neq(e.code, 0);
	errno = 0;
	cr_assert_lt(err_sys(&e, "x"), 0);
	cr_assert_lt(err_sys(NULL, "x"), 0);
}

Test(err, long_messages_are_cut_and_terminated)
{
	char text[1000];
	struct err e;

	memset(text, 'a', sizeof(text));
	text[sizeof(text) - 1] = 0;
	err_set(&e, EIO, "%s", text);
	cr_assert_eq(strlen(e.msg), sizeof(e.msg) - 1);
	errno = EIO;
	err_sys(&e, "%s", text);
	cr_assert_eq(strlen(e.msg), sizeof(e.msg) - 1);
	cr_assert_eq(err_wrap(&e, "%s", text), -EIO);
	cr_assert_eq(strlen(e.msg), sizeof(e.msg) - 1);
	cr_assert_eq(err_wrap(&e, "start"), -EIO);
	cr_assert_eq(strlen(e.msg), sizeof(e.msg) - 1);
	cr_assert_eq(strncmp(e.msg, "start: aaa", 10), 0);
}

/* Every length around the end of the buffer: the sanitizers look on. */
Test(err, every_length_at_the_edge)
{
	char text[sizeof(((struct err *)0)->msg) + 4];
	struct err e;

	for (size_t n = sizeof(e.msg) - 24; n < sizeof(text); n++) {
		memset(text, 'b', n);
		text[n] = 0;
		errno = ENOENT;
		err_sys(&e, "%s", text);
		cr_assert_lt(strlen(e.msg), sizeof(e.msg));
		err_wrap(&e, "%s", text);
		cr_assert_lt(strlen(e.msg), sizeof(e.msg));
	}
}

Test(err, clean_text)
{
	static const char *const pairs[][2] = {
		{"plain", "plain"},
		{"a\nb\tc\x7f", "a?b?c?"},
		{"gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f"},
		{"\xf0\x9f\x8d\x84", "\xf0\x9f\x8d\x84"},
		{"cut \xc3", "cut ?"},
		{"cut \xe2\x82", "cut ??"},
		{"\xff\xfe", "??"},
		{"\xc0\xaf", "??"},	      /* overlong '/' */
		{"\xed\xa0\x80", "???"},      /* a surrogate */
		{"\xf4\x90\x80\x80", "????"}, /* beyond U+10FFFF */
		{"\x80"
		 "a",
		 "?a"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		char buf[16];

		snprintf(buf, sizeof(buf), "%s", pairs[i][0]);
		err_clean_text(buf);
		cr_expect_str_eq(buf, pairs[i][1]);
	}
}
