/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/platform.h"

#include <string.h>

#include "vmm/acpi.h"
#include "vmm/base/log.h"

static void read_zero(void *dev, uint64_t off, void *data, unsigned len)
{
	(void)dev;
	(void)off;
	memset(data, 0, len);
}

static void write_nothing(void *dev, uint64_t off, const void *data, unsigned len)
{
	(void)dev;
	(void)off;
	(void)data;
	(void)len;
}

const struct bus_ops rtc_bus_ops = {.read = read_zero, .write = write_nothing};

static void power_write(void *dev, uint64_t off, const void *data, unsigned len)
{
	struct power *p = dev;

	if (off == 0 && len == 1 && *(const uint8_t *)data == ACPI_SLEEP_S5)
		p->off(p->arg);
}

const struct bus_ops power_bus_ops = {.read = read_zero, .write = power_write};

#define BOOT_TIMER_MAGIC 123

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void boot_timer_init(struct boot_timer *t, struct event_log *events)
{
	t->events = events;
	t->told = false;
	t->start_ns = now_ns();
	t->start_cpu_ns = cpu_ns();
}

static void boot_timer_write(void *dev, uint64_t off, const void *data, unsigned len)
{
	struct boot_timer *t = dev;
	uint64_t us, cpu_us;

	if (off != 0 || len != 1 || *(const uint8_t *)data != BOOT_TIMER_MAGIC)
		return;
	us = (now_ns() - t->start_ns) / 1000;
	cpu_us = (cpu_ns() - t->start_cpu_ns) / 1000;
	log_info("Guest-boot-time = %6llu us %llu ms, %6llu CPU us %llu CPU ms",
		 (unsigned long long)us, (unsigned long long)us / 1000, (unsigned long long)cpu_us,
		 (unsigned long long)cpu_us / 1000);
	/* Once: a guest that repeats it would push the other events out of their log. */
	if (!t->told)
		event_emit(t->events, "guest_booted", EVENT_NUMBER("took_us", us));
	t->told = true;
}

const struct bus_ops boot_timer_bus_ops = {.read = read_zero, .write = boot_timer_write};
