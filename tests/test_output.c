/* SPDX-License-Identifier: Apache-2.0 */
#include "snapshot/output.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/scratch.h"
#include "vmm/base/fd.h"

static struct scratch dir;

static void setup(void)
{
	scratch_init(&dir);
}

static void teardown(void)
{
	scratch_finish(&dir);
}

TestSuite(output, .init = setup, .fini = teardown);

static void begin(struct output *o, const char *state, const char *memory)
{
	struct err e = {0};

	cr_assert_eq(output_create(o, scratch_path(&dir, state), scratch_path(&dir, memory), &e), 0,
		     "%s", e.msg);
	cr_assert_eq(write(o->state.fd, "new", 3), 3);
	cr_assert_eq(write(o->memory.fd, "NEW", 3), 3);
}

static void expect_file(const char *name, const char *want)
{
	char buf[16] = "";
	int fd = open(scratch_path(&dir, name), O_RDONLY);

	cr_assert_geq(fd, 0, "%s: %s", name, strerror(errno));
	cr_expect_geq(read(fd, buf, sizeof(buf) - 1), 0);
	cr_expect_str_eq(buf, want, "%s", name);
	close(fd);
}

static unsigned count_files(void)
{
	DIR *d = opendir(dir.dir);
	unsigned n = 0;

	for (struct dirent *entry; (entry = readdir(d));)
		n += entry->d_name[0] != '.';
	closedir(d);
	return n;
}

Test(output, both_appear_under_their_names)
{
	struct output o;
	struct stat st;

	begin(&o, "s", "m");
	cr_expect_neq(stat(scratch_path(&dir, "s"), &st), 0);
	cr_assert_eq(output_commit(&o, NULL), 0);
	expect_file("s", "new");
	expect_file("m", "NEW");
	cr_expect_eq(stat(scratch_path(&dir, "m"), &st), 0);
	cr_expect_eq(st.st_mode & 0777, 0600);
	cr_expect_eq(st.st_ino, o.memory.inode);
	output_drop(&o);
	cr_expect_eq(count_files(), 2);
}

Test(output, what_is_not_committed_leaves_the_old_ones)
{
	struct output o;

	scratch_file(&dir, "s", "old", 3);
	scratch_file(&dir, "m", "OLD", 3);
	begin(&o, "s", "m");
	output_drop(&o);
	expect_file("s", "old");
	expect_file("m", "OLD");
	cr_expect_eq(count_files(), 2);
	begin(&o, "s", "m");
	cr_assert_eq(output_commit(&o, NULL), 0);
	output_drop(&o);
	expect_file("s", "new");
	cr_expect_eq(count_files(), 2);
}

Test(output, leftovers_of_a_killed_process_do_no_harm)
{
	struct output o;

	scratch_file(&dir, "s.tmp", "half", 4);
	scratch_file(&dir, "m.tmp", "half", 4);
	begin(&o, "s", "m");
	cr_assert_eq(output_commit(&o, NULL), 0);
	output_drop(&o);
	expect_file("s", "new");
	expect_file("m", "NEW");
	cr_expect_eq(count_files(), 2);
}

Test(output, two_that_write_the_same_do_not_mix)
{
	struct output a, b;
	struct err e = {0};

	begin(&a, "s", "m");
	begin(&b, "s", "m");
	cr_expect_eq(output_commit(&a, &e), -EBUSY);
	cr_expect(strstr(e.msg, "somebody else"), "%s", e.msg);
	output_drop(&a);
	cr_expect_eq(output_commit(&b, &e), 0, "%s", e.msg);
	output_drop(&b);
	expect_file("s", "new");
	expect_file("m", "NEW");
	cr_expect_eq(count_files(), 2);
}

Test(output, what_cannot_be_written_is_refused_at_once)
{
	struct output o;
	struct err e = {0};
	const char *s = scratch_path(&dir, "s");

	cr_expect_eq(output_create(&o, s, s, &e), -EINVAL);
	cr_expect(strstr(e.msg, "at once"), "%s", e.msg);
	cr_expect_eq(output_create(&o, s, "/dev/null", &e), -EINVAL);
	cr_expect_eq(output_create(&o, "", s, &e), -EINVAL);
	cr_expect_eq(output_create(&o, scratch_path(&dir, ""), s, &e), -EINVAL);
	cr_expect_eq(output_create(&o, s, scratch_path(&dir, "no/such/dir"), &e), -ENOENT);
	cr_expect_eq(output_create(&o, s, scratch_fifo(&dir, "fifo"), &e), -EINVAL);
	cr_assert_eq(symlink("s", scratch_path(&dir, "link")), 0);
	cr_expect_eq(output_create(&o, scratch_path(&dir, "link"), s, &e), -EINVAL);
	cr_expect_eq(count_files(), 2, "only the fifo and the link");
}

/* The states that a crash can leave between the renames. */
Test(output, memory_is_found_wherever_a_crash_left_it)
{
	struct output o;
	struct stat st;
	char waiting[300];
	int fd;

	scratch_file(&dir, "m", "OLD", 3);
	begin(&o, "s", "m");
	snprintf(waiting, sizeof(waiting), "%s.%llu", scratch_path(&dir, "m"),
		 (unsigned long long)o.memory.inode);
	cr_assert_eq(rename(scratch_path(&dir, "m.tmp"), waiting), 0);
	o.memory.temp[0] = '\0';
	/* The old state has the old inode. */
	cr_assert_eq(stat(scratch_path(&dir, "m"), &st), 0);
	fd = output_open_memory(scratch_path(&dir, "m"), st.st_ino, NULL);
	cr_assert_geq(fd, 0);
	cr_expect(fstat(fd, &st) == 0 && st.st_ino != o.memory.inode);
	close(fd);
	/* The new one has the new one's. */
	fd = output_open_memory(scratch_path(&dir, "m"), o.memory.inode, NULL);
	cr_assert_geq(fd, 0);
	cr_expect(fstat(fd, &st) == 0 && st.st_ino == o.memory.inode);
	close(fd);
	/* The same when there never was an old one. */
	unlink(scratch_path(&dir, "m"));
	fd = output_open_memory(scratch_path(&dir, "m"), o.memory.inode, NULL);
	cr_expect_geq(fd, 0);
	close(fd);
	unlink(waiting);
	cr_expect_eq(output_open_memory(scratch_path(&dir, "m"), o.memory.inode, NULL), -ENOENT);
	output_drop(&o);
}

Test(output, a_copy_has_another_inode_and_is_fine)
{
	int fd;

	scratch_file(&dir, "m", "COPY", 4);
	fd = output_open_memory(scratch_path(&dir, "m"), 1, NULL);
	cr_expect_geq(fd, 0);
	close(fd);
}
