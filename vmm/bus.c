/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/bus.h"

#include <assert.h>
#include <string.h>

void bus_init(struct bus *b)
{
	b->count = 0;
}

void bus_finish(struct bus *b)
{
	for (unsigned i = 0; i < b->count; i++)
		pthread_mutex_destroy(&b->slot[i].lock);
	b->count = 0;
}

pthread_mutex_t *bus_add(struct bus *b, uint64_t base, uint64_t len, const struct bus_ops *ops,
			 void *dev)
{
	struct bus_slot *s;

	assert(b->count < BUS_SLOTS_MAX && len > 0);
	for (unsigned i = 0; i < b->count; i++)
		assert(base + len <= b->slot[i].base || b->slot[i].base + b->slot[i].len <= base);
	s = &b->slot[b->count++];
	*s = (struct bus_slot){.base = base, .len = len, .ops = ops, .dev = dev};
	pthread_mutex_init(&s->lock, NULL);
	return &s->lock;
}

/* The slot that holds all of the access, or NULL. */
static struct bus_slot *find(struct bus *b, uint64_t addr, unsigned len)
{
	for (unsigned i = 0; i < b->count; i++) {
		struct bus_slot *s = &b->slot[i];

		if (addr >= s->base && range_within(addr - s->base, len, s->len))
			return s;
	}
	return NULL;
}

void bus_read(struct bus *b, uint64_t addr, void *data, unsigned len)
{
	struct bus_slot *s = find(b, addr, len);

	if (!s) {
		memset(data, 0xff, len);
		return;
	}
	pthread_mutex_lock(&s->lock);
	s->ops->read(s->dev, addr - s->base, data, len);
	pthread_mutex_unlock(&s->lock);
}

void bus_write(struct bus *b, uint64_t addr, const void *data, unsigned len)
{
	struct bus_slot *s = find(b, addr, len);

	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->ops->write(s->dev, addr - s->base, data, len);
	pthread_mutex_unlock(&s->lock);
}
