/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The devices of a machine: what the platform has, then one virtio device for each that is
 * configured, in slots that are given out in a fixed order, so that a restored guest finds each
 * where it was.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "virtio/balloon.h"
#include "virtio/block.h"
#include "virtio/net.h"
#include "virtio/rng.h"
#include "virtio/vsock.h"
#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/machine.h"

/* Beyond what anybody waits for. */
#define SHOW_WINDOWS_NS 100000000ull

static void on_reset(void *arg)
{
	vcpu_set_end(arg, VCPU_END_RESET);
}

static void on_power_off(void *arg)
{
	vcpu_set_end(arg, VCPU_END_POWEROFF);
}

static int build_serial(struct vm_machine *m, struct err *e)
{
	pthread_mutex_t *lock =
		bus_add(&m->pio, LAYOUT_COM1, SERIAL_SIZE, &serial_bus_ops, &m->serial);
	int r = serial_init(&m->serial, m->vm->loop, lock, -1, -1, e);

	if (r == 0)
		r = kvm_add_irqfd(&m->kvm, LAYOUT_GSI_COM1, m->serial.irq_fd, e);
	return r;
}

static void connect_serial(struct vm_machine *m, const struct config *c)
{
	int out = c->serial.fd >= 0 ? c->serial.fd : STDOUT_FILENO;
	int in = serial_terminal_raw(STDIN_FILENO) ? STDIN_FILENO : -1;

	serial_connect(&m->serial, in, out);
}

int machine_build_platform(struct vm_machine *m, const struct config *c, struct err *e)
{
	int r = build_serial(m, e);

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

static int bind_irq(struct vm_machine *m, unsigned slot, struct err *e)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	m->virtio_irq[slot] = fd;
	if (fd < 0)
		return err_sys(e, "create an eventfd");
	return kvm_add_irqfd(&m->kvm, layout_virtio_slot(slot).gsi, fd, e);
}

static int bind_kick(struct vm_machine *m, unsigned slot, unsigned queue, int fd, struct err *e)
{
	gpa_t notify = layout_virtio_slot(slot).base + VIRTIO_MMIO_QUEUE_NOTIFY;

	return kvm_add_ioeventfd(&m->kvm, notify, queue, fd, e);
}

int machine_build_spare(struct vm_machine *m, unsigned slots, struct err *e)
{
	int r = 0;

	for (; m->spare < slots; m->spare++) {
		m->virtio_irq[m->spare] = -1;
		for (unsigned q = 0; q < MACHINE_SPARE_QUEUES; q++)
			m->spare_kick[m->spare][q] = -1;
	}
	for (unsigned i = 0; r == 0 && i < slots; i++) {
		r = bind_irq(m, i, e);
		for (unsigned q = 0; r == 0 && q < MACHINE_SPARE_QUEUES; q++) {
			int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

			m->spare_kick[i][q] = fd;
			r = fd < 0 ? err_sys(e, "create an eventfd") : bind_kick(m, i, q, fd, e);
		}
	}
	return r;
}

/* Claims the next window and interrupt line for a device that is about to be created. */
static int open_slot(struct vm_machine *m, struct virtio_env *env, struct err *e)
{
	unsigned slot = m->virtio_count;
	struct layout_virtio w = layout_virtio_slot(slot);
	int r = 0;

	if (slot == LAYOUT_VIRTIO_MAX)
		return err_set(e, ENOSPC, "more than %u virtio devices", LAYOUT_VIRTIO_MAX);
	m->virtio_count++;
	if (slot >= m->spare)
		r = bind_irq(m, slot, e);
	*env = (struct virtio_env){
		.mem = &m->mem,
		.loop = m->vm->loop,
		.lock = bus_add(&m->mmio, w.base, LAYOUT_VIRTIO_SIZE, &virtio_bus_ops,
				&m->virtio[slot]),
		.irq_fd = m->virtio_irq[slot],
		.failed = on_device_failed,
		.failed_arg = m->vm,
	};
	return r;
}

/* Puts the device into the slot opened last. Takes it, also when it fails. */
static int plug(struct vm_machine *m, struct virtio_device *dev, struct err *e)
{
	unsigned slot = m->virtio_count - 1;
	unsigned bound = slot < m->spare ? MACHINE_SPARE_QUEUES : 0;
	struct virtio_mmio *t = &m->virtio[slot];
	int r = virtio_mmio_init_kicks(t, dev, m->spare_kick[slot], bound, e);

	for (unsigned q = bound; r == 0 && q < dev->num_queues; q++)
		r = bind_kick(m, slot, q, t->kick_fd[q], e);
	return r;
}

/* The device has its own descriptors, so that a failed start leaves the configuration whole. */
static int dup_files(const struct drive *d, struct block_config *c, struct err *e)
{
	if (d->fd < 0)
		return 0;
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

/* --- windows --- */

static void show_windows(struct loop_timer *t)
{
	struct vm_machine *m = t->arg;
	size_t len = (size_t)m->virtio_count * VIRTIO_MMIO_PAGE;
	struct err e;
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	_Static_assert(VIRTIO_MMIO_PAGE == LAYOUT_VIRTIO_SIZE, "a page is a window");
	if (p == MAP_FAILED)
		return;
	m->windows = p;
	for (unsigned i = 0; i < m->virtio_count; i++) {
		pthread_mutex_t *lock = m->virtio[i].dev->env.lock;

		pthread_mutex_lock(lock);
		virtio_mmio_map(&m->virtio[i], m->windows + (size_t)i * VIRTIO_MMIO_PAGE);
		pthread_mutex_unlock(lock);
	}
	if (kvm_set_windows(&m->kvm, p, len, &e) < 0)
		log_warn("%s", e.msg);
}

void machine_show_windows(struct vm_machine *m)
{
	m->show = (struct loop_timer){.expired = show_windows, .arg = m};
	if (m->virtio_count)
		loop_timer_set(m->vm->loop, &m->show, SHOW_WINDOWS_NS);
}

void machine_hide_windows(struct vm_machine *m)
{
	loop_timer_clear(m->vm->loop, &m->show);
	if (m->windows)
		munmap(m->windows, (size_t)m->virtio_count * VIRTIO_MMIO_PAGE);
}

int machine_build_devices(struct vm_machine *m, const struct config *c, struct err *e)
{
	int r = m->warm ? 0 : machine_build_platform(m, c, e);

	if (r < 0)
		return r;
	connect_serial(m, c);
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
