/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pause protocol against real KVM, with guests of a few instructions in real mode. There is no
 * interrupt controller unless a test asks for one, so that every vCPU runs at once.
 */
#include "vmm/vcpu.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "vmm/base/fd.h"
#include "vmm/base/log.h"
#include "vmm/layout.h"

#define VCPUS	 4u
#define CODE	 0x1000u
#define PORT	 0x100u	  /* four ports for each vCPU */
#define WINDOW	 0xd0000u /* two pages of MMIO for each vCPU */
#define END_PORT 0x80u

static struct kvm k;
static struct gmem mem;
static struct bus pio, mmio;
static struct vcpu_set set;
static struct vcpu vcpu[VCPUS];

static void open_machine(unsigned count, bool irqchip)
{
	static const struct gmem_region ram = {.gpa = 0, .len = KIB(64)};
	struct err e = {0};

	if (access("/dev/kvm", R_OK | W_OK) < 0)
		cr_skip("no /dev/kvm");
	log_set_level(LOG_OFF); /* guests that end badly are meant to */
	bus_init(&pio);
	bus_init(&mmio);
	cr_assert_eq(gmem_init(&mem, &ram, 1, GMEM_ANON, false, &e), 0, "%s", e.msg);
	cr_assert_eq(kvm_open(&k, &e), 0, "%s", e.msg);
	cr_assert_eq(kvm_set_memory(&k, &mem, false, &e), 0, "%s", e.msg);
	if (irqchip)
		cr_assert_eq(kvm_create_irqchip(&k, false, &e), 0, "%s", e.msg);
	cr_assert_eq(vcpu_set_init(&set, &k, vcpu, count, &pio, &mmio, &e), 0, "%s", e.msg);
}

static void close_machine(void)
{
	vcpu_set_finish(&set);
	kvm_close(&k);
	bus_finish(&pio);
	bus_finish(&mmio);
	gmem_finish(&mem);
}

/* Every vCPU starts at CODE with its port in DX, its window in DS and everything else 0. */
static void load(const void *code, size_t len)
{
	cr_assert_eq(gmem_write(&mem, CODE, code, len), 0);
	for (unsigned i = 0; i < set.count; i++) {
		struct kvm_regs r = {.rip = CODE, .rflags = 2, .rdx = PORT + 4 * i};
		struct kvm_sregs s;

		cr_assert_eq(ioctl(vcpu[i].fd, KVM_GET_SREGS, &s), 0);
		s.cs.base = s.cs.selector = 0;
		s.ds.base = WINDOW + 0x2000 * i;
		s.ds.selector = (uint16_t)(s.ds.base >> 4);
		s.idt.limit = 0;
		cr_assert_eq(ioctl(vcpu[i].fd, KVM_SET_SREGS, &s), 0);
		cr_assert_eq(ioctl(vcpu[i].fd, KVM_SET_REGS, &r), 0);
	}
}

static void start(void)
{
	struct err e = {0};

	cr_assert_eq(vcpu_set_start(&set, NULL, &e), 0, "%s", e.msg);
}

static struct kvm_regs registers(unsigned i)
{
	struct kvm_regs r;

	cr_assert_eq(ioctl(vcpu[i].fd, KVM_GET_REGS, &r), 0);
	return r;
}

/* --- a vCPU that exits all the time --- */

/* Each instruction that exits, once round. */
static const uint8_t busy_code[] = {
	0x66, 0xed,		      /* L_IN    in eax, dx */
	0x66, 0x8b, 0x1d,	      /* L_READ  mov ebx, [di] */
	0x66, 0x89, 0x0d,	      /* L_WRITE mov [di], ecx */
	0x66, 0x89, 0x8d, 0xfe, 0x0f, /* L_CROSS mov [di + 0xffe], ecx: two exits */
	0x66, 0xef,		      /* L_OUT   out dx, eax */
	0x66, 0x41,		      /* L_NEXT  inc ecx */
	0xeb, 0xed,		      /* L_JUMP  jmp L_IN */
};
enum {
	L_IN = CODE,
	L_READ = CODE + 2,
	L_WRITE = CODE + 5,
	L_CROSS = CODE + 8,
	L_OUT = CODE + 13,
	L_NEXT = CODE + 15,
	L_JUMP = CODE + 17
};

/* The device of one vCPU: answers each read with the next number and checks what comes. */
struct device {
	unsigned expected;	 /* the instruction that has to come next */
	unsigned half;		 /* first part of L_CROSS seen */
	uint32_t number;	 /* last answer */
	uint32_t in;		 /* the answer to L_IN */
	_Atomic uint32_t rounds; /* L_OUT seen */
	bool wrong;
};

static struct device device[VCPUS];

static void step(struct device *d, unsigned now, unsigned next, bool good)
{
	if (d->expected != now || !good)
		d->wrong = true;
	d->expected = next;
}

static uint32_t value(const void *data, unsigned len)
{
	uint32_t v = 0;

	memcpy(&v, data, MIN(len, 4u));
	return v;
}

static void port_read(void *dev, uint64_t off, void *data, unsigned len)
{
	struct device *d = dev;

	d->in = ++d->number;
	memcpy(data, &d->in, len);
	step(d, L_IN, L_READ, off == 0 && len == 4);
}

static void port_write(void *dev, uint64_t off, const void *data, unsigned len)
{
	struct device *d = dev;

	step(d, L_OUT, L_IN, off == 0 && len == 4 && value(data, len) == d->in);
	d->rounds++;
}

static void window_read(void *dev, uint64_t off, void *data, unsigned len)
{
	struct device *d = dev;

	d->number++;
	memcpy(data, &d->number, len);
	step(d, L_READ, L_WRITE, off == 0 && len == 4);
}

static void window_write(void *dev, uint64_t off, const void *data, unsigned len)
{
	struct device *d = dev;

	if (off == 0) {
		step(d, L_WRITE, L_CROSS, len == 4 && value(data, len) == d->rounds);
	} else if (off == 0xffe) {
		step(d, L_CROSS, L_CROSS, len == 2 && !d->half);
		d->half = 1;
	} else {
		step(d, L_CROSS, L_OUT, off == 0x1000 && len == 2 && d->half);
		d->half = 0;
	}
}

static const struct bus_ops port_ops = {.read = port_read, .write = port_write};
static const struct bus_ops window_ops = {.read = window_read, .write = window_write};

static void open_busy_machine(void)
{
	open_machine(VCPUS, false);
	for (unsigned i = 0; i < VCPUS; i++) {
		device[i].expected = L_IN;
		bus_add(&pio, PORT + 4 * i, 4, &port_ops, &device[i]);
		bus_add(&mmio, WINDOW + 0x2000 * i, 0x2000, &window_ops, &device[i]);
	}
	load(busy_code, sizeof(busy_code));
}

/* A parked vCPU has done all of what its device has seen, and nothing more. */
static void check_parked(unsigned i)
{
	const struct device *d = &device[i];
	struct kvm_regs r = registers(i);

	cr_assert_not(d->wrong, "vCPU %u repeated or skipped something", i);
	cr_assert_not(d->half, "vCPU %u has half a write behind it", i);
	if (d->expected == L_IN) /* these exit nowhere, so it may be at any of them */
		cr_assert(r.rip == L_NEXT || r.rip == L_JUMP || r.rip == L_IN, "0x%llx", r.rip);
	else
		cr_assert_eq(r.rip, d->expected, "vCPU %u at 0x%llx", i, r.rip);
	if (d->expected == L_READ)
		cr_assert_eq((uint32_t)r.rax, d->number, "IN has not reached EAX");
	if (d->expected == L_WRITE)
		cr_assert_eq((uint32_t)r.rbx, d->number, "MMIO read has not reached EBX");
	cr_assert_eq((uint32_t)r.rcx, d->rounds - (r.rip == L_NEXT));
}

/* Until every vCPU has gone once more round: a resume that was lost hangs here. */
static void await_progress(void)
{
	uint32_t before[VCPUS];

	for (unsigned i = 0; i < VCPUS; i++)
		before[i] = device[i].rounds;
	for (unsigned i = 0; i < VCPUS; i++)
		while (device[i].rounds == before[i])
			sched_yield();
}

/* So that the requests come at different moments; up to some 50 us, without giving the CPU away. */
static void spin_a_while(unsigned n)
{
	for (volatile unsigned i = n * 7919 % 20000; i > 0; i--)
		;
}

Test(vcpu, a_thousand_pauses, .timeout = 60)
{
	open_busy_machine();
	start();
	for (unsigned n = 0; n < 1000; n++) {
		uint32_t before[VCPUS];

		vcpu_set_resume(&set);
		if (n % 64 == 0)
			await_progress();
		else
			spin_a_while(n);
		vcpu_set_pause(&set);
		for (unsigned i = 0; i < VCPUS; i++) {
			struct kvm_regs r = registers(i);

			check_parked(i);
			before[i] = device[i].number;
			/* As a restored snapshot does: nothing pending may be overwritten by it. */
			cr_assert_eq(ioctl(vcpu[i].fd, KVM_SET_REGS, &r), 0);
		}
		spin_a_while(n);
		for (unsigned i = 0; i < VCPUS; i++)
			cr_assert_eq(device[i].number, before[i], "runs while it is paused");
	}
	vcpu_set_resume(&set);
	await_progress();
	close_machine();
}

Test(vcpu, pause_and_resume_are_idempotent, .timeout = 20)
{
	open_busy_machine();
	vcpu_set_pause(&set); /* no thread yet */
	start();
	vcpu_set_pause(&set);
	vcpu_set_pause(&set);
	for (unsigned i = 0; i < VCPUS; i++)
		cr_assert_eq(registers(i).rip, L_IN, "ran before the first resume");
	vcpu_set_resume(&set);
	vcpu_set_resume(&set);
	await_progress();
	vcpu_set_pause(&set);
	vcpu_set_pause(&set);
	for (unsigned i = 0; i < VCPUS; i++)
		check_parked(i);
	cr_assert_gt(set.metrics.exit_io_in.value, 0);
	cr_assert_gt(set.metrics.exit_io_out.value, 0);
	cr_assert_gt(set.metrics.exit_mmio_read.value, 0);
	cr_assert_gt(set.metrics.exit_mmio_write.value, 0);
	cr_assert_eq(set.metrics.failures.value, 0);
	close_machine();
}

/* --- vCPUs that never exit --- */

/* The limit of queued signals is reached, through whatever other process of the same user. */
Test(vcpu, a_kick_needs_no_room_for_signals, .timeout = 20)
{
	static const uint8_t spin[] = {0xeb, 0xfe};
	const struct rlimit none = {0, 0};

	open_machine(VCPUS, false);
	load(spin, sizeof(spin));
	cr_assert_eq(setrlimit(RLIMIT_SIGPENDING, &none), 0);
	start();
	for (unsigned n = 0; n < 50; n++) {
		vcpu_set_resume(&set);
		spin_a_while(n);
		vcpu_set_pause(&set);
	}
	vcpu_set_resume(&set);
	close_machine();
}

/* vCPU 0 halts for good, the others wait for a start-up IPI that never comes. */
Test(vcpu, halted_and_waiting_vcpus_can_be_paused, .timeout = 20)
{
	static const uint8_t halt[] = {0xf4, 0xeb, 0xfd};

	open_machine(VCPUS, true);
	load(halt, sizeof(halt));
	start();
	for (unsigned n = 0; n < 50; n++) {
		vcpu_set_resume(&set);
		spin_a_while(n);
		vcpu_set_pause(&set);
	}
	vcpu_set_resume(&set);
	close_machine();
}

/* --- string instructions --- */

static char printed[16];
static unsigned printed_len;

static void text_read(void *dev, uint64_t off, void *data, unsigned len)
{
	static unsigned next;

	(void)dev;
	(void)off;
	memset(data, 'A' + (int)next++, len);
}

static void text_write(void *dev, uint64_t off, const void *data, unsigned len)
{
	(void)dev;
	(void)off;
	if (printed_len < sizeof(printed) && len == 1)
		printed[printed_len++] = *(const char *)data;
}

static void end_write(void *dev, uint64_t off, const void *data, unsigned len)
{
	(void)dev;
	(void)off;
	(void)len;
	vcpu_set_end(&set, *(const uint8_t *)data);
}

static const struct bus_ops text_ops = {.read = text_read, .write = text_write};
static const struct bus_ops end_ops = {.read = text_read, .write = end_write};

static void await_end(void)
{
	struct pollfd p = {.fd = set.end_fd, .events = POLLIN};

	vcpu_set_resume(&set);
	cr_assert_eq(poll(&p, 1, -1), 1);
	cr_assert(fd_event_drain(set.end_fd));
	vcpu_set_pause(&set);
}

/* `rep insb` and `rep outsb` come as one exit for several accesses. */
Test(vcpu, string_instructions_keep_their_order, .timeout = 20)
{
	static const uint8_t code[] = {
		0xb9, 0x08,	      0x00, /* mov cx, 8 */
		0xbf, 0x00,	      0x20, /* mov di, 0x2000 */
		0xf3, 0x6c,		    /* rep insb */
		0xb9, 0x08,	      0x00, /* mov cx, 8 */
		0xbe, 0x00,	      0x20, /* mov si, 0x2000 */
		0xf3, 0x26,	      0x6e, /* rep outsb from es */
		0xb0, VCPU_END_RESET,	    /* mov al, ... */
		0xe6, END_PORT,		    /* out */
		0xf4,
	};
	char stored[8];

	open_machine(1, false);
	bus_add(&pio, PORT, 4, &text_ops, NULL);
	bus_add(&pio, END_PORT, 1, &end_ops, NULL);
	load(code, sizeof(code));
	start();
	await_end();
	cr_assert_eq(set.end, VCPU_END_RESET);
	cr_assert_eq(gmem_read(&mem, 0x2000, stored, sizeof(stored)), 0);
	cr_assert_eq(memcmp(stored, "ABCDEFGH", 8), 0);
	cr_assert_eq(printed_len, 8);
	cr_assert_eq(memcmp(printed, "ABCDEFGH", 8), 0);
	close_machine();
}

/* --- ends --- */

/* Runs the code on two vCPUs until one has met its end. */
static void run_to_end(const uint8_t *code, size_t len)
{
	open_machine(2, false);
	bus_add(&pio, END_PORT, 1, &end_ops, NULL);
	load(code, len);
	start();
	await_end();
}

/* An undefined instruction in protected mode, and no IDT. */
Test(vcpu, triple_fault, .timeout = 20)
{
	static const uint8_t code[] = {0x0f, 0x0b};
	struct kvm_sregs s;

	open_machine(2, false);
	load(code, sizeof(code));
	for (unsigned i = 0; i < 2; i++) {
		cr_assert_eq(ioctl(vcpu[i].fd, KVM_GET_SREGS, &s), 0);
		s.cr0 |= 1;
		cr_assert_eq(ioctl(vcpu[i].fd, KVM_SET_SREGS, &s), 0);
	}
	start();
	await_end();
	cr_assert_eq(set.end, VCPU_END_TRIPLE_FAULT);
	close_machine();
}

Test(vcpu, an_exit_that_nobody_knows_is_an_error, .timeout = 20)
{
	static const uint8_t code[] = {0xf4}; /* HLT exits when KVM has no interrupt controller */

	run_to_end(code, sizeof(code));
	cr_assert_eq(set.end, VCPU_END_ERROR);
	cr_assert_geq(set.metrics.failures.value, 1);
	close_machine();
}

/* The first end counts and is told once; a resume does not bring the guest back. */
Test(vcpu, an_end_is_for_good, .timeout = 20)
{
	static const uint8_t code[] = {
		0xb0, VCPU_END_POWEROFF, /* mov al, ... */
		0xe6, END_PORT,		 /* out */
		0x41,			 /* inc cx */
		0xeb, 0xfb,		 /* jmp to the out */
	};
	uint64_t outs;

	run_to_end(code, sizeof(code));
	vcpu_set_end(&set, VCPU_END_RESET);
	cr_assert_eq(set.end, VCPU_END_POWEROFF);
	cr_assert_not(fd_event_drain(set.end_fd), "told twice");
	outs = set.metrics.exit_io_out.value;
	cr_assert_leq(outs, 2, "once for each vCPU");
	for (unsigned n = 0; n < 10; n++) {
		vcpu_set_resume(&set);
		spin_a_while(n);
		vcpu_set_pause(&set);
	}
	cr_assert_eq(set.metrics.exit_io_out.value, outs);
	close_machine();
}

/* Reported from outside while the guest spins: whoever hears of it can pause and finish. */
Test(vcpu, an_end_from_outside, .timeout = 20)
{
	static const uint8_t spin[] = {0xeb, 0xfe};

	open_machine(2, false);
	load(spin, sizeof(spin));
	start();
	vcpu_set_resume(&set);
	vcpu_set_end(&set, VCPU_END_RESET);
	await_end();
	cr_assert_eq(set.end, VCPU_END_RESET);
	close_machine();
}

/* --- finish --- */

Test(vcpu, finish_in_every_state, .timeout = 60)
{
	struct vcpu_set zero = {0};
	int before, after;

	vcpu_set_finish(&zero);
	before = dup(0);
	close(before);
	for (unsigned state = 0; state < 5; state++) {
		open_busy_machine();
		if (state >= 1)
			start();
		if (state >= 2)
			vcpu_set_resume(&set);
		if (state >= 3)
			await_progress();
		if (state >= 4)
			vcpu_set_pause(&set);
		close_machine();
		vcpu_set_finish(&set);
		after = dup(0);
		close(after);
		cr_assert_eq(after, before, "state %u", state);
	}
}

/* However early they are told. */
Test(vcpu, runs_when_let_go_not_when_told_that_it_will_be_soon, .timeout = 60)
{
	static const uint8_t code[] = {0xef, 0xeb, 0xfd}; /* out dx, ax; jmp back */

	open_machine(2, false);
	load(code, sizeof(code));
	start();
	for (unsigned round = 0; round < 20; round++) {
		uint64_t before = set.metrics.exit_io_out.value;

		vcpu_set_soon(&set);
		if (round % 2) /* longer than anybody looks for it */
			usleep(2000);
		cr_assert_eq(set.metrics.exit_io_out.value, before);
		vcpu_set_resume(&set);
		while (set.metrics.exit_io_out.value == before)
			sched_yield();
		vcpu_set_pause(&set);
	}
	vcpu_set_soon(&set); /* and then it is over */
	close_machine();
}

/* KVM has made all that an entry needs; the guest has not moved, and CPUID may still become another. */
Test(vcpu, a_warm_vcpu_has_not_run, .timeout = 60)
{
	static const uint8_t code[] = {0xef, 0xeb, 0xfd}; /* out dx, ax; jmp back */
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[2];
	} cpuid = {.head.nent = 2, .entry = {{.function = 0, .eax = 1}, {.function = 1, .ecx = 1}}};

	open_machine(VCPUS, false);
	load(code, sizeof(code));
	set.warm = true;
	start();
	vcpu_set_pause(&set);
	cr_assert_eq(set.end, VCPU_END_NONE);
	cr_assert_eq(set.metrics.exit_io_out.value, 0);
	for (unsigned i = 0; i < VCPUS; i++) {
		struct kvm_regs r = registers(i);

		cr_assert_eq(r.rip, CODE);
		cpuid.entry[1].ecx = i;
		cr_assert_eq(ioctl(vcpu[i].fd, KVM_SET_CPUID2, &cpuid), 0, "%s", strerror(errno));
	}
	vcpu_set_resume(&set);
	while (set.metrics.exit_io_out.value < 100)
		sched_yield();
	close_machine();
}

/* What a restored guest is told by: the first instruction that it runs may be the handler's. */
Test(vcpu, a_pulse_is_in_the_local_apic_when_it_returns, .timeout = 60)
{
	static const uint32_t enabled = 0x1ff, vector = 0x41;
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
	struct kvm_lapic_state lapic;
	struct err e = {0};
	uint32_t irr;

	open_machine(1, true);
	cr_assert_eq(ioctl(vcpu[0].fd, KVM_GET_LAPIC, &lapic), 0);
	memcpy(lapic.regs + 0xf0, &enabled, sizeof(enabled));
	cr_assert_eq(ioctl(vcpu[0].fd, KVM_SET_LAPIC, &lapic), 0);
	cr_assert_eq(ioctl(k.vm_fd, KVM_GET_IRQCHIP, &chip), 0);
	chip.chip.ioapic.redirtbl[LAYOUT_GSI_IDENTITY].bits = vector; /* edge, to APIC 0 */
	cr_assert_eq(ioctl(k.vm_fd, KVM_SET_IRQCHIP, &chip), 0);
	cr_assert_eq(kvm_pulse_irq(&k, LAYOUT_GSI_IDENTITY, &e), 0, "%s", e.msg);
	cr_assert_eq(ioctl(vcpu[0].fd, KVM_GET_LAPIC, &lapic), 0);
	memcpy(&irr, lapic.regs + 0x200 + vector / 32 * 0x10, sizeof(irr));
	cr_assert_eq(irr, 1u << vector % 32);
	close_machine();
}

/* No /dev/kvm needed: a descriptor that is no VM. */
Test(vcpu, a_half_built_set_can_be_finished)
{
	struct kvm none = {.fd = -1, .vm_fd = -1, .run_size = 4096};
	int before = dup(0), after;
	struct err e;

	close(before);
	cr_assert_eq(vcpu_set_init(&set, &none, vcpu, 2, &pio, &mmio, &e), -EBADF);
	cr_assert_not_null(strstr(e.msg, "vCPU 0"));
	vcpu_set_finish(&set);
	after = dup(0);
	close(after);
	cr_assert_eq(after, before);
}
