/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtio driver in plain memory: what the guest's side of virtio-mmio does, and every lie it
 * could tell. Device tests need nothing else of the machine:
 *
 *	struct driver g;
 *	driver_init(&g);
 *	driver_attach(&g, rng_create(&g.env, NULL));
 *	driver_start(&g, VIRTIO_FEATURES_COMMON);
 *	driver_add(&g, 0, (struct driver_buf[]){{driver_alloc(&g, 64), 64, true}}, 1);
 *	driver_kick(&g, 0);
 *	driver_used(&g, 0, &head, &len);
 *	driver_finish(&g);
 *
 * Guest memory is [0, 1 MiB) and [4 MiB, 5 MiB), with a hole between them. Rings lie at the bottom
 * of the first region, buffers come from the second. All failures end the test (assert).
 */
#pragma once

#include "virtio/mmio.h"

#define DRIVER_LOW_END	  MIB(1) /* the hole starts here */
#define DRIVER_HIGH	  MIB(4)
#define DRIVER_HIGH_END	  MIB(5)
#define DRIVER_QUEUE_SIZE 16u

/* The driver's view of one queue. Tests may change everything here to lie. */
struct driver_queue {
	uint16_t size;
	gpa_t desc, avail, used;
	uint16_t next_desc; /* descriptors are handed out round robin and never checked */
	uint16_t avail_idx; /* as published */
	uint16_t used_idx;  /* as collected */
};

struct driver {
	struct gmem mem;
	struct loop loop;
	pthread_mutex_t lock;
	int irq_fd;
	struct virtio_env env;
	struct virtio_mmio mmio;				    /* mmio.dev is the device */
	uint8_t page[VIRTIO_MMIO_PAGE] __attribute__((aligned(8))); /* of virtio_mmio_map() */
	struct driver_queue queue[VIRTIO_MMIO_QUEUES_MAX];
	uint64_t features; /* negotiated */
	gpa_t next_alloc;
};

/* One buffer of a chain. */
struct driver_buf {
	gpa_t gpa;
	uint32_t len;
	bool write; /* the device writes it */
};

/* Memory, loop, interrupt fd: all that a device's create function asks for (g->env). */
void driver_init(struct driver *g);
/* Puts `d` (owned from here on, not NULL) behind a transport. */
void driver_attach(struct driver *g, struct virtio_device *d);
void driver_finish(struct driver *g);

/* Registers, under the slot's lock as the bus does it. */
uint32_t driver_read(struct driver *g, uint64_t reg);
void driver_write(struct driver *g, uint64_t reg, uint32_t v);
/* Accesses of any width. What is read has to be in the page too. */
void driver_read_bytes(struct driver *g, uint64_t off, void *data, unsigned len);
void driver_write_bytes(struct driver *g, uint64_t off, const void *data, unsigned len);

/* Features as the device offers them. */
uint64_t driver_offered(struct driver *g);
/* From reset up to FEATURES_OK; true when the device took `features`. */
bool driver_negotiate(struct driver *g, uint64_t features);
/* Default places for the rings of a queue, everything zero; nothing is told to the device. */
void driver_place_queue(struct driver *g, unsigned queue, uint16_t size);
/* Writes g->queue[queue] into the registers and sets QueueReady; true when it stuck. */
bool driver_set_queue(struct driver *g, unsigned queue);
/* Sets DRIVER_OK; true when the device runs afterwards. */
bool driver_ok(struct driver *g);
/* All of that, with every queue of DRIVER_QUEUE_SIZE entries; asserts that it worked. */
void driver_start(struct driver *g, uint64_t features);

/* `len` bytes of guest memory for a buffer, zeroed, never given twice. */
gpa_t driver_alloc(struct driver *g, uint32_t len);
/* The test's own pointer to guest memory; asserts that it is there. */
void *driver_ptr(struct driver *g, gpa_t gpa, uint64_t len);

/* Raw descriptor `i` of the queue's table. */
void driver_desc(struct driver *g, unsigned queue, uint16_t i, struct virtq_desc d);
/* Puts any head into the available ring. */
void driver_publish(struct driver *g, unsigned queue, uint16_t head);
/* Sets used_event: interrupt once used entry `idx` is published. */
void driver_used_event(struct driver *g, unsigned queue, uint16_t idx);
/* Whether the device asked to be told of the entry published last (EVENT_IDX). */
bool driver_wants_kick(struct driver *g, unsigned queue);

/* Publishes a chain of `n` buffers; returns its head. */
uint16_t driver_add(struct driver *g, unsigned queue, const struct driver_buf *buf, unsigned n);
/* The same through an indirect table; `table` (if not NULL) gets its address. */
uint16_t driver_add_indirect(struct driver *g, unsigned queue, const struct driver_buf *buf,
			     unsigned n, gpa_t *table);

/* Writes QueueNotify and runs the loop until it has nothing to do. */
void driver_kick(struct driver *g, unsigned queue);
/* Runs the loop until nothing is ready. */
void driver_run(struct driver *g);
/* Collects one used entry; false when there is none. `head` and `len` may be NULL. */
bool driver_used(struct driver *g, unsigned queue, uint32_t *head, uint32_t *len);
/* Whether there was an interrupt since the last call; acknowledges it. */
bool driver_irq(struct driver *g);
/* Whether the device asks for a reset. */
bool driver_broken(struct driver *g);
