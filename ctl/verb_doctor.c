/* SPDX-License-Identifier: Apache-2.0 */
/* doctor: what of this machine microVMs need or profit from; what is missing, what that costs, what to do. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "ctl/table.h"
#include "ctl/verbs.h"
#include "vmm/base/fd.h"

#define FOUND_MAX 96

/* Of one check: "ok", "warn" (something is slow or does not work), "fail" (no Linux guest will run). */
struct finding {
	const char *state;
	char found[FOUND_MAX];
	const char *cost, *fix; /* unless good */
};

static bool read_text(const char *path, char *buf, size_t size)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

	buf[n > 0 ? n : 0] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return n > 0;
}

static void set(struct finding *f, const char *state, const char *found, const char *cost,
		const char *fix)
{
	*f = (struct finding){.state = state, .cost = cost, .fix = fix};
	snprintf(f->found, sizeof(f->found), "%s", found);
}

static void check_kvm(struct finding *f)
{
	cleanup_fd int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = fd < 0 ? -1 : ioctl(fd, KVM_CREATE_VM, 0);

	if (vm >= 0)
		set(f, "ok", "usable", NULL, NULL);
	else if (fd >= 0)
		set(f, "fail", strerror(errno), "no microVM can be created", "dmesg | grep -i kvm");
	else if (errno == EACCES)
		set(f, "fail", "not for you", "no microVM can start",
		    "sudo usermod -aG kvm $USER, then log in again");
	else
		set(f, "fail", strerror(errno), "no microVM can start",
		    "sudo modprobe kvm_intel || sudo modprobe kvm_amd; in a virtual machine: "
		    "nested "
		    "virtualization");
	fd_close(&vm);
}

static void check_hardware(struct finding *f)
{
	FILE *cpu = fopen("/proc/cpuinfo", "re");
	char line[8192];
	bool vmx = false, svm = false;

	while (cpu && fgets(line, sizeof(line), cpu)) {
		if (strncmp(line, "flags", 5) != 0)
			continue;
		vmx = strstr(line, " vmx") != NULL;
		svm = strstr(line, " svm") != NULL;
		break;
	}
	if (cpu)
		fclose(cpu);
	if (vmx || svm)
		set(f, "ok", vmx ? "vmx" : "svm", NULL, NULL);
	else
		set(f, "fail", "neither vmx nor svm",
		    "only guests of a few instructions run, Linux does not",
		    "turn on virtualization in the firmware, or nested virtualization of the host");
}

static void check_cgroup(struct finding *f)
{
	char options[4096];
	FILE *mounts = fopen("/proc/self/mounts", "re");
	bool v2 = false, favor = false;

	while (mounts && fgets(options, sizeof(options), mounts))
		if (strstr(options, " cgroup2 ")) {
			v2 = true;
			favor |= strstr(options, "favordynmods") != NULL;
		}
	if (mounts)
		fclose(mounts);
	if (!v2)
		set(f, "warn", "version 1", "the jailer needs a directory for each controller",
		    "boot with systemd.unified_cgroup_hierarchy=1");
	else if (!favor)
		set(f, "warn", "version 2 without favordynmods",
		    "moving a process into its cgroup waits for RCU, up to tens of milliseconds",
		    "sudo mount -o remount,favordynmods /sys/fs/cgroup");
	else
		set(f, "ok", "version 2, favordynmods", NULL, NULL);
}

static void check_nx(struct finding *f)
{
	char text[32];

	if (!read_text("/sys/module/kvm/parameters/nx_huge_pages", text, sizeof(text)))
		set(f, "ok", "not there", NULL, NULL);
	else if (text[0] == 'N' || strcmp(text, "never") == 0)
		set(f, "ok", text, NULL, NULL);
	else
		set(f, "warn", text,
		    "a recovery thread for each VM, and huge pages of code are split",
		    "on processors that are not affected: echo never | sudo tee "
		    "/sys/module/kvm/parameters/nx_huge_pages");
}

static void check_thp(struct finding *f)
{
	char text[64];

	if (!read_text("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof(text)))
		set(f, "warn", "not there", "guests boot slower: a fault for each 4 KiB",
		    "a kernel with CONFIG_TRANSPARENT_HUGEPAGE");
	else if (strstr(text, "[never]"))
		set(f, "warn", "never", "guests boot slower: a fault for each 4 KiB",
		    "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled");
	else
		set(f, "ok", strstr(text, "[madvise]") ? "madvise" : "always", NULL, NULL);
}

static void check_uffd(struct finding *f)
{
	char text[8];
	bool known = read_text("/proc/sys/vm/unprivileged_userfaultfd", text, sizeof(text));

	if (!known)
		set(f, "warn", "not there", "snapshots with the backend Uffd cannot be loaded",
		    "a kernel with CONFIG_USERFAULTFD");
	else if (text[0] == '0' && geteuid() != 0 && access("/dev/userfaultfd", R_OK) < 0)
		set(f, "warn", "for root only", "snapshots with the backend Uffd cannot be loaded",
		    "sudo sysctl vm.unprivileged_userfaultfd=1");
	else
		set(f, "ok", "usable", NULL, NULL);
}

static void check_tun(struct finding *f)
{
	if (access("/dev/net/tun", R_OK | W_OK) == 0)
		set(f, "ok", "usable", NULL, NULL);
	else
		set(f, "warn", strerror(errno), "no network through taps (passt works)",
		    "sudo modprobe tun; sudo chmod 666 /dev/net/tun");
}

static void check_files(struct finding *f)
{
	struct rlimit limit = {0};
	char text[FOUND_MAX];

	getrlimit(RLIMIT_NOFILE, &limit);
	snprintf(text, sizeof(text), "%llu", (unsigned long long)limit.rlim_cur);
	if (limit.rlim_cur >= 1024)
		set(f, "ok", text, NULL, NULL);
	else
		set(f, "warn", text,
		    "a microVM with many devices and connections runs out of files",
		    "ulimit -n 4096");
}

static const struct {
	const char *name;
	void (*check)(struct finding *f);
} checks[] = {
	{"/dev/kvm", check_kvm},
	{"processor", check_hardware},
	{"cgroups", check_cgroup},
	{"nx_huge_pages", check_nx},
	{"transparent huge pages", check_thp},
	{"userfaultfd", check_uffd},
	{"/dev/net/tun", check_tun},
	{"open files", check_files},
};

static json_t *examine(int *code)
{
	json_t *rows = json_array();

	for (size_t i = 0; i < ARRAY_SIZE(checks); i++) {
		struct finding f;
		json_t *row;

		checks[i].check(&f);
		row = json_pack("{s:s, s:s, s:s}", "check", checks[i].name, "state", f.state,
				"found", f.found);
		if (f.cost)
			json_object_set_new(row, "cost", json_string(f.cost));
		if (f.fix)
			json_object_set_new(row, "fix", json_string(f.fix));
		if (strcmp(f.state, "fail") == 0)
			*code = CTL_FAILED;
		json_array_append_new(rows, row);
	}
	return rows;
}

int verb_doctor(struct ctl *c, int argc, char **argv)
{
	static const struct ctl_usage usage = {
		.arguments = "",
		.examples = "sporectl doctor\n"
			    "sporectl doctor --json | jq '.[] | select(.state != \"ok\")'\n",
	};
	static const struct table_column columns[] = {
		{"check", "CHECK", TABLE_TEXT},
		{"state", "STATE", TABLE_STATE},
		{"found", "FOUND", TABLE_TEXT},
	};
	int code = 0;
	json_t *rows, *row;
	size_t i;

	if (!ctl_parse(c, &usage, &argc, &argv, NULL))
		return c->exit_code;
	rows = examine(&code);
	if (c->json)
		return ctl_print_json(c, rows) ? CTL_FAILED : code;
	table_print(c, columns, ARRAY_SIZE(columns), rows);
	json_array_foreach(rows, i, row)
	{
		if (json_object_get(row, "fix"))
			printf("\n%s: %s\n  try: %s\n",
			       json_string_value(json_object_get(row, "check")),
			       json_string_value(json_object_get(row, "cost")),
			       json_string_value(json_object_get(row, "fix")));
	}
	json_decref(rows);
	return code;
}
