/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ctl/launch.h"
#include "ctl/stat.h"
#include "ctl/verbs.h"

#define BOOT_ARGS "console=ttyS0 reboot=k panic=-1 quiet"

struct args {
	const char *name, *config, *kernel, *initrd, *rootfs, *overlay, *cmdline, *append, *vsock;
	struct ctl_list drives, taps;
	uint64_t cpus, memory, cid;
	bool read_only, no_vsock, track_dirty, detach, rm;
};

#define AT(member) offsetof(struct args, member)
static const struct ctl_option options[] = {
	{"name", 'n', CTL_TEXT, AT(name), "NAME", "of the microVM [vm1, vm2...]"},
	{"kernel", 'k', CTL_TEXT, AT(kernel), "PATH",
	 "vmlinux or bzImage [default/kernel in the cache]"},
	{"initrd", 'i', CTL_TEXT, AT(initrd), "PATH", "initial RAM disk"},
	{"rootfs", 'r', CTL_TEXT, AT(rootfs), "PATH",
	 "image of the root file system [default/rootfs in the cache]"},
	{"read-only", 0, CTL_FLAG, AT(read_only), NULL, "the root file system cannot be written"},
	{"overlay", 'o', CTL_TEXT, AT(overlay), "PATH",
	 "what is written to the root goes to this file; the image may be shared"},
	{"drive", 0, CTL_LIST, AT(drives), "PATH", "another disk; with ':ro' behind it read-only"},
	{"cpus", 'c', CTL_NUMBER, AT(cpus), "N", "processors [1]"},
	{"memory", 'm', CTL_SIZE, AT(memory), "SIZE", "memory, as 512M or 2G [256M]"},
	{"cmdline", 0, CTL_TEXT, AT(cmdline), "TEXT", "kernel command line [" BOOT_ARGS "]"},
	{"append", 'a', CTL_TEXT, AT(append), "TEXT", "added to the kernel command line"},
	{"tap", 't', CTL_LIST, AT(taps), "DEVICE", "a network interface on this tap device"},
	{"vsock", 0, CTL_TEXT, AT(vsock), "PATH",
	 "socket of the vsock device [in the state directory]"},
	{"cid", 0, CTL_NUMBER, AT(cid), "N", "vsock address of the guest [3]"},
	{"no-vsock", 0, CTL_FLAG, AT(no_vsock), NULL, "no vsock device: no exec, no cp"},
	{"track-dirty", 0, CTL_FLAG, AT(track_dirty), NULL,
	 "log written pages, for snapshot --diff"},
	{"config", 0, CTL_TEXT, AT(config), "FILE",
	 "a config file of spore or Firecracker to begin with; other options change it"},
	{"detach", 'd', CTL_FLAG, AT(detach), NULL, "leave it in the background, print its name"},
	{"rm", 0, CTL_FLAG, AT(rm), NULL, "keep nothing of it when it has ended"},
	{0},
};

static const struct ctl_usage usage = {
	.arguments = "",
	.options = options,
	.examples = "sporectl run --kernel vmlinux --rootfs root.ext4\n"
		    "sporectl run -k vmlinux -i initrd.cpio -m 512M -c 2 --rm\n"
		    "sporectl run --name web --detach -k vmlinux -r root.ext4 --tap tap0\n"
		    "# many from one image: each writes to a file of its own\n"
		    "sporectl run -d -k vmlinux -r root.ext4 --overlay web1.overlay\n"
		    "# Ctrl-] detaches; to attach again:\n"
		    "sporectl console web\n",
};

/* The member of `root`, made when it is not there. Borrowed. */
static json_t *group(json_t *root, const char *key, json_t *fresh)
{
	json_t *have = json_object_get(root, key);

	if (have && !json_is_null(have)) {
		json_decref(fresh);
		return have;
	}
	json_object_set_new(root, key, fresh);
	return json_object_get(root, key);
}

/* Absolute, so that it still means the same file in a snapshot. Spore says what is wrong with it. */
static void set_path(json_t *object, const char *key, const char *path)
{
	char *real = realpath(path, NULL);
	char there[PATH_MAX + 256];

	if (real)
		json_object_set_new(object, key, json_string(real));
	else if (path[0] != '/' && getcwd(there, PATH_MAX) && strlen(path) < 250)
		json_object_set_new(object, key, json_string(strcat(strcat(there, "/"), path)));
	else
		json_object_set_new(object, key, json_string(path));
	free(real);
}

/* What was not asked for is taken from the cache, when it is there. */
static const char *or_default(const char *asked, const char *file, char buf[PATH_MAX])
{
	if (asked || ctl_cache_path(file, buf, PATH_MAX, NULL) < 0 || access(buf, R_OK) < 0)
		return asked;
	return buf;
}

static int add_boot(struct ctl *c, const struct args *a, json_t *root, struct err *e)
{
	char kernel_path[PATH_MAX], initrd_path[PATH_MAX];
	const char *kernel =
		a->config ? a->kernel : or_default(a->kernel, "default/kernel", kernel_path);
	const char *initrd = a->config || a->kernel
				     ? a->initrd
				     : or_default(a->initrd, "default/initrd", initrd_path);
	json_t *boot = group(root, "boot-source", json_object());
	const char *line = json_string_value(json_object_get(boot, "boot_args"));

	if (kernel)
		set_path(boot, "kernel_image_path", kernel);
	if (initrd)
		set_path(boot, "initrd_path", initrd);
	if (a->cmdline || !line)
		line = a->cmdline ? a->cmdline : BOOT_ARGS;
	json_object_set_new(
		boot, "boot_args",
		json_sprintf("%s%s%s", line, a->append ? " " : "", a->append ? a->append : ""));
	if (json_object_get(boot, "kernel_image_path"))
		return 0;
	ctl_hint(c, "sporectl run --kernel PATH; make demo builds one in build/guest");
	return err_set(e, ENOENT, "no kernel: none was named, and none is in the cache");
}

static void add_drives(const struct args *a, json_t *root)
{
	char path[PATH_MAX];
	bool own = a->config || a->kernel; /* an image of ours does not fit to any kernel */
	const char *rootfs =
		own || a->initrd ? a->rootfs : or_default(a->rootfs, "default/rootfs", path);
	json_t *drives = group(root, "drives", json_array());
	json_t *drive;

	if (rootfs) {
		drive = json_pack("{s:s, s:b, s:b}", "drive_id", "root", "is_root_device", 1,
				  "is_read_only", a->read_only);
		set_path(drive, "path_on_host", rootfs);
		if (a->overlay)
			set_path(drive, "overlay", a->overlay);
		json_array_append_new(drives, drive);
	}
	for (unsigned i = 0; i < a->drives.count; i++) {
		size_t len = strlen(a->drives.item[i]);
		bool ro = len > 3 && strcmp(a->drives.item[i] + len - 3, ":ro") == 0;

		snprintf(path, sizeof(path), "%.*s", (int)(ro ? len - 3 : len), a->drives.item[i]);
		drive = json_pack("{s:b, s:b}", "is_root_device", 0, "is_read_only", ro);
		json_object_set_new(drive, "drive_id", json_sprintf("disk%u", i + 1));
		set_path(drive, "path_on_host", path);
		json_array_append_new(drives, drive);
	}
}

static void add_machine(const struct args *a, json_t *root)
{
	json_t *machine = group(root, "machine-config",
				json_pack("{s:i, s:i}", "vcpu_count", 1, "mem_size_mib", 256));

	if (a->cpus)
		json_object_set_new(machine, "vcpu_count", json_integer((json_int_t)a->cpus));
	if (a->memory)
		json_object_set_new(machine, "mem_size_mib",
				    json_integer((json_int_t)(a->memory >> 20)));
	if (a->track_dirty)
		json_object_set_new(machine, "track_dirty_pages", json_true());
}

static void add_devices(const struct args *a, const struct vms_vm *vm, json_t *root)
{
	json_t *nets = group(root, "network-interfaces", json_array()), *vsock;
	size_t have = json_array_size(nets);
	char path[VMS_PATH_MAX];

	for (unsigned i = 0; i < a->taps.count; i++)
		json_array_append_new(nets, json_pack("{s:o, s:s}", "iface_id",
						      json_sprintf("eth%zu", have + i),
						      "host_dev_name", a->taps.item[i]));
	group(root, "entropy", json_object());
	if (a->no_vsock)
		return;
	vms_path(vm, "vsock.sock", path);
	vsock = group(root, "vsock", json_pack("{s:i, s:s}", "guest_cid", 3, "uds_path", path));
	if (a->vsock)
		set_path(vsock, "uds_path", a->vsock);
	if (a->cid)
		json_object_set_new(vsock, "guest_cid", json_integer((json_int_t)a->cid));
}

static json_t *read_base(struct ctl *c, const struct args *a, struct err *e)
{
	json_error_t where;
	json_t *root = a->config ? json_load_file(a->config, 0, &where) : json_object();

	if (json_is_object(root))
		return root;
	json_decref(root);
	if (!root && where.line > 0)
		ctl_hint(c, "jq . %s", a->config);
	else
		ctl_hint(c, "ls -l %s", a->config);
	err_set(e, EINVAL, "--config '%s': %s", a->config,
		root ? "it is no JSON object" : where.text);
	return NULL;
}

static int start(struct ctl *c, const struct args *a, struct launch *l, struct err *e)
{
	json_t *root = read_base(c, a, e);
	int r = root ? add_boot(c, a, root, e) : -e->code;

	if (r == 0)
		r = launch_prepare(c, a->name, l, e);
	if (r == 0) {
		add_drives(a, root);
		add_machine(a, root);
		add_devices(a, &l->vm, root);
		r = launch_start(c, l, root, a->rm, e);
	}
	json_decref(root);
	return r;
}

int verb_run(struct ctl *c, int argc, char **argv)
{
	struct args args = {0};
	struct launch l;
	struct err e;

	if (!ctl_parse(c, &usage, &argc, &argv, &args))
		return c->exit_code;
	if (start(c, &args, &l, &e) < 0)
		return ctl_fail(c, &e);
	if (!args.detach)
		return launch_attend(c, &l);
	if (c->json)
		return ctl_print_json(c, stat_one(c, &l.vm));
	puts(l.vm.name);
	return 0;
}
