/* SPDX-License-Identifier: Apache-2.0 */
#include "api-sock/configfile.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "api-sock/cpuconfig.h"
#include "api-sock/schema.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#define CONFIG_FILE_MAX	  MIB(1)
#define METADATA_FILE_MAX MIB(64) /* --mmds-size-limit decides */

static json_t *print_logger(const struct config *c)
{
	return c->logger.configured ? body_print(&schema_logger, &c->logger) : json_null();
}

static json_t *print_metrics(const struct config *c)
{
	return c->metrics.metrics_path ? body_print(&schema_metrics, &c->metrics) : json_null();
}

static json_t *print_cpu(const struct config *c)
{
	return c->cpu ? cpuconfig_print(c->cpu) : json_null();
}

static json_t *print_machine(const struct config *c)
{
	return body_print(&schema_machine, &c->machine);
}

static json_t *print_boot_source(const struct config *c)
{
	return c->boot.kernel_image_path ? body_print(&schema_boot_source, &c->boot) : json_null();
}

static json_t *print_drives(const struct config *c)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < c->drive_count; i++)
		json_array_append_new(list, body_print(&schema_drive, &c->drive[i]));
	return list;
}

static json_t *print_nets(const struct config *c)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < c->net_count; i++)
		json_array_append_new(list, body_print(&schema_net, &c->net[i]));
	return list;
}

static json_t *print_hotplug(const struct config *c)
{
	return c->hotplug.configured ? body_print(&schema_hotplug, &c->hotplug) : json_null();
}

static json_t *print_pmems(const struct config *c)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < c->pmem_count; i++)
		json_array_append_new(list, body_print(&schema_pmem, &c->pmem[i]));
	return list;
}

static json_t *print_mmds(const struct config *c)
{
	return mmds_configured(&c->mmds) ? body_print(&schema_mmds_config, &c->mmds) : json_null();
}

static json_t *print_entropy(const struct config *c)
{
	const struct entropy_request e = {.limiter = c->entropy_limit};

	return c->entropy ? body_print(&schema_entropy, &e) : json_null();
}

static json_t *print_balloon(const struct config *c)
{
	return c->balloon.configured ? body_print(&schema_balloon, &c->balloon) : json_null();
}

static json_t *print_vsock(const struct config *c)
{
	return c->vsock.uds_path ? body_print(&schema_vsock, &c->vsock) : json_null();
}

static json_t *print_serial(const struct config *c)
{
	return c->serial.serial_out_path ? body_print(&schema_serial, &c->serial) : json_null();
}

/* In the order in which they are applied. Without `apply`: Firecracker's, not here. */
static const struct group {
	const char *key;
	api_action *apply;
	json_t *(*print)(const struct config *c);
	bool list; /* an array of what `apply` takes */
} groups[] = {
	{"logger", action_put_logger, print_logger, false},
	{"metrics", action_put_metrics, print_metrics, false},
	{"machine-config", action_put_machine, print_machine, false},
	{"cpu-config", action_put_cpu_config, print_cpu, false},
	{"boot-source", action_put_boot_source, print_boot_source, false},
	{"drives", action_put_drive, print_drives, true},
	{"network-interfaces", action_put_net, print_nets, true},
	{"mmds-config", action_put_mmds_config, print_mmds, false},
	{"entropy", action_put_entropy, print_entropy, false},
	{"balloon", action_put_balloon, print_balloon, false},
	{"vsock", action_put_vsock, print_vsock, false},
	{"serial", action_put_serial, print_serial, false},
	{"memory-hotplug", action_put_hotplug, print_hotplug, false},
	{"pmem", action_put_pmem, print_pmems, true},
};

/* Of this process: not part of a snapshot. */
static bool is_own(const struct group *g)
{
	return g->apply == action_put_logger || g->apply == action_put_metrics ||
	       g->apply == action_put_boot_source || g->apply == action_put_serial;
}

static int apply_one(struct api *api, const struct group *g, const json_t *body, struct err *e)
{
	struct api_call call = {.body = body};

	if (g->apply(api, &call, e) < 0)
		return err_wrap(e, "'%s'", g->key);
	return 0;
}

static int apply_group(struct api *api, const struct group *g, const json_t *value, struct err *e)
{
	int r = 0;

	/* Absent, or what an empty group is printed as. */
	if (!value || json_is_null(value) ||
	    (g->list && json_is_array(value) && json_array_size(value) == 0))
		return 0;
	if (!g->apply)
		return err_set(e, EINVAL, "'%s' is not supported", g->key);
	if (!g->list)
		return apply_one(api, g, value, e);
	if (!json_is_array(value))
		return err_set(e, EINVAL, "'%s': expected an array", g->key);
	for (size_t i = 0; r == 0 && i < json_array_size(value); i++)
		r = apply_one(api, g, json_array_get(value, i), e);
	return r;
}

static void warn_unknown(json_t *root)
{
	const char *key;
	json_t *value;

	json_object_foreach(root, key, value)
	{
		bool known = false;

		for (size_t i = 0; i < ARRAY_SIZE(groups); i++)
			known |= strcmp(groups[i].key, key) == 0;
		if (!known) {
			cleanup_free char *name = strdup(key);

			if (name)
				err_clean_text(name);
			log_warn("config file: unknown key '%.64s' is ignored", name ? name : "");
		}
	}
}

int configfile_apply_root(struct api *api, json_t *root, bool saved, struct err *e)
{
	int r = 0;

	if (!json_is_object(root))
		r = err_set(e, EINVAL, "expected a JSON object");
	else
		warn_unknown(root);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(groups); i++) {
		const json_t *value = json_object_get(root, groups[i].key);

		if (value && saved && is_own(&groups[i]))
			r = err_set(e, EINVAL, "'%s' has no place in a snapshot", groups[i].key);
		else
			r = apply_group(api, &groups[i], value, e);
	}
	return r;
}

int configfile_apply(struct api *api, const char *text, size_t len, struct err *e)
{
	json_t *root = body_parse(text, len, e);
	int r;

	if (!root)
		return -EINVAL;
	r = configfile_apply_root(api, root, false, e);
	json_decref(root);
	return r;
}

/* Reads to the end, so that a pipe is fine too. Returns the length or -errno. */
static ssize_t read_all(int fd, char *buf, size_t size, struct err *e)
{
	size_t len = 0;

	while (len < size) {
		ssize_t n = fd_read(fd, buf + len, size - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(e, "read");
		if (n == 0)
			return (ssize_t)len;
		len += (size_t)n;
	}
	return err_set(e, EFBIG, "more than %zu bytes", size - 1);
}

/* All of a file of at most `max` bytes; malloc'ed. Returns its length, or -errno. */
static ssize_t read_file(const char *path, size_t max, char **text, struct err *e)
{
	cleanup_fd int fd = fd_open_path(path, O_RDONLY, 0);

	if (fd < 0)
		return err_set(e, -fd, "%s", strerror(-fd));
	*text = malloc(max + 1);
	if (!*text)
		return err_set(e, ENOMEM, "out of memory");
	return read_all(fd, *text, max + 1, e);
}

int configfile_load(struct api *api, const char *path, struct err *e)
{
	cleanup_free char *text = NULL;
	ssize_t len = read_file(path, CONFIG_FILE_MAX, &text, e);

	if (len < 0 || configfile_apply(api, text, (size_t)len, e) < 0)
		return err_wrap(e, "config file '%s'", path);
	return 0;
}

int configfile_load_metadata(struct api *api, const char *path, struct err *e)
{
	cleanup_free char *text = NULL;
	ssize_t len = read_file(path, METADATA_FILE_MAX, &text, e);
	json_t *value = len < 0 ? NULL : body_parse(text, (size_t)len, e);
	int r = value ? mmds_put(&api->vm->mmds, value, e) : -EINVAL;

	json_decref(value);
	return r < 0 ? err_wrap(e, "--metadata '%s'", path) : 0;
}

json_t *configfile_print(const struct config *c, bool saved)
{
	json_t *root = json_object();

	for (size_t i = 0; i < ARRAY_SIZE(groups); i++)
		if (groups[i].print && !(saved && is_own(&groups[i])))
			json_object_set_new(root, groups[i].key, groups[i].print(c));
	return root;
}

int configfile_get(struct api *api, struct api_call *call, struct err *e)
{
	(void)e;
	call->reply = configfile_print(&api->vm->config, false);
	return 0;
}
