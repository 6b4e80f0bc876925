/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "virtio/balloon.h"
#include "virtio/block.h"
#include "virtio/net.h"
#include "virtio/rng.h"
#include "virtio/vsock.h"
#include "vmm/acpi.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/cmdline.h"
#include "vmm/cpu_template.h"
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

/* Memory first, then the irqchip: see kvm.h. */
int machine_build_kvm(struct vm_machine *m, const struct machine_config *c, struct err *e)
{
	int r = pmem_map_all(&m->vm->config, &m->mem, e);

	if (r == 0)
		r = kvm_open(&m->kvm, e);
	if (r == 0 && c->track_dirty_pages)
		r = gmem_track(&m->mem, e);
	if (r == 0)
		r = kvm_set_memory(&m->kvm, &m->mem, c->track_dirty_pages, e);
	if (r == 0)
		r = kvm_create_irqchip(&m->kvm, c->pit, e);
	return r;
}

static void on_reset(void *arg)
{
	vcpu_set_end(arg, VCPU_END_RESET);
}

static void on_power_off(void *arg)
{
	vcpu_set_end(arg, VCPU_END_POWEROFF);
}

static int build_serial(struct vm_machine *m, const struct config *c, struct err *e)
{
	pthread_mutex_t *lock =
		bus_add(&m->pio, LAYOUT_COM1, SERIAL_SIZE, &serial_bus_ops, &m->serial);
	int out = c->serial.fd >= 0 ? c->serial.fd : STDOUT_FILENO;
	int in = serial_terminal_raw(STDIN_FILENO) ? STDIN_FILENO : -1;
	int r = serial_init(&m->serial, m->vm->loop, lock, in, out, e);

	if (r == 0)
		r = kvm_add_irqfd(&m->kvm, LAYOUT_GSI_COM1, m->serial.irq_fd, e);
	return r;
}

static int build_platform(struct vm_machine *m, const struct config *c, struct err *e)
{
	int r = build_serial(m, c, e);

	if (r < 0)
		return err_wrap(e, "serial");
	m->i8042_lock = bus_add(&m->pio, LAYOUT_I8042_DATA, I8042_SIZE, &i8042_bus_ops, &m->i8042);
	r = i8042_init(&m->i8042, on_reset, &m->vcpus, e);
	if (r == 0)
		r = kvm_add_irqfd(&m->kvm, LAYOUT_GSI_I8042, m->i8042.irq_fd, e);
	if (r < 0)
		return err_wrap(e, "i8042");
	m->power = (struct power){.off = on_power_off, .arg = &m->vcpus};
	bus_add(&m->pio, LAYOUT_RTC, RTC_SIZE, &rtc_bus_ops, NULL);
	bus_add(&m->pio, LAYOUT_ACPI_SLEEP, POWER_SIZE, &power_bus_ops, &m->power);
	m->pvpanic.events = m->vm->events;
	bus_add(&m->pio, LAYOUT_PVPANIC, PVPANIC_SIZE, &pvpanic_bus_ops, &m->pvpanic);
	r = identity_init(&m->identity, &m->mem, e);
	if (r == 0)
		r = kvm_add_irqfd(&m->kvm, LAYOUT_GSI_IDENTITY, m->identity.irq_fd, e);
	if (r < 0)
		return err_wrap(e, "VMGenID");
	if (c->boot_timer)
		bus_add(&m->mmio, LAYOUT_BOOT_TIMER, BOOT_TIMER_SIZE, &boot_timer_bus_ops,
			&m->boot_timer);
	return 0;
}

static void mmio_read(void *dev, uint64_t off, void *data, unsigned len)
{
	virtio_mmio_read(dev, off, data, len);
}

static void mmio_write(void *dev, uint64_t off, const void *data, unsigned len)
{
	virtio_mmio_write(dev, off, data, len);
}

static const struct bus_ops virtio_bus_ops = {.read = mmio_read, .write = mmio_write};

static void on_device_failed(void *arg, const struct virtio_device *d, int code)
{
	struct vm *vm = arg;

	event_emit(vm->events, "device_error", EVENT_TEXT("device", d->name),
		   EVENT_TEXT("reason", strerror(-code)));
}

/* Claims the next window and interrupt line for a device that is about to be created. */
static int open_slot(struct vm_machine *m, struct virtio_env *env, struct err *e)
{
	struct layout_virtio w = layout_virtio_slot(m->virtio_count);
	struct virtio_mmio *t = &m->virtio[m->virtio_count];
	int irq;

	if (m->virtio_count == LAYOUT_VIRTIO_MAX)
		return err_set(e, ENOSPC, "more than %u virtio devices", LAYOUT_VIRTIO_MAX);
	irq = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (irq < 0)
		return err_sys(e, "create an eventfd");
	m->virtio_irq[m->virtio_count++] = irq;
	*env = (struct virtio_env){
		.mem = &m->mem,
		.loop = m->vm->loop,
		.lock = bus_add(&m->mmio, w.base, LAYOUT_VIRTIO_SIZE, &virtio_bus_ops, t),
		.irq_fd = irq,
		.failed = on_device_failed,
		.failed_arg = m->vm,
	};
	return kvm_add_irqfd(&m->kvm, w.gsi, irq, e);
}

/* Puts the device into the slot opened last. Takes it, also when it fails. */
static int plug(struct vm_machine *m, struct virtio_device *dev, struct err *e)
{
	unsigned slot = m->virtio_count - 1;
	struct virtio_mmio *t = &m->virtio[slot];
	gpa_t notify = layout_virtio_slot(slot).base + VIRTIO_MMIO_QUEUE_NOTIFY;
	int r = virtio_mmio_init(t, dev, e);

	for (unsigned q = 0; r == 0 && q < dev->num_queues; q++)
		r = kvm_add_ioeventfd(&m->kvm, notify, q, t->kick_fd[q], e);
	return r;
}

/* The device has its own descriptors, so that a failed start leaves the configuration whole. */
static int dup_files(const struct drive *d, struct block_config *c, struct err *e)
{
	c->fd = fcntl(d->overlay ? d->overlay_fd : d->fd, F_DUPFD_CLOEXEC, 0);
	if (c->fd >= 0 && d->overlay)
		c->base_fd = fcntl(d->fd, F_DUPFD_CLOEXEC, 0);
	if (c->fd < 0 || (d->overlay && c->base_fd < 0))
		return err_sys(e, "duplicate the file descriptor of '%s'", d->path_on_host);
	return 0;
}

static int add_drive(struct vm_machine *m, const struct drive *d, struct err *e)
{
	unsigned vcpus = m->vm->config.machine.vcpu_count;
	struct block_config c = {
		.id = d->id,
		.fd = -1,
		.base_fd = -1,
		.overlay = d->overlay,
		.read_only = d->is_read_only,
		.writeback = d->cache_type == CACHE_WRITEBACK,
		.async = d->io_engine == IO_ENGINE_ASYNC,
		.queues = MIN(vcpus, BLOCK_QUEUES_MAX),
		.limiter = &d->limiter,
	};
	struct virtio_device *dev = NULL;
	struct virtio_env env;
	int r = open_slot(m, &env, e);

	if (r < 0)
		return r;
	r = dup_files(d, &c, e);
	if (r == 0)
		dev = block_create(&c, &env, e);
	if (!dev) {
		fd_close(&c.fd);
		fd_close(&c.base_fd);
		return -e->code;
	}
	return plug(m, dev, e);
}

static int add_net(struct vm_machine *m, const struct net_interface *n, struct err *e)
{
	bool has_mmds = mmds_config_has(&m->vm->config.mmds, n->id);
	struct mmdsnet_port *port = NULL;
	struct virtio_device *dev;
	struct virtio_env env;
	int r = open_slot(m, &env, e);

	if (r < 0)
		return r;
	if (has_mmds)
		port = mmdsnet_add(m->mmds, n->mtu, e);
	if (has_mmds && !port)
		return -e->code;
	dev = net_interface_create(n, &env, e);
	if (!dev)
		return -e->code;
	if (port)
		net_set_mmds(dev, port);
	return plug(m, dev, e);
}

static int add_entropy(struct vm_machine *m, const struct limiter_config *limit, struct err *e)
{
	struct virtio_device *dev;
	struct virtio_env env;
	int r = open_slot(m, &env, e);

	if (r < 0)
		return r;
	dev = rng_create(&env, e);
	if (!dev)
		return -e->code;
	rng_set_limit(dev, limit);
	return plug(m, dev, e);
}

static void on_out_of_memory(void *arg, uint64_t kills)
{
	struct vm *vm = arg;

	event_emit(vm->events, "out_of_memory", EVENT_NUMBER("kills", kills));
}

static int add_balloon(struct vm_machine *m, const struct config *c, struct err *e)
{
	const struct balloon_setup s = {
		.amount_mib = c->balloon.amount_mib,
		.deflate_on_oom = c->balloon.deflate_on_oom,
		.hinting = c->balloon.free_page_hinting,
		.reporting = c->balloon.free_page_reporting,
		.stats_interval_s = c->balloon.stats_polling_interval_s,
		.out_of_memory = on_out_of_memory,
		.arg = m->vm,
	};
	struct virtio_device *dev;
	struct virtio_env env;
	int r;

	if (s.amount_mib > c->machine.mem_size_mib)
		return err_set(e, EINVAL, "amount_mib: %u is more than mem_size_mib", s.amount_mib);
	r = open_slot(m, &env, e);
	if (r < 0)
		return r;
	dev = balloon_create(&s, &env, e);
	return dev ? plug(m, dev, e) : -e->code;
}

static int add_vsock(struct vm_machine *m, const struct vsock_config *v, struct err *e)
{
	struct vsock_setup s = {.guest_cid = v->guest_cid, .uds_path = v->uds_path};
	struct virtio_device *dev;
	struct virtio_env env;
	int r = open_slot(m, &env, e);

	if (r < 0)
		return r;
	s.listen_fd = fcntl(v->listener.fd, F_DUPFD_CLOEXEC, 0);
	if (s.listen_fd < 0)
		return err_sys(e, "duplicate the socket at '%s'", v->uds_path);
	dev = vsock_create(&s, &env, e);
	if (!dev) {
		fd_close(&s.listen_fd);
		return -e->code;
	}
	return plug(m, dev, e);
}

static int add_pmem(struct vm_machine *m, const struct config *c, unsigned i, struct err *e)
{
	struct virtio_device *dev;
	struct virtio_env env;
	int r = open_slot(m, &env, e);

	if (r < 0)
		return r;
	dev = pmem_create_nth(c, i, &env, e);
	return dev ? plug(m, dev, e) : -e->code;
}

static int add_hotplug(struct vm_machine *m, struct err *e)
{
	struct virtio_device *dev;
	struct virtio_env env;
	int r = open_slot(m, &env, e);

	if (r < 0)
		return r;
	dev = hotplug_create(m, &env, e);
	return dev ? plug(m, dev, e) : -e->code;
}

int machine_build_devices(struct vm_machine *m, const struct config *c, struct err *e)
{
	int r = build_platform(m, c, e);

	if (r < 0)
		return r;
	for (unsigned i = 0; i < c->drive_count; i++) {
		r = add_drive(m, &c->drive[i], e);
		if (r < 0)
			return err_wrap(e, "drive '%s'", c->drive[i].id);
	}
	if (mmds_configured(&c->mmds)) {
		m->mmds = mmds_open(&m->vm->mmds, &c->mmds, m->vm->loop, e);
		if (!m->mmds)
			return -e->code;
	}
	for (unsigned i = 0; i < c->net_count; i++) {
		r = add_net(m, &c->net[i], e);
		if (r < 0)
			return err_wrap(e, "network interface '%s'", c->net[i].id);
	}
	if (c->entropy) {
		r = add_entropy(m, &c->entropy_limit, e);
		if (r < 0)
			return err_wrap(e, "entropy device");
	}
	if (c->balloon.configured) {
		r = add_balloon(m, c, e);
		if (r < 0)
			return err_wrap(e, "balloon");
	}
	if (c->vsock.uds_path) {
		r = add_vsock(m, &c->vsock, e);
		if (r < 0)
			return err_wrap(e, "vsock");
	}
	for (unsigned i = 0; i < c->pmem_count; i++) {
		r = add_pmem(m, c, i, e);
		if (r < 0)
			return err_wrap(e, "pmem '%s'", c->pmem[i].id);
	}
	if (c->hotplug.configured) {
		r = add_hotplug(m, e);
		if (r < 0)
			return err_wrap(e, "memory hotplug");
	}
	return 0;
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
	r = identity_begin(&m->identity, e);
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
	enum vcpu_end end = (enum vcpu_end)m->vcpus.end;

	(void)events;
	fd_event_drain(s->fd);
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

int machine_park(struct vm_machine *m, struct err *e)
{
	int r;

	m->ended = (struct loop_source){.fd = m->vcpus.end_fd, .ready = on_ended, .arg = m};
	r = loop_add(m->vm->loop, &m->ended, EPOLLIN, e);
	if (r == 0)
		r = vcpu_set_start(&m->vcpus, m->vm->seccomp, e);
	/* Last: under it nothing could be taken back and started again. */
	if (r == 0)
		r = seccomp_install(
			m->vm->seccomp,
			m->vm->config.machine.live_snapshots ? SECCOMP_LIVE : SECCOMP_MAIN, e);
	return r;
}

/* --- create/destroy --- */

struct vm_machine *machine_create(struct vm *vm, struct err *e)
{
	struct vm_machine *m = calloc(1, sizeof(*m));

	if (!m) {
		err_set(e, ENOMEM, "out of memory");
		return NULL;
	}
	m->vm = vm;
	m->kvm = (struct kvm){.fd = -1, .vm_fd = -1};
	m->identity.irq_fd = -1;
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
	for (unsigned i = 0; i < m->virtio_count; i++) {
		virtio_mmio_finish(&m->virtio[i]);
		fd_close(&m->virtio_irq[i]);
	}
	mmdsnet_destroy(m->mmds);
	serial_finish(&m->serial);
	serial_terminal_restore();
	i8042_finish(&m->i8042);
	identity_finish(&m->identity);
	bus_finish(&m->pio);
	bus_finish(&m->mmio);
	kvm_close(&m->kvm);
	gmem_finish(&m->mem);
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
		vcpu_set_resume(&m->vcpus);
	t->run_us = lap(&last);
	t->total_us = (last - start) / 1000;
	return r;
}

int vm_start(struct vm *vm, struct err *e)
{
	struct vm_machine *m;
	int r;

	if (vm->machine)
		return err_set(e, EINVAL, "the microVM has been started already");
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

int vm_resume(struct vm *vm, struct err *e)
{
	int r = need_started(vm, e);

	if (r < 0 || vm->phase == VM_RUNNING)
		return r;
	for (unsigned i = 0; i < vm->machine->vcpus.count; i++)
		x86_clock_paused(&vm->machine->vcpu[i]);
	vcpu_set_resume(&vm->machine->vcpus);
	vm->phase = VM_RUNNING;
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
	vm->machine = NULL;
	mmds_finish(&vm->mmds);
	config_finish(&vm->config);
}
