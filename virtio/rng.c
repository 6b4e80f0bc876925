/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-entropy, section 5.4 of virtio 1.2. One queue; each chain is room for random bytes, which
 * the host's kernel writes straight into guest memory. No features of its own, no configuration.
 *
 * A hostile guest can at worst make the host's kernel generate random bytes for as long as its own
 * notifications last, in turns of RNG_TURN requests. It cannot drain a pool: there is none. With a
 * rate limit, a request that is over it stays in the ring until its time has come.
 */
#include "virtio/rng.h"

#include "vmm/base/random.h"

/* Requests in a row: 512 KiB, about a millisecond. */
#define RNG_TURN 8u

struct rng {
	struct virtio_device dev;
	struct virtq queue;	  /* [s] */
	struct rng_metrics count; /* [a] */
	struct limiter limit;	  /* [s] */
	struct loop_timer resume; /* [m] armed while a request waits for the limit */
	struct virtq_chain chain; /* scratch of the queue callback */
};

static struct rng *to_rng(struct virtio_device *d)
{
	return CONTAINER_OF(d, struct rng, dev);
}

/* Serves g->chain. Returns the bytes written into it; what is to be read in it means nothing. */
static uint32_t serve(struct rng *g)
{
	const struct virtq_chain *c = &g->chain;
	uint32_t want = MIN(c->writable, (uint32_t)RNG_REQUEST_MAX);
	uint32_t done = 0;

	if (want == 0)
		metric_inc(&g->count.entropy_event_fails);
	for (unsigned i = c->split; done < want; i++) {
		uint32_t len = (uint32_t)MIN(c->iov[i].iov_len, (size_t)(want - done));
		uint32_t got = (uint32_t)random_bytes(c->iov[i].iov_base, len);

		done += got;
		if (got < len) {
			metric_inc(&g->count.host_rng_fails);
			break;
		}
	}
	metric_add(&g->count.entropy_bytes, done);
	return done;
}

/* Whether g->chain, just taken, has to wait; then it is put back, and its timer runs. */
static bool throttled(struct rng *g)
{
	uint32_t want = MIN(g->chain.writable, (uint32_t)RNG_REQUEST_MAX);
	uint64_t wait = limiter_active(&g->limit) ? limiter_wait(&g->limit, now_ns(), want) : 0;

	if (!wait)
		return false;
	metric_inc(&g->count.entropy_rate_limiter_throttled);
	virtq_unget(&g->queue, 1);
	loop_timer_set(g->dev.env.loop, &g->resume, wait);
	return true;
}

static bool rng_notify(struct virtio_device *d, unsigned queue)
{
	struct rng *g = to_rng(d);
	unsigned served = 0;
	int r = 1;

	(void)queue;
	metric_inc(&g->count.entropy_event_count);
	if (g->resume.armed)
		return false;
	while (served < RNG_TURN && (r = virtq_get(&g->queue, &g->chain)) > 0) {
		uint32_t bytes;

		if (throttled(g)) {
			r = 0;
			break;
		}
		bytes = serve(g);
		if (limiter_active(&g->limit))
			limiter_charge(&g->limit, bytes);
		virtq_release(&g->queue, g->chain.head, bytes);
		served++;
	}
	virtio_queue_end(d, &g->queue);
	if (r < 0) {
		metric_inc(&g->count.entropy_event_fails);
		virtio_needs_reset(d, r);
	}
	return r > 0;
}

static void resumed(struct loop_timer *t)
{
	struct rng *g = t->arg;

	metric_inc(&g->count.rate_limiter_event_count);
	if (virtio_active(&g->dev) && rng_notify(&g->dev, 0))
		loop_timer_set(g->dev.env.loop, t, 0);
}

static void rng_destroy(struct virtio_device *d)
{
	struct rng *g = to_rng(d);

	loop_timer_clear(d->env.loop, &g->resume);
	free(g);
}

static const struct virtio_ops rng_ops = {
	.notify = rng_notify,
	.destroy = rng_destroy,
};

struct virtio_device *rng_create(const struct virtio_env *env, struct err *e)
{
	struct rng *g = calloc(1, sizeof(*g));

	if (!g) {
		err_set(e, ENOMEM, "entropy device: out of memory");
		return NULL;
	}
	virtq_init(&g->queue, VIRTQ_SIZE_MAX);
	g->resume = (struct loop_timer){.expired = resumed, .arg = g, .lock = env->lock};
	g->dev = (struct virtio_device){
		.ops = &rng_ops,
		.type = VIRTIO_ID_ENTROPY,
		.name = "entropy",
		.features = VIRTIO_FEATURES_COMMON,
		.queue = &g->queue,
		.num_queues = 1,
		.env = *env,
	};
	return &g->dev;
}

void rng_set_limit(struct virtio_device *d, const struct limiter_config *limit)
{
	struct rng *g = to_rng(d);

	limiter_set(&g->limit, limit, now_ns());
	if (g->resume.armed) /* what waits may be allowed by now */
		loop_timer_set(d->env.loop, &g->resume, 0);
}

struct rng_metrics *rng_metrics(struct virtio_device *d)
{
	return &to_rng(d)->count;
}
