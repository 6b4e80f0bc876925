/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ctl/launch.h"
#include "ctl/outcome.h"
#include "ctl/stat.h"
#include "ctl/verbs.h"

#define BOOT_ARGS   "console=ttyS0 reboot=k panic=-1 quiet"
/* Of 2048 bytes that a kernel takes; devices are told there too. */
#define COMMAND_MAX 1400
#define RUN_FAILED  125 /* sporectl, not the command: as exec does */

struct args {
	const char *name, *config, *kernel, *initrd, *rootfs, *overlay, *cmdline, *append, *vsock;
	struct ctl_list drives, taps;
	uint64_t cpus, memory, cid;
	bool read_only, no_vsock, track_dirty, forkable, detach, rm;
	int command_count;
	char **command; /* NULL: none */
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
	 "what is written to the root goes to this file; the image may be shared [an image of the "
	 "cache: "
	 "to one that is kept with the microVM]"},
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
	{"forkable", 0, CTL_FLAG, AT(forkable), NULL, "memory that children can share, for fork"},
	{"config", 0, CTL_TEXT, AT(config), "FILE",
	 "a config file of spore or Firecracker to begin with; other options change it"},
	{"detach", 'd', CTL_FLAG, AT(detach), NULL, "leave it in the background, print its name"},
	{"rm", 0, CTL_FLAG, AT(rm), NULL, "keep nothing of it when it has ended"},
	{0},
};

static const struct ctl_usage usage = {
	.arguments = "[-- COMMAND [ARGUMENT...]]",
	.options = options,
	.max = CTL_MANY,
	.no_more_options = true,
	.examples = "sporectl run --kernel vmlinux --rootfs root.ext4\n"
		    "sporectl run -k vmlinux -i initrd.cpio -m 512M -c 2 --rm\n"
		    "sporectl run --name web --detach -k vmlinux -r root.ext4 --tap tap0\n"
		    "# many from one image: each writes to a file of its own\n"
		    "sporectl run -d -k vmlinux -r root.ext4 --overlay web1.overlay\n"
		    "# a command, run by the image's agent; its exit code is sporectl's\n"
		    "sporectl run --rm -k vmlinux -r root.ext4 -- uname -a\n"
		    "sporectl run --rm -- 'cd /srv && make test'\n"
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

/* Ours are behind those of a config file and before the user's: the last one of a kind counts. */
static int add_words(const struct args *a, json_t *boot, const char *line, struct err *e)
{
	char command[COMMAND_MAX] = "";
	const char *append = a->append ? a->append : "";
	int r = a->command ? outcome_words(a->command_count, a->command, command, COMMAND_MAX, e)
			   : 0;

	if (r < 0)
		return r;
	json_object_set_new(
		boot, "boot_args",
		json_sprintf("%s%s%s%s%s%s", line, *command ? " loglevel=0 " : "", command,
			     *command && !isatty(STDOUT_FILENO) ? " spore.tty=plain" : "",
			     *append ? " " : "", append));
	return 0;
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
	if (json_object_get(boot, "kernel_image_path"))
		return add_words(a, boot, line, e);
	ctl_hint(c, "sporectl kernel get; or: sporectl run --kernel PATH");
	return err_set(e, ENOENT, "no kernel: none was named, and none is in the cache");
}

/*
 * An image in the cache is not written: what the guest writes goes with its microVM. An image of another kind than
 * ext4 cannot be written at all.
 */
static void spare_cache(const struct vms_vm *vm, json_t *drive)
{
	const char *path = json_string_value(json_object_get(drive, "path_on_host")), *dot;
	char images[PATH_MAX], real[PATH_MAX], overlay[VMS_PATH_MAX];

	if (ctl_cache_path("images/", images, sizeof(images), NULL) < 0 ||
	    !realpath(images, real) || strncmp(path, real, strlen(real)) != 0)
		return;
	dot = strrchr(path, '.');
	if (dot && strcmp(dot, ".ext4") != 0)
		json_object_set_new(drive, "is_read_only", json_true());
	if (json_is_true(json_object_get(drive, "is_read_only")))
		return;
	vms_path(vm, "root.overlay", overlay);
	json_object_set_new(drive, "overlay", json_string(overlay));
}

static void add_drives(const struct args *a, const struct vms_vm *vm, json_t *root)
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
		else
			spare_cache(vm, drive);
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
	if (a->forkable)
		json_object_set_new(machine, "memory_backend", json_string("Memfd"));
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

/* Whoever waits for a command has to hear how it ended. */
static int listen_for_end(struct ctl *c, const struct args *a, json_t *root, struct outcome *o,
			  struct err *e)
{
	json_t *vsock = json_object_get(root, "vsock");
	const char *path = json_string_value(json_object_get(vsock, "uds_path"));

	if (!a->command || a->detach)
		return 0;
	if (path)
		return outcome_begin(o, path, e);
	ctl_hint(c, "sporectl run without --no-vsock");
	return err_set(e, EINVAL, "a command's exit code comes through the vsock device");
}

static int start(struct ctl *c, const struct args *a, struct launch *l, struct outcome *o,
		 struct err *e)
{
	json_t *root = read_base(c, a, e);
	int r = root ? add_boot(c, a, root, e) : -e->code;

	if (r == 0)
		r = launch_prepare(c, a->name, l, e);
	if (r == 0) {
		add_drives(a, &l->vm, root);
		add_machine(a, root);
		add_devices(a, &l->vm, root);
		r = listen_for_end(c, a, root, o, e);
		if (r < 0)
			launch_cancel(l);
	}
	if (r == 0) {
		l->attended = !a->detach;
		r = launch_start(c, l, root, a->rm, e);
		if (r < 0 && o->listener >= 0)
			outcome_end(o);
	}
	json_decref(root);
	return r;
}

/* The command's exit code, if it has one. */
static int attend(struct ctl *c, const struct args *a, struct launch *l, struct outcome *o)
{
	struct console_end end;
	struct err e;
	int status;

	if (o->listener < 0)
		return launch_attend(c, l, NULL);
	status = launch_attend(c, l, &end);
	if (end.how == CONSOLE_DETACHED)
		return status; /* the thread goes with us */
	status = outcome_end(o);
	if (status >= 0)
		return status;
	if (end.status == 0 || end.status == 3) {
		ctl_hint(c,
			 a->rm ? "the same without --rm, then: sporectl logs NAME"
			       : "sporectl logs %s; has the image an agent? sporectl image build "
				 "gives it one",
			 l->vm.name);
		err_set(&e, ECHILD, "the guest ended without a word of the command");
		ctl_fail(c, &e);
	}
	return RUN_FAILED;
}

int verb_run(struct ctl *c, int argc, char **argv)
{
	struct outcome outcome = {.listener = -1};
	struct args args = {0};
	struct launch l;
	struct err e;

	if (!ctl_parse(c, &usage, &argc, &argv, &args))
		return c->exit_code;
	args.command = argc ? argv : NULL;
	args.command_count = argc;
	if (start(c, &args, &l, &outcome, &e) < 0) {
		ctl_fail(c, &e);
		return args.command ? RUN_FAILED : CTL_FAILED;
	}
	if (!args.detach)
		return attend(c, &args, &l, &outcome);
	if (c->json)
		return ctl_print_json(c, stat_one(c, &l.vm));
	puts(l.vm.name);
	return 0;
}
