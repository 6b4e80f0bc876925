/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/scratch.h"
#include "virtio/overlay.h"
#include "vmm/base/fd.h"
#include "vmm/drive.h"

static struct scratch s;
static struct config c;
static struct err e;
static char base[4096];

static void start(void)
{
	scratch_init(&s);
	config_init(&c);
	scratch_file(&s, "disk", base, sizeof(base));
	scratch_file(&s, "other", base, sizeof(base));
}

static void finish(void)
{
	config_finish(&c);
	scratch_finish(&s);
}

TestSuite(drive, .init = start, .fini = finish, .timeout = 30);

struct piece {
	const char *id, *path, *overlay;
	bool read_only;
};

static int set(struct piece p)
{
	struct drive d;
	int r;

	drive_init(&d);
	strcpy(d.id, p.id);
	d.path_on_host = strdup(scratch_path(&s, p.path));
	d.overlay = p.overlay ? strdup(scratch_path(&s, p.overlay)) : NULL;
	d.is_read_only = p.read_only;
	e.msg[0] = '\0';
	r = config_set_drive(&c, &d, &e);
	drive_finish(&d);
	return r;
}

static void refused(struct piece p, const char *why)
{
	cr_expect_lt(set(p), 0, "expected: %s", why);
	cr_expect(strstr(e.msg, why), "'%s' is not in '%s'", why, e.msg);
}

static bool exists(const char *name)
{
	return access(scratch_path(&s, name), F_OK) == 0;
}

/* As another VM would hold the file. */
static int hold(const char *name, bool exclusive)
{
	int fd = open(scratch_path(&s, name), O_RDWR | O_CLOEXEC);

	cr_assert_eq(fd_try_lock(fd, exclusive), 0);
	return fd;
}

Test(drive, an_overlay_is_made_and_used_again)
{
	int flags;

	cr_assert_eq(set((struct piece){"a", "disk", "new", false}), 0, "%s", e.msg);
	cr_expect(exists("new"), "made");
	flags = fcntl(c.drive[0].fd, F_GETFL);
	cr_expect_eq(flags & O_ACCMODE, O_RDONLY, "the base is only read");
	cr_assert_eq(set((struct piece){"a", "disk", "new", false}), 0, "%s", e.msg);
	cr_expect_eq(c.drive_count, 1);
	cr_expect_eq(fd_size(c.drive[0].overlay_fd), 65536 + 4096);
}

Test(drive, an_empty_file_becomes_an_overlay)
{
	scratch_file(&s, "empty", base, 0);
	cr_assert_eq(set((struct piece){"a", "disk", "empty", false}), 0, "%s", e.msg);
}

Test(drive, overlays_that_are_refused)
{
	scratch_file(&s, "large", base, sizeof(base) - 1);
	refused((struct piece){"a", "disk", "new", true}, "overlay: the drive is read-only");
	refused((struct piece){"a", "disk", "other", false}, "not an overlay");
	refused((struct piece){"a", "disk", "disk", false}, "path_on_host itself");
	refused((struct piece){"a", "disk", "no/dir", false}, "overlay: ");
	refused((struct piece){"a", "none", "new", false}, "path_on_host: ");
	cr_expect(!exists("new"), "not made");
	cr_assert_eq(set((struct piece){"a", "disk", "new", false}), 0);
	config_finish(&c);
	refused((struct piece){"a", "large", "new", false},
		"base had 4096 bytes, this one has 4095");
	cr_expect(exists("new"), "what was there before stays");
	cr_expect_eq(c.drive_count, 0);
}

Test(drive, files_in_use_by_another_vm)
{
	int fd;

	cr_assert_eq(set((struct piece){"a", "disk", "new", false}), 0);
	config_finish(&c);
	fd = hold("new", true);
	refused((struct piece){"a", "disk", "new", false}, "in use by another microVM");
	close(fd);
	fd = hold("disk", true);
	refused((struct piece){"a", "disk", "new2", false}, "path_on_host: ");
	refused((struct piece){"a", "disk", NULL, false}, "in use by another microVM");
	cr_expect(!exists("new2"), "not made");
	close(fd);
	fd = hold("disk", false);
	refused((struct piece){"a", "disk", NULL, false}, "in use by another microVM");
	cr_expect_eq(set((struct piece){"a", "disk", NULL, true}), 0);
	cr_expect_eq(set((struct piece){"a", "disk", "new", false}), 0, "a base is shared");
	close(fd);
}

Test(drive, a_snapshot_that_is_loaded_may_share_a_disk_but_no_overlay)
{
	int fd;

	cr_assert_eq(set((struct piece){"a", "disk", "new", false}), 0);
	config_finish(&c);
	fd = hold("disk", true);
	c.loading = true;
	cr_expect_eq(set((struct piece){"a", "disk", NULL, false}), 0, "%s", e.msg);
	cr_expect_eq(set((struct piece){"a", "disk", "new", false}), 0, "%s", e.msg);
	close(fd);
	config_finish(&c);
	fd = hold("new", true);
	c.loading = true;
	refused((struct piece){"a", "disk", "new", false}, "in use by another microVM");
	close(fd);
}

Test(drive, the_lock_is_held_and_released)
{
	int fd = open(scratch_path(&s, "disk"), O_RDWR | O_CLOEXEC);

	cr_assert_eq(set((struct piece){"a", "disk", NULL, false}), 0);
	cr_assert_eq(set((struct piece){"a", "disk", NULL, false}), 0);
	cr_expect_lt(fd_try_lock(fd, false), 0);
	cr_assert_eq(set((struct piece){"a", "disk", "new", false}), 0, "%s", e.msg);
	config_finish(&c);
	cr_expect_eq(fd_try_lock(fd, true), 0);
	close(fd);
}

Test(drive, two_drives_of_one_vm)
{
	cr_assert_eq(set((struct piece){"a", "disk", "new", false}), 0);
	refused((struct piece){"b", "disk", "new", false}, "in use by drive 'a'");
	refused((struct piece){"b", "disk", NULL, false}, "in use by drive 'a'");
	refused((struct piece){"b", "new", NULL, false}, "in use by drive 'a'");
	refused((struct piece){"b", "other", "disk", false}, "in use by drive 'a'");
	cr_expect_eq(set((struct piece){"b", "disk", "new2", false}), 0, "%s", e.msg);
	cr_expect_eq(set((struct piece){"c", "disk", NULL, true}), 0, "%s", e.msg);
	cr_expect_eq(set((struct piece){"d", "other", NULL, false}), 0, "%s", e.msg);
	cr_expect_eq(set((struct piece){"e", "other", NULL, false}), 0, "as with Firecracker");
	refused((struct piece){"f", "other", "new3", false}, "in use by drive 'd'");
	cr_expect(!exists("new3"), "not made");
}
