/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-mmio transport, version 2 (virtio 1.2 section 4.2): the register window of one device.
 *
 * It owns the status machine (section 3.1.1), feature negotiation and queue set-up, and gives each
 * queue an eventfd. KVM signals that eventfd on a write to QueueNotify (ioeventfd), so that a
 * notification never reaches the register code; one that does (an odd access width, a unit
 * test) is turned into the same signal.
 *
 * What we make of a driver that leaves the path:
 *	- Status: 0 resets. Otherwise bits are only ever added, each when those it needs are there;
 *	  FEATURES_OK only when what was accepted was offered and VERSION_1 is part of it. A write
 *	  that would clear a bit is ignored as a whole; DEVICE_NEEDS_RESET in it means nothing.
 *	  After FAILED only a reset is heard.
 *	- Features are writable between DRIVER and FEATURES_OK; queues between FEATURES_OK and
 *	  DRIVER_OK, and while their QueueReady is 0. QueueReady stays 0 when size, alignment or
 *	  addresses are wrong, which is what the driver reads back. A queue that is not ready at
 *	  DRIVER_OK is dead until the next reset; a live one stops at a reset only.
 *	- Registers are 32 bits wide, at their offset: everything else reads as 0 and is ignored.
 *	  The configuration space takes 1, 2, 4 and 8 bytes at any offset that fits into it.
 *	- A selector that selects nothing: QueueNumMax reads 0, writes are ignored.
 */
#pragma once

#include "virtio/device.h"

/* Registers, section 4.2.2. */
#define VIRTIO_MMIO_MAGIC		0x000u
#define VIRTIO_MMIO_VERSION		0x004u
#define VIRTIO_MMIO_DEVICE_ID		0x008u
#define VIRTIO_MMIO_VENDOR_ID		0x00cu
#define VIRTIO_MMIO_DEVICE_FEATURES	0x010u
#define VIRTIO_MMIO_DEVICE_FEATURES_SEL 0x014u
#define VIRTIO_MMIO_DRIVER_FEATURES	0x020u
#define VIRTIO_MMIO_DRIVER_FEATURES_SEL 0x024u
#define VIRTIO_MMIO_QUEUE_SEL		0x030u
#define VIRTIO_MMIO_QUEUE_NUM_MAX	0x034u
#define VIRTIO_MMIO_QUEUE_NUM		0x038u
#define VIRTIO_MMIO_QUEUE_READY		0x044u
#define VIRTIO_MMIO_QUEUE_NOTIFY	0x050u
#define VIRTIO_MMIO_INTERRUPT_STATUS	0x060u
#define VIRTIO_MMIO_INTERRUPT_ACK	0x064u
#define VIRTIO_MMIO_STATUS		0x070u
#define VIRTIO_MMIO_QUEUE_DESC_LOW	0x080u
#define VIRTIO_MMIO_QUEUE_DESC_HIGH	0x084u
#define VIRTIO_MMIO_QUEUE_DRIVER_LOW	0x090u
#define VIRTIO_MMIO_QUEUE_DRIVER_HIGH	0x094u
#define VIRTIO_MMIO_QUEUE_DEVICE_LOW	0x0a0u
#define VIRTIO_MMIO_QUEUE_DEVICE_HIGH	0x0a4u
#define VIRTIO_MMIO_SHM_LEN_LOW		0x0b0u
#define VIRTIO_MMIO_SHM_LEN_HIGH	0x0b4u
#define VIRTIO_MMIO_SHM_BASE_LOW	0x0b8u
#define VIRTIO_MMIO_SHM_BASE_HIGH	0x0bcu
#define VIRTIO_MMIO_CONFIG_GENERATION	0x0fcu
#define VIRTIO_MMIO_CONFIG		0x100u

#define VIRTIO_MMIO_QUEUES_MAX 8u

/* Bytes of `page` below, LAYOUT_VIRTIO_SIZE. */
#define VIRTIO_MMIO_PAGE 4096u

struct virtio_mmio {
	struct virtio_device *dev;			 /* [I] owned */
	int kick_fd[VIRTIO_MMIO_QUEUES_MAX];		 /* [I] one eventfd per queue, owned */
	struct loop_source kick[VIRTIO_MMIO_QUEUES_MAX]; /* [m] */
	uint32_t early; /* [s] a bit for each queue that was notified before DRIVER_OK */
};

/*
 * Takes the device (also when it fails) and starts watching its queues' eventfds on the
 * device's loop, under its lock. `t` must stay where it is. Main thread.
 */
int virtio_mmio_init(struct virtio_mmio *t, struct virtio_device *dev, struct err *e);
/*
 * The same with eventfds that are there already, for the first `count` queues; -1: none. Takes those
 * that it uses, which become -1 in `kick`.
 */
int virtio_mmio_init_kicks(struct virtio_mmio *t, struct virtio_device *dev, int *kick,
			   unsigned count, struct err *e);
/*
 * From now on `page` holds what reading the window gives, so that the guest may be shown it in the
 * window's place and its reads need no exit: the interrupt status above all, which is read in each
 * interrupt. Two differences: a register that is read in parts gives parts, and a change of the
 * configuration space may be seen half done, but then its interrupt comes behind it. `page` is zeroed,
 * and stays until the device is destroyed. Main thread, lock held.
 */
void virtio_mmio_map(struct virtio_mmio *t, uint8_t *page);
/* Whoever changes a register, or what it shows, puts it there; nothing without a page. Lock held. */
void virtio_mmio_show(struct virtio_device *d, uint64_t off);
void virtio_mmio_show_all(struct virtio_device *d);

/* Stops watching, destroys the device. Main thread, no vCPU running. NULL dev is fine. */
void virtio_mmio_finish(struct virtio_mmio *t);

/*
 * A guest's access to the window: 1, 2, 4 or 8 bytes at `off` below LAYOUT_VIRTIO_SIZE. What the
 * specification does not allow reads as 0 or is ignored. vCPU thread, slot lock held.
 */
void virtio_mmio_read(struct virtio_mmio *t, uint64_t off, void *data, unsigned len);
void virtio_mmio_write(struct virtio_mmio *t, uint64_t off, const void *data, unsigned len);
