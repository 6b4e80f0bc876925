/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "jailer/landlock.h"

#include <errno.h>
#include <linux/landlock.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/base/fd.h"

/* What the kernel headers of Debian 12 do not have yet. */
#define FS_TRUNCATE  (1ull << 14) /* ABI 3 */
#define FS_IOCTL_DEV (1ull << 15) /* ABI 5 */
#define NET_BOTH     3ull	  /* ABI 4: bind and connect of TCP */
#define SCOPE_BOTH   3ull	  /* ABI 6: abstract sockets, signals */

struct ruleset_attr {
	uint64_t fs, net, scoped;
};

#define FS_ABI1 ((LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1)
#define FS_USED                                                         \
	(LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | \
	 LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE | \
	 LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK |   \
	 LANDLOCK_ACCESS_FS_MAKE_FIFO | FS_TRUNCATE | FS_IOCTL_DEV)

/* What this kernel knows, to be forbidden unless a rule allows it. Returns its ABI, or -errno. */
static long handled(struct ruleset_attr *attr, size_t *size)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	*size = abi >= 6 ? sizeof(*attr) : abi >= 4 ? 2 * sizeof(uint64_t) : sizeof(uint64_t);
	attr->fs = FS_ABI1;
	if (abi >= 2)
		attr->fs |= LANDLOCK_ACCESS_FS_REFER;
	if (abi >= 3)
		attr->fs |= FS_TRUNCATE;
	if (abi >= 5)
		attr->fs |= FS_IOCTL_DEV;
	attr->net = NET_BOTH;
	attr->scoped = SCOPE_BOTH;
	return abi < 0 ? -errno : abi;
}

static int allow(int rules, int fd, uint64_t access)
{
	struct landlock_path_beneath_attr beneath = {.allowed_access = access, .parent_fd = fd};

	return (int)syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0);
}

int landlock_make(int root, int exec, int *rules, struct err *e)
{
	struct ruleset_attr attr;
	size_t size;
	long abi = handled(&attr, &size);

	*rules = -1;
	if (abi == -ENOSYS || abi == -EOPNOTSUPP)
		return 0;
	if (abi > 0)
		*rules = (int)syscall(SYS_landlock_create_ruleset, &attr, size, 0);
	if (*rules < 0 || allow(*rules, root, FS_USED & attr.fs) < 0 ||
	    allow(*rules, exec, LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE) < 0)
		return err_sys(e, "make Landlock rules");
	return 0;
}

int landlock_enter(int rules, struct err *e)
{
	if (rules >= 0 && syscall(SYS_landlock_restrict_self, rules, 0) < 0)
		return err_sys(e, "enter Landlock rules");
	return 0;
}
