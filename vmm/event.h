/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What happens to the microVM, for whoever asked for GET /events: one JSON object a line,
 *
 *	{"seq":3,"time_ms":1767225600000,"event":"exit","reason":"guest reset","code":0}
 *
 * The last EVENT_KEEP events are kept and told to every new reader first, so that nobody has to
 * be there in time. A reader has only a position in them: one that is too slow finds a line
 * {"event":"dropped","count":N} where N events were, and nobody ever waits for it. To tell
 * something new is one line:
 *
 *	event_emit(vm->events, "device_error", EVENT_TEXT("device", name), EVENT_NUMBER("code", r));
 */
#pragma once

#include "vmm/base/loop.h"

#define EVENT_KEEP     64
#define EVENT_LINE_MAX 256 /* what does not fit is cut from the end of a text */

struct event_log {
	pthread_mutex_t lock;
	uint64_t count; /* under lock, as is line[]: events ever */
	char line[EVENT_KEEP][EVENT_LINE_MAX];
	int fd;			   /* [I] eventfd: there is a new one; owned */
	struct loop_source source; /* of fd */
	struct loop *loop;	   /* [I] borrowed */
	void (*added)(void *arg);  /* [I] called by the loop when there are new ones; or NULL */
	void *arg;
};

/* A member of the event's object; `text` NULL: a number. */
struct event_member {
	const char *key;
	const char *text;
	int64_t number;
};

#define EVENT_TEXT(key, text)    \
	{                        \
		(key), (text), 0 \
	}
#define EVENT_NUMBER(key, number)              \
	{                                      \
		(key), NULL, (int64_t)(number) \
	}

int event_init(struct event_log *l, struct loop *loop, struct err *e);
/* Also of a zeroed one. */
void event_finish(struct event_log *l);

/* Any thread, never waits; `l` may be NULL: nobody is interested. Keys are plain ASCII. */
#define event_emit(l, name, ...) event_emit_members(l, name, EVENT_LIST_({0}, ##__VA_ARGS__))
#define EVENT_LIST_(...)                            \
	(const struct event_member[]){__VA_ARGS__}, \
		sizeof((const struct event_member[]){__VA_ARGS__}) / sizeof(struct event_member)
/* Behind event_emit(): member[0] is not one. */
void event_emit_members(struct event_log *l, const char *name, const struct event_member *member,
			size_t count);

/*
 * Stores whole lines that follow position *at (0: from the oldest that is kept) and moves it.
 * Returns their length; 0 when there are none, or no room for one. Any thread.
 */
size_t event_read(struct event_log *l, uint64_t *at, char *buf, size_t size);
