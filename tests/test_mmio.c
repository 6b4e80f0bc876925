/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>

#include "tests/lib/driver.h"
#include "vmm/base/fd.h"

#define ACK	    VIRTIO_S_ACKNOWLEDGE
#define DRIVER	    VIRTIO_S_DRIVER
#define FEATURES_OK VIRTIO_S_FEATURES_OK
#define DRIVER_OK   VIRTIO_S_DRIVER_OK
#define FAILED	    VIRTIO_S_FAILED
#define RUNNING	    (ACK | DRIVER | FEATURES_OK | DRIVER_OK)

#define FAKE_FEATURE (1ull << 3)
#define CONFIG_LEN   12u

/* A device that counts what the transport asks of it. */
static struct fake {
	struct virtio_device dev;
	struct virtq queue[2];
	uint8_t config[CONFIG_LEN];
	unsigned notified[2], activated, resets, destroyed;
	unsigned more; /* so many times "call again" */
	int activate_result;
	uint32_t written_off, written_len; /* of the last config_write */
} fake;

static bool fake_notify(struct virtio_device *d, unsigned queue)
{
	(void)d;
	fake.notified[queue]++;
	return fake.more && fake.more--;
}

static void fake_config_write(struct virtio_device *d, uint32_t off, const void *buf, uint32_t len)
{
	(void)d;
	memcpy(fake.config + off, buf, len);
	fake.written_off = off;
	fake.written_len = len;
}

static int fake_activate(struct virtio_device *d)
{
	(void)d;
	fake.activated++;
	return fake.activate_result;
}

static void fake_reset(struct virtio_device *d)
{
	(void)d;
	fake.resets++;
}

static void fake_destroy(struct virtio_device *d)
{
	(void)d;
	fake.destroyed++;
}

static const struct virtio_ops fake_ops = {
	.notify = fake_notify,
	.config_write = fake_config_write,
	.activate = fake_activate,
	.reset = fake_reset,
	.destroy = fake_destroy,
};

static const struct virtio_ops least_ops = {.notify = fake_notify, .destroy = fake_destroy};

static struct driver g;

static void start(void)
{
	driver_init(&g);
	fake = (struct fake){.config = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}};
	virtq_init(&fake.queue[0], 64);
	virtq_init(&fake.queue[1], 256);
	fake.dev = (struct virtio_device){
		.ops = &fake_ops,
		.type = VIRTIO_ID_ENTROPY,
		.name = "fake",
		.features = VIRTIO_FEATURES_COMMON | FAKE_FEATURE,
		.config = fake.config,
		.config_len = CONFIG_LEN,
		.queue = fake.queue,
		.num_queues = 2,
		.env = g.env,
	};
	driver_attach(&g, &fake.dev);
}

static void finish(void)
{
	driver_finish(&g);
}

TestSuite(mmio, .init = start, .fini = finish, .timeout = 30);

static uint32_t status(void)
{
	return driver_read(&g, VIRTIO_MMIO_STATUS);
}

static void set_status(uint32_t v)
{
	driver_write(&g, VIRTIO_MMIO_STATUS, v);
}

Test(mmio, identity)
{
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_MAGIC), 0x74726976);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_VERSION), 2);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_DEVICE_ID), 4);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_VENDOR_ID), 0);
	cr_assert_eq(driver_read(&g, 0x0fc), 0);
	cr_assert_eq(driver_read(&g, 0x0b0), UINT32_MAX, "no shared memory region");
	cr_assert_eq(driver_read(&g, 0x0b4), UINT32_MAX);
	driver_write(&g, VIRTIO_MMIO_MAGIC, 5);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_MAGIC), 0x74726976);
}

Test(mmio, feature_words)
{
	cr_assert_eq(driver_offered(&g), VIRTIO_FEATURES_COMMON | FAKE_FEATURE);
	for (uint32_t sel = 2; sel; sel <<= 1) {
		driver_write(&g, VIRTIO_MMIO_DEVICE_FEATURES_SEL, sel);
		cr_assert_eq(driver_read(&g, VIRTIO_MMIO_DEVICE_FEATURES), 0);
	}
	set_status(ACK);
	set_status(ACK | DRIVER);
	driver_write(&g, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	driver_write(&g, VIRTIO_MMIO_DRIVER_FEATURES, 1);
	driver_write(&g, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 33);
	driver_write(&g, VIRTIO_MMIO_DRIVER_FEATURES, UINT32_MAX);
	cr_assert_eq(fake.dev.state.driver_features, VIRTIO_F_VERSION_1);
}

Test(mmio, features_must_be_offered_and_modern)
{
	cr_assert_not(driver_negotiate(&g, VIRTIO_F_VERSION_1 | 1ull << 40));
	cr_assert_eq(status(), ACK | DRIVER);
	cr_assert_not(driver_negotiate(&g, VIRTIO_F_VERSION_1 | 1));
	cr_assert_not(driver_negotiate(&g, FAKE_FEATURE));
	cr_assert_not(driver_negotiate(&g, 0));
	cr_assert_not(driver_ok(&g), "not without FEATURES_OK");
	cr_assert_eq(fake.activated, 0);
	cr_assert(driver_negotiate(&g, VIRTIO_F_VERSION_1));
	cr_assert(driver_negotiate(&g, VIRTIO_F_VERSION_1 | FAKE_FEATURE));
	cr_assert(virtio_has_feature(&fake.dev, FAKE_FEATURE));
	cr_assert_not(virtio_has_feature(&fake.dev, VIRTIO_F_EVENT_IDX));
}

Test(mmio, features_are_writable_between_driver_and_features_ok)
{
	driver_write(&g, VIRTIO_MMIO_DRIVER_FEATURES, 8);
	set_status(ACK);
	driver_write(&g, VIRTIO_MMIO_DRIVER_FEATURES, 8);
	cr_assert_eq(fake.dev.state.driver_features, 0);
	driver_negotiate(&g, VIRTIO_F_VERSION_1);
	driver_write(&g, VIRTIO_MMIO_DRIVER_FEATURES, UINT32_MAX);
	cr_assert_eq(fake.dev.state.driver_features, VIRTIO_F_VERSION_1);
}

/* One write of `write` at status `before`, with acceptable features. */
static const struct {
	uint32_t before, write, after;
} steps[] = {
	{0, ACK, ACK},
	{0, DRIVER, 0},
	{0, FEATURES_OK, 0},
	{0, DRIVER_OK, 0},
	{0, FAILED, FAILED},
	{ACK, DRIVER, ACK}, /* would clear ACKNOWLEDGE */
	{ACK, ACK | DRIVER, ACK | DRIVER},
	{ACK, ACK | FEATURES_OK, ACK},
	{ACK, ACK | DRIVER_OK, ACK},
	{ACK | DRIVER, ACK | DRIVER | DRIVER_OK, ACK | DRIVER},
	{ACK | DRIVER, ACK | DRIVER | FEATURES_OK, ACK | DRIVER | FEATURES_OK},
	{ACK | DRIVER, ACK, ACK | DRIVER},
	{ACK | DRIVER | FEATURES_OK, ACK | DRIVER, ACK | DRIVER | FEATURES_OK},
	{ACK | DRIVER | FEATURES_OK, RUNNING, RUNNING},
	{ACK | DRIVER, RUNNING, RUNNING}, /* several at once, each in order */
	{RUNNING, RUNNING & ~(uint32_t)ACK, RUNNING},
	{RUNNING, DRIVER_OK, RUNNING},
	{RUNNING, RUNNING | FAILED, RUNNING | FAILED},
	{RUNNING, RUNNING | VIRTIO_S_NEEDS_RESET, RUNNING},
	{RUNNING, RUNNING | 0xffffff30, RUNNING},
	{FAILED, FAILED | ACK, FAILED},
	{ACK | FAILED, ACK | DRIVER | FAILED, ACK | FAILED},
	{RUNNING, 0, 0},
	{FAILED, 0, 0},
};

Test(mmio, status_machine)
{
	for (unsigned i = 0; i < ARRAY_SIZE(steps); i++) {
		set_status(0);
		fake.dev.state.status = steps[i].before;
		fake.dev.state.driver_features = VIRTIO_F_VERSION_1;
		set_status(steps[i].write);
		cr_assert_eq(status(), steps[i].after, "step %u: %#x", i, status());
	}
}

Test(mmio, driver_ok_activates_once)
{
	driver_start(&g, VIRTIO_FEATURES_COMMON);
	cr_assert_eq(fake.activated, 1);
	set_status(RUNNING);
	cr_assert_eq(fake.activated, 1);
	cr_assert(virtio_active(&fake.dev));
}

Test(mmio, driver_ok_with_failed_does_not_activate)
{
	driver_negotiate(&g, VIRTIO_F_VERSION_1);
	set_status(RUNNING | FAILED);
	cr_assert_eq(fake.activated, 0);
	cr_assert_not(virtio_active(&fake.dev));
}

Test(mmio, activation_that_fails_needs_a_reset)
{
	fake.activate_result = -EIO;
	driver_negotiate(&g, VIRTIO_F_VERSION_1);
	cr_assert_not(driver_ok(&g));
	cr_assert_eq(status(), RUNNING | VIRTIO_S_NEEDS_RESET);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_IRQ_CONFIG);
	cr_assert(driver_irq(&g));
	fake.activate_result = 0;
	driver_start(&g, VIRTIO_F_VERSION_1);
}

Test(mmio, optional_ops_may_be_absent)
{
	fake.dev.ops = &least_ops;
	driver_start(&g, VIRTIO_F_VERSION_1);
	driver_write(&g, VIRTIO_MMIO_CONFIG, 99);
	cr_assert_eq(fake.config[0], 1);
	set_status(0);
	cr_assert_eq(status(), 0);
}

/* Queue registers. */

Test(mmio, queue_selector)
{
	driver_write(&g, VIRTIO_MMIO_QUEUE_SEL, 0);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_QUEUE_NUM_MAX), 64);
	driver_write(&g, VIRTIO_MMIO_QUEUE_SEL, 1);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_QUEUE_NUM_MAX), 256);
	driver_negotiate(&g, VIRTIO_F_VERSION_1);
	for (uint32_t sel = 2; sel; sel <<= 1) {
		driver_write(&g, VIRTIO_MMIO_QUEUE_SEL, sel);
		cr_assert_eq(driver_read(&g, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
		for (uint64_t reg = 0x38; reg < 0xb0; reg += 4)
			if (reg != VIRTIO_MMIO_STATUS)
				driver_write(&g, reg, 1);
		cr_assert_eq(driver_read(&g, VIRTIO_MMIO_QUEUE_READY), 0);
	}
}

Test(mmio, queue_takes_what_is_sane)
{
	const gpa_t high = DRIVER_HIGH;

	driver_negotiate(&g, VIRTIO_F_VERSION_1);
	g.queue[1] = (struct driver_queue){
		.size = 256, .desc = high, .avail = high + 0x1002, .used = high + 0x2004};
	cr_assert(driver_set_queue(&g, 1));
	cr_assert_eq(fake.queue[1].state.desc, high);
	cr_assert_eq(fake.queue[1].state.driver, high + 0x1002);
	cr_assert_eq(fake.queue[1].state.device, high + 0x2004);
	cr_assert_eq(fake.queue[1].state.size, 256);
	cr_assert(driver_ok(&g));
	cr_assert_eq(fake.queue[1].desc, driver_ptr(&g, high, 1));
	cr_assert_null(fake.queue[0].desc, "queue 0 was never made ready");
}

Test(mmio, queue_refuses_what_is_not)
{
	const struct driver_queue good = {
		.size = 16, .desc = 0x1000, .avail = 0x2000, .used = 0x3000};
	const struct {
		size_t field;
		uint64_t value;
	} bad[] = {
		{offsetof(struct driver_queue, size), 0},
		{offsetof(struct driver_queue, size), 24},
		{offsetof(struct driver_queue, size), 128}, /* queue 0 has 64 */
		{offsetof(struct driver_queue, desc), 0x1008},
		{offsetof(struct driver_queue, desc), DRIVER_LOW_END},
		{offsetof(struct driver_queue, desc), DRIVER_LOW_END - 16},
		{offsetof(struct driver_queue, desc), UINT64_MAX - 15},
		{offsetof(struct driver_queue, avail), 0x2001},
		{offsetof(struct driver_queue, avail), DRIVER_HIGH_END},
		{offsetof(struct driver_queue, avail), 0x100000000 + 0x2000},
		{offsetof(struct driver_queue, used), 0x3002},
		{offsetof(struct driver_queue, used), DRIVER_HIGH - 4},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		void *field = (uint8_t *)&g.queue[0] + bad[i].field;

		driver_negotiate(&g, VIRTIO_F_VERSION_1);
		g.queue[0] = good;
		if (bad[i].field == offsetof(struct driver_queue, size))
			*(uint16_t *)field = (uint16_t)bad[i].value;
		else
			*(uint64_t *)field = bad[i].value;
		cr_assert_not(driver_set_queue(&g, 0), "case %u", i);
		g.queue[0] = good;
		cr_assert(driver_set_queue(&g, 0), "mended, case %u", i);
	}
}

Test(mmio, queue_size_beyond_16_bits)
{
	driver_negotiate(&g, VIRTIO_F_VERSION_1);
	driver_place_queue(&g, 0, 16);
	cr_assert(driver_set_queue(&g, 0));
	driver_write(&g, VIRTIO_MMIO_QUEUE_READY, 0);
	driver_write(&g, VIRTIO_MMIO_QUEUE_NUM, 0x10010);
	driver_write(&g, VIRTIO_MMIO_QUEUE_READY, 1);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_QUEUE_READY), 0);
}

Test(mmio, queue_registers_are_shut_outside_of_set_up)
{
	driver_place_queue(&g, 0, 16);
	cr_assert_not(driver_set_queue(&g, 0), "before FEATURES_OK");
	cr_assert_eq(fake.queue[0].state.size, 0);

	driver_negotiate(&g, VIRTIO_F_VERSION_1);
	cr_assert(driver_set_queue(&g, 0));
	driver_write(&g, VIRTIO_MMIO_QUEUE_DESC_LOW, 0x7000);
	driver_write(&g, VIRTIO_MMIO_QUEUE_NUM, 8);
	cr_assert_eq(fake.queue[0].state.desc, 0, "while it is ready");
	cr_assert_eq(fake.queue[0].state.size, 16);

	cr_assert(driver_ok(&g));
	driver_write(&g, VIRTIO_MMIO_QUEUE_READY, 0);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_QUEUE_READY), 1, "after DRIVER_OK");
	cr_assert_not(driver_set_queue(&g, 1));
	cr_assert_null(fake.queue[1].desc);
}

Test(mmio, queue_ready_takes_only_one)
{
	driver_negotiate(&g, VIRTIO_F_VERSION_1);
	driver_place_queue(&g, 0, 16);
	cr_assert(driver_set_queue(&g, 0));
	driver_write(&g, VIRTIO_MMIO_QUEUE_READY, 0);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_QUEUE_READY), 0);
	driver_write(&g, VIRTIO_MMIO_QUEUE_READY, 3);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_QUEUE_READY), 0);
}

/* Access widths. */

Test(mmio, registers_are_32_bits_wide)
{
	const unsigned widths[] = {1, 2, 8};

	for (unsigned i = 0; i < ARRAY_SIZE(widths); i++) {
		uint64_t v = UINT64_MAX, one = ACK;

		driver_read_bytes(&g, VIRTIO_MMIO_MAGIC, &v, widths[i]);
		cr_assert_eq(v & (widths[i] == 8 ? UINT64_MAX : (1ull << 8 * widths[i]) - 1), 0);
		driver_write_bytes(&g, VIRTIO_MMIO_STATUS, &one, widths[i]);
		cr_assert_eq(status(), 0);
	}
	for (uint64_t off = 1; off < VIRTIO_MMIO_CONFIG; off++)
		if (off % 4) {
			cr_assert_eq(driver_read(&g, off), 0);
			driver_write(&g, off, UINT32_MAX);
		}
	cr_assert_eq(status(), 0);
}

Test(mmio, every_register_survives_every_write)
{
	for (unsigned pass = 0; pass < 2; pass++) {
		for (uint64_t off = 0; off < 0x1000; off += 4) {
			driver_read(&g, off);
			driver_write(&g, off, UINT32_MAX);
			driver_write(&g, off, 0);
			driver_write(&g, off, 0x80000001);
		}
		driver_start(&g, VIRTIO_F_VERSION_1);
	}
}

/* driver_read() compares the two. */
Test(mmio, the_page_shows_what_the_window_gives)
{
	static const uint16_t written[] = {
		VIRTIO_MMIO_STATUS,	     VIRTIO_MMIO_DEVICE_FEATURES_SEL,
		VIRTIO_MMIO_DRIVER_FEATURES, VIRTIO_MMIO_DRIVER_FEATURES_SEL,
		VIRTIO_MMIO_QUEUE_SEL,	     VIRTIO_MMIO_QUEUE_NUM,
		VIRTIO_MMIO_QUEUE_READY,     VIRTIO_MMIO_INTERRUPT_ACK,
		VIRTIO_MMIO_CONFIG,
	};
	static const uint32_t values[] = {0, 1, 2, 3, 7, 11, 15, 16, 1u << 3, 0x80000000};
	uint32_t seed = 1;

	cr_assert_eq(g.mmio.dev->window, g.page);
	cr_expect_eq(g.page[0], 'v');
	for (unsigned i = 0; i < 20000; i++) {
		seed = seed * 1664525 + 1013904223;
		if (seed >> 28 == 0)
			virtio_config_changed(&fake.dev);
		else if (seed >> 28 == 1)
			virtio_interrupt(&fake.dev, VIRTIO_IRQ_QUEUE);
		else
			driver_write(&g, written[(seed >> 8) % ARRAY_SIZE(written)],
				     values[(seed >> 16) % ARRAY_SIZE(values)]);
		for (uint64_t off = 0; off < VIRTIO_MMIO_CONFIG + 16; off += 4)
			driver_read(&g, off);
	}
}

Test(mmio, config_reads)
{
	uint8_t b[8];

	driver_read_bytes(&g, 0x100, b, 1);
	cr_assert_eq(b[0], 1);
	driver_read_bytes(&g, 0x103, b, 2);
	cr_assert_arr_eq(b, ((uint8_t[]){4, 5}), 2);
	driver_read_bytes(&g, 0x101, b, 4);
	cr_assert_arr_eq(b, ((uint8_t[]){2, 3, 4, 5}), 4);
	driver_read_bytes(&g, 0x104, b, 8);
	cr_assert_arr_eq(b, ((uint8_t[]){5, 6, 7, 8, 9, 10, 11, 12}), 8);
	driver_read_bytes(&g, 0x105, b, 8);
	cr_assert_arr_eq(b, ((uint8_t[8]){0}), 8, "one byte too far");
	driver_read_bytes(&g, 0x10c, b, 1);
	cr_assert_eq(b[0], 0);
	memset(b, 7, sizeof(b));
	driver_read_bytes(&g, UINT64_MAX - 3, b, 8);
	cr_assert_arr_eq(b, ((uint8_t[8]){0}), 8);
}

Test(mmio, config_writes)
{
	const uint8_t b[8] = {0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7};

	driver_write_bytes(&g, 0x100, b, 4);
	cr_assert_eq(fake.config[0], 1, "nobody is driving");
	driver_negotiate(&g, VIRTIO_F_VERSION_1);
	driver_write_bytes(&g, 0x103, b, 2);
	cr_assert(fake.written_off == 3 && fake.written_len == 2);
	cr_assert_arr_eq(fake.config + 3, b, 2);
	driver_write_bytes(&g, 0x104, b, 8);
	cr_assert(fake.written_off == 4 && fake.written_len == 8);
	fake.written_len = 0;
	driver_write_bytes(&g, 0x105, b, 8);
	driver_write_bytes(&g, 0x10c, b, 1);
	driver_write_bytes(&g, UINT64_MAX, b, 8);
	cr_assert_eq(fake.written_len, 0, "outside");
}

/* Notifications and interrupts. */

Test(mmio, notify_reaches_the_queue)
{
	driver_start(&g, VIRTIO_F_VERSION_1);
	driver_kick(&g, 1);
	cr_assert(fake.notified[0] == 0 && fake.notified[1] == 1);
	driver_kick(&g, 0);
	cr_assert(fake.notified[0] == 1 && fake.notified[1] == 1);
}

Test(mmio, notify_of_a_queue_that_does_not_exist)
{
	driver_start(&g, VIRTIO_F_VERSION_1);
	for (uint32_t q = 2; q; q <<= 1)
		driver_kick(&g, q);
	driver_kick(&g, UINT32_MAX);
	cr_assert_eq(fake.notified[0] + fake.notified[1], 0);
}

Test(mmio, notify_before_driver_ok_is_dropped)
{
	driver_kick(&g, 0);
	driver_negotiate(&g, VIRTIO_F_VERSION_1);
	driver_place_queue(&g, 0, 16);
	driver_set_queue(&g, 0);
	driver_kick(&g, 0);
	driver_ok(&g);
	driver_run(&g);
	cr_assert_eq(fake.notified[0], 0);
}

Test(mmio, a_device_that_is_not_done_is_called_again)
{
	driver_start(&g, VIRTIO_F_VERSION_1);
	fake.more = 3;
	driver_kick(&g, 0);
	cr_assert_eq(fake.notified[0], 4);
}

Test(mmio, kicks_hold_the_lock)
{
	driver_start(&g, VIRTIO_F_VERSION_1);
	cr_assert_eq(g.mmio.kick[0].lock, &g.lock);
	cr_assert_eq(g.mmio.kick[1].lock, &g.lock);
}

Test(mmio, interrupt_status_and_acknowledge)
{
	driver_start(&g, VIRTIO_F_VERSION_1);
	virtio_interrupt(&fake.dev, VIRTIO_IRQ_QUEUE);
	virtio_interrupt(&fake.dev, VIRTIO_IRQ_CONFIG);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_INTERRUPT_STATUS), 3);
	driver_write(&g, VIRTIO_MMIO_INTERRUPT_ACK, 1);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_INTERRUPT_STATUS), 2);
	driver_write(&g, VIRTIO_MMIO_INTERRUPT_ACK, UINT32_MAX);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	cr_assert(fd_event_drain(g.irq_fd));
	cr_assert_not(fd_event_drain(g.irq_fd));
}

Test(mmio, config_change)
{
	virtio_config_changed(&fake.dev);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_CONFIG_GENERATION), 1);
	cr_assert_not(driver_irq(&g), "nobody is driving");
	driver_start(&g, VIRTIO_F_VERSION_1);
	virtio_config_changed(&fake.dev);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_CONFIG_GENERATION), 2);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_IRQ_CONFIG);
	cr_assert(driver_irq(&g));
}

/* Reset. */

Test(mmio, needs_reset_stops_the_device)
{
	driver_start(&g, VIRTIO_F_VERSION_1);
	virtio_needs_reset(&fake.dev, -EINVAL);
	cr_assert(driver_broken(&g));
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_IRQ_CONFIG);
	cr_assert(driver_irq(&g));
	driver_kick(&g, 0);
	cr_assert_eq(fake.notified[0], 0);
	set_status(RUNNING);
	cr_assert(driver_broken(&g), "the driver cannot clear it");
	driver_start(&g, VIRTIO_F_VERSION_1);
	driver_kick(&g, 0);
	cr_assert_eq(fake.notified[0], 1);
}

Test(mmio, reset_forgets_everything)
{
	driver_start(&g, VIRTIO_FEATURES_COMMON);
	virtio_config_changed(&fake.dev);
	driver_write(&g, VIRTIO_MMIO_QUEUE_SEL, 1);
	fake.resets = 0;
	set_status(0);
	cr_assert_eq(fake.resets, 1);
	cr_assert_eq(status(), 0);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_CONFIG_GENERATION), 1, "goes on");
	cr_assert_eq(driver_read(&g, VIRTIO_MMIO_QUEUE_NUM_MAX), 64, "selector is 0, offer stays");
	cr_assert_eq(fake.dev.state.driver_features, 0);
	for (unsigned i = 0; i < 2; i++) {
		cr_assert_null(fake.queue[i].desc);
		cr_assert_eq(fake.queue[i].state.ready + fake.queue[i].state.size, 0);
	}
}

Test(mmio, kick_that_is_pending_at_reset_is_dropped)
{
	driver_start(&g, VIRTIO_F_VERSION_1);
	driver_write(&g, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	set_status(0);
	driver_run(&g);
	cr_assert_eq(fake.notified[0], 0);
}

Test(mmio, chain_held_across_a_reset_is_not_given_back)
{
	const struct driver_buf buf[] = {{DRIVER_HIGH, 16, true}};
	static struct virtq_chain chain;

	driver_start(&g, VIRTIO_F_VERSION_1);
	driver_add(&g, 0, buf, 1);
	cr_assert_eq(virtq_get(&fake.queue[0], &chain), 1);
	set_status(0);
	virtq_release(&fake.queue[0], chain.head, 16);
	cr_assert_not(virtq_end(&fake.queue[0]));
	cr_assert_not(driver_used(&g, 0, NULL, NULL));
}

Test(mmio, finish_destroys_once)
{
	virtio_mmio_finish(&g.mmio);
	cr_assert_eq(fake.destroyed, 1);
	virtio_mmio_finish(&g.mmio);
	cr_assert_eq(fake.destroyed, 1);
}
