/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/identity.h"

#include <assert.h>

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

static int write_genid(const struct gmem *mem, struct err *e)
{
	uint8_t genid[GENID_LEN];

	if (random_bytes(genid, sizeof(genid)) != sizeof(genid))
		return err_set(e, EAGAIN, "no random bytes for a VM generation ID");
	/* Both pages are below 1 MiB, where there is always memory. */
	gmem_write(mem, LAYOUT_VMGENID, genid, sizeof(genid));
	return 0;
}

void identity_touch(const struct gmem *mem)
{
	uint8_t clock[sizeof(struct vmclock)] = {0}, genid[GENID_LEN] = {0};

	gmem_read(mem, LAYOUT_VMCLOCK, clock, sizeof(clock));
	gmem_write(mem, LAYOUT_VMCLOCK, clock, sizeof(clock));
	gmem_read(mem, LAYOUT_VMGENID, genid, sizeof(genid));
	gmem_write(mem, LAYOUT_VMGENID, genid, sizeof(genid));
}

int identity_begin(const struct gmem *mem, struct err *e)
{
	const struct vmclock clock = {
		.magic = VMCLOCK_MAGIC,
		.size = LAYOUT_PAGE_SIZE,
		.version = 1,
		.counter_id = VMCLOCK_NO_COUNTER,
		.flags = VMCLOCK_HAS_GENERATION | VMCLOCK_HAS_NOTIFICATION,
	};

	gmem_write(mem, LAYOUT_VMCLOCK, &clock, sizeof(clock));
	return write_genid(mem, e);
}

/* No vCPU runs, so nobody sees it half-way; a guest that wrote there itself gets its own. */
static void change(const struct gmem *mem, bool another)
{
	struct vmclock clock = {0};

	gmem_read(mem, LAYOUT_VMCLOCK, &clock, sizeof(clock));
	clock.seq = (clock.seq | 1) + 1;
	clock.disruption_marker++;
	clock.generation += another;
	gmem_write(mem, LAYOUT_VMCLOCK, &clock, sizeof(clock));
}

int identity_renew(const struct gmem *mem, struct err *e)
{
	int r = write_genid(mem, e);

	if (r == 0)
		change(mem, true);
	return r;
}

void identity_moved(const struct gmem *mem)
{
	change(mem, false);
}
