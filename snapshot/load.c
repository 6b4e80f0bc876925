/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order of a restore, and why it is this one.
 *
 *  1. The state file is read and judged as a whole, before anything is made of it, and whether it fits
 *     the shell, if this is one (vmm/shell.h): then 3 and the vCPUs are there. Then the
 *     configuration in it is applied, as if the API had been asked for each piece: that opens
 *     drives and network devices and refuses what cannot be.
 *  2. Memory is mapped: one call, whatever its size. No page is read but a few that tell whether
 *     the file belongs to the state.
 *  3. The VM, its memory slots and only then its interrupt controllers: a slot that is set after them
 *     waits milliseconds for the kernel (vmm/kvm.h).
 *  4. The host's KVM is compared with what the vCPUs need, so that a host which lacks something is
 *     refused with its name and not by an ioctl's error.
 *  5. Devices are created as for a start, then get their state; first that of memory hotplug, so that
 *     all memory is there. Their queues go live and read guest memory, so not before 2; they signal
 *     interrupts, so not before 3.
 *  6. vCPUs: vmm/x86_state.h has the order of their ioctls.
 *  7. Interrupt controllers and clock. An IOAPIC that is set delivers what is pending in it to the
 *     local APICs, so not before 6. The clock behind the vCPUs' MSRs, which turn it on.
 *  8. VMGenID and VMClock change, and the guest is told by an interrupt (vmm/identity.h): not before
 *     7, which would overwrite it. Then threads, parked.
 *  9. Every queue is served once and every interrupt that is due raised again: what was in the air
 *     when the state was saved (virtio/mmio_state.h, vmm/kvm_state.h).
 * 10. The main thread puts itself under its filter, and lets the vCPUs run if they are to. Nothing can
 *     fail any more.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "snapshot/load.h"
#include "snapshot/output.h"
#include "snapshot/pager.h"
#include "snapshot/snapshot.h"
#include "snapshot/uffd.h"
#include "snapshot/workset.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/drive.h"
#include "vmm/identity.h"
#include "vmm/shell.h"

/* One load on its way. */
struct load {
	struct vm *vm;
	struct snapshot_history *h;
	const struct snapshot_load_params *p;
	struct state state;
	struct state_room room;
	size_t size; /* of this and its rooms, which are one mapping */
	char *primed_state,
		*primed_memory; /* owned; of snapshot_prime(): `state` is read. NULL: not */
	struct vm_machine *m;
	struct x86_host host;
	uint64_t last_ns;
};

static uint64_t lap_us(struct load *l)
{
	uint64_t now = now_ns(), us = (now - l->last_ns) / 1000;

	l->last_ns = now;
	return us;
}

/* --- before it is known what will be loaded --- */

#define ROOM_LEN   KIB(64)
#define ROOM_VCPUS 4u /* more of them are made when they are needed */

/* Its rooms are behind it, and all its pages there: each page fault takes longer than that. */
static struct load *load_create(unsigned vcpus)
{
	size_t own = (sizeof(struct load) + 63) & ~(size_t)63;
	size_t size = own + ROOM_LEN + vcpus * sizeof(struct x86_state);
	uint8_t *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	struct load *l = (struct load *)(void *)at;

	if (at == MAP_FAILED)
		return NULL;
	l->size = size;
	l->room = (struct state_room){.buf = at + own,
				      .len = ROOM_LEN,
				      .vcpu = (struct x86_state *)(void *)(at + own + ROOM_LEN),
				      .vcpus = vcpus};
	return l;
}

static void load_free(struct load *l)
{
	if (!l)
		return;
	if (l->primed_state)
		state_finish(&l->state);
	free(l->primed_state);
	free(l->primed_memory);
	munmap(l, l->size);
}

int snapshot_warm(struct snapshot_history *h, unsigned vcpus, struct err *e)
{
	h->warm = load_create(MIN(vcpus, ROOM_VCPUS));
	return h->warm ? 0 : err_set(e, ENOMEM, "out of memory");
}

void snapshot_cool(struct snapshot_history *h)
{
	load_free(TAKE(h->warm));
}

/* --- files --- */

/* A passed one is judged by its contents; its size is asked for as of any other. */
static int open_state(const struct snapshot_load_params *p, struct err *e)
{
	int fd;

	if (p->backend != SNAPSHOT_BACKEND_PASSED)
		return fd_open_file(p->snapshot_path, O_RDONLY, false, e);
	if (p->passed_count < 2)
		return err_set(e, EINVAL, "state and memory have not come with the request");
	fd = fcntl(p->passed[0], F_DUPFD_CLOEXEC, 0);
	return fd < 0 ? err_sys(e, "duplicate the state's descriptor") : fd;
}

static int read_state(struct load *l, struct err *e)
{
	cleanup_fd int fd = open_state(l->p, e);

	if (fd < 0)
		return fd;
	if (state_read(&l->state, fd, &l->room, e) < 0)
		return err_wrap(e, "state file '%s'", l->p->snapshot_path);
	return 0;
}

/* A shell that does not fit stays one. */
static int check_shell(const struct load *l, struct err *e)
{
	struct shell_need need = {
		.vcpus = l->state.meta.vcpus,
		.mem_size = l->state.meta.mem_size,
		.pit = l->state.kvm.pit,
	};

	if (l->p->backend != SNAPSHOT_BACKEND_PASSED && state_count_layers(&l->state))
		return err_set(e, EINVAL, "'%s' is a fork's, whose memory is no file",
			       l->p->snapshot_path);
	for (unsigned i = 0; i < l->state.virtio_count; i++)
		need.hotplug |= l->state.virtio[i].type == VIRTIO_ID_MEM;
	return l->vm->shell ? shell_fits(l->vm, &need, e) : 0;
}

static int take_machine(struct load *l, struct err *e)
{
	l->m = l->vm->shell ? TAKE(l->vm->shell) : machine_create(l->vm, e);
	return l->m ? 0 : -ENOMEM;
}

static int configure(struct load *l, struct err *e)
{
	struct machine_config *c = &l->vm->config.machine;
	const struct state_meta *meta = &l->state.meta;
	uint64_t mem_mib;

	if (l->p->configure(l->p->arg, e) < 0)
		return err_wrap(e, "configuration in '%s'", l->p->snapshot_path);
	mem_mib = c->mem_size_mib + l->vm->config.hotplug.total_size_mib;
	if (c->vcpu_count != meta->vcpus || MIB(mem_mib) != meta->mem_size)
		return err_set(
			e, EINVAL,
			"state file '%s': configured are %u vCPUs and %llu MiB, saved are %u "
			"and %llu",
			l->p->snapshot_path, c->vcpu_count, (unsigned long long)mem_mib,
			meta->vcpus, (unsigned long long)(meta->mem_size >> 20));
	if (l->p->backend != SNAPSHOT_BACKEND_STREAM)
		c->track_dirty_pages = l->p->track_dirty_pages;
	switch (l->p->huge_pages) {
	case SNAPSHOT_PAGES_AS_SAVED:
		break;
	case SNAPSHOT_PAGES_NONE:
		c->huge_pages = HUGE_PAGES_NONE;
		break;
	case SNAPSHOT_PAGES_TRANSPARENT:
		c->huge_pages = HUGE_PAGES_TRANSPARENT;
		break;
	case SNAPSHOT_PAGES_2M:
		c->huge_pages = HUGE_PAGES_2M;
		break;
	}
	return 0;
}

/* --- memory --- */

static int explain_probes(const struct load *l, int r, struct err *e)
{
	if (r != -ESTALE)
		return err_set(e, -r, "read: %s", strerror(-r));
	if (state_is_diff(&l->state.meta))
		return err_set(e, ESTALE,
			       "it is not the memory of this diff snapshot: has it been merged "
			       "with the memory of the one before?");
	return err_set(e, ESTALE, "it is not the memory of this snapshot");
}

/* Returns an fd of what belongs to the state. */
static int open_memory(struct load *l, struct err *e)
{
	const struct state_meta *meta = &l->state.meta;
	cleanup_fd int fd = output_open_memory(l->p->backend_path, meta->mem_inode, e);
	struct stat st;
	int r;

	if (fd < 0)
		return fd;
	if (fd_stat(fd, &st) < 0)
		return err_sys(e, "fstat");
	r = memory_check_probes(fd, meta->probe, meta->probes);
	if ((uint64_t)st.st_size != meta->mem_size)
		err_set(e, EINVAL, "it has %lld bytes, and the guest's memory %llu",
			(long long)st.st_size, (unsigned long long)meta->mem_size);
	else if (r < 0)
		explain_probes(l, r, e);
	else
		return TAKE_FD(fd);
	return err_wrap(e, "memory file '%s'", l->p->backend_path);
}

static int map_file(struct load *l, const struct gmem_region *ram, unsigned count, struct err *e)
{
	int fd = open_memory(l, e);
	int r;

	if (fd < 0)
		return fd;
	r = l->m->warm ? gmem_back_file(&l->m->mem, fd, e)
		       : gmem_init_file(&l->m->mem, ram, count, fd, e);
	return r < 0 ? err_wrap(e, "memory file '%s'", l->p->backend_path) : 0;
}

static int map_passed(struct load *l, const struct gmem_region *ram, unsigned count, struct err *e)
{
	const struct snapshot_load_params *p = l->p;
	struct gmem *mem = &l->m->mem;
	int fd = fcntl(p->passed[1], F_DUPFD_CLOEXEC, 0);
	int r;

	if (fd < 0)
		return err_sys(e, "duplicate the memory's descriptor");
	r = l->m->warm ? gmem_back_file(mem, fd, e) : gmem_init_file(mem, ram, count, fd, e);
	if (r == 0)
		r = layers_map(mem, &l->state, p->passed + 2, p->passed_count - 2, e);
	return r < 0 ? err_wrap(e, "memory of '%s'", p->backend_path) : 0;
}

static int start_pager(struct load *l, struct err *e)
{
	int fd = open_memory(l, e);

	if (fd < 0)
		return fd;
	l->h->pager = pager_create(&l->m->mem, fd, l->vm->seccomp, e);
	return l->h->pager ? 0 : err_wrap(e, "memory file '%s'", l->p->backend_path);
}

/* Empty: somebody fills it. */
static int map_empty(struct load *l, const struct gmem_region *ram, unsigned count, bool memfd,
		     struct err *e)
{
	enum huge_pages pages = l->vm->config.machine.huge_pages;
	enum gmem_backing backing = memfd ? GMEM_MEMFD : GMEM_ANON;
	int r = l->m->warm ? 0 : gmem_reserve(&l->m->mem, ram, count, e);

	if (pages == HUGE_PAGES_2M)
		backing = GMEM_HUGETLB_2M;
	return r < 0 ? r : gmem_back(&l->m->mem, backing, pages == HUGE_PAGES_TRANSPARENT, e);
}

static int map_lazily(struct load *l, const struct gmem_region *ram, unsigned count, struct err *e)
{
	int r = map_empty(l, ram, count, false, e);

	if (r < 0)
		return r;
	l->h->lazy = true;
	if (l->p->backend == SNAPSHOT_BACKEND_PAGER)
		return start_pager(l, e);
	return uffd_serve(&l->m->mem, l->p->backend_path, &l->h->uffd, &l->h->handler, e);
}

static int build_memory(struct load *l, struct err *e)
{
	struct gmem_region ram[3];
	int n = hotplug_layout(&l->vm->config, ram, e);

	if (n < 0)
		return n;
	switch (l->p->backend) {
	case SNAPSHOT_BACKEND_FILE:
		return map_file(l, ram, (unsigned)n, e);
	case SNAPSHOT_BACKEND_UFFD:
	case SNAPSHOT_BACKEND_PAGER:
		return map_lazily(l, ram, (unsigned)n, e);
	case SNAPSHOT_BACKEND_STREAM:
		return map_empty(l, ram, (unsigned)n, l->vm->config.machine.memfd, e);
	case SNAPSHOT_BACKEND_PASSED:
		return map_passed(l, ram, (unsigned)n, e);
	}
	return err_set(e, EINVAL, "no memory backend");
}

/* --- machine --- */

static int compare_host(struct load *l, struct err *e)
{
	const struct machine_config *c = &l->vm->config.machine;
	const struct x86_topology t = {.vcpus = c->vcpu_count, .smt = c->smt};
	int r = kvm_state_check(&l->state.kvm, c->pit, e);

	if (!l->m->host)
		l->m->host = x86_host_fingerprint(&l->m->kvm);
	if (r < 0 || l->state.meta.host == l->m->host)
		return r;
	r = x86_host_init(&l->host, &l->m->kvm, e);
	/* All vCPUs have the same features. */
	return r == 0 ? x86_state_check(&l->state.vcpu[0], &l->host, &t, l->m->kvm.tsc_deadline, 0,
					e)
		      : r;
}

static int restore_device(struct load *l, unsigned i, struct err *e)
{
	struct virtio_mmio *t = &l->m->virtio[i];
	int r = state_read_device(&l->state, i, t->dev, e);

	return r == 0 ? virtio_mmio_restore(t, &l->state.virtio[i], e) : r;
}

static int restore_devices(struct load *l, struct err *e)
{
	struct vm_machine *m = l->m;
	bool hotplug = l->vm->config.hotplug.configured;
	int r = machine_build_devices(m, &l->vm->config, e);

	if (r < 0)
		return r;
	if (m->virtio_count != l->state.virtio_count)
		return err_set(e, EINVAL, "%u virtio devices are configured, %u were saved",
			       m->virtio_count, l->state.virtio_count);
	/* Memory that was plugged, which is the last: rings of the others may lie in it. */
	if (hotplug)
		r = restore_device(l, m->virtio_count - 1, e);
	for (unsigned i = 0; r == 0 && i + hotplug < m->virtio_count; i++)
		r = restore_device(l, i, e);
	return r;
}

static int restore_vcpus(struct load *l, struct err *e)
{
	struct vm_machine *m = l->m;
	int r = 0;

	if (!m->vcpus.count)
		r = vcpu_set_init(&m->vcpus, &m->kvm, m->vcpu, l->state.meta.vcpus, &m->pio,
				  &m->mmio, e);

	for (unsigned i = 0; r == 0 && i < l->state.meta.vcpus; i++) {
		if (!l->primed_state)
			r = x86_state_prepare(&l->state.vcpu[i], &m->vcpu[i], e);
		if (r == 0)
			r = x86_state_complete(&l->state.vcpu[i], &m->vcpu[i], e);
	}
	if (r == 0)
		r = kvm_state_restore(&l->state.kvm, &m->kvm, l->p->clock_realtime, e);
	return r;
}

static void raise_again(struct load *l)
{
	struct vm_machine *m = l->m;

	serial_restore(&m->serial, &l->state.serial);
	i8042_restore(&m->i8042, &l->state.i8042);
	for (unsigned i = 0; i < m->virtio_count; i++)
		virtio_mmio_kick(&m->virtio[i]);
}

static int check_primed(const struct load *l, struct err *e)
{
	if (l->p->backend == SNAPSHOT_BACKEND_FILE &&
	    strcmp(l->p->snapshot_path, l->primed_state) == 0 &&
	    strcmp(l->p->backend_path, l->primed_memory) == 0)
		return 0;
	return err_set(e, EINVAL, "this shell is primed with state file '%s' and memory file '%s'",
		       l->primed_state, l->primed_memory);
}

/* All that is refused here leaves everything as it was. */
static int judge(struct load *l, struct err *e)
{
	int r = l->primed_state ? check_primed(l, e) : read_state(l, e);

	if (r == 0 && !l->primed_state)
		r = check_shell(l, e);
	return r == 0 ? l->p->judge(l->p->arg, l->state.config, l->state.config_len, e) : r;
}

/* Steps 1 to 4 of what was judged. */
static int prepare(struct load *l, struct err *e)
{
	struct vm_times *t = &l->vm->times;
	int r = take_machine(l, e);

	if (r == 0)
		r = configure(l, e);
	t->state_us = lap_us(l);
	if (r != 0)
		return r;
	if (!l->primed_state)
		r = build_memory(l, e);
	/* As early as can be: it goes on while all the rest is done. */
	if (r == 0 && l->p->working_set && l->p->backend != SNAPSHOT_BACKEND_UFFD)
		l->h->workset = workset_begin(l->vm, &l->m->mem, &l->state.meta.id,
					      l->p->working_set, l->p->working_set_ms);
	t->memory_us = lap_us(l);
	if (r == 0)
		r = machine_build_kvm(l->m, &l->vm->config.machine, e);
	if (r == 0)
		r = compare_host(l, e);
	t->kvm_us = lap_us(l);
	return r;
}

/* Steps 5 to 10; without 9 if it is not known yet that it may do anything. */
static int complete(struct load *l, struct err *e)
{
	bool moved = l->p->backend == SNAPSHOT_BACKEND_STREAM;
	struct vm_times *t = &l->vm->times;
	int r = restore_devices(l, e);

	t->devices_us = lap_us(l);
	if (r == 0)
		r = restore_vcpus(l, e);
	t->vcpus_us = lap_us(l);
	if (r == 0 && moved)
		identity_moved(&l->m->mem);
	else if (r == 0)
		r = identity_renew(&l->m->mem, e);
	if (r == 0)
		r = kvm_pulse_irq(&l->m->kvm, LAYOUT_GSI_IDENTITY, e);
	if (r == 0)
		r = machine_park(l->m, e);
	if (r == 0 && !moved)
		raise_again(l);
	if (r == 0 && l->p->resume)
		vcpu_set_soon(&l->m->vcpus);
	if (r == 0)
		r = machine_confine(l->m, e);
	t->run_us = lap_us(l);
	t->total_us = l->last_ns / 1000 - t->begin_us;
	return r;
}

static void start_clock(struct load *l)
{
	l->last_ns = now_ns();
	l->vm->times = (struct vm_times){.begin_us = l->last_ns / 1000};
}

static int build(struct load *l, struct err *e)
{
	int r;

	start_clock(l);
	r = judge(l, e);
	if (r == 0)
		r = prepare(l, e);
	return r == 0 ? complete(l, e) : r;
}

static void remember(struct load *l)
{
	/* A fork is nothing that a diff could be merged onto. */
	if (l->p->backend == SNAPSHOT_BACKEND_PASSED)
		return;
	l->h->last = l->h->origin = l->state.meta.id;
	if (l->p->backend == SNAPSHOT_BACKEND_FILE)
		l->h->memory_fd = fcntl(l->m->mem.fd, F_DUPFD_CLOEXEC, 0);
}

static void say(const struct vm_times *t)
{
	log_info("snapshot loaded in %llu us: state %llu, memory %llu, KVM %llu, devices %llu, "
		 "vCPUs %llu, run %llu",
		 (unsigned long long)t->total_us, (unsigned long long)t->state_us,
		 (unsigned long long)t->memory_us, (unsigned long long)t->kvm_us,
		 (unsigned long long)t->devices_us, (unsigned long long)t->vcpus_us,
		 (unsigned long long)t->run_us);
}

/* A shell that was not used up stays what it was, and so does what it is primed with. */
static void put_back(struct load *l)
{
	if (!l->primed_state || !l->vm->shell)
		state_finish(&l->state);
	if (!l->vm->shell) {
		free(TAKE(l->primed_state));
		load_free(l);
	} else {
		l->h->warm = l;
	}
}

static struct load *begin(struct vm *vm, struct snapshot_history *h,
			  const struct snapshot_load_params *p, struct err *e)
{
	struct load *l = h->warm ? TAKE(h->warm) : load_create(1);

	if (!l) {
		err_set(e, ENOMEM, "out of memory");
		return NULL;
	}
	l->vm = vm;
	l->h = h;
	l->p = p;
	return l;
}

int snapshot_load(struct vm *vm, struct snapshot_history *h, const struct snapshot_load_params *p,
		  struct err *e)
{
	struct load *l = begin(vm, h, p, e);
	int r;

	if (!l)
		return -ENOMEM;
	r = build(l, e);
	if (r == 0) {
		vm->machine = l->m;
		vm->phase = VM_PAUSED;
		workset_built(h->workset);
		if (p->resume)
			vm_let_go(vm);
		remember(l);
		say(&vm->times);
	} else {
		/* Its thread looks into guest memory. Whoever brings that lives longer. */
		workset_end(h->workset);
		h->workset = NULL;
		machine_destroy(l->m);
		snapshot_history_finish(h);
	}
	put_back(l);
	return r;
}

/* What is done to the shell before it is known who comes. */
static int prime(struct load *l, struct err *e)
{
	int r = 0;

	l->m = l->vm->shell;
	r = map_file(l, NULL, 0, e);
	for (unsigned i = 0; r == 0 && i < l->state.meta.vcpus; i++)
		r = x86_state_prepare(&l->state.vcpu[i], &l->m->vcpu[i], e);
	if (r == 0)
		identity_touch(&l->m->mem);
	l->m = NULL;
	return r;
}

int snapshot_prime(struct vm *vm, struct snapshot_history *h, const struct snapshot_load_params *p,
		   struct err *e)
{
	struct load *l = begin(vm, h, p, e);
	int r;

	if (!l)
		return -ENOMEM;
	r = l->primed_state ? err_set(e, EINVAL, "this shell is primed already") : judge(l, e);
	if (r == 0) {
		r = prime(l, e);
		l->primed_state = r == 0 ? strdup(p->snapshot_path) : NULL;
		l->primed_memory = r == 0 ? strdup(p->backend_path) : NULL;
		if (r == 0 && (!l->primed_state || !l->primed_memory))
			r = err_set(e, ENOMEM, "out of memory");
		if (r < 0) {
			free(TAKE(l->primed_state));
			machine_destroy(TAKE(vm->shell));
		}
	}
	put_back(l);
	return r;
}

/* --- one that comes over a stream --- */

static int parse(struct load *l, uint8_t *buf, size_t len, struct err *e)
{
	int r;

	state_finish(&l->state);
	r = state_parse(&l->state, buf, len, e);
	return r < 0 ? err_wrap(e, "state") : 0;
}

struct load *load_arrive(struct vm *vm, struct snapshot_history *h,
			 const struct snapshot_load_params *p, uint8_t *buf, size_t len,
			 bool *usable, struct err *e)
{
	struct load *l = begin(vm, h, p, e);
	int r;

	*usable = true;
	if (!l) {
		free(buf);
		return NULL;
	}
	start_clock(l);
	if (l->primed_state) {
		free(buf);
		r = err_set(e, EINVAL, "this shell is primed with a snapshot");
	} else {
		r = parse(l, buf, len, e);
	}
	if (r == 0)
		r = check_shell(l, e);
	if (r == 0)
		r = p->judge(p->arg, l->state.config, l->state.config_len, e);
	*usable = r < 0;
	if (r == 0)
		r = prepare(l, e);
	if (r == 0 && !l->m->vcpus.count)
		r = vcpu_set_init(&l->m->vcpus, &l->m->kvm, l->m->vcpu, l->state.meta.vcpus,
				  &l->m->pio, &l->m->mmio, e);
	if (r == 0)
		return l;
	load_abandon(l);
	return NULL;
}

const struct gmem *load_memory(const struct load *l)
{
	return &l->m->mem;
}

int load_arrived(struct load *l, uint8_t *buf, size_t len, struct err *e)
{
	const struct machine_config *c = &l->vm->config.machine;
	int r = parse(l, buf, len, e);

	l->last_ns = now_ns();
	if (r == 0 && (l->state.meta.vcpus != c->vcpu_count ||
		       l->state.meta.mem_size != gmem_size(&l->m->mem)))
		r = err_set(e, EINVAL, "state: it is of another machine");
	if (r == 0)
		r = compare_host(l, e);
	if (r == 0)
		r = drive_claim(&l->vm->config, e);
	return r == 0 ? complete(l, e) : r;
}

void load_let_go(struct load *l, bool run)
{
	struct vm *vm = l->vm;

	vm->machine = l->m;
	vm->phase = VM_PAUSED;
	raise_again(l);
	if (run)
		vm_let_go(vm);
	put_back(l);
}

void load_abandon(struct load *l)
{
	if (!l)
		return;
	machine_destroy(TAKE(l->m));
	put_back(l);
}
