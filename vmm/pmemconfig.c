/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/pmemconfig.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "virtio/pmem.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/vm.h"

void pmem_config_init(struct pmem_config *p)
{
	*p = (struct pmem_config){.fd = -1};
}

void pmem_config_finish(struct pmem_config *p)
{
	free(p->path_on_host);
	fd_close(&p->fd);
	pmem_config_init(p);
}

struct pmem_config *config_find_pmem(struct config *c, const char *id)
{
	for (unsigned i = 0; i < c->pmem_count; i++)
		if (strcmp(c->pmem[i].id, id) == 0)
			return &c->pmem[i];
	return NULL;
}

static int check_fits(const struct config *c, const struct pmem_config *p,
		      const struct pmem_config *old, struct err *e)
{
	if (!old && c->pmem_count == PMEMCONFIG_MAX)
		return err_set(e, ENOSPC, "id: there are %d pmem devices already", PMEMCONFIG_MAX);
	if (!p->root_device)
		return 0;
	if (c->drive_count && c->drive[0].is_root_device)
		return err_set(e, EINVAL, "root_device: drive '%s' is the root device",
			       c->drive[0].id);
	if (c->pmem_count && c->pmem[0].root_device && &c->pmem[0] != old)
		return err_set(e, EINVAL, "root_device: pmem '%s' is the root device",
			       c->pmem[0].id);
	return 0;
}

static bool same_file(int a, int b)
{
	struct stat sa, sb;

	return a >= 0 && b >= 0 && fd_stat(a, &sa) == 0 && fd_stat(b, &sb) == 0 &&
	       sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

/*
 * The lock that the one with this id has on the same file is given up for the new one. When a snapshot
 * is loaded, one that is in use is only warned of, as with drives (vmm/drive.c).
 */
static int lock(const struct config *c, const struct pmem_config *p, const struct pmem_config *old,
		struct err *e)
{
	bool again = old && same_file(old->fd, p->fd);

	if (c->arriving)
		return 0;
	if (c->loading) {
		if (fd_try_lock(p->fd, !p->read_only) < 0)
			log_warn("pmem '%s': '%s' is in use by another microVM, and only one of "
				 "them may go on: see pmem_overrides",
				 p->id, p->path_on_host);
		return 0;
	}
	if (again)
		fd_unlock(old->fd);
	if (fd_lock(p->fd, !p->read_only) == 0)
		return 0;
	if (again)
		fd_lock(old->fd, !old->read_only);
	return err_set(e, EBUSY, "'%s': the file is in use by a drive or another microVM",
		       p->path_on_host);
}

static int open_file(const struct config *c, struct pmem_config *p, const struct pmem_config *old,
		     struct err *e)
{
	int64_t size;

	fd_close(&p->fd);
	p->fd = fd_open_file(p->path_on_host, p->read_only ? O_RDONLY : O_RDWR, false, e);
	if (p->fd < 0)
		return p->fd;
	size = fd_size(p->fd);
	if (size <= 0)
		return err_set(e, EINVAL, "'%s' is empty", p->path_on_host);
	if ((uint64_t)size > LAYOUT_END)
		return err_set(e, EFBIG, "'%s' is too large", p->path_on_host);
	if (size % GMEM_PAGE && !p->read_only)
		log_warn(
			"pmem file '%s': what the guest writes behind its last %lld bytes, up to a "
			"whole page, is lost",
			p->path_on_host, (long long)(size % GMEM_PAGE));
	return lock(c, p, old, e);
}

/* Moves pmem[i] to the front and keeps the order of the others. */
static void move_first(struct config *c, unsigned i)
{
	struct pmem_config p = c->pmem[i];

	memmove(&c->pmem[1], &c->pmem[0], i * sizeof(p));
	c->pmem[0] = p;
}

int config_set_pmem(struct config *c, struct pmem_config *piece, struct err *e)
{
	struct pmem_config *old = config_find_pmem(c, piece->id);
	unsigned at = old ? (unsigned)(old - c->pmem) : c->pmem_count;
	int r = check_fits(c, piece, old, e);

	if (r < 0)
		return r;
	if (!piece->path_on_host)
		return err_set(e, EINVAL, "path_on_host: missing");
	if (open_file(c, piece, old, e) < 0)
		return err_wrap(e, "path_on_host");
	if (old)
		pmem_config_finish(old);
	else
		c->pmem_count++;
	c->pmem[at] = *piece;
	pmem_config_init(piece);
	if (c->pmem[at].root_device)
		move_first(c, at);
	return 0;
}

/* --- the machine's --- */

static int map(const struct pmem_config *p, struct gmem *mem, struct err *e)
{
	const struct gmem_region *last = &mem->region[mem->all - 1];
	gpa_t at = layout_above(last->gpa + last->len);
	int64_t size = fd_size(p->fd);

	/* Judged again: the file may have changed since it was configured. */
	if (size <= 0)
		return err_set(e, EINVAL, "'%s' is empty", p->path_on_host);
	if ((uint64_t)size > LAYOUT_END - at)
		return err_set(e, EFBIG, "'%s' is too large", p->path_on_host);
	return gmem_add_file(mem, at, p->fd, (uint64_t)size, p->read_only, e);
}

int pmem_map_all(const struct config *c, struct gmem *mem, struct err *e)
{
	for (unsigned i = 0; i < c->pmem_count; i++)
		if (map(&c->pmem[i], mem, e) < 0)
			return err_wrap(e, "pmem '%s'", c->pmem[i].id);
	return 0;
}

struct virtio_device *pmem_create_nth(const struct config *c, unsigned i,
				      const struct virtio_env *env, struct err *e)
{
	const struct pmem_config *p = &c->pmem[i];
	const struct gmem_region *r = &env->mem->region[env->mem->count + i];
	struct pmem_setup s = {
		.id = p->id,
		.fd = fcntl(p->fd, F_DUPFD_CLOEXEC, 0),
		.start = r->gpa,
		.len = r->len,
		.file_len = r->file_len,
		.read_only = p->read_only,
		.limiter = &p->limiter,
	};
	struct virtio_device *d;

	if (s.fd < 0) {
		err_sys(e, "duplicate the file descriptor of '%s'", p->path_on_host);
		return NULL;
	}
	d = pmem_create(&s, env, e);
	if (!d)
		fd_close(&s.fd);
	return d;
}

int pmem_update(struct vm *vm, const struct pmem_update *u, struct err *e)
{
	struct pmem_config *p = config_find_pmem(&vm->config, u->id);
	struct virtio_device *d;

	if (!p)
		return err_set(e, ENOENT, "there is no pmem device '%s'", u->id);
	d = vm_nth_device(vm, VIRTIO_ID_PMEM, (unsigned)(p - vm->config.pmem));
	if (!d)
		return err_set(e, EINVAL, "the microVM has not been started");
	pthread_mutex_lock(d->env.lock);
	pmem_set_limiter(d, &u->limiter);
	pthread_mutex_unlock(d->env.lock);
	p->limiter = u->limiter;
	return 0;
}
