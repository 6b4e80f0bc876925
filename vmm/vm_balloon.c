/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/vm_balloon.h"

#include <errno.h>

/* The device, its lock taken; NULL with `e` filled when there is none. */
static struct virtio_device *lock_balloon(struct vm *vm, struct err *e)
{
	struct virtio_device *d;

	for (unsigned i = 0; (d = vm_device(vm, i)); i++) {
		if (d->type != VIRTIO_ID_BALLOON)
			continue;
		pthread_mutex_lock(d->env.lock);
		return d;
	}
	err_set(e, EINVAL, "No balloon device found.");
	return NULL;
}

static int unlock(struct virtio_device *d, int r)
{
	pthread_mutex_unlock(d->env.lock);
	return r;
}

int vm_balloon_set(struct vm *vm, unsigned amount_mib, struct err *e)
{
	struct virtio_device *d = lock_balloon(vm, e);

	if (!d)
		return -EINVAL;
	if (amount_mib > vm->config.machine.mem_size_mib)
		return unlock(d, err_set(e, EINVAL, "amount_mib: %u is more than the guest has",
					 amount_mib));
	balloon_set_target(d, amount_mib);
	vm->config.balloon.amount_mib = amount_mib;
	return unlock(d, 0);
}

int vm_balloon_set_interval(struct vm *vm, unsigned seconds, struct err *e)
{
	struct virtio_device *d = lock_balloon(vm, e);
	int r = d ? balloon_set_interval(d, seconds, e) : -EINVAL;

	if (r == 0)
		vm->config.balloon.stats_polling_interval_s = seconds;
	return d ? unlock(d, r) : r;
}

int vm_balloon_hint(struct vm *vm, bool start, bool acknowledge, struct err *e)
{
	struct virtio_device *d = lock_balloon(vm, e);

	if (!d)
		return -EINVAL;
	return unlock(d, start ? balloon_hint_start(d, acknowledge, e) : balloon_hint_stop(d, e));
}

int vm_balloon_get(struct vm *vm, struct balloon_state *s, struct err *e)
{
	struct virtio_device *d = lock_balloon(vm, e);

	if (!d)
		return -EINVAL;
	*s = *balloon_state(d);
	return unlock(d, 0);
}
