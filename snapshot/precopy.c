/* SPDX-License-Identifier: Apache-2.0 */
#include "snapshot/precopy.h"

#include <errno.h>
#include <string.h>

#include "snapshot/fork.h"
#include "snapshot/memory.h"
#include "virtio/mmio_state.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/thread.h"

#define STACK_SIZE KIB(64)

int precopy_drain(struct vm_machine *m, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < m->virtio_count; i++)
		r = virtio_mmio_drain(&m->virtio[i], e);
	return r;
}

int precopy_take_log(struct vm_machine *m, struct pageset *s, struct err *e)
{
	for (unsigned i = 0; i < m->virtio_count; i++) {
		const struct virtio_device *d = m->virtio[i].dev;

		pthread_mutex_lock(d->env.lock);
		for (unsigned q = 0; q < d->num_queues; q++)
			virtq_mark(&d->queue[q]);
		pthread_mutex_unlock(d->env.lock);
	}
	return memory_take_dirty(&m->mem, &m->kvm, s, e);
}

int precopy_collect(struct vm_machine *m, struct pageset *s, struct pageset *all, struct err *e)
{
	int r = precopy_take_log(m, s, e);

	fork_share_dirty(m->fork, s);
	pageset_add_all(all, s);
	return r;
}

void precopy_thaw(struct vm_machine *m)
{
	for (unsigned i = 0; i < m->virtio_count; i++)
		if (m->virtio[i].dev->ops->drain)
			virtio_mmio_kick(&m->virtio[i]);
}

static void *run(void *arg)
{
	struct precopy *p = arg;

	p->r = p->step(p->arg, &p->e);
	p->done = true;
	fd_event_signal(p->vm->machine->vcpus.end_fd);
	return NULL;
}

int precopy_step(struct precopy *p, int (*step)(void *arg, struct err *e), struct err *e)
{
	int r;

	p->step = step;
	r = thread_start(&p->thread, STACK_SIZE, run, p);
	p->has_thread = r == 0;
	return r < 0 ? err_set(e, -r, "start the copying thread: %s", strerror(-r)) : 0;
}

void precopy_join(struct precopy *p)
{
	if (p->has_thread)
		pthread_join(p->thread, NULL);
	p->has_thread = false;
}

static void on_woken(void *arg)
{
	struct precopy *p = arg;

	if (!p->done)
		return;
	p->done = false;
	precopy_join(p);
	p->stepped(p->arg);
}

int precopy_init(struct precopy *p, struct vm *vm, struct pageset *dirty,
		 void (*stepped)(void *arg), void *arg, struct err *e)
{
	struct vm_machine *m = vm->machine;

	*p = (struct precopy){.vm = vm, .dirty = dirty, .round = 1, .stepped = stepped, .arg = arg};
	if (m->woken)
		return err_set(e, EBUSY, "memory is being copied already");
	m->woken = on_woken;
	m->woken_arg = p;
	return pageset_init(&p->next, gmem_size(&m->mem) / GMEM_PAGE, e);
}

void precopy_finish(struct precopy *p)
{
	if (!p->vm)
		return;
	if (p->vm->machine && p->vm->machine->woken_arg == p)
		p->vm->machine->woken = NULL;
	pageset_finish(&p->next);
	p->vm = NULL;
}

/*
 * Asked while no device has a request in flight: a buffer that a disk is being read into was marked when
 * it was handed out, and would be written behind our back.
 */
int precopy_take(struct precopy *p, struct err *e)
{
	struct vm_machine *m = p->vm->machine;
	int r = precopy_drain(m, e);

	pageset_clear(&p->next);
	if (r == 0)
		r = precopy_collect(m, &p->next, p->dirty, e);
	precopy_thaw(m);
	return r;
}

int precopy_begin(struct precopy *p, struct err *e)
{
	int r = 0;

	if (!p->vm->machine->log_dirty) {
		p->logging = true;
		r = machine_log_dirty(p->vm->machine, true, e);
	}
	return r == 0 ? precopy_take(p, e) : r;
}

void precopy_end(struct precopy *p)
{
	struct err e;

	if (p->logging && machine_log_dirty(p->vm->machine, false, &e) < 0)
		log_error("after copying memory: %s", e.msg);
	p->logging = false;
}

bool precopy_stalls(const struct precopy *p)
{
	return p->round > 1 && pageset_count(&p->next) > p->count / 2;
}
