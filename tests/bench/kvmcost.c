/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmcost NAME ROUND: the bare cost of a start. The KVM calls that spore makes for one vCPU, 128 MiB,
 * a serial line, a keyboard controller, a block and an entropy device, in its order, each timed, up
 * to the first exit of a guest whose first instruction is an `out`. Nothing else is done: no
 * device, no file, no table but the guest's three pages of page tables.
 *
 * NAME "restore": those of a restore, where saved state is set instead, and memory is a file that is mapped:
 * what is read to have something to set is `x_read`.
 *
 * NAME "claim": those of a restore into a VM that is there already with vCPU, eventfds, CPUID and a memory
 * slot over reserved address space: a file is mapped there, state is set, a thread that waits is
 * woken. What is made before is `x_shell`.
 *
 * Figures: one for each call, `sum` of all of them, and beside them (not in the sum) what start needs
 * from the kernel but not from KVM: `x_memory`, `x_eventfds`, `x_thread`.
 */
#define _GNU_SOURCE
#include <linux/kvm.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "tests/bench/bench.h"

#define MEMORY	   (128ul << 20)
#define HUGE	   (2ul << 20)
#define CODE	   0x100000ul
#define PAGE_TABLE 0x9000ul
#define NOTIFY	   0xc0001050ul
#define ENTRIES	   128
#define IRQFDS	   4
#define IOEVENTFDS 2

struct cost {
	const char *name;
	unsigned round;
	uint64_t last, sum;
	int kvm, vm, vcpu;
	size_t run_size;
	struct kvm_run *run;
	uint8_t *memory;
	int event[IRQFDS + IOEVENTFDS];
	struct {
		uint32_t nent, pad;
		struct kvm_cpuid_entry2 entry[ENTRIES];
	} cpuid;
	uint64_t run_ns, thread_at;
	bool claim, silent;
	int file;
	sem_t go;
};

static void start(struct cost *c)
{
	c->last = bench_now();
}

/* What was done since start() or the last stop() was `figure`. */
static void stop(struct cost *c, const char *figure)
{
	uint64_t ns = bench_now() - c->last;

	if (!c->silent) {
		bench_row(c->name, c->round, figure, ns);
		if (figure[0] != 'x')
			c->sum += ns;
	}
	start(c);
}

static int call(int fd, unsigned long request, unsigned long arg, const char *name)
{
	int r = ioctl(fd, request, arg);

	if (r < 0)
		err(1, "%s", name);
	return r;
}

/* The name in messages and, without "KVM_", in the CSV is the request's own. */
#define CALL(fd, request, arg) call(fd, request, (unsigned long)(arg), #request)
#define TIMED(c, fd, request, arg)                    \
	({                                            \
		int timed_r = CALL(fd, request, arg); \
		stop(c, &#request[4]);                \
		timed_r;                              \
	})

static void map_memory(struct cost *c)
{
	uint8_t *map = mmap(NULL, MEMORY + HUGE, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	c->memory = (uint8_t *)(((uintptr_t)map + HUGE - 1) & ~(HUGE - 1));
	if (map == MAP_FAILED ||
	    mmap(c->memory, MEMORY, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		err(1, "map guest memory");
}

/* The guest's memory goes into a file, and only its address space stays. */
static void unmap_guest(struct cost *c)
{
	c->file = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (c->file < 0 || ftruncate(c->file, MEMORY) < 0 ||
	    pwrite(c->file, c->memory + CODE, 4096, CODE) != 4096 ||
	    pwrite(c->file, c->memory + PAGE_TABLE, 0x3000, PAGE_TABLE) != 0x3000 ||
	    mmap(c->memory, MEMORY, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		err(1, "a file of guest memory");
}

static void map_file(struct cost *c)
{
	start(c);
	if (mmap(c->memory, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED,
		 c->file, 0) == MAP_FAILED)
		err(1, "map guest memory");
	stop(c, "mmap_file");
}

static void write_guest(struct cost *c)
{
	static const uint8_t code[] = {0xe6, 0x80, 0xf4}; /* out %al, $0x80; hlt */
	uint64_t *table = (uint64_t *)(void *)(c->memory + PAGE_TABLE);

	memcpy(c->memory + CODE, code, sizeof(code));
	table[0] = (PAGE_TABLE + 0x1000) | 3;
	table[512] = (PAGE_TABLE + 0x2000) | 3;
	for (uint64_t i = 0; i < 512; i++)
		table[1024 + i] = i << 21 | 0x83;
}

static void create_vm(struct cost *c)
{
	struct kvm_userspace_memory_region slot = {.memory_size = MEMORY,
						   .userspace_addr = (uintptr_t)c->memory};

	start(c);
	c->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (c->kvm < 0)
		err(1, "/dev/kvm");
	stop(c, "open");
	CALL(c->kvm, KVM_GET_API_VERSION, 0);
	CALL(c->kvm, KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT);
	CALL(c->kvm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER);
	c->run_size = (size_t)CALL(c->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	stop(c, "checks");
	c->vm = TIMED(c, c->kvm, KVM_CREATE_VM, 0);
	TIMED(c, c->vm, KVM_SET_USER_MEMORY_REGION, &slot);
	TIMED(c, c->vm, KVM_SET_TSS_ADDR, 0xfffbd000);
	TIMED(c, c->vm, KVM_CREATE_IRQCHIP, 0);
}

static void bind_events(struct cost *c)
{
	for (unsigned i = 0; i < IRQFDS + IOEVENTFDS; i++)
		c->event[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	stop(c, "x_eventfds");
	for (unsigned i = 0; i < IRQFDS; i++) {
		struct kvm_irqfd irq = {.fd = (uint32_t)c->event[i], .gsi = i + 4};

		CALL(c->vm, KVM_IRQFD, &irq);
	}
	stop(c, "IRQFD");
	for (unsigned i = 0; i < IOEVENTFDS; i++) {
		struct kvm_ioeventfd io = {
			.addr = NOTIFY + i * 0x1000,
			.len = 4,
			.fd = c->event[IRQFDS + i],
			.flags = KVM_IOEVENTFD_FLAG_DATAMATCH,
		};

		CALL(c->vm, KVM_IOEVENTFD, &io);
	}
	stop(c, "IOEVENTFD");
}

static struct kvm_segment segment(uint16_t selector, uint8_t type)
{
	return (struct kvm_segment){.limit = ~0u,
				    .selector = selector,
				    .type = type,
				    .present = 1,
				    .s = 1,
				    .g = 1,
				    .l = type == 11,
				    .db = type != 11};
}

/* A claim does not read what it sets. */
static void set_registers(struct cost *c)
{
	struct kvm_regs regs = {.rip = CODE, .rflags = 2, .rsp = PAGE_TABLE};
	struct kvm_lapic_state lapic;
	struct kvm_sregs s;

	if (c->claim) {
		CALL(c->vcpu, KVM_GET_SREGS, &s);
		CALL(c->vcpu, KVM_GET_LAPIC, &lapic);
	} else {
		TIMED(c, c->vcpu, KVM_GET_SREGS, &s);
	}
	s.cs = segment(0x10, 11);
	s.ds = s.es = s.fs = s.gs = s.ss = segment(0x18, 3);
	s.tr = (struct kvm_segment){.limit = 0x67, .selector = 0x20, .type = 11, .present = 1};
	s.cr0 = 1u << 31 | 1u << 4 | 1;
	s.cr3 = PAGE_TABLE;
	s.cr4 = 1u << 5;
	s.efer = 1u << 8 | 1u << 10;
	start(c);
	TIMED(c, c->vcpu, KVM_SET_SREGS, &s);
	TIMED(c, c->vcpu, KVM_SET_REGS, &regs);
	if (!c->claim)
		TIMED(c, c->vcpu, KVM_GET_LAPIC, &lapic);
	TIMED(c, c->vcpu, KVM_SET_LAPIC, &lapic);
}

static void create_vcpu(struct cost *c)
{
	struct { /* struct kvm_msrs with its entries */
		uint32_t count, pad;
		struct kvm_msr_entry entry[2];
	} msrs = {2, 0, {{.index = 0x1a0, .data = 1}, {.index = 0x2ff, .data = 0xc06}}};

	c->vcpu = TIMED(c, c->vm, KVM_CREATE_VCPU, 0);
	c->run = mmap(NULL, c->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->vcpu, 0);
	if (c->run == MAP_FAILED)
		err(1, "map the run area");
	stop(c, "mmap");
	c->cpuid.nent = ENTRIES;
	TIMED(c, c->kvm, KVM_GET_SUPPORTED_CPUID, &c->cpuid);
	TIMED(c, c->vcpu, KVM_SET_CPUID2, &c->cpuid);
	TIMED(c, c->vcpu, KVM_SET_MSRS, &msrs);
	if (!c->claim)
		set_registers(c);
}

/* What a restore sets besides: read from the vCPU itself. */
static void set_saved(struct cost *c)
{
	static struct kvm_msrs_all {
		uint32_t count, pad;
		struct kvm_msr_entry entry[512];
	} msrs;
	static struct {
		uint32_t count, index[512];
	} list = {.count = 512};
	static struct kvm_irqchip chip[3] = {{.chip_id = 0}, {.chip_id = 1}, {.chip_id = 2}};
	static struct kvm_xsave xsave;
	struct kvm_clock_data clock = {0};
	struct kvm_vcpu_events events;
	struct kvm_debugregs debug;
	struct kvm_mp_state mp;
	struct kvm_xcrs xcrs;

	CALL(c->kvm, KVM_GET_MSR_INDEX_LIST, &list);
	for (uint32_t i = 0; i < list.count; i++) {
		msrs.count = 1;
		msrs.entry[0].index = list.index[i];
		if (ioctl(c->vcpu, KVM_GET_MSRS, &msrs) != 1)
			list.index[i] = 0;
	}
	for (uint32_t i = msrs.count = 0; i < list.count; i++)
		if (list.index[i])
			msrs.entry[msrs.count++] = (struct kvm_msr_entry){.index = list.index[i]};
	CALL(c->vcpu, KVM_GET_MSRS, &msrs);
	CALL(c->vcpu, KVM_GET_XSAVE, &xsave);
	CALL(c->vcpu, KVM_GET_XCRS, &xcrs);
	CALL(c->vcpu, KVM_GET_DEBUGREGS, &debug);
	CALL(c->vcpu, KVM_GET_MP_STATE, &mp);
	CALL(c->vcpu, KVM_GET_VCPU_EVENTS, &events);
	for (int i = 0; i < 3; i++)
		CALL(c->vm, KVM_GET_IRQCHIP, &chip[i]);
	CALL(c->vm, KVM_GET_CLOCK, &clock);
	clock.flags = 0;
	stop(c, "x_read");
	TIMED(c, c->vcpu, KVM_SET_XSAVE, &xsave);
	TIMED(c, c->vcpu, KVM_SET_XCRS, &xcrs);
	TIMED(c, c->vcpu, KVM_SET_DEBUGREGS, &debug);
	ioctl(c->vcpu, KVM_SET_MSRS, &msrs); /* stops where spore leaves one out */
	stop(c, "SET_MSRS_all");
	TIMED(c, c->vcpu, KVM_SET_MP_STATE, &mp);
	TIMED(c, c->vcpu, KVM_SET_VCPU_EVENTS, &events);
	for (int i = 0; i < 3; i++)
		CALL(c->vm, KVM_SET_IRQCHIP, &chip[i]);
	stop(c, "SET_IRQCHIP");
	TIMED(c, c->vm, KVM_SET_CLOCK, &clock);
}

static void *run(void *arg)
{
	struct cost *c = arg;
	uint64_t begin;

	if (c->claim)
		sem_wait(&c->go);
	c->thread_at = begin = bench_now();
	CALL(c->vcpu, KVM_RUN, 0);
	c->run_ns = bench_now() - begin;
	if (c->run->exit_reason != KVM_EXIT_IO)
		errx(1, "first exit has reason %u", c->run->exit_reason);
	return NULL;
}

int main(int argc, char *argv[])
{
	static struct cost c;
	pthread_t thread;
	uint64_t begin;
	bool restore;

	if (argc != 3)
		errx(2, "usage: kvmcost NAME ROUND");
	c.name = argv[1];
	c.round = (unsigned)atoi(argv[2]);
	c.claim = c.silent = strcmp(c.name, "claim") == 0;
	restore = strcmp(c.name, "restore") == 0;
	begin = bench_now();
	start(&c);
	map_memory(&c);
	stop(&c, "x_memory");
	write_guest(&c);
	if (c.claim || restore)
		unmap_guest(&c);
	if (restore)
		map_file(&c);
	create_vm(&c);
	bind_events(&c);
	create_vcpu(&c);
	if (c.claim) {
		if (sem_init(&c.go, 0, 0) < 0 || pthread_create(&thread, NULL, run, &c))
			errx(1, "vCPU thread");
		usleep(1000);
		bench_row(c.name, c.round, "x_shell", bench_now() - begin);
		c.silent = false;
		map_file(&c);
		set_registers(&c);
	}
	if (c.claim || restore)
		set_saved(&c);
	begin = bench_now();
	if (c.claim)
		sem_post(&c.go);
	else if (pthread_create(&thread, NULL, run, &c))
		errx(1, "vCPU thread");
	if (pthread_join(thread, NULL))
		errx(1, "vCPU thread");
	bench_row(c.name, c.round, c.claim ? "wake" : "x_thread", c.thread_at - begin);
	if (c.claim)
		c.sum += c.thread_at - begin;
	bench_row(c.name, c.round, "RUN", c.run_ns);
	bench_row(c.name, c.round, "sum", c.sum + c.run_ns);
	fflush(stdout);
	_exit(0);
}
