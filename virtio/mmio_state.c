/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/mmio_state.h"

#include "vmm/base/fd.h"

int virtio_mmio_drain(struct virtio_mmio *t, struct err *e)
{
	struct virtio_device *d = t->dev;
	int r = 0;

	pthread_mutex_lock(d->env.lock);
	if (d->ops->drain)
		r = d->ops->drain(d, e);
	pthread_mutex_unlock(d->env.lock);
	return r < 0 ? err_wrap(e, "%s", d->name) : 0;
}

int virtio_mmio_save(struct virtio_mmio_state *s, struct virtio_mmio *t, struct err *e)
{
	struct virtio_device *d = t->dev;
	int r = 0;

	*s = (struct virtio_mmio_state){.type = d->type, .num_queues = d->num_queues};
	pthread_mutex_lock(d->env.lock);
	if (d->ops->drain)
		r = d->ops->drain(d, e);
	s->features = d->features;
	s->device = d->state;
	s->config_len = d->config_len;
	if (d->config_len > sizeof(s->config))
		r = err_set(e, E2BIG, "its configuration space has %u bytes", d->config_len);
	else if (d->config_len)
		memcpy(s->config, d->config, d->config_len);
	for (unsigned i = 0; r == 0 && i < d->num_queues; i++) {
		s->queue[i] = d->queue[i].state;
		if (s->queue[i].next_avail != s->queue[i].next_used)
			r = err_set(e, EBUSY, "queue %u has requests in flight", i);
	}
	pthread_mutex_unlock(d->env.lock);
	return r < 0 ? err_wrap(e, "%s", d->name) : 0;
}

static void device_state_wire(struct virtio_device_state *s, struct wire *w)
{
	wire_u64(w, &s->driver_features);
	wire_u32(w, &s->device_features_sel);
	wire_u32(w, &s->driver_features_sel);
	wire_u32(w, &s->queue_sel);
	wire_u32(w, &s->status);
	wire_u32(w, &s->interrupt_status);
	wire_u32(w, &s->config_generation);
}

void virtio_mmio_state_wire(struct virtio_mmio_state *s, struct wire *w)
{
	wire_u32(w, &s->type);
	wire_u64(w, &s->features);
	device_state_wire(&s->device, w);
	wire_u32(w, &s->num_queues);
	wire_u32(w, &s->config_len);
	if (s->num_queues > VIRTIO_MMIO_QUEUES_MAX || s->config_len > VIRTIO_CONFIG_MAX) {
		wire_fail(w, -EBADMSG);
		s->num_queues = s->config_len = 0;
	}
	for (unsigned i = 0; i < s->num_queues; i++)
		virtq_state_wire(&s->queue[i], w);
	wire_bytes(w, s->config, s->config_len);
}

/* --- restore --- */

#define STATUS_KNOWN                                                                          \
	(VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_DRIVER_OK | VIRTIO_S_FEATURES_OK | \
	 VIRTIO_S_NEEDS_RESET | VIRTIO_S_FAILED)

/* The order in which the transport lets a driver set them. */
static const struct {
	uint32_t bit, needs;
} status_order[] = {
	{VIRTIO_S_DRIVER, VIRTIO_S_ACKNOWLEDGE},
	{VIRTIO_S_FEATURES_OK, VIRTIO_S_DRIVER},
	{VIRTIO_S_DRIVER_OK, VIRTIO_S_FEATURES_OK},
};

static int check_device(const struct virtio_device *d, const struct virtio_mmio_state *s,
			struct err *e)
{
	uint32_t status = s->device.status;
	uint64_t missing = s->device.driver_features & ~d->features;

	if (s->type != d->type)
		return err_set(e, EINVAL, "the snapshot has a device of type %u in its place",
			       s->type);
	if (s->num_queues != d->num_queues)
		return err_set(e, EINVAL, "it had %u queues, and now has %u", s->num_queues,
			       d->num_queues);
	if (status & ~(uint32_t)STATUS_KNOWN)
		return err_set(e, EINVAL, "its status is 0x%x", status);
	for (size_t i = 0; i < ARRAY_SIZE(status_order); i++)
		if (status & status_order[i].bit && !(status & status_order[i].needs))
			return err_set(e, EINVAL, "its status is 0x%x, which no driver can set",
				       status);
	if (s->device.interrupt_status & ~(uint32_t)(VIRTIO_IRQ_QUEUE | VIRTIO_IRQ_CONFIG))
		return err_set(e, EINVAL, "its interrupt status is 0x%x",
			       s->device.interrupt_status);
	if (!(status & VIRTIO_S_FEATURES_OK))
		return 0;
	if (missing)
		return err_set(e, EINVAL,
			       "the guest uses feature bit %d, which it does not offer any more",
			       __builtin_ctzll(missing));
	if (!(s->device.driver_features & VIRTIO_F_VERSION_1))
		return err_set(e, EINVAL, "its driver did not accept VERSION_1");
	if (d->required & ~s->device.driver_features)
		return err_set(e, EINVAL, "its driver did not accept what it needs");
	return 0;
}

static int check_queue(struct virtq *q, const struct virtq_state *s, const struct virtio_device *d,
		       struct err *e)
{
	const struct virtq fresh = {.max = q->max, .state = *s};
	int r;

	if (s->ready > 1 || s->size > q->max || (s->size && !is_power_of_two(s->size)))
		return err_set(e, EINVAL, "it has %u entries", s->size);
	if (s->next_avail != s->next_used)
		return err_set(e, EINVAL, "it has requests in flight");
	if (!s->ready)
		return 0;
	r = virtq_check(&fresh, d->env.mem);
	if (r == -EFAULT)
		return err_set(e, EFAULT, "ring outside guest memory");
	return r < 0 ? err_set(e, EINVAL, "ring with a wrong size or alignment") : 0;
}

static int check_config(struct virtio_device *d, const struct virtio_mmio_state *s, struct err *e)
{
	if (d->ops->check)
		return d->ops->check(d, s->config, s->config_len, e);
	if (s->config_len != d->config_len ||
	    (d->config_len && memcmp(s->config, d->config, d->config_len) != 0))
		return err_set(e, EINVAL,
			       "what the guest knows about it has changed since the snapshot was "
			       "taken (the size of a disk, an address)");
	return 0;
}

static int go_live(struct virtio_device *d, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < d->num_queues && r == 0; i++)
		if (d->queue[i].state.ready)
			r = virtq_start(&d->queue[i], d->env.mem, d->state.driver_features);
	if (r == 0 && d->ops->activate)
		r = d->ops->activate(d);
	return r < 0 ? err_set(e, -r, "start it again: %s", strerror(-r)) : 0;
}

static int restore(struct virtio_device *d, const struct virtio_mmio_state *s, struct err *e)
{
	int r = check_device(d, s, e);

	for (unsigned i = 0; r == 0 && i < d->num_queues; i++) {
		r = check_queue(&d->queue[i], &s->queue[i], d, e);
		if (r < 0)
			return err_wrap(e, "queue %u", i);
	}
	if (r == 0)
		r = check_config(d, s, e);
	if (r < 0)
		return r;
	d->state = s->device;
	for (unsigned i = 0; i < d->num_queues; i++)
		d->queue[i].state = s->queue[i];
	return virtio_active(d) ? go_live(d, e) : 0;
}

int virtio_mmio_restore(struct virtio_mmio *t, const struct virtio_mmio_state *s, struct err *e)
{
	struct virtio_device *d = t->dev;
	int r;

	pthread_mutex_lock(d->env.lock);
	r = restore(d, s, e);
	virtio_mmio_show_all(d);
	pthread_mutex_unlock(d->env.lock);
	return r < 0 ? err_wrap(e, "%s", d->name) : 0;
}

void virtio_mmio_kick(struct virtio_mmio *t)
{
	struct virtio_device *d = t->dev;

	if (virtio_active(d))
		for (unsigned i = 0; i < d->num_queues; i++)
			fd_event_signal(t->kick_fd[i]);
	if (d->state.interrupt_status)
		fd_event_signal(d->env.irq_fd);
}
