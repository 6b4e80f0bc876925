/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/scratch.h"
#include "vmm/config.h"

static struct scratch s;
static struct config c;
static struct err e;

static void start(void)
{
	scratch_init(&s);
	config_init(&c);
}

static void finish(void)
{
	config_finish(&c);
	scratch_finish(&s);
}

TestSuite(config, .init = start, .fini = finish, .timeout = 30);

static unsigned open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void said(const char *a, const char *b)
{
	cr_expect(strstr(e.msg, a), "'%s' is not in '%s'", a, e.msg);
	cr_expect(strstr(e.msg, b), "'%s' is not in '%s'", b, e.msg);
}

/* --- machine --- */

Test(config, machine_limits)
{
	static const struct {
		struct machine_config m;
		const char *field; /* NULL: fine */
	} cases[] = {
		{{.vcpu_count = 1, .mem_size_mib = 1}, NULL},
		{{.vcpu_count = 32, .mem_size_mib = 1048576}, NULL},
		{{.vcpu_count = 3, .mem_size_mib = 128}, NULL},
		{{.vcpu_count = 1, .mem_size_mib = 128, .smt = true}, NULL},
		{{.vcpu_count = 6, .mem_size_mib = 128, .smt = true}, NULL},
		{{.vcpu_count = 3, .mem_size_mib = 128, .smt = true}, "vcpu_count"},
		{{.vcpu_count = 0, .mem_size_mib = 128}, "vcpu_count"},
		{{.vcpu_count = 33, .mem_size_mib = 128}, "vcpu_count"},
		{{.vcpu_count = 1, .mem_size_mib = 0}, "mem_size_mib"},
		{{.vcpu_count = 1, .mem_size_mib = 1048577}, "mem_size_mib"},
		{{.vcpu_count = 1, .mem_size_mib = UINT64_MAX}, "mem_size_mib"},
		{{.vcpu_count = 1, .mem_size_mib = 3, .huge_pages = HUGE_PAGES_2M}, "mem_size_mib"},
		{{.vcpu_count = 1, .mem_size_mib = 3, .huge_pages = HUGE_PAGES_TRANSPARENT},
		 "mem_size_mib"},
		{{.vcpu_count = 1, .mem_size_mib = 4, .huge_pages = HUGE_PAGES_2M}, NULL},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct machine_config before = c.machine;
		int r = config_set_machine(&c, &cases[i].m, &e);

		cr_expect_eq(r, cases[i].field ? -EINVAL : 0, "case %zu", i);
		if (cases[i].field) {
			said(cases[i].field, "");
			cr_expect_eq(memcmp(&before, &c.machine, sizeof(before)), 0);
		} else {
			cr_expect_eq(c.machine.vcpu_count, cases[i].m.vcpu_count);
		}
	}
}

/* --- boot source --- */

static struct boot_source boot_piece(const char *kernel, const char *initrd, const char *args)
{
	struct boot_source b;

	boot_source_init(&b);
	b.kernel_image_path = kernel ? strdup(kernel) : NULL;
	b.initrd_path = initrd ? strdup(initrd) : NULL;
	b.boot_args = args ? strdup(args) : NULL;
	return b;
}

static int set_boot(const char *kernel, const char *initrd, const char *args)
{
	struct boot_source b = boot_piece(kernel, initrd, args);
	int r = config_set_boot_source(&c, &b, &e);

	cr_expect(r < 0 || !b.kernel_image_path, "a piece that was taken is empty");
	boot_source_finish(&b);
	return r;
}

Test(config, boot_source_is_taken_and_replaced)
{
	const char *kernel = scratch_kernel(&s, "kernel");
	const char *initrd = scratch_file(&s, "initrd", "x", 1);
	unsigned fds;

	cr_assert_eq(set_boot(kernel, initrd, "quiet"), 0, "%s", e.msg);
	cr_expect_str_eq(c.boot.kernel_image_path, kernel);
	cr_expect_str_eq(c.boot.initrd_path, initrd);
	cr_expect_str_eq(c.boot.boot_args, "quiet");
	cr_expect_eq(fcntl(c.boot.kernel_fd, F_GETFD), FD_CLOEXEC);
	cr_expect(c.boot.plan.count > 0);
	fds = open_fds();
	cr_assert_eq(set_boot(kernel, NULL, NULL), 0);
	cr_expect_null(c.boot.initrd_path);
	cr_expect_null(c.boot.boot_args);
	cr_expect_eq(c.boot.initrd_fd, -1);
	cr_expect_eq(open_fds(), fds - 1);
}

Test(config, boot_source_refusals_change_nothing)
{
	const char *kernel = scratch_kernel(&s, "kernel");
	const char *text = scratch_file(&s, "text", "hello", 5);
	const char *fifo = scratch_fifo(&s, "fifo");
	char long_args[LAYOUT_CMDLINE_MAX + 1];
	unsigned fds;

	cr_assert_eq(set_boot(kernel, NULL, "first"), 0);
	fds = open_fds();
	memset(long_args, 'a', sizeof(long_args));
	long_args[LAYOUT_CMDLINE_MAX] = '\0';

	cr_expect_eq(set_boot(NULL, NULL, NULL), -EINVAL);
	said("kernel_image_path", "missing");
	cr_expect_eq(set_boot("/no/such/kernel", NULL, NULL), -ENOENT);
	said("kernel_image_path: open '/no/such/kernel'", "No such file");
	cr_expect_eq(set_boot(s.dir, NULL, NULL), -EINVAL);
	said("kernel_image_path", "a directory");
	cr_expect_eq(set_boot(fifo, NULL, NULL), -EINVAL);
	said("kernel_image_path", "a FIFO");
	cr_expect_eq(set_boot("/dev/null", NULL, NULL), -EINVAL);
	said("kernel_image_path", "a character device");
	cr_expect_lt(set_boot(text, NULL, NULL), 0);
	said("kernel_image_path", text);
	cr_expect_eq(set_boot(kernel, "/no/such/initrd", NULL), -ENOENT);
	said("initrd_path", "/no/such/initrd");
	cr_expect_eq(set_boot(kernel, s.dir, NULL), -EINVAL);
	said("initrd_path", "a directory");
	cr_expect_eq(set_boot(kernel, NULL, long_args), -EINVAL);
	said("boot_args", "2047");
	cr_expect_eq(set_boot(kernel, NULL, "a\nb"), -EINVAL);
	said("boot_args", "printable");
	cr_expect_eq(set_boot(kernel, NULL, "gr\xc3\xbc\xc3\x9f"), -EINVAL);
	said("boot_args", "printable");

	cr_expect_str_eq(c.boot.boot_args, "first");
	cr_expect_eq(open_fds(), fds, "a refused piece leaks no descriptor");
}

/* --- drives --- */

static struct drive drive_piece(const char *id, const char *path, bool root)
{
	struct drive d;

	drive_init(&d);
	snprintf(d.id, sizeof(d.id), "%s", id);
	d.path_on_host = path ? strdup(path) : NULL;
	d.is_root_device = root;
	return d;
}

static int set_drive_piece(struct drive *d)
{
	int r = config_set_drive(&c, d, &e);

	drive_finish(d);
	return r;
}

static int set_drive(const char *id, const char *path, bool root)
{
	struct drive d = drive_piece(id, path, root);

	return set_drive_piece(&d);
}

Test(config, the_root_drive_comes_first)
{
	const char *disk = scratch_file(&s, "disk", "x", 1);

	cr_assert_eq(set_drive("a", disk, false), 0);
	cr_assert_eq(set_drive("b", disk, false), 0);
	cr_assert_eq(set_drive("root", disk, true), 0);
	cr_assert_eq(set_drive("c", disk, false), 0);
	cr_expect_eq(c.drive_count, 4);
	cr_expect_str_eq(c.drive[0].id, "root");
	cr_expect_str_eq(c.drive[1].id, "a");
	cr_expect_str_eq(c.drive[2].id, "b");
	cr_expect_str_eq(c.drive[3].id, "c");
	cr_expect_eq(config_find_drive(&c, "b"), &c.drive[2]);
	cr_expect_null(config_find_drive(&c, "d"));
}

Test(config, the_same_id_replaces)
{
	const char *disk = scratch_file(&s, "disk", "x", 1);
	const char *other = scratch_file(&s, "other", "y", 1);
	unsigned fds;

	cr_assert_eq(set_drive("a", disk, false), 0);
	cr_assert_eq(set_drive("b", disk, true), 0);
	fds = open_fds();
	cr_assert_eq(set_drive("b", other, true), 0, "%s", e.msg);
	cr_expect_eq(c.drive_count, 2);
	cr_expect_str_eq(config_find_drive(&c, "b")->path_on_host, other);
	cr_expect_eq(open_fds(), fds);
	cr_expect_eq(set_drive("a", other, true), -EINVAL);
	said("is_root_device", "'b'");
	cr_assert_eq(set_drive("b", other, false), 0);
	cr_assert_eq(set_drive("a", other, true), 0, "the other gave the role up");
	cr_expect_str_eq(c.drive[0].id, "a");
}

Test(config, drive_refusals)
{
	const char *fifo = scratch_fifo(&s, "fifo");
	const char *disk = scratch_file(&s, "disk", "x", 1);

	cr_expect_eq(set_drive("a", "/no/such/disk", false), -ENOENT);
	said("path_on_host", "/no/such/disk");
	cr_expect_eq(set_drive("a", fifo, false), -EINVAL);
	said("path_on_host", "a FIFO");
	cr_expect_lt(set_drive("a", s.dir, false), 0);
	said("path_on_host", "irectory");
	cr_expect_eq(set_drive("a", "/dev/zero", false), -EINVAL);
	said("path_on_host", "a character device");
	cr_expect_eq(set_drive("a", NULL, false), -EINVAL);
	said("path_on_host", "missing");
	cr_expect_eq(set_drive("", disk, false), -EINVAL);
	said("drive_id", "empty");
	cr_expect_eq(set_drive("a/b", disk, false), -EINVAL);
	said("drive_id", "letters");
	cr_expect_eq(c.drive_count, 0);
}

Test(config, a_read_only_drive_is_opened_so)
{
	struct drive d = drive_piece("a", scratch_file(&s, "disk", "x", 1), false);

	d.is_read_only = true;
	cr_assert_eq(set_drive_piece(&d), 0);
	cr_expect_eq(fcntl(c.drive[0].fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	cr_assert_eq(set_drive("b", scratch_path(&s, "disk"), false), 0);
	cr_expect_eq(fcntl(c.drive[1].fd, F_GETFL) & O_ACCMODE, O_RDWR);
}

Test(config, a_partuuid_cannot_add_words_to_the_command_line)
{
	static const char *const bad[] = {"", "x init=/bin/sh", "x\ny", "x\"", "a/b"};
	const char *disk = scratch_file(&s, "disk", "x", 1);
	struct drive d;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		d = drive_piece("a", disk, true);
		d.partuuid = strdup(bad[i]);
		cr_expect_eq(set_drive_piece(&d), -EINVAL, "%s", bad[i]);
		said("partuuid", "");
	}
	d = drive_piece("a", disk, true);
	d.partuuid = strdup("0eaa91a0-01");
	cr_expect_eq(set_drive_piece(&d), 0);
	cr_expect_str_eq(c.drive[0].partuuid, "0eaa91a0-01");
}

Test(config, sixteen_drives)
{
	const char *disk = scratch_file(&s, "disk", "x", 1);
	char id[16];

	for (int i = 0; i < CONFIG_DRIVES_MAX; i++) {
		snprintf(id, sizeof(id), "d%d", i);
		cr_assert_eq(set_drive(id, disk, false), 0);
	}
	cr_expect_eq(set_drive("more", disk, false), -ENOSPC);
	said("drive_id", "16");
	cr_expect_eq(set_drive("d15", disk, true), 0, "replacing one is possible");
	cr_expect_str_eq(c.drive[0].id, "d15");
	cr_expect_eq(c.drive_count, CONFIG_DRIVES_MAX);
}

/* --- sinks --- */

Test(config, serial_goes_to_a_file_that_only_we_may_read)
{
	struct serial_config piece;
	struct stat st;

	umask(0);
	serial_config_init(&piece);
	piece.serial_out_path = strdup(scratch_path(&s, "console"));
	cr_assert_eq(config_set_serial(&c, &piece, &e), 0, "%s", e.msg);
	cr_expect_null(piece.serial_out_path);
	cr_assert_eq(fstat(c.serial.fd, &st), 0);
	cr_expect_eq(st.st_mode & 0777, 0600);
	cr_assert_eq(config_set_serial(&c, &piece, &e), 0, "no path: standard output again");
	cr_expect_eq(c.serial.fd, -1);
}

Test(config, serial_takes_a_fifo_without_a_reader_but_no_directory)
{
	struct serial_config piece;

	serial_config_init(&piece);
	piece.serial_out_path = strdup(scratch_fifo(&s, "fifo"));
	cr_assert_eq(config_set_serial(&c, &piece, &e), 0, "%s", e.msg);
	piece.serial_out_path = strdup(s.dir);
	cr_expect_eq(config_set_serial(&c, &piece, &e), -EISDIR);
	said("serial_out_path", s.dir);
	cr_expect(strstr(c.serial.serial_out_path, "fifo"), "the old one is still there");
	serial_config_finish(&piece);
}

static int set_metrics(const char *path)
{
	struct metrics_config piece;
	int r;

	metrics_config_init(&piece);
	piece.metrics_path = path ? strdup(path) : NULL;
	r = config_set_metrics(&c, &piece, &e);
	metrics_config_finish(&piece);
	return r;
}

Test(config, metrics_are_set_once)
{
	cr_expect_eq(set_metrics(NULL), -EINVAL);
	cr_expect_eq(set_metrics("/no/such/dir/m"), -ENOENT);
	said("metrics_path", "/no/such/dir/m");
	cr_assert_eq(set_metrics(scratch_path(&s, "m")), 0);
	cr_expect_eq(set_metrics(scratch_path(&s, "n")), -EEXIST);
	said("metrics_path", "/m'");
	cr_expect_neq(access(scratch_path(&s, "n"), F_OK), 0);
}

Test(config, logger_is_put_in_force_and_absent_parts_stay)
{
	struct logger_config piece = {.level = LOG_DEBUG,
				      .log_path = strdup(scratch_path(&s, "l"))};

	cr_expect_not(c.logger.configured);
	cr_assert_eq(config_set_logger(&c, &piece, &e), 0, "%s", e.msg);
	cr_expect(c.logger.configured);
	cr_expect(log_enabled(LOG_DEBUG));
	cr_expect(strstr(c.logger.log_path, "/l"));

	piece = (struct logger_config){.level = LOG_ERROR};
	cr_assert_eq(config_set_logger(&c, &piece, &e), 0);
	cr_expect(strstr(c.logger.log_path, "/l"));
	cr_expect_not(log_enabled(LOG_WARN));

	piece = (struct logger_config){.level = LOG_TRACE, .log_path = strdup("/no/such/dir/l")};
	cr_expect_eq(config_set_logger(&c, &piece, &e), -ENOENT);
	said("log_path", "/no/such/dir/l");
	cr_expect_not(log_enabled(LOG_WARN), "nothing is half-applied");
	logger_config_finish(&piece);
}
