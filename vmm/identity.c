/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/identity.h"

#include <assert.h>
#include <sys/eventfd.h>

#include "vmm/base/fd.h"
#include "vmm/base/random.h"
#include "vmm/layout.h"

#define GENID_LEN 16u

/* The page of VMClock, version 1; little-endian. What is not set is zero: not known. */
struct vmclock {
	uint32_t magic;
	uint32_t size;
	uint16_t version;
	uint8_t counter_id; /* which counter the time below would be of */
	uint8_t time_type;
	uint32_t seq; /* odd while what follows changes */
	uint64_t disruption_marker;
	uint64_t flags;
	uint8_t time[72]; /* the host's time, which is not told */
	uint64_t generation;
};
static_assert(sizeof(struct vmclock) == 112, "ABI");
static_assert(offsetof(struct vmclock, seq) == 12, "ABI");
static_assert(offsetof(struct vmclock, generation) == 104, "ABI");

#define VMCLOCK_MAGIC		 0x4b4c4356u /* "VCLK" */
#define VMCLOCK_NO_COUNTER	 0xffu
#define VMCLOCK_HAS_GENERATION	 (1u << 8)
#define VMCLOCK_HAS_NOTIFICATION (1u << 9)

int identity_init(struct identity *id, const struct gmem *mem, struct err *e)
{
	*id = (struct identity){.mem = mem, .irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	return id->irq_fd < 0 ? err_sys(e, "create an eventfd") : 0;
}

void identity_finish(struct identity *id)
{
	fd_close(&id->irq_fd);
}

static int write_genid(struct identity *id, struct err *e)
{
	uint8_t genid[GENID_LEN];

	if (random_bytes(genid, sizeof(genid)) != sizeof(genid))
		return err_set(e, EAGAIN, "no random bytes for a VM generation ID");
	/* Both pages are below 1 MiB, where there is always memory. */
	gmem_write(id->mem, LAYOUT_VMGENID, genid, sizeof(genid));
	return 0;
}

void identity_touch(struct identity *id)
{
	uint8_t clock[sizeof(struct vmclock)] = {0}, genid[GENID_LEN] = {0};

	gmem_read(id->mem, LAYOUT_VMCLOCK, clock, sizeof(clock));
	gmem_write(id->mem, LAYOUT_VMCLOCK, clock, sizeof(clock));
	gmem_read(id->mem, LAYOUT_VMGENID, genid, sizeof(genid));
	gmem_write(id->mem, LAYOUT_VMGENID, genid, sizeof(genid));
}

int identity_begin(struct identity *id, struct err *e)
{
	const struct vmclock clock = {
		.magic = VMCLOCK_MAGIC,
		.size = LAYOUT_PAGE_SIZE,
		.version = 1,
		.counter_id = VMCLOCK_NO_COUNTER,
		.flags = VMCLOCK_HAS_GENERATION | VMCLOCK_HAS_NOTIFICATION,
	};

	gmem_write(id->mem, LAYOUT_VMCLOCK, &clock, sizeof(clock));
	return write_genid(id, e);
}

/* No vCPU runs, so nobody sees it half-way; a guest that wrote there itself gets its own. */
static void tell(struct identity *id, bool another)
{
	struct vmclock clock = {0};

	gmem_read(id->mem, LAYOUT_VMCLOCK, &clock, sizeof(clock));
	clock.seq = (clock.seq | 1) + 1;
	clock.disruption_marker++;
	clock.generation += another;
	gmem_write(id->mem, LAYOUT_VMCLOCK, &clock, sizeof(clock));
	fd_event_signal(id->irq_fd);
}

int identity_renew(struct identity *id, struct err *e)
{
	int r = write_genid(id, e);

	if (r == 0)
		tell(id, true);
	return r;
}

void identity_moved(struct identity *id)
{
	tell(id, false);
}
