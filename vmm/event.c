/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/event.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "vmm/base/fd.h"

/* A line being made; what does not fit before the end is left out. */
struct text {
	char *buf;
	size_t len, room;
};

static void put(struct text *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void put(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->buf + t->len, t->room - t->len, fmt, ap);
	va_end(ap);
	/* All or nothing, so that a line stays JSON. */
	if (n > 0 && (size_t)n < t->room - t->len)
		t->len += (size_t)n;
	t->buf[t->len] = '\0';
}

/* As the inside of a JSON string; bytes that are no plain ASCII become '?'. */
static void put_text(struct text *t, const char *s)
{
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			put(t, "\\%c", *s);
		else
			put(t, "%c", *s < ' ' || *s > '~' ? '?' : *s);
	}
}

static void put_members(struct text *t, const struct event_member *m, size_t count)
{
	for (size_t i = 1; i < count; i++) {
		if (m[i].text) {
			/* Room for the quote that ends it. */
			struct text inner = {t->buf, t->len, t->room - 1};
			size_t before = t->len;

			put(&inner, ",\"%s\":\"", m[i].key);
			if (inner.len == before)
				return;
			put_text(&inner, m[i].text);
			t->len = inner.len;
			put(t, "\"");
		} else {
			put(t, ",\"%s\":%" PRId64, m[i].key, m[i].number);
		}
	}
}

void event_emit_members(struct event_log *l, const char *name, const struct event_member *member,
			size_t count)
{
	struct timespec ts;
	struct text t;

	if (!l)
		return;
	clock_gettime(CLOCK_REALTIME, &ts);
	pthread_mutex_lock(&l->lock);
	t = (struct text){.buf = l->line[l->count % EVENT_KEEP], .room = EVENT_LINE_MAX - 2};
	put(&t, "{\"seq\":%" PRIu64 ",\"time_ms\":%lld,\"event\":\"%s\"", l->count + 1,
	    (long long)ts.tv_sec * 1000 + ts.tv_nsec / 1000000, name);
	put_members(&t, member, count);
	strcpy(t.buf + t.len, "}\n");
	l->count++;
	pthread_mutex_unlock(&l->lock);
	if (l->added)
		fd_event_signal(l->fd);
}

size_t event_read(struct event_log *l, uint64_t *at, char *buf, size_t size)
{
	struct text t = {.buf = buf, .room = size};
	uint64_t oldest;

	if (size == 0)
		return 0;
	buf[0] = '\0';
	pthread_mutex_lock(&l->lock);
	oldest = l->count > EVENT_KEEP ? l->count - EVENT_KEEP : 0;
	/* Who begins with nothing has missed nothing. */
	if (*at<oldest && * at> 0)
		put(&t, "{\"event\":\"dropped\",\"count\":%" PRIu64 "}\n", oldest - *at);
	if (*at < oldest)
		*at = oldest;
	for (; *at < l->count; ++*at) {
		size_t before = t.len;

		put(&t, "%s", l->line[*at % EVENT_KEEP]);
		if (t.len == before)
			break;
	}
	pthread_mutex_unlock(&l->lock);
	return t.len;
}

static void on_added(struct loop_source *s, uint32_t events)
{
	struct event_log *l = s->arg;

	(void)events;
	fd_event_drain(s->fd);
	if (l->added)
		l->added(l->arg);
}

int event_init(struct event_log *l, struct loop *loop, struct err *e)
{
	*l = (struct event_log){.loop = loop, .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	if (l->fd < 0)
		return err_sys(e, "create an eventfd");
	pthread_mutex_init(&l->lock, NULL);
	l->source = (struct loop_source){.fd = l->fd, .ready = on_added, .arg = l};
	return loop_add(loop, &l->source, EPOLLIN, e);
}

void event_finish(struct event_log *l)
{
	if (!l->loop)
		return;
	loop_del(l->loop, &l->source);
	fd_close(&l->fd);
	pthread_mutex_destroy(&l->lock);
	l->loop = NULL;
}
