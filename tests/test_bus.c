/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/bus.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <string.h>

/* Remembers the last access and whether the slot's lock was held. */
struct probe {
	pthread_mutex_t *lock;
	uint64_t off;
	unsigned len, reads, writes;
	uint8_t data[8];
	bool unlocked;
};

static void note(struct probe *p, uint64_t off, unsigned len)
{
	p->off = off;
	p->len = len;
	if (pthread_mutex_trylock(p->lock) == 0) {
		p->unlocked = true;
		pthread_mutex_unlock(p->lock);
	}
}

static void probe_read(void *dev, uint64_t off, void *data, unsigned len)
{
	struct probe *p = dev;

	note(p, off, len);
	p->reads++;
	memset(data, 0x42, len);
}

static void probe_write(void *dev, uint64_t off, const void *data, unsigned len)
{
	struct probe *p = dev;

	note(p, off, len);
	p->writes++;
	memcpy(p->data, data, len);
}

static const struct bus_ops probe_ops = {.read = probe_read, .write = probe_write};

Test(bus, unclaimed_reads_ones_and_ignores_writes)
{
	struct bus b;

	bus_init(&b);
	for (unsigned len = 1; len <= 8; len++) {
		uint8_t data[9] = {0};

		bus_read(&b, 0x80, data, len);
		for (unsigned i = 0; i < 9; i++)
			cr_assert_eq(data[i], i < len ? 0xff : 0);
		bus_write(&b, 0x80, data, len);
	}
	bus_finish(&b);
}

Test(bus, dispatches_with_the_lock_of_the_slot)
{
	struct probe a = {0}, c = {0};
	uint32_t v = 0x01020304;
	struct bus b;

	bus_init(&b);
	a.lock = bus_add(&b, 0x100, 0x10, &probe_ops, &a);
	c.lock = bus_add(&b, 0x110, 0x10, &probe_ops, &c);
	cr_assert_neq(a.lock, c.lock);
	bus_write(&b, 0x10c, &v, 4);
	cr_assert_eq(a.writes, 1);
	cr_assert_eq(a.off, 0xc);
	cr_assert_eq(memcmp(a.data, &v, 4), 0);
	bus_read(&b, 0x110, &v, 2);
	cr_assert_eq(c.reads, 1);
	cr_assert_eq(c.off, 0);
	cr_assert_eq(c.len, 2);
	cr_assert_eq(v & 0xffff, 0x4242);
	cr_assert_not(a.unlocked);
	cr_assert_not(c.unlocked);
	cr_assert_eq(pthread_mutex_trylock(a.lock), 0, "released afterwards");
	pthread_mutex_unlock(a.lock);
	bus_finish(&b);
}

/* An access is a device's only when all of it is. */
Test(bus, an_access_across_the_edge_is_nobodys)
{
	struct probe a = {0}, c = {0};
	uint64_t v = 0;
	struct bus b;

	bus_init(&b);
	a.lock = bus_add(&b, 0x100, 0x10, &probe_ops, &a);
	c.lock = bus_add(&b, 0x110, 0x10, &probe_ops, &c);
	bus_read(&b, 0x10e, &v, 4);
	cr_assert_eq(v, 0xffffffffu);
	bus_write(&b, 0x10f, &v, 2);
	bus_read(&b, 0xfe, &v, 4);
	bus_read(&b, 0x11d, &v, 4);
	cr_assert_eq(a.reads + a.writes + c.reads + c.writes, 0);
	bus_read(&b, 0x10c, &v, 4);
	cr_assert_eq(a.reads, 1);
	bus_finish(&b);
}

Test(bus, addresses_at_the_ends_of_the_range)
{
	struct probe a = {0};
	uint64_t v = 0;
	struct bus b;

	bus_init(&b);
	a.lock = bus_add(&b, 0, 8, &probe_ops, &a);
	bus_read(&b, UINT64_MAX, &v, 8);
	cr_assert_eq(v, UINT64_MAX);
	bus_read(&b, UINT64_MAX - 3, &v, 8);
	cr_assert_eq(a.reads, 0);
	bus_read(&b, 0, &v, 8);
	cr_assert_eq(a.reads, 1);
	bus_finish(&b);
}

Test(bus, overlap_is_our_bug, .signal = SIGABRT)
{
	struct probe a = {0};
	struct bus b;

	bus_init(&b);
	bus_add(&b, 0x100, 0x10, &probe_ops, &a);
	bus_add(&b, 0x10f, 0x10, &probe_ops, &a);
}

Test(bus, too_many_slots_are_our_bug, .signal = SIGABRT)
{
	struct probe a = {0};
	struct bus b;

	bus_init(&b);
	for (unsigned i = 0; i <= BUS_SLOTS_MAX; i++)
		bus_add(&b, i * 16, 16, &probe_ops, &a);
}

struct hammer {
	struct bus *bus;
	uint64_t addr;
};

static void *hammer(void *arg)
{
	struct hammer *h = arg;
	uint8_t v = 0;

	for (unsigned i = 0; i < 20000; i++)
		bus_write(h->bus, h->addr, &v, 1);
	return NULL;
}

/* The counter of a device is plain: only the slot's lock keeps it right. */
Test(bus, slots_serialize_vcpus)
{
	struct probe a = {0};
	struct hammer h[4];
	pthread_t t[4];
	struct bus b;

	bus_init(&b);
	a.lock = bus_add(&b, 0x100, 4, &probe_ops, &a);
	for (unsigned i = 0; i < 4; i++) {
		h[i] = (struct hammer){.bus = &b, .addr = 0x100 + i};
		pthread_create(&t[i], NULL, hammer, &h[i]);
	}
	for (unsigned i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	cr_assert_eq(a.writes, 80000);
	bus_finish(&b);
}
