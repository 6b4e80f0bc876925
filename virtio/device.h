/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every virtio device is to its transport (virtio/mmio.h), and the transport to it.
 *
 * A device is given guest memory, the loop, the lock of its bus slot and an interrupt eventfd; it
 * knows nothing of KVM or the machine, so a unit test can drive it in plain memory.
 *
 * Threads: register accesses come from vCPU threads, queue work from the main thread's loop. Both
 * hold env.lock, taken by the caller (bus dispatch, loop trampoline); devices contain no locks.
 * A file-descriptor source that a device adds to the loop carries env.lock too.
 */
#pragma once

#include "virtio/queue.h"
#include "vmm/base/gmem.h"
#include "vmm/base/loop.h"
#include "vmm/base/metric.h"

/* Device ids, virtio 1.2 section 5. */
enum virtio_id {
	VIRTIO_ID_NET = 1,
	VIRTIO_ID_BLOCK = 2,
	VIRTIO_ID_ENTROPY = 4,
	VIRTIO_ID_BALLOON = 5,
	VIRTIO_ID_VSOCK = 19,
	VIRTIO_ID_MEM = 24,
	VIRTIO_ID_PMEM = 27,
};

/* Device status bits, section 2.1. */
enum virtio_status {
	VIRTIO_S_ACKNOWLEDGE = 1,
	VIRTIO_S_DRIVER = 2,
	VIRTIO_S_DRIVER_OK = 4,
	VIRTIO_S_FEATURES_OK = 8,
	VIRTIO_S_NEEDS_RESET = 64,
	VIRTIO_S_FAILED = 128,
};

/* Bits of the interrupt status register, section 4.2.2. */
enum virtio_irq { VIRTIO_IRQ_QUEUE = 1, VIRTIO_IRQ_CONFIG = 2 };

/* Device-independent feature bits, section 6; those of the ring are in virtio/queue.h. */
#define VIRTIO_F_VERSION_1     (1ull << 32)
/* What every device of ours offers. */
#define VIRTIO_FEATURES_COMMON (VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX)

struct virtio_device;

/* All called with env.lock held; only notify and destroy on the main thread: no loop_* elsewhere. */
struct virtio_ops {
	/*
	 * The driver put buffers on a queue. Main thread; only while the device is active. Serves a
	 * bounded number of them; true: there may be more, call again after everybody else's turn.
	 */
	bool (*notify)(struct virtio_device *d, unsigned queue);
	/*
	 * The driver wrote `len` bytes at `off` of the configuration space (inside it). NULL when
	 * nothing there is writable: such writes are ignored.
	 */
	void (*config_write)(struct virtio_device *d, uint32_t off, const void *buf, uint32_t len);
	/*
	 * DRIVER_OK; the queues that the driver wants are live. -errno makes the transport set
	 * DEVICE_NEEDS_RESET. NULL when there is nothing to do.
	 */
	int (*activate)(struct virtio_device *d);
	/*
	 * Back to the state after create: nothing in flight afterwards. The transport resets the
	 * queues behind it. NULL when there is nothing to do.
	 */
	void (*reset)(struct virtio_device *d);
	/*
	 * Before the device's state is saved, vCPUs parked, and between the rounds of a live
	 * snapshot, when they run; main thread, the slot's lock held. Finishes what is in flight: afterwards every chain that was taken has been released, its interrupt decided
	 * (virtio_queue_end()), or has been put back, and guest memory is not written to until the
	 * next callback. -errno with `e` filled when that is impossible. NULL when nothing is ever
	 * in flight between two callbacks.
	 */
	int (*drain)(struct virtio_device *d, struct err *e);
	/*
	 * Saved state beyond registers and queues, in a struct embedded in the device: `wire` lists
	 * its fields (vmm/base/wire.h) as of `wire_version` (0 is 1), and reads older ones. NULL
	 * when there is none.
	 */
	void (*wire)(struct virtio_device *d, struct wire *w);
	uint16_t wire_version;
	/*
	 * Vets what `wire` has read, and the configuration space that the guest knows, against
	 * the device as it was created anew; before the queues go live and `activate`. NULL: the
	 * configuration space has to be what it was, byte for byte.
	 */
	int (*check)(struct virtio_device *d, const void *config, uint32_t len, struct err *e);
	/* Frees the device itself; may be called at any time. */
	void (*destroy)(struct virtio_device *d);
};

/* What a device borrows for its life. [I] immutable */
struct virtio_env {
	const struct gmem *mem;
	struct loop *loop;
	pthread_mutex_t *lock; /* the bus slot's */
	int irq_fd;	       /* eventfd bound to the device's GSI; not owned */
	/* Told by virtio_needs_reset(), lock held; any thread. NULL: nobody. */
	void (*failed)(void *arg, const struct virtio_device *d, int code);
	void *failed_arg;
};

/* What a snapshot has to keep: fixed-width, no pointers. Queues keep theirs (virtio/queue.h). */
struct virtio_device_state {
	uint64_t driver_features; /* as the driver wrote them */
	uint32_t device_features_sel;
	uint32_t driver_features_sel;
	uint32_t queue_sel;
	uint32_t status;
	uint32_t interrupt_status;
	uint32_t config_generation;
};

struct virtio_device {
	const struct virtio_ops *ops; /* [I] */
	enum virtio_id type;	      /* [I] */
	const char *name;	      /* [I] for messages: "block 'root'"; owned by the device */
	uint64_t features;	      /* [I] offered, VERSION_1 included */
	uint64_t required;	      /* [I] without these of them a driver is refused */
	const void *config;	      /* [s] configuration space, little-endian */
	uint32_t config_len;	      /* [I] */
	struct virtq *queue;	      /* [s] num_queues of them, owned by the device */
	unsigned num_queues;	      /* [I] */
	bool keeps_early;	      /* [I] a notification before DRIVER_OK counts from then on */
	struct virtio_env env;	      /* [I] */
	uint8_t *window; /* [s] where the guest reads registers, or NULL: virtio_mmio_map() */
	struct virtio_device_state state; /* [s] */
	struct metric interrupts;
};

/* Sets interrupt status bits and raises the interrupt. Lock held. */
void virtio_interrupt(struct virtio_device *d, enum virtio_irq why);
/* The end of a batch on `q`: publishes what was released, and interrupts if it should. Lock held. */
void virtio_queue_end(struct virtio_device *d, struct virtq *q);
/*
 * The driver broke the ring: sets DEVICE_NEEDS_RESET (section 2.1.2), tells it and logs `code`,
 * the -errno that virtq_get() gave. The device is not active afterwards. Lock held.
 */
void virtio_needs_reset(struct virtio_device *d, int code);
/* The configuration space was changed by us: generation + interrupt (section 2.5). Lock held. */
void virtio_config_changed(struct virtio_device *d);
/* The same where the driver knows without an interrupt: it asked for the change. */
void virtio_config_touched(struct virtio_device *d);

static inline bool virtio_has_feature(const struct virtio_device *d, uint64_t bit)
{
	return d->state.driver_features & bit;
}

/* DRIVER_OK is set and the device has not asked for a reset. */
static inline bool virtio_active(const struct virtio_device *d)
{
	return (d->state.status & (VIRTIO_S_DRIVER_OK | VIRTIO_S_NEEDS_RESET | VIRTIO_S_FAILED)) ==
	       VIRTIO_S_DRIVER_OK;
}
