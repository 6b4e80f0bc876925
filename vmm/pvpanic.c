/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/pvpanic.h"

#include <string.h>

#include "vmm/base/log.h"

/* What is supported. */
static void pvpanic_read(void *dev, uint64_t off, void *data, unsigned len)
{
	(void)dev;
	(void)off;
	memset(data, 0, len);
	*(uint8_t *)data = PVPANIC_PANICKED | PVPANIC_CRASH_LOADED;
}

static void pvpanic_write(void *dev, uint64_t off, const void *data, unsigned len)
{
	struct pvpanic *p = dev;
	uint8_t fresh = *(const uint8_t *)data & (uint8_t)~p->told;

	(void)off;
	(void)len;
	if (fresh & PVPANIC_PANICKED) {
		log_warn("the guest's kernel panicked");
		event_emit(p->events, "guest_panicked");
	}
	if (fresh & PVPANIC_CRASH_LOADED) {
		log_warn("the guest's kernel panicked; a crash kernel takes over");
		event_emit(p->events, "guest_crash_loaded");
	}
	p->told |= fresh & (PVPANIC_PANICKED | PVPANIC_CRASH_LOADED);
}

const struct bus_ops pvpanic_bus_ops = {.read = pvpanic_read, .write = pvpanic_write};
