/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop of the main thread: file descriptors (epoll, level-triggered) and timers.
 *
 * All functions are for the thread that runs the loop, but that loop_add() and loop_mod() of a
 * source with a `lock` may be called by any thread that holds it. Another thread wakes the loop by
 * signalling an eventfd that it watches. A callback may add and delete any source or timer, its own
 * included. A source with a `lock` has it held around its callback: that is how a device's
 * queue handlers and its register accesses (vCPU threads, vmm/bus.h) exclude each other.
 * With no timer armed and nothing ready the loop sleeps without a timeout.
 */
#pragma once

#include <pthread.h>
#include <sys/epoll.h>

#include "vmm/base/err.h"

struct loop_source {
	int fd; /* not owned */
	void (*ready)(struct loop_source *s, uint32_t epoll_events);
	void *arg;
	pthread_mutex_t *lock; /* held around ready(), or NULL */
	bool added;	       /* private, as is what follows */
	uint32_t events;       /* that it is watched for */
	bool on_hold;
	struct loop_source *next;
};

struct loop_timer {
	void (*expired)(struct loop_timer *t);
	void *arg;
	pthread_mutex_t *lock;	 /* held around expired(), or NULL */
	uint64_t at_ns;		 /* private: CLOCK_MONOTONIC */
	struct loop_timer *next; /* private */
	bool armed;		 /* private */
};

#define LOOP_BATCH 32

struct loop {
	int epfd;
	bool stop;
	struct loop_timer *timers; /* ascending at_ns */
	struct epoll_event batch[LOOP_BATCH];
	int batch_len, batch_pos;
	const pthread_mutex_t *held; /* [a] by the callback that is running; the main thread's */
	int signal_fd;		     /* to be signalled behind it, or -1 */
	bool holding;		     /* loop_hold() */
	struct loop_source *on_hold; /* those that had something to say since */
};

int loop_init(struct loop *l, struct err *e);
void loop_finish(struct loop *l);

/* Watches s->fd for `events` (EPOLLIN, EPOLLOUT). The caller keeps `s` alive until loop_del(). */
int loop_add(struct loop *l, struct loop_source *s, uint32_t events, struct err *e);
/* Changes what is watched; 0 keeps only EPOLLERR and EPOLLHUP. `s` must have been added. */
void loop_mod(struct loop *l, struct loop_source *s, uint32_t events);
/* Stops watching: no callback for `s` runs afterwards. Call it before the fd is closed. */
void loop_del(struct loop *l, struct loop_source *s);

/* Arms or re-arms a one-shot timer, `in_ns` nanoseconds from now. */
void loop_timer_set(struct loop *l, struct loop_timer *t, uint64_t in_ns);
void loop_timer_clear(struct loop *l, struct loop_timer *t);

/*
 * Signals eventfd `fd`, which belongs to what `lock` protects; the caller holds `lock` (NULL: there
 * is none), on any thread. Within a callback that has `lock` held around it, the signal is given
 * after the lock was released: whom it wakes up wants the lock at once, and would have to sleep.
 * False: it is due already.
 */
bool loop_signal(struct loop *l, const pthread_mutex_t *lock, int fd);

/*
 * From now on sources and timers with a lock are not served, which is what devices are; what they miss
 * comes when they are again. No other thread uses the loop meanwhile: vCPUs are parked.
 */
void loop_hold(struct loop *l);
void loop_release(struct loop *l);

/* Sleeps until there is something to serve, and serves nothing yet. */
void loop_wait(const struct loop *l);
/* Runs until loop_stop(), also one that came before. 0, or -errno when waiting itself failed. */
int loop_run(struct loop *l);
/* Waits at most `timeout_ms` (-1: no limit) for one batch of events and serves it. */
int loop_run_once(struct loop *l, int timeout_ms);
void loop_stop(struct loop *l);
