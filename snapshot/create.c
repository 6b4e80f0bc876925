/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snapshot/fork.h"
#include "snapshot/job.h"
#include "snapshot/migrate.h"
#include "snapshot/pager.h"
#include "snapshot/workset.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/random.h"

void snapshot_history_init(struct snapshot_history *h)
{
	*h = (struct snapshot_history){.memory_fd = -1, .uffd = -1, .handler = -1};
}

void snapshot_history_finish(struct snapshot_history *h)
{
	fd_close(&h->memory_fd);
	fd_close(&h->uffd);
	fd_close(&h->handler);
	pageset_finish(&h->reported);
	live_abandon(h->live);
	migrate_forget(h);
	fork_forget(h);
	snapshot_cool(h);
	workset_end(h->workset); /* its thread may wait for a page */
	pager_destroy(h->pager);
	snapshot_history_init(h);
}

static bool tracked(const struct job *j)
{
	return j->m->vm->config.machine.track_dirty_pages;
}

/* Whether `changed pages` means anything: there is something that they are changes of. */
static bool can_diff(const struct job *j)
{
	if (!j->p->diff || snapshot_id_none(&j->h->last))
		return false;
	return tracked(j) || j->m->mem.backing == GMEM_FILE || j->h->lazy;
}

bool job_compares(const struct job *j)
{
	return can_diff(j) && !tracked(j);
}

/* The file under the final name is the one that the last snapshot wrote, or was loaded from. */
static bool replaces_last(const struct job *j)
{
	const struct output_file *f = &j->out.memory;
	struct stat last, there;

	return j->h->memory_fd >= 0 && fd_stat(j->h->memory_fd, &last) == 0 &&
	       fstatat(f->dir, f->name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
	       last.st_dev == there.st_dev && last.st_ino == there.st_ino &&
	       (uint64_t)there.st_size == gmem_size(&j->m->mem);
}

/*
 * Without tracking: what differs from the file that was loaded, and what an earlier diff had, since
 * it may be merged before this one. Of memory from a handler: every page that it has brought.
 */
static int find_changed(struct job *j, struct err *e)
{
	const struct gmem *mem = &j->m->mem;
	int r = j->h->lazy ? memory_present(mem, false, &j->pages, e)
			   : memory_changed(mem, &j->pages, e);

	if (r == 0 && !j->h->reported.bit)
		r = pageset_init(&j->h->reported, j->pages.pages, e);
	if (r < 0)
		return r;
	pageset_add_all(&j->h->reported, &j->pages);
	pageset_add_all(&j->pages, &j->h->reported);
	return 0;
}

static void choose_kind(struct job *j)
{
	j->diff = can_diff(j);
	j->merge = j->diff && replaces_last(j);
	if (!j->diff || j->merge)
		return;
	j->state.meta.parent = j->h->last;
	if (!tracked(j))
		j->state.meta.origin = j->h->origin;
}

/* In the set is what was tracked. */
static int choose_pages(struct job *j, struct err *e)
{
	if (!j->diff)
		return memory_present(&j->m->mem, j->h->lazy, &j->pages, e);
	return tracked(j) ? 0 : find_changed(j, e);
}

/* What the table says of pages that were copied, not written. */
static int rescan(struct job *j, struct err *e)
{
	struct pageset all = {0};
	int r = pageset_init(&all, j->pages.pages, e);

	/* Guest memory is what the file holds now: the table of a full one. */
	if (r == 0)
		r = memory_present(&j->m->mem, j->h->lazy, &all, e);
	if (r == 0)
		r = memory_tabulate(&j->m->mem, &all, &j->table, e);
	pageset_finish(&j->pages);
	j->pages = all;
	return r;
}

static int write_memory(struct job *j, struct err *e)
{
	int fd = j->out.memory.fd;
	int r = choose_pages(j, e);
	bool diff = state_is_diff(&j->state.meta);

	if (r == 0 && j->merge)
		r = memory_copy_rest(j->h->memory_fd, fd, &j->pages, e);
	if (r == 0)
		r = fd_extend(fd, gmem_size(&j->m->mem), e);
	if (r == 0)
		r = memory_write(&j->m->mem, fd, &j->pages, !diff && !j->merge, &j->table, e);
	if (r == 0 && j->merge) {
		memory_table_finish(&j->table);
		r = rescan(j, e);
	}
	return r;
}

static void fill_meta(struct job *j)
{
	struct state_meta *meta = &j->state.meta;

	snprintf(meta->made_by, sizeof(meta->made_by), "%s", SPORE_VERSION);
	meta->host = x86_host_fingerprint(&j->m->kvm);
	meta->mem_size = gmem_size(&j->m->mem);
	meta->mem_inode = j->out.memory.inode;
}

void job_probe(struct job *j)
{
	struct state_meta *meta = &j->state.meta;

	meta->probes =
		memory_choose_probes(&j->m->mem, &j->pages, state_is_diff(meta), meta->probe);
}

int job_commit(struct job *j, const struct snapfile_writer *state, struct err *e)
{
	int r = fd_write_full(j->out.state.fd, state->wire.buf, state->wire.pos);

	if (r < 0)
		return err_set(e, -r, "write '%s': %s", j->p->snapshot_path, strerror(-r));
	j->report.pages = j->state.meta.mem_written;
	j->report.diff = state_is_diff(&j->state.meta);
	return output_commit(&j->out, e);
}

static int write_state(struct job *j, struct err *e)
{
	struct snapfile_writer out;
	int r;

	job_probe(j);
	j->state.meta.mem_written = pageset_count(&j->pages);
	r = state_write(&j->state, j->m, &j->table, &out, e);
	if (r == 0)
		r = job_commit(j, &out, e);
	snapfile_drop(&out);
	return r;
}

static uint64_t lap_us(uint64_t *last)
{
	uint64_t now = now_ns(), us = (now - *last) / 1000;

	*last = now;
	return us;
}

int job_begin(struct job *j, struct vm *vm, struct snapshot_history *h,
	      const struct snapshot_create_params *p, struct err *e)
{
	int r;

	*j = (struct job){.m = vm->machine, .h = h, .p = p};
	r = output_create(&j->out, p->snapshot_path, p->mem_file_path, e);
	if (r < 0)
		return r;
	if (random_bytes(&j->state.meta.id, sizeof(j->state.meta.id)) != sizeof(j->state.meta.id))
		r = err_set(e, EAGAIN, "choose an id: the host has no random bytes");
	j->state.config = p->config;
	j->state.config_len = p->config_len;
	fill_meta(j);
	choose_kind(j);
	if (r == 0)
		r = pageset_init(&j->dirty, gmem_size(&j->m->mem) / GMEM_PAGE, e);
	if (r == 0)
		r = pageset_init(&j->pages, gmem_size(&j->m->mem) / GMEM_PAGE, e);
	if (r < 0)
		job_end(j, r);
	return r;
}

int job_freeze(struct job *j, struct pageset *dirty, struct err *e)
{
	uint64_t last = now_ns();
	struct timespec now;
	int r = state_save(&j->state, j->m, e);

	clock_gettime(CLOCK_REALTIME, &now);
	j->state.meta.created_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	if (r == 0 && dirty)
		r = precopy_collect(j->m, dirty, &j->dirty, e);
	j->report.state_us = lap_us(&last);
	return r;
}

/* Both files, and their names. Memory is as it was when it was frozen. */
static int job_write(struct job *j, struct err *e)
{
	struct snapshot_report *report = &j->report;
	uint64_t last = now_ns();
	int r = write_memory(j, e);

	report->memory_us = lap_us(&last);
	if (r == 0)
		r = write_state(j, e);
	report->commit_us = lap_us(&last);
	report->total_us = report->state_us + report->memory_us + report->commit_us;
	return r;
}

/* The next diff is of this one. */
static void remember(struct job *j)
{
	j->h->last = j->state.meta.id;
	fd_close(&j->h->memory_fd);
	/* Only a complete file can be completed again. */
	if (!state_is_diff(&j->state.meta))
		j->h->memory_fd = TAKE_FD(j->out.memory.fd);
}

void job_end(struct job *j, int r)
{
	if (r == 0)
		remember(j);
	else if (j->dirty.bit)
		memory_put_back(&j->m->mem, &j->dirty);
	output_drop(&j->out);
	memory_table_finish(&j->table);
	pageset_finish(&j->pages);
	pageset_finish(&j->dirty);
	state_finish(&j->state);
}

static int create(struct job *j, struct vm *vm, struct snapshot_history *h,
		  const struct snapshot_create_params *p, struct err *e)
{
	int r = job_begin(j, vm, h, p, e);

	if (r < 0)
		return r;
	/* The tracking begins anew with every snapshot, whether it needs what was tracked or not. */
	r = job_freeze(j, !tracked(j) ? NULL : j->diff ? &j->pages : &j->dirty, e);
	if (r == 0)
		r = job_write(j, e);
	precopy_thaw(j->m);
	job_end(j, r);
	return r;
}

static void job_log(const struct snapshot_report *report)
{
	log_info("%s snapshot in %llu us: state %llu, memory %llu (%llu pages), commit %llu",
		 report->diff ? "diff" : "full", (unsigned long long)report->total_us,
		 (unsigned long long)report->state_us, (unsigned long long)report->memory_us,
		 (unsigned long long)report->pages, (unsigned long long)report->commit_us);
}

int snapshot_create(struct vm *vm, struct snapshot_history *h,
		    const struct snapshot_create_params *p, struct snapshot_report *report,
		    struct err *e)
{
	struct job *j;
	int r;

	*report = (struct snapshot_report){0};
	if (h->live)
		return err_set(e, EBUSY, "a live snapshot is still being written");
	if (h->sending)
		return err_set(e, EBUSY, "a migration is under way");
	if (fork_busy(h))
		return err_set(e, EBUSY, "a fork is on its way");
	if (p->live)
		return live_begin(vm, h, p, e);
	if (vm->phase != VM_PAUSED)
		return err_set(e, EINVAL, "the microVM has to be paused");
	/* Half a megabyte of states is not for the stack. */
	j = calloc(1, sizeof(*j));
	if (!j)
		return err_set(e, ENOMEM, "out of memory");
	r = create(j, vm, h, p, e);
	*report = j->report;
	free(j);
	if (r == 0)
		job_log(report);
	return r;
}
