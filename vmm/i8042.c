/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/i8042.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>

#include "vmm/base/fd.h"

enum { PORT_DATA = 0, PORT_B = 1, PORT_COMMAND = 4 };

/* Timer 2 has expired: without an i8254 behind it a guest would wait for that without end. */
#define PORT_B_TIMER2_OUT 0x20u

#define STATUS_OUT_FULL 0x01u
#define STATUS_SYSTEM	0x04u /* self-test passed */
#define STATUS_UNLOCKED 0x10u

#define CONTROL_IRQ	  0x01u
#define CONTROL_SYSTEM	  0x04u
#define CONTROL_NO_KBD	  0x10u
#define CONTROL_NO_AUX	  0x20u
#define CONTROL_TRANSLATE 0x40u

#define OUTPUT_PORT_NO_RESET 0x01u
#define OUTPUT_PORT_A20	     0x02u

/* Controller commands, port 0x64. */
enum {
	CMD_READ_CONTROL = 0x20,
	CMD_WRITE_CONTROL = 0x60,
	CMD_DISABLE_AUX = 0xa7,
	CMD_ENABLE_AUX = 0xa8,
	CMD_TEST_AUX = 0xa9,
	CMD_SELF_TEST = 0xaa,
	CMD_TEST_KBD = 0xab,
	CMD_DISABLE_KBD = 0xad,
	CMD_ENABLE_KBD = 0xae,
	CMD_READ_OUTPUT_PORT = 0xd0,
	CMD_WRITE_OUTPUT_PORT = 0xd1,
	CMD_WRITE_KBD_BUFFER = 0xd2,
	CMD_WRITE_AUX_BUFFER = 0xd3,
	CMD_WRITE_AUX = 0xd4,
	CMD_PULSE_RESET = 0xfe,
};

/* Keyboard commands, port 0x60, and answers. */
enum {
	KBD_SET_LEDS = 0xed,
	KBD_ECHO = 0xee,
	KBD_SCANCODE_SET = 0xf0,
	KBD_IDENTIFY = 0xf2,
	KBD_SET_RATE = 0xf3,
	KBD_RESET = 0xff,
	KBD_ACK = 0xfa,
	KBD_TEST_PASSED = 0xaa,
};

/* --- bytes for the guest --- */

static void raise_irq(struct i8042 *d)
{
	if (d->state.out_len && d->state.control & CONTROL_IRQ)
		fd_event_signal(d->irq_fd);
}

static void push(struct i8042 *d, uint8_t byte)
{
	struct i8042_state *s = &d->state;

	if (s->out_len == I8042_OUT_MAX) {
		metric_inc(&d->metrics.missed_write_count);
		return;
	}
	s->out[(s->out_head + s->out_len++) % I8042_OUT_MAX] = byte;
	if (s->out_len == 1)
		raise_irq(d);
}

static uint8_t pop(struct i8042 *d)
{
	struct i8042_state *s = &d->state;
	uint8_t byte;

	if (s->out_len == 0) {
		metric_inc(&d->metrics.missed_read_count);
		return 0;
	}
	byte = s->out[s->out_head % I8042_OUT_MAX];
	s->out_head = (s->out_head + 1) % I8042_OUT_MAX;
	s->out_len--;
	raise_irq(d); /* one edge a byte: the next one is in the output buffer now */
	metric_inc(&d->metrics.read_count);
	return byte;
}

/* --- keyboard --- */

static void keyboard_write(struct i8042 *d, uint8_t byte)
{
	struct i8042_state *s = &d->state;

	if (s->kbd_command) { /* the argument; asking for scan code set 0 means "which one?" */
		bool which_set = s->kbd_command == KBD_SCANCODE_SET && byte == 0;

		s->kbd_command = 0;
		push(d, KBD_ACK);
		if (which_set)
			push(d, 2);
		return;
	}
	switch (byte) {
	case KBD_SET_LEDS:
	case KBD_SET_RATE:
	case KBD_SCANCODE_SET:
		s->kbd_command = byte;
		push(d, KBD_ACK);
		break;
	case KBD_ECHO:
		push(d, KBD_ECHO);
		break;
	case KBD_IDENTIFY: /* an MF2 keyboard, its id translated like every byte from it */
		push(d, KBD_ACK);
		push(d, 0xab);
		push(d, s->control & CONTROL_TRANSLATE ? 0x41 : 0x83);
		break;
	case KBD_RESET:
		push(d, KBD_ACK);
		push(d, KBD_TEST_PASSED);
		break;
	default: /* enable, disable, defaults, and what nobody asks for */
		push(d, KBD_ACK);
	}
}

/* --- controller --- */

/* The controller has one output buffer: its answer replaces what nobody has read yet. */
static void answer(struct i8042 *d, uint8_t byte)
{
	d->state.out_len = 0;
	push(d, byte);
}

static void set_control(struct i8042 *d, uint8_t control)
{
	uint8_t added = control & (uint8_t)~d->state.control;

	d->state.control = control;
	if (added & CONTROL_IRQ)
		raise_irq(d);
}

static void reset_machine(struct i8042 *d)
{
	metric_inc(&d->metrics.reset_count);
	d->reset(d->reset_arg);
}

static void command_write(struct i8042 *d, uint8_t command)
{
	struct i8042_state *s = &d->state;

	s->command = 0;
	switch (command) {
	case CMD_READ_CONTROL:
		answer(d, s->control);
		break;
	case CMD_READ_OUTPUT_PORT:
		answer(d, s->output_port);
		break;
	case CMD_SELF_TEST:
		s->control |= CONTROL_SYSTEM;
		answer(d, 0x55);
		break;
	case CMD_TEST_KBD:
		answer(d, 0x00);
		break;
	case CMD_TEST_AUX: /* clock line stuck: there is no mouse */
		answer(d, 0x01);
		break;
	case CMD_DISABLE_KBD:
		set_control(d, s->control | CONTROL_NO_KBD);
		break;
	case CMD_ENABLE_KBD:
		set_control(d, s->control & (uint8_t)~CONTROL_NO_KBD);
		break;
	case CMD_DISABLE_AUX:
	case CMD_ENABLE_AUX: /* stays disabled */
		break;
	case CMD_WRITE_CONTROL:
	case CMD_WRITE_OUTPUT_PORT:
	case CMD_WRITE_KBD_BUFFER:
	case CMD_WRITE_AUX_BUFFER:
	case CMD_WRITE_AUX:
		s->command = command;
		break;
	case CMD_PULSE_RESET:
		reset_machine(d);
		break;
	default:
		metric_inc(&d->metrics.missed_write_count);
	}
}

static void data_write(struct i8042 *d, uint8_t byte)
{
	struct i8042_state *s = &d->state;
	uint8_t command = s->command;

	s->command = 0;
	switch (command) {
	case CMD_WRITE_CONTROL:
		set_control(d, byte | CONTROL_NO_AUX);
		break;
	case CMD_WRITE_OUTPUT_PORT:
		s->output_port = byte;
		if (!(byte & OUTPUT_PORT_NO_RESET))
			reset_machine(d);
		break;
	case CMD_WRITE_KBD_BUFFER:
	case CMD_WRITE_AUX_BUFFER: /* echoed, but not as a mouse's: so a driver sees there is none */
		answer(d, byte);
		break;
	case CMD_WRITE_AUX: /* nobody there to hear it */
		break;
	default:
		keyboard_write(d, byte);
	}
}

/* --- bus --- */

static void bus_read_i8042(void *dev, uint64_t off, void *data, unsigned len)
{
	struct i8042 *d = dev;
	uint8_t *p = data;

	memset(p, 0, len);
	if (len != 1) {
		metric_inc(&d->metrics.error_count);
		return;
	}
	if (off == PORT_DATA)
		*p = pop(d);
	else if (off == PORT_B)
		*p = PORT_B_TIMER2_OUT;
	else if (off == PORT_COMMAND)
		*p = STATUS_UNLOCKED | (d->state.control & CONTROL_SYSTEM ? STATUS_SYSTEM : 0) |
		     (d->state.out_len ? STATUS_OUT_FULL : 0);
}

static void bus_write_i8042(void *dev, uint64_t off, const void *data, unsigned len)
{
	struct i8042 *d = dev;
	uint8_t byte = *(const uint8_t *)data;

	if (len != 1) {
		metric_inc(&d->metrics.error_count);
		return;
	}
	metric_inc(&d->metrics.write_count);
	if (off == PORT_DATA)
		data_write(d, byte);
	else if (off == PORT_COMMAND)
		command_write(d, byte);
}

const struct bus_ops i8042_bus_ops = {.read = bus_read_i8042, .write = bus_write_i8042};

/* --- saved state --- */

void i8042_state_wire(struct i8042_state *s, struct wire *w)
{
	wire_u8(w, &s->control);
	wire_u8(w, &s->output_port);
	wire_u8(w, &s->command);
	wire_u8(w, &s->kbd_command);
	wire_bytes(w, s->out, sizeof(s->out));
	wire_u32(w, &s->out_head);
	wire_u32(w, &s->out_len);
}

int i8042_state_check(const struct i8042_state *s, struct err *e)
{
	if (s->out_head >= I8042_OUT_MAX || s->out_len > I8042_OUT_MAX)
		return err_set(e, EINVAL, "its output buffer has %u bytes from %u on", s->out_len,
			       s->out_head);
	return 0;
}

void i8042_restore(struct i8042 *d, const struct i8042_state *state)
{
	d->state = *state;
	raise_irq(d);
}

/* --- the outside --- */

int i8042_ctrl_alt_del(struct i8042 *d)
{
	/* Scan codes as the guest has chosen: set 1 (translated by the controller) or set 2. */
	static const uint8_t set1[] = {0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d};
	static const uint8_t set2[] = {0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0,
				       0x71, 0xf0, 0x11, 0xf0, 0x14};
	bool translate = d->state.control & CONTROL_TRANSLATE;
	const uint8_t *keys = translate ? set1 : set2;
	size_t n = translate ? sizeof(set1) : sizeof(set2);

	if (I8042_OUT_MAX - d->state.out_len < n)
		return -EBUSY;
	for (size_t i = 0; i < n; i++)
		push(d, keys[i]);
	return 0;
}

int i8042_init(struct i8042 *d, void (*reset)(void *arg), void *arg, struct err *e)
{
	*d = (struct i8042){.reset = reset, .reset_arg = arg};
	d->state.control = CONTROL_IRQ | CONTROL_SYSTEM | CONTROL_NO_AUX | CONTROL_TRANSLATE;
	d->state.output_port = OUTPUT_PORT_NO_RESET | OUTPUT_PORT_A20;
	d->irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (d->irq_fd < 0)
		return err_sys(e, "create an eventfd");
	return 0;
}

void i8042_finish(struct i8042 *d)
{
	if (d->reset)
		fd_close(&d->irq_fd);
	d->reset = NULL;
}
