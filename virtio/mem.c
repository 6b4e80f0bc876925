/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-mem, section 5.15 of virtio 1.2. One queue of requests:
 *
 *	readable: type (16 bits), 6 bytes of padding, then of PLUG, UNPLUG and STATE: address (64),
 *		  number of blocks (16), 6 bytes of padding
 *	writable: answer (16 bits), 6 bytes of padding, state (16 bits)
 *
 * The guest may plug blocks up to requested_size, which we change; it is told by a configuration
 * interrupt and goes there in its own time, or does not. A block that is plugged may hold anything. One
 * that is unplugged is given back to the host at once, and out of reach for every device
 * (gmem_at()); for the guest's processors when it was the last of its part. So a driver has to accept
 * UNPLUGGED_INACCESSIBLE.
 *
 * Blocks outlive a reset of the device, as the specification wants: a driver that finds some can tell.
 *
 * A hostile guest can at worst use more of the host's memory than it was asked to have: it may touch
 * unplugged blocks of a part of which one is plugged. It may plug within the usable region only,
 * which is EXTRA and less than a part larger than what was ever requested since all was
 * unplugged, and never beyond the region.
 *
 * However many blocks a request is for, a turn of the queue callback ends after SLICE bytes were given
 * back, or one part of the region came or went, which may take KVM milliseconds; the request goes on in
 * the next turn. What is done of it counts at once, so a reset in between leaves every
 * block either there or not, and forgets the rest of the request.
 */
#include "virtio/mem.h"

#include <errno.h>

#include "vmm/base/log.h"

/* Section 5.15.3. */
#define F_UNPLUGGED_INACCESSIBLE (1ull << 1)

/* A turn of the queue callback ends after so many steps, or bytes given back. */
#define TURN  64u
#define SLICE MIB(64)
/* What may be plugged beyond requested_size: blocks that cannot be unplugged may be in the way. */
#define EXTRA MIB(256)

enum request { PLUG, UNPLUG, UNPLUG_ALL, STATE };
enum answer { ACK, NACK, BUSY, ERROR };
enum { PLUGGED, UNPLUGGED, MIXED };

struct mem_request {
	uint16_t type, padding[3];
	uint64_t addr;
	uint16_t blocks, padding2[3];
};

struct mem_answer {
	uint16_t type, padding[3];
	uint16_t state;
} __attribute__((packed));

/* Section 5.15.4. */
struct mem_space {
	uint64_t block_size;
	uint16_t node, padding[3];
	uint64_t addr, region_size;
	uint64_t usable_size, plugged_size, requested_size;
};

/* A request that is being carried out; offsets in the region. */
struct mem_work {
	bool busy; /* it has a chain, which waits for its answer */
	enum request asked;
	bool plugs;
	enum answer answer;
	uint64_t first, at, end; /* [first, at) is done */
	uint64_t given;		 /* [given, at) is unplugged, and still to be given back */
	uint64_t since;		 /* now_ns() */
};

struct mem {
	struct virtio_device dev;
	struct virtq queue;		  /* [s] */
	struct mem_work work;		  /* [s] */
	uint64_t turn;			  /* [m] bytes of SLICE that this turn has used */
	struct mem_space space;		  /* [s] */
	struct mem_metrics count;	  /* [a] */
	const struct gmem_region *region; /* [I] */
	struct mem_setup host;		  /* [I] */
	uint64_t *saved;		  /* [m] of a snapshot: a bit for each block; else NULL */
	struct virtq_chain chain;	  /* of the request */
};

static struct mem *to_mem(const struct virtio_device *d)
{
	return CONTAINER_OF((struct virtio_device *)(uintptr_t)d, struct mem, dev);
}

/* --- parts --- */

static bool part_is_empty(const struct mem *m, uint64_t part)
{
	return !gmem_any_plugged(m->region, part * m->region->part, m->region->part);
}

static int map_part(struct mem *m, uint64_t part, bool on)
{
	m->turn += SLICE;
	return m->host.map(m->host.arg, (unsigned)part, on);
}

/* Takes from the guest the parts of [off, off + len) in which no block is left. */
static void unmap_empty(struct mem *m, uint64_t off, uint64_t len)
{
	for (uint64_t n = off / m->region->part; n <= (off + len - 1) / m->region->part; n++)
		if (part_is_empty(m, n))
			map_part(m, n, false);
}

static void set_plugged(struct mem *m, uint64_t off, uint64_t len, bool on)
{
	gmem_set_plugged(m->region, off, len, on);
	m->space.plugged_size += on ? len : -len;
	virtio_config_touched(&m->dev);
}

/* --- steps of a request --- */

/* The blocks up to the end of a part. When the host has no memory left, those before are undone. */
static void plug_step(struct mem *m)
{
	struct mem_work *w = &m->work;
	uint64_t part = w->at / m->region->part;
	uint64_t len = MIN(w->end, (part + 1) * m->region->part) - w->at;
	int r = part_is_empty(m, part) ? map_part(m, part, true) : 0;

	if (r < 0) {
		log_warn("memory hotplug: map %llu MiB: %s", (unsigned long long)(len >> 20),
			 strerror(-r));
		w->plugs = false;
		w->answer = NACK;
		w->end = w->at;
		w->at = w->given = w->first;
		return;
	}
	set_plugged(m, w->at, len, true);
	w->at += len;
}

static void give_back(struct mem *m)
{
	struct mem_work *w = &m->work;
	uint64_t len = MIN(w->at - w->given, SLICE);
	int64_t r = gmem_discard(m->dev.env.mem, m->region->host + w->given, len);

	if (r < 0) {
		metric_inc(&m->count.unplug_discard_fails);
		log_warn("memory hotplug: give back memory: %s", strerror((int)-r));
	}
	w->given += len;
	m->turn += len;
}

static bool block_is_there(const struct mem *m, uint64_t off)
{
	return gmem_any_plugged(m->region, off, m->region->block);
}

/* The next blocks that are there: from here on nobody may touch them; then the host has them back. */
static void unplug_step(struct mem *m)
{
	struct mem_work *w = &m->work;
	uint64_t block = m->region->block, len = 0;

	while (w->at < w->end && !block_is_there(m, w->at))
		w->at += block;
	w->given = w->at;
	while (w->at + len < w->end && len < SLICE && block_is_there(m, w->at + len))
		len += block;
	if (len == 0)
		return;
	set_plugged(m, w->at, len, false);
	unmap_empty(m, w->at, len);
	if (w->asked != PLUG)
		metric_add(&m->count.unplug_bytes, len);
	w->at += len;
}

/* True: there is more to do. */
static bool step(struct mem *m)
{
	struct mem_work *w = &m->work;

	if (w->given < w->at && !w->plugs)
		give_back(m);
	else if (w->plugs)
		plug_step(m);
	else
		unplug_step(m);
	return w->at < w->end || (!w->plugs && w->given < w->at);
}

/* --- requests --- */

/* The range of a request within the usable region; false: there is no such range. */
static bool range_of(const struct mem *m, const struct mem_request *q, uint64_t *off, uint64_t *len)
{
	*off = q->addr - m->space.addr;
	*len = q->blocks * m->space.block_size;
	return q->blocks && q->addr >= m->space.addr && *off % m->space.block_size == 0 &&
	       range_within(*off, *len, m->space.usable_size);
}

/* Leaves work of [off, off + len), which is answered with ACK unless the work says otherwise. */
static enum answer begin(struct mem *m, uint64_t off, uint64_t len)
{
	struct mem_work *w = &m->work;

	w->plugs = w->asked == PLUG;
	w->first = w->at = w->given = off;
	w->end = off + len;
	return ACK;
}

static enum answer plug(struct mem *m, const struct mem_request *q)
{
	uint64_t off, len;

	if (!range_of(m, q, &off, &len) || gmem_any_plugged(m->region, off, len))
		return ERROR;
	/* One that was asked to shrink may have more than that. */
	if (!range_within(m->space.plugged_size, len, m->space.requested_size))
		return NACK;
	return begin(m, off, len);
}

static enum answer unplug(struct mem *m, const struct mem_request *q)
{
	uint64_t off, len;

	if (!range_of(m, q, &off, &len) || !gmem_all_plugged(m->region, off, len))
		return ERROR;
	return begin(m, off, len);
}

static uint64_t usable_size(const struct mem *m, uint64_t requested)
{
	uint64_t parts = (requested + EXTRA + m->region->part - 1) / m->region->part;

	return MIN(parts * m->region->part, m->region->len);
}

static enum answer tell_state(const struct mem *m, const struct mem_request *q, uint16_t *state)
{
	uint64_t off, len;

	if (!range_of(m, q, &off, &len))
		return ERROR;
	if (!gmem_any_plugged(m->region, off, len))
		*state = UNPLUGGED;
	else
		*state = gmem_all_plugged(m->region, off, len) ? PLUGGED : MIXED;
	return ACK;
}

static void release(struct mem *m, enum answer answer, uint16_t state)
{
	struct mem_answer a = {.type = (uint16_t)answer, .state = state};
	bool room = virtq_chain_write(&m->chain, 0, &a, sizeof(a)) == 0;

	virtq_release(&m->queue, m->chain.head, room ? sizeof(a) : 0);
}

/* The request in m->work has been carried out, or refused. */
static void finish(struct mem *m, uint16_t state)
{
	static const struct {
		size_t count, fails, agg;
	} of[] = {
#define COUNTERS(name)                                                                           \
	{offsetof(struct mem_metrics, name##_count), offsetof(struct mem_metrics, name##_fails), \
	 offsetof(struct mem_metrics, name##_agg)}
		[PLUG] = COUNTERS(plug),
		[UNPLUG] = COUNTERS(unplug),
		[UNPLUG_ALL] = COUNTERS(unplug_all),
		[STATE] = COUNTERS(state),
	};
	struct mem_work *w = &m->work;

	if (w->asked == UNPLUG_ALL) {
		m->space.usable_size = usable_size(m, m->space.requested_size);
		virtio_config_touched(&m->dev);
	}
	if (w->asked == PLUG && w->answer == ACK)
		metric_add(&m->count.plug_bytes, w->end - w->first);
	metric_inc((void *)((char *)&m->count + of[w->asked].count));
	if (w->answer != ACK)
		metric_inc((void *)((char *)&m->count + of[w->asked].fails));
	metric_agg_add((void *)((char *)&m->count + of[w->asked].agg),
		       (now_ns() - w->since) / 1000);
	w->busy = false;
	release(m, w->answer, state);
}

/* Takes up the request in m->chain: it is answered, or m->work is left to be done. */
static void take_up(struct mem *m)
{
	struct mem_work *w = &m->work;
	uint16_t state = 0;
	struct mem_request q = {0};
	uint32_t len = MIN(m->chain.readable, (uint32_t)sizeof(q));

	virtq_chain_read(&m->chain, 0, &q, len);
	/* Nothing is done that cannot be answered, or was not said to its end. */
	if (m->chain.writable < sizeof(struct mem_answer) || len < sizeof(q.type) ||
	    q.type > STATE || (q.type != UNPLUG_ALL && len < sizeof(q))) {
		metric_inc(&m->count.queue_event_fails);
		release(m, ERROR, 0);
		return;
	}
	*w = (struct mem_work){.busy = true, .asked = (enum request)q.type, .since = now_ns()};
	switch (w->asked) {
	case PLUG:
		w->answer = plug(m, &q);
		break;
	case UNPLUG:
		w->answer = unplug(m, &q);
		break;
	case UNPLUG_ALL:
		w->answer = begin(m, 0, m->region->len);
		break;
	case STATE:
		w->answer = tell_state(m, &q, &state);
		break;
	}
	if (w->at == w->end)
		finish(m, state);
}

/* What a reset has left over is nobody's request, but the host's memory. */
static bool has_work(const struct mem *m)
{
	return m->work.busy || (!m->work.plugs && m->work.given < m->work.at);
}

static void work(struct mem *m)
{
	if (!step(m) && m->work.busy)
		finish(m, 0);
}

static bool mem_notify(struct virtio_device *d, unsigned queue)
{
	struct mem *m = to_mem(d);
	int r = 1;

	(void)queue;
	metric_inc(&m->count.queue_event_count);
	m->turn = 0;
	for (unsigned steps = 0; r > 0 && steps < TURN && m->turn < SLICE; steps++) {
		if (has_work(m))
			work(m);
		else if ((r = virtq_get(&m->queue, &m->chain)) > 0)
			take_up(m);
	}
	virtio_queue_end(d, &m->queue);
	if (r < 0) {
		metric_inc(&m->count.queue_event_fails);
		virtio_needs_reset(d, r);
	}
	return r > 0;
}

/* A vCPU thread, which may not give memory back. */
static void mem_reset(struct virtio_device *d)
{
	struct mem_work *w = &to_mem(d)->work;

	w->busy = false;
	w->end = w->at;
}

static int mem_drain(struct virtio_device *d, struct err *e)
{
	struct mem *m = to_mem(d);

	(void)e;
	while (has_work(m))
		work(m);
	virtio_queue_end(d, &m->queue);
	return 0;
}

/* --- configuration space --- */

void mem_request(struct virtio_device *d, uint64_t bytes)
{
	struct mem *m = to_mem(d);
	uint64_t usable = usable_size(m, bytes);

	m->space.requested_size = bytes;
	/* It shrinks only when all is unplugged. */
	if (usable > m->space.usable_size)
		m->space.usable_size = usable;
	virtio_config_changed(d);
}

uint64_t mem_plugged(const struct virtio_device *d)
{
	return to_mem(d)->space.plugged_size;
}

uint64_t mem_requested(const struct virtio_device *d)
{
	return to_mem(d)->space.requested_size;
}

/* --- wire and check --- */

static uint64_t block_count(const struct mem *m)
{
	return m->region->len / m->region->block;
}

static void mem_wire(struct virtio_device *d, struct wire *w)
{
	struct mem *m = to_mem(d);
	uint64_t words = (block_count(m) + 63) / 64, n = words;

	wire_u64(w, &m->space.usable_size);
	wire_u64(w, &m->space.plugged_size);
	wire_u64(w, &m->space.requested_size);
	wire_u64(w, &n);
	if (!w->writing && !m->saved)
		m->saved = calloc(words, sizeof(*m->saved));
	if (n != words || (!w->writing && !m->saved)) {
		wire_fail(w, n != words ? -EBADMSG : -ENOMEM);
		return;
	}
	for (uint64_t i = 0; i < words; i++) {
		uint64_t word = m->region->plugged[i];

		wire_u64(w, &word);
		if (!w->writing)
			m->saved[i] = word;
	}
}

static bool was_plugged(const struct mem *m, uint64_t block)
{
	return m->saved[block / 64] >> (block % 64) & 1;
}

static bool is_possible(const struct mem *m)
{
	const struct mem_space *s = &m->space;
	uint64_t words = (block_count(m) + 63) / 64, size = 0, end = 0;

	if (!m->saved || s->usable_size > s->region_size || s->usable_size % s->block_size ||
	    s->requested_size > s->usable_size || s->requested_size % s->block_size)
		return false;
	for (uint64_t b = 0; b < words * 64; b++)
		if (was_plugged(m, b)) {
			size += s->block_size;
			end = (b + 1) * s->block_size;
		}
	return size == s->plugged_size && end <= s->usable_size;
}

/* The blocks of the snapshot are there from here on: rings of other devices may lie in them. */
static int plug_saved(struct mem *m, struct err *e)
{
	uint64_t size = m->space.block_size;
	int r = 0;

	for (uint64_t b = 0; r == 0 && b < block_count(m); b++) {
		if (!was_plugged(m, b))
			continue;
		if (part_is_empty(m, b * size / m->region->part))
			r = map_part(m, b * size / m->region->part, true);
		if (r == 0)
			gmem_set_plugged(m->region, b * size, size, true);
	}
	free(m->saved);
	m->saved = NULL;
	return r < 0 ? err_set(e, -r, "map its memory: %s", strerror(-r)) : 0;
}

static int mem_check(struct virtio_device *d, const void *config, uint32_t len, struct err *e)
{
	struct mem *m = to_mem(d);

	if (!is_possible(m))
		return err_set(e, EINVAL, "impossible state of memory hotplug");
	if (len != sizeof(m->space) || memcmp(config, &m->space, len) != 0)
		return err_set(e, EINVAL, "its configuration is not what the guest knows");
	return plug_saved(m, e);
}

/* --- ops, create and destroy --- */

static void mem_destroy(struct virtio_device *d)
{
	struct mem *m = to_mem(d);

	free(m->saved);
	free(m);
}

static const struct virtio_ops mem_ops = {
	.notify = mem_notify,
	.reset = mem_reset,
	.drain = mem_drain,
	.wire = mem_wire,
	.check = mem_check,
	.destroy = mem_destroy,
};

struct virtio_device *mem_create(const struct mem_setup *setup, const struct virtio_env *env,
				 struct err *e)
{
	struct mem *m = calloc(1, sizeof(*m));

	if (!m) {
		err_set(e, ENOMEM, "memory hotplug: out of memory");
		return NULL;
	}
	m->region = gmem_hotplug(env->mem);
	m->host = *setup;
	m->space = (struct mem_space){
		.block_size = m->region->block,
		.addr = m->region->gpa,
		.region_size = m->region->len,
		.usable_size = usable_size(m, 0),
	};
	virtq_init(&m->queue, VIRTQ_SIZE_MAX);
	m->dev = (struct virtio_device){
		.ops = &mem_ops,
		.type = VIRTIO_ID_MEM,
		.name = "memory hotplug",
		.features = VIRTIO_FEATURES_COMMON | F_UNPLUGGED_INACCESSIBLE,
		.required = F_UNPLUGGED_INACCESSIBLE,
		.config = &m->space,
		.config_len = sizeof(m->space),
		.queue = &m->queue,
		.num_queues = 1,
		.env = *env,
	};
	return &m->dev;
}

struct mem_metrics *mem_metrics(struct virtio_device *d)
{
	return &to_mem(d)->count;
}
