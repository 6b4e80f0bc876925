/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "vmm/base/help.h"

#include <criterion/criterion.h>
#include <sys/mman.h>
#include <unistd.h>

static void prints(const char *left, unsigned width, const char *text, const char *expected)
{
	char buf[1024] = "";
	int fd = memfd_create("help", MFD_CLOEXEC);

	help_print(fd, left, width, text);
	cr_assert_geq(pread(fd, buf, sizeof(buf) - 1, 0), 0);
	cr_assert_str_eq(buf, expected);
	close(fd);
}

#define TEN "123456789 "

Test(help, one_line)
{
	prints("--id ID", 10, "who it is", "  --id ID    who it is\n");
	prints("--very-long-one", 4, "text", "  --very-long-one text\n");
	prints("--nothing", 10, "", "  --nothing  \n");
}

Test(help, eighty_columns_and_not_one_more)
{
	/* 3 + 7 columns, then seven times ten without the last space: 79. */
	prints("x", 7, TEN TEN TEN TEN TEN TEN TEN "z",
	       "  x       " TEN TEN TEN TEN TEN TEN "123456789\n"
	       "          z\n");
	prints("x", 7, TEN TEN TEN TEN TEN TEN "1234567890 z",
	       "  x       " TEN TEN TEN TEN TEN TEN "1234567890\n"
	       "          z\n");
	prints("x", 7, TEN TEN TEN TEN TEN TEN "12345678 z",
	       "  x       " TEN TEN TEN TEN TEN TEN "12345678 z\n");
	prints("x", 7, TEN TEN TEN TEN TEN TEN "12345678901 z",
	       "  x       " TEN TEN TEN TEN TEN "123456789\n"
	       "          12345678901 z\n");
}

Test(help, a_word_longer_than_the_line_stays_whole)
{
	prints("x", 60, "a " TEN TEN "12345678901234567890 b",
	       "  x                                                            a 123456789\n"
	       "                                                               123456789\n"
	       "                                                               "
	       "12345678901234567890\n"
	       "                                                               b\n");
}
