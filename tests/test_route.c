/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests straight into the route table, on a microVM that is never really started: its phase is
 * set by hand. And the route and field tables against api-sock/openapi.yaml.
 */
#define _GNU_SOURCE
#include "api-sock/route.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api-sock/configfile.h"
#include "api-sock/schema.h"
#include "tests/lib/scratch.h"

static struct scratch s;
static struct loop loop;
static struct vm vm;
static struct metrics metrics;
static struct api api = {.vm = &vm, .metrics = &metrics};
static struct http_response resp; /* the last answer */
static struct err e;

static void start(void)
{
	scratch_init(&s);
	cr_assert_eq(loop_init(&loop, NULL), 0);
	vm_init(&vm, &loop, "vm-1");
	metrics_init(&metrics, &vm);
	log_set_level(LOG_OFF);
}

static void finish(void)
{
	free(resp.body);
	metrics_finish(&metrics);
	vm_finish(&vm);
	loop_finish(&loop);
	scratch_finish(&s);
}

TestSuite(route, .init = start, .fini = finish, .timeout = 30);

/* "PUT /path" with a body or NULL. */
static int ask(const char *what, const char *body)
{
	static const char *const method[] = {"?", "GET", "PUT", "PATCH", "DELETE"};
	struct http_request req = {.method = "POST"};
	size_t len = strcspn(what, " ");

	for (unsigned i = 1; i < ARRAY_SIZE(method); i++) {
		if (strlen(method[i]) != len || strncmp(method[i], what, len) != 0)
			continue;
		req.verb = (enum http_verb)i;
		req.method = method[i];
	}
	snprintf(req.target, sizeof(req.target), "%s", what + len + 1);
	req.body = body;
	req.body_len = body ? strlen(body) : 0;
	free(TAKE(resp.body));
	route_handle(&api, &req, &resp);
	return resp.status;
}

static void done(const char *what, const char *body)
{
	cr_expect_eq(ask(what, body), 204, "%s %s: %d %s", what, body, resp.status, resp.body);
	cr_expect_null(resp.body);
}

/* Refused with exactly this message; `part` may be a piece of it when it ends with "...". */
static void refused(const char *what, const char *body, const char *message)
{
	int status = ask(what, body);
	json_t *json = resp.body ? json_loads(resp.body, 0, NULL) : NULL;
	const char *text = json_string_value(json_object_get(json, "fault_message"));
	size_t len = strlen(message);

	cr_expect_eq(status, 400, "%s %s: %d", what, body, status);
	cr_assert_not_null(text, "%s %s: %s", what, body, resp.body);
	if (len > 3 && strcmp(message + len - 3, "...") == 0)
		cr_expect_eq(strncmp(text, message, len - 3), 0, "'%s' is not '%s'", text, message);
	else
		cr_expect_str_eq(text, message);
	json_decref(json);
}

static char *format(const char *fmt, ...) PRINTF_LIKE(1, 2);
static char *format(const char *fmt, ...)
{
	static char texts[4][1024]; /* used in turn */
	static unsigned next;
	char *text = texts[next++ % ARRAY_SIZE(texts)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(texts[0]), fmt, ap);
	va_end(ap);
	return text;
}

#define BAD_BODY "An error occurred when deserializing the json body of a request: "

Test(route, get)
{
	cr_expect_eq(ask("GET /", NULL), 200);
	cr_expect_str_eq(resp.body,
			 "{\"app_name\":\"Firecracker\",\"id\":\"vm-1\","
			 "\"state\":\"Not started\",\"vmm_version\":\"" SPORE_VERSION "\"}");
	cr_expect_eq(ask("GET /version", NULL), 200);
	cr_expect_str_eq(resp.body, "{\"firecracker_version\":\"1.17.0\"}");
	cr_expect_eq(ask("GET /machine-config", NULL), 200);
	cr_expect_str_eq(resp.body, "{\"vcpu_count\":1,\"mem_size_mib\":128,\"smt\":false,"
				    "\"track_dirty_pages\":false,\"huge_pages\":\"None\","
				    "\"memory_backend\":\"Anonymous\",\"pit\":false}");
	vm.phase = VM_PAUSED;
	cr_expect_eq(ask("GET /", NULL), 200);
	cr_expect(strstr(resp.body, "\"state\":\"Paused\""));
	vm.phase = VM_NOT_STARTED;
}

Test(route, ways_to_write_a_path)
{
	cr_expect_eq(ask("GET /version/", NULL), 200);
	cr_expect_eq(ask("GET http://localhost/version", NULL), 200);
	cr_expect_eq(ask("GET HTTP://localhost:80", NULL), 200);
	cr_expect(strstr(resp.body, "app_name"));
}

Test(route, paths_that_are_none)
{
	static const char *const bad[] = {
		"GET /nope",	       "GET /version/x", "GET /versions",
		"GET version",	       "GET *",		 "GET /version?x",
		"PUT /version",	       "POST /vm",	 "DELETE /vm",
		"PATCH /drive/a",      "GET /drives/a",	 "PUT /drives/a/b",
		"GET /machine_config",
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		refused(bad[i], "{}", format("Invalid request method and/or path: %s.", bad[i]));
}

Test(route, long_and_dirty_paths)
{
	char what[HTTP_TARGET_MAX + 1];

	memset(what, 'x', sizeof(what));
	memcpy(what, "GET /", 5);
	what[HTTP_TARGET_MAX] = '\0';
	refused(what, NULL, "Invalid request method and/or path: GET /xxx...");
	refused("GET /\xff\xfe\"", NULL, "Invalid request method and/or path: GET /?\?\".");
}

Test(route, bodies_where_none_belong_and_the_reverse)
{
	refused("GET /", "{}", "GET request cannot have a body.");
	refused("PUT /machine-config", NULL, "Empty PUT request.");
	refused("PUT /machine-config", "", "Empty PUT request.");
	refused("PATCH /machine-config", NULL, "Empty PATCH request.");
	refused("PATCH /machine-config", "{}", "Empty PATCH request.");
	refused("PUT /machine-config", "{", BAD_BODY "...");
	refused("PUT /machine-config", "[]",
		BAD_BODY "invalid type: an array, expected an object.");
	refused("PUT /entropy", "null", BAD_BODY "invalid type: null, expected an object.");
}

Test(route, machine_config)
{
	done("PUT /machine-config",
	     "{\"vcpu_count\":2,\"mem_size_mib\":256,\"smt\":true,"
	     "\"huge_pages\":\"2M\",\"cpu_template\":\"None\",\"pit\":true}");
	done("PATCH /machine-config", "{\"mem_size_mib\":512}");
	cr_expect_eq(vm.config.machine.mem_size_mib, 512);
	cr_expect_eq(vm.config.machine.vcpu_count, 2);
	cr_expect(vm.config.machine.smt);
	refused("PATCH /machine-config", "{\"vcpu_count\":3}",
		"Machine config error: vcpu_count: 3 is neither 1 nor even, as smt needs");
	refused("PATCH /machine-config", "{\"vcpu_count\":4,\"mem_size_mib\":511}",
		"Machine config error: mem_size_mib: ...");
	cr_expect_eq(vm.config.machine.vcpu_count, 2, "nothing is half-applied");
	refused("PUT /machine-config", "{\"vcpu_count\":1}",
		BAD_BODY "missing field `mem_size_mib`.");
	refused("PUT /machine-config", "{\"vcpu_count\":33,\"mem_size_mib\":1}",
		BAD_BODY "field `vcpu_count`: 33 is not within 1..32.");
	refused("PUT /machine-config",
		"{\"vcpu_count\":1,\"mem_size_mib\":1,\"cpu_template\":\"T2\"}",
		BAD_BODY "field `cpu_template`: 'T2' is not supported, expected `None`.");
	refused("PATCH /machine-config", "{\"ht_enabled\":true}",
		BAD_BODY "unknown field `ht_enabled`, expected one of `vcpu_count`...");
	done("PUT /machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":128}");
	cr_expect_eq(vm.config.machine.huge_pages, HUGE_PAGES_NONE, "PUT starts from the defaults");
}

Test(route, drives)
{
	const char *disk = scratch_file(&s, "disk", "x", 1);

	done("PUT /drives/root",
	     format("{\"drive_id\":\"root\",\"path_on_host\":\"%s\",\"is_root_device\":true,"
		    "\"rate_limiter\":null,\"io_engine\":\"Sync\",\"partuuid\":null}",
		    disk));
	cr_expect_eq(vm.config.drive_count, 1);
	refused("PUT /drives/a",
		format("{\"drive_id\":\"b\",\"path_on_host\":\"%s\",\"is_root_device\":false}",
		       disk),
		"The id from the path does not match the id from the body!");
	refused("PUT /drives/a",
		format("{\"drive_id\":\"a\",\"path_on_host\":\"%s\",\"is_root_device\":true}",
		       disk),
		"Drive config error: is_root_device: drive 'root' is the root device");
	refused("PUT /drives/a",
		"{\"drive_id\":\"a\",\"path_on_host\":\"/no/disk\",\"is_root_device\":false}",
		"Drive config error: path_on_host: open '/no/disk': No such file or directory");
	refused("PUT /drives/a", "{\"drive_id\":\"a\",\"is_root_device\":false,\"socket\":\"s\"}",
		BAD_BODY "field `socket` is not supported.");
	refused("PUT /drives/a", "{\"drive_id\":\"a\",\"is_root_device\":false}",
		"Drive config error: path_on_host: missing");
	cr_expect_eq(vm.config.drive_count, 1);
	refused("PUT /drives/a",
		format("{\"drive_id\":\"a\",\"path_on_host\":\"%s\",\"is_root_device\":false,"
		       "\"rate_limiter\":{\"ops\":{\"size\":1}}}",
		       disk),
		BAD_BODY "field `rate_limiter`: field `ops`: missing field `refill_time`.");
	done("PUT /drives/a",
	     format("{\"drive_id\":\"a\",\"path_on_host\":\"%s\",\"is_root_device\":false,"
		    "\"io_engine\":\"Async\",\"rate_limiter\":{\"bandwidth\":null,"
		    "\"ops\":{\"size\":1,\"refill_time\":2,\"one_time_burst\":3}}}",
		    disk));
	cr_expect_eq(vm.config.drive[1].io_engine, IO_ENGINE_ASYNC);
	cr_expect_eq(vm.config.drive[1].limiter.ops.refill_ms, 2);
	refused("PATCH /drives/a", "{\"drive_id\":\"a\"}",
		"The requested operation is not supported before starting the microVM.");
	refused("PUT /drives", "{}", "The ID cannot be empty.");
	refused("PUT /drives/", "{}", "The ID cannot be empty.");
	refused("PUT /drives/a-b", "{}",
		"API Resource IDs can only contain alphanumeric characters and underscores.");
	refused("PUT /drives/%41", "{}",
		"API Resource IDs can only contain alphanumeric characters and underscores.");
}

Test(route, boot_source)
{
	const char *kernel = scratch_kernel(&s, "kernel");

	done("PUT /boot-source",
	     format("{\"kernel_image_path\":\"%s\",\"boot_args\":\"quiet\"}", kernel));
	cr_expect_str_eq(vm.config.boot.boot_args, "quiet");
	refused("PUT /boot-source", format("{\"kernel_image_path\":\"%s\"}", s.dir),
		format("Boot source error: kernel_image_path: '%s' is a directory, need a regular "
		       "file",
		       s.dir));
	refused("PUT /boot-source", "{}", BAD_BODY "missing field `kernel_image_path`.");
	cr_expect_str_eq(vm.config.boot.kernel_image_path, kernel);
}

Test(route, entropy_serial_logger_metrics)
{
	struct stat st;

	refused("PUT /entropy", "{\"rate_limiter\":{\"ops\":{}}}", BAD_BODY "...");
	cr_expect_not(vm.config.entropy);
	done("PUT /entropy", "{\"rate_limiter\":{\"ops\":{\"size\":3,\"refill_time\":7}}}");
	cr_expect_eq(vm.config.entropy_limit.ops.size, 3);
	cr_expect_eq(vm.config.entropy_limit.ops.refill_ms, 7);
	done("PUT /entropy", "{}");
	cr_expect(vm.config.entropy);
	cr_expect_eq(vm.config.entropy_limit.ops.size, 0);
	done("PUT /serial", format("{\"serial_out_path\":\"%s/console\"}", s.dir));
	cr_expect_eq(stat(scratch_path(&s, "console"), &st), 0);
	refused("PUT /serial", "{\"serial_out_path\":\"/no/dir/c\"}",
		"Serial config error: serial_out_path: open '/no/dir/c': No such file or "
		"directory");
	done("PUT /logger", format("{\"log_path\":\"%s/log\",\"level\":\"error\"}", s.dir));
	cr_expect_eq(vm.config.logger.level, LOG_ERROR);
	done("PUT /logger", "{\"show_level\":true}");
	cr_expect_eq(vm.config.logger.level, LOG_ERROR, "what is left out stays");
	refused("PUT /logger", "{\"level\":\"loud\"}",
		BAD_BODY "field `level`: unknown variant `loud`, expected one of `Off`...");
	done("PUT /metrics", format("{\"metrics_path\":\"%s/metrics\"}", s.dir));
	refused("PUT /metrics", format("{\"metrics_path\":\"%s/more\"}", s.dir),
		"Metrics error: metrics_path: set already...");
}

Test(route, phases)
{
	static const char before[] = "The requested operation is not supported before starting the "
				     "microVM.";
	static const char after[] = "The requested operation is not supported after starting the "
				    "microVM.";

	refused("PATCH /vm", "{\"state\":\"Paused\"}", before);
	refused("PUT /actions", "{\"action_type\":\"FlushMetrics\"}", before);
	refused("PUT /actions", "{\"action_type\":\"SendCtrlAltDel\"}", before);
	refused("PUT /actions", "{\"action_type\":\"InstanceStart\"}",
		"Start microvm error: Cannot start microvm without kernel configuration.");
	cr_expect_eq(vm.phase, VM_NOT_STARTED);
	refused("PUT /actions", "{\"action_type\":\"InstanceStop\"}", BAD_BODY "...");
	for (int phase = VM_RUNNING; phase <= VM_PAUSED; phase++) {
		static const char *const pre_boot[] = {
			"PUT /machine-config", "PATCH /machine-config", "PUT /boot-source",
			"PUT /entropy",	       "PUT /serial",		"PUT /logger",
			"PUT /metrics",
		};

		vm.phase = (enum vm_phase)phase;
		for (size_t i = 0; i < ARRAY_SIZE(pre_boot); i++)
			refused(pre_boot[i], "{\"x\":1}", after);
		refused("PUT /actions", "{\"action_type\":\"InstanceStart\"}", after);
		done("PUT /actions", "{\"action_type\":\"FlushMetrics\"}");
		refused("PATCH /vm", "{\"state\":\"paused\"}", BAD_BODY "...");
		cr_expect_eq(ask("GET /vm/config", NULL), 200);
	}
	vm.phase = VM_NOT_STARTED;
}

Test(route, requests_are_counted)
{
	ask("GET /", NULL);
	ask("GET /version", NULL);
	ask("PUT /machine-config", "{}");
	ask("PUT /machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":128}");
	ask("PUT /nope", "{}");
	cr_expect_eq(metrics.count[METRICS_GET_INSTANCE_INFO].value, 1);
	cr_expect_eq(metrics.count[METRICS_GET_VMM_VERSION].value, 1);
	cr_expect_eq(metrics.count[METRICS_PUT_MACHINE_CFG].value, 2);
	cr_expect_eq(metrics.fails[METRICS_PUT_MACHINE_CFG].value, 1);
}

/* --- the configuration as a whole --- */

/* The text of GET /vm/config; free it. */
static char *whole_config(void)
{
	cr_expect_eq(ask("GET /vm/config", NULL), 200);
	return TAKE(resp.body);
}

Test(route, vsock)
{
	const char *sock = scratch_path(&s, "v.sock"), *other = scratch_path(&s, "w.sock");
	char body[256];

	refused("PUT /vsock", "{\"guest_cid\":2,\"uds_path\":\"x\"}",
		BAD_BODY "field `guest_cid`: 2 is not within 3..4294967294.");
	refused("PUT /vsock", "{\"guest_cid\":3}", BAD_BODY "missing field `uds_path`.");
	refused("PUT /vsock", "{\"guest_cid\":3,\"uds_path\":\"/no/dir/v\"}",
		"Vsock config error: uds_path: bind '/no/dir/v': No such file or directory");
	snprintf(body, sizeof(body), "{\"guest_cid\":3,\"uds_path\":\"%s\"}", sock);
	done("PUT /vsock", body);
	cr_expect_eq(access(sock, F_OK), 0);
	snprintf(body, sizeof(body), "{\"guest_cid\":4,\"uds_path\":\"%s\",\"vsock_id\":\"old\"}",
		 sock);
	done("PUT /vsock", body);
	cr_expect_eq(vm.config.vsock.guest_cid, 4, "the same path again");
	cr_expect_eq(access(sock, F_OK), 0);
	snprintf(body, sizeof(body), "{\"guest_cid\":5,\"uds_path\":\"%s\"}", other);
	done("PUT /vsock", body);
	cr_expect_neq(access(sock, F_OK), 0, "what was bound before is gone");
	refused("PUT /vsock", "{\"guest_cid\":6,\"uds_path\":\"/\"}", "Vsock config error: ...");
	cr_expect_eq(vm.config.vsock.guest_cid, 5);
	vsock_config_finish(&vm.config.vsock);
	cr_expect_neq(access(other, F_OK), 0);
}

static void renew_vm(void)
{
	metrics_finish(&metrics);
	vm_finish(&vm);
	vm_init(&vm, &loop, "vm-2");
	metrics_init(&metrics, &vm);
}

Test(route, an_empty_configuration_can_be_loaded_again)
{
	cleanup_free char *first = whole_config(), *second = NULL;

	cr_expect_str_eq(first,
			 "{\"logger\":null,\"metrics\":null,\"machine-config\":{\"vcpu_count\":1,"
			 "\"mem_size_mib\":128,\"smt\":false,\"track_dirty_pages\":false,"
			 "\"huge_pages\":\"None\",\"memory_backend\":\"Anonymous\",\"pit\":false},"
			 "\"cpu-config\":null,\"boot-source\":null,\"drives\":[],"
			 "\"network-interfaces\":[],\"mmds-config\":null,\"entropy\":null,"
			 "\"balloon\":null,\"vsock\":null,"
			 "\"serial\":null,\"memory-hotplug\":null,\"pmem\":[]}");
	renew_vm();
	cr_assert_eq(configfile_apply(&api, first, strlen(first), &e), 0, "%s", e.msg);
	second = whole_config();
	cr_expect_str_eq(first, second);
}

Test(route, a_full_configuration_can_be_loaded_again)
{
	const char *kernel = scratch_kernel(&s, "kernel");
	const char *disk = scratch_file(&s, "disk \"\xc3\xbc\"", "x", 1);
	cleanup_free char *first = NULL, *second = NULL;

	done("PUT /boot-source",
	     format("{\"kernel_image_path\":\"%s\",\"boot_args\":\"a=\\\"b\\\"\","
		    "\"initrd_path\":\"%s\"}",
		    kernel, kernel));
	done("PUT /machine-config", "{\"vcpu_count\":4,\"mem_size_mib\":64,\"smt\":true,"
				    "\"memory_backend\":\"Memfd\",\"huge_pages\":\"Transparent\","
				    "\"track_dirty_pages\":true}");
	done("PUT /drives/a",
	     format("{\"drive_id\":\"a\",\"path_on_host\":\"%s/disk \\\"\xc3\xbc\\\"\","
		    "\"is_root_device\":false,\"cache_type\":\"Writeback\",\"io_engine\":"
		    "\"Async\",\"rate_limiter\":{\"bandwidth\":{\"size\":9,\"refill_time\":8}}}",
		    s.dir));
	done("PUT /drives/b",
	     format("{\"drive_id\":\"b\",\"path_on_host\":\"%s\",\"partuuid\":\"0-1\","
		    "\"is_root_device\":true,\"is_read_only\":true}",
		    kernel));
	done("PUT /entropy", "{}");
	done("PUT /serial", format("{\"serial_out_path\":\"%s/console\"}", s.dir));
	done("PUT /logger",
	     format("{\"log_path\":\"%s/log\",\"level\":\"Warning\",\"module\":\"vmm\","
		    "\"show_level\":true}",
		    s.dir));
	done("PUT /metrics", format("{\"metrics_path\":\"%s/m\",\"emit_id\":true}", s.dir));
	done("PUT /cpu-config",
	     "{\"kvm_capabilities\":[\"!1\"],\"msr_modifiers\":[{\"addr\":\"0x10a\","
	     "\"bitmap\":\"0b1\"}],\"cpuid_modifiers\":[{\"leaf\":\"0x7\",\"subleaf\":\"0x1\","
	     "\"flags\":1,\"modifiers\":[{\"register\":\"edx\",\"bitmap\":\"0b0\"}]}]}");
	(void)disk;
	first = whole_config();
	renew_vm();
	cr_assert_eq(configfile_apply(&api, first, strlen(first), &e), 0, "%s", e.msg);
	second = whole_config();
	cr_expect_str_eq(first, second);
	cr_expect_str_eq(vm.config.drive[0].id, "b");
	cr_expect_eq(vm.config.drive[1].cache_type, CACHE_WRITEBACK);
}

static void file_refused(const char *text, const char *part)
{
	cr_expect_lt(configfile_apply(&api, text, strlen(text), &e), 0, "%s", text);
	cr_expect(strstr(e.msg, part), "'%s' is not in '%s'", part, e.msg);
}

Test(route, config_file_errors_name_the_group)
{
	file_refused("", "line 1");
	file_refused("[]", "expected a JSON object");
	file_refused("{\"machine-config\":{\"vcpu_count\":1}}",
		     "'machine-config': missing field `mem_size_mib`");
	file_refused("{\"machine-config\":{\"vcpu_count\":3,\"mem_size_mib\":1,\"smt\":true}}",
		     "'machine-config': Machine config error: vcpu_count");
	file_refused("{\"drives\":{}}", "'drives': expected an array");
	file_refused("{\"drives\":[{}]}", "'drives': missing field `drive_id`");
	file_refused("{\"boot-source\":{\"kernel_image_path\":\"/no/kernel\"}}",
		     "open '/no/kernel': No such file");
	file_refused("{\"vsock\":{\"guest_cid\":3}}", "'vsock'");
	file_refused("{\"network-interfaces\":[{}]}",
		     "'network-interfaces': missing field `iface_id`");
	file_refused("{\"network-interfaces\":{}}", "'network-interfaces': expected an array");
	file_refused("{\"pmem\":[{}]}", "'pmem': missing field `id`");
}

Test(route, config_file_takes_what_firecracker_leaves_empty)
{
	static const char text[] = "{\"vsock\":null,\"network-interfaces\":[],\"balloon\":null,"
				   "\"unheard-of\":{\"a\":1},\"entropy\":{}}";

	cr_expect_eq(configfile_apply(&api, text, sizeof(text) - 1, &e), 0, "%s", e.msg);
	cr_expect(vm.config.entropy);
}

Test(route, config_file_from_disk)
{
	static const char text[] = "{\"machine-config\":{\"vcpu_count\":2,\"mem_size_mib\":99}}";

	cr_expect_eq(configfile_load(&api, scratch_file(&s, "c", text, sizeof(text) - 1), &e), 0);
	cr_expect_eq(vm.config.machine.mem_size_mib, 99);
	cr_expect_eq(configfile_load(&api, "/no/config", &e), -ENOENT);
	cr_expect(strstr(e.msg, "config file '/no/config'"));
	cr_expect_eq(configfile_load(&api, s.dir, &e), -EISDIR);
	cr_expect_eq(configfile_load(&api, "/dev/zero", &e), -EFBIG);
}

Test(route, metadata_from_disk)
{
	static const char text[] = "{\"a\": \"b\"}\n";
	const char *path = scratch_file(&s, "m", text, sizeof(text) - 1);

	cr_assert_eq(configfile_load_metadata(&api, path, &e), 0, "%s", e.msg);
	cr_expect_str_eq(json_string_value(json_object_get(vm.mmds.store, "a")), "b");
	vm.mmds.limit = 5;
	cr_expect_eq(configfile_load_metadata(&api, path, &e), -EFBIG);
	cr_expect(strstr(e.msg, "--metadata"));
	cr_expect_eq(configfile_load_metadata(&api, scratch_file(&s, "n", "{", 1), &e), -EINVAL);
	cr_expect_eq(configfile_load_metadata(&api, "/no/file", &e), -ENOENT);
}

/* --- who a clone is --- */

#define LOAD(more)                                                             \
	"{\"snapshot_path\":\"tests/data/snapshot-1.state\",\"mem_backend\":{" \
	"\"backend_type\":\"File\",\"backend_path\":\"/nonexistent\"}" more "}"

Test(route, an_identity_that_is_refused_changes_nothing)
{
	snapshot_history_init(&api.snapshots);
	refused("PUT /snapshot/load", LOAD(",\"id\":\"a/b\""),
		"Load snapshot error: id: only letters, digits and '-' are allowed");
	refused("PUT /snapshot/load", LOAD(",\"id\":7"),
		BAD_BODY "field `id`: invalid type: an integer, expected a string.");
	refused("PUT /snapshot/load", LOAD(",\"metadata\":{\"a\":1}"),
		"Load snapshot error: metadata: this snapshot has no metadata service");
	refused("PUT /snapshot/load", LOAD(",\"metadata\":[]"),
		BAD_BODY "field `metadata`: invalid type: an array, expected an object.");
	refused("PUT /snapshot/load",
		LOAD(",\"id\":\"x\",\"serial_override\":{\"serial_out_path\":\"/no/such/file\"}"),
		"Load snapshot error: serial_override: serial_out_path: ...");
	refused("PUT /snapshot/load",
		LOAD(",\"network_overrides\":[{\"iface_id\":\"none\",\"rewrite\":{}},"
		     "{\"iface_id\":\"none\",\"rewrite\":{\"host_mac\":\"x\"}}]"),
		"Load snapshot error: network_overrides: no interface 'none'");
	cr_expect_str_eq(vm.id, "vm-1");
	cr_expect_null(vm.mmds.store);
	cr_expect_null(vm.config.serial.serial_out_path);
	cr_expect_eq(vm.config.machine.mem_size_mib, 128, "it was not configured");
}

Test(route, only_a_shell_can_be_primed)
{
	refused("PUT /snapshot/prime",
		"{\"snapshot_path\":\"tests/data/"
		"snapshot-1.state\",\"mem_backend\":{\"backend_type\":"
		"\"File\",\"backend_path\":\"/nonexistent\"}}",
		"Prime error: this process is no shell (--shell)");
	refused("PUT /snapshot/prime", "{\"snapshot_path\":\"x\"}",
		BAD_BODY "missing field `mem_backend`.");
}

/* --- openapi.yaml --- */

struct yaml_line {
	char *key; /* "components.schemas.Drive.properties.drive_id.type" */
	char *value;
};

static struct yaml_line yaml[2000];
static unsigned yaml_count;

/* Our own subset of YAML: see the head of the file. */
static void load_yaml(const char *path)
{
	FILE *f = fopen(path, "re");
	char line[512], *part[16] = {0};

	cr_assert_not_null(f, "run the tests from the top of the tree");
	while (fgets(line, sizeof(line), f)) {
		unsigned depth = (unsigned)strspn(line, " ") / 2;
		char *key = line + depth * 2, *colon = strstr(key, ": ");
		char joined[512] = "";

		line[strcspn(line, "\n")] = '\0';
		if (*key == '#' || *key == '\0')
			continue;
		if (!colon)
			colon = key + strlen(key) - 1;
		cr_assert_eq(*colon, ':', "%s", line);
		*colon = '\0';
		free(part[depth]);
		part[depth] = strdup(key);
		for (unsigned i = 0; i <= depth; i++)
			snprintf(joined + strlen(joined), sizeof(joined) - strlen(joined), "%s%s",
				 i ? "." : "", part[i]);
		cr_assert_lt(yaml_count, ARRAY_SIZE(yaml));
		yaml[yaml_count++] =
			(struct yaml_line){strdup(joined), strdup(colon[1] ? colon + 2 : "")};
	}
	fclose(f);
	for (unsigned i = 0; i < ARRAY_SIZE(part); i++)
		free(part[i]);
}

static void free_yaml(void)
{
	for (unsigned i = 0; i < yaml_count; i++) {
		free(yaml[i].key);
		free(yaml[i].value);
	}
	yaml_count = 0;
}

static const char *yaml_get(const char *fmt, ...) PRINTF_LIKE(1, 2);
static const char *yaml_get(const char *fmt, ...)
{
	char key[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(key, sizeof(key), fmt, ap);
	va_end(ap);
	for (unsigned i = 0; i < yaml_count; i++)
		if (strcmp(yaml[i].key, key) == 0)
			return yaml[i].value;
	return NULL;
}

/* How many keys are directly below `parent`. */
static unsigned yaml_children(const char *parent)
{
	unsigned n = 0;
	size_t len = strlen(parent);

	for (unsigned i = 0; i < yaml_count; i++)
		n += strncmp(yaml[i].key, parent, len) == 0 && yaml[i].key[len] == '.' &&
		     !strchr(yaml[i].key + len + 1, '.');
	return n;
}

static void expect_yaml(const char *want, const char *got, const char *what)
{
	cr_expect(got && strcmp(want, got) == 0, "%s: '%s' in openapi.yaml, '%s' in the table",
		  what, got ? got : "nothing", want);
}

/* What the field's enum is in YAML. */
static void enum_text(const struct body_field *f, char *text, size_t size)
{
	snprintf(text, size, "[");
	for (const struct body_name *n = f->names; n->name; n++)
		if (n->value != BODY_REFUSED)
			snprintf(text + strlen(text), size - strlen(text), "%s%s",
				 n == f->names ? "" : ", ",
				 strcmp(n->name, "Off") == 0 ? "'Off'" : n->name);
	snprintf(text + strlen(text), size - strlen(text), "]");
}

static void check_field(const char *at, const struct body_field *f)
{
	static const char *const type[] = {
		[BODY_BOOL] = "boolean", [BODY_UINT] = "integer", [BODY_STRING] = "string",
		[BODY_ARRAY] = "array",	 [BODY_MAP] = "object",	  [BODY_LIST] = "array",
		[BODY_JSON] = "object",	 [BODY_TEXT] = "string",  [BODY_ID] = "string",
		[BODY_ENUM] = "string",
	};
	char text[256];

	if (f->type == BODY_OBJECT) {
		snprintf(text, sizeof(text), "'#/components/schemas/%s'", f->body->name);
		expect_yaml(text, yaml_get("%s.$ref", at), at);
		return;
	}
	expect_yaml(type[f->type], yaml_get("%s.type", at), at);
	if (f->type == BODY_UINT) {
		snprintf(text, sizeof(text), "%llu", (unsigned long long)f->min);
		expect_yaml(text, yaml_get("%s.minimum", at), at);
		snprintf(text, sizeof(text), "%llu", (unsigned long long)f->max);
		expect_yaml(text, yaml_get("%s.maximum", at), at);
	}
	if (f->type == BODY_STRING && f->max) {
		snprintf(text, sizeof(text), "%llu", (unsigned long long)f->max);
		expect_yaml(text, yaml_get("%s.maxLength", at), at);
	}
	if (f->type == BODY_ENUM) {
		enum_text(f, text, sizeof(text));
		expect_yaml(text, yaml_get("%s.enum", at), at);
	}
}

static void check_schema(const struct body *b)
{
	char at[128], required[256] = "[";
	unsigned described = 0;

	for (unsigned i = 0; i < b->count; i++) {
		const struct body_field *f = &b->field[i];

		snprintf(at, sizeof(at), "components.schemas.%s.properties.%s", b->name, f->name);
		if (f->type == BODY_UNSUPPORTED) {
			cr_expect_null(yaml_get("%s", at), "%s is not supported", at);
			continue;
		}
		described++;
		check_field(at, f);
		if (f->flags & BODY_REQUIRED)
			snprintf(required + strlen(required), sizeof(required) - strlen(required),
				 "%s%s", required[1] ? ", " : "", f->name);
	}
	snprintf(at, sizeof(at), "components.schemas.%s.properties", b->name);
	cr_expect_eq(yaml_children(at), described, "%s", at);
	if (required[1]) {
		strcat(required, "]");
		expect_yaml(required, yaml_get("components.schemas.%s.required", b->name), b->name);
	}
}

Test(route, openapi_describes_the_field_tables)
{
	static const struct body *const all[] = {
		&schema_action,		 &schema_boot_source,
		&schema_cpu_config,	 &schema_net,
		&schema_net_update,	 &schema_net_policy,
		&schema_net_rewrite,	 &schema_drive,
		&schema_hotplug,	 &schema_hotplug_status,
		&schema_hotplug_update,	 &schema_pmem,
		&schema_pmem_update,	 &schema_mmds_config,
		&schema_entropy,	 &schema_logger,
		&schema_instance_info,	 &schema_machine,
		&schema_metrics,	 &schema_balloon,
		&schema_balloon_hinting, &schema_balloon_start,
		&schema_balloon_stats,	 &schema_balloon_stats_update,
		&schema_balloon_update,	 &schema_serial,
		&schema_version,	 &schema_vm,
		&schema_vsock,		 &schema_fork,
		&schema_snapshot_create, &schema_snapshot_load,
		&schema_snapshot_prime,	 &schema_serial_override,
		&schema_memory_backend,	 &schema_network_override,
		&schema_drive_override,	 &schema_pmem_override,
		&schema_vsock_override,	 &schema_migrate,
		&schema_migrate_status,	 &schema_receive,
		&schema_bucket,		 &schema_limiter,
		&schema_drive_update,
	};

	load_yaml("api-sock/openapi.yaml");
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		check_schema(all[i]);
	check_schema(schema_net_policy.field[1].body);
	check_schema(schema_net_rewrite.field[0].body);
	/* And those two, Error, FullVmConfiguration, ForkResult, and MmdsContentsObject, which is anything. */
	cr_expect_eq(yaml_children("components.schemas"), ARRAY_SIZE(all) + 6);
	free_yaml();
}

static void expect_ref(const char *schema, const char *at, const char *where)
{
	char ref[128];

	snprintf(ref, sizeof(ref), "'#/components/schemas/%s'", schema);
	expect_yaml(ref, yaml_get("%s.%s.content.application/json.schema.$ref", at, where), at);
}

static void check_route(const struct route *r)
{
	static const char *const verb[] = {[HTTP_VERB_GET] = "get",
					   [HTTP_VERB_PUT] = "put",
					   [HTTP_VERB_PATCH] = "patch",
					   [HTTP_VERB_DELETE] = "delete"};
	char at[128];

	snprintf(at, sizeof(at), "paths.%s.%s", r->path, verb[r->verb]);
	expect_yaml(r->phases == PHASE_ANY	? "any"
		    : r->phases == PHASE_BEFORE ? "before"
						: "after",
		    yaml_get("%s.x-phase", at), at);
	if (r->body)
		expect_ref(r->body->name, at, "requestBody");
	if (r->action == action_get_events)
		cr_expect_not_null(yaml_get("%s.responses.'200'.content.application/x-ndjson", at));
	else if (r->action == action_get_metrics)
		cr_expect_not_null(yaml_get("%s.responses.'200'.content.text/plain", at));
	else if (r->action == action_get_mmds)
		expect_ref("MmdsContentsObject", at, "responses.'200'");
	else if (r->action == action_put_fork)
		expect_ref("ForkResult", at, "responses.'200'");
	else if (r->verb == HTTP_VERB_GET)
		expect_ref(r->reply ? r->reply->name : "FullVmConfiguration", at,
			   "responses.'200'");
	else
		cr_expect_not_null(yaml_get("%s.responses.'204'", at), "%s", at);
}

Test(route, openapi_describes_the_route_table)
{
	unsigned operations = 0;

	load_yaml("api-sock/openapi.yaml");
	for (unsigned i = 0; i < route_count; i++)
		check_route(&routes[i]);
	for (unsigned i = 0; i < yaml_count; i++)
		operations += strncmp(yaml[i].key, "paths.", 6) == 0 &&
			      strstr(yaml[i].key, ".operationId");
	cr_expect_eq(operations, route_count);
	free_yaml();
}
