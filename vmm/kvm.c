/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/kvm.h"

#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <xxhash.h>

#include "vmm/base/fd.h"
#include "vmm/layout.h"

#define KVM_PATH "/dev/kvm"

static int open_device(struct kvm *k, struct err *e)
{
	k->fd = openat(AT_FDCWD, KVM_PATH, O_RDWR | O_CLOEXEC);
	if (k->fd >= 0)
		return 0;
	switch (errno) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		return err_set(e, errno,
			       "'" KVM_PATH "' is missing: load the module (modprobe kvm_intel or "
			       "kvm_amd) and turn virtualization on in the firmware or outer host");
	case EACCES:
	case EPERM:
		return err_set(e, errno,
			       "no permission for '" KVM_PATH "': add the user to its group "
			       "(usermod -aG kvm USER) or run through the jailer");
	default:
		return err_sys(e, "open '" KVM_PATH "'");
	}
}

static int check_host(struct kvm *k, struct err *e)
{
	int n = ioctl(k->fd, KVM_GET_API_VERSION, 0);
	struct utsname host = {0};

	if (n != KVM_API_VERSION)
		return err_set(e, ENOTSUP, "'" KVM_PATH "' speaks API version %d, need %d", n,
			       KVM_API_VERSION);
	/* The newest that is needed (Linux 4.13): who has it has all others. */
	if (ioctl(k->fd, KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT) <= 0)
		return err_set(e, ENOTSUP, "this kernel's KVM lacks KVM_CAP_IMMEDIATE_EXIT");
	uname(&host);
	k->kernel = XXH64(host.version, strlen(host.version),
			  XXH64(host.release, strlen(host.release), 0));
	k->tsc_deadline = ioctl(k->fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
	n = ioctl(k->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (n < (int)sizeof(struct kvm_run))
		return err_set(e, ENOTSUP, "KVM gives a vCPU area of %d bytes, need %zu", n,
			       sizeof(struct kvm_run));
	k->run_size = (size_t)n;
	return 0;
}

static int create_vm(struct kvm *k, struct err *e)
{
	/* The kernel gives up with EINTR when a signal meets it at an unlucky moment. */
	for (int tries = 0; tries < 5; tries++) {
		k->vm_fd = ioctl(k->fd, KVM_CREATE_VM, 0);
		if (k->vm_fd >= 0 || errno != EINTR)
			break;
	}
	if (k->vm_fd < 0)
		return err_sys(e, "create a VM (KVM_CREATE_VM)");
	return 0;
}

int kvm_open(struct kvm *k, struct err *e)
{
	int r;

	*k = (struct kvm){.fd = -1, .vm_fd = -1};
	r = open_device(k, e);
	if (r == 0)
		r = check_host(k, e);
	if (r == 0)
		r = create_vm(k, e);
	if (r < 0)
		kvm_close(k);
	return r;
}

void kvm_close(struct kvm *k)
{
	fd_close(&k->vm_fd);
	fd_close(&k->fd);
}

int kvm_set_memory(struct kvm *k, const struct gmem *mem, bool log_dirty, struct err *e)
{
	for (unsigned i = 0; i < mem->all; i++) {
		const struct gmem_region *r = &mem->region[i];
		bool log = log_dirty && i < mem->count;
		struct kvm_userspace_memory_region slot = {
			.slot = i,
			.flags = (log ? KVM_MEM_LOG_DIRTY_PAGES : 0) |
				 (r->read_only ? KVM_MEM_READONLY : 0),
			.guest_phys_addr = r->gpa,
			.memory_size = r->len,
			.userspace_addr = (uintptr_t)r->host,
		};

		if (!r->block && ioctl(k->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
			return err_sys(e, "give KVM %llu MiB of memory at 0x%llx",
				       (unsigned long long)(r->len >> 20),
				       (unsigned long long)r->gpa);
	}
	return 0;
}

int kvm_set_part(struct kvm *k, const struct gmem_region *r, unsigned n, bool on, bool log_dirty)
{
	struct kvm_userspace_memory_region slot = {
		.slot = KVM_SLOT_PART(n),
		.flags = log_dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0,
		.guest_phys_addr = r->gpa + n * r->part,
		.memory_size = on ? r->part : 0,
		.userspace_addr = (uintptr_t)r->host + n * r->part,
	};

	return ioctl(k->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0 ? -errno : 0;
}

int kvm_set_windows(struct kvm *k, const void *host, uint64_t len, struct err *e)
{
	struct kvm_userspace_memory_region slot = {
		.slot = KVM_SLOT_WINDOWS,
		.flags = KVM_MEM_READONLY,
		.guest_phys_addr = LAYOUT_VIRTIO,
		.memory_size = len,
		.userspace_addr = (uintptr_t)host,
	};

	if (ioctl(k->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		return err_sys(e, "give KVM the windows of the devices");
	return 0;
}

int kvm_create_irqchip(struct kvm *k, bool pit, struct err *e)
{
	struct kvm_pit_config config = {.flags = KVM_PIT_SPEAKER_DUMMY};

	/* Needed by Intel hosts that run real mode in a v8086 task; a no-op elsewhere. */
	if (ioctl(k->vm_fd, KVM_SET_TSS_ADDR, LAYOUT_KVM_TSS) < 0)
		return err_sys(e, "set KVM's task state segment (KVM_SET_TSS_ADDR)");
	if (ioctl(k->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return err_sys(e, "create the interrupt controllers (KVM_CREATE_IRQCHIP)");
	if (pit && ioctl(k->vm_fd, KVM_CREATE_PIT2, &config) < 0)
		return err_sys(e, "create the i8254 timer (KVM_CREATE_PIT2)");
	return 0;
}

int kvm_add_ioeventfd(struct kvm *k, gpa_t addr, uint32_t match, int fd, struct err *e)
{
	struct kvm_ioeventfd io = {
		.datamatch = match,
		.addr = addr,
		.len = sizeof(match),
		.fd = fd,
		.flags = KVM_IOEVENTFD_FLAG_DATAMATCH,
	};

	if (ioctl(k->vm_fd, KVM_IOEVENTFD, &io) < 0)
		return err_sys(e, "bind an eventfd to 0x%llx (KVM_IOEVENTFD)",
			       (unsigned long long)addr);
	return 0;
}

int kvm_add_irqfd(struct kvm *k, uint32_t gsi, int fd, struct err *e)
{
	struct kvm_irqfd irq = {.fd = (uint32_t)fd, .gsi = gsi};

	if (ioctl(k->vm_fd, KVM_IRQFD, &irq) < 0)
		return err_sys(e, "bind an eventfd to interrupt line %u (KVM_IRQFD)", gsi);
	return 0;
}

int kvm_pulse_irq(struct kvm *k, uint32_t gsi, struct err *e)
{
	struct kvm_irq_level high = {.irq = gsi, .level = 1}, low = {.irq = gsi};

	if (ioctl(k->vm_fd, KVM_IRQ_LINE, &high) < 0 || ioctl(k->vm_fd, KVM_IRQ_LINE, &low) < 0)
		return err_sys(e, "raise interrupt line %u (KVM_IRQ_LINE)", gsi);
	return 0;
}
