/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/device.h"

#include "virtio/mmio.h"
#include "vmm/base/log.h"

void virtio_interrupt(struct virtio_device *d, enum virtio_irq why)
{
	d->state.interrupt_status |= why;
	virtio_mmio_show(d, VIRTIO_MMIO_INTERRUPT_STATUS);
	if (loop_signal(d->env.loop, d->env.lock, d->env.irq_fd))
		metric_inc(&d->interrupts);
}

void virtio_queue_end(struct virtio_device *d, struct virtq *q)
{
	if (virtq_end(q))
		virtio_interrupt(d, VIRTIO_IRQ_QUEUE);
}

void virtio_needs_reset(struct virtio_device *d, int code)
{
	d->state.status |= VIRTIO_S_NEEDS_RESET;
	virtio_mmio_show(d, VIRTIO_MMIO_STATUS);
	if (d->state.status & VIRTIO_S_DRIVER_OK)
		virtio_interrupt(d, VIRTIO_IRQ_CONFIG);
	log_warn("%s: stopped until the guest resets it: %s", d->name, strerror(-code));
	if (d->env.failed)
		d->env.failed(d->env.failed_arg, d, code);
}

void virtio_config_touched(struct virtio_device *d)
{
	d->state.config_generation++;
	virtio_mmio_show_all(d);
}

void virtio_config_changed(struct virtio_device *d)
{
	virtio_config_touched(d);
	/* Before DRIVER_OK the driver has not read the space, or reads it with the generation. */
	if (d->state.status & VIRTIO_S_DRIVER_OK)
		virtio_interrupt(d, VIRTIO_IRQ_CONFIG);
}
