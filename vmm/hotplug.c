/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/hotplug.h"

#include <errno.h>

#include "virtio/mem.h"
#include "vmm/machine.h"

void hotplug_config_init(struct hotplug_config *h)
{
	*h = (struct hotplug_config){
		.slot_size_mib = HOTPLUG_SLOT_MIB_MIN,
		.block_size_mib = HOTPLUG_BLOCK_MIB_MIN,
	};
}

int config_set_hotplug(struct config *c, const struct hotplug_config *piece, struct err *e)
{
	unsigned long long total = piece->total_size_mib, slot = piece->slot_size_mib;
	unsigned long long block = piece->block_size_mib;

	if (block < HOTPLUG_BLOCK_MIB_MIN || !is_power_of_two(block))
		return err_set(e, EINVAL, "block_size_mib: %llu is not a power of two from %u on",
			       block, HOTPLUG_BLOCK_MIB_MIN);
	if (slot < HOTPLUG_SLOT_MIB_MIN || slot % block)
		return err_set(e, EINVAL,
			       "slot_size_mib: %llu is not a multiple of block_size_mib, %llu, of "
			       "at least %u",
			       slot, block, HOTPLUG_SLOT_MIB_MIN);
	if (total == 0 || total % slot)
		return err_set(e, EINVAL,
			       "total_size_mib: %llu is not a multiple of slot_size_mib, %llu",
			       total, slot);
	if (total > CONFIG_MEM_MIB_MAX)
		return err_set(e, EINVAL, "total_size_mib: %llu is more than %llu", total,
			       (unsigned long long)CONFIG_MEM_MIB_MAX);
	c->hotplug = *piece;
	c->hotplug.configured = true;
	return 0;
}

int hotplug_layout(const struct config *c, struct gmem_region region[3], struct err *e)
{
	const struct hotplug_config *h = &c->hotplug;
	const uint64_t size = MIB(c->machine.mem_size_mib);
	unsigned n = layout_ram(size, region);
	gpa_t above = layout_above(region[n - 1].gpa + region[n - 1].len);

	if (!h->configured)
		return (int)n;
	/* Pages of hugetlbfs are reserved when they are mapped: all of them, plugged or not. */
	if (c->machine.huge_pages == HUGE_PAGES_2M)
		return err_set(e, EINVAL, "memory hotplug: not with huge_pages 2M");
	if (MIB(h->total_size_mib) > LAYOUT_RAM_MAX - size)
		return err_set(e, EINVAL, "memory hotplug: with mem_size_mib more than %llu MiB",
			       (unsigned long long)CONFIG_MEM_MIB_MAX);
	region[n] = (struct gmem_region){
		.gpa = align_up(above, MIB(h->block_size_mib)),
		.len = MIB(h->total_size_mib),
		.block = MIB(h->block_size_mib),
		.part = MIB(h->slot_size_mib),
	};
	return (int)n + 1;
}

static int map(void *arg, unsigned n, bool on)
{
	struct vm_machine *m = arg;

	return kvm_set_part(&m->kvm, gmem_hotplug(&m->mem), n, on, m->log_dirty);
}

int hotplug_log_dirty(struct vm_machine *m, struct err *e)
{
	const struct gmem_region *r = gmem_hotplug(&m->mem);

	for (unsigned n = 0; r && n < r->len / r->part; n++) {
		int error = gmem_any_plugged(r, n * r->part, r->part) ? map(m, n, true) : 0;

		if (error < 0)
			return err_set(e, -error, "log the dirty pages of a part of memory: %s",
				       strerror(-error));
	}
	return 0;
}

struct virtio_device *hotplug_create(struct vm_machine *m, const struct virtio_env *env,
				     struct err *e)
{
	const struct mem_setup s = {.map = map, .arg = m};

	return mem_create(&s, env, e);
}

static struct virtio_device *device(struct vm *vm, struct err *e)
{
	struct virtio_device *d = vm_nth_device(vm, VIRTIO_ID_MEM, 0);

	if (!d)
		err_set(e, EINVAL, "there is no memory hotplug");
	return d;
}

int vm_hotplug_set(struct vm *vm, uint64_t requested_size_mib, struct err *e)
{
	const struct hotplug_config *h = &vm->config.hotplug;
	struct virtio_device *d = device(vm, e);

	if (!d)
		return -EINVAL;
	if (requested_size_mib % h->block_size_mib || requested_size_mib > h->total_size_mib)
		return err_set(e, EINVAL,
			       "requested_size_mib: %llu is not a multiple of block_size_mib, "
			       "%llu, up to %llu",
			       (unsigned long long)requested_size_mib,
			       (unsigned long long)h->block_size_mib,
			       (unsigned long long)h->total_size_mib);
	pthread_mutex_lock(d->env.lock);
	mem_request(d, MIB(requested_size_mib));
	pthread_mutex_unlock(d->env.lock);
	return 0;
}

int vm_hotplug_get(struct vm *vm, struct hotplug_status *s, struct err *e)
{
	const struct hotplug_config *h = &vm->config.hotplug;
	struct virtio_device *d = device(vm, e);

	if (!d)
		return -EINVAL;
	*s = (struct hotplug_status){
		.total_size_mib = h->total_size_mib,
		.slot_size_mib = h->slot_size_mib,
		.block_size_mib = h->block_size_mib,
	};
	pthread_mutex_lock(d->env.lock);
	s->plugged_size_mib = mem_plugged(d) >> 20;
	s->requested_size_mib = mem_requested(d) >> 20;
	pthread_mutex_unlock(d->env.lock);
	return 0;
}
