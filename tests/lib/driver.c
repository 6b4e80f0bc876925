/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/driver.h"

#include <assert.h>
#include <poll.h>
#include <sys/eventfd.h>

#include "vmm/base/fd.h"

/* Each queue has a stretch of low memory for its three rings. */
#define RING_STRETCH KIB(16)
#define RING_AVAIL   KIB(8)
#define RING_USED    KIB(12)

void driver_init(struct driver *g)
{
	const struct gmem_region region[] = {
		{.gpa = 0, .len = DRIVER_LOW_END},
		{.gpa = DRIVER_HIGH, .len = DRIVER_HIGH_END - DRIVER_HIGH},
	};
	struct err e;
	int r;

	*g = (struct driver){.next_alloc = DRIVER_HIGH};
	r = gmem_init(&g->mem, region, ARRAY_SIZE(region), GMEM_ANON, false, &e);
	assert(r == 0);
	r = loop_init(&g->loop, &e);
	assert(r == 0);
	pthread_mutex_init(&g->lock, NULL);
	g->irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert(g->irq_fd >= 0);
	g->env = (struct virtio_env){
		.mem = &g->mem,
		.loop = &g->loop,
		.lock = &g->lock,
		.irq_fd = g->irq_fd,
	};
}

void driver_attach(struct driver *g, struct virtio_device *d)
{
	struct err e;
	int r;

	assert(d);
	r = virtio_mmio_init(&g->mmio, d, &e);
	assert(r == 0);
	memset(g->page, 0, sizeof(g->page));
	virtio_mmio_map(&g->mmio, g->page);
}

/* Whether the page is to show the same as the window. */
static bool is_shown(const struct driver *g, uint64_t off, unsigned len)
{
	if (off < VIRTIO_MMIO_CONFIG)
		return len == 4 && off % 4 == 0;
	off -= VIRTIO_MMIO_CONFIG;
	return range_within(off, len, g->mmio.dev->config_len) ||
	       (off >= g->mmio.dev->config_len &&
		range_within(off, len, VIRTIO_MMIO_PAGE - VIRTIO_MMIO_CONFIG));
}

void driver_finish(struct driver *g)
{
	virtio_mmio_finish(&g->mmio);
	fd_close(&g->irq_fd);
	loop_finish(&g->loop);
	gmem_finish(&g->mem);
	pthread_mutex_destroy(&g->lock);
}

void driver_read_bytes(struct driver *g, uint64_t off, void *data, unsigned len)
{
	pthread_mutex_lock(&g->lock);
	virtio_mmio_read(&g->mmio, off, data, len);
	assert(!is_shown(g, off, len) || memcmp(g->page + off, data, len) == 0);
	pthread_mutex_unlock(&g->lock);
}

void driver_write_bytes(struct driver *g, uint64_t off, const void *data, unsigned len)
{
	pthread_mutex_lock(&g->lock);
	virtio_mmio_write(&g->mmio, off, data, len);
	pthread_mutex_unlock(&g->lock);
}

uint32_t driver_read(struct driver *g, uint64_t reg)
{
	uint32_t v = 0xdeadbeef;

	driver_read_bytes(g, reg, &v, sizeof(v));
	return v;
}

void driver_write(struct driver *g, uint64_t reg, uint32_t v)
{
	driver_write_bytes(g, reg, &v, sizeof(v));
}

uint64_t driver_offered(struct driver *g)
{
	uint64_t f;

	driver_write(g, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	f = (uint64_t)driver_read(g, VIRTIO_MMIO_DEVICE_FEATURES) << 32;
	driver_write(g, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
	return f | driver_read(g, VIRTIO_MMIO_DEVICE_FEATURES);
}

/* What every driver does: read the status, write it back with one more bit. */
static uint32_t add_status(struct driver *g, uint32_t bit)
{
	driver_write(g, VIRTIO_MMIO_STATUS, driver_read(g, VIRTIO_MMIO_STATUS) | bit);
	return driver_read(g, VIRTIO_MMIO_STATUS);
}

bool driver_negotiate(struct driver *g, uint64_t features)
{
	driver_write(g, VIRTIO_MMIO_STATUS, 0);
	add_status(g, VIRTIO_S_ACKNOWLEDGE);
	add_status(g, VIRTIO_S_DRIVER);
	driver_write(g, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	driver_write(g, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)features);
	driver_write(g, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	driver_write(g, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32));
	g->features = features;
	return add_status(g, VIRTIO_S_FEATURES_OK) & VIRTIO_S_FEATURES_OK;
}

void driver_place_queue(struct driver *g, unsigned queue, uint16_t size)
{
	gpa_t base = RING_STRETCH * queue;

	memset(driver_ptr(g, base, RING_STRETCH), 0, RING_STRETCH);
	g->queue[queue] = (struct driver_queue){
		.size = size,
		.desc = base,
		.avail = base + RING_AVAIL,
		.used = base + RING_USED,
	};
}

static void set_address(struct driver *g, uint64_t low_reg, gpa_t gpa)
{
	driver_write(g, low_reg, (uint32_t)gpa);
	driver_write(g, low_reg + 4, (uint32_t)(gpa >> 32));
}

bool driver_set_queue(struct driver *g, unsigned queue)
{
	const struct driver_queue *q = &g->queue[queue];

	driver_write(g, VIRTIO_MMIO_QUEUE_SEL, queue);
	driver_write(g, VIRTIO_MMIO_QUEUE_NUM, q->size);
	set_address(g, VIRTIO_MMIO_QUEUE_DESC_LOW, q->desc);
	set_address(g, VIRTIO_MMIO_QUEUE_DRIVER_LOW, q->avail);
	set_address(g, VIRTIO_MMIO_QUEUE_DEVICE_LOW, q->used);
	driver_write(g, VIRTIO_MMIO_QUEUE_READY, 1);
	return driver_read(g, VIRTIO_MMIO_QUEUE_READY) == 1;
}

bool driver_ok(struct driver *g)
{
	uint32_t s = add_status(g, VIRTIO_S_DRIVER_OK);

	return s & VIRTIO_S_DRIVER_OK && !(s & VIRTIO_S_NEEDS_RESET);
}

void driver_start(struct driver *g, uint64_t features)
{
	bool ok = driver_negotiate(g, features);

	assert(ok);
	for (unsigned i = 0; i < g->mmio.dev->num_queues; i++) {
		driver_place_queue(g, i, DRIVER_QUEUE_SIZE);
		ok = driver_set_queue(g, i);
		assert(ok);
	}
	ok = driver_ok(g);
	assert(ok);
}

gpa_t driver_alloc(struct driver *g, uint32_t len)
{
	gpa_t gpa = g->next_alloc;

	g->next_alloc = align_up(gpa + len, 16);
	assert(g->next_alloc <= DRIVER_HIGH_END);
	return gpa;
}

void *driver_ptr(struct driver *g, gpa_t gpa, uint64_t len)
{
	void *p = gmem_at(&g->mem, gpa, len);

	assert(p);
	return p;
}

void driver_desc(struct driver *g, unsigned queue, uint16_t i, struct virtq_desc d)
{
	gpa_t at = g->queue[queue].desc + sizeof(d) * i;

	memcpy(driver_ptr(g, at, sizeof(d)), &d, sizeof(d));
}

static uint16_t *avail_word(struct driver *g, unsigned queue, unsigned i)
{
	return driver_ptr(g, g->queue[queue].avail + 2u * i, 2);
}

void driver_publish(struct driver *g, unsigned queue, uint16_t head)
{
	struct driver_queue *q = &g->queue[queue];

	*avail_word(g, queue, 2u + q->avail_idx % q->size) = head;
	q->avail_idx++;
	__atomic_store_n(avail_word(g, queue, 1), q->avail_idx, __ATOMIC_SEQ_CST);
}

void driver_used_event(struct driver *g, unsigned queue, uint16_t idx)
{
	*avail_word(g, queue, 2u + g->queue[queue].size) = idx;
}

bool driver_wants_kick(struct driver *g, unsigned queue)
{
	const struct driver_queue *q = &g->queue[queue];
	const uint16_t *event = driver_ptr(g, q->used + 4 + 8u * q->size, 2);

	return *event == (uint16_t)(q->avail_idx - 1);
}

static struct virtq_desc make_desc(const struct driver_buf *buf, uint16_t next, bool last)
{
	unsigned flags = (buf->write ? VIRTQ_DESC_F_WRITE : 0) | (last ? 0 : VIRTQ_DESC_F_NEXT);

	return (struct virtq_desc){buf->gpa, buf->len, (uint16_t)flags, last ? 0 : next};
}

uint16_t driver_add(struct driver *g, unsigned queue, const struct driver_buf *buf, unsigned n)
{
	struct driver_queue *q = &g->queue[queue];
	uint16_t head = q->next_desc % q->size;

	for (unsigned i = 0; i < n; i++) {
		uint16_t at = q->next_desc++ % q->size;

		driver_desc(g, queue, at, make_desc(&buf[i], q->next_desc % q->size, i + 1 == n));
	}
	driver_publish(g, queue, head);
	return head;
}

uint16_t driver_add_indirect(struct driver *g, unsigned queue, const struct driver_buf *buf,
			     unsigned n, gpa_t *table)
{
	struct driver_queue *q = &g->queue[queue];
	uint32_t len = n * (uint32_t)sizeof(struct virtq_desc);
	gpa_t at = driver_alloc(g, len);
	uint16_t head = q->next_desc++ % q->size;

	for (unsigned i = 0; i < n; i++) {
		struct virtq_desc d = make_desc(&buf[i], (uint16_t)(i + 1), i + 1 == n);

		memcpy(driver_ptr(g, at + sizeof(d) * i, sizeof(d)), &d, sizeof(d));
	}
	driver_desc(g, queue, head, (struct virtq_desc){at, len, VIRTQ_DESC_F_INDIRECT, 0});
	driver_publish(g, queue, head);
	if (table)
		*table = at;
	return head;
}

void driver_run(struct driver *g)
{
	do {
		int r = loop_run_once(&g->loop, 0);

		assert(r == 0);
	} while (poll(&(struct pollfd){.fd = g->loop.epfd, .events = POLLIN}, 1, 0) > 0);
}

void driver_kick(struct driver *g, unsigned queue)
{
	driver_write(g, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
	driver_run(g);
}

bool driver_used(struct driver *g, unsigned queue, uint32_t *head, uint32_t *len)
{
	struct driver_queue *q = &g->queue[queue];
	const uint16_t *idx = driver_ptr(g, q->used + 2, 2);
	struct virtq_used_elem elem;

	if (q->used_idx == __atomic_load_n(idx, __ATOMIC_ACQUIRE))
		return false;
	memcpy(&elem, driver_ptr(g, q->used + 4 + 8u * (q->used_idx % q->size), sizeof(elem)),
	       sizeof(elem));
	q->used_idx++;
	if (head)
		*head = elem.id;
	if (len)
		*len = elem.len;
	return true;
}

bool driver_irq(struct driver *g)
{
	driver_write(g, VIRTIO_MMIO_INTERRUPT_ACK, driver_read(g, VIRTIO_MMIO_INTERRUPT_STATUS));
	return fd_event_drain(g->irq_fd);
}

bool driver_broken(struct driver *g)
{
	return driver_read(g, VIRTIO_MMIO_STATUS) & VIRTIO_S_NEEDS_RESET;
}
