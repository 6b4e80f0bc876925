/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/serial.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <termios.h>
#include <unistd.h>

#include "vmm/base/fd.h"

/* Registers by offset; 0 and 1 are the divisor latch while LCR_DLAB is set. */
enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

#define IER_RX	    0x01u
#define IER_THR	    0x02u
#define IIR_NONE    0x01u
#define IIR_THR	    0x02u
#define IIR_RX	    0x04u
#define IIR_FIFO_ON 0xc0u
#define FCR_ENABLE  0x01u
#define FCR_RX_RST  0x02u
#define LCR_DLAB    0x80u
#define MCR_OUT2    0x08u /* gates the interrupt line on a PC */
#define MCR_LOOP    0x10u
#define LSR_RX	    0x01u
#define LSR_THR	    0x20u
#define LSR_IDLE    0x40u
#define MSR_CTS	    0x10u
#define MSR_DSR	    0x20u
#define MSR_DCD	    0x80u

/* --- serve --- */

/* The line is edge-triggered: an edge whenever a cause is added. */
static void raise_irq(struct serial *s, uint8_t cause)
{
	if (s->state.ier & cause && s->state.mcr & MCR_OUT2)
		fd_event_signal(s->irq_fd);
}

/* Bytes of input that may be read. In loopback the line from outside is cut. */
static uint32_t rx_room(const struct serial_state *st)
{
	return st->mcr & MCR_LOOP ? 0 : SERIAL_RX_MAX - st->rx_len;
}

/* Input is read again once there is room; a vCPU thread may get here, with the slot lock. */
static void want_input(struct serial *s)
{
	if (s->in_fd >= 0 && !s->in.added && rx_room(&s->state))
		loop_add(s->loop, &s->in, EPOLLIN, NULL);
}

static void receive(struct serial *s, const uint8_t *buf, size_t len)
{
	struct serial_state *st = &s->state;

	for (size_t i = 0; i < len && st->rx_len < SERIAL_RX_MAX; i++)
		st->rx[(st->rx_head + st->rx_len++) % SERIAL_RX_MAX] = buf[i];
	raise_irq(s, IER_RX);
}

static uint8_t read_data(struct serial *s)
{
	struct serial_state *st = &s->state;
	uint8_t c;

	if (st->rx_len == 0) {
		metric_inc(&s->metrics.missed_read_count);
		return 0;
	}
	c = st->rx[st->rx_head % SERIAL_RX_MAX];
	st->rx_head = (st->rx_head + 1) % SERIAL_RX_MAX;
	if (st->rx_len-- == SERIAL_RX_MAX)
		want_input(s);
	metric_inc(&s->metrics.read_count);
	return c;
}

static void transmit(struct serial *s, uint8_t c)
{
	if (s->out_fd < 0 || s->tx_len == SERIAL_TX_MAX) {
		metric_inc(&s->metrics.missed_write_count);
		return;
	}
	s->tx[(s->tx_head + s->tx_len) % SERIAL_TX_MAX] = (char)c;
	metric_inc(&s->metrics.write_count);
	/* One wake-up a batch: the main thread takes everything that has come by then. */
	if (s->tx_len++ == 0)
		fd_event_signal(s->tx_event);
}

static void write_data(struct serial *s, uint8_t c)
{
	if (s->state.mcr & MCR_LOOP)
		receive(s, &c, 1);
	else
		transmit(s, c);
	s->state.thr_pending = 1;
	raise_irq(s, IER_THR);
}

static uint8_t read_iir(struct serial *s)
{
	struct serial_state *st = &s->state;
	uint8_t fifo = st->fifo_enabled ? IIR_FIFO_ON : 0;

	if (st->ier & IER_RX && st->rx_len)
		return fifo | IIR_RX;
	if (st->ier & IER_THR && st->thr_pending) {
		st->thr_pending = 0; /* reading it acknowledges */
		return fifo | IIR_THR;
	}
	return fifo | IIR_NONE;
}

/* Modem status: a cable that is plugged in, or in loopback what MCR says. */
static uint8_t read_msr(const struct serial_state *st)
{
	uint8_t mcr = st->mcr;

	if (!(mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	return (uint8_t)((mcr & 0x02) << 3 | (mcr & 0x01) << 5 | (mcr & 0x04) << 4 |
			 (mcr & 0x08) << 4);
}

static void write_ier(struct serial *s, uint8_t value)
{
	uint8_t added = value & (uint8_t)~s->state.ier;

	s->state.ier = value & 0x0f;
	/* The transmitter is always empty: enabling its interrupt raises it. */
	if (added & IER_THR) {
		s->state.thr_pending = 1;
		raise_irq(s, IER_THR);
	}
	if (added & IER_RX && s->state.rx_len)
		raise_irq(s, IER_RX);
}

static void write_fcr(struct serial *s, uint8_t value)
{
	s->state.fifo_enabled = value & FCR_ENABLE;
	if (value & FCR_RX_RST) {
		s->state.rx_len = 0;
		want_input(s);
	}
}

static void write_mcr(struct serial *s, uint8_t value)
{
	struct serial_state *st = &s->state;
	uint8_t added = value & (uint8_t)~st->mcr;

	st->mcr = value & 0x1f;
	want_input(s); /* loopback may have ended */
	/* What came while the interrupt line was cut off: the gate passes a level. */
	if (added & MCR_OUT2)
		raise_irq(s,
			  (uint8_t)((st->rx_len ? IER_RX : 0) | (st->thr_pending ? IER_THR : 0)));
}

/* --- bus --- */

static uint8_t read_register(struct serial *s, uint64_t off)
{
	struct serial_state *st = &s->state;
	bool latch = st->lcr & LCR_DLAB;

	switch (off) {
	case REG_DATA:
		return latch ? st->dll : read_data(s);
	case REG_IER:
		return latch ? st->dlm : st->ier;
	case REG_IIR_FCR:
		return read_iir(s);
	case REG_LCR:
		return st->lcr;
	case REG_MCR:
		return st->mcr;
	case REG_LSR:
		return LSR_THR | LSR_IDLE | (st->rx_len ? LSR_RX : 0);
	case REG_MSR:
		return read_msr(st);
	default:
		return st->scr;
	}
}

static void write_register(struct serial *s, uint64_t off, uint8_t value)
{
	struct serial_state *st = &s->state;
	bool latch = st->lcr & LCR_DLAB;

	switch (off) {
	case REG_DATA:
		if (latch)
			st->dll = value;
		else
			write_data(s, value);
		break;
	case REG_IER:
		if (latch)
			st->dlm = value;
		else
			write_ier(s, value);
		break;
	case REG_IIR_FCR:
		write_fcr(s, value);
		break;
	case REG_LCR:
		st->lcr = value;
		break;
	case REG_MCR:
		write_mcr(s, value);
		break;
	case REG_SCR:
		st->scr = value;
		break;
	default: /* LSR and MSR are read-only */
		break;
	}
}

static void bus_read_serial(void *dev, uint64_t off, void *data, unsigned len)
{
	struct serial *s = dev;
	uint8_t *p = data;

	memset(p, 0xff, len);
	if (len == 1)
		*p = read_register(s, off);
	else
		metric_inc(&s->metrics.error_count);
}

static void bus_write_serial(void *dev, uint64_t off, const void *data, unsigned len)
{
	struct serial *s = dev;

	if (len == 1)
		write_register(s, off, *(const uint8_t *)data);
	else
		metric_inc(&s->metrics.error_count);
}

const struct bus_ops serial_bus_ops = {.read = bus_read_serial, .write = bus_write_serial};

/* --- the outside; main thread, slot lock held --- */

static void on_input(struct loop_source *src, uint32_t events)
{
	struct serial *s = src->arg;
	uint32_t room = rx_room(&s->state);
	uint8_t buf[SERIAL_RX_MAX];
	ssize_t n;

	(void)events;
	/* Not just masked: EPOLLHUP would come all the time while the guest makes room. */
	if (room == 0) {
		loop_del(s->loop, src);
		return;
	}
	n = fd_read(src->fd, buf, room);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		s->in_fd = -1;
		loop_del(s->loop, src);
		return;
	}
	receive(s, buf, (size_t)n);
}

/* Writes one contiguous piece. False when nothing is left or the sink takes no more for now. */
static bool drain_piece(struct serial *s)
{
	uint32_t len = MIN(s->tx_len, SERIAL_TX_MAX - s->tx_head);
	ssize_t n;

	if (len == 0)
		return false;
	/* A pipe that polls writable takes PIPE_BUF bytes without blocking, so no more than that. */
	n = fd_write(s->out_fd, s->tx + s->tx_head, MIN(len, 4096u));
	if (n < 0 && errno == EINTR)
		return true;
	if (n < 0 && errno == EAGAIN && s->out_pollable)
		return false;
	if (n < 0) { /* the reader is gone or the disk is full: what is in the buffer is lost */
		metric_add(&s->metrics.missed_write_count, s->tx_len);
		s->tx_len = 0;
		return false;
	}
	s->tx_head = (s->tx_head + (uint32_t)n) % SERIAL_TX_MAX;
	s->tx_len -= (uint32_t)n;
	return s->tx_len > 0;
}

static void on_output(struct loop_source *src, uint32_t events)
{
	struct serial *s = src->arg;

	(void)events;
	drain_piece(s);
	if (s->tx_len == 0)
		loop_del(s->loop, src);
}

static bool can_write(const struct serial *s)
{
	struct pollfd p = {.fd = s->out_fd, .events = POLLOUT};

	return poll(&p, 1, 0) > 0;
}

/* What can be written is, before anything is watched for it: three system calls less a batch. */
static void on_tx_ready(struct loop_source *src, uint32_t events)
{
	struct serial *s = src->arg;

	(void)events;
	if (s->out.added || s->tx_len == 0)
		return;
	if (s->out_pollable && can_write(s))
		drain_piece(s);
	if (s->out_pollable && s->tx_len > 0 && loop_add(s->loop, &s->out, EPOLLOUT, NULL) < 0)
		s->out_pollable = false; /* EPERM: a regular file, which never blocks */
	while (!s->out_pollable && drain_piece(s))
		;
}

void serial_flush(struct serial *s)
{
	while (s->tx_len && can_write(s))
		if (!drain_piece(s))
			break;
}

/* --- saved state --- */

void serial_state_wire(struct serial_state *s, struct wire *w)
{
	wire_u8(w, &s->ier);
	wire_u8(w, &s->lcr);
	wire_u8(w, &s->mcr);
	wire_u8(w, &s->scr);
	wire_u8(w, &s->dll);
	wire_u8(w, &s->dlm);
	wire_u8(w, &s->fifo_enabled);
	wire_u8(w, &s->thr_pending);
	wire_bytes(w, s->rx, sizeof(s->rx));
	wire_u32(w, &s->rx_head);
	wire_u32(w, &s->rx_len);
}

int serial_state_check(const struct serial_state *s, struct err *e)
{
	if (s->rx_head >= SERIAL_RX_MAX || s->rx_len > SERIAL_RX_MAX)
		return err_set(e, EINVAL, "its receive FIFO has %u bytes from %u on", s->rx_len,
			       s->rx_head);
	if (s->ier > 0x0f || s->mcr > 0x1f || s->fifo_enabled > 1 || s->thr_pending > 1)
		return err_set(e, EINVAL, "a register has bits that do not exist");
	return 0;
}

void serial_restore(struct serial *s, const struct serial_state *state)
{
	pthread_mutex_t *lock = s->in.lock;

	pthread_mutex_lock(lock);
	s->state = *state;
	want_input(s);
	raise_irq(s, (uint8_t)((state->rx_len ? IER_RX : 0) | (state->thr_pending ? IER_THR : 0)));
	pthread_mutex_unlock(lock);
}

/* --- terminal --- */

/* Process-wide, since a process has one terminal and signal handlers have to restore it. */
static struct termios saved_termios;
static volatile sig_atomic_t raw_fd = -1;

bool serial_terminal_raw(int fd)
{
	struct termios raw;

	if (!isatty(fd))
		return true;
	/* In the background a read would stop the whole process with SIGTTIN. */
	if (tcgetpgrp(fd) != getpgrp() || tcgetattr(fd, &saved_termios) < 0)
		return false;
	raw = saved_termios;
	cfmakeraw(&raw);
	raw.c_oflag = saved_termios.c_oflag; /* the log on the same terminal keeps its newlines */
	if (tcsetattr(fd, TCSANOW, &raw) < 0)
		return false;
	raw_fd = fd;
	return true;
}

void serial_terminal_restore(void)
{
	int fd = raw_fd;

	raw_fd = -1;
	if (fd >= 0)
		tcsetattr(fd, TCSANOW, &saved_termios);
}

/* --- create/destroy --- */

int serial_init(struct serial *s, struct loop *loop, pthread_mutex_t *lock, int in_fd, int out_fd,
		struct err *e)
{
	int r;

	memset(s, 0, offsetof(struct serial, tx)); /* the buffer's pages stay untouched */
	s->tx_head = s->tx_len = 0;
	memset(&s->metrics, 0, sizeof(s->metrics));
	s->loop = loop;
	s->out_pollable = true;
	s->state.dll = 12; /* 9600 baud, 8n1: what a BIOS leaves */
	s->state.lcr = 3;
	s->tx_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->tx_event < 0 || s->irq_fd < 0)
		return err_sys(e, "create an eventfd");
	s->in = (struct loop_source){.ready = on_input, .arg = s, .lock = lock};
	s->out = (struct loop_source){.ready = on_output, .arg = s, .lock = lock};
	s->tx_ready = (struct loop_source){
		.fd = s->tx_event, .ready = on_tx_ready, .arg = s, .lock = lock};
	/* Edge-triggered, and never read: one system call less a batch. */
	r = loop_add(loop, &s->tx_ready, EPOLLIN | EPOLLET, e);
	if (r == 0)
		serial_connect(s, in_fd, out_fd);
	return r;
}

void serial_connect(struct serial *s, int in_fd, int out_fd)
{
	s->in_fd = s->in.fd = in_fd;
	s->out_fd = s->out.fd = out_fd;
	/* Input that cannot be polled (a file, /dev/null) is no input. */
	want_input(s);
}

void serial_finish(struct serial *s)
{
	if (!s->loop)
		return;
	loop_del(s->loop, &s->in);
	loop_del(s->loop, &s->out);
	loop_del(s->loop, &s->tx_ready);
	fd_close(&s->tx_event);
	fd_close(&s->irq_fd);
	s->loop = NULL;
}
