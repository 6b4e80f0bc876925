/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "vmm/base/loop.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/base/fd.h"

/* An eventfd that is watched; `act` is what its callback does besides counting. */
struct source {
	struct loop_source s;
	struct loop *loop;
	struct source *other;
	unsigned calls;
	uint32_t events;
	bool lock_was_free;
	void (*act)(struct source *me);
};

static struct loop loop;

static void setup(void)
{
	cr_assert_eq(loop_init(&loop, NULL), 0);
}

static void teardown(void)
{
	loop_finish(&loop);
}

TestSuite(loop, .init = setup, .fini = teardown, .timeout = 20);

static void ready(struct loop_source *s, uint32_t events)
{
	struct source *me = s->arg;

	me->calls++;
	me->events = events;
	fd_event_drain(s->fd);
	if (me->act)
		me->act(me);
}

static void add(struct source *x, void (*act)(struct source *me))
{
	*x = (struct source){.loop = &loop, .act = act};
	x->s = (struct loop_source){
		.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = ready, .arg = x};
	cr_assert_eq(loop_add(&loop, &x->s, EPOLLIN, NULL), 0);
}

static void drop(struct source *x)
{
	loop_del(&loop, &x->s);
	close(x->s.fd);
}

static void poke(struct source *x)
{
	fd_event_signal(x->s.fd);
}

static void run(void)
{
	cr_assert_eq(loop_run_once(&loop, 0), 0);
}

/* --- sources --- */

Test(loop, serves_what_is_ready)
{
	struct source a, b;

	add(&a, NULL);
	add(&b, NULL);
	run();
	cr_assert_eq(a.calls + b.calls, 0);
	poke(&a);
	run();
	run();
	cr_assert_eq(a.calls, 1);
	cr_assert_eq(a.events, EPOLLIN);
	cr_assert_eq(b.calls, 0);
	drop(&a);
	drop(&b);
}

Test(loop, add_fails_for_what_cannot_be_watched)
{
	struct loop_source s = {.fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC)};
	struct err e;

	cr_assert_eq(loop_add(&loop, &s, EPOLLIN, &e), -EPERM);
	cr_assert_not(s.added);
	loop_del(&loop, &s); /* fine for what was not added */
	close(s.fd);
	cr_assert_eq(loop_add(&loop, &s, EPOLLIN, &e), -EBADF);
	cr_assert_neq(e.msg[0], 0);
}

static void delete_other(struct source *me)
{
	if (!me->other->s.added)
		return;
	drop(me->other);
	/* Whoever comes too late must be seen to use freed memory. */
	memset(me->other, 0xee, sizeof(*me->other));
	me->other->s.added = false;
}

/* Both are in one batch; whichever comes first deletes the other one. */
Test(loop, a_deleted_source_is_not_called)
{
	struct source *a = malloc(sizeof(*a)), *b = malloc(sizeof(*b));

	add(a, delete_other);
	add(b, delete_other);
	a->other = b;
	b->other = a;
	poke(a);
	poke(b);
	run();
	run();
	cr_assert_neq(a->s.added, b->s.added);
	cr_assert_eq(a->s.added ? a->calls : b->calls, 1);
	drop(a->s.added ? a : b);
	free(a);
	free(b);
}

static void free_self(struct source *me)
{
	drop(me);
	free(me);
}

Test(loop, a_callback_may_free_its_source)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct source *a = malloc(sizeof(*a));

	add(a, free_self);
	a->s.lock = &lock;
	poke(a);
	run();
	cr_assert_eq(pthread_mutex_trylock(&lock), 0, "released though the source is gone");
}

/* Deleting and adding again within a batch: the event of the old registration is void. */
static void replace_other(struct source *me)
{
	loop_del(me->loop, &me->other->s);
	fd_event_drain(me->other->s.fd);
	cr_assert_eq(loop_add(me->loop, &me->other->s, EPOLLIN, NULL), 0);
	me->act = NULL;
	me->other->act = NULL;
}

Test(loop, adding_again_forgets_the_old_event)
{
	struct source a, b;

	add(&a, replace_other);
	add(&b, replace_other);
	a.other = &b;
	b.other = &a;
	poke(&a);
	poke(&b);
	run();
	run();
	cr_assert_eq(a.calls + b.calls, 1);
	poke(a.calls ? &b : &a);
	run();
	cr_assert_eq(a.calls, 1);
	cr_assert_eq(b.calls, 1);
	drop(&a);
	drop(&b);
}

Test(loop, more_sources_than_a_batch_holds)
{
	static struct source many[3 * LOOP_BATCH];

	for (unsigned i = 0; i < ARRAY_SIZE(many); i++) {
		add(&many[i], NULL);
		poke(&many[i]);
	}
	for (unsigned i = 0; i < 3; i++)
		run();
	for (unsigned i = 0; i < ARRAY_SIZE(many); i++) {
		cr_assert_eq(many[i].calls, 1);
		drop(&many[i]);
	}
}

Test(loop, mod_zero_keeps_only_the_hangup)
{
	struct source a;
	int pipes[2];

	add(&a, NULL);
	loop_del(&loop, &a.s);
	close(a.s.fd);
	cr_assert_eq(pipe2(pipes, O_CLOEXEC | O_NONBLOCK), 0);
	a.s.fd = pipes[0];
	cr_assert_eq(loop_add(&loop, &a.s, EPOLLIN, NULL), 0);
	loop_mod(&loop, &a.s, 0);
	cr_assert_eq(write(pipes[1], "12345678", 8), 8);
	run();
	cr_assert_eq(a.calls, 0);
	close(pipes[1]);
	run();
	cr_assert_eq(a.calls, 1);
	cr_assert(a.events & EPOLLHUP);
	drop(&a);
}

static void note_lock(struct source *me)
{
	me->lock_was_free = pthread_mutex_trylock(me->s.lock) == 0;
}

Test(loop, the_lock_is_held_around_a_callback)
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct source a;

	add(&a, note_lock);
	a.s.lock = &lock;
	poke(&a);
	run();
	cr_assert_eq(a.calls, 1);
	cr_assert_not(a.lock_was_free);
	cr_assert_eq(pthread_mutex_trylock(&lock), 0);
	drop(&a);
}

static void stop(struct source *me)
{
	loop_stop(me->loop);
}

static void *add_and_poke(void *arg)
{
	struct source *x = arg;

	poke(x);
	pthread_mutex_lock(x->s.lock);
	cr_assert_eq(loop_add(x->loop, &x->s, EPOLLIN, NULL), 0);
	pthread_mutex_unlock(x->s.lock);
	return NULL;
}

/* Another thread adds a source, as a vCPU does for the serial port: the waiting loop sees it. */
Test(loop, add_from_another_thread_wakes_the_loop)
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct source a;
	pthread_t t;

	add(&a, stop);
	loop_del(&loop, &a.s);
	a.s.lock = &lock;
	cr_assert_eq(pthread_create(&t, NULL, add_and_poke, &a), 0);
	cr_assert_eq(loop_run(&loop), 0);
	pthread_join(t, NULL);
	cr_assert_eq(a.calls, 1);
	drop(&a);
}

Test(loop, can_be_run_again_after_a_stop)
{
	struct source a;

	add(&a, stop);
	for (unsigned i = 1; i <= 3; i++) {
		poke(&a);
		cr_assert_eq(loop_run(&loop), 0);
		cr_assert_eq(a.calls, i);
	}
	drop(&a);
}

Test(loop, a_broken_loop_says_so)
{
	struct loop l = {.epfd = -1};

	cr_assert_eq(loop_run(&l), -EBADF);
}

/* --- signals behind the lock --- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER, other_mutex = PTHREAD_MUTEX_INITIALIZER;
static int signalled;

/* Under `mutex`: what belongs to it waits, what belongs to another one or to none does not. */
static void signal_three(struct source *me)
{
	cr_assert(loop_signal(me->loop, &mutex, signalled));
	cr_assert_not(loop_signal(me->loop, &mutex, signalled), "due already");
	cr_assert_not(fd_event_drain(signalled), "not while the lock is held");
	loop_signal(me->loop, &other_mutex, signalled);
	cr_assert(fd_event_drain(signalled));
	loop_signal(me->loop, NULL, signalled);
	cr_assert(fd_event_drain(signalled));
}

static void signal_at_once(struct source *me)
{
	loop_signal(me->loop, &mutex, signalled);
	cr_assert(fd_event_drain(signalled), "this callback has no lock");
}

static void signal_expired(struct loop_timer *t)
{
	loop_signal(t->arg, &mutex, signalled);
	cr_assert_not(fd_event_drain(signalled));
}

Test(loop, a_signal_comes_when_the_lock_is_free)
{
	struct loop_timer t = {.expired = signal_expired, .arg = &loop, .lock = &mutex};
	struct source a, b;

	signalled = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	loop_signal(&loop, &mutex, signalled);
	cr_assert(fd_event_drain(signalled), "no callback is running");
	add(&a, signal_three);
	a.s.lock = &mutex;
	poke(&a);
	run();
	cr_assert(fd_event_drain(signalled));
	add(&b, signal_at_once);
	poke(&b);
	run();
	cr_assert_eq(b.calls, 1);
	cr_assert_not(fd_event_drain(signalled));
	loop_timer_set(&loop, &t, 0);
	run();
	cr_assert(fd_event_drain(signalled));
	drop(&a);
	drop(&b);
	close(signalled);
}

static void signal_first(struct source *me)
{
	cr_assert(loop_signal(me->loop, &mutex, signalled));
}

static void signal_second(struct source *me)
{
	cr_assert_not(loop_signal(me->loop, &mutex, signalled), "due already");
	cr_assert_not(fd_event_drain(signalled));
	cr_assert_eq(pthread_mutex_trylock(&mutex), EBUSY);
}

/* The third is of the same batch, but of somebody else. */
static void signal_was_given(struct source *me)
{
	(void)me;
	cr_assert_eq(pthread_mutex_trylock(&mutex), 0);
	pthread_mutex_unlock(&mutex);
	cr_assert(fd_event_drain(signalled));
}

Test(loop, neighbours_with_one_lock_share_a_signal)
{
	struct source a, b, c;

	signalled = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	add(&a, signal_first);
	add(&b, signal_second);
	add(&c, signal_was_given);
	a.s.lock = b.s.lock = &mutex;
	poke(&a);
	poke(&b);
	poke(&c);
	run();
	cr_assert_eq(a.calls + b.calls + c.calls, 3);
	drop(&c);
	poke(&a);
	run();
	cr_assert(fd_event_drain(signalled), "also behind the last of a batch");
	drop(&a);
	drop(&b);
	close(signalled);
}

static void nothing(int sig)
{
	(void)sig;
}

/* A signal handler ends epoll_wait(): one empty round, no error. */
Test(loop, a_signal_is_no_error)
{
	struct sigaction sa = {.sa_handler = nothing};
	timer_t timer;
	struct itimerspec in = {.it_value.tv_nsec = 1000000};
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2};

	sigaction(SIGUSR2, &sa, NULL);
	cr_assert_eq(timer_create(CLOCK_MONOTONIC, &ev, &timer), 0);
	in.it_interval = in.it_value; /* again, should the first one come too early */
	cr_assert_eq(timer_settime(timer, 0, &in, NULL), 0);
	cr_assert_eq(loop_run_once(&loop, -1), 0);
	timer_delete(timer);
}

/* --- timers --- */

struct tick {
	struct loop_timer t;
	struct tick *other;
	unsigned order, calls;
	bool lock_was_free;
	void (*act)(struct tick *me);
};

static unsigned clock_order;

static void expired(struct loop_timer *t)
{
	struct tick *me = t->arg;

	me->calls++;
	me->order = ++clock_order;
	if (me->act)
		me->act(me);
}

static struct tick tick(void (*act)(struct tick *me))
{
	return (struct tick){.t = {.expired = expired}, .act = act};
}

static void arm(struct tick *x, uint64_t in_ns)
{
	x->t.arg = x;
	loop_timer_set(&loop, &x->t, in_ns);
}

Test(loop, timers_expire_in_order_once)
{
	struct tick a = tick(NULL), b = tick(NULL), c = tick(NULL);

	arm(&a, 3000000);
	arm(&b, 1000000);
	arm(&c, 2000000);
	while (!a.calls)
		cr_assert_eq(loop_run_once(&loop, -1), 0);
	cr_assert_eq(b.order, 1);
	cr_assert_eq(c.order, 2);
	cr_assert_eq(a.order, 3);
	run();
	cr_assert_eq(a.calls + b.calls + c.calls, 3);
	cr_assert_null(loop.timers);
}

Test(loop, setting_again_moves_and_clearing_removes)
{
	struct tick a = tick(NULL), b = tick(NULL);

	arm(&a, 0);
	arm(&a, 3600000000000ull);
	arm(&b, 0);
	loop_timer_clear(&loop, &b.t);
	loop_timer_clear(&loop, &b.t);
	run();
	cr_assert_eq(a.calls + b.calls, 0);
	cr_assert_eq(loop.timers, &a.t);
	cr_assert_null(a.t.next);
	loop_timer_clear(&loop, &a.t);
	cr_assert_null(loop.timers);
}

/* The sum with the present time would wrap, and the timer expire at once. */
Test(loop, a_timer_at_the_end_of_time)
{
	struct tick a = tick(NULL), b = tick(NULL);

	arm(&a, UINT64_MAX);
	arm(&b, 0);
	run();
	cr_assert_eq(a.calls, 0);
	cr_assert_eq(b.calls, 1);
	cr_assert_eq(loop_run_once(&loop, 1), 0, "a timeout that fits into an int");
	loop_timer_clear(&loop, &a.t);
}

static void again_at_once(struct tick *me)
{
	if (me->calls < 1000)
		arm(me, 0);
}

/* A timer that is always due must not keep the sources from being served. */
Test(loop, a_timer_that_rearms_itself_does_not_starve_sources)
{
	struct tick a = tick(again_at_once);
	struct source s;

	add(&s, NULL);
	arm(&a, 0);
	poke(&s);
	run();
	cr_assert_eq(s.calls, 1);
	cr_assert_lt(a.calls, 1000);
	loop_timer_clear(&loop, &a.t);
	drop(&s);
}

static void clear_other(struct tick *me)
{
	loop_timer_clear(&loop, &me->other->t);
}

Test(loop, a_timer_may_clear_the_next_one)
{
	struct tick a = tick(clear_other), b = tick(NULL);

	a.other = &b;
	arm(&a, 0);
	arm(&b, 0);
	while (!a.calls)
		cr_assert_eq(loop_run_once(&loop, -1), 0);
	run();
	cr_assert_eq(b.calls, 0);
	cr_assert_not(b.t.armed);
}

static struct source victim;

static void drop_victim(struct tick *me)
{
	(void)me;
	drop(&victim);
}

/* Timers run before the batch that has been fetched already. */
Test(loop, a_timer_may_delete_a_ready_source)
{
	struct tick a = tick(drop_victim);

	add(&victim, NULL);
	poke(&victim);
	arm(&a, 0);
	run();
	run();
	cr_assert_eq(a.calls, 1);
	cr_assert_eq(victim.calls, 0);
}

static void note_timer_lock(struct tick *me)
{
	me->lock_was_free = pthread_mutex_trylock(me->t.lock) == 0;
}

Test(loop, the_lock_is_held_around_a_timer)
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct tick a = tick(note_timer_lock);

	a.t.lock = &lock;
	arm(&a, 0);
	run();
	cr_assert_eq(a.calls, 1);
	cr_assert_not(a.lock_was_free);
	cr_assert_eq(pthread_mutex_trylock(&lock), 0);
}

/* --- hold --- */

static void counted(struct loop_timer *t)
{
	*(unsigned *)t->arg += 1;
}

Test(loop, what_has_a_lock_waits_while_it_is_held)
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	unsigned expired = 0;
	struct loop_timer t = {.expired = counted, .arg = &expired, .lock = &lock};
	struct source device, edge, gone, other;

	add(&device, NULL);
	add(&edge, NULL);
	add(&gone, NULL);
	add(&other, NULL);
	device.s.lock = edge.s.lock = gone.s.lock = &lock;
	loop_mod(&loop, &edge.s, EPOLLIN | EPOLLET);
	loop_hold(&loop);
	loop_timer_set(&loop, &t, 0);
	fd_event_signal(device.s.fd);
	fd_event_signal(edge.s.fd);
	fd_event_signal(gone.s.fd);
	fd_event_signal(other.s.fd);
	for (unsigned i = 0; i < 4; i++)
		loop_run_once(&loop, 0);
	cr_expect_eq(device.calls + edge.calls + gone.calls, 0);
	cr_expect_eq(expired, 0);
	cr_expect_eq(other.calls, 1, "what has no lock is served");
	/* What is done to one that is on hold counts when it is served again. */
	loop_mod(&loop, &edge.s, EPOLLIN | EPOLLET | EPOLLOUT);
	loop_del(&loop, &gone.s);
	loop_release(&loop);
	loop_run_once(&loop, 0);
	cr_expect_eq(device.calls, 1);
	cr_expect_eq(edge.calls, 1);
	cr_expect_eq(edge.events, EPOLLIN | EPOLLOUT);
	cr_expect_eq(gone.calls, 0);
	while (!expired)
		loop_run_once(&loop, 1000);
	fd_event_signal(device.s.fd);
	loop_run_once(&loop, 0);
	cr_expect_eq(device.calls, 2);
	drop(&device);
	drop(&edge);
	drop(&other);
	close(gone.s.fd);
}
