/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "vmm/vcpu.h"

#include <assert.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/thread.h"
#include "vmm/layout.h"

/* Enough for serving an exit; RSS counts only the pages that are touched. */
#define STACK_SIZE KIB(128)

/*
 * Its handler only interrupts KVM_RUN. Not a real-time signal: those are refused when the user's
 * limit of queued signals is reached, which another process of the same user can bring about.
 */
#define KICK_SIGNAL SIGUSR1

static void on_kick(int sig)
{
	(void)sig;
}

static int create_vcpu(struct vcpu_set *s, struct kvm *k, unsigned index, struct err *e)
{
	struct vcpu *v = &s->vcpu[index];

	*v = (struct vcpu){.fd = -1, .index = index, .set = s, .run_size = k->run_size};
	snprintf(v->name, sizeof(v->name), "vcpu %u", index);
	s->count = index + 1;
	v->fd = ioctl(k->vm_fd, KVM_CREATE_VCPU, index);
	if (v->fd < 0)
		return err_sys(e, "create vCPU %u (KVM_CREATE_VCPU)", index);
	v->run = mmap(NULL, v->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (v->run == MAP_FAILED) {
		v->run = NULL;
		return err_sys(e, "map the run area of vCPU %u", index);
	}
	return 0;
}

int vcpu_set_init(struct vcpu_set *s, struct kvm *k, struct vcpu *vcpu, unsigned count,
		  struct bus *pio, struct bus *mmio, struct err *e)
{
	assert(count > 0 && count <= LAYOUT_VCPU_MAX);
	*s = (struct vcpu_set){.pio = pio, .mmio = mmio, .vcpu = vcpu, .wanted = VCPU_PAUSE};
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	s->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->end_fd < 0)
		return err_sys(e, "create an eventfd");
	for (unsigned i = 0; i < count; i++) {
		int r = create_vcpu(s, k, i, e);

		if (r < 0)
			return r;
	}
	return 0;
}

void vcpu_set_end(struct vcpu_set *s, enum vcpu_end end)
{
	int none = VCPU_END_NONE;

	if (atomic_compare_exchange_strong(&s->end, &none, end))
		fd_event_signal(s->end_fd);
}

#define SPIN_NS 200000u

static void spin(const struct vcpu_set *s)
{
	uint64_t until = now_ns() + SPIN_NS;

	while (s->wanted == VCPU_PAUSE && now_ns() < until)
		__builtin_ia32_pause();
}

/*
 * With the lock held, which is given up meanwhile. Spins once for each vcpu_set_soon(), and not where
 * the main thread is on this processor: that would make it wait.
 */
static void wait_for_change(struct vcpu *v)
{
	struct vcpu_set *s = v->set;
	bool soon = v->soon_seen != s->soon;

	v->soon_seen = s->soon;
	if (!soon || sched_getcpu() == s->soon_cpu) {
		pthread_cond_wait(&s->changed, &s->lock);
		return;
	}
	pthread_mutex_unlock(&s->lock);
	spin(s);
	pthread_mutex_lock(&s->lock);
}

/*
 * Waits outside KVM_RUN until the guest may run. False when the thread has to end. A reported end
 * keeps every vCPU that comes by here from running the guest again.
 */
static bool park(struct vcpu *v)
{
	struct vcpu_set *s = v->set;
	bool run;

	pthread_mutex_lock(&s->lock);
	s->parked++;
	pthread_cond_broadcast(&s->changed);
	while (s->wanted == VCPU_PAUSE || (s->wanted == VCPU_RUN && s->end != VCPU_END_NONE))
		wait_for_change(v);
	run = s->wanted == VCPU_RUN;
	s->parked--;
	if (run)
		v->run->immediate_exit = 0;
	pthread_mutex_unlock(&s->lock);
	return run;
}

static void serve_io(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	struct vcpu_metrics *m = &v->set->metrics;

	/* A string instruction (rep outsb) comes as one exit with `count` accesses to one port. */
	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
		if (run->io.direction == KVM_EXIT_IO_OUT)
			bus_write(v->set->pio, run->io.port, data, run->io.size);
		else
			bus_read(v->set->pio, run->io.port, data, run->io.size);
	}
	metric_inc(run->io.direction == KVM_EXIT_IO_OUT ? &m->exit_io_out : &m->exit_io_in);
}

static void serve_mmio(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	struct vcpu_metrics *m = &v->set->metrics;

	if (run->mmio.is_write)
		bus_write(v->set->mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
	else
		bus_read(v->set->mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
	metric_inc(run->mmio.is_write ? &m->exit_mmio_write : &m->exit_mmio_read);
}

static void serve_system_event(struct vcpu *v)
{
	switch (v->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		vcpu_set_end(v->set, VCPU_END_POWEROFF);
		break;
	case KVM_SYSTEM_EVENT_RESET:
		vcpu_set_end(v->set, VCPU_END_RESET);
		break;
	default:
		log_error("KVM reported system event %u", v->run->system_event.type);
		vcpu_set_end(v->set, VCPU_END_ERROR);
	}
}

/* KVM gave up on the guest: says all that is known, since nobody can look any more. */
static void report_failure(struct vcpu *v, int error)
{
	struct kvm_run *run = v->run;
	struct kvm_regs regs = {0};

	metric_inc(&v->set->metrics.failures);
	ioctl(v->fd, KVM_GET_REGS, &regs);
	if (error)
		log_error("KVM_RUN failed: %s; RIP 0x%llx", strerror(error), regs.rip);
	else if (run->exit_reason == KVM_EXIT_FAIL_ENTRY)
		log_error("guest entry failed: hardware reason 0x%llx; RIP 0x%llx",
			  run->fail_entry.hardware_entry_failure_reason, regs.rip);
	else if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
		log_error("KVM internal error %u; RIP 0x%llx RSP 0x%llx RFLAGS 0x%llx",
			  run->internal.suberror, regs.rip, regs.rsp, regs.rflags);
	else
		log_error("unexpected KVM exit %u; RIP 0x%llx", run->exit_reason, regs.rip);
	vcpu_set_end(v->set, VCPU_END_ERROR);
}

static void serve_exit(struct vcpu *v)
{
	switch (v->run->exit_reason) {
	case KVM_EXIT_IO:
		serve_io(v);
		break;
	case KVM_EXIT_MMIO:
		serve_mmio(v);
		break;
	case KVM_EXIT_INTR:
		break;
	case KVM_EXIT_SHUTDOWN:
		log_error("vCPU %u: triple fault", v->index);
		vcpu_set_end(v->set, VCPU_END_TRIPLE_FAULT);
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		serve_system_event(v);
		break;
	default:
		report_failure(v, 0);
	}
}

/* Runs the guest until somebody wants the vCPU parked or the guest is over. */
static void run_guest(struct vcpu *v)
{
	while (v->set->end == VCPU_END_NONE) {
		int r = ioctl(v->fd, KVM_RUN, 0);

		if (r == 0 && !v->set->first_exit_ns && v->index == 0)
			v->set->first_exit_ns = now_ns();
		if (r == 0)
			serve_exit(v);
		else if (errno == EINTR)
			return;
		else if (errno != EAGAIN) /* EAGAIN: the start-up IPI came, go on with it */
			report_failure(v, errno);
	}
}

/*
 * The first entry into a guest takes KVM longest: it makes its page tables and caches. Here it gets
 * as far as the guest's first instruction and not further: a signal is there, blocked before KVM_RUN
 * and not in it, which KVM looks for last of all. Nothing of the vCPU's state has changed then.
 */
static void warm_up(struct vcpu *v)
{
	struct {
		uint32_t len; /* struct kvm_signal_mask with the kernel's set behind it */
		uint8_t set[8];
	} mask = {.len = sizeof(mask.set)};
	sigset_t kick, before;

	_Static_assert(offsetof(struct kvm_signal_mask, sigset) == sizeof(mask.len), "KVM ABI");
	sigemptyset(&kick);
	sigaddset(&kick, KICK_SIGNAL);
	pthread_sigmask(SIG_BLOCK, &kick, &before);
	memcpy(mask.set, &before, sizeof(mask.set));
	if (ioctl(v->fd, KVM_SET_SIGNAL_MASK, &mask) == 0) {
		pthread_kill(pthread_self(), KICK_SIGNAL);
		if (ioctl(v->fd, KVM_RUN, 0) == 0) /* it has run: not what it was any more */
			report_failure(v, 0);
		ioctl(v->fd, KVM_SET_SIGNAL_MASK, NULL);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void *vcpu_main(void *arg)
{
	struct vcpu *v = arg;
	struct err e;

	log_name_thread(v->name);
	pthread_setname_np(pthread_self(), v->name); /* for ps and top */
	if (v->set->warm)
		warm_up(v);
	if (seccomp_install(v->set->seccomp, SECCOMP_VCPU, &e) < 0) {
		log_error("%s", e.msg);
		vcpu_set_end(v->set, VCPU_END_ERROR);
	}
	seccomp_attack(SECCOMP_VCPU);
	while (park(v))
		run_guest(v);
	return NULL;
}

static void install_kick_handler(void)
{
	struct sigaction sa = {.sa_handler = on_kick};

	sigaction(KICK_SIGNAL, &sa, NULL);
}

int vcpu_set_start(struct vcpu_set *s, const struct seccomp *seccomp, struct err *e)
{
	s->seccomp = seccomp;
	install_kick_handler();
	for (; s->started < s->count; s->started++) {
		struct vcpu *v = &s->vcpu[s->started];
		int r = thread_start(&v->thread, STACK_SIZE, vcpu_main, v);

		if (r < 0)
			return err_set(e, -r, "create the thread of vCPU %u: %s", s->started,
				       strerror(-r));
	}
	return 0;
}

static void request(struct vcpu_set *s, enum vcpu_wanted wanted)
{
	s->wanted = wanted;
	for (unsigned i = 0; i < s->started; i++) {
		s->vcpu[i].run->immediate_exit = 1;
		pthread_kill(s->vcpu[i].thread, KICK_SIGNAL);
	}
	pthread_cond_broadcast(&s->changed);
}

void vcpu_set_pause(struct vcpu_set *s)
{
	pthread_mutex_lock(&s->lock);
	if (s->wanted == VCPU_RUN)
		request(s, VCPU_PAUSE);
	while (s->parked < s->started)
		pthread_cond_wait(&s->changed, &s->lock);
	pthread_mutex_unlock(&s->lock);
}

void vcpu_set_soon(struct vcpu_set *s)
{
	/* Without the vDSO sched_getcpu() is a system call, which the filters refuse. */
	if (!getauxval(AT_SYSINFO_EHDR))
		return;
	pthread_mutex_lock(&s->lock);
	s->soon++;
	s->soon_cpu = sched_getcpu();
	pthread_mutex_unlock(&s->lock);
	pthread_cond_broadcast(&s->changed);
}

void vcpu_set_resume(struct vcpu_set *s)
{
	pthread_mutex_lock(&s->lock);
	s->wanted = VCPU_RUN;
	pthread_mutex_unlock(&s->lock);
	/* Behind the lock, which whoever wakes up needs. */
	pthread_cond_broadcast(&s->changed);
}

void vcpu_set_finish(struct vcpu_set *s)
{
	if (!s->vcpu)
		return;
	pthread_mutex_lock(&s->lock);
	request(s, VCPU_STOP);
	pthread_mutex_unlock(&s->lock);
	for (unsigned i = 0; i < s->started; i++)
		pthread_join(s->vcpu[i].thread, NULL);
	for (unsigned i = 0; i < s->count; i++) {
		if (s->vcpu[i].run)
			munmap(s->vcpu[i].run, s->vcpu[i].run_size);
		fd_close(&s->vcpu[i].fd);
		free(s->vcpu[i].cpuid);
	}
	fd_close(&s->end_fd);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
	*s = (struct vcpu_set){0};
}
