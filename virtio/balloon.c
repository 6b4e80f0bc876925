/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-balloon, section 5.5 of virtio 1.2. Queues, of which a driver has only those of the
 * features that it took, without gaps:
 *
 *	inflate		readable: numbers of 4 KiB pages that the guest gives up
 *	deflate		readable: those that it takes back
 *	stats		readable: pairs of tag (16 bits) and value (64 bits); the one buffer goes
 *			back and forth, and its return asks for news
 *	hinting		readable: id of the sweep that begins, 0 at its end; writable: free pages
 *	reporting	writable: free pages that the guest does not use before they are returned
 *
 * A given-up page is discarded at once (gmem_discard()); one that is taken back needs nothing, it
 * comes into being when it is touched. Pages in a row, in either direction, are one system call.
 *
 * The stats buffer is read when it comes and stays in the ring until the interval is over: no chain
 * is held between callbacks.
 *
 * A hostile guest can at worst destroy its own memory, and keep the main thread busy with discarding
 * for one turn at a time: TURN_BYTES and one request, of which the first REQUEST_PAGES count. The
 * statistics are what it likes to tell.
 */
#include "virtio/balloon.h"

#include "vmm/base/log.h"
#include "vmm/base/wire.h"

/* Feature bits, section 5.5.3. */
#define F_STATS_VQ	 (1ull << 1)
#define F_DEFLATE_ON_OOM (1ull << 2)
#define F_HINTING	 (1ull << 3)
#define F_REPORTING	 (1ull << 5)

/* free_page_hint_cmd_id, section 5.5.6.5: ids of sweeps are what is left. */
#define HINT_STOP  0u
#define HINT_DONE  1u
#define HINT_FIRST 2u

#define PAGES_PER_MIB 256u
#define PAGE_SHIFT    12
#define QUEUES_MAX    5u

/* A turn of the queue callback ends after so many requests, or bytes discarded. */
#define TURN_REQUESTS 64u
#define TURN_BYTES    MIB(256)

/* More in one request are passed over; Linux has 256 pages, and 16 statistics. */
#define REQUEST_PAGES 16384u
#define REQUEST_STATS 64u

enum role { INFLATE, DEFLATE, STATS, HINTING, REPORTING };

/* Section 5.5.4; poison_val is not offered. */
struct balloon_space {
	uint32_t num_pages;
	uint32_t actual;
	uint32_t hint_cmd;
	uint32_t poison_val;
};

struct balloon_stat_entry {
	uint16_t tag;
	uint64_t value;
} __attribute__((packed));

struct balloon {
	struct virtio_device dev;
	struct virtq queue[QUEUES_MAX]; /* [s] */
	struct balloon_space space;	/* [s] */
	struct balloon_state state;	/* [s] */
	struct balloon_metrics count;
	struct loop_timer poll; /* [m] */
	void (*out_of_memory)(void *arg, uint64_t kills);
	void *arg;

	/* Scratch of the queue callback. */
	struct virtq_chain chain;
	uint64_t turn_bytes;
	uint8_t *run; /* pages in a row that are to be discarded */
	uint64_t run_len;
	struct metric *fails, *freed; /* who counts them */
};

static struct balloon *to_balloon(const struct virtio_device *d)
{
	return CONTAINER_OF((struct virtio_device *)(uintptr_t)d, struct balloon, dev);
}

/* What queue `i` is under the features that the driver took. */
static enum role role_of(const struct balloon *b, unsigned i)
{
	static const uint64_t needs[] = {
		[STATS] = F_STATS_VQ, [HINTING] = F_HINTING, [REPORTING] = F_REPORTING};
	enum role role;

	if (i < STATS)
		return (enum role)i;
	for (role = STATS; role < REPORTING; role++)
		if (virtio_has_feature(&b->dev, needs[role]) && i-- == STATS)
			return role;
	return REPORTING;
}

/* --- discarding --- */

static void discard_run(struct balloon *b)
{
	int64_t r;

	if (!b->run_len)
		return;
	r = gmem_discard(b->dev.env.mem, b->run, b->run_len);
	if (r < 0)
		metric_inc(b->fails);
	else if (b->freed)
		metric_add(b->freed, (uint64_t)r);
	b->turn_bytes += b->run_len;
	b->run_len = 0;
}

/* Guest memory that is not needed; joined with what came before when it lies beside it. */
static void discard(struct balloon *b, uint8_t *host, uint64_t len)
{
	if (b->run_len && host == b->run + b->run_len) {
		b->run_len += len;
		return;
	}
	if (b->run_len && host + len == b->run) {
		b->run = host;
		b->run_len += len;
		return;
	}
	discard_run(b);
	b->run = host;
	b->run_len = len;
}

/* --- one request of each queue --- */

static void inflate(struct balloon *b)
{
	uint32_t pages = MIN(b->chain.readable / 4, REQUEST_PAGES);

	metric_inc(&b->count.inflate_count);
	for (uint32_t i = 0; i < pages; i++) {
		uint8_t *host;
		uint32_t pfn;

		virtq_chain_read(&b->chain, i * 4, &pfn, sizeof(pfn));
		host = gmem_at(b->dev.env.mem, (gpa_t)pfn << PAGE_SHIFT, 1u << PAGE_SHIFT);
		if (host)
			discard(b, host, 1u << PAGE_SHIFT);
		else
			metric_inc(&b->count.event_fails);
	}
}

static void free_pages(struct balloon *b)
{
	for (unsigned i = b->chain.split; i < b->chain.count; i++)
		discard(b, b->chain.iov[i].iov_base, b->chain.iov[i].iov_len);
}

static void set_hint(struct balloon *b, uint32_t cmd)
{
	b->state.hint_host = b->space.hint_cmd = cmd;
	virtio_config_changed(&b->dev);
}

static void hinting(struct balloon *b)
{
	uint32_t id;

	if (b->chain.readable >= sizeof(id)) {
		virtq_chain_read(&b->chain, 0, &id, sizeof(id));
		b->state.hint_guest = id;
		if (id == HINT_STOP && b->state.hint_host >= HINT_FIRST && b->state.hint_done)
			set_hint(b, HINT_DONE);
		return;
	}
	/* Of a sweep that was stopped meanwhile: the guest may have these pages in use again. */
	if (b->state.hint_guest != b->state.hint_host || b->state.hint_host < HINT_FIRST)
		return;
	metric_inc(&b->count.free_page_hint_count);
	free_pages(b);
}

static void serve(struct balloon *b, enum role role)
{
	b->fails = &b->count.event_fails;
	b->freed = NULL;
	switch (role) {
	case INFLATE:
		inflate(b);
		break;
	case HINTING:
		b->fails = &b->count.free_page_hint_fails;
		b->freed = &b->count.free_page_hint_freed;
		hinting(b);
		break;
	case REPORTING:
		b->fails = &b->count.free_page_report_fails;
		b->freed = &b->count.free_page_report_freed;
		metric_inc(&b->count.free_page_report_count);
		free_pages(b);
		break;
	case DEFLATE:
		metric_inc(&b->count.deflate_count);
		break;
	case STATS:
		break;
	}
	/* Before the chain is released: afterwards the guest may use the pages. */
	discard_run(b);
}

/* --- statistics --- */

static void read_stats(struct balloon *b)
{
	struct balloon_state *s = &b->state;
	uint64_t killed = s->stats[BALLOON_OOM_KILL];
	struct balloon_stat_entry e;

	s->stats_known = 0;
	for (uint32_t i = 0; i < REQUEST_STATS; i++) {
		if (virtq_chain_read(&b->chain, i * (uint32_t)sizeof(e), &e, sizeof(e)) < 0)
			break;
		if (e.tag >= BALLOON_STATS)
			continue; /* of a later version */
		s->stats[e.tag] = e.value;
		s->stats_known |= 1u << e.tag;
	}
	if (s->stats_known)
		metric_inc(&b->count.stats_updates_count);
	else
		metric_inc(&b->count.stats_update_fails);
	if (s->stats[BALLOON_OOM_KILL] > killed && b->out_of_memory)
		b->out_of_memory(b->arg, s->stats[BALLOON_OOM_KILL] - killed);
}

static void arm(struct balloon *b)
{
	loop_timer_set(b->dev.env.loop, &b->poll, b->state.stats_interval_s * 1000000000ull);
}

static struct virtq *stats_queue(struct balloon *b)
{
	return virtio_has_feature(&b->dev, F_STATS_VQ) ? &b->queue[STATS] : NULL;
}

/* The buffer has come: read, and left where it is. */
static int stats_came(struct balloon *b)
{
	int r = virtq_get(&b->queue[STATS], &b->chain);

	if (r <= 0)
		return r;
	read_stats(b);
	virtq_unget(&b->queue[STATS], 1);
	if (!b->poll.armed)
		arm(b);
	return 0;
}

static void broken(struct balloon *b, int code)
{
	metric_inc(&b->count.event_fails);
	virtio_needs_reset(&b->dev, code);
}

/* Gives the buffers back, so that the guest fills them again. */
static void poll_stats(struct loop_timer *t)
{
	struct balloon *b = t->arg;
	struct virtq *q = stats_queue(b);
	int r = 0;

	if (!virtio_active(&b->dev) || !q || !b->state.stats_interval_s)
		return;
	for (unsigned i = 0; i < TURN_REQUESTS && (r = virtq_get(q, &b->chain)) > 0; i++)
		virtq_release(q, b->chain.head, 0);
	virtio_queue_end(&b->dev, q);
	if (r < 0)
		broken(b, r);
	else
		arm(b);
}

/* --- queues --- */

static bool balloon_notify(struct virtio_device *d, unsigned queue)
{
	struct balloon *b = to_balloon(d);
	struct virtq *q = &b->queue[queue];
	enum role role = role_of(b, queue);
	unsigned served = 0;
	int r = 1;

	if (role == STATS) {
		r = stats_came(b);
		if (r < 0)
			broken(b, r);
		return false;
	}
	b->turn_bytes = 0;
	while (served < TURN_REQUESTS && b->turn_bytes < TURN_BYTES &&
	       (r = virtq_get(q, &b->chain)) > 0) {
		serve(b, role);
		virtq_release(q, b->chain.head, 0);
		served++;
	}
	virtio_queue_end(d, q);
	if (r < 0)
		broken(b, r);
	return r > 0;
}

/* Only `actual` is the driver's (section 5.5.4). */
static void balloon_config_write(struct virtio_device *d, uint32_t off, const void *buf,
				 uint32_t len)
{
	struct balloon *b = to_balloon(d);

	if (off != offsetof(struct balloon_space, actual) || len != sizeof(b->space.actual))
		return;
	memcpy(&b->space.actual, buf, len);
	b->state.actual_pages = b->space.actual;
}

/* The timer finds the device inactive, and is not armed again. */
static void balloon_reset(struct virtio_device *d)
{
	struct balloon *b = to_balloon(d);

	b->state.hint_guest = HINT_STOP;
	b->state.stats_known = 0;
	b->state.actual_pages = b->space.actual = 0;
}

static void balloon_wire(struct virtio_device *d, struct wire *w)
{
	struct balloon_state *s = &to_balloon(d)->state;

	wire_u32(w, &s->target_pages);
	wire_u32(w, &s->actual_pages);
	wire_u32(w, &s->stats_interval_s);
	wire_u32(w, &s->hint_host);
	wire_u32(w, &s->hint_guest);
	wire_u32(w, &s->hint_last);
	wire_u8(w, &s->hint_done);
	wire_u32(w, &s->stats_known);
	for (unsigned i = 0; i < BALLOON_STATS; i++)
		wire_u64(w, &s->stats[i]);
}

static int balloon_check(struct virtio_device *d, const void *config, uint32_t len, struct err *e)
{
	struct balloon *b = to_balloon(d);
	const struct balloon_state *s = &b->state;

	if (s->target_pages > BALLOON_MIB_MAX * PAGES_PER_MIB || s->hint_done > 1 ||
	    s->stats_known >> BALLOON_STATS ||
	    !s->stats_interval_s != !(d->features & F_STATS_VQ) || s->stats_interval_s > UINT16_MAX)
		return err_set(e, EINVAL, "impossible state of a balloon");
	b->space = (struct balloon_space){
		.num_pages = s->target_pages,
		.actual = s->actual_pages,
		.hint_cmd = s->hint_host,
	};
	if (len != sizeof(b->space) || memcmp(config, &b->space, len) != 0)
		return err_set(e, EINVAL, "its configuration is not what the guest knows");
	return 0;
}

static void balloon_destroy(struct virtio_device *d)
{
	struct balloon *b = to_balloon(d);

	loop_timer_clear(d->env.loop, &b->poll);
	free(b);
}

static const struct virtio_ops balloon_ops = {
	.notify = balloon_notify,
	.config_write = balloon_config_write,
	.reset = balloon_reset,
	.wire = balloon_wire,
	.check = balloon_check,
	.destroy = balloon_destroy,
};

struct virtio_device *balloon_create(const struct balloon_setup *cfg, const struct virtio_env *env,
				     struct err *e)
{
	struct balloon *b = calloc(1, sizeof(*b));

	if (!b) {
		err_set(e, ENOMEM, "balloon: out of memory");
		return NULL;
	}
	b->state.target_pages = b->space.num_pages = cfg->amount_mib * PAGES_PER_MIB;
	b->state.stats_interval_s = cfg->stats_interval_s;
	b->state.hint_last = HINT_DONE;
	b->out_of_memory = cfg->out_of_memory;
	b->arg = cfg->arg;
	b->poll = (struct loop_timer){.expired = poll_stats, .arg = b, .lock = env->lock};
	for (unsigned i = 0; i < QUEUES_MAX; i++)
		virtq_init(&b->queue[i], VIRTQ_SIZE_MAX);
	b->dev = (struct virtio_device){
		.ops = &balloon_ops,
		.type = VIRTIO_ID_BALLOON,
		.name = "balloon",
		.features = VIRTIO_FEATURES_COMMON | (cfg->deflate_on_oom ? F_DEFLATE_ON_OOM : 0) |
			    (cfg->stats_interval_s ? F_STATS_VQ : 0) |
			    (cfg->hinting ? F_HINTING : 0) | (cfg->reporting ? F_REPORTING : 0),
		.config = &b->space,
		.config_len = sizeof(b->space),
		.queue = b->queue,
		.keeps_early = true, /* the first statistics come so, and only once */
		.num_queues = 2u + (cfg->stats_interval_s > 0) + cfg->hinting + cfg->reporting,
		.env = *env,
	};
	return &b->dev;
}

struct balloon_metrics *balloon_metrics(struct virtio_device *d)
{
	return &to_balloon(d)->count;
}

const struct balloon_state *balloon_state(struct virtio_device *d)
{
	return &to_balloon(d)->state;
}

void balloon_set_target(struct virtio_device *d, uint32_t mib)
{
	struct balloon *b = to_balloon(d);

	b->state.target_pages = b->space.num_pages = mib * PAGES_PER_MIB;
	virtio_config_changed(d);
}

int balloon_set_interval(struct virtio_device *d, uint32_t seconds, struct err *e)
{
	struct balloon *b = to_balloon(d);

	if (!seconds != !b->state.stats_interval_s)
		return err_set(e, EINVAL,
			       "stats_polling_interval_s: statistics cannot be turned on or off "
			       "after the start");
	b->state.stats_interval_s = seconds;
	if (b->poll.armed)
		arm(b);
	return 0;
}

static bool has_hinting(const struct virtio_device *d)
{
	return d->features & F_HINTING;
}

static int need_hinting(const struct virtio_device *d, struct err *e)
{
	return has_hinting(d) ? 0 : err_set(e, EINVAL, "free_page_hinting is off");
}

int balloon_hint_start(struct virtio_device *d, bool acknowledge, struct err *e)
{
	struct balloon *b = to_balloon(d);
	int r = need_hinting(d, e);

	if (r < 0)
		return r;
	b->state.hint_last = b->state.hint_last == UINT32_MAX ? HINT_FIRST : b->state.hint_last + 1;
	b->state.hint_done = acknowledge;
	set_hint(b, b->state.hint_last);
	return 0;
}

int balloon_hint_stop(struct virtio_device *d, struct err *e)
{
	int r = need_hinting(d, e);

	if (r == 0)
		set_hint(to_balloon(d), HINT_DONE);
	return r;
}
