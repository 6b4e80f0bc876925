/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/base/loop.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>

#include "vmm/base/fd.h"

int loop_init(struct loop *l, struct err *e)
{
	*l = (struct loop){.epfd = epoll_create1(EPOLL_CLOEXEC), .signal_fd = -1};
	if (l->epfd < 0)
		return err_sys(e, "create an epoll instance");
	return 0;
}

void loop_finish(struct loop *l)
{
	fd_close(&l->epfd);
}

int loop_add(struct loop *l, struct loop_source *s, uint32_t events, struct err *e)
{
	struct epoll_event ev = {.events = events, .data.ptr = s};

	assert(!s->added);
	if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, s->fd, &ev) < 0)
		return err_sys(e, "watch file descriptor %d", s->fd);
	s->added = true;
	s->events = events;
	s->on_hold = false;
	return 0;
}

void loop_mod(struct loop *l, struct loop_source *s, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = s};
	int r;

	assert(s->added);
	s->events = events;
	if (s->on_hold)
		return;
	r = epoll_ctl(l->epfd, EPOLL_CTL_MOD, s->fd, &ev);
	assert(r == 0);
	(void)r;
}

static void forget_held(struct loop *l, struct loop_source *s)
{
	struct loop_source **at = &l->on_hold;

	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	s->on_hold = false;
}

void loop_del(struct loop *l, struct loop_source *s)
{
	if (!s->added)
		return;
	if (s->on_hold)
		forget_held(l, s);
	else
		epoll_ctl(l->epfd, EPOLL_CTL_DEL, s->fd, NULL);
	s->added = false;
	/* The batch being served may still hold an event of this source, which may be freed. */
	for (int i = l->batch_pos; i < l->batch_len; i++)
		if (l->batch[i].data.ptr == s)
			l->batch[i].data.ptr = NULL;
}

void loop_timer_set(struct loop *l, struct loop_timer *t, uint64_t in_ns)
{
	struct loop_timer **at = &l->timers;

	loop_timer_clear(l, t);
	if (__builtin_add_overflow(now_ns(), in_ns, &t->at_ns))
		t->at_ns = UINT64_MAX;
	while (*at && (*at)->at_ns <= t->at_ns)
		at = &(*at)->next;
	t->next = *at;
	t->armed = true;
	*at = t;
}

void loop_timer_clear(struct loop *l, struct loop_timer *t)
{
	struct loop_timer **at = &l->timers;

	if (!t->armed)
		return;
	while (*at != t)
		at = &(*at)->next;
	*at = t->next;
	t->armed = false;
}

/* Milliseconds until the first timer, rounded up so that it has expired when we wake. */
static int next_timeout_ms(const struct loop *l, int limit)
{
	uint64_t now, ms;

	if (!l->timers)
		return limit;
	now = now_ns();
	if (l->timers->at_ns <= now)
		return 0;
	ms = (l->timers->at_ns - now + 999999) / 1000000;
	if (ms > INT32_MAX)
		ms = INT32_MAX;
	return limit >= 0 && ms > (uint64_t)limit ? limit : (int)ms;
}

/* --- callbacks --- */

static void enter(struct loop *l, pthread_mutex_t *lock)
{
	if (!lock)
		return;
	pthread_mutex_lock(lock);
	__atomic_store_n(&l->held, lock, __ATOMIC_RELAXED);
}

static void leave(struct loop *l, pthread_mutex_t *lock)
{
	int fd = l->signal_fd;

	if (!lock)
		return;
	l->signal_fd = -1;
	__atomic_store_n(&l->held, NULL, __ATOMIC_RELAXED);
	pthread_mutex_unlock(lock);
	if (fd >= 0)
		fd_event_signal(fd);
}

/* Who holds `lock` and is not in a callback under it sees that from `held`, whatever its thread. */
bool loop_signal(struct loop *l, const pthread_mutex_t *lock, int fd)
{
	bool due;

	if (!lock || __atomic_load_n(&l->held, __ATOMIC_RELAXED) != lock) {
		fd_event_signal(fd);
		return true;
	}
	due = l->signal_fd == fd;
	l->signal_fd = fd;
	return !due;
}

#define HELD_TIMER_NS 20000000ull

/* An event of a source that is edge-triggered comes once: adding it again brings it back. */
static void put_on_hold(struct loop *l, struct loop_source *s)
{
	epoll_ctl(l->epfd, EPOLL_CTL_DEL, s->fd, NULL);
	s->on_hold = true;
	s->next = l->on_hold;
	l->on_hold = s;
}

void loop_hold(struct loop *l)
{
	l->holding = true;
}

void loop_release(struct loop *l)
{
	l->holding = false;
	while (l->on_hold) {
		struct loop_source *s = l->on_hold;
		struct epoll_event ev = {.events = s->events, .data.ptr = s};
		int r;

		forget_held(l, s);
		r = epoll_ctl(l->epfd, EPOLL_CTL_ADD, s->fd, &ev);
		assert(r == 0);
		(void)r;
	}
}

static void run_timers(struct loop *l)
{
	uint64_t now = now_ns();

	/* `now` is read once: a timer that re-arms itself for 0 ns must not starve the sources. */
	while (l->timers && l->timers->at_ns <= now) {
		struct loop_timer *t = l->timers;
		pthread_mutex_t *lock = t->lock;

		loop_timer_clear(l, t);
		if (lock && l->holding) {
			loop_timer_set(l, t, HELD_TIMER_NS);
			continue;
		}
		enter(l, lock);
		t->expired(t);
		leave(l, lock);
	}
}

/* A lock is kept from one source to the next that has it too: one signal is for both then. */
static void run_batch(struct loop *l)
{
	pthread_mutex_t *lock = NULL;

	for (l->batch_pos = 0; l->batch_pos < l->batch_len;) {
		struct epoll_event *ev = &l->batch[l->batch_pos++];
		struct loop_source *s = ev->data.ptr;

		if (!s)
			continue;
		if (s->lock && l->holding) {
			put_on_hold(l, s);
			continue;
		}
		if (lock != s->lock) {
			leave(l, lock);
			lock = s->lock; /* the callback may free its source */
			enter(l, lock);
		}
		s->ready(s, ev->events);
	}
	leave(l, lock);
	l->batch_len = 0;
	l->batch_pos = 0;
}

int loop_run_once(struct loop *l, int timeout_ms)
{
	int n = epoll_wait(l->epfd, l->batch, LOOP_BATCH, next_timeout_ms(l, timeout_ms));

	if (n < 0 && errno != EINTR)
		return -errno;
	l->batch_len = n < 0 ? 0 : n;
	run_timers(l);
	run_batch(l);
	return 0;
}

void loop_wait(const struct loop *l)
{
	struct pollfd p = {.fd = l->epfd, .events = POLLIN};

	poll(&p, 1, next_timeout_ms(l, -1));
}

int loop_run(struct loop *l)
{
	while (!l->stop) {
		int r = loop_run_once(l, -1);

		if (r < 0)
			return r;
	}
	l->stop = false;
	return 0;
}

void loop_stop(struct loop *l)
{
	l->stop = true;
}
