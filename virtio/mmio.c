/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/mmio.h"

#include <assert.h>
#include <sys/eventfd.h>

#include "vmm/base/fd.h"

#define MAGIC	0x74726976u /* "virt" */
#define VERSION 2u
#define VENDOR	0u
#define NO_SHM	UINT32_MAX /* section 4.2.2: what a region that does not exist reads as */

static struct virtq *selected_queue(const struct virtio_device *d)
{
	uint32_t i = d->state.queue_sel;

	return i < d->num_queues ? &d->queue[i] : NULL;
}

/* The half of a 64-bit feature set that `sel` names. */
static uint32_t feature_word(uint64_t features, uint32_t sel)
{
	return sel < 2 ? (uint32_t)(features >> (32 * sel)) : 0;
}

static void set_low(uint64_t *to, uint32_t v)
{
	*to = (*to & ~(uint64_t)UINT32_MAX) | v;
}

static void set_high(uint64_t *to, uint32_t v)
{
	*to = (*to & UINT32_MAX) | (uint64_t)v << 32;
}

static uint32_t read_register(const struct virtio_device *d, uint64_t off)
{
	const struct virtio_device_state *s = &d->state;
	const struct virtq *q = selected_queue(d);

	switch (off) {
	case VIRTIO_MMIO_MAGIC:
		return MAGIC;
	case VIRTIO_MMIO_VERSION:
		return VERSION;
	case VIRTIO_MMIO_DEVICE_ID:
		return d->type;
	case VIRTIO_MMIO_VENDOR_ID:
		return VENDOR;
	case VIRTIO_MMIO_DEVICE_FEATURES:
		return feature_word(d->features, s->device_features_sel);
	case VIRTIO_MMIO_QUEUE_NUM_MAX:
		return q ? q->max : 0;
	case VIRTIO_MMIO_QUEUE_READY:
		return q ? q->state.ready : 0;
	case VIRTIO_MMIO_INTERRUPT_STATUS:
		return s->interrupt_status;
	case VIRTIO_MMIO_STATUS:
		return s->status;
	case VIRTIO_MMIO_SHM_LEN_LOW:
	case VIRTIO_MMIO_SHM_LEN_HIGH:
	case VIRTIO_MMIO_SHM_BASE_LOW:
	case VIRTIO_MMIO_SHM_BASE_HIGH:
		return NO_SHM;
	case VIRTIO_MMIO_CONFIG_GENERATION:
		return s->config_generation;
	default:
		return 0;
	}
}

void virtio_mmio_show(struct virtio_device *d, uint64_t off)
{
	if (d->window)
		__atomic_store_n((uint32_t *)(void *)(d->window + off), read_register(d, off),
				 __ATOMIC_RELEASE);
}

void virtio_mmio_show_all(struct virtio_device *d)
{
	static const uint16_t shown[] = {
		VIRTIO_MMIO_MAGIC,	   VIRTIO_MMIO_VERSION,		  VIRTIO_MMIO_DEVICE_ID,
		VIRTIO_MMIO_VENDOR_ID,	   VIRTIO_MMIO_DEVICE_FEATURES,	  VIRTIO_MMIO_QUEUE_NUM_MAX,
		VIRTIO_MMIO_QUEUE_READY,   VIRTIO_MMIO_INTERRUPT_STATUS,  VIRTIO_MMIO_STATUS,
		VIRTIO_MMIO_SHM_LEN_LOW,   VIRTIO_MMIO_SHM_LEN_HIGH,	  VIRTIO_MMIO_SHM_BASE_LOW,
		VIRTIO_MMIO_SHM_BASE_HIGH, VIRTIO_MMIO_CONFIG_GENERATION,
	};

	if (!d->window)
		return;
	if (d->config_len)
		memcpy(d->window + VIRTIO_MMIO_CONFIG, d->config, d->config_len);
	for (unsigned i = 0; i < ARRAY_SIZE(shown); i++)
		virtio_mmio_show(d, shown[i]);
}

void virtio_mmio_map(struct virtio_mmio *t, uint8_t *page)
{
	assert(t->dev->config_len <= VIRTIO_MMIO_PAGE - VIRTIO_MMIO_CONFIG);
	t->dev->window = page;
	virtio_mmio_show_all(t->dev);
}

static void reset(struct virtio_device *d)
{
	/* The generation goes on: a driver that compares it across a reset sees a change. */
	uint32_t generation = d->state.config_generation;

	if (d->ops->reset)
		d->ops->reset(d);
	for (unsigned i = 0; i < d->num_queues; i++)
		virtq_reset(&d->queue[i]);
	d->state = (struct virtio_device_state){.config_generation = generation};
}

static bool features_acceptable(const struct virtio_device *d)
{
	uint64_t f = d->state.driver_features;

	return !(f & ~d->features) && f & VIRTIO_F_VERSION_1 && !(d->required & ~f);
}

static void go_live(struct virtio_device *d)
{
	int r = 0;

	for (unsigned i = 0; i < d->num_queues && r == 0; i++)
		if (d->queue[i].state.ready)
			r = virtq_start(&d->queue[i], d->env.mem, d->state.driver_features);
	if (r == 0 && d->ops->activate)
		r = d->ops->activate(d);
	if (r < 0)
		virtio_needs_reset(d, r);
}

/* The status machine: the driver's bits in their order, and which must be there before. */
static const struct {
	uint32_t bit, needs;
} status_steps[] = {
	{VIRTIO_S_ACKNOWLEDGE, 0},
	{VIRTIO_S_DRIVER, VIRTIO_S_ACKNOWLEDGE},
	{VIRTIO_S_FEATURES_OK, VIRTIO_S_DRIVER},
	{VIRTIO_S_DRIVER_OK, VIRTIO_S_FEATURES_OK},
	{VIRTIO_S_FAILED, 0},
};

static void set_status(struct virtio_device *d, uint32_t v)
{
	uint32_t *status = &d->state.status;
	bool was_live = *status & VIRTIO_S_DRIVER_OK;

	if (v == 0) {
		reset(d);
		return;
	}
	if (*status & VIRTIO_S_FAILED || *status & ~(v | VIRTIO_S_NEEDS_RESET))
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(status_steps); i++) {
		uint32_t bit = status_steps[i].bit, needs = status_steps[i].needs;

		if (!(v & bit) || (*status & needs) != needs)
			continue;
		if (bit == VIRTIO_S_FEATURES_OK && !features_acceptable(d))
			continue;
		*status |= bit;
	}
	if (!was_live && virtio_active(d))
		go_live(d);
}

static void set_driver_features(struct virtio_device_state *s, uint32_t v)
{
	if ((s->status & (VIRTIO_S_DRIVER | VIRTIO_S_FEATURES_OK)) != VIRTIO_S_DRIVER)
		return;
	if (s->driver_features_sel == 0)
		set_low(&s->driver_features, v);
	else if (s->driver_features_sel == 1)
		set_high(&s->driver_features, v);
}

static void write_queue_register(struct virtio_device *d, uint64_t off, uint32_t v)
{
	const uint32_t mask = VIRTIO_S_FEATURES_OK | VIRTIO_S_DRIVER_OK | VIRTIO_S_FAILED;
	struct virtq *q = selected_queue(d);

	if (!q || (d->state.status & mask) != VIRTIO_S_FEATURES_OK)
		return;
	if (off == VIRTIO_MMIO_QUEUE_READY)
		q->state.ready = v == 1 && virtq_check(q, d->env.mem) == 0;
	if (q->state.ready)
		return;
	switch (off) {
	case VIRTIO_MMIO_QUEUE_NUM: /* virtq_check() refuses what is no power of two */
		q->state.size = v <= q->max ? (uint16_t)v : 0;
		break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
		set_low(&q->state.desc, v);
		break;
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
		set_high(&q->state.desc, v);
		break;
	case VIRTIO_MMIO_QUEUE_DRIVER_LOW:
		set_low(&q->state.driver, v);
		break;
	case VIRTIO_MMIO_QUEUE_DRIVER_HIGH:
		set_high(&q->state.driver, v);
		break;
	case VIRTIO_MMIO_QUEUE_DEVICE_LOW:
		set_low(&q->state.device, v);
		break;
	case VIRTIO_MMIO_QUEUE_DEVICE_HIGH:
		set_high(&q->state.device, v);
		break;
	default:
		break;
	}
}

/*
 * Linux notifies a queue that it has prepared (the balloon's statistics) before it sets DRIVER_OK,
 * and not again: such a notification counts from then on.
 */
static void repeat_early(struct virtio_mmio *t)
{
	for (unsigned i = 0; i < t->dev->num_queues; i++)
		if (t->early & 1u << i && virtio_active(t->dev))
			fd_event_signal(t->kick_fd[i]);
	if (virtio_active(t->dev) || t->dev->state.status == 0)
		t->early = 0;
}

static void write_register(struct virtio_mmio *t, uint64_t off, uint32_t v)
{
	struct virtio_device *d = t->dev;

	switch (off) {
	case VIRTIO_MMIO_QUEUE_NOTIFY:
		if (v < d->num_queues)
			fd_event_signal(t->kick_fd[v]);
		break;
	case VIRTIO_MMIO_INTERRUPT_ACK:
		d->state.interrupt_status &= ~v;
		break;
	case VIRTIO_MMIO_STATUS:
		set_status(d, v);
		repeat_early(t);
		break;
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
		d->state.device_features_sel = v;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
		d->state.driver_features_sel = v;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES:
		set_driver_features(&d->state, v);
		break;
	case VIRTIO_MMIO_QUEUE_SEL:
		d->state.queue_sel = v;
		break;
	default:
		write_queue_register(d, off, v);
	}
}

void virtio_mmio_read(struct virtio_mmio *t, uint64_t off, void *data, unsigned len)
{
	const struct virtio_device *d = t->dev;

	memset(data, 0, len);
	if (off < VIRTIO_MMIO_CONFIG) {
		uint32_t v = read_register(d, off);

		if (len == sizeof(v))
			memcpy(data, &v, sizeof(v));
	} else if (range_within(off - VIRTIO_MMIO_CONFIG, len, d->config_len)) {
		memcpy(data, (const uint8_t *)d->config + (off - VIRTIO_MMIO_CONFIG), len);
	}
}

void virtio_mmio_write(struct virtio_mmio *t, uint64_t off, const void *data, unsigned len)
{
	struct virtio_device *d = t->dev;
	uint32_t v;

	if (off < VIRTIO_MMIO_CONFIG) {
		if (len != sizeof(v))
			return;
		memcpy(&v, data, sizeof(v));
		write_register(t, off, v);
		if (off == VIRTIO_MMIO_INTERRUPT_ACK) /* in each interrupt */
			virtio_mmio_show(d, VIRTIO_MMIO_INTERRUPT_STATUS);
		else if (off != VIRTIO_MMIO_QUEUE_NOTIFY)
			virtio_mmio_show_all(d);
	} else if (range_within(off - VIRTIO_MMIO_CONFIG, len, d->config_len) &&
		   d->state.status & VIRTIO_S_DRIVER && d->ops->config_write) {
		d->ops->config_write(d, (uint32_t)(off - VIRTIO_MMIO_CONFIG), data, len);
		virtio_mmio_show_all(d);
	}
}

static void kicked(struct loop_source *s, uint32_t events)
{
	struct virtio_mmio *t = s->arg;
	unsigned queue = (unsigned)(s - t->kick);

	(void)events;
	/* Edge-triggered: each signal is an event, whatever the counter says, so nobody reads it. */
	if (!virtio_active(t->dev) && t->dev->keeps_early)
		t->early |= 1u << queue;
	if (virtio_active(t->dev) && t->dev->ops->notify(t->dev, queue))
		fd_event_signal(s->fd);
}

/* Takes `fd`; -1: makes one. */
static int add_kick(struct virtio_mmio *t, unsigned queue, int fd, struct err *e)
{
	if (fd < 0)
		fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return err_sys(e, "%s: create an eventfd for queue %u", t->dev->name, queue);
	t->kick_fd[queue] = fd;
	t->kick[queue] = (struct loop_source){
		.fd = fd,
		.ready = kicked,
		.arg = t,
		.lock = t->dev->env.lock,
	};
	return loop_add(t->dev->env.loop, &t->kick[queue], EPOLLIN | EPOLLET, e);
}

int virtio_mmio_init(struct virtio_mmio *t, struct virtio_device *dev, struct err *e)
{
	return virtio_mmio_init_kicks(t, dev, NULL, 0, e);
}

int virtio_mmio_init_kicks(struct virtio_mmio *t, struct virtio_device *dev, int *kick,
			   unsigned count, struct err *e)
{
	assert(dev->num_queues <= VIRTIO_MMIO_QUEUES_MAX);
	*t = (struct virtio_mmio){.dev = dev};
	for (unsigned i = 0; i < VIRTIO_MMIO_QUEUES_MAX; i++)
		t->kick_fd[i] = -1;
	for (unsigned i = 0; i < dev->num_queues; i++) {
		int r = add_kick(t, i, i < count ? TAKE_FD(kick[i]) : -1, e);

		if (r < 0) {
			virtio_mmio_finish(t);
			return r;
		}
	}
	return 0;
}

void virtio_mmio_finish(struct virtio_mmio *t)
{
	if (!t->dev)
		return;
	for (unsigned i = 0; i < t->dev->num_queues; i++) {
		loop_del(t->dev->env.loop, &t->kick[i]);
		fd_close(&t->kick_fd[i]);
	}
	t->dev->ops->destroy(t->dev);
	t->dev = NULL;
}
