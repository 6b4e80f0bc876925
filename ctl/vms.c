/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "ctl/vms.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/base/fd.h"

/* Names of the sockets have to fit behind it. */
#define LONGEST_FILE "/console.sock"

/* Of whose process, and which of its own. */
#define NAMELESS ".shell-%d-%u"
#define SWEEP_MS 5000

int vms_check_name(const char *name, struct err *e)
{
	size_t len = strlen(name);

	if (len < 1 || len > VMS_NAME_MAX)
		return err_set(e, EINVAL, "name of %zu characters, need 1..%d", len, VMS_NAME_MAX);
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)name[i]) && (name[i] != '-' || i == 0))
			return err_set(e, EINVAL,
				       "name '%.64s': only letters, digits and '-' are allowed",
				       name);
	return 0;
}

static int set_dir(struct ctl *c, const char *name, struct vms_vm *vm, struct err *e)
{
	int n, r = vms_check_name(name, e);

	if (r < 0)
		return r;
	snprintf(vm->name, sizeof(vm->name), "%s", name);
	n = snprintf(vm->dir, sizeof(vm->dir), "%s/%s", c->state_dir, name);
	if (n + (int)sizeof(LONGEST_FILE) > VMS_PATH_MAX) {
		ctl_hint(c, "a shorter name, or: export SPORE_STATE=/tmp/spore");
		return err_set(e, ENAMETOOLONG, "'%s/%s%s' is too long for the path of a socket",
			       c->state_dir, name, LONGEST_FILE);
	}
	return 0;
}

void vms_path(const struct vms_vm *vm, const char *file, char buf[VMS_PATH_MAX])
{
	snprintf(buf, VMS_PATH_MAX, "%.*s/%.40s", VMS_PATH_MAX - 42, vm->dir, file);
}

/* --- locks --- */

static struct flock whole_file(short type)
{
	return (struct flock){.l_type = type, .l_whence = SEEK_SET};
}

bool vms_alive(const struct vms_vm *vm)
{
	struct flock l = whole_file(F_WRLCK);
	char path[VMS_PATH_MAX];
	cleanup_fd int fd = -1;

	vms_path(vm, "lock", path);
	fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	/* Asks only: taking it for a moment could make somebody else believe that it is held. */
	return fd >= 0 && fcntl(fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK;
}

int vms_pidfd(const struct vms_vm *vm, pid_t *pid, struct err *e)
{
	long p = 0;
	int fd = vms_read_number(vm, "pid", &p) ? (int)syscall(SYS_pidfd_open, p, 0) : -1;

	/*
	 * Whoever has the number now is held by the descriptor. If the lock is held after that, spore
	 * has lived all the time, and so it was spore that had the number.
	 */
	if (fd < 0 || !vms_alive(vm)) {
		fd_close(&fd);
		return err_set(e, ESRCH, "microVM '%s' has ended", vm->name);
	}
	if (pid)
		*pid = (pid_t)p;
	return fd;
}

bool vms_wait(int pidfd, int ms)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	uint64_t end = now_ns() + (uint64_t)ms * 1000000, now;
	int r;

	do {
		now = now_ns();
		r = poll(&p, 1, now < end ? (int)((end - now + 999999) / 1000000) : 0);
	} while (r < 0 && errno == EINTR);
	return r > 0;
}

/* --- making and finding --- */

static int make_state_dir(struct ctl *c, struct err *e)
{
	struct stat st;

	if (mkdir(c->state_dir, 0700) < 0 && errno != EEXIST) {
		ctl_hint(c, "sudo sporectl %s ..., or: export SPORE_STATE=$HOME/.spore", c->verb);
		return err_sys(e, "make the directory '%s'", c->state_dir);
	}
	if (stat(c->state_dir, &st) < 0)
		return err_sys(e, "'%s'", c->state_dir);
	/* Whoever may write there may put sockets of his own into it. */
	if ((st.st_uid != geteuid() && st.st_uid != 0) || st.st_mode & S_IWOTH) {
		ctl_hint(c, "export SPORE_STATE=$HOME/.spore");
		return err_set(e, EPERM, "'%s' belongs to somebody else or can be written by all",
			       c->state_dir);
	}
	return 0;
}

/* The directory under a name that no microVM can have, with its lock, then renamed. */
static int make_locked(struct ctl *c, const struct vms_vm *vm, struct err *e)
{
	struct flock l = whole_file(F_WRLCK);
	char temp[256], path[272];
	cleanup_fd int fd = -1;

	snprintf(temp, sizeof(temp), "%.200s/.new-%d", c->state_dir, getpid());
	snprintf(path, sizeof(path), "%s/lock", temp);
	if (mkdir(temp, 0700) < 0)
		return err_sys(e, "make the directory '%s'", temp);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || fcntl(fd, F_OFD_SETLK, &l) < 0) {
		err_sys(e, "lock '%s'", path);
	} else if (renameat2(AT_FDCWD, temp, AT_FDCWD, vm->dir, RENAME_NOREPLACE) < 0) {
		err_sys(e, "make the directory '%s'", vm->dir);
	} else {
		return TAKE_FD(fd);
	}
	unlink(path);
	rmdir(temp);
	return -e->code;
}

static int name_is_used(struct ctl *c, const struct vms_vm *vm, struct err *e)
{
	if (vms_alive(vm)) {
		ctl_hint(c, "sporectl console %s, or take another --name", vm->name);
		return err_set(e, EEXIST, "the name '%s' is in use: that microVM is running",
			       vm->name);
	}
	ctl_hint(c, "sporectl rm %s", vm->name);
	return err_set(e, EEXIST,
		       "the name '%s' is in use: that microVM has ended, its log is kept",
		       vm->name);
}

int vms_create(struct ctl *c, const char *name, struct vms_vm *vm, struct err *e)
{
	char numbered[16];
	int r = make_state_dir(c, e);

	for (unsigned i = 1; r == 0 && i < 100000; i++) {
		snprintf(numbered, sizeof(numbered), "vm%u", i);
		r = set_dir(c, name ? name : numbered, vm, e);
		if (r < 0)
			return r;
		r = make_locked(c, vm, e);
		if (r != -EEXIST)
			return r;
		if (name)
			return name_is_used(c, vm, e);
		r = 0;
	}
	return r < 0 ? r : err_set(e, EEXIST, "all names are in use");
}

static int set_nameless(struct ctl *c, int pid, unsigned number, struct vms_vm *vm, struct err *e)
{
	snprintf(vm->name, sizeof(vm->name), NAMELESS, pid, number);
	if (snprintf(vm->dir, sizeof(vm->dir), "%s/%s", c->state_dir, vm->name) +
		    (int)sizeof(LONGEST_FILE) >
	    VMS_PATH_MAX)
		return err_set(e, ENAMETOOLONG, "'%s' is too long for the path of a socket",
			       vm->dir);
	return 0;
}

int vms_create_nameless(struct ctl *c, unsigned number, struct vms_vm *vm, struct err *e)
{
	int r = make_state_dir(c, e);

	if (r == 0)
		r = set_nameless(c, getpid(), number, vm, e);
	return r < 0 ? r : make_locked(c, vm, e);
}

int vms_take_name(struct ctl *c, struct vms_vm *vm, unsigned number, struct err *e)
{
	struct vms_vm nameless;
	int r = set_nameless(c, getpid(), number, &nameless, e);

	if (r < 0)
		return r;
	if (strcmp(vm->dir, nameless.dir) != 0 && rename(vm->dir, nameless.dir) < 0)
		return err_sys(e, "rename '%s'", vm->dir);
	*vm = nameless;
	return 0;
}

static bool parse_nameless(const char *name, int *pid, unsigned *number)
{
	size_t len = strcspn(NAMELESS, "%");
	char *end = NULL;

	if (strncmp(name, NAMELESS, len) != 0)
		return false;
	*pid = (int)strtol(name + len, &end, 10);
	if (*pid <= 0 || *end != '-')
		return false;
	*number = (unsigned)strtoul(end + 1, &end, 10);
	return *end == '\0';
}

static void sweep_one(const struct vms_vm *vm)
{
	int pidfd = vms_pidfd(vm, NULL, NULL);
	struct err e;

	if (pidfd >= 0)
		syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	if (pidfd < 0 || vms_wait(pidfd, SWEEP_MS))
		vms_remove(vm, &e);
	fd_close(&pidfd);
}

void vms_sweep(struct ctl *c)
{
	DIR *d = opendir(c->state_dir);
	struct dirent *entry;
	unsigned number;
	struct vms_vm vm;
	struct err e;
	int pid;

	while (d && (entry = readdir(d)))
		if (parse_nameless(entry->d_name, &pid, &number) && kill(pid, 0) < 0 &&
		    errno == ESRCH && set_nameless(c, pid, number, &vm, &e) == 0)
			sweep_one(&vm);
	if (d)
		closedir(d);
}

int vms_give_name(struct ctl *c, struct vms_vm *vm, const char *name, struct err *e)
{
	struct vms_vm named;
	int r = set_dir(c, name, &named, e);

	if (r < 0)
		return r;
	if (renameat2(AT_FDCWD, vm->dir, AT_FDCWD, named.dir, RENAME_NOREPLACE) < 0)
		return errno == EEXIST ? name_is_used(c, &named, e)
				       : err_sys(e, "name the directory '%s'", named.dir);
	*vm = named;
	return 0;
}

static const char *listed_name(void *arg, unsigned i)
{
	const struct vector *all = arg;
	const struct vms_vm *vm = all->item;

	return i < all->count ? vm[i].name : NULL;
}

int vms_find(struct ctl *c, const char *name, struct vms_vm *vm, struct err *e)
{
	struct vector all = {0};
	struct stat st;
	size_t count = 0;
	int r = set_dir(c, name, vm, e);

	if (r < 0)
		return r;
	if (lstat(vm->dir, &st) == 0 && S_ISDIR(st.st_mode))
		return 0;
	vms_list(c, (struct vms_vm **)&all.item, &count, NULL);
	all.count = (unsigned)count;
	if (ctl_nearest(name, listed_name, &all))
		ctl_hint(c, "sporectl %s %s", c->verb, ctl_nearest(name, listed_name, &all));
	else
		ctl_hint(c, "sporectl ps");
	free(all.item);
	return err_set(e, ENOENT, "there is no microVM '%s' in %s", name, c->state_dir);
}

int vms_find_alive(struct ctl *c, const char *name, struct vms_vm *vm, struct err *e)
{
	int r = vms_find(c, name, vm, e);

	if (r == 0 && !vms_alive(vm)) {
		ctl_hint(c, "sporectl logs %s, then: sporectl rm %s", name, name);
		r = err_set(e, ESRCH, "microVM '%s' has ended", name);
	}
	return r;
}

int vms_find_api(struct ctl *c, const char *name, struct vms_vm *vm, char socket[VMS_PATH_MAX],
		 struct err *e)
{
	int r = vms_find_alive(c, name, vm, e);

	if (r == 0)
		vms_path(vm, "api.sock", socket);
	return r;
}

static int by_name(const void *a, const void *b)
{
	/* vm2 is before vm10. */
	return strverscmp(((const struct vms_vm *)a)->name, ((const struct vms_vm *)b)->name);
}

int vms_list(struct ctl *c, struct vms_vm **list, size_t *count, struct err *e)
{
	DIR *d = opendir(c->state_dir);
	struct dirent *entry;
	struct err ignored;
	int r = 0;

	*list = NULL;
	*count = 0;
	if (!d)
		return errno == ENOENT ? 0 : err_sys(e, "'%s'", c->state_dir);
	while (r == 0 && (entry = readdir(d))) {
		struct vms_vm vm, *bigger;

		if (set_dir(c, entry->d_name, &vm, &ignored) < 0)
			continue;
		bigger = realloc(*list, (*count + 1) * sizeof(vm));
		if (!bigger) {
			r = err_set(e, ENOMEM, "out of memory");
			break;
		}
		bigger[(*count)++] = vm;
		*list = bigger;
	}
	closedir(d);
	if (*count)
		qsort(*list, *count, sizeof(**list), by_name);
	return r;
}

/* --- files --- */

bool vms_read(const struct vms_vm *vm, const char *file, char *buf, size_t size)
{
	char path[VMS_PATH_MAX];
	cleanup_fd int fd = -1;
	ssize_t n;

	vms_path(vm, file, path);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	n = fd >= 0 ? read(fd, buf, size - 1) : -1;
	if (n < 0)
		return false;
	buf[n] = '\0';
	if (n > 0 && buf[n - 1] == '\n')
		buf[n - 1] = '\0';
	return true;
}

bool vms_read_number(const struct vms_vm *vm, const char *file, long *number)
{
	char text[24], *end;

	if (!vms_read(vm, file, text, sizeof(text)))
		return false;
	*number = strtol(text, &end, 10);
	return end != text && *end == '\0';
}

int vms_write(const struct vms_vm *vm, const char *file, const char *text, struct err *e)
{
	char path[VMS_PATH_MAX], temp[VMS_PATH_MAX];
	char name[40];
	cleanup_fd int fd = -1;

	snprintf(name, sizeof(name), ".%.30s", file);
	vms_path(vm, file, path);
	vms_path(vm, name, temp);
	fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || fd_write_full(fd, text, strlen(text)) < 0 || rename(temp, path) < 0)
		return err_sys(e, "write '%s'", path);
	return 0;
}

/*
 * Its name goes first, and with it the path that its holder may still write to. There are files only: a
 * directory in it is not ours, and stays.
 */
int vms_remove(const struct vms_vm *vm, struct err *e)
{
	char gone[VMS_PATH_MAX + 24];
	const char *slash = strrchr(vm->dir, '/');
	cleanup_fd int dir = open(vm->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	DIR *d = dir >= 0 ? fdopendir(fcntl(dir, F_DUPFD_CLOEXEC, 0)) : NULL;
	struct dirent *entry;

	if (!d)
		return err_sys(e, "'%s'", vm->dir);
	snprintf(gone, sizeof(gone), "%.*s/.old-%d", (int)(slash - vm->dir), vm->dir, getpid());
	if (rename(vm->dir, gone) < 0) {
		closedir(d);
		return err_sys(e, "remove '%s'", vm->dir);
	}
	while ((entry = readdir(d)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			unlinkat(dir, entry->d_name, 0);
	closedir(d);
	if (rmdir(gone) < 0)
		return err_sys(e, "remove '%s'", gone);
	return 0;
}
