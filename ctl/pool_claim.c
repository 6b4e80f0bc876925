/* SPDX-License-Identifier: Apache-2.0 */
/* PUT /clones: what is asked for, who becomes what, and one answer for each. */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "ctl/pool.h"

#define WAIT_MS_DEFAULT 1000
#define WAIT_MS_MAX	60000
/* How long a load may take that has begun. */
#define LOAD_NS		10000000000ull
#define AGAIN_NS	100000000

struct clone {
	struct claim *claim;
	json_t *body;		  /* of its load; owned */
	const char *id;		  /* in `body`; NULL: it has none */
	struct pool_shell *shell; /* while it is loading */
	bool over;
	uint64_t began_ns, ended_ns;
	char failed[256]; /* "": it lives */
	pid_t pid;
	char socket[VMS_PATH_MAX];
};

struct claim {
	struct pool *pool;
	char snapshot[PATH_MAX];
	struct clone *clone;
	unsigned count, open; /* in all; not over */
	unsigned waiting;     /* without a shell, and not over */
	uint64_t wait_ms;
};

/* --- templates --- */

/* A copy in which each `what` is `with`. NULL: out of memory. */
static char *replace(const char *text, const char *what, const char *with)
{
	size_t len = strlen(what), extra = strlen(with), count = 0;
	char *out, *to;

	for (const char *at = text; (at = strstr(at, what)); at += len)
		count++;
	out = to = malloc(strlen(text) + count * extra + 1);
	while (out && *text) {
		const char *at = strstr(text, what);
		size_t plain = at ? (size_t)(at - text) : strlen(text);

		to = mempcpy(to, text, plain);
		text += plain;
		if (at) {
			to = mempcpy(to, with, extra);
			text += len;
		}
	}
	if (out)
		*to = '\0';
	return out;
}

/* A copy of all of it, the same in each text. */
static json_t *fill_in(const json_t *v, const char *what, const char *with)
{
	const char *key;
	json_t *item, *out;
	size_t i;

	if (json_is_string(v)) {
		char *text = replace(json_string_value(v), what, with);

		out = text ? json_string(text) : NULL;
		free(text);
		return out;
	}
	if (json_is_array(v)) {
		out = json_array();
		json_array_foreach((json_t *)(uintptr_t)v, i, item)
		{
			json_array_append_new(out, fill_in(item, what, with));
		}
		return out;
	}
	if (!json_is_object(v))
		return json_deep_copy(v);
	out = json_object();
	json_object_foreach((json_t *)(uintptr_t)v, key, item)
	{
		json_object_set_new(out, key, fill_in(item, what, with));
	}
	return out;
}

/* --- the request --- */

static int check_keys(const json_t *root, struct err *e)
{
	static const char *const known[] = {"clones",	"n",	    "first",
					    "template", "snapshot", "wait_ms"};
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)(uintptr_t)root, key, v)
	{
		bool fine = false;

		for (size_t i = 0; i < ARRAY_SIZE(known); i++)
			fine = fine || strcmp(known[i], key) == 0;
		if (!fine)
			return err_set(
				e, EINVAL,
				"unknown field `%.32s`, expected clones, n, first, template, "
				"snapshot or wait_ms",
				key);
	}
	return 0;
}

static int read_number(const json_t *root, const char *key, uint64_t max, uint64_t *out,
		       struct err *e)
{
	const json_t *v = json_object_get(root, key);

	if (!v)
		return 0;
	if (!json_is_integer(v) || json_integer_value(v) < 0 ||
	    (uint64_t)json_integer_value(v) > max)
		return err_set(e, EINVAL, "field `%s`: not a number within 0..%llu", key,
			       (unsigned long long)max);
	*out = (uint64_t)json_integer_value(v);
	return 0;
}

/* The list of clones; a new reference. */
static json_t *read_list(const json_t *root, struct err *e)
{
	json_t *list = json_object_get(root, "clones"), *from = json_object_get(root, "template");
	uint64_t n = 0, first = 1;
	char number[24];

	if (!list == !from) {
		err_set(e, EINVAL, "either clones, or n and template, are needed");
		return NULL;
	}
	if (read_number(root, "n", POOL_CLONES_MAX, &n, e) < 0 ||
	    read_number(root, "first", UINT32_MAX, &first, e) < 0)
		return NULL;
	if (list && (json_object_get(root, "n") || json_object_get(root, "first"))) {
		err_set(e, EINVAL, "n and first belong to a template");
		return NULL;
	}
	if (list ? !json_is_array(list) : !json_is_object(from)) {
		err_set(e, EINVAL, "clones is an array and template an object");
		return NULL;
	}
	if (list)
		return json_incref(list);
	list = json_array();
	for (uint64_t i = 0; i < n; i++) {
		snprintf(number, sizeof(number), "%" PRIu64, first + i);
		json_array_append_new(list, fill_in(from, "{n}", number));
	}
	return list;
}

static void fail(struct clone *k, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void fail(struct clone *k, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(k->failed, sizeof(k->failed), fmt, ap);
	va_end(ap);
	k->over = true;
	k->claim->open--;
}

/* What is wrong with one is no matter of its siblings. */
static void read_clone(struct clone *k, const json_t *item)
{
	const struct pool_config *p = k->claim->pool->config;
	const char *id = json_string_value(json_object_get(item, "id"));
	char dir[PATH_MAX];
	struct err e;

	if (!json_is_object(item) || !id) {
		fail(k, "it is no object with an id");
		return;
	}
	if (json_object_get(item, "snapshot_path") || json_object_get(item, "mem_backend")) {
		fail(k, "snapshot_path and mem_backend are the pool's");
		return;
	}
	if (vms_check_name(id, &e) < 0) {
		fail(k, "id: %.200s", e.msg);
		return;
	}
	snprintf(dir, sizeof(dir), "%s/%s", p->c->state_dir, id);
	k->body = fill_in(item, "{dir}", p->jailer ? POOL_INSIDE : dir);
	k->id = json_string_value(json_object_get(k->body, "id"));
	json_object_set_new(k->body, "snapshot_path", json_sprintf("%s/state", k->claim->snapshot));
	json_object_set_new(k->body, "mem_backend",
			    json_pack("{s:s, s:o}", "backend_type", "File", "backend_path",
				      json_sprintf("%s/memory", k->claim->snapshot)));
	if (!json_object_get(k->body, "resume_vm"))
		json_object_set_new(k->body, "resume_vm", json_true());
	k->claim->waiting++;
}

static int read_snapshot(struct claim *m, const json_t *root, struct err *e)
{
	const char *ours = m->pool->config->snapshot;
	const json_t *v = json_object_get(root, "snapshot");
	const char *said = json_string_value(v);

	if (v && !said)
		return err_set(e, EINVAL, "field `snapshot`: expected the path of a directory");
	if (!said && !ours)
		return err_set(e, EINVAL,
			       "missing field `snapshot`: this pool has none of its own");
	if (said && ours && strcmp(said, ours) != 0)
		return err_set(e, EINVAL, "this pool makes clones of '%s' only", ours);
	if (snprintf(m->snapshot, sizeof(m->snapshot), "%s", said ? said : ours) >=
	    (int)sizeof(m->snapshot) - 8)
		return err_set(e, ENAMETOOLONG, "field `snapshot`: too long");
	return 0;
}

static int read_clones(struct claim *m, const json_t *list, struct err *e)
{
	size_t n = json_array_size(list);

	if (n < 1 || n > POOL_CLONES_MAX)
		return err_set(e, EINVAL, "%zu clones, need 1..%u", n, POOL_CLONES_MAX);
	m->clone = calloc(n, sizeof(*m->clone));
	if (!m->clone)
		return err_set(e, ENOMEM, "out of memory");
	m->count = m->open = (unsigned)n;
	for (unsigned i = 0; i < n; i++) {
		m->clone[i].claim = m;
		read_clone(&m->clone[i], json_array_get(list, i));
	}
	return 0;
}

static int read_claim(struct claim *m, const json_t *root, struct err *e)
{
	json_t *list;
	int r = check_keys(root, e);

	if (r == 0)
		r = read_snapshot(m, root, e);
	if (r == 0)
		r = read_number(root, "wait_ms", WAIT_MS_MAX, &m->wait_ms, e);
	if (r < 0)
		return r;
	list = read_list(root, e);
	if (!list)
		return -e->code;
	r = read_clones(m, list, e);
	json_decref(list);
	return r;
}

/* --- from shells to clones --- */

static void on_done(struct pool_shell *s, const char *failed)
{
	struct clone *k = s->arg;

	k->shell = NULL;
	k->ended_ns = now_ns();
	if (failed) {
		fail(k, "%s", failed);
		return;
	}
	k->pid = s->pid;
	vms_path(&s->vm, "api.sock", k->socket);
	k->over = true;
	k->claim->open--;
}

static void start(struct clone *k, struct pool_shell *s)
{
	struct err e;

	k->claim->waiting--;
	k->began_ns = now_ns();
	s->done = on_done;
	s->arg = k;
	if (pool_claim(s, k->id, k->body, &e) < 0)
		fail(k, "%.250s", e.msg);
	else
		k->shell = s;
}

/* As many as there are shells for, in their order. */
static void start_all(struct claim *m)
{
	for (unsigned i = 0; m->waiting && i < m->count; i++) {
		struct clone *k = &m->clone[i];
		struct pool_shell *s = k->over || k->shell ? NULL : pool_take(m->pool);

		if (s)
			start(k, s);
		else if (!k->over && !k->shell)
			return;
	}
}

static void give_up_waiting(struct claim *m)
{
	const struct pool *p = m->pool;

	for (unsigned i = 0; i < m->count; i++) {
		struct clone *k = &m->clone[i];

		if (k->over || k->shell)
			continue;
		m->waiting--;
		fail(k, "no shell was ready within %llu ms (the pool keeps %u)%s%.120s",
		     (unsigned long long)m->wait_ms, p->config->size,
		     p->failures ? "; the last that was started: " : "",
		     p->failures ? p->last_error : "");
	}
}

static void give_up_loading(struct claim *m, uint64_t now)
{
	for (unsigned i = 0; i < m->count; i++) {
		struct clone *k = &m->clone[i];

		if (!k->shell || now - k->began_ns < LOAD_NS)
			continue;
		pool_drop(TAKE(k->shell));
		fail(k, "the shell did not answer within %llu s", LOAD_NS / 1000000000);
	}
}

static void run_claim(struct claim *m, uint64_t deadline)
{
	uint64_t again = 0; /* at once */

	while (m->open) {
		uint64_t now;

		start_all(m);
		now = now_ns();
		if (m->waiting && now >= deadline)
			give_up_waiting(m);
		give_up_loading(m, now);
		if (!m->open)
			return;
		/* Shells that do not start are tried again, but not all the time. */
		if (now >= again) {
			pool_try_again(m->pool);
			again = now + AGAIN_NS;
		}
		/* What is kept is made good later; now only what somebody waits for. */
		if (m->waiting)
			pool_fill(m->pool);
		pool_turn(m->pool, 20);
	}
}

static json_t *print_clone(const struct clone *k)
{
	json_t *out = json_object();

	if (k->id)
		json_object_set_new(out, "id", json_string(k->id));
	if (k->failed[0]) {
		char text[sizeof(k->failed)];

		memcpy(text, k->failed, sizeof(text));
		err_clean_text(text);
		json_object_set_new(out, "error", json_string(text));
		return out;
	}
	json_object_set_new(out, "pid", json_integer(k->pid));
	json_object_set_new(out, "socket", json_string(k->socket));
	json_object_set_new(out, "took_us",
			    json_integer((json_int_t)((k->ended_ns - k->began_ns) / 1000)));
	return out;
}

int claim_serve(struct pool *p, const char *text, size_t len, json_t **reply, struct err *e)
{
	struct claim m = {.pool = p, .wait_ms = WAIT_MS_DEFAULT};
	json_error_t where;
	json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &where);
	int r;

	if (!json_is_object(root))
		r = err_set(e, EINVAL, "the body is no JSON object: %s", where.text);
	else
		r = read_claim(&m, root, e);
	json_decref(root);
	if (r == 0) {
		run_claim(&m, now_ns() + m.wait_ms * 1000000);
		*reply = json_array();
	}
	for (unsigned i = 0; m.clone && i < m.count; i++) {
		if (r == 0)
			json_array_append_new(*reply, print_clone(&m.clone[i]));
		json_decref(m.clone[i].body);
	}
	free(m.clone);
	return r == 0 ? 200 : 400;
}
