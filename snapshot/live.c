/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot of a microVM that goes on running.
 *
 * It is paused for the state of vCPUs and devices and for a fork(). The child has guest memory as it
 * was at that moment, since the kernel copies a page when one of the two writes to it; it writes
 * both files with the code that writes those of a paused microVM, tells how it went through a pipe,
 * and ends. Nothing in the parent knows of it meanwhile: devices and vCPUs write where they like.
 *
 * Why not write protection by userfaultfd, which copies no page: a private mapping of a file, and
 * that is the memory of every restored microVM, cannot be protected so; each first write would wait
 * for another thread to write the page into a file; and whoever may make a userfaultfd for faults
 * of the kernel has a tool against the kernel. The pause is of the same kind: both walk the page
 * tables of what the guest has touched, tens of microseconds a MiB, or hardly anything when it has
 * huge pages.
 *
 * What a fork() costs: pages that the guest writes while it lasts are there twice. And the main
 * thread's filter has to let it happen, so this has to be asked for before the start.
 *
 * The child dies with its parent (PR_SET_PDEATHSIG), and has closed what it does not need: no peer
 * of a connection waits for its end to learn of ours.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "snapshot/job.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

#define PROGRESS_NS 500000000ull

/* What the child tells. Smaller than PIPE_BUF, so that it comes as one. */
struct outcome {
	int r;
	struct snapshot_report report;
	struct err e;
};

struct snapshot_live {
	struct job job;
	struct snapshot_create_params p;
	char *snapshot_path, *mem_file_path, *config; /* owned, of p */
	struct vm *vm;
	int fd; /* reading end of the pipe; -1: not begun */
	pid_t pid;
	bool told;
	struct outcome outcome; /* of the child, when told */
	struct loop_source source;
	struct loop_timer timer;
};

/* --- child --- */

static int compare_ints(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

/* Closes all descriptors but the standard ones and these. */
static void keep_only(int *keep, unsigned n)
{
	unsigned from = STDERR_FILENO + 1;

	qsort(keep, n, sizeof(*keep), compare_ints);
	for (unsigned i = 0; i < n; i++) {
		if (keep[i] < (int)from)
			continue;
		if (keep[i] > (int)from)
			syscall(SYS_close_range, from, keep[i] - 1, 0);
		from = (unsigned)keep[i] + 1;
	}
	syscall(SYS_close_range, from, ~0u, 0);
}

static _Noreturn void write_and_end(struct snapshot_live *l, int fd, pid_t parent)
{
	struct job *j = &l->job;
	int keep[] = {fd,
		      j->out.state.fd,
		      j->out.state.dir,
		      j->out.memory.fd,
		      j->out.memory.dir,
		      j->h->memory_fd,
		      j->m->mem.fd};
	struct outcome o = {0};

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	keep_only(keep, ARRAY_SIZE(keep));
	o.r = job_write(j, &o.e);
	o.report = j->report;
	output_drop(&j->out);
	_exit(write(fd, &o, sizeof(o)) != sizeof(o));
}

/* --- parent --- */

static void finish(struct snapshot_live *l)
{
	if (l->source.added)
		loop_del(l->vm->loop, &l->source);
	loop_timer_clear(l->vm->loop, &l->timer);
	fd_close(&l->fd);
	free(l->snapshot_path);
	free(l->mem_file_path);
	free(l->config);
	free(l);
}

void live_abandon(struct snapshot_live *l)
{
	if (l)
		finish(l);
}

/* It has told nothing: killed, or ended by a filter. */
static int explain(int status, struct err *e)
{
	if (WIFSIGNALED(status))
		return err_set(e, ECHILD, "the process that wrote it was ended by signal %d",
			       WTERMSIG(status));
	return err_set(e, ECHILD, "the process that wrote it ended with status %d",
		       WEXITSTATUS(status));
}

/* The child has ended, one way or the other. */
static void end(struct snapshot_live *l)
{
	struct outcome *o = &l->outcome;
	int status = 0;

	waitpid(l->pid, &status, 0);
	if (!l->told)
		o->r = explain(status, &o->e);
	job_end(&l->job, o->r);
	l->job.h->live = NULL;
	if (o->r == 0)
		job_log(&o->report);
	else
		log_error("live snapshot '%s': %s", l->p.snapshot_path, o->e.msg);
	l->p.done(l->p.arg, &l->p, &o->report, o->r == 0 ? NULL : &o->e);
	finish(l);
}

static void on_pipe(struct loop_source *s, uint32_t events)
{
	struct snapshot_live *l = s->arg;
	ssize_t n = read(l->fd, &l->outcome, sizeof(l->outcome));

	(void)events;
	if (n == (ssize_t)sizeof(l->outcome))
		l->told = true; /* its end comes next */
	else if (n == 0)
		end(l);
}

static void on_progress(struct loop_timer *t)
{
	struct snapshot_live *l = t->arg;
	struct stat st;

	if (fstat(l->job.out.memory.fd, &st) == 0)
		l->p.progress(l->p.arg, &l->p, (uint64_t)st.st_blocks * 512);
	loop_timer_set(l->vm->loop, t, PROGRESS_NS);
}

static int check(const struct vm *vm, const struct snapshot_history *h, struct err *e)
{
	enum gmem_backing backing;

	if (!vm->machine)
		return err_set(e, EINVAL, "the microVM has not been started");
	if (!vm->config.machine.live_snapshots)
		return err_set(e, EINVAL,
			       "live: needs live_snapshots, in machine-config before the start or "
			       "when a snapshot is loaded");
	backing = vm->machine->mem.backing;
	if (backing == GMEM_MEMFD || backing == GMEM_HUGETLB_2M)
		return err_set(e, ENOTSUP,
			       "live: memory_backend Memfd and huge_pages 2M are shared memory, "
			       "which cannot be copied while the microVM runs");
	if (h->lazy)
		return err_set(e, ENOTSUP,
			       "live: memory that a page fault handler brings cannot be copied "
			       "while the microVM runs");
	return 0;
}

static struct snapshot_live *prepare(struct vm *vm, const struct snapshot_create_params *p)
{
	struct snapshot_live *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->vm = vm;
	l->fd = -1;
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

static int start_child(struct snapshot_live *l, struct err *e)
{
	cleanup_fd int out = -1;
	pid_t self = getpid();
	int fd[2];

	if (pipe2(fd, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_sys(e, "create a pipe");
	l->fd = fd[0];
	out = fd[1];
	l->source = (struct loop_source){.fd = l->fd, .ready = on_pipe, .arg = l};
	if (loop_add(l->vm->loop, &l->source, EPOLLIN, e) < 0)
		return -e->code;
	l->pid = fork();
	if (l->pid == 0)
		write_and_end(l, out, self);
	return l->pid < 0 ? err_sys(e, "start a process for the copy") : 0;
}

/* While the guest stands still. */
static int freeze_and_fork(struct snapshot_live *l, bool was_running, struct err *e)
{
	struct err ignored;
	int r = vm_pause(l->vm, e);

	if (r < 0)
		return r;
	r = job_freeze(&l->job, e);
	if (r == 0)
		r = start_child(l, e);
	job_thaw(&l->job);
	if (was_running)
		vm_resume(l->vm, &ignored);
	return r;
}

static int begin(struct snapshot_live *l, struct snapshot_history *h, struct err *e)
{
	bool was_running = l->vm->phase == VM_RUNNING;
	uint64_t start;
	int r = job_begin(&l->job, l->vm, h, &l->p, e);

	if (r < 0)
		return r;
	start = now_ns();
	if (job_compares(&l->job))
		r = err_set(e, EINVAL, "live: a diff needs track_dirty_pages");
	else
		r = freeze_and_fork(l, was_running, e);
	l->job.report.paused_us = (now_ns() - start) / 1000;
	if (r < 0)
		job_end(&l->job, r);
	return r;
}

int live_begin(struct vm *vm, struct snapshot_history *h, const struct snapshot_create_params *p,
	       struct snapshot_report *report, struct err *e)
{
	struct snapshot_live *l;
	int r = check(vm, h, e);

	if (r < 0)
		return r;
	l = prepare(vm, p);
	if (!l)
		return err_set(e, ENOMEM, "out of memory");
	r = begin(l, h, e);
	*report = l->job.report;
	if (r < 0) {
		finish(l);
		return r;
	}
	h->live = l;
	l->timer = (struct loop_timer){.expired = on_progress, .arg = l};
	loop_timer_set(vm->loop, &l->timer, PROGRESS_NS);
	log_info("live snapshot begun: paused for %llu us, of which state %llu",
		 (unsigned long long)report->paused_us, (unsigned long long)report->state_us);
	return 0;
}
