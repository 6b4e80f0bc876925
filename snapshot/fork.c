/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How memory is shared without a copy and without a long pause.
 *
 * It is a memfd that the guest writes to ("memory_backend": "Memfd"). The first fork makes the mapping
 * a private one, at the same address and while the guest runs: the memfd is left as it was, and what
 * is written from then on becomes a page of this process. KVM follows by its MMU notifier; its log of
 * dirty pages, turned on before, knows these pages. They are written into the memfd in rounds, while
 * the guest runs, until little is left, or it does not become less. Then the guest is stopped: the
 * states are read, what is left is copied, which is LAST_PAGES and mostly far fewer, and it goes on.
 * Now the memfd is what memory was at this moment. It is sealed: the base, of which parent and
 * children have private mappings, and nobody can write to it any more.
 *
 * A later fork finds what was written since in the log, and writes it into a memfd of its own: a layer
 * (snapshot/layers.h), in rounds as before. The parent's own mapping stays as it is. When there are
 * LAYERS_MAX of them the next one takes the place of all. So the pause has nothing to do with the
 * size of memory, nor with what was written between two forks.
 *
 * Memory that is private already, since this microVM comes from a snapshot or a fork, is copied by the
 * first fork: all of it that holds something, in the same rounds, into a new base.
 *
 *	prepare	log on, TURN_PRIVATE a turn, ask
 *	copy	TURN_PAGES a turn of the loop	| rounds
 *	ask	much? another round		|
 *	freeze	little: stop, states, copy the rest, go on
 *	finish	seal, state file, tell
 *
 * Whoever has pages of guest memory in the kernel's hands is drained before the mapping changes and
 * whenever it is asked what is dirty: requests of block devices that are in flight, which have marked
 * their buffers when they began. All others read and write through the mapping.
 *
 * KVM's log is one, and diff snapshots want it too. Both tell each other what they took.
 *
 * All is done by the main thread, in turns of a few milliseconds.
 */
#define _GNU_SOURCE
#include "snapshot/fork.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "snapshot/precopy.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/random.h"

#define ROUNDS_MAX   8u
/* What is left for the pause: 1 MiB. */
#define LAST_PAGES   256u
/* And what fits into the buffer: it grows until all vCPUs stand still. The rest costs a write. */
#define TAKEN_PAGES  (4 * LAST_PAGES)
/* What one turn of the loop copies, or makes private: a millisecond or two. */
#define TURN_PAGES   1024u
#define TURN_PRIVATE MIB(32)

#define SEALS (F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* One on its way. */
struct fork_run {
	struct fork_params p;
	char *config;	     /* owned, of p */
	struct layer target; /* to be written; fd -1: the base is */
	bool all;	     /* everything that is there is copied, into a new base */
	bool whole;	     /* the layer takes the place of all others */
	struct pageset next; /* to be copied */
	uint64_t at;	     /* how far that is */
	struct memory_taken taken;
	struct pageset pages; /* copied or to be copied */
	uint64_t count;	      /* pages of this round */
	unsigned round;
	uint64_t started_ns;
	struct state state;
	struct snapfile_writer out;
	struct fork_image image;
};

struct fork {
	struct vm *vm;
	int base;   /* owned; -1: none yet */
	bool based; /* base and layers are what memory was, but for what is in `since` or the log */
	struct layer layer[LAYERS_MAX];
	unsigned layers;
	struct pageset since; /* written since then, as far as it was taken from the log */
	struct pageset owed;  /* taken from the log, to be told to the next snapshot */
	struct loop_timer timer;
	struct fork_run *run; /* or NULL */
};

/* --- what is dirty --- */

static void move_pages(struct pageset *to, struct pageset *from)
{
	pageset_add_all(to, from);
	pageset_clear(from);
}

void fork_share_dirty(struct fork *f, struct pageset *s)
{
	if (!f)
		return;
	pageset_add_all(&f->since, s);
	move_pages(s, &f->owed);
}

/* Adds what was written since it was asked for last. Devices are drained. */
static int take_dirty(struct fork *f, struct pageset *s, struct err *e)
{
	struct pageset taken = {0};
	int r = pageset_init(&taken, s->pages, e);

	if (r == 0)
		r = precopy_take_log(f->vm->machine, &taken, e);
	/* Also what was taken by one that fails half-way: it is not in the log any more. */
	if (taken.bit) {
		pageset_add_all(&f->owed, &taken);
		pageset_add_all(&f->since, &taken);
	}
	if (r == 0)
		move_pages(s, &f->since);
	pageset_finish(&taken);
	return r;
}

/* --- the run --- */

static void run_free(struct fork_run *n)
{
	if (!n)
		return;
	layer_finish(&n->target);
	pageset_finish(&n->next);
	pageset_finish(&n->pages);
	memory_taken_finish(&n->taken);
	snapfile_drop(&n->out);
	state_finish(&n->state);
	fd_close(&n->image.fd[0]);
	free(n->config);
	free(n);
}

/* What it has copied, or not any more, the next one has to. */
static void give_up(struct fork *f)
{
	pageset_add_all(&f->since, &f->run->pages);
	if (f->run->all)
		fd_close(&f->base);
}

static void end(struct fork *f, const struct err *failed)
{
	struct fork_run *n = f->run;

	n->image.took_us = (now_ns() - n->started_ns) / 1000;
	if (failed) {
		give_up(f);
		log_error("fork: %s", failed->msg);
	} else {
		log_info("fork in %llu us: %u rounds, %llu pages, paused for %llu us (stop %llu, "
			 "state %llu, %llu pages), %u layers",
			 (unsigned long long)n->image.took_us, n->round,
			 (unsigned long long)n->image.pages, (unsigned long long)n->image.paused_us,
			 (unsigned long long)n->image.stop_us,
			 (unsigned long long)n->image.state_us,
			 (unsigned long long)n->image.paused_pages, f->layers);
	}
	/* Another one may begin in there. */
	f->run = NULL;
	n->p.done(n->p.arg, failed ? NULL : &n->image, failed);
	run_free(n);
}

static int create_memfd(uint64_t size, struct err *e)
{
	cleanup_fd int fd = memfd_create("fork", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return err_sys(e, "create a memfd");
	if (fd_extend(fd, size, e) < 0)
		return err_wrap(e, "size a memfd");
	return TAKE_FD(fd);
}

static int target_fd(const struct fork *f)
{
	return f->run->target.fd >= 0 ? f->run->target.fd : f->base;
}

/* --- prepare --- */

/* The base is the memory itself. 1: there is more to do. */
static int share_memfd(struct fork *f, struct err *e)
{
	struct gmem *mem = &f->vm->machine->mem;

	if (f->base < 0)
		f->base = fcntl(mem->fd, F_DUPFD_CLOEXEC, 0);
	if (f->base < 0)
		return err_sys(e, "duplicate the memfd");
	return gmem_make_private(mem, TURN_PRIVATE, e);
}

static int copy_all(struct fork *f, struct err *e)
{
	struct gmem *mem = &f->vm->machine->mem;

	f->run->all = true;
	f->base = create_memfd(gmem_size(mem), e);
	return f->base < 0 ? f->base : memory_present(mem, false, &f->run->next, e);
}

static int begin_layer(struct fork *f, struct err *e)
{
	struct fork_run *n = f->run;

	n->whole = f->layers == LAYERS_MAX;
	for (unsigned i = 0; n->whole && i < f->layers; i++)
		memory_table_pages(&f->layer[i].table, &n->next);
	n->target.fd = create_memfd(gmem_size(&f->vm->machine->mem), e);
	return n->target.fd < 0 ? n->target.fd : 0;
}

/* 1: another turn. */
static int begin_base(struct fork *f, struct err *e)
{
	if (f->based)
		return begin_layer(f, e);
	if (f->vm->machine->mem.backing == GMEM_MEMFD || f->base >= 0)
		return share_memfd(f, e);
	return copy_all(f, e);
}

/* From the first turn on it is known what is written. */
static int prepare(struct fork *f, struct err *e)
{
	struct vm_machine *m = f->vm->machine;
	struct fork_run *n = f->run;
	int r = m->log_dirty ? 0 : machine_log_dirty(m, true, e);

	if (r == 0)
		r = precopy_drain(m, e);
	if (r == 0)
		r = begin_base(f, e);
	if (r == 0)
		r = take_dirty(f, &n->next, e);
	precopy_thaw(m);
	if (r != 0)
		return MIN(r, 0);
	pageset_add_all(&n->pages, &n->next);
	n->count = pageset_count(&n->next);
	n->round = 1;
	return 0;
}

/* --- copy --- */

/* How many pages from here on are not zero. */
static uint64_t count_full(const uint8_t *page, uint64_t max)
{
	uint64_t n = 0;

	while (n < max && !memory_is_zero(page + n * GMEM_PAGE))
		n++;
	return n;
}

/*
 * At most `max` pages, in the order of n->next; those of zeroes stay holes if nothing is there yet
 * (`fresh`). Returns how many there were, or -errno.
 */
static int64_t copy_pages(struct fork *f, uint64_t max, bool fresh, struct err *e)
{
	const struct gmem *mem = &f->vm->machine->mem;
	struct fork_run *n = f->run;
	uint64_t done = 0, len;
	int r = 0;

	for (; done < max && (len = pageset_run(&n->next, &n->at, n->next.pages)); n->at += len) {
		const uint8_t *from = gmem_base(mem) + n->at * GMEM_PAGE;

		len = MIN(len, max - done);
		if (fresh)
			len = count_full(from, len);
		if (!len) {
			len = 1;
			continue;
		}
		done += len;
		r = fd_pwrite_full(target_fd(f), from, len * GMEM_PAGE, n->at * GMEM_PAGE);
		if (r < 0)
			return err_set(e, -r, "write guest memory to a memfd: %s", strerror(-r));
	}
	return (int64_t)done;
}

static int ask_again(struct fork *f, struct err *e)
{
	struct vm_machine *m = f->vm->machine;
	struct fork_run *n = f->run;
	int r = precopy_drain(m, e);

	pageset_clear(&n->next);
	n->at = 0;
	if (r == 0)
		r = take_dirty(f, &n->next, e);
	precopy_thaw(m);
	pageset_add_all(&n->pages, &n->next);
	return r;
}

/* --- freeze, while the guest stands still --- */

static int fill_meta(struct fork *f, struct err *e)
{
	struct state_meta *meta = &f->run->state.meta;
	struct timespec now;

	if (random_bytes(&meta->id, sizeof(meta->id)) != sizeof(meta->id))
		return err_set(e, EAGAIN, "choose an id: the host has no random bytes");
	clock_gettime(CLOCK_REALTIME, &now);
	meta->created_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	snprintf(meta->made_by, sizeof(meta->made_by), "%s", SPORE_VERSION);
	meta->host = x86_host_fingerprint(&f->vm->machine->kvm);
	meta->mem_size = gmem_size(&f->vm->machine->mem);
	return 0;
}

/* The base with the layers that there will be. */
static int write_state(struct fork *f, struct err *e)
{
	struct fork_run *n = f->run;
	struct layer all[LAYERS_MAX];
	unsigned count = n->whole ? 0 : f->layers;
	int r;

	memcpy(all, f->layer, count * sizeof(all[0]));
	if (n->target.fd >= 0) {
		if (layer_tabulate(&n->target, &n->pages, e) < 0)
			return -ENOMEM;
		all[count++] = n->target;
	}
	n->state.layer = all;
	n->state.layers = count;
	n->state.config = n->config;
	n->state.config_len = n->p.config_len;
	n->state.meta.mem_written = pageset_count(&n->pages);
	r = state_write(&n->state, f->vm->machine, NULL, &n->out, e);
	n->state.layer = NULL;
	return r;
}

static int freeze(struct fork *f, struct err *e)
{
	struct fork_run *n = f->run;
	uint64_t start = now_ns();
	int64_t last;
	int r = state_save(&n->state, f->vm->machine, e);

	n->image.state_us = (now_ns() - start) / 1000;
	pageset_clear(&n->next);
	n->at = 0;
	if (r == 0)
		r = take_dirty(f, &n->next, e);
	if (r < 0)
		return r;
	pageset_add_all(&n->pages, &n->next);
	n->image.paused_pages = memory_take(&f->vm->machine->mem, &n->next, &n->taken);
	last = copy_pages(f, UINT64_MAX, false, e);
	if (last < 0)
		return (int)last;
	n->image.paused_pages += (uint64_t)last;
	r = write_state(f, e);
	return r == 0 && n->p.frozen ? n->p.frozen(n->p.arg, e) : r;
}

static int pause_and_freeze(struct fork *f, struct err *e)
{
	bool was_running = f->vm->phase == VM_RUNNING;
	uint64_t start;
	struct err ignored;
	int r = fill_meta(f, e);

	if (r < 0)
		return r;
	start = now_ns();
	r = vm_pause(f->vm, e);
	if (r < 0)
		return r;
	f->run->image.stop_us = (now_ns() - start) / 1000;
	r = freeze(f, e);
	precopy_thaw(f->vm->machine);
	if (was_running)
		vm_resume(f->vm, &ignored);
	f->run->image.paused_us = (now_ns() - start) / 1000;
	return r;
}

/* --- finish --- */

static int seal(int fd, struct err *e)
{
	return fcntl(fd, F_ADD_SEALS, SEALS) < 0 ? err_sys(e, "seal a memfd") : 0;
}

static int create_state_file(struct fork_run *n, struct err *e)
{
	int r;

	n->image.fd[0] = create_memfd(0, e);
	if (n->image.fd[0] < 0)
		return n->image.fd[0];
	r = fd_pwrite_full(n->image.fd[0], n->out.wire.buf, n->out.wire.pos, 0);
	return r < 0 ? err_set(e, -r, "write the state: %s", strerror(-r))
		     : seal(n->image.fd[0], e);
}

static void add_layer(struct fork *f)
{
	struct layer *l = &f->run->target;

	if (l->fd < 0)
		return;
	for (unsigned i = 0; f->run->whole && i < f->layers; i++)
		layer_finish(&f->layer[i]);
	if (f->run->whole)
		f->layers = 0;
	f->layer[f->layers++] = *l;
	*l = (struct layer){.fd = -1};
}

static int finish(struct fork *f, struct err *e)
{
	struct fork_run *n = f->run;
	int r = memory_write_taken(target_fd(f), &n->taken, e);

	if (r == 0)
		r = create_state_file(n, e);
	if (r == 0)
		r = seal(target_fd(f), e);
	if (r < 0)
		return r;
	n->image.pages = pageset_count(&n->pages);
	add_layer(f);
	f->based = true;
	n->image.fd[1] = f->base;
	n->image.count = 2;
	for (unsigned i = 0; i < f->layers; i++)
		n->image.fd[n->image.count++] = f->layer[i].fd;
	return 0;
}

/* --- turns --- */

/* 0: there is another turn, 1: that was the last, or -errno. */
static int turn(struct fork *f, struct err *e)
{
	struct fork_run *n = f->run;
	uint64_t left;
	int64_t copied;
	int r;

	if (!n->round)
		return prepare(f, e);
	copied = copy_pages(f, TURN_PAGES, n->all && n->round == 1, e);
	if (copied == TURN_PAGES)
		return 0;
	r = copied < 0 ? (int)copied : ask_again(f, e);
	if (r < 0)
		return r;
	left = pageset_count(&n->next);
	if (left > LAST_PAGES && n->round < ROUNDS_MAX && (n->round == 1 || left <= n->count / 2)) {
		n->count = left;
		n->round++;
		return 0;
	}
	/* They are asked for once more, and nothing that is written is lost. */
	pageset_add_all(&f->since, &n->next);
	r = pause_and_freeze(f, e);
	if (r == 0)
		r = finish(f, e);
	return r < 0 ? r : 1;
}

static void on_turn(struct loop_timer *t)
{
	struct fork *f = t->arg;
	struct err e;
	int r = turn(f, &e);

	if (r == 0)
		loop_timer_set(f->vm->loop, &f->timer, 0);
	else
		end(f, r < 0 ? &e : NULL);
}

/* --- begin --- */

static int create(struct vm *vm, struct snapshot_history *h, struct err *e)
{
	const uint64_t pages = gmem_size(&vm->machine->mem) / GMEM_PAGE;
	struct fork *f = calloc(1, sizeof(*f));

	if (!f)
		return err_set(e, ENOMEM, "out of memory");
	f->vm = vm;
	f->base = -1;
	f->timer = (struct loop_timer){.expired = on_turn, .arg = f};
	h->fork = vm->machine->fork = f;
	if (pageset_init(&f->since, pages, e) == 0 && pageset_init(&f->owed, pages, e) == 0)
		return 0;
	fork_forget(h);
	return -ENOMEM;
}

static int create_run(struct fork *f, const struct fork_params *p, struct err *e)
{
	struct fork_run *n = calloc(1, sizeof(*n));

	if (!n)
		return err_set(e, ENOMEM, "out of memory");
	n->p = *p;
	n->started_ns = now_ns();
	n->target.fd = n->image.fd[0] = -1;
	n->config = malloc(p->config_len + 1);
	if (n->config)
		memcpy(n->config, p->config, p->config_len);
	if (!n->config || pageset_init(&n->next, f->since.pages, e) < 0 ||
	    pageset_init(&n->pages, f->since.pages, e) < 0 ||
	    memory_taken_init(&n->taken, f->since.pages, TAKEN_PAGES, e) < 0) {
		run_free(n);
		return err_set(e, ENOMEM, "out of memory");
	}
	f->run = n;
	return 0;
}

int fork_begin(struct vm *vm, struct snapshot_history *h, const struct fork_params *p,
	       struct err *e)
{
	int r = 0;

	if (!vm->machine)
		return err_set(e, EINVAL, "the microVM has not been started");
	/* It is also what the filter of the main thread was chosen by. */
	if (!vm->config.machine.memfd || vm->config.machine.huge_pages == HUGE_PAGES_2M)
		return err_set(e, EINVAL,
			       "only a microVM whose machine-config has \"memory_backend\": "
			       "\"Memfd\", without 2M huge pages, can be forked");
	if (h->lazy)
		return err_set(e, ENOTSUP,
			       "memory that a page fault handler brings cannot be shared");
	if (h->live || h->sending)
		return err_set(e, EBUSY, "a %s is under way",
			       h->live ? "live snapshot" : "migration");
	if (fork_busy(h))
		return err_set(e, EBUSY, "another fork is on its way");
	if (!h->fork)
		r = create(vm, h, e);
	if (r == 0)
		r = create_run(h->fork, p, e);
	if (r == 0)
		loop_timer_set(vm->loop, &h->fork->timer, 0);
	return r;
}

bool fork_busy(const struct snapshot_history *h)
{
	return h->fork && h->fork->run;
}

void fork_forget(struct snapshot_history *h)
{
	struct fork *f = TAKE(h->fork);

	if (!f)
		return;
	if (f->vm->machine)
		f->vm->machine->fork = NULL;
	loop_timer_clear(f->vm->loop, &f->timer);
	run_free(f->run);
	for (unsigned i = 0; i < f->layers; i++)
		layer_finish(&f->layer[i]);
	fd_close(&f->base);
	pageset_finish(&f->since);
	pageset_finish(&f->owed);
	free(f);
}
