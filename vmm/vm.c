/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/machine.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "virtio/block.h"
#include "vmm/acpi.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/base/random.h"
#include "vmm/cmdline.h"
#include "vmm/cpu_template.h"
#include "vmm/identity.h"
#include "vmm/mptable.h"
#include "vmm/x86_state.h"

/* --- steps of a start; each fills one entry of vm_times --- */

static int build_memory(struct vm_machine *m, const struct machine_config *c, struct err *e)
{
	struct gmem_region ram[3];
	int n = hotplug_layout(&m->vm->config, ram, e);
	enum gmem_backing backing = GMEM_ANON;

	if (n < 0)
		return n;
	if (c->huge_pages == HUGE_PAGES_2M)
		backing = GMEM_HUGETLB_2M;
	else if (c->memfd)
		backing = GMEM_MEMFD;
	return gmem_init(&m->mem, ram, (unsigned)n, backing,
			 c->huge_pages == HUGE_PAGES_TRANSPARENT, e);
}

/*
 * Memory first, then the irqchip: see kvm.h. Of a warm machine the slots are there; one more, or its
 * log, takes the milliseconds that are told of there.
 */
int machine_build_kvm(struct vm_machine *m, const struct machine_config *c, struct err *e)
{
	int r = pmem_map_all(&m->vm->config, &m->mem, e);
	bool fits = m->warm && m->mem.all == m->mem.count && c->track_dirty_pages == m->log_dirty;

	if (r < 0 || fits)
		return r;
	if (m->kvm.fd < 0)
		r = kvm_open(&m->kvm, e);
	m->log_dirty = c->track_dirty_pages;
	/* A fork will want it, and would have to stop the guest for it. */
	if (r == 0 && (m->log_dirty || c->memfd) && !m->mem.dirty)
		r = gmem_track(&m->mem, e);
	if (r == 0)
		r = kvm_set_memory(&m->kvm, &m->mem, m->log_dirty, e);
	if (r == 0 && !m->warm)
		r = kvm_create_irqchip(&m->kvm, c->pit, e);
	return r;
}

/* Every thread that may mark a page looks for the bitmap: none does while it appears. */
static int track_while_running(struct vm_machine *m, struct err *e)
{
	bool running = m->vm->phase == VM_RUNNING;
	int r;

	if (running)
		vcpu_set_pause(&m->vcpus);
	r = gmem_track(&m->mem, e);
	if (running)
		vcpu_set_resume(&m->vcpus);
	return r;
}

int machine_log_dirty(struct vm_machine *m, bool on, struct err *e)
{
	int r = on && !m->mem.dirty ? track_while_running(m, e) : 0;

	if (r < 0)
		return r;
	m->log_dirty = on;
	r = kvm_set_memory(&m->kvm, &m->mem, on, e);
	if (r == 0)
		r = hotplug_log_dirty(m, e);
	if (r < 0) /* some of it may be off: whoever needs the log has to ask again */
		m->log_dirty = false;
	return r;
}

/* ACPI tables and, for kernels without ACPI, the MP table, straight into guest memory. */
static int write_tables(struct vm_machine *m, const struct config *c, struct err *e)
{
	const size_t acpi_size = LAYOUT_VMGENID - LAYOUT_ACPI;
	const size_t mp_size = LAYOUT_EBDA_END - LAYOUT_MPTABLE;
	const struct acpi_machine acpi = {
		.vcpus = c->machine.vcpu_count,
		.virtio_count = m->virtio_count,
		.i8042 = true,
		.identity = true,
		.pvpanic = true,
	};
	/* Guest memory is at least 1 MiB, so both areas are in it. */
	uint8_t *acpi_at = gmem_at(&m->mem, LAYOUT_ACPI, acpi_size);
	uint8_t *mp_at = gmem_at(&m->mem, LAYOUT_MPTABLE, mp_size);
	int r = acpi_build(&acpi, acpi_at, acpi_size, e);

	if (r < 0)
		return err_wrap(e, "ACPI tables");
	r = identity_begin(&m->mem, e);
	if (r < 0)
		return r;
	r = mptable_build(c->machine.vcpu_count, mp_at, mp_size, e);
	return r < 0 ? err_wrap(e, "MP table") : 0;
}

static int load_kernel(struct vm_machine *m, const struct config *c, const struct boot_plan *plan,
		       struct boot_entry *entry, struct err *e)
{
	char cmdline[LAYOUT_CMDLINE_MAX];
	const struct boot_params_in in = {
		.kernel_fd = c->boot.kernel_fd,
		.initrd_fd = c->boot.initrd_fd,
		.cmdline = cmdline,
		.rsdp = LAYOUT_ACPI,
	};
	int r = write_tables(m, c, e);

	if (r == 0)
		r = cmdline_build(c, m->virtio_count, cmdline, e);
	if (r < 0)
		return r;
	r = boot_load(plan, &in, &m->mem, entry, e);
	return r < 0 ? err_wrap(e, "load kernel '%s'", c->boot.kernel_image_path) : 0;
}

/* Memory beyond what its processors can address would be no use to a guest, and crash it. */
static int check_reach(const struct vm_machine *m, uint64_t end, struct err *e)
{
	const struct config *c = &m->vm->config;
	char what[80] = "mem_size_mib";

	for (unsigned i = 0; i < m->mem.all; i++) {
		const struct gmem_region *r = &m->mem.region[i];

		if (r->gpa + r->len <= end)
			continue;
		if (i >= m->mem.count)
			snprintf(what, sizeof(what), "pmem '%s'", c->pmem[i - m->mem.count].id);
		else if (r->block)
			snprintf(what, sizeof(what), "memory hotplug: total_size_mib");
		return err_set(e, EINVAL,
			       "%s: it would lie up to %llu MiB, and the guest's processors "
			       "address %llu MiB on this host: make it smaller",
			       what, (unsigned long long)((r->gpa + r->len) >> 20),
			       (unsigned long long)(end >> 20));
	}
	return 0;
}

static int build_vcpus(struct vm_machine *m, const struct machine_config *c,
		       const struct boot_entry *entry, struct err *e)
{
	const struct cpu_template *template = m->vm->config.cpu;
	struct x86_topology topology = {.vcpus = c->vcpu_count, .smt = c->smt};
	struct x86_cpuid cpuid;
	int r = vcpu_set_init(&m->vcpus, &m->kvm, m->vcpu, c->vcpu_count, &m->pio, &m->mmio, e);

	if (r == 0)
		r = cpu_template_check_kvm(template, &m->kvm, e);
	if (r == 0)
		r = x86_cpuid_supported(&m->kvm, &cpuid, e);
	if (r == 0)
		r = cpu_template_apply_cpuid(template, &cpuid, e);
	if (r == 0)
		r = check_reach(m, x86_phys_end(&cpuid), e);
	for (unsigned i = 0; r == 0 && i < c->vcpu_count; i++) {
		x86_cpuid_shape(&cpuid, &topology, i, m->kvm.tsc_deadline);
		r = x86_setup_vcpu(&m->vcpu[i], &cpuid, entry, e);
		if (r == 0)
			r = cpu_template_apply_msrs(template, &m->vcpu[i], e);
	}
	return r;
}

/* --- end of the guest --- */

static enum vm_exit exit_code(enum vcpu_end end)
{
	switch (end) {
	case VCPU_END_RESET:
		return VM_EXIT_OK;
	case VCPU_END_POWEROFF:
		return VM_EXIT_POWEROFF;
	case VCPU_END_TRIPLE_FAULT:
		return VM_EXIT_TRIPLE_FAULT;
	case VCPU_END_NONE:
	case VCPU_END_ERROR:
		break;
	}
	return VM_EXIT_ERROR;
}

static void on_ended(struct loop_source *s, uint32_t events)
{
	static const char *const how[] = {
		[VCPU_END_NONE] = "nothing",
		[VCPU_END_RESET] = "guest reset",
		[VCPU_END_POWEROFF] = "guest power-off",
		[VCPU_END_TRIPLE_FAULT] = "triple fault",
		[VCPU_END_ERROR] = "KVM error",
	};
	struct vm_machine *m = s->arg;
	struct vm *vm = m->vm;
	enum vcpu_end end;

	(void)events;
	fd_event_drain(s->fd);
	end = (enum vcpu_end)m->vcpus.end;
	if (end == VCPU_END_NONE) {
		if (m->woken)
			m->woken(m->woken_arg);
		return;
	}
	vcpu_set_pause(&m->vcpus);
	serial_flush(&m->serial);
	if (end == VCPU_END_RESET)
		event_emit(vm->events, "reset");
	event_emit(vm->events, "exit", EVENT_TEXT("reason", how[end]),
		   EVENT_NUMBER("code", exit_code(end)));
	log_info("microVM ended: %s, exit code %d", how[end], exit_code(end));
	if (vm->ended)
		vm->ended(vm, exit_code(end));
}

/* What its filter has to allow the main thread beyond what it does for every microVM. */
static unsigned needs(const struct config *c)
{
	unsigned more = random_open() ? 0 : SECCOMP_RANDOM;

	for (unsigned i = 0; i < c->net_count; i++)
		more |= c->net[i].placeholder ? SECCOMP_PLUG : 0;
	more |= c->machine.memfd ? SECCOMP_FORK : 0;
	return more | (c->vsock.uds_path ? SECCOMP_VSOCK : 0);
}

int machine_park(struct vm_machine *m, struct err *e)
{
	int r;

	m->ended = (struct loop_source){.fd = m->vcpus.end_fd, .ready = on_ended, .arg = m};
	r = loop_add(m->vm->loop, &m->ended, EPOLLIN, e);
	machine_show_windows(m);
	return r == 0 && !m->warm ? vcpu_set_start(&m->vcpus, m->vm->seccomp, e) : r;
}

int machine_confine(struct vm_machine *m, struct err *e)
{
	return seccomp_install_main(m->vm->seccomp, needs(&m->vm->config), e);
}

/* --- create/destroy --- */

struct vm_machine *machine_create(struct vm *vm, struct err *e)
{
	struct vm_machine *m = vm->ahead ? TAKE(vm->ahead) : calloc(1, sizeof(*m));

	if (!m) {
		err_set(e, ENOMEM, "out of memory");
		return NULL;
	}
	if (!m->vm)
		m->kvm = (struct kvm){.fd = -1, .vm_fd = -1};
	m->vm = vm;
	boot_timer_init(&m->boot_timer, vm->events);
	return m;
}

void machine_destroy(struct vm_machine *m)
{
	if (!m)
		return;
	if (m->ended.added)
		loop_del(m->vm->loop, &m->ended);
	vcpu_set_finish(&m->vcpus);
	for (unsigned i = 0; i < m->virtio_count || i < m->spare; i++) {
		virtio_mmio_finish(&m->virtio[i]);
		fd_close(&m->virtio_irq[i]);
		for (unsigned q = 0; i < m->spare && q < MACHINE_SPARE_QUEUES; q++)
			fd_close(&m->spare_kick[i][q]);
	}
	mmdsnet_destroy(m->mmds);
	serial_finish(&m->serial);
	serial_terminal_restore();
	i8042_finish(&m->i8042);
	bus_finish(&m->pio);
	bus_finish(&m->mmio);
	kvm_close(&m->kvm);
	gmem_finish(&m->mem);
	machine_hide_windows(m);
	free(m);
}

/* Time since *last in microseconds; *last becomes now. */
static uint64_t lap(uint64_t *last)
{
	uint64_t now = now_ns(), us = (now - *last) / 1000;

	*last = now;
	return us;
}

static int build(struct vm_machine *m, const struct config *c, struct vm_times *t, struct err *e)
{
	uint64_t start = now_ns(), last = start;
	struct boot_plan plan;
	struct boot_entry entry;
	int r;

	t->begin_us = start / 1000;
	/* Judged again: the file may have changed since it was configured. */
	r = boot_probe(c->boot.kernel_fd, &plan, e);
	if (r == 0)
		r = boot_fit(&plan, c->boot.initrd_fd, MIB(c->machine.mem_size_mib), e);
	if (r < 0)
		return err_wrap(e, "kernel_image_path '%s'", c->boot.kernel_image_path);
	r = build_memory(m, &c->machine, e);
	t->memory_us = lap(&last);
	if (r == 0)
		r = machine_build_kvm(m, &c->machine, e);
	t->kvm_us = lap(&last);
	if (r == 0)
		r = machine_build_devices(m, c, e);
	t->devices_us = lap(&last);
	if (r == 0)
		r = load_kernel(m, c, &plan, &entry, e);
	t->kernel_us = lap(&last);
	if (r == 0)
		r = build_vcpus(m, &c->machine, &entry, e);
	t->vcpus_us = lap(&last);
	if (r == 0)
		r = machine_park(m, e);
	if (r == 0)
		vcpu_set_soon(&m->vcpus);
	/* Last: under it nothing could be taken back and started again. */
	if (r == 0)
		r = machine_confine(m, e);
	if (r == 0)
		vcpu_set_resume(&m->vcpus);
	t->run_us = lap(&last);
	t->total_us = (last - start) / 1000;
	return r;
}

void vm_prepare(struct vm *vm)
{
	struct vm_machine *m;
	struct err e;

	if (vm->machine || vm->shell || vm->ahead)
		return;
	m = machine_create(vm, &e);
	if (m && kvm_open(&m->kvm, &e) == 0)
		vm->ahead = m;
	else
		machine_destroy(m);
}

int vm_start(struct vm *vm, struct err *e)
{
	struct vm_machine *m;
	int r;

	if (vm->machine)
		return err_set(e, EINVAL, "the microVM has been started already");
	if (vm->shell)
		return err_set(e, EINVAL,
			       "this process is a shell (--shell): its microVM comes "
			       "from a snapshot");
	if (!vm->config.boot.kernel_image_path)
		return err_set(e, EINVAL, "Cannot start microvm without kernel configuration.");
	m = machine_create(vm, e);
	if (!m)
		return -ENOMEM;
	r = build(m, &vm->config, &vm->times, e);
	if (r < 0) {
		machine_destroy(m);
		return r;
	}
	vm->machine = m;
	vm->phase = VM_RUNNING;
	event_emit(vm->events, "started", EVENT_NUMBER("took_us", vm->times.total_us));
	log_info("microVM started in %llu us: memory %llu, KVM %llu, devices %llu, kernel %llu, "
		 "vCPUs %llu, run %llu",
		 (unsigned long long)vm->times.total_us, (unsigned long long)vm->times.memory_us,
		 (unsigned long long)vm->times.kvm_us, (unsigned long long)vm->times.devices_us,
		 (unsigned long long)vm->times.kernel_us, (unsigned long long)vm->times.vcpus_us,
		 (unsigned long long)vm->times.run_us);
	return 0;
}

/* A guest that has ended has no state worth stopping at: a vCPU may be in half an instruction. */
static int need_started(const struct vm *vm, struct err *e)
{
	if (!vm->machine)
		return err_set(e, EINVAL, "the microVM has not been started");
	if (vm->machine->vcpus.end != VCPU_END_NONE)
		return err_set(e, ESHUTDOWN, "the guest has ended");
	return 0;
}

int vm_pause(struct vm *vm, struct err *e)
{
	int r = need_started(vm, e);

	if (r < 0 || vm->phase == VM_PAUSED)
		return r;
	vcpu_set_pause(&vm->machine->vcpus);
	vm->phase = VM_PAUSED;
	event_emit(vm->events, "paused");
	return 0;
}

void vm_let_go(struct vm *vm)
{
	for (unsigned i = 0; i < vm->machine->vcpus.count; i++)
		x86_clock_paused(&vm->machine->vcpu[i]);
	vcpu_set_resume(&vm->machine->vcpus);
	vm->phase = VM_RUNNING;
}

int vm_resume(struct vm *vm, struct err *e)
{
	int r = need_started(vm, e);

	if (r < 0 || vm->phase == VM_RUNNING)
		return r;
	vm_let_go(vm);
	event_emit(vm->events, "resumed");
	return 0;
}

int vm_send_ctrl_alt_del(struct vm *vm, struct err *e)
{
	int r = need_started(vm, e);

	if (r < 0)
		return r;
	pthread_mutex_lock(vm->machine->i8042_lock);
	r = i8042_ctrl_alt_del(&vm->machine->i8042);
	pthread_mutex_unlock(vm->machine->i8042_lock);
	return r < 0 ? err_set(e, EBUSY, "the guest has not read the keys pressed before") : 0;
}

void vm_sync(struct vm *vm)
{
	struct virtio_device *d;

	for (unsigned i = 0; (d = vm_device(vm, i)); i++) {
		int r = 0;

		if (d->type != VIRTIO_ID_BLOCK)
			continue;
		pthread_mutex_lock(d->env.lock);
		r = block_drain(d);
		pthread_mutex_unlock(d->env.lock);
		if (r < 0)
			log_error("%s: sync: %s", d->name, strerror(-r));
	}
}

struct virtio_device *vm_device(struct vm *vm, unsigned index)
{
	if (!vm->machine || index >= vm->machine->virtio_count)
		return NULL;
	return vm->machine->virtio[index].dev;
}

struct virtio_device *vm_nth_device(struct vm *vm, enum virtio_id type, unsigned n)
{
	struct virtio_device *d;

	for (unsigned i = 0; (d = vm_device(vm, i)); i++)
		if (d->type == type && n-- == 0)
			return d;
	return NULL;
}

int vm_update_net(struct vm *vm, struct net_update *u, struct err *e)
{
	struct net_interface *n = config_find_net(&vm->config, u->id);
	struct virtio_device *d;

	if (!n)
		return err_set(e, ENOENT, "iface_id: there is no interface '%s'", u->id);
	d = vm_nth_device(vm, VIRTIO_ID_NET, (unsigned)(n - vm->config.net));
	if (!d)
		return err_set(e, EINVAL, "the microVM has not been started");
	return net_interface_update(n, d, u, e);
}

uint64_t vm_first_exit_us(const struct vm *vm)
{
	uint64_t at_us = vm->machine ? vm->machine->vcpus.first_exit_ns / 1000 : 0;

	return at_us && vm->times.begin_us ? at_us - vm->times.begin_us : 0;
}

bool vm_counters(struct vm *vm, struct vm_counters *c)
{
	struct vm_machine *m = vm->machine;

	if (!m)
		return false;
	*c = (struct vm_counters){
		.vcpu = &m->vcpus.metrics,
		.i8042 = &m->i8042.metrics,
		.serial = &m->serial.metrics,
	};
	return true;
}

int vm_check_id(const char *id, struct err *e)
{
	size_t len = strlen(id);

	if (len < 1 || len > CONFIG_ID_MAX)
		return err_set(e, EINVAL, "%zu characters, need 1..%d", len, CONFIG_ID_MAX);
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)id[i]) && id[i] != '-')
			return err_set(e, EINVAL, "only letters, digits and '-' are allowed");
	return 0;
}

void vm_set_id(struct vm *vm, const char *id)
{
	snprintf(vm->id, sizeof(vm->id), "%s", id);
	log_set_id(vm->id);
}

void vm_init(struct vm *vm, struct loop *loop, const char *id)
{
	*vm = (struct vm){.loop = loop};
	config_init(&vm->config);
	snprintf(vm->id, sizeof(vm->id), "%s", id);
	mmds_init(&vm->mmds);
}

void vm_finish(struct vm *vm)
{
	machine_destroy(vm->machine);
	machine_destroy(vm->shell);
	machine_destroy(vm->ahead);
	vm->machine = vm->shell = vm->ahead = NULL;
	mmds_finish(&vm->mmds);
	config_finish(&vm->config);
}
