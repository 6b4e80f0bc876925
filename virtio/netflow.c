/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/netflow.h"

#include <string.h>

#include "vmm/base/random.h"

#define WAYS 8u
#define SETS 512u

/* Seconds of idleness after which an entry is gone. */
#define IDLE_TCP   3600u
#define IDLE_UDP   180u
#define IDLE_OTHER 30u

struct entry {
	struct netflow_key key;
	uint32_t used_s;
	bool valid;
};

struct netflow {
	uint64_t secret[2];
	struct entry set[SETS][WAYS];
};

_Static_assert(sizeof(struct netflow_key) == 40, "compared and hashed as bytes");

static uint32_t idle_limit(const struct netflow_key *key)
{
	switch (key->kind == NETFLOW_CONVERSATION ? key->protocol : 0) {
	case IPPROTO_TCP:
		return IDLE_TCP;
	case IPPROTO_UDP:
		return IDLE_UDP;
	default:
		return IDLE_OTHER;
	}
}

static bool alive(const struct entry *e, uint32_t now_s)
{
	return e->valid && now_s - e->used_s <= idle_limit(&e->key);
}

/* Multiply-and-fold over the words with secret keys: cannot be steered without knowing them. */
static uint64_t fold(uint64_t a, uint64_t b)
{
	unsigned __int128 p = (unsigned __int128)a * b;

	return (uint64_t)p ^ (uint64_t)(p >> 64);
}

static struct entry *set_of(struct netflow *t, const struct netflow_key *key)
{
	uint64_t w[sizeof(*key) / sizeof(uint64_t)], h = t->secret[0];

	memcpy(w, key, sizeof(w));
	for (unsigned i = 0; i < ARRAY_SIZE(w); i++)
		h = fold(h ^ w[i], t->secret[1] + i);
	return t->set[h % SETS];
}

struct netflow *netflow_create(void)
{
	struct netflow *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	/* Early at boot the pool may not be ready: any secret is better than waiting. */
	if (random_bytes(t->secret, sizeof(t->secret)) != sizeof(t->secret)) {
		t->secret[0] = now_ns();
		t->secret[1] = (uint64_t)(uintptr_t)t * 0x9e3779b97f4a7c15u;
	}
	t->secret[1] |= 1;
	return t;
}

void netflow_destroy(struct netflow *t)
{
	free(t);
}

void netflow_clear(struct netflow *t)
{
	memset(t->set, 0, sizeof(t->set));
}

static struct entry *find(struct entry *set, const struct netflow_key *key, uint32_t now_s)
{
	for (unsigned i = 0; i < WAYS; i++)
		if (alive(&set[i], now_s) && memcmp(&set[i].key, key, sizeof(*key)) == 0)
			return &set[i];
	return NULL;
}

static struct entry *oldest(struct entry *set, uint32_t now_s)
{
	struct entry *best = &set[0];

	for (unsigned i = 0; i < WAYS; i++) {
		if (!alive(&set[i], now_s))
			return &set[i];
		if (now_s - set[i].used_s > now_s - best->used_s)
			best = &set[i];
	}
	return best;
}

void netflow_add(struct netflow *t, const struct netflow_key *key, uint32_t now_s)
{
	struct entry *set = set_of(t, key);
	struct entry *e = find(set, key, now_s);

	if (!e)
		e = oldest(set, now_s);
	*e = (struct entry){.key = *key, .used_s = now_s, .valid = true};
}

bool netflow_find(struct netflow *t, const struct netflow_key *key, uint32_t now_s)
{
	struct entry *e = find(set_of(t, key), key, now_s);

	if (e)
		e->used_s = now_s;
	return e;
}
