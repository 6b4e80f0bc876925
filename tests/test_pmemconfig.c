/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/scratch.h"
#include "vmm/base/fd.h"
#include "vmm/config.h"
#include "vmm/vm.h"

static struct scratch s;
static struct config c;
static struct err e;
static char bytes[4096];

static void start(void)
{
	scratch_init(&s);
	config_init(&c);
	scratch_file(&s, "one", bytes, sizeof(bytes));
	scratch_file(&s, "two", bytes, sizeof(bytes));
	scratch_file(&s, "empty", bytes, 0);
}

static void finish(void)
{
	config_finish(&c);
	scratch_finish(&s);
}

TestSuite(pmemconfig, .init = start, .fini = finish, .timeout = 30);

static int set(const char *id, const char *path, bool root, bool read_only)
{
	struct pmem_config p;
	int r;

	pmem_config_init(&p);
	strcpy(p.id, id);
	p.path_on_host = path ? strdup(scratch_path(&s, path)) : NULL;
	p.root_device = root;
	p.read_only = read_only;
	e.msg[0] = '\0';
	r = config_set_pmem(&c, &p, &e);
	pmem_config_finish(&p);
	return r;
}

static void refused(int r, const char *why)
{
	cr_expect_lt(r, 0, "expected: %s", why);
	cr_expect(strstr(e.msg, why), "'%s' is not in '%s'", why, e.msg);
}

static int set_drive(const char *path, bool root)
{
	struct drive d;
	int r;

	drive_init(&d);
	strcpy(d.id, "d");
	d.path_on_host = strdup(scratch_path(&s, path));
	d.is_root_device = root;
	r = config_set_drive(&c, &d, &e);
	drive_finish(&d);
	return r;
}

Test(pmemconfig, opened_as_it_is_used)
{
	cr_assert_eq(set("a", "one", false, false), 0, "%s", e.msg);
	cr_assert_eq(set("b", "two", false, true), 0, "%s", e.msg);
	cr_expect_eq(c.pmem_count, 2);
	cr_expect_eq(fcntl(c.pmem[0].fd, F_GETFL) & O_ACCMODE, O_RDWR);
	cr_expect_eq(fcntl(c.pmem[1].fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	cr_assert_eq(set("a", "one", false, true), 0, "replaced: %s", e.msg);
	cr_expect_eq(c.pmem_count, 2);
	cr_expect(config_find_pmem(&c, "a")->read_only);
	cr_expect_null(config_find_pmem(&c, "c"));
}

Test(pmemconfig, files_that_are_refused)
{
	refused(set("a", NULL, false, false), "path_on_host: missing");
	refused(set("a", "none", false, false), "path_on_host: open");
	refused(set("a", "empty", false, false), "is empty");
	refused(set("a", ".", false, false), "a directory");
	cr_expect_eq(c.pmem_count, 0);
}

Test(pmemconfig, one_root_of_drives_and_these)
{
	cr_assert_eq(set("a", "one", false, true), 0);
	cr_assert_eq(set("b", "two", true, true), 0);
	cr_expect_str_eq(c.pmem[0].id, "b", "the root is first");
	refused(set("a", "one", true, true), "root_device: pmem 'b' is the root device");
	cr_expect_lt(set_drive("one", true), 0);
	cr_expect(strstr(e.msg, "is_root_device: pmem 'b' is the root device"), "%s", e.msg);
	cr_assert_eq(set("b", "two", false, true), 0);
	config_finish(&c);
	cr_assert_eq(set_drive("one", true), 0);
	refused(set("b", "two", true, true), "root_device: drive 'd' is the root device");
}

Test(pmemconfig, at_most_eight)
{
	char id[2] = "a";

	for (unsigned i = 0; i < PMEMCONFIG_MAX; i++, id[0]++)
		cr_assert_eq(set(id, "one", false, true), 0, "%s", e.msg);
	refused(set("z", "two", false, true), "there are 8 pmem devices");
}

Test(pmemconfig, a_file_in_use)
{
	int other = open(scratch_path(&s, "one"), O_RDWR | O_CLOEXEC);

	cr_assert_eq(fd_try_lock(other, false), 0);
	refused(set("a", "one", false, false), "in use");
	cr_assert_eq(set("a", "one", false, true), 0, "shared: %s", e.msg);
	refused(set("a", "one", false, false), "in use");
	cr_expect(c.pmem[0].read_only, "as it was");
	cr_expect_lt(fd_try_lock(other, true), 0, "locked as it was");
	close(other);
	cr_assert_eq(set("a", "one", false, false), 0, "%s", e.msg);
	cr_assert_eq(set("a", "one", false, false), 0, "again: %s", e.msg);
	refused(set("b", "one", false, true), "in use");
	cr_expect_lt(set_drive("one", false), 0, "a drive of this VM");
	other = open(scratch_path(&s, "one"), O_RDONLY | O_CLOEXEC);
	cr_expect_lt(fd_try_lock(other, false), 0);
	config_finish(&c);
	cr_expect_eq(fd_try_lock(other, true), 0, "released");
	close(other);
}

/* The microVM that a snapshot is of may still have it. */
Test(pmemconfig, a_file_in_use_when_a_snapshot_is_loaded)
{
	int other = open(scratch_path(&s, "one"), O_RDWR | O_CLOEXEC);

	cr_assert_eq(fd_try_lock(other, true), 0);
	c.loading = true;
	cr_expect_eq(set("a", "one", false, false), 0, "%s", e.msg);
	close(other);
	cr_expect_eq(set("b", "two", false, false), 0, "%s", e.msg);
	other = open(scratch_path(&s, "two"), O_RDONLY | O_CLOEXEC);
	cr_expect_lt(fd_try_lock(other, false), 0, "locked when it is free");
	close(other);
}

static const struct gmem_region ram[] = {{.gpa = 0, .len = MIB(2)}};

Test(pmemconfig, above_ram_in_their_order)
{
	struct gmem m;

	cr_assert_eq(truncate(scratch_path(&s, "one"), MIB(2) + 1), 0);
	cr_assert_eq(set("a", "one", false, false), 0);
	cr_assert_eq(set("b", "two", false, true), 0);
	cr_assert_eq(gmem_init(&m, ram, 1, GMEM_ANON, false, NULL), 0);
	cr_assert_eq(pmem_map_all(&c, &m, &e), 0, "%s", e.msg);
	cr_expect_eq(m.count, 1);
	cr_expect_eq(m.all, 3);
	cr_expect_eq(m.region[1].gpa, GIB(4));
	cr_expect_eq(m.region[1].len, MIB(4));
	cr_expect_eq(m.region[2].gpa, GIB(4) + MIB(128));
	cr_expect_eq(m.region[2].len, MIB(2));
	gmem_finish(&m);
}

Test(pmemconfig, a_file_that_has_changed_since)
{
	struct gmem m;

	cr_assert_eq(set("a", "one", false, false), 0);
	cr_assert_eq(gmem_init(&m, ram, 1, GMEM_ANON, false, NULL), 0);
	cr_assert_eq(truncate(scratch_path(&s, "one"), 0), 0);
	refused(pmem_map_all(&c, &m, &e), "pmem 'a': '");
	cr_expect_eq(m.all, 1);
	gmem_finish(&m);
}

Test(pmemconfig, limits_of_one_that_is_not_there)
{
	struct pmem_update u = {.id = "a"};
	struct vm vm = {0};

	cr_expect_eq(pmem_update(&vm, &u, &e), -ENOENT);
	strcpy(vm.config.pmem[vm.config.pmem_count++].id, "a");
	cr_expect_eq(pmem_update(&vm, &u, &e), -EINVAL);
}
