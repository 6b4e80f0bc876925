/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 16550A UART on COM1, and the terminal behind it.
 *
 * What the guest transmits goes into a buffer that the main thread empties into the output file
 * descriptor: a reader that does not read never stops a vCPU, it only loses bytes once
 * the buffer is full, and those are counted. Input is read while the receive FIFO has room.
 * Source: National Semiconductor PC16550D data sheet.
 *
 * A hostile guest can fill the output with anything (limit the sink), no more.
 */
#pragma once

#include "vmm/base/loop.h"
#include "vmm/base/metric.h"
#include "vmm/base/wire.h"
#include "vmm/bus.h"

#define SERIAL_SIZE   8u  /* I/O ports */
#define SERIAL_RX_MAX 64u /* receive FIFO */
#define SERIAL_TX_MAX 16384u

/* What a snapshot has to keep. */
struct serial_state {
	uint8_t ier, lcr, mcr, scr, dll, dlm;
	uint8_t fifo_enabled;
	uint8_t thr_pending; /* transmitter-empty interrupt not yet acknowledged */
	uint8_t rx[SERIAL_RX_MAX];
	uint32_t rx_head, rx_len;
};

#define SERIAL_STATE_VERSION 1u
void serial_state_wire(struct serial_state *s, struct wire *w);
/* Vets what was read from a file. */
int serial_state_check(const struct serial_state *s, struct err *e);

/* Firecracker's names, group "uart". */
struct serial_metrics {
	struct metric error_count, missed_read_count, missed_write_count, read_count, write_count;
};

struct serial {
	struct serial_state state; /* [s] */
	struct loop *loop;	   /* [I] */
	int irq_fd;		   /* [I] eventfd of GSI 4, owned */
	int in_fd;		   /* [s] -1: none, or its end was reached; borrowed */
	int out_fd;		   /* [I] once connected; -1: none; borrowed */
	int tx_event;		   /* [I] eventfd: the buffer has something; owned */
	struct loop_source in, out, tx_ready;
	bool out_pollable;	  /* [m] false for regular files */
	char tx[SERIAL_TX_MAX];	  /* [s] ring */
	uint32_t tx_head, tx_len; /* [s] */
	struct serial_metrics metrics;
};

extern const struct bus_ops serial_bus_ops;

/*
 * `in_fd` and `out_fd` may be -1 and are borrowed. `lock` is that of the bus slot. The caller
 * binds s->irq_fd. Main thread.
 */
int serial_init(struct serial *s, struct loop *loop, pthread_mutex_t *lock, int in_fd, int out_fd,
		struct err *e);
/* The same descriptors later, for one that was made with -1 and -1, before the guest runs. */
void serial_connect(struct serial *s, int in_fd, int out_fd);
/* Fine on a zeroed struct. */
void serial_finish(struct serial *s);
/* Writes what is buffered without waiting for a slow reader. vCPUs parked. */
void serial_flush(struct serial *s);

/* Puts a vetted state into a new one, and raises the interrupts that are due. Main thread. */
void serial_restore(struct serial *s, const struct serial_state *state);

/*
 * Puts the terminal on `fd` (if it is one, and we are in its foreground) into raw mode so that
 * every key reaches the guest; true when `fd` may be read for the guest. One terminal a process.
 */
bool serial_terminal_raw(int fd);
/* Gives the terminal back as it was. Async-signal-safe; does nothing when there is nothing to do. */
void serial_terminal_restore(void);
