/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A balloon between a guest and an API user that do anything. The input is a program:
 *
 *	0x00..0x7f  a request on queue (op & 7): bytes to read (1 and those), a buffer to write:
 *		    page (1), offset and length (2 each); kicked unless op & 8
 *	0x80..0x8f  a write to the configuration space: offset (1), value (4)
 *	0x90..0x9f  the API: target, hinting start, stop, interval
 *	0xa0..0xaf  a timer expires
 *	0xb0..0xb7  reset, and start with other features
 *	other	    a head into the ring of queue (op & 7)
 *
 * What must hold: no crash, and no byte changes of the memory that the guest did not name: pages
 * 0 to 3 of the upper region are never given up, pages 4 and up may be.
 */
#include <stdio.h>

#include "tests/fuzz/input.h"
#include "tests/lib/driver.h"
#include "virtio/balloon.h"
#include "vmm/base/log.h"

#define SAFE  4u
#define PAGES 64u

static gpa_t page_at(uint64_t i)
{
	return DRIVER_HIGH + 0x20000 + i * 4096;
}

static void request(struct driver *g, struct program *in, uint8_t op)
{
	unsigned queue = (op & 7u) % g->mmio.dev->num_queues;
	gpa_t at = DRIVER_HIGH + (g->queue[queue].avail_idx % 16u) * 0x1000;
	uint32_t n = (uint32_t)take(in, 1);
	uint64_t page = SAFE + take(in, 1) % (PAGES - SAFE);
	uint32_t off = (uint32_t)take(in, 2) % 8192, len = (uint32_t)take(in, 2);

	for (uint32_t i = 0; i < n; i++)
		*(uint8_t *)driver_ptr(g, at + i, 1) = (uint8_t)take(in, 1);
	/* Page numbers are kept off the pages that must stay. */
	for (uint32_t i = 0; queue == 0 && i + 4 <= n; i += 4) {
		uint32_t *pfn = driver_ptr(g, at + i, 4);

		if (*pfn < page_at(SAFE) >> 12)
			*pfn += (uint32_t)(page_at(SAFE) >> 12);
	}
	if (page_at(page) + off + len > page_at(PAGES))
		len = 0;
	driver_add(g, queue,
		   (struct driver_buf[]){{at, n, false}, {page_at(page) + off, len, true}}, 2);
	if (!(op & 8))
		driver_kick(g, queue);
}

static void use_api(struct driver *g, struct program *in, uint8_t op)
{
	struct virtio_device *d = g->mmio.dev;
	uint32_t v = (uint32_t)take(in, 2);

	pthread_mutex_lock(&g->lock);
	if (op % 4 == 0)
		balloon_set_target(d, v);
	else if (op % 4 == 1)
		balloon_hint_start(d, v & 1, NULL);
	else if (op % 4 == 2)
		balloon_hint_stop(d, NULL);
	else
		balloon_set_interval(d, v, NULL);
	pthread_mutex_unlock(&g->lock);
}

static void run(struct driver *g, struct program *in, uint64_t features)
{
	while (in->p < in->end) {
		uint8_t op = (uint8_t)take(in, 1);

		if (op < 0x80) {
			request(g, in, op);
		} else if (op < 0x90) {
			uint64_t off = VIRTIO_MMIO_CONFIG + (take(in, 1) & 0x1f);

			driver_write(g, off, (uint32_t)take(in, 4));
		} else if (op < 0xa0) {
			use_api(g, in, op);
		} else if (op < 0xb0) {
			if (g->loop.timers)
				g->loop.timers->at_ns = 0;
			driver_run(g);
		} else if (op < 0xb8) {
			driver_start(g, features & ~(take(in, 1) & 0x2e));
		} else {
			driver_publish(g, (op & 7u) % g->mmio.dev->num_queues,
				       (uint16_t)take(in, 1));
			driver_kick(g, (op & 7u) % g->mmio.dev->num_queues);
		}
	}
	driver_run(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct program in = {data, data + size};
	uint8_t how = (uint8_t)take(&in, 1);
	struct balloon_setup cfg = {
		.amount_mib = how,
		.deflate_on_oom = how & 1,
		.hinting = how & 2,
		.reporting = how & 4,
		.stats_interval_s = how & 8 ? 1 : 0,
	};
	struct driver g;
	uint8_t *safe;

	log_set_level(LOG_OFF);
	driver_init(&g);
	driver_attach(&g, balloon_create(&cfg, &g.env, NULL));
	safe = driver_ptr(&g, page_at(0), SAFE * 4096);
	memset(safe, 0x77, SAFE * 4096);
	driver_start(&g, driver_offered(&g));
	run(&g, &in, driver_offered(&g));
	for (unsigned i = 0; i < SAFE * 4096; i++)
		must(safe[i] == 0x77, "what was not given up is there");
	driver_finish(&g);
	return 0;
}
