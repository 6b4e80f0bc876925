/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saved state of a virtio-mmio window and the device behind it.
 *
 * A device is restored into one that was created anew from the same configuration. Everything
 * that was read is judged as if the guest had written it to the registers just now: features against
 * what the device offers, the status machine's order, queues against guest memory.
 *
 * What was in the air when the state was saved is made good: every queue of a running device is
 * served once, as if it had been notified, and an interrupt that the driver has not acknowledged is
 * raised again. Both are harmless when there was nothing. Main thread, vCPUs parked or not started.
 */
#pragma once

#include "virtio/mmio.h"

#define VIRTIO_CONFIG_MAX 256u

struct virtio_mmio_state {
	uint32_t type;
	uint64_t features; /* offered */
	struct virtio_device_state device;
	uint32_t num_queues;
	struct virtq_state queue[VIRTIO_MMIO_QUEUES_MAX];
	uint32_t config_len;
	uint8_t config[VIRTIO_CONFIG_MAX];
};

/* Finishes what the device has in flight (virtio/device.h). 0 or -errno with `e` filled. */
int virtio_mmio_drain(struct virtio_mmio *t, struct err *e);

/* Drains the device and reads its state. 0 or -errno with `e` filled. */
int virtio_mmio_save(struct virtio_mmio_state *s, struct virtio_mmio *t, struct err *e);

#define VIRTIO_MMIO_STATE_VERSION 1u
void virtio_mmio_state_wire(struct virtio_mmio_state *s, struct wire *w);

/* Judges `s` and puts the device, which is as it was created, into that state. */
int virtio_mmio_restore(struct virtio_mmio *t, const struct virtio_mmio_state *s, struct err *e);
/* Notifies every queue and raises the interrupt if it is due: once the machine is complete. */
void virtio_mmio_kick(struct virtio_mmio *t);
