/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot of a microVM that goes on running: what migration calls pre-copy.
 *
 * Memory is written while the guest changes it, in rounds. Each begins by asking what has been
 * written since the one before (KVM's log of dirty pages, and spore's own for what devices write),
 * and writes that, until little is left, or it does not become less. Then the guest is stopped: the
 * states are read, what is left is copied, which is LAST_PAGES and mostly far fewer, and it goes on.
 * So the pause has nothing to do with the size of memory, nor with what backs it. A guest that
 * writes faster than the host takes it pays with a longer pause: what it has written in one round.
 *
 *	main thread                        copying thread
 *	begin: log on, ask                 round 1: what is there (full), or the log (diff)
 *	done: ask; much? ---------------->  another round
 *	      little: stop, states,
 *	      copy the rest, go on ------->  the rest, hashes, state file; both files appear
 *	done: tell
 *
 * Hashes are of what was written, read back from the page cache: of guest memory they could only be
 * made in the pause. The thread makes the same system calls as the main thread makes for the
 * snapshot of a paused microVM, and inherits its filter.
 *
 * Alternatives: a fork() has the memory of one moment for nothing, but walks all page tables for it,
 * in the pause, makes KVM forget its own, and cannot do shared memory. Write protection by
 * userfaultfd cannot do private mappings of files, which is what a restored guest has.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snapshot/job.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#define PROGRESS_NS 500000000ull
#define ROUNDS_MAX  8u
/* What fits into the buffer of the pause: it grows until all vCPUs stand still. The rest costs a write. */
#define TAKEN_PAGES (2 * PRECOPY_LAST_PAGES)

/* All but the timer is the copying thread's while there is one. */
struct snapshot_live {
	struct job job;
	struct snapshot_create_params p;
	char *snapshot_path, *mem_file_path, *config; /* owned, of p */
	struct vm *vm;
	uint64_t started_ns;
	bool paused; /* the pause is over: the files are being finished */
	struct memory_taken taken;
	struct snapfile_writer state;

	struct precopy rounds;
	struct loop_timer timer;
};

/* --- copying thread --- */

static int copy_round(void *arg, struct err *e)
{
	struct snapshot_live *l = arg;
	struct precopy *p = &l->rounds;
	const struct gmem *mem = &l->job.m->mem;
	bool fresh = p->round == 1 && !l->job.diff;
	int fd = l->job.out.memory.fd;
	int r = 0;

	if (fresh)
		r = memory_present(mem, false, &p->next, e);
	p->count = pageset_count(&p->next);
	pageset_add_all(&l->job.pages, &p->next);
	return r < 0 ? r : memory_copy(mem, fd, &p->next, fresh, &p->stop, e);
}

static int first_round(void *arg, struct err *e)
{
	struct snapshot_live *l = arg;
	struct job *j = &l->job;
	int r = 0;

	if (j->merge)
		r = memory_copy_rest(j->h->memory_fd, j->out.memory.fd, &l->rounds.next, e);
	if (r == 0)
		r = fd_extend(j->out.memory.fd, gmem_size(&j->m->mem), e);
	return r < 0 ? r : copy_round(l, e);
}

/* The table is that of a full one if that is what the file is now. */
static int tabulate(struct job *j, struct err *e)
{
	bool diff = state_is_diff(&j->state.meta);
	int fd = j->out.memory.fd;
	int r = 0;

	if (!diff) {
		pageset_clear(&j->pages);
		r = memory_in_file(fd, &j->pages, e);
	}
	return r < 0 ? r : memory_tabulate_file(fd, &j->pages, !diff, &j->table, e);
}

static int write_state(struct snapshot_live *l, struct err *e)
{
	struct job *j = &l->job;
	struct snapfile_writer out;
	struct snapfile frozen;
	int r = snapfile_parse(&frozen, TAKE(l->state.wire.buf), l->state.wire.pos, e);

	if (r < 0)
		return r;
	j->state.meta.mem_written = pageset_count(&j->pages);
	r = state_rewrite(&frozen, &j->state.meta, &j->table, &out, e);
	if (r == 0)
		r = job_commit(j, &out, e);
	snapfile_drop(&out);
	snapfile_finish(&frozen);
	return r;
}

static int finish_files(void *arg, struct err *e)
{
	struct snapshot_live *l = arg;
	uint64_t start = now_ns();
	int r = memory_write_taken(l->job.out.memory.fd, &l->taken, e);

	if (r == 0)
		r = tabulate(&l->job, e);
	if (r == 0)
		r = write_state(l, e);
	l->job.report.commit_us = (now_ns() - start) / 1000;
	return r;
}

/* --- main thread --- */

static void finish(struct snapshot_live *l)
{
	precopy_finish(&l->rounds);
	loop_timer_clear(l->vm->loop, &l->timer);
	memory_taken_finish(&l->taken);
	snapfile_drop(&l->state);
	free(l->snapshot_path);
	free(l->mem_file_path);
	free(l->config);
	free(l);
}

void live_abandon(struct snapshot_live *l)
{
	if (!l)
		return;
	l->rounds.stop = true;
	precopy_join(&l->rounds);
	job_end(&l->job, -ECANCELED);
	finish(l);
}

static void end(struct snapshot_live *l, int r, const struct err *e)
{
	struct snapshot_report *report = &l->job.report;

	precopy_end(&l->rounds);
	report->total_us = (now_ns() - l->started_ns) / 1000;
	l->job.h->live = NULL;
	job_end(&l->job, r);
	if (r == 0)
		log_info("live %s snapshot in %llu us: %u rounds, %llu pages, paused for %llu us "
			 "(state %llu), files %llu",
			 report->diff ? "diff" : "full", (unsigned long long)report->total_us,
			 l->rounds.round, (unsigned long long)report->pages,
			 (unsigned long long)report->paused_us,
			 (unsigned long long)report->state_us,
			 (unsigned long long)report->commit_us);
	else
		log_error("live snapshot '%s': %s", l->p.snapshot_path, e->msg);
	l->p.done(l->p.arg, &l->p, report, r == 0 ? NULL : e);
	finish(l);
}

/* While the guest stands still. */
static int freeze(struct snapshot_live *l, struct err *e)
{
	struct job *j = &l->job;
	struct pageset *left = &l->rounds.next;
	int r = job_freeze(j, left, e);

	if (r == 0)
		r = state_write(&j->state, j->m, NULL, &l->state, e);
	if (r == 0) {
		pageset_add_all(&j->pages, left);
		job_probe(j);
		memory_take(&j->m->mem, left, &l->taken);
		r = memory_copy(&j->m->mem, j->out.memory.fd, left, false, &l->rounds.stop, e);
	}
	precopy_thaw(j->m);
	return r;
}

static int pause_and_finish(struct snapshot_live *l, struct err *e)
{
	bool was_running = l->vm->phase == VM_RUNNING;
	uint64_t start = now_ns();
	struct err ignored;
	int r = vm_pause(l->vm, e);

	if (r < 0)
		return r;
	r = freeze(l, e);
	if (was_running)
		vm_resume(l->vm, &ignored);
	l->paused = true;
	l->job.report.paused_us = (now_ns() - start) / 1000;
	l->job.report.memory_us = (start - l->started_ns) / 1000;
	precopy_end(&l->rounds);
	return r < 0 ? r : precopy_step(&l->rounds, finish_files, e);
}

/* The rounds end where another one would not leave less. */
static int next_round(struct snapshot_live *l, struct err *e)
{
	struct precopy *p = &l->rounds;
	int r = precopy_take(p, e);

	if (r < 0)
		return r;
	if (pageset_count(&p->next) <= PRECOPY_LAST_PAGES || p->round == ROUNDS_MAX ||
	    precopy_stalls(p))
		return pause_and_finish(l, e);
	p->round++;
	return precopy_step(p, copy_round, e);
}

static void on_done(void *arg)
{
	struct snapshot_live *l = arg;
	struct precopy *p = &l->rounds;
	bool last = l->paused;

	if (p->r == 0 && !last)
		p->r = next_round(l, &p->e);
	if (p->r < 0 || last)
		end(l, p->r, &p->e);
}

static void on_progress(struct loop_timer *t)
{
	struct snapshot_live *l = t->arg;
	struct stat st;

	if (fd_stat(l->job.out.memory.fd, &st) == 0)
		l->p.progress(l->p.arg, &l->p, (uint64_t)st.st_blocks * 512);
	loop_timer_set(l->vm->loop, t, PROGRESS_NS);
}

/* --- begin --- */

static struct snapshot_live *prepare(struct vm *vm, const struct snapshot_create_params *p)
{
	struct snapshot_live *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->vm = vm;
	l->p = *p;
	l->p.snapshot_path = l->snapshot_path = strdup(p->snapshot_path);
	l->p.mem_file_path = l->mem_file_path = strdup(p->mem_file_path);
	l->p.config = l->config = malloc(p->config_len + 1);
	if (!l->snapshot_path || !l->mem_file_path || !l->config) {
		finish(l);
		return NULL;
	}
	memcpy(l->config, p->config, p->config_len);
	return l;
}

static int get_ready(struct snapshot_live *l, struct err *e)
{
	int r = precopy_init(&l->rounds, l->vm, &l->job.dirty, on_done, l, e);

	return r < 0 ? r : memory_taken_init(&l->taken, l->rounds.next.pages, TAKEN_PAGES, e);
}

static int begin(struct snapshot_live *l, struct snapshot_history *h, struct err *e)
{
	int r;

	l->started_ns = now_ns();
	r = job_begin(&l->job, l->vm, h, &l->p, e);
	if (r < 0)
		return r;
	if (job_compares(&l->job))
		r = err_set(e, EINVAL, "live: a diff needs track_dirty_pages");
	if (r == 0)
		r = precopy_begin(&l->rounds, e);
	if (r == 0 && !l->job.diff)
		pageset_clear(&l->rounds.next); /* what is there is written anyway */
	if (r == 0)
		r = precopy_step(&l->rounds, first_round, e);
	if (r == 0)
		return 0;
	precopy_end(&l->rounds);
	job_end(&l->job, r);
	return r;
}

int live_begin(struct vm *vm, struct snapshot_history *h, const struct snapshot_create_params *p,
	       struct err *e)
{
	struct snapshot_live *l;
	int r;

	if (!vm->machine)
		return err_set(e, EINVAL, "the microVM has not been started");
	/* Nobody could end a thread that waits for a handler which is gone. */
	if (h->lazy)
		return err_set(e, ENOTSUP,
			       "live: memory that a page fault handler brings cannot be copied "
			       "while the microVM runs");
	l = prepare(vm, p);
	if (!l)
		return err_set(e, ENOMEM, "out of memory");
	r = get_ready(l, e);
	if (r == 0)
		r = begin(l, h, e);
	if (r < 0) {
		finish(l);
		return r;
	}
	h->live = l;
	l->timer = (struct loop_timer){.expired = on_progress, .arg = l};
	loop_timer_set(vm->loop, &l->timer, PROGRESS_NS);
	return 0;
}
