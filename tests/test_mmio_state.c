/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/mmio_state.h"

#include <criterion/criterion.h>
#include <errno.h>

#include "tests/lib/driver.h"
#include "virtio/rng.h"
#include "vmm/base/fd.h"

/* An entropy device that has run; its state; and a new one over the same memory. */
struct fixture {
	struct driver g;
	struct virtio_mmio_state s;
	struct virtio_mmio again;
	int irq_fd;
};

static void setup(struct fixture *f, bool used)
{
	struct err e = {0};
	struct virtio_env env;

	driver_init(&f->g);
	driver_attach(&f->g, rng_create(&f->g.env, NULL));
	driver_start(&f->g, VIRTIO_FEATURES_COMMON);
	if (used) {
		driver_add(&f->g, 0, (struct driver_buf[]){{driver_alloc(&f->g, 64), 64, true}}, 1);
		driver_kick(&f->g, 0);
		cr_assert(driver_used(&f->g, 0, NULL, NULL));
	}
	cr_assert_eq(virtio_mmio_save(&f->s, &f->g.mmio, &e), 0, "%s", e.msg);
	env = f->g.env;
	cr_assert_eq(virtio_mmio_init(&f->again, rng_create(&env, NULL), &e), 0);
}

static void teardown(struct fixture *f)
{
	virtio_mmio_finish(&f->again);
	driver_finish(&f->g);
}

/* Puts the second device in the place of the first. */
static void swap(struct fixture *f)
{
	virtio_mmio_finish(&f->g.mmio);
	driver_attach(&f->g, rng_create(&f->g.env, NULL));
}

Test(mmio_state, a_device_goes_on_where_it_was)
{
	struct fixture f;
	struct err e = {0};
	uint32_t len;

	setup(&f, true);
	swap(&f);
	cr_assert_eq(virtio_mmio_restore(&f.g.mmio, &f.s, &e), 0, "%s", e.msg);
	cr_expect_eq(driver_read(&f.g, VIRTIO_MMIO_STATUS) & VIRTIO_S_DRIVER_OK,
		     VIRTIO_S_DRIVER_OK);
	driver_irq(&f.g);
	driver_used_event(&f.g, 0, 1);
	driver_add(&f.g, 0, (struct driver_buf[]){{driver_alloc(&f.g, 32), 32, true}}, 1);
	driver_kick(&f.g, 0);
	cr_expect(driver_used(&f.g, 0, NULL, &len));
	cr_expect_eq(len, 32);
	cr_expect(driver_irq(&f.g));
	teardown(&f);
}

Test(mmio_state, a_notification_that_was_not_served_is_not_lost)
{
	struct fixture f;
	struct err e = {0};

	setup(&f, true);
	/* Published, notified, and the process that would have served it is gone. */
	driver_add(&f.g, 0, (struct driver_buf[]){{driver_alloc(&f.g, 32), 32, true}}, 1);
	swap(&f);
	cr_assert_eq(virtio_mmio_restore(&f.g.mmio, &f.s, &e), 0, "%s", e.msg);
	driver_run(&f.g);
	cr_expect_not(driver_used(&f.g, 0, NULL, NULL));
	virtio_mmio_kick(&f.g.mmio);
	driver_run(&f.g);
	cr_expect(driver_used(&f.g, 0, NULL, NULL));
	teardown(&f);
}

Test(mmio_state, an_interrupt_that_is_due_is_raised_again)
{
	struct fixture f;

	setup(&f, true);
	cr_expect_eq(f.s.device.interrupt_status, VIRTIO_IRQ_QUEUE);
	swap(&f);
	fd_event_drain(f.g.irq_fd);
	cr_assert_eq(virtio_mmio_restore(&f.g.mmio, &f.s, NULL), 0);
	virtio_mmio_kick(&f.g.mmio);
	cr_expect(fd_event_drain(f.g.irq_fd));
	teardown(&f);
}

Test(mmio_state, a_device_without_a_driver)
{
	struct fixture f;
	struct err e = {0};

	setup(&f, false);
	driver_write(&f.g, VIRTIO_MMIO_STATUS, 0);
	cr_assert_eq(virtio_mmio_save(&f.s, &f.g.mmio, &e), 0);
	swap(&f);
	cr_assert_eq(virtio_mmio_restore(&f.g.mmio, &f.s, &e), 0, "%s", e.msg);
	virtio_mmio_kick(&f.g.mmio);
	driver_run(&f.g);
	driver_start(&f.g, VIRTIO_FEATURES_COMMON);
	driver_add(&f.g, 0, (struct driver_buf[]){{driver_alloc(&f.g, 64), 64, true}}, 1);
	driver_kick(&f.g, 0);
	cr_expect(driver_used(&f.g, 0, NULL, NULL));
	teardown(&f);
}

Test(mmio_state, a_device_that_waits_for_a_reset)
{
	struct fixture f;
	struct err e = {0};

	setup(&f, false);
	driver_publish(&f.g, 0, 999);
	driver_kick(&f.g, 0);
	cr_assert(driver_broken(&f.g));
	cr_assert_eq(virtio_mmio_save(&f.s, &f.g.mmio, &e), 0, "%s", e.msg);
	swap(&f);
	cr_assert_eq(virtio_mmio_restore(&f.g.mmio, &f.s, &e), 0, "%s", e.msg);
	cr_expect(driver_broken(&f.g));
	teardown(&f);
}

#define REFUSED(name, text, statement)                                             \
	Test(mmio_state, refuses_##name)                                           \
	{                                                                          \
		struct fixture f;                                                  \
		struct err e = {0};                                                \
		struct virtio_mmio_state *s = &f.s;                                \
                                                                                   \
		setup(&f, true);                                                   \
		statement;                                                         \
		cr_expect_lt(virtio_mmio_restore(&f.again, &f.s, &e), 0);          \
		cr_expect(strstr(e.msg, text), "%s", e.msg);                       \
		cr_expect_eq(f.again.dev->state.status, 0, "nothing is in place"); \
		teardown(&f);                                                      \
	}

REFUSED(another_type, "type 1", s->type = 1)
REFUSED(another_number_of_queues, "2 queues", s->num_queues = 2)
REFUSED(a_feature_not_offered, "feature bit 5", s->device.driver_features |= 1 << 5)
REFUSED(no_version_1, "VERSION_1", s->device.driver_features &= ~VIRTIO_F_VERSION_1)
REFUSED(unknown_status, "status", s->device.status |= 0x100)
REFUSED(impossible_status, "no driver", s->device.status = VIRTIO_S_DRIVER_OK)
REFUSED(interrupt_status, "interrupt", s->device.interrupt_status = 8)
REFUSED(ring_outside, "queue 0: ring outside guest memory", s->queue[0].desc = MIB(64))
REFUSED(ring_wraps, "outside", s->queue[0].device = ~0ull - 3)
REFUSED(ring_alignment, "alignment", s->queue[0].desc |= 8)
REFUSED(queue_size, "entries", s->queue[0].size = 1024)
REFUSED(odd_queue_size, "entries", s->queue[0].size = 12)
REFUSED(ready_twice, "entries", s->queue[0].ready = 2)
REFUSED(ready_without_size, "alignment", s->queue[0].size = 0)
REFUSED(requests_in_flight, "in flight", s->queue[0].next_used--)
REFUSED(another_configuration_space, "has changed", s->config_len = 8)

Test(mmio_state, indices_far_off_only_break_the_guests_ring)
{
	struct fixture f;
	struct err e = {0};

	setup(&f, true);
	swap(&f);
	f.s.queue[0].next_avail = f.s.queue[0].next_used = 30000;
	cr_assert_eq(virtio_mmio_restore(&f.g.mmio, &f.s, &e), 0);
	virtio_mmio_kick(&f.g.mmio);
	driver_run(&f.g);
	cr_expect(driver_broken(&f.g));
	teardown(&f);
}
