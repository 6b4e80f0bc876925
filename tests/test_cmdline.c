/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cmdline.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static char line[LAYOUT_CMDLINE_MAX];

/* The line for these arguments, one drive or none, and so many virtio windows. */
static const char *build(const char *args, const struct drive *root, unsigned virtio)
{
	static struct config c;
	struct err e = {0};

	memset(&c, 0, sizeof(c));
	memset(line, 0xa5, sizeof(line));
	c.boot.boot_args = (char *)(uintptr_t)args;
	if (root)
		c.drive[c.drive_count++] = *root;
	cr_assert_eq(cmdline_build(&c, virtio, line, &e), 0, "%s", e.msg);
	return line;
}

static struct drive root_drive(bool read_only, const char *partuuid)
{
	return (struct drive){
		.is_root_device = true,
		.is_read_only = read_only,
		.partuuid = (char *)(uintptr_t)partuuid,
	};
}

Test(cmdline, default_arguments)
{
	cr_assert_str_eq(build(NULL, NULL, 0), BOOT_ARGS_DEFAULT);
}

Test(cmdline, root_device)
{
	struct drive ro = root_drive(true, NULL), rw = root_drive(false, NULL);
	struct drive part = root_drive(false, "1234-02"), data = {0};

	cr_assert_str_eq(build("quiet", &ro, 0), "quiet root=/dev/vda ro");
	cr_assert_str_eq(build("quiet", &rw, 0), "quiet root=/dev/vda rw");
	cr_assert_str_eq(build("quiet", &part, 0), "quiet root=PARTUUID=1234-02 rw");
	cr_assert_str_eq(build("quiet", &data, 0), "quiet");
}

Test(cmdline, root_in_memory)
{
	static struct config c;
	struct err e = {0};

	c.pmem_count = 1;
	cr_assert_eq(cmdline_build(&c, 0, line, &e), 0);
	cr_assert_str_eq(line, BOOT_ARGS_DEFAULT);
	c.pmem[0].root_device = true;
	cr_assert_eq(cmdline_build(&c, 0, line, &e), 0);
	cr_assert_str_eq(line, BOOT_ARGS_DEFAULT " root=/dev/pmem0 rw");
	c.pmem[0].read_only = true;
	cr_assert_eq(cmdline_build(&c, 0, line, &e), 0);
	cr_assert_str_eq(line, BOOT_ARGS_DEFAULT " root=/dev/pmem0 ro");
}

Test(cmdline, one_window_for_each_device)
{
	cr_assert_str_eq(build("quiet", NULL, 2), "quiet virtio_mmio.device=4K@0xc0001000:5"
						  " virtio_mmio.device=4K@0xc0002000:6");
}

Test(cmdline, empty_arguments)
{
	struct drive rw = root_drive(false, NULL);

	cr_assert_str_eq(build("", NULL, 0), "");
	cr_assert_str_eq(build("", &rw, 0), " root=/dev/vda rw");
}

/* What comes behind the token "--" is init's. */
Test(cmdline, words_of_init_stay_last)
{
	struct drive rw = root_drive(false, NULL);

	cr_assert_str_eq(build("quiet -- single", NULL, 0), "quiet -- single");
	cr_assert_str_eq(build("quiet -- a -- b", &rw, 0), "quiet root=/dev/vda rw -- a -- b");
	cr_assert_str_eq(build("quiet  --  a", &rw, 0), "quiet root=/dev/vda rw --  a");
	cr_assert_str_eq(build("quiet\t--\ta", &rw, 0), "quiet root=/dev/vda rw --\ta");
	cr_assert_str_eq(build("quiet --", &rw, 0), "quiet root=/dev/vda rw --");
	cr_assert_str_eq(build("-- a", &rw, 0), " root=/dev/vda rw -- a");
	cr_assert_str_eq(build("--", NULL, 1), " virtio_mmio.device=4K@0xc0001000:5 --");
}

Test(cmdline, what_only_looks_like_the_separator)
{
	struct drive rw = root_drive(false, NULL);

	cr_assert_str_eq(build("--x a-- ---", &rw, 0), "--x a-- --- root=/dev/vda rw");
	cr_assert_str_eq(build("a=\"b -- c\" d", &rw, 0), "a=\"b -- c\" d root=/dev/vda rw");
	cr_assert_str_eq(build("a=\"b -- c", &rw, 0), "a=\"b -- c root=/dev/vda rw");
	cr_assert_str_eq(build("a=\" x\" -- c", &rw, 0), "a=\" x\" root=/dev/vda rw -- c");
}

/* Every length around the limit; what is long is at the end, in the middle, or init's. */
static void at_the_limit(const char *before, const char *after)
{
	static char args[LAYOUT_CMDLINE_MAX + 128];
	const size_t added = strlen(" virtio_mmio.device=4K@0xc0001000:5");
	bool fitted = false, refused = false;

	for (unsigned n = LAYOUT_CMDLINE_MAX - 120; n < LAYOUT_CMDLINE_MAX + 32; n++) {
		struct config c = {.boot.boot_args = args};
		size_t len = (size_t)sprintf(args, "%s%0*d%s", before, (int)n, 0, after) + added;
		struct err e = {0};
		int r = cmdline_build(&c, 1, line, &e);

		if (len < LAYOUT_CMDLINE_MAX) {
			cr_assert_eq(r, 0);
			cr_assert_eq(strlen(line), len);
			fitted = true;
		} else {
			cr_assert_eq(r, -E2BIG);
			cr_assert_not_null(strstr(e.msg, "longer than 2047"), "%s", e.msg);
			refused = true;
		}
	}
	cr_assert(fitted && refused);
}

Test(cmdline, the_limit)
{
	at_the_limit("", "");
	at_the_limit("", " -- init");
	at_the_limit("quiet -- ", "");
}

/* Far over the limit: nothing is written behind the buffer (the sanitizers look on). */
Test(cmdline, far_too_long)
{
	size_t n = 200000;
	char *args = malloc(n);
	struct config c = {.boot.boot_args = args};
	char *buf = malloc(LAYOUT_CMDLINE_MAX);

	memset(args, 'x', n - 1);
	args[n - 1] = 0;
	cr_assert_eq(cmdline_build(&c, LAYOUT_VIRTIO_MAX, buf, NULL), -E2BIG);
	memcpy(args + n - 10, " -- a", 5);
	cr_assert_eq(cmdline_build(&c, LAYOUT_VIRTIO_MAX, buf, NULL), -E2BIG);
	free(buf);
	free(args);
}
