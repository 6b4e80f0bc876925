/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/i8042.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "vmm/base/fd.h"
#include "vmm/layout.h"

enum { OBF = 0x01, IBF = 0x02, KEYLOCK = 0x10, AUXDATA = 0x20 };

static struct i8042 d;
static unsigned resets;

static void on_reset(void *arg)
{
	(*(unsigned *)arg)++;
}

static void setup(void)
{
	cr_assert_eq(i8042_init(&d, on_reset, &resets, NULL), 0);
}

static void teardown(void)
{
	i8042_finish(&d);
}

TestSuite(i8042, .init = setup, .fini = teardown);

static uint8_t inb(unsigned port)
{
	uint8_t v = 0xee;

	i8042_bus_ops.read(&d, port - LAYOUT_I8042_DATA, &v, 1);
	return v;
}

static void outb(unsigned port, unsigned value)
{
	uint8_t v = (uint8_t)value;

	i8042_bus_ops.write(&d, port - LAYOUT_I8042_DATA, &v, 1);
}

static bool irq(void)
{
	return fd_event_drain(d.irq_fd);
}

/* Linux's i8042_command(): bits 8 to 11 count what is read, bits 12 to 15 what is written. */
static int command(uint8_t *param, unsigned cmd)
{
	cr_assert_not(inb(0x64) & IBF);
	outb(0x64, cmd & 0xff);
	for (unsigned i = 0; i < (cmd >> 12 & 0xf); i++) {
		cr_assert_not(inb(0x64) & IBF);
		outb(0x60, param[i]);
	}
	for (unsigned i = 0; i < (cmd >> 8 & 0xf); i++) {
		if (!(inb(0x64) & OBF))
			return -1; /* after 10,000 polls, an exit each */
		if (cmd == 0x11d3 && !(inb(0x64) & AUXDATA))
			return -1;
		param[i] = inb(0x60);
	}
	return 0;
}

/* Its i8042_flush(): -1 when it gives up, "no controller found". */
static int flush(void)
{
	for (unsigned n = 0; inb(0x64) & OBF; n++) {
		if (n == 16)
			return -1;
		inb(0x60);
	}
	return 0;
}

/* The next byte as its interrupt handler gets it: an edge, then one read. */
static int next_byte(void)
{
	if (!irq() || !(inb(0x64) & OBF))
		return -1;
	return inb(0x60);
}

/* libps2's ps2_command(): sends a byte, awaits ACK, reads the answer. */
static void keyboard(unsigned byte)
{
	outb(0x60, byte);
	cr_assert_eq(next_byte(), 0xfa, "no ACK for 0x%x", byte);
}

/* --- Linux's probe --- */

/* Controller check, self-test, controller init, as far as both cases share it. */
static uint8_t probe_controller(void)
{
	uint8_t ctr[2], v;

	cr_assert_eq(flush(), 0);
	cr_assert_eq(command(&v, 0x01aa), 0);
	cr_assert_eq(v, 0x55);
	for (unsigned i = 0; i < 2; i++)
		cr_assert_eq(command(&ctr[i], 0x0120), 0);
	cr_assert_eq(ctr[0], ctr[1]);
	cr_assert(inb(0x64) & KEYLOCK, "not locked");
	cr_assert(ctr[0] & 0x40, "translated, as a BIOS leaves it");
	v = (uint8_t)((ctr[0] | 0x10) & ~1); /* keyboard and its interrupt off */
	cr_assert_eq(command(&v, 0x1060), 0);
	cr_assert_eq(flush(), 0);
	return v;
}

/* i8042_enable_kbd_port(), then what atkbd.c sends to a translated keyboard. */
static void probe_keyboard(uint8_t ctr)
{
	ctr = (uint8_t)((ctr & ~0x10) | 1);
	cr_assert_eq(command(&ctr, 0x1060), 0);
	irq();
	keyboard(0xf2);
	cr_assert_eq(next_byte(), 0xab);
	cr_assert_eq(next_byte(), 0x41, "0x83 as the controller translates it");
	keyboard(0xf5);
	keyboard(0xed);
	keyboard(0x00);
	keyboard(0xf3);
	keyboard(0x00);
	keyboard(0xf4);
	cr_assert_eq(next_byte(), -1, "nothing is left");
	cr_assert_not(inb(0x64) & OBF);
}

Test(i8042, linux_finds_the_keyboard_with_noaux)
{
	probe_keyboard(probe_controller());
	cr_assert_eq(resets, 0);
	cr_assert_eq(d.metrics.missed_read_count.value, 0);
	cr_assert_eq(d.metrics.missed_write_count.value, 0);
}

/* Its i8042_check_aux(): the loop test says no, then the port test says why. */
Test(i8042, linux_finds_no_mouse)
{
	uint8_t ctr = probe_controller(), v = 0x5a;

	cr_assert_eq(flush(), 0);
	cr_assert(command(&v, 0x11d3) < 0 || v != 0x5a, "AUX loop works");
	v = 0xff;
	cr_assert_eq(command(&v, 0x01a9), 0);
	cr_assert(v != 0 && v != 0xfa && v != 0xff, "0x%x means: there is a mouse", v);
	probe_keyboard(ctr);
}

Test(i8042, aux_stays_disabled)
{
	uint8_t v = 0x03;

	cr_assert_eq(command(&v, 0x1060), 0);
	cr_assert_eq(command(NULL, 0x00a8), 0);
	cr_assert_eq(command(&v, 0x0120), 0);
	cr_assert_eq(v, 0x23);
	outb(0x64, 0xd4);
	outb(0x60, 0xff); /* reset of a mouse: nobody answers */
	cr_assert_not(inb(0x64) & OBF);
	outb(0x60, 0xee);
	cr_assert_eq(inb(0x60), 0xee, "the byte after that goes to the keyboard");
}

/* Reset and identification, untranslated: i8042.direct. */
Test(i8042, keyboard_without_translation)
{
	uint8_t ctr = 0x01;

	cr_assert_eq(command(&ctr, 0x1060), 0);
	keyboard(0xff);
	cr_assert_eq(next_byte(), 0xaa, "self-test passed");
	keyboard(0xf2);
	cr_assert_eq(next_byte(), 0xab);
	cr_assert_eq(next_byte(), 0x83);
	keyboard(0xf0);
	keyboard(0x00);
	cr_assert_eq(next_byte(), 2, "scan code set 2");
	keyboard(0xf0);
	keyboard(0x03); /* sets a set: no answer but ACK */
	cr_assert_eq(next_byte(), -1);
	outb(0x60, 0xee);
	cr_assert_eq(next_byte(), 0xee, "echo has no ACK");
}

/* --- controller --- */

Test(i8042, interrupt_enable_with_a_byte_waiting)
{
	uint8_t v = 0x40;

	cr_assert_eq(command(&v, 0x1060), 0);
	outb(0x60, 0xf4);
	cr_assert_not(irq());
	v = 0x41;
	cr_assert_eq(command(&v, 0x1060), 0);
	cr_assert_eq(next_byte(), 0xfa);
	cr_assert_not(irq());
}

Test(i8042, keyboard_enable_and_disable_commands)
{
	uint8_t v;

	outb(0x64, 0xad);
	command(&v, 0x0120);
	cr_assert(v & 0x10);
	outb(0x64, 0xae);
	command(&v, 0x0120);
	cr_assert_not(v & 0x10);
	cr_assert_eq(command(&v, 0x01ab), 0);
	cr_assert_eq(v, 0, "keyboard port test passed");
}

Test(i8042, keyboard_buffer_can_be_written)
{
	uint8_t v = 0x77;

	cr_assert_eq(command(&v, 0x11d2), 0);
	cr_assert_eq(v, 0x77);
}

Test(i8042, empty_and_unknown)
{
	cr_assert_eq(inb(0x60), 0);
	cr_assert_eq(d.metrics.missed_read_count.value, 1);
	outb(0x64, 0x13);
	cr_assert_eq(d.metrics.missed_write_count.value, 1);
	cr_assert_not(inb(0x64) & OBF);
}

/* A guest that waits for timer 2 through port 0x61 has to see its end (Linux without ACPI). */
Test(i8042, port_61_ends_the_wait_for_timer_2)
{
	outb(0x61, 0x01);
	cr_assert_eq(inb(0x61) & 0x20, 0x20);
	cr_assert_eq(inb(0x61) & 0xc0, 0, "no NMI reason");
	cr_assert_eq(inb(0x62), 0);
	cr_assert_eq(inb(0x63), 0);
	outb(0x62, 0xfe);
	cr_assert_eq(resets, 0);
}

Test(i8042, odd_widths)
{
	for (unsigned len = 2; len <= 5; len++) {
		uint8_t data[8];

		memset(data, 0xfe, sizeof(data));
		i8042_bus_ops.write(&d, len == 5 ? 0 : 4, data, len);
		i8042_bus_ops.read(&d, 0, data, len);
		for (unsigned i = 0; i < 8; i++)
			cr_assert_eq(data[i], i < len ? 0 : 0xfe);
	}
	cr_assert_eq(d.metrics.error_count.value, 8);
	cr_assert_eq(resets, 0);
	cr_assert_not(inb(0x64) & OBF);
}

/* --- reset --- */

Test(i8042, reset_command)
{
	outb(0x64, 0xfe);
	cr_assert_eq(resets, 1);
	cr_assert_eq(d.metrics.reset_count.value, 1);
}

Test(i8042, reset_through_the_output_port)
{
	uint8_t v;

	cr_assert_eq(command(&v, 0x01d0), 0);
	cr_assert_eq(v & 3, 3, "no reset, A20 open");
	command(&v, 0x10d1);
	cr_assert_eq(resets, 0);
	v &= 0xfd; /* A20 off is remembered, no more */
	command(&v, 0x10d1);
	cr_assert_eq(command(&v, 0x01d0), 0);
	cr_assert_eq(v & 3, 1);
	cr_assert_eq(resets, 0);
	v &= 0xfe;
	command(&v, 0x10d1);
	cr_assert_eq(resets, 1);
}

/* --- queue --- */

Test(i8042, a_full_queue_loses_and_counts)
{
	for (unsigned i = 0; i < 100; i++)
		outb(0x60, 0xee);
	cr_assert_eq(d.state.out_len, I8042_OUT_MAX);
	cr_assert_eq(d.metrics.missed_write_count.value, 100 - I8042_OUT_MAX);
	cr_assert_eq(flush(), 0, "Linux reads 16 bytes, then takes it for broken");
}

Test(i8042, an_answer_replaces_what_nobody_read)
{
	uint8_t v;

	for (unsigned i = 0; i < 100; i++)
		outb(0x60, 0xf2);
	cr_assert_eq(command(&v, 0x01aa), 0);
	cr_assert_eq(v, 0x55);
	cr_assert_not(inb(0x64) & OBF);
}

Test(i8042, the_ring_wraps)
{
	for (unsigned i = 0; i < 100; i++) {
		outb(0x60, 0xf2);
		cr_assert_eq(inb(0x60), 0xfa);
		cr_assert_eq(inb(0x60), 0xab);
		cr_assert_eq(inb(0x60), 0x41);
	}
}

/* --- Ctrl-Alt-Del --- */

static void expect_keys(const uint8_t *keys, size_t n)
{
	irq();
	cr_assert_eq(i8042_ctrl_alt_del(&d), 0);
	for (size_t i = 0; i < n; i++)
		cr_assert_eq(next_byte(), keys[i], "byte %zu", i);
	cr_assert_eq(next_byte(), -1);
}

Test(i8042, ctrl_alt_del_in_both_sets)
{
	static const uint8_t set1[] = {0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d};
	static const uint8_t set2[] = {0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0,
				       0x71, 0xf0, 0x11, 0xf0, 0x14};
	uint8_t ctr = 0x01;

	expect_keys(set1, sizeof(set1));
	command(&ctr, 0x1060);
	expect_keys(set2, sizeof(set2));
}

/* A guest that does not read gets whole sequences or none. */
Test(i8042, ctrl_alt_del_is_refused_when_keys_wait)
{
	cr_assert_eq(i8042_ctrl_alt_del(&d), 0);
	cr_assert_eq(i8042_ctrl_alt_del(&d), 0);
	cr_assert_eq(i8042_ctrl_alt_del(&d), -EBUSY);
	cr_assert_eq(d.state.out_len, 16);
	cr_assert_eq(d.metrics.missed_write_count.value, 0);
	for (unsigned i = 0; i < 8; i++)
		inb(0x60);
	cr_assert_eq(i8042_ctrl_alt_del(&d), 0);
}

Test(i8042, finish_leaves_nothing)
{
	struct i8042 zero = {0};
	int before, after;

	i8042_finish(&d);
	before = dup(0);
	close(before);
	cr_assert_eq(i8042_init(&d, on_reset, &resets, NULL), 0);
	i8042_finish(&d);
	i8042_finish(&d);
	i8042_finish(&zero);
	after = dup(0);
	close(after);
	cr_assert_eq(after, before);
}
