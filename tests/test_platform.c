/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "vmm/platform.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/scratch.h"
#include "vmm/acpi.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"

/* All ports and widths read as zero: Linux polls the RTC's busy bit with 40,000 exits otherwise. */
Test(platform, rtc_is_never_busy)
{
	for (unsigned reg = 0; reg < 256; reg++) {
		uint8_t v = (uint8_t)reg;

		rtc_bus_ops.write(NULL, 0, &v, 1);
		v = 0xee;
		rtc_bus_ops.read(NULL, 1, &v, 1);
		cr_assert_eq(v, 0);
	}
	for (unsigned len = 1; len <= RTC_SIZE; len++) {
		uint8_t data[4] = {1, 1, 1, 1};

		rtc_bus_ops.read(NULL, 0, data, len);
		for (unsigned i = 0; i < 4; i++)
			cr_assert_eq(data[i], i >= len);
	}
}

static void off(void *arg)
{
	(*(unsigned *)arg)++;
}

Test(platform, only_s5_powers_off)
{
	unsigned calls = 0;
	struct power p = {.off = off, .arg = &calls};
	uint8_t v;

	for (unsigned i = 0; i < 256; i++) {
		v = (uint8_t)i;
		if (v == ACPI_SLEEP_S5)
			continue;
		power_bus_ops.write(&p, 0, &v, 1);
		power_bus_ops.write(&p, 1, &v, 1);
	}
	v = ACPI_SLEEP_S5;
	power_bus_ops.write(&p, 1, &v, 1); /* the status port */
	cr_assert_eq(calls, 0);
	power_bus_ops.read(&p, 0, &v, 1);
	cr_assert_eq(v, 0);
	v = ACPI_SLEEP_S5;
	power_bus_ops.write(&p, 0, &v, 1);
	cr_assert_eq(calls, 1);
}

Test(platform, power_takes_bytes_only)
{
	unsigned calls = 0;
	struct power p = {.off = off, .arg = &calls};
	uint8_t data[8];

	memset(data, ACPI_SLEEP_S5, sizeof(data));
	power_bus_ops.write(&p, 0, data, 2);
	cr_assert_eq(calls, 0);
}

/* How often the log says something about the boot time. */
static unsigned told(struct scratch *dir)
{
	char buf[8192];
	cleanup_fd int fd = open(scratch_path(dir, "log"), O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, buf, sizeof(buf) - 1);
	unsigned found = 0;

	cr_assert_geq(n, 0);
	buf[n] = 0;
	for (char *p = buf; (p = strstr(p, "Guest-boot-time = ")); p++)
		found++;
	return found;
}

Test(platform, boot_timer_wants_its_byte)
{
	struct boot_timer t;
	struct scratch dir;
	uint8_t data[8] = {0};

	scratch_init(&dir);
	cr_assert_eq(log_open(scratch_path(&dir, "log"), NULL), 0);
	boot_timer_init(&t, NULL);
	cr_assert_neq(t.start_ns, 0);
	for (unsigned v = 0; v < 256; v++) {
		data[0] = (uint8_t)v;
		if (v != 123)
			boot_timer_bus_ops.write(&t, 0, data, 1);
	}
	data[0] = 123;
	for (unsigned len = 2; len <= 8; len++)
		boot_timer_bus_ops.write(&t, 0, data, len);
	boot_timer_bus_ops.write(&t, 1, data, 1);
	boot_timer_bus_ops.write(&t, BOOT_TIMER_SIZE - 1, data, 1);
	cr_assert_eq(told(&dir), 0);
	boot_timer_bus_ops.write(&t, 0, data, 1);
	cr_assert_eq(told(&dir), 1);
	memset(data, 0xff, sizeof(data));
	boot_timer_bus_ops.read(&t, 0, data, 8);
	cr_assert_eq(data[0] | data[7], 0);
	for (unsigned i = 0; i < 100; i++) { /* a guest cannot fill the disk with it */
		data[0] = 123;
		boot_timer_bus_ops.write(&t, 0, data, 1);
	}
	cr_assert_leq(told(&dir), 10);
	scratch_finish(&dir);
}

/* A guest that writes its byte again and again must not push other events out. */
Test(platform, boot_timer_emits_one_event)
{
	static struct event_log events;
	const uint8_t magic = 123;
	struct boot_timer t;
	struct loop loop;

	log_set_level(LOG_OFF);
	cr_assert_eq(loop_init(&loop, NULL), 0);
	cr_assert_eq(event_init(&events, &loop, NULL), 0);
	boot_timer_init(&t, &events);
	for (unsigned i = 0; i < 1000; i++)
		boot_timer_bus_ops.write(&t, 0, &magic, 1);
	cr_assert_eq(events.count, 1);
	cr_assert_not_null(strstr(events.line[0], "guest_booted"));
	event_finish(&events);
	loop_finish(&loop);
}
