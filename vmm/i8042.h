/* SPDX-License-Identifier: Apache-2.0 */
/*
 * i8042 keyboard controller with an AT keyboard behind it: what a guest needs for its reset
 * command and for Ctrl-Alt-Del. No mouse. Sources: IBM PC AT technical reference (controller
 * commands), PS/2 keyboard command set.
 *
 * Complete enough that a PS/2 driver finds it at its first try: one that gets wrong answers
 * polls the status port 10,000 times and more before it gives up, an exit each.
 */
#pragma once

#include "vmm/base/metric.h"
#include "vmm/base/wire.h"
#include "vmm/bus.h"

#define I8042_OUT_MAX 16u

/* What a snapshot has to keep. */
struct i8042_state {
	uint8_t control; /* controller command byte */
	uint8_t output_port;
	uint8_t command;	    /* controller command that waits for its data byte, or 0 */
	uint8_t kbd_command;	    /* keyboard command that waits for its data byte, or 0 */
	uint8_t out[I8042_OUT_MAX]; /* bytes for the guest, a ring */
	uint32_t out_head, out_len;
};

#define I8042_STATE_VERSION 1u
void i8042_state_wire(struct i8042_state *s, struct wire *w);
/* Vets what was read from a file. */
int i8042_state_check(const struct i8042_state *s, struct err *e);

/* Firecracker's names, group "i8042". */
struct i8042_metrics {
	struct metric error_count, missed_read_count, missed_write_count, read_count, reset_count,
		write_count;
};

struct i8042 {
	struct i8042_state state; /* [s] */
	int irq_fd;		  /* [I] eventfd of GSI 1, owned */
	void (*reset)(void *arg); /* [I] the guest pulses the reset line; vCPU thread */
	void *reset_arg;
	struct i8042_metrics metrics;
};

/* One slot over ports 0x60 to 0x64; `dev` is the struct i8042. */
extern const struct bus_ops i8042_bus_ops;

#define I8042_SIZE 5u /* ports 0x60 to 0x64 */

int i8042_init(struct i8042 *d, void (*reset)(void *arg), void *arg, struct err *e);
/* Fine on a zeroed struct. */
void i8042_finish(struct i8042 *d);
/* Presses and releases Ctrl, Alt and Del. Slot lock held. -EBUSY when keys wait to be read. */
int i8042_ctrl_alt_del(struct i8042 *d);
/* Puts a vetted state into a new one, and raises the interrupt if it is due. vCPUs not started. */
void i8042_restore(struct i8042 *d, const struct i8042_state *state);
