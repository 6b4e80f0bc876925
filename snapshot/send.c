/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source of a migration. Steps of snapshot/precopy.h, each by a thread (send_steps.c):
 *
 *	greet, first round	all that is not zero
 *	further rounds		what was written since the one before
 *	last step		with the guest stopped: what is left, its state, the hand-over (stream.c)
 *
 * With post-copy, when rounds do not help, what is left stays here in the last step: it goes when the target asks
 * for it, or by itself when the guest runs there.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "snapshot/fork.h"
#include "snapshot/send.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/random.h"
#include "vmm/drive.h"

const char *const migrate_status_name[] = {
	[MIGRATE_NONE] = "none",
	[MIGRATE_SETUP] = "setup",
	[MIGRATE_ACTIVE] = "active",
	[MIGRATE_DEVICE] = "device",
	[MIGRATE_COMPLETED] = "completed",
	[MIGRATE_FAILED] = "failed",
	[MIGRATE_CANCELLED] = "cancelled",
	[MIGRATE_LOST] = "handover-lost",
	[MIGRATE_POSTCOPY] = "postcopy-active",
};

static void fill_info(const struct sending *s, struct migrate_info *info)
{
	*info = (struct migrate_info){
		.status = s->status,
		.transferred = s->out.bytes,
		.total = s->hello.mem_size,
		.remaining = s->remaining * GMEM_PAGE,
		.normal = s->normal,
		.duplicate = s->duplicate,
		.dirty_sync_count = s->rounds.round,
		.downtime_us = s->downtime_us,
		.total_us = (now_ns() - s->started_ns) / 1000,
		.split = s->runs_there,
	};
	/* The thread writes it. */
	if (!s->rounds.has_thread)
		info->failed = s->rounds.e;
}

static void free_sending(struct sending *s)
{
	precopy_finish(&s->rounds);
	fd_close(&s->fd);
	stream_in_finish(&s->in);
	snapfile_drop(&s->file);
	state_finish(&s->state);
	pageset_finish(&s->dirty);
	free(s->buffer);
	free((void *)(uintptr_t)s->p.socket_path);
	free((void *)(uintptr_t)s->p.config);
	free((void *)(uintptr_t)s->p.metadata);
	free(s);
}

static void drop_state(struct sending *s)
{
	snapfile_drop(&s->file);
	state_finish(&s->state);
}

/* The state of now, as bytes; the vCPUs are parked. Devices are drained, and thawed by the caller. */
static int save(struct sending *s, struct err *e)
{
	struct vm_machine *m = s->vm->machine;
	struct state_meta *meta = &s->state.meta;
	struct timespec now;
	int r;

	clock_gettime(CLOCK_REALTIME, &now);
	memcpy(&meta->id, s->hello.id, sizeof(meta->id));
	meta->created_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	snprintf(meta->made_by, sizeof(meta->made_by), "%s", SPORE_VERSION);
	meta->host = x86_host_fingerprint(&m->kvm);
	meta->mem_size = s->hello.mem_size;
	s->state.config = s->p.config;
	s->state.config_len = s->p.config_len;
	r = state_save(&s->state, m, e);
	return r == 0 ? state_write(&s->state, m, NULL, &s->file, e) : r;
}

/* What the target judges before anything else is sent. */
static int save_setup(struct sending *s, struct err *e)
{
	struct vcpu_set *vcpus = &s->vm->machine->vcpus;
	int r;

	if (s->was_running)
		vcpu_set_pause(vcpus);
	r = save(s, e);
	precopy_thaw(s->vm->machine);
	if (s->was_running)
		vcpu_set_resume(vcpus);
	return r;
}

static int freeze(struct sending *s, struct err *e)
{
	struct vm_machine *m = s->vm->machine;
	int r;

	drop_state(s);
	s->was_running = s->vm->phase == VM_RUNNING;
	s->paused_ns = now_ns();
	r = vm_pause(s->vm, e);
	if (r < 0)
		return r;
	s->frozen = true;
	s->status = MIGRATE_DEVICE;
	loop_hold(s->vm->loop);
	if (m->vcpus.end != VCPU_END_NONE)
		return err_set(e, ESHUTDOWN, "the guest has ended");
	r = save(s, e);
	if (r == 0)
		r = precopy_collect(m, &s->rounds.next, &s->dirty, e);
	if (s->split)
		s->remaining = pageset_count(&s->rounds.next);
	return r == 0 ? drive_release(&s->vm->config, e) : r;
}

/* The guest goes on here. */
static void thaw(struct sending *s)
{
	struct err e;

	loop_release(s->vm->loop);
	precopy_thaw(s->vm->machine);
	if (s->was_running && vm_resume(s->vm, &e) < 0)
		log_error("after a migration that failed: %s", e.msg);
	s->frozen = false;
}

static void give_back(struct sending *s)
{
	struct err e;

	if (s->frozen && drive_claim(&s->vm->config, &e) < 0)
		log_error("after a migration that failed: %s", e.msg);
	if (s->frozen)
		thaw(s);
	precopy_end(&s->rounds);
	memory_put_back(&s->vm->machine->mem, &s->dirty);
}

static void say(const struct migrate_info *info)
{
	const char *status = migrate_status_name[info->status];

	if (info->status == MIGRATE_COMPLETED)
		log_info(
			"migration %s in %llu us: %llu rounds, %llu pages, %llu bytes, stopped for "
			"%llu us",
			status, (unsigned long long)info->total_us,
			(unsigned long long)info->dirty_sync_count,
			(unsigned long long)info->normal, (unsigned long long)info->transferred,
			(unsigned long long)info->downtime_us);
	else
		log_error("migration %s: %s", status, info->failed.msg);
}

static void end(struct sending *s, enum migrate_status status)
{
	struct snapshot_history *h = s->h;
	struct migrate_info info;

	s->status = status;
	fill_info(s, &info);
	*h->migrated = info;
	say(&info);
	if (status == MIGRATE_FAILED || status == MIGRATE_CANCELLED)
		give_back(s);
	fd_close(&s->fd);
	s->p.done(s->p.arg, &info);
	if (status == MIGRATE_LOST)
		return;
	h->sending = NULL;
	free_sending(s);
}

static void failed(struct sending *s)
{
	struct err ignored;

	if (s->decision == COMMITTED) {
		end(s, MIGRATE_LOST);
		return;
	}
	s->out.timeout_ms = 0;
	if (!s->refused)
		stream_send_text(&s->out, STREAM_ABORT, s->rounds.e.msg, &ignored);
	end(s, s->decision == ABORTED ? MIGRATE_CANCELLED : MIGRATE_FAILED);
}

/* How long the guest would stand still for what is left. */
static uint64_t expected_ms(const struct sending *s)
{
	return s->bandwidth ? s->remaining * GMEM_PAGE * 1000 / s->bandwidth : 0;
}

static int next_step(struct sending *s, struct err *e)
{
	struct precopy *p = &s->rounds;
	struct migrate_info info;
	bool fits;
	int r = precopy_take(p, e);

	if (r < 0)
		return r;
	s->remaining = pageset_count(&p->next);
	fill_info(s, &info);
	s->p.progress(s->p.arg, &info);
	fits = expected_ms(s) <= s->p.downtime_limit_ms;
	s->split = s->p.post_copy && !fits && (p->round >= s->p.max_rounds || precopy_stalls(p));
	if (s->split || (fits && (s->remaining <= PRECOPY_LAST_PAGES || precopy_stalls(p)))) {
		r = freeze(s, e);
		return r == 0 ? precopy_step(p, send_last, e) : r;
	}
	if (p->round >= s->p.max_rounds)
		return err_set(e, EBUSY,
			       "after %u rounds %llu MiB are left, for which the guest would stand "
			       "still for %llu ms: it writes faster than they are sent "
			       "(downtime_limit_ms, max_rounds)",
			       p->round, (unsigned long long)(s->remaining * GMEM_PAGE >> 20),
			       (unsigned long long)expected_ms(s));
	p->round++;
	return precopy_step(p, send_round, e);
}

static void on_step(void *arg)
{
	struct sending *s = arg;
	struct precopy *p = &s->rounds;

	if (p->r == 0 && s->decision == COMMITTED) {
		end(s, MIGRATE_COMPLETED);
		return;
	}
	if (p->r == 0 && s->decision == ABORTED)
		p->r = err_set(&p->e, ECANCELED, "it was aborted");
	if (p->r == 0)
		p->r = next_step(s, &p->e);
	if (p->r < 0)
		failed(s);
}

/* --- begin --- */

static int connect_to(struct sending *s, struct err *e)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	const char *path = s->p.socket_path;

	s->fd = fd_inherit(path, e);
	if (s->fd != -ENOENT)
		return s->fd < 0 ? err_wrap(e, "socket_path") : 0;
	if (strlen(path) >= sizeof(addr.sun_path))
		return err_set(e, ENAMETOOLONG, "socket_path: longer than %zu bytes",
			       sizeof(addr.sun_path) - 1);
	strcpy(addr.sun_path, path);
	s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (s->fd < 0)
		return err_sys(e, "create a socket");
	if (connect(s->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return err_sys(e, "socket_path: connect to '%s'", path);
	return 0;
}

static struct sending *prepare(struct vm *vm, struct snapshot_history *h,
			       const struct migrate_params *p, struct err *e)
{
	struct sending *s = calloc(1, sizeof(*s));

	err_set(e, ENOMEM, "out of memory");
	if (!s)
		return NULL;
	s->vm = vm;
	s->h = h;
	s->fd = -1;
	s->p = *p;
	s->p.socket_path = strdup(p->socket_path);
	s->p.config = strndup(p->config, p->config_len);
	s->p.metadata = p->metadata ? strdup(p->metadata) : NULL;
	s->buffer = malloc(STREAM_PAGES_MAX * GMEM_PAGE);
	s->started_ns = now_ns();
	s->status = MIGRATE_SETUP;
	s->was_running = vm->phase == VM_RUNNING;
	s->hello = (struct stream_hello){
		.oldest = p->post_copy ? STREAM_VERSION : STREAM_OLDEST,
		.newest = STREAM_VERSION,
		.mem_size = gmem_size(&vm->machine->mem),
	};
	if (s->p.socket_path && s->p.config && s->buffer && !s->p.metadata == !p->metadata)
		return s;
	free_sending(s);
	return NULL;
}

static int begin(struct sending *s, struct err *e)
{
	struct precopy *p = &s->rounds;
	int r = connect_to(s, e);

	s->out = (struct stream_out){
		.fd = s->fd, .timeout_ms = SEND_STALL_MS, .stop = &s->rounds.stop};
	stream_in_init(&s->in, STREAM_FROM_TARGET);
	if (r == 0 && random_bytes(s->hello.id, sizeof(s->hello.id)) != sizeof(s->hello.id))
		r = err_set(e, EAGAIN, "choose an id: the host has no random bytes");
	if (r == 0)
		r = pageset_init(&s->dirty, s->hello.mem_size / GMEM_PAGE, e);
	if (r == 0)
		r = precopy_init(p, s->vm, &s->dirty, on_step, s, e);
	if (r == 0)
		r = save_setup(s, e);
	if (r == 0)
		r = precopy_begin(p, e);
	if (r < 0)
		return r;
	pageset_clear(&p->next); /* what is there is sent anyway */
	r = precopy_step(p, send_first, e);
	if (r < 0)
		give_back(s);
	return r;
}

int migrate_begin(struct vm *vm, struct snapshot_history *h, const struct migrate_params *p,
		  struct err *e)
{
	struct sending *s;
	int r;

	if (!vm->machine || vm->machine->vcpus.end != VCPU_END_NONE)
		return err_set(e, EINVAL, "there is no guest that runs");
	if (h->live || h->sending || fork_busy(h))
		return err_set(e, EBUSY, "a %s is under way",
			       h->live	    ? "live snapshot"
			       : h->sending ? "migration"
					    : "fork");
	if (p->post_copy &&
	    (vm->config.machine.memfd || vm->config.machine.huge_pages == HUGE_PAGES_2M))
		return err_set(
			e, ENOTSUP,
			"post_copy: only memory of ordinary pages can be fetched one by one: "
			"no \"memory_backend\": \"Memfd\", no 2M huge pages");
	/* Nobody could end a thread that waits for a handler which is gone. */
	if (h->lazy)
		return err_set(e, ENOTSUP, "memory that a page fault handler brings cannot move");
	if (!h->migrated)
		h->migrated = calloc(1, sizeof(*h->migrated));
	s = h->migrated ? prepare(vm, h, p, e) : NULL;
	if (!s)
		return -ENOMEM;
	r = begin(s, e);
	if (r < 0)
		free_sending(s);
	else
		h->sending = s;
	return r;
}

int migrate_take_back(struct vm *vm, struct snapshot_history *h, struct err *e)
{
	struct sending *s = h->sending;
	int r;

	if (!s || s->status != MIGRATE_LOST)
		return err_set(e, EBUSY, "the microVM is being handed over");
	if (s->runs_there)
		return err_set(e, EBUSY, "the microVM has run at the target since");
	r = drive_claim(&vm->config, e);
	if (r < 0)
		return r;
	s->was_running = false;
	h->sending = NULL;
	give_back(s);
	free_sending(s);
	return 0;
}

int sending_abort(struct sending *s, struct err *e)
{
	enum decision undecided = UNDECIDED;

	if (s->runs_there)
		return err_set(e, EBUSY, "it runs at the target, which needs what is still here");
	s->rounds.stop = true;
	if (atomic_compare_exchange_strong(&s->decision, &undecided, ABORTED))
		return 0;
	return s->decision == ABORTED
		       ? 0
		       : err_set(e, EBUSY,
				 "the target was told to run the microVM: it stays stopped here");
}

bool sending_stopped(const struct sending *s)
{
	return s->frozen;
}

void sending_info(const struct sending *s, struct migrate_info *info)
{
	fill_info(s, info);
}

void sending_abandon(struct sending *s)
{
	if (!s)
		return;
	s->rounds.stop = true;
	precopy_join(&s->rounds);
	free_sending(s);
}
