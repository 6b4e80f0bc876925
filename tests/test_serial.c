/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "vmm/serial.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/scratch.h"
#include "vmm/base/fd.h"

/* Registers and bits under the names that a 16550 driver gives them. */
enum { RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR, THR = 0, DLL = 0, DLM = 1, FCR = 2, EFR = 2 };
enum { OUT2 = 8, LOOPBACK = 0x10, DR = 1, THRE = 0x20, TEMT = 0x40, DLAB = 0x80 };
enum { NO_INT = 1, THRI = 2, RDI = 4 };

static struct loop loop;
static struct serial s;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int in[2], out[2]; /* pipes; the guest's ends are in[0] and out[1] */

static void setup(void)
{
	signal(SIGPIPE, SIG_IGN);
	cr_assert_eq(loop_init(&loop, NULL), 0);
	cr_assert_eq(pipe2(in, O_CLOEXEC), 0);
	cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
	cr_assert_eq(serial_init(&s, &loop, &lock, in[0], out[1], NULL), 0);
}

static void teardown(void)
{
	serial_finish(&s);
	loop_finish(&loop);
}

TestSuite(serial, .init = setup, .fini = teardown, .timeout = 30);

/* The same with other descriptors. */
static void restart(int in_fd, int out_fd)
{
	serial_finish(&s);
	cr_assert_eq(serial_init(&s, &loop, &lock, in_fd, out_fd, NULL), 0);
}

static uint8_t rd(unsigned reg)
{
	uint8_t v = 0xee;

	pthread_mutex_lock(&lock);
	serial_bus_ops.read(&s, reg, &v, 1);
	pthread_mutex_unlock(&lock);
	return v;
}

static void wr(unsigned reg, unsigned value)
{
	uint8_t v = (uint8_t)value;

	pthread_mutex_lock(&lock);
	serial_bus_ops.write(&s, reg, &v, 1);
	pthread_mutex_unlock(&lock);
}

/* True when the interrupt line had an edge since the last call. */
static bool irq(void)
{
	return fd_event_drain(s.irq_fd);
}

static void run(void)
{
	cr_assert_eq(loop_run_once(&loop, 0), 0);
}

static bool loop_is_idle(void)
{
	struct pollfd p = {.fd = loop.epfd, .events = POLLIN};

	return poll(&p, 1, 0) == 0;
}

static void type(const char *text)
{
	cr_assert_eq(write(in[1], text, strlen(text)), (ssize_t)strlen(text));
	run();
}

static uint64_t count(const struct metric *m)
{
	return m->value;
}

/* --- what Linux's 8250 driver does --- */

/* Its autoconfig(): is there a UART, and which one? */
Test(serial, linux_finds_a_16550a)
{
	uint8_t ier = rd(IER), mcr = rd(MCR), lcr = rd(LCR);

	wr(IER, 0);
	cr_assert_eq(rd(IER) & 0x0f, 0);
	wr(IER, 0x0f);
	cr_assert_eq(rd(IER) & 0x0f, 0x0f);
	wr(IER, ier);
	wr(MCR, LOOPBACK | OUT2 | 2);
	cr_assert_eq(rd(MSR) & 0xf0, 0x90, "DCD and CTS follow OUT2 and RTS");
	wr(MCR, mcr);
	wr(LCR, 0xbf);
	wr(EFR, 0);
	wr(LCR, 0);
	wr(FCR, 1);
	cr_assert_eq(rd(IIR) & 0xc0, 0xc0, "both FIFO bits: a 16550A");
	wr(FCR, 0);
	cr_assert_eq(rd(IIR) & 0xc0, 0, "and none with the FIFO off");
	wr(LCR, lcr);
	cr_assert_eq(rd(LCR), lcr);
	cr_assert_eq(rd(MCR), mcr);
}

/* Its autoconfig_16550a(): what else it could be must not be seen in it. */
Test(serial, linux_finds_no_newer_model)
{
	uint8_t mcr;

	wr(FCR, 1);
	wr(LCR, 0x80);
	cr_assert_neq(rd(EFR), 0, "16650: an EFR that reads 0");
	wr(LCR, 0xbf);
	cr_assert_neq(rd(EFR), 0);
	wr(LCR, 0);
	mcr = rd(MCR);
	wr(LCR, 0xe0);
	if (!((rd(2) ^ mcr) & LOOPBACK)) {
		wr(LCR, 0);
		wr(MCR, mcr ^ LOOPBACK);
		wr(LCR, 0xe0);
		cr_assert_not((rd(2) ^ mcr) & LOOPBACK, "NS16C552: EXCR1 mirrors MCR");
		wr(LCR, 0);
		wr(MCR, mcr);
	}
	wr(LCR, 0);
	wr(FCR, 0x21);
	cr_assert_eq(rd(IIR) & 0x20, 0, "16750: 64-byte FIFO");
	wr(LCR, 0x80);
	wr(FCR, 0x21);
	cr_assert_eq(rd(IIR) & 0x20, 0);
	wr(LCR, 0);
	wr(FCR, 1);
	wr(IER, 0x40);
	cr_assert_eq(rd(IER) & 0x40, 0, "XScale: unit enable bit");
}

/* Its size_fifo() fills the FIFO in loopback. Input that waits must not be lost by that. */
Test(serial, linux_measures_the_fifo)
{
	unsigned n;

	cr_assert_eq(write(in[1], "abc", 3), 3);
	wr(FCR, 7);
	wr(MCR, LOOPBACK);
	wr(LCR, DLAB);
	wr(DLL, 1);
	wr(DLM, 0);
	wr(LCR, 3);
	for (n = 0; n < 256; n++)
		wr(THR, n);
	run(); /* the host's bytes are there, and there is no room for them */
	for (n = 0; rd(LSR) & DR && n < 256; n++)
		cr_assert_eq(rd(RBR), n);
	cr_assert_eq(n, SERIAL_RX_MAX);
	wr(FCR, 1);
	wr(MCR, OUT2);
	run();
	for (n = 0; rd(LSR) & DR; n++)
		cr_assert_eq(rd(RBR), "abc"[n]);
	cr_assert_eq(n, 3, "%u bytes after a loopback test", n);
	cr_assert(loop_is_idle());
}

/* Its startup: clears FIFOs, tests THRE twice, tests TXEN. */
Test(serial, linux_startup_sees_no_bug)
{
	wr(FCR, 1);
	wr(FCR, 7);
	wr(FCR, 0);
	rd(LSR), rd(RBR), rd(IIR), rd(MSR);
	cr_assert_neq(rd(LSR), 0xff);
	wr(IER, THRI);
	cr_assert_eq(rd(IIR) & 0x0f, THRI);
	wr(IER, 0);
	wr(IER, THRI);
	cr_assert_not(rd(IIR) & NO_INT, "must be asserted again (UART_BUG_THRE)");
	wr(IER, 0);
	wr(LCR, 3);
	wr(MCR, OUT2);
	wr(IER, THRI);
	cr_assert(rd(LSR) & TEMT);
	cr_assert_not(rd(IIR) & NO_INT, "UART_BUG_TXEN");
	wr(IER, 0);
	cr_assert(rd(IIR) & NO_INT);
}

/* --- registers --- */

Test(serial, registers_that_only_remember)
{
	for (unsigned v = 0; v < 256; v++) {
		wr(SCR, v);
		cr_assert_eq(rd(SCR), v);
		wr(LCR, v);
		cr_assert_eq(rd(LCR), v);
	}
	wr(LCR, 0);
	wr(MCR, 0xff);
	cr_assert_eq(rd(MCR), 0x1f);
	wr(IER, 0xff);
	cr_assert_eq(rd(IER), 0x0f);
	wr(LSR, 0);
	wr(MSR, 0);
	cr_assert_eq(rd(LSR), THRE | TEMT);
}

Test(serial, divisor_latch_hides_data_and_ier)
{
	wr(IER, 5);
	wr(LCR, DLAB | 3);
	cr_assert_eq(rd(DLL), 12, "9600 baud after reset");
	wr(DLL, 0x34);
	wr(DLM, 0x12);
	cr_assert_eq(rd(DLL), 0x34);
	cr_assert_eq(rd(DLM), 0x12);
	wr(LCR, 3);
	cr_assert_eq(rd(IER), 5);
	cr_assert_eq(s.tx_len, 0, "the divisor was not sent");
	cr_assert_eq(rd(RBR), 0);
}

Test(serial, modem_lines)
{
	static const uint8_t loopback[][2] = {{1, 0x20}, {2, 0x10}, {4, 0x40}, {8, 0x80}};

	cr_assert_eq(rd(MSR), 0xb0, "a plugged-in cable: DCD, DSR, CTS");
	for (unsigned i = 0; i < ARRAY_SIZE(loopback); i++) {
		wr(MCR, LOOPBACK | loopback[i][0]);
		cr_assert_eq(rd(MSR) & 0xf0, loopback[i][1]);
	}
	wr(MCR, 0);
	cr_assert_eq(rd(MSR), 0xb0);
}

Test(serial, other_widths_are_counted_and_harmless)
{
	for (unsigned len = 2; len <= 8; len++) {
		uint8_t data[8];

		memset(data, 0x41, sizeof(data));
		serial_bus_ops.write(&s, THR, data, len);
		serial_bus_ops.read(&s, 8 - len, data, len);
		for (unsigned i = 0; i < 8; i++)
			cr_assert_eq(data[i], i < len ? 0xff : 0x41);
	}
	cr_assert_eq(count(&s.metrics.error_count), 14);
	cr_assert_eq(s.tx_len, 0);
	cr_assert_eq(rd(LCR), 3);
}

/* --- interrupts --- */

Test(serial, interrupt_priority)
{
	wr(MCR, OUT2);
	wr(IER, 3);
	cr_assert(irq());
	type("x");
	cr_assert(irq());
	cr_assert_eq(rd(IIR), RDI, "data before transmitter");
	cr_assert_eq(rd(IIR), RDI, "reading IIR does not acknowledge data");
	cr_assert_eq(rd(RBR), 'x');
	cr_assert_eq(rd(IIR), THRI, "still pending: IIR told of the other one before");
	cr_assert_eq(rd(IIR), NO_INT);
}

Test(serial, transmitter_interrupt)
{
	wr(MCR, OUT2);
	cr_assert_not(irq());
	wr(THR, 'a');
	cr_assert_not(irq(), "not enabled");
	wr(IER, THRI);
	cr_assert(irq(), "enabling it while the transmitter is empty raises it");
	cr_assert_eq(rd(IIR), THRI);
	cr_assert_eq(rd(IIR), NO_INT, "reading IIR acknowledges");
	cr_assert_not(irq());
	wr(IER, THRI);
	cr_assert_not(irq(), "it was enabled already");
	cr_assert_eq(rd(IIR), NO_INT);
	wr(THR, 'b');
	cr_assert(irq(), "empty again");
	cr_assert_eq(rd(IIR), THRI);
	wr(THR, 'c');
	cr_assert(irq());
	wr(IER, 0);
	cr_assert_eq(rd(IIR), NO_INT, "disabled");
}

Test(serial, receive_interrupt)
{
	wr(MCR, OUT2);
	type("a");
	cr_assert_not(irq());
	wr(IER, 1);
	cr_assert(irq(), "data was there when it was enabled");
	type("b");
	cr_assert(irq());
	cr_assert_eq(rd(RBR), 'a');
	cr_assert_eq(rd(IIR), RDI);
	cr_assert_eq(rd(RBR), 'b');
	cr_assert_eq(rd(IIR), NO_INT);
	cr_assert_not(rd(LSR) & DR);
}

/* On a PC OUT2 gates the line; what is pending when the gate opens is an edge then. */
Test(serial, out2_gates_the_line)
{
	wr(IER, 3);
	type("a");
	wr(THR, 'x');
	cr_assert_not(irq());
	wr(MCR, OUT2);
	cr_assert(irq());
	wr(MCR, OUT2 | 3);
	cr_assert_not(irq(), "open before");
	cr_assert_eq(rd(IIR), RDI);
	rd(RBR);
	rd(IIR);
	wr(MCR, 0);
	wr(MCR, OUT2);
	cr_assert_not(irq(), "nothing is pending");
}

/* --- loopback and input --- */

Test(serial, loopback_echoes_and_sends_nothing)
{
	wr(MCR, LOOPBACK | OUT2);
	wr(IER, 1);
	for (unsigned i = 0; i < 3; i++)
		wr(THR, 'a' + i);
	cr_assert(irq());
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(rd(RBR), 'a' + i);
	cr_assert_eq(s.tx_len, 0);
}

Test(serial, input_waits_for_the_end_of_loopback)
{
	wr(MCR, LOOPBACK);
	type("host");
	cr_assert_not(rd(LSR) & DR, "the line is cut");
	cr_assert(loop_is_idle(), "and the loop does not spin");
	wr(MCR, 0);
	run();
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(rd(RBR), "host"[i]);
}

/* The FIFO fills up, the rest stays in the pipe; room makes it flow again, in order. */
Test(serial, input_has_back_pressure)
{
	uint8_t text[1000];
	unsigned n = 0;

	for (unsigned i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)(i * 11);
	cr_assert_eq(write(in[1], text, sizeof(text)), sizeof(text));
	close(in[1]); /* a hang-up that comes early must not cut it off */
	while (!loop_is_idle())
		run();
	cr_assert_eq(s.state.rx_len, SERIAL_RX_MAX);
	while (n < sizeof(text)) {
		cr_assert(rd(LSR) & DR, "stuck after %u bytes", n);
		cr_assert_eq(rd(RBR), text[n]);
		n++;
		while (!loop_is_idle())
			run();
	}
	cr_assert_not(rd(LSR) & DR);
	cr_assert_eq(s.in_fd, -1, "the end was seen");
	cr_assert_eq(count(&s.metrics.read_count), sizeof(text));
}

Test(serial, fifo_reset_makes_room)
{
	char text[200];

	memset(text, 'a', 100);
	memset(text + 100, 'b', 100);
	cr_assert_eq(write(in[1], text, 100), 100);
	while (!loop_is_idle())
		run();
	wr(FCR, 3);
	cr_assert_not(rd(LSR) & DR);
	while (!loop_is_idle())
		run();
	cr_assert_eq(s.state.rx_len, 36);
}

Test(serial, end_of_input)
{
	type("z");
	close(in[1]);
	run();
	cr_assert_eq(rd(RBR), 'z');
	cr_assert(loop_is_idle());
	wr(FCR, 7); /* wants input again, and there is none */
	wr(MCR, LOOPBACK);
	wr(MCR, 0);
	cr_assert(loop_is_idle());
	cr_assert_eq(rd(RBR), 0);
	cr_assert_eq(count(&s.metrics.missed_read_count), 1);
}

Test(serial, input_that_cannot_be_polled_is_none)
{
	cleanup_fd int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	restart(null, out[1]);
	run();
	wr(FCR, 7);
	cr_assert_not(rd(LSR) & DR);
	restart(-1, -1);
	wr(THR, 'x');
	cr_assert_eq(count(&s.metrics.missed_write_count), 1);
	cr_assert(loop_is_idle());
	serial_flush(&s);
}

/* --- output --- */

static void print(const void *text, size_t len)
{
	const uint8_t *p = text;

	while (len--)
		wr(THR, *p++);
}

/* Byte i of a stream that does not repeat soon. */
static uint8_t nth(size_t i)
{
	return (uint8_t)(i * 31 + (i >> 8));
}

static void print_stream(size_t from, size_t len)
{
	for (size_t i = from; i < from + len; i++)
		wr(THR, nth(i));
}

/* Reads what is in the pipe, checks that it is the stream from `from` on. Returns its length. */
static size_t expect_stream(size_t from)
{
	static uint8_t buf[1 << 17];
	struct pollfd p = {.fd = out[0], .events = POLLIN};
	ssize_t n = poll(&p, 1, 0) == 1 ? read(out[0], buf, sizeof(buf)) : 0;

	cr_assert_geq(n, 0);
	for (size_t i = 0; i < (size_t)n; i++)
		cr_assert_eq(buf[i], nth(from + i), "byte %zu", from + i);
	return (size_t)n;
}

Test(serial, output_reaches_a_pipe)
{
	char buf[16] = {0};

	print("hello", 5);
	run();
	cr_assert(loop_is_idle(), "one turn is enough");
	cr_assert_eq(read(out[0], buf, sizeof(buf)), 5);
	cr_assert_str_eq(buf, "hello");
	print("again", 5);
	run();
	cr_assert_eq(read(out[0], buf, sizeof(buf)), 5);
	cr_assert_str_eq(buf, "again");
	cr_assert_eq(count(&s.metrics.write_count), 10);
	cr_assert_not(s.out.added, "nothing is watched while there is nothing to write");
}

/* Nobody reads: the pipe fills up, then the buffer, then bytes are lost and counted. */
Test(serial, a_full_pipe_loses_only_what_no_buffer_holds)
{
	size_t printed = 0, got = 0, n;

	cr_assert_geq(fcntl(out[1], F_SETPIPE_SZ, 8192), 0);
	while (!count(&s.metrics.missed_write_count)) {
		print_stream(printed, 1000);
		printed += 1000;
		run();
	}
	printed -= count(&s.metrics.missed_write_count); /* those are the last ones */
	cr_assert_eq(s.tx_len, SERIAL_TX_MAX);
	cr_assert(loop_is_idle(), "waits for the reader");
	serial_flush(&s); /* nor does this wait */
	while ((n = expect_stream(got))) {
		got += n;
		while (!loop_is_idle())
			run();
	}
	cr_assert_eq(got, printed);
	cr_assert_eq(s.tx_len, 0);
	print_stream(got, 10);
	while (!loop_is_idle())
		run();
	cr_assert_eq(expect_stream(got), 10, "it goes on afterwards");
}

/* 64 KiB at once, before the main thread comes to look. */
Test(serial, flood_keeps_the_first_bytes_and_counts_the_others)
{
	print_stream(0, 65536);
	cr_assert_eq(count(&s.metrics.missed_write_count), 65536 - SERIAL_TX_MAX);
	cr_assert_eq(count(&s.metrics.write_count), SERIAL_TX_MAX);
	while (!loop_is_idle())
		run();
	cr_assert_eq(expect_stream(0), SERIAL_TX_MAX);
}

/* The same amount in pieces that the buffer holds: all of it, in order, round the ring. */
Test(serial, ring_wraps_in_order)
{
	size_t got = 0;

	for (size_t n = 0; n < 65536; n += 4096) {
		print_stream(n, 4096);
		while (!loop_is_idle())
			run();
		got += expect_stream(got);
	}
	cr_assert_eq(got, 65536);
	cr_assert_eq(count(&s.metrics.missed_write_count), 0);
}

Test(serial, output_to_a_regular_file)
{
	struct scratch dir;
	cleanup_fd int fd = -1;
	char buf[32] = {0};

	scratch_init(&dir);
	fd = open(scratch_file(&dir, "console", "", 0), O_RDWR | O_CLOEXEC);
	restart(-1, fd);
	print("first ", 6);
	run();
	print("second", 6);
	run();
	cr_assert_eq(s.tx_len, 0);
	cr_assert(loop_is_idle());
	cr_assert_eq(pread(fd, buf, sizeof(buf), 0), 12);
	cr_assert_str_eq(buf, "first second");
	scratch_finish(&dir);
}

Test(serial, a_full_disk_loses_and_counts)
{
	cleanup_fd int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);

	restart(-1, fd);
	for (unsigned i = 1; i <= 2; i++) {
		print("lost", 4);
		run();
		cr_assert_eq(count(&s.metrics.missed_write_count), 4 * i);
		cr_assert_eq(s.tx_len, 0);
	}
	cr_assert(loop_is_idle());
}

Test(serial, a_reader_that_is_gone)
{
	close(out[0]);
	for (unsigned i = 1; i <= 2; i++) {
		print("gone", 4);
		while (!loop_is_idle())
			run();
		cr_assert_eq(count(&s.metrics.missed_write_count), 4 * i);
		cr_assert_eq(s.tx_len, 0);
	}
}

Test(serial, flush_writes_without_the_loop)
{
	print_stream(0, 10000);
	serial_flush(&s);
	cr_assert_eq(expect_stream(0), 10000);
	cr_assert_eq(s.tx_len, 0);
	while (!loop_is_idle())
		run();
	cr_assert_eq(expect_stream(10000), 0);
}

/* --- a vCPU thread against the main thread --- */

#define ECHO_BYTES 100000u

/* The guest: echoes by polling, as fast as it can; never more than the buffer holds. */
static void *echo(void *arg)
{
	for (unsigned n = 0; n < ECHO_BYTES;) {
		if (!(rd(LSR) & DR)) {
			sched_yield();
			continue;
		}
		wr(THR, rd(RBR));
		n++;
	}
	return arg;
}

Test(serial, echo_of_a_busy_guest)
{
	size_t sent = 0, got = 0;
	pthread_t guest;

	fcntl(in[1], F_SETFL, O_NONBLOCK);
	cr_assert_eq(pthread_create(&guest, NULL, echo, NULL), 0);
	while (got < ECHO_BYTES) {
		uint8_t piece[512];
		size_t n = MIN(sizeof(piece), ECHO_BYTES - sent);

		for (size_t i = 0; i < n; i++)
			piece[i] = nth(sent + i);
		/* What is under way fits into the buffer, so that nothing may be lost. */
		if (n && sent - got < 4096) {
			ssize_t w = write(in[1], piece, n);

			sent += w > 0 ? (size_t)w : 0;
		}
		cr_assert_eq(loop_run_once(&loop, 1), 0);
		got += expect_stream(got);
	}
	pthread_join(guest, NULL);
	cr_assert_eq(count(&s.metrics.missed_write_count), 0);
	cr_assert_eq(count(&s.metrics.missed_read_count), 0);
}

/* --- the rest --- */

Test(serial, finish_leaves_nothing)
{
	struct serial *zero = calloc(1, sizeof(*zero));
	int before, after;

	serial_finish(&s);
	before = dup(0);
	close(before);
	cr_assert_eq(serial_init(&s, &loop, &lock, in[0], out[1], NULL), 0);
	cr_assert_eq(write(in[1], "x", 1), 1);
	print("y", 1);
	serial_finish(&s);
	serial_finish(&s);
	serial_finish(zero);
	free(zero);
	after = dup(0);
	close(after);
	cr_assert_eq(after, before);
	cr_assert(loop_is_idle());
}

/* In a session of its own with a terminal: 0 when all went as it should, else a line number. */
static int with_terminal(void)
{
	struct termios before, raw, after;
	int master, slave;

	if (setsid() < 0 || openpty(&master, &slave, NULL, NULL, NULL) < 0)
		return __LINE__;
	if (serial_terminal_raw(slave))
		return __LINE__; /* not our terminal: nobody may read from it */
	if (ioctl(slave, TIOCSCTTY, 0) < 0 || tcgetattr(slave, &before) < 0)
		return __LINE__;
	if (!serial_terminal_raw(slave) || tcgetattr(slave, &raw) < 0)
		return __LINE__;
	if (raw.c_lflag & (ICANON | ECHO | ISIG) || raw.c_oflag != before.c_oflag)
		return __LINE__;
	serial_terminal_restore();
	if (tcgetattr(slave, &after) < 0 || after.c_lflag != before.c_lflag ||
	    after.c_iflag != before.c_iflag)
		return __LINE__;
	serial_terminal_restore(); /* nothing to do */
	return 0;
}

Test(serial, terminal_is_raw_and_given_back)
{
	pid_t child = fork();
	int status = 0;

	if (child == 0)
		_exit(with_terminal() & 0xff);
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert_eq(status, 0, "line %d", WEXITSTATUS(status));
	cr_assert(serial_terminal_raw(in[0]), "no terminal: may be read");
	serial_terminal_restore();
}
