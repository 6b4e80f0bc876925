/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that does anything: register accesses of any width, bytes anywhere in its memory, kicks,
 * against a block device (over a memfd), the entropy device, pmem (over the same)
 * or memory hotplug.
 *
 * Byte 0 chooses the device and how far an honest driver brings it first, byte 1 the features that
 * it takes; the rest is a program:
 *
 *	0x00..0x1f  write a register: offset / 4 (1) and value (4); from 0x10 on offset (2),
 *		    width (1) and value (8)
 *	0x20..0x2f  read one: offset (2), width (1)
 *	0x30..0x4f  write memory: address (2, low region), length (1), that many bytes
 *	0x50..0x6f  a descriptor: index (1), address kind and offset (3), len (4), flags, next
 *	0x70..0x7f  put a head into the available ring
 *	0x80..0x8f  a whole block request: type (1), sector (1), data length / 128 (1); type 0 with
 *		    its status is a flush of pmem too. Of memory hotplug instead: type (1), block (1),
 *		    number of blocks (1)
 *	0x90..0x9f  reset and start honestly
 *	0xb0..0xbf  the host asks for so many blocks of memory (1)
 *	0xa0..0xaf  negotiate, set up the queue: size (2), three addresses; DRIVER_OK
 *	other	    kick
 *
 * What must hold: no crash, no leak, no endless loop; the disk never changes its size, and not its
 * contents when read-only; the status register never shows a bit that does not exist; the blocks that
 * are there are those that were counted, and the parts that are mapped those that have some.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fuzz/input.h"
#include "tests/lib/driver.h"
#include "virtio/block.h"
#include "virtio/mem.h"
#include "virtio/pmem.h"
#include "virtio/rng.h"
#include "vmm/base/log.h"

#define DISK 8192u

static int new_disk(void)
{
	int fd = memfd_create("disk", MFD_CLOEXEC);

	must(fd >= 0 && ftruncate(fd, DISK) == 0, "a disk");
	return fd;
}

static void write_register(struct driver *g, struct program *in)
{
	uint64_t off = (take(in, 1) & 0x3f) * 4;

	driver_write(g, off, (uint32_t)take(in, 4));
}

static void access_bytes(struct driver *g, struct program *in, bool write)
{
	uint64_t off = take(in, 2) & 0xfff;
	unsigned width = 1u << (take(in, 1) & 3);
	uint64_t v = 0;

	if (write) {
		v = take(in, 8);
		driver_write_bytes(g, off, &v, width);
	} else {
		driver_read_bytes(g, off, &v, width);
	}
}

static void write_memory(struct driver *g, struct program *in)
{
	gpa_t at = take(in, 2);
	uint64_t len = take(in, 1);

	for (uint64_t i = 0; i < len; i++)
		*(uint8_t *)driver_ptr(g, at + i, 1) = (uint8_t)take(in, 1);
}

/* Addresses that are worth trying, and any other. */
static gpa_t take_address(struct program *in)
{
	static const gpa_t base[] = {0,	     DRIVER_HIGH,     DRIVER_LOW_END, DRIVER_HIGH_END,
				     GIB(4), GIB(4) + MIB(2), UINT64_MAX};
	uint64_t kind = take(in, 1);
	uint64_t off = take(in, 2);

	if (kind < 0x40)
		return DRIVER_HIGH + off;
	return kind < 0xf0 ? base[kind % ARRAY_SIZE(base)] + off - 0x100 : take(in, 8);
}

static void write_descriptor(struct driver *g, struct program *in)
{
	uint16_t i = (uint16_t)take(in, 1);
	gpa_t addr = take_address(in);
	uint32_t len = (uint32_t)take(in, 4);
	uint16_t flags = (uint16_t)take(in, 1);
	uint16_t next = (uint16_t)take(in, 1);

	/* Beyond the queue's own table this builds an indirect one. */
	if (gmem_at(&g->mem, g->queue[0].desc + sizeof(struct virtq_desc) * i, 16))
		driver_desc(g, 0, i, (struct virtq_desc){addr, len, flags, next});
}

static void set_up_queue(struct driver *g, struct program *in, uint64_t features)
{
	struct driver_queue honest = g->queue[0];

	must(driver_negotiate(g, features), "offered features are accepted");
	g->queue[0] = (struct driver_queue){
		.size = (uint16_t)take(in, 2),
		.desc = take_address(in),
		.avail = take_address(in),
		.used = take_address(in),
	};
	/* Rings that the device refused are nothing to put descriptors into. */
	if (!driver_set_queue(g, 0))
		g->queue[0] = honest;
	driver_ok(g);
}

static void add_request(struct driver *g, struct program *in)
{
	uint32_t type = (uint32_t)take(in, 1) & 15;
	uint64_t sector = take(in, 1);
	uint32_t len = (uint32_t)take(in, 1) * 128;
	const struct driver_buf buf[] = {
		{DRIVER_HIGH, 16, false},
		{DRIVER_HIGH + 64, len, type != 1},
		{DRIVER_HIGH + 16, 1, true},
	};

	memcpy(driver_ptr(g, DRIVER_HIGH, 4), &type, 4);
	memcpy(driver_ptr(g, DRIVER_HIGH + 8, 8), &sector, 8);
	driver_add(g, 0, buf, 3);
}

/* --- memory hotplug --- */

#define HOTPLUG_AT   GIB(4)
#define HOTPLUG_PART MIB(8)
#define HOTPLUG_SIZE MIB(1024)

static bool mapped[HOTPLUG_SIZE / HOTPLUG_PART];

static int map(void *arg, unsigned n, bool on)
{
	(void)arg;
	must(n < ARRAY_SIZE(mapped) && mapped[n] != on, "a part is mapped once, and there");
	mapped[n] = on;
	return 0;
}

static struct virtio_device *new_hotplug(struct driver *g)
{
	const struct gmem_region region[] = {
		{.gpa = 0, .len = DRIVER_LOW_END},
		{.gpa = DRIVER_HIGH, .len = DRIVER_HIGH_END - DRIVER_HIGH},
		{.gpa = HOTPLUG_AT, .len = HOTPLUG_SIZE, .block = MIB(2), .part = HOTPLUG_PART},
	};
	const struct mem_setup s = {.map = map};

	memset(mapped, 0, sizeof(mapped));
	gmem_finish(&g->mem);
	must(gmem_init(&g->mem, region, ARRAY_SIZE(region), GMEM_ANON, false, NULL) == 0, "memory");
	return mem_create(&s, &g->env, NULL);
}

static void check_hotplug(struct driver *g)
{
	const struct gmem_region *r = &g->mem.region[2];
	uint64_t size = 0;

	for (uint64_t off = 0; off < r->len; off += r->block)
		size += gmem_at(&g->mem, r->gpa + off, r->block) ? r->block : 0;
	must(size == mem_plugged(g->mmio.dev), "what is there was counted");
	for (unsigned n = 0; n < ARRAY_SIZE(mapped); n++)
		must(mapped[n] == gmem_any_plugged(r, n * r->part, r->part), "mapped if needed");
}

static void add_hotplug_request(struct driver *g, struct program *in)
{
	const struct driver_buf buf[] = {{DRIVER_HIGH, 24, false}, {DRIVER_HIGH + 32, 10, true}};
	uint64_t request[3] = {take(in, 1) & 7};

	request[1] = HOTPLUG_AT + take(in, 1) * MIB(2);
	request[2] = take(in, 1);
	memcpy(driver_ptr(g, DRIVER_HIGH, 24), request, 24);
	driver_add(g, 0, buf, 2);
}

static void host_asks(struct driver *g, struct program *in)
{
	uint64_t bytes = take(in, 1) * MIB(2);

	if (g->mmio.dev->type != VIRTIO_ID_MEM)
		return;
	pthread_mutex_lock(&g->lock);
	mem_request(g->mmio.dev, bytes);
	pthread_mutex_unlock(&g->lock);
}

static void run(struct driver *g, struct program *in, uint64_t features)
{
	while (in->p < in->end) {
		uint8_t op = (uint8_t)take(in, 1);

		if (op < 0x10)
			write_register(g, in);
		else if (op < 0x30)
			access_bytes(g, in, op < 0x20);
		else if (op < 0x50)
			write_memory(g, in);
		else if (op < 0x70)
			write_descriptor(g, in);
		else if (op < 0x80)
			driver_publish(g, 0, (uint16_t)take(in, 1));
		else if (op < 0x90 && g->mmio.dev->type == VIRTIO_ID_MEM)
			add_hotplug_request(g, in);
		else if (op < 0x90)
			add_request(g, in);
		else if (op < 0xa0)
			driver_start(g, features);
		else if (op < 0xb0)
			set_up_queue(g, in, features);
		else if (op < 0xc0)
			host_asks(g, in);
		else
			driver_kick(g, 0);
	}
	driver_run(g);
}

static void check_disk(int fd, bool read_only)
{
	static const uint8_t zero[DISK];
	uint8_t now[DISK];

	must(lseek(fd, 0, SEEK_END) == DISK, "the disk keeps its size");
	if (!read_only)
		return;
	must(pread(fd, now, sizeof(now), 0) == DISK && memcmp(now, zero, DISK) == 0,
	     "a read-only disk keeps its contents");
}

#define PMEM_AT GIB(4)

static struct virtio_device *new_pmem(struct driver *g, int disk, bool read_only)
{
	const struct pmem_setup s = {
		.id = "fuzz",
		.fd = dup(disk),
		.start = PMEM_AT,
		.len = MIB(2),
		.file_len = DISK,
		.read_only = read_only,
	};

	must(gmem_add_file(&g->mem, PMEM_AT, disk, DISK, read_only, NULL) == 0, "memory");
	return pmem_create(&s, &g->env, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct program in = {data, data + size};
	uint8_t how = (uint8_t)take(&in, 1);
	struct block_config cfg = {
		.id = "fuzz",
		.read_only = how & 2,
		.writeback = how & 4,
		.async = how & 16,
		.queues = how & 32 ? 4 : 1,
	};
	bool block = !(how & 1);
	struct virtio_device *d;
	uint64_t features;
	struct driver g;
	int disk;

	log_set_level(LOG_OFF);
	driver_init(&g);
	disk = new_disk();
	cfg.fd = dup(disk);
	if (!block)
		close(cfg.fd);
	if (block)
		d = block_create(&cfg, &g.env, NULL);
	else if (how & 64)
		d = new_hotplug(&g);
	else if (how & 4)
		d = new_pmem(&g, disk, cfg.read_only);
	else
		d = rng_create(&g.env, NULL);
	driver_attach(&g, d);
	features = VIRTIO_F_VERSION_1 | d->required | (driver_offered(&g) & ~(take(&in, 1) << 26));
	driver_place_queue(&g, 0, DRIVER_QUEUE_SIZE);
	if (how & 8)
		driver_negotiate(&g, features);
	else
		driver_start(&g, features);

	run(&g, &in, features);

	if (d->type == VIRTIO_ID_MEM)
		check_hotplug(&g);
	must(!(driver_read(&g, VIRTIO_MMIO_STATUS) & ~0xcfu), "the status has known bits only");
	driver_finish(&g);
	check_disk(disk, cfg.read_only);
	close(disk);
	return 0;
}
