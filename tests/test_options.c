/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdarg.h>
#include <unistd.h>

#include "vmm/options.h"

static struct options o;
static struct err e;

/* Parses "spore" and the words up to NULL. */
static int parse(const char *word, ...)
{
	char *argv[16] = {(char[]){"spore"}};
	int argc = 1;
	va_list ap;

	va_start(ap, word);
	for (; word; word = va_arg(ap, const char *))
		argv[argc++] = (char *)(uintptr_t)word;
	va_end(ap);
	return options_parse(&o, argc, argv, &e);
}

#define FINE(...) cr_assert_eq(parse(__VA_ARGS__, NULL), 0, "%s", e.msg)
#define REFUSED(part, ...)                                                          \
	do {                                                                        \
		cr_expect_eq(parse(__VA_ARGS__, NULL), -EINVAL, "%s", part);        \
		cr_expect(strstr(e.msg, part), "'%s' is not in '%s'", part, e.msg); \
		cr_expect_null(strchr(e.msg, '\n'));                                \
	} while (0)

TestSuite(options, .timeout = 30);

Test(options, defaults)
{
	cr_assert_eq(parse(NULL), 0);
	cr_expect_str_eq(o.api_sock, "/run/firecracker.socket");
	cr_expect_str_eq(o.id, "anonymous-instance");
	cr_expect_eq(o.max_payload, 51200);
	cr_expect_eq(o.mmds_limit, 51200);
	cr_expect_null(o.metadata);
	cr_expect_null(o.config_file);
	cr_expect_null(o.metrics_path);
	cr_expect_not(o.no_api || o.boot_timer || o.version || o.help);
}

Test(options, every_option_with_a_space)
{
	FINE("--api-sock", "a.sock", "--id", "vm-1", "--config-file", "c.json", "--no-api",
	     "--log-path", "l", "--level", "debug", "--metrics-path", "m");
	cr_expect_str_eq(o.api_sock, "a.sock");
	cr_expect_str_eq(o.id, "vm-1");
	cr_expect_str_eq(o.config_file, "c.json");
	cr_expect(o.no_api);
	cr_expect_str_eq(o.log_path, "l");
	cr_expect_str_eq(o.level, "debug");
	cr_expect_str_eq(o.metrics_path, "m");
	FINE("--module", "vmm/", "--show-level", "--show-log-origin", "--boot-timer",
	     "--http-api-max-payload-size", "7", "--start-time-us", "1", "--start-time-cpu-us", "2",
	     "--parent-cpu-time-us", "3");
	cr_expect_str_eq(o.module, "vmm/");
	cr_expect(o.show_level && o.show_log_origin && o.boot_timer);
	cr_expect_eq(o.max_payload, 7);
	cr_expect_eq(o.mmds_limit, 7);
	cr_expect_eq(o.start_time_us, 1);
	cr_expect_eq(o.start_time_cpu_us, 2);
	cr_expect_eq(o.parent_cpu_time_us, 3);
}

Test(options, of_the_metadata_service)
{
	FINE("--metadata", "m.json", "--mmds-size-limit", "9", "--http-api-max-payload-size", "7");
	cr_expect_str_eq(o.metadata, "m.json");
	cr_expect_eq(o.mmds_limit, 9);
	cr_expect_eq(o.max_payload, 7);
}

Test(options, values_after_an_equals_sign)
{
	FINE("--api-sock=a=b.sock", "--http-api-max-payload-size=18446744073709551615");
	cr_expect_str_eq(o.api_sock, "a=b.sock");
	cr_expect_eq(o.max_payload, UINT64_MAX);
}

Test(options, a_value_may_look_like_an_option)
{
	FINE("--log-path", "--level");
	cr_expect_str_eq(o.log_path, "--level");
}

Test(options, unknown_and_misused)
{
	REFUSED("'--nope'", "--nope");
	REFUSED("'--nope=1'", "--nope=1");
	REFUSED("'--api'", "--api", "x");
	REFUSED("'--versio'", "--versio");
	REFUSED("'-x'", "-x");
	REFUSED("'word'", "word");
	REFUSED("'word'", "--boot-timer", "word");
	REFUSED("'word'", "--", "word");
	REFUSED("--id: needs a value", "--id");
	REFUSED("--no-api: takes no value", "--no-api=1");
	REFUSED("--id: given twice", "--id", "a", "--id", "b");
	REFUSED("--boot-timer: given twice", "--boot-timer", "--boot-timer");
	REFUSED("--no-api: needs --config-file", "--no-api");
	cr_expect_eq(parse("--boot-timer", "--", NULL), 0);
}

Test(options, numbers)
{
	static const char *const bad[] = {"",	"x",  "-1",   "+1",
					  " 1", "1x", "0x10", "18446744073709551616"};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		REFUSED("--http-api-max-payload-size", "--http-api-max-payload-size", bad[i]);
}

Test(options, id)
{
	char id[66];

	memset(id, 'a', sizeof(id));
	id[64] = '\0';
	FINE("--id", id);
	id[64] = 'a';
	id[65] = '\0';
	REFUSED("--id: 65 characters", "--id", id);
	REFUSED("--id: 0 characters", "--id", "");
	REFUSED("--id: only", "--id", "a_b");
	REFUSED("--id: only", "--id", "a/b");
	REFUSED("--id: only", "--id", "a\nb");
}

Test(options, level)
{
	FINE("--level", "Warning");
	REFUSED("--level: 'loud'", "--level", "loud");
}

Test(options, help_and_version_end_the_reading)
{
	FINE("--help", "--nope");
	cr_expect(o.help);
	FINE("--version", "--nope");
	cr_expect(o.version);
}

Test(options, help_lists_every_option)
{
	char text[4096];
	int fd[2];
	ssize_t n;

	cr_assert_eq(pipe(fd), 0);
	options_print_help(fd[1]);
	n = read(fd[0], text, sizeof(text) - 1);
	cr_assert_gt(n, 0);
	text[n] = '\0';
	cr_expect(strstr(text, "--api-sock PATH"));
	cr_expect(strstr(text, "--parent-cpu-time-us US"));
	cr_expect(strstr(text, "--help"));
	close(fd[0]);
	close(fd[1]);
}

Test(options, who_may_use_the_api)
{
	cr_assert_eq(parse(NULL), 0);
	cr_expect(o.api_sock_mode == 0 && !o.has_owner && o.allow_count == 0);
	cr_expect(o.api_fd == -1 && o.ready_fd == -1);
	FINE("--api-sock-mode", "660", "--api-sock-owner", "5:7", "--ready-fd", "9", "--api-allow",
	     "uid=0,gid=100,uid=4294967294");
	cr_expect_eq(o.api_sock_mode, 0660);
	cr_expect(o.has_owner && o.owner_uid == 5 && o.owner_gid == 7);
	cr_expect_eq(o.ready_fd, 9);
	cr_assert_eq(o.allow_count, 3);
	cr_expect(!o.allow[0].is_group && o.allow[0].id == 0);
	cr_expect(o.allow[1].is_group && o.allow[1].id == 100);
	cr_expect_eq(o.allow[2].id, 4294967294u);
	FINE("--api-sock-owner", ":7", "--api-sock-mode=0777");
	cr_expect(o.owner_uid == UINT32_MAX && o.owner_gid == 7);
	FINE("--api-sock-owner", "5");
	cr_expect(o.owner_uid == 5 && o.owner_gid == UINT32_MAX);
	FINE("--api-sock-owner", "5:");
	FINE("--api-fd", "0");
	cr_expect_eq(o.api_fd, 0);
}

Test(options, who_may_use_the_api_refused)
{
	static const char *const owners[] = {"",	   ":",	    "a",  "5:a", "-1",
					     "4294967295", "5:6:7", " 5", "5 ",	 "root"};
	static const char *const lists[] = {"",	      "1000",	   "uid=",	    "uid=a",
					    "uid=1,", ",uid=1",	   "uid=1 gid=2",   "gid=-1",
					    "pid=1",  "uid=1,gid", "uid=4294967295"};
	static const char *const modes[] = {"", "0", "8", "rw", "1000", "-1", "600x"};

	for (size_t i = 0; i < ARRAY_SIZE(owners); i++)
		REFUSED("--api-sock-owner", "--api-sock-owner", owners[i]);
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
		REFUSED("--api-allow", "--api-allow", lists[i]);
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++)
		REFUSED("--api-sock-mode", "--api-sock-mode", modes[i]);
	REFUSED("at most 16", "--api-allow",
		"uid=1,uid=1,uid=1,uid=1,uid=1,uid=1,uid=1,uid=1,uid=1,"
		"uid=1,uid=1,uid=1,uid=1,uid=1,uid=1,uid=1,uid=1");
	REFUSED("--api-fd", "--api-fd", "x");
	REFUSED("--api-fd", "--api-fd", "99999999");
	REFUSED("--no-api", "--no-api", "--config-file", "c", "--api-fd", "3");
	REFUSED("--api-sock-mode", "--api-fd", "3", "--api-sock-mode", "600");
	REFUSED("--ready-fd", "--ready-fd", "-1");
}

Test(options, what_firecracker_has_and_spore_not)
{
	REFUSED("--enable-pci: not here: all devices are on virtio-mmio", "--enable-pci");
	REFUSED("--enable-pci: takes no value", "--enable-pci=1");
}

Test(options, json_is_for_describe_snapshot)
{
	FINE("--describe-snapshot", "f", "--json");
	cr_expect(o.json && options_only_print(&o));
	cr_expect_str_eq(o.describe_snapshot, "f");
	FINE("--json", "--describe-snapshot", "f");
	cr_expect(o.json);
	REFUSED("--json: needs --describe-snapshot", "--json");
}

Test(options, a_shell)
{
	FINE("--shell", "vcpus=2,mem_mib=64");
	cr_expect_eq(o.shell.vcpus, 2);
	cr_expect_eq(o.shell.mem_mib, 64);
	REFUSED("--shell: mem_mib: missing", "--shell", "vcpus=2");
	REFUSED("--shell: excludes --config-file", "--shell", "vcpus=2,mem_mib=64", "--config-file",
		"c");
	REFUSED("--shell: needs a value", "--shell");
}
