/* SPDX-License-Identifier: Apache-2.0 */
#include "snapshot/state.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "tests/lib/saved.h"
#include "tests/lib/scratch.h"
#include "vmm/base/fd.h"

/*
 * State files of older versions of spore, which have to stay readable. When the format changes, a
 * new one is added and none is changed: SPORE_WRITE_GOLDEN=1 build/unit --filter 'state/golden*'
 */
#define GOLDEN_NEWEST "tests/data/snapshot-1.state"
static const char *const golden[] = {GOLDEN_NEWEST};

static uint8_t *read_file(const char *path, size_t *len)
{
	int fd = open(path, O_RDONLY);
	uint8_t *buf;

	cr_assert_geq(fd, 0, "%s: run the tests from the top of the tree", path);
	*len = (size_t)fd_size(fd);
	buf = malloc(*len);
	cr_assert_eq(fd_pread_full(fd, buf, *len, 0), 0);
	close(fd);
	return buf;
}

static int parse_copy(const uint8_t *bytes, size_t len, struct err *e)
{
	struct state s;
	uint8_t *copy = malloc(len ? len : 1);
	int r;

	memcpy(copy, bytes, len);
	r = state_parse(&s, copy, len, e);
	if (r == 0)
		state_finish(&s);
	return r;
}

static void expect_filled(const struct state *s)
{
	struct state want;

	saved_fill(&want, NULL);
	cr_expect_eq(memcmp(&s->meta.id, &want.meta.id, sizeof(want.meta.id)), 0);
	cr_expect_eq(s->meta.mem_inode, want.meta.mem_inode);
	cr_expect_eq(s->meta.probe[0].hash, want.meta.probe[0].hash);
	cr_expect_eq(s->config_len, want.config_len);
	cr_expect_eq(memcmp(s->config, want.config, want.config_len), 0);
	cr_expect_eq(memcmp(&s->kvm, &want.kvm, sizeof(want.kvm)), 0);
	cr_expect_eq(memcmp(&s->serial, &want.serial, sizeof(want.serial)), 0);
	cr_expect_eq(memcmp(&s->i8042, &want.i8042, sizeof(want.i8042)), 0);
	cr_expect_eq(s->virtio_count, 1);
	cr_expect_eq(s->virtio[0].queue[0].next_avail, 17);
	cr_expect_eq(s->virtio[0].device.config_generation, 9);
	cr_assert_eq(s->meta.vcpus, 2);
	for (int i = 0; i < 2; i++) {
		const struct x86_state *a = &s->vcpu[i], *b = &want.vcpu[i];

		cr_expect_eq(memcmp(&a->regs, &b->regs, sizeof(a->regs)), 0);
		cr_expect_eq(memcmp(&a->lapic, &b->lapic, sizeof(a->lapic)), 0);
		cr_expect_eq(memcmp(a->msr, b->msr, sizeof(a->msr)), 0);
		cr_expect_eq(memcmp(a->xsave, b->xsave, sizeof(a->xsave)), 0);
		cr_expect_eq(a->cpuid.entry[2].eax, 3);
		cr_expect_eq(a->mp_state.mp_state, b->mp_state.mp_state);
	}
	state_finish(&want);
}

Test(state, golden_files_of_all_versions_are_read)
{
	for (size_t i = 0; i < ARRAY_SIZE(golden); i++) {
		struct err e = {0};
		struct state s;
		size_t len;
		uint8_t *bytes = read_file(golden[i], &len);

		cr_assert_eq(state_parse(&s, bytes, len, &e), 0, "%s: %s", golden[i], e.msg);
		expect_filled(&s);
		state_finish(&s);
	}
}

Test(state, golden_newest_is_what_is_written)
{
	size_t len, golden_len;
	uint8_t *bytes = saved_file(&len), *want;

	cr_assert_not_null(bytes);
	if (getenv("SPORE_WRITE_GOLDEN")) {
		int fd = open(GOLDEN_NEWEST, O_WRONLY | O_CREAT | O_TRUNC, 0644);

		cr_assert_eq(fd_write_full(fd, bytes, len), 0);
		close(fd);
	}
	want = read_file(GOLDEN_NEWEST, &golden_len);
	cr_expect_eq(len, golden_len);
	cr_expect(len == golden_len && memcmp(bytes, want, len) == 0,
		  "the format has changed: a new version is needed");
	free(want);
	free(bytes);
}

Test(state, every_truncation_is_refused)
{
	size_t len;
	uint8_t *bytes = saved_file(&len);

	for (size_t n = 0; n < len; n++) {
		struct err e = {0};

		cr_expect_lt(parse_copy(bytes, n, &e), 0, "%zu bytes", n);
		cr_expect_str_not_empty(e.msg);
	}
	free(bytes);
}

Test(state, every_flipped_bit_is_refused, .timeout = 300)
{
	size_t len;
	uint8_t *bytes = saved_file(&len);

	for (size_t bit = 0; bit < len * 8; bit++) {
		struct err e = {0};

		bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		cr_assert_lt(parse_copy(bytes, len, &e), 0, "bit %zu", bit);
		bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
	free(bytes);
}

/* --- files with right checksums and wrong contents --- */

/* The state file with `change` done to the state that it is written from. */
static int parse_changed(void (*change)(struct state *s), struct err *e)
{
	struct snapfile_writer out;
	struct state s;
	int r;

	saved_fill(&s, NULL);
	change(&s);
	cr_assert_eq(state_write(&s, NULL, NULL, &out, e), 0, "%s", e->msg);
	r = parse_copy(out.wire.buf, out.wire.pos, e);
	snapfile_drop(&out);
	state_finish(&s);
	return r;
}

#define REFUSED(name, text, statement)                             \
	static void change_##name(struct state *s)                 \
	{                                                          \
		statement;                                         \
	}                                                          \
	Test(state, refuses_##name)                                \
	{                                                          \
		struct err e = {0};                                \
                                                                   \
		cr_expect_lt(parse_changed(change_##name, &e), 0); \
		cr_expect(strstr(e.msg, text), "%s", e.msg);       \
	}

REFUSED(no_vcpus, "0 vCPUs", s->meta.vcpus = 0)
REFUSED(memory_of_no_size, "bytes of memory", s->meta.mem_size = 12345)
REFUSED(too_much_memory, "bytes of memory", s->meta.mem_size = LAYOUT_RAM_MAX * 2)
REFUSED(probe_behind_memory, "behind the end", s->meta.probe[0].page = 1024)
REFUSED(a_version_that_is_no_text, "no text", s->meta.made_by[1] = 7)
REFUSED(interrupt_controllers_in_disorder, "number 2", s->kvm.chip[1].chip_id = 2)
REFUSED(serial_fifo_beyond_its_end, "receive FIFO", s->serial.rx_len = SERIAL_RX_MAX + 1)
REFUSED(serial_fifo_from_beyond, "receive FIFO", s->serial.rx_head = SERIAL_RX_MAX)
REFUSED(serial_register_bits, "register", s->serial.mcr = 0x80)
REFUSED(keyboard_buffer, "output buffer", s->i8042.out_len = I8042_OUT_MAX + 1)
REFUSED(short_xsave, "XSAVE", s->vcpu[1].xsave_size = 512)
REFUSED(no_cpuid, "CPUID", s->vcpu[0].cpuid.nent = 0)
REFUSED(run_state, "run state", s->vcpu[0].mp_state.mp_state = 99)
REFUSED(hypervisor, "virtual machines", s->vcpu[0].sregs.efer |= 1u << 12)
REFUSED(extended_registers, "extended control", s->vcpu[0].xcrs.nr_xcrs = 17)

Test(state, messages_name_the_section)
{
	struct err e = {0};

	cr_expect_lt(parse_changed(change_short_xsave, &e), 0);
	cr_expect_str_eq(e.msg, "section 5 (vCPU 1): its XSAVE area has 512 bytes");
}

/* A file with one section more, or another version of one. */
static int parse_with(uint32_t tag, uint16_t version, bool optional, struct err *e)
{
	struct snapfile_writer out;
	struct snapfile f;
	size_t len;
	uint8_t *bytes = saved_file(&len);
	int r;

	cr_assert_eq(snapfile_parse(&f, bytes, len, e), 0);
	snapfile_start(&out);
	for (unsigned i = 0; i < f.count; i++) {
		struct snapfile_section *s = &f.section[i];

		wire_bytes(snapfile_begin(&out, s->tag, s->instance,
					  s->tag == tag ? version : s->version, s->optional),
			   (void *)(uintptr_t)s->data, s->len);
		snapfile_end(&out);
	}
	if (!snapfile_find(&f, tag, 0)) {
		snapfile_begin(&out, tag, 0, version, optional);
		snapfile_end(&out);
	}
	cr_assert_eq(snapfile_close(&out), 0);
	r = parse_copy(out.wire.buf, out.wire.pos, e);
	snapfile_drop(&out);
	snapfile_finish(&f);
	return r;
}

Test(state, unknown_sections_are_skipped_only_when_optional)
{
	struct err e = {0};
	uint32_t tag = SNAPFILE_TAG('N', 'E', 'W', '1');

	cr_expect_eq(parse_with(tag, 1, true, &e), 0, "%s", e.msg);
	cr_expect_eq(parse_with(tag, 1, false, &e), -ENOTSUP);
	cr_expect_str_eq(e.msg, "section 10 (unknown 0): 'NEW1' is not known to this spore");
}

Test(state, a_newer_version_of_a_section_is_refused_by_name)
{
	struct err e = {0};

	cr_expect_eq(parse_with(STATE_TAG_UART, 2, false, &e), -ENOTSUP);
	cr_expect_str_eq(e.msg, "section 6 (serial 0): version 2, this spore knows up to 1");
	cr_expect_eq(parse_with(STATE_TAG_UART, 0, false, &e), -ENOTSUP);
}

Test(state, describe_tells_also_what_is_not_known)
{
	struct scratch dir;
	struct snapfile_writer out;
	char text[2000] = "";
	struct err e = {0};
	int in, to;

	scratch_init(&dir);
	snapfile_start(&out);
	snapfile_begin(&out, SNAPFILE_TAG('N', 'E', 'W', '\n'), 3, 9, false);
	snapfile_end(&out);
	cr_assert_eq(snapfile_close(&out), 0);
	in = open(scratch_file(&dir, "state", out.wire.buf, out.wire.pos), O_RDONLY);
	to = open(scratch_path(&dir, "text"), O_RDWR | O_CREAT, 0600);
	cr_assert_eq(state_describe(in, to, &e), 0, "%s", e.msg);
	cr_assert_gt(pread(to, text, sizeof(text) - 1, 0), 0);
	cr_expect(strstr(text, "section 'NEW?' 3 version 9: 0 bytes (not known"), "%s", text);
	snapfile_drop(&out);
	close(in);
	in = open(GOLDEN_NEWEST, O_RDONLY);
	cr_assert_eq(ftruncate(to, 0), 0);
	cr_assert_eq(lseek(to, 0, SEEK_SET), 0);
	cr_assert_eq(state_describe(in, to, &e), 0, "%s", e.msg);
	cr_assert_gt(pread(to, text, sizeof(text) - 1, 0), 0);
	cr_expect(strstr(text, "id 101112131415161718191a1b1c1d1e1f\ntype Diff\n"), "%s", text);
	cr_expect(strstr(text, "2023-11-14T22:13:20Z"), "%s", text);
	close(in);
	close(to);
	scratch_finish(&dir);
}

/* --- comparing with the host --- */

static void set_cpuid(struct x86_cpuid *c, uint32_t ebx, uint32_t leaf1_ecx, uint32_t leaf7_ebx)
{
	*c = (struct x86_cpuid){.nent = 3};
	c->entry[0] = (struct kvm_cpuid_entry2){
		.eax = 7, .ebx = ebx, .ecx = 0x6c65746e, .edx = 0x49656e69};
	c->entry[1] = (struct kvm_cpuid_entry2){.function = 1, .ecx = leaf1_ecx};
	c->entry[2] = (struct kvm_cpuid_entry2){.function = 7, .ebx = leaf7_ebx};
}

static int compare(uint32_t ebx, uint32_t leaf1_ecx, uint32_t leaf7_ebx, uint32_t xsave,
		   struct err *e)
{
	const struct x86_topology t = {.vcpus = 1};
	struct x86_host host = {.xsave_size = xsave};
	struct state s;
	int r;

	saved_fill(&s, NULL);
	set_cpuid(&s.vcpu[0].cpuid, 0x756e6547, 1 | 1u << 27 | 1u << 28, 1u << 16 | 1u << 13);
	set_cpuid(&host.cpuid, ebx, leaf1_ecx, leaf7_ebx);
	r = x86_state_check(&s.vcpu[0], &host, &t, true, 0, e);
	state_finish(&s);
	return r;
}

Test(state, the_first_difference_to_the_host_is_named)
{
	const uint32_t intel = 0x756e6547, amd = 0x68747541, all = ~0u, size = 8192;
	struct err e = {0};

	cr_expect_eq(compare(intel, all, all, size, &e), 0, "%s", e.msg);
	cr_expect_eq(compare(intel, all & ~(1u << 27), all, size, &e), 0, "OSXSAVE is the guest's");
	cr_expect_eq(compare(amd, all, all, size, &e), -ENOTSUP);
	cr_expect(strstr(e.msg, "'GenuineIntel'") && strstr(e.msg, "'AuthineIntel'"), "%s", e.msg);
	cr_expect_eq(compare(intel, all & ~(1u << 28), 0, size, &e), -ENOTSUP);
	cr_expect(strstr(e.msg, "'avx'"), "%s", e.msg);
	cr_expect_eq(compare(intel, all, all & ~(1u << 16), size, &e), -ENOTSUP);
	cr_expect(strstr(e.msg, "'avx512f'"), "%s", e.msg);
	cr_expect_eq(compare(intel, all, all & ~(1u << 13), size, &e), -ENOTSUP);
	cr_expect(strstr(e.msg, "leaf 0x7.0 EBX bit 13"), "%s", e.msg);
	cr_expect_eq(compare(intel, all, all, 4096, &e), -ENOTSUP);
	cr_expect(strstr(e.msg, "4160 bytes"), "%s", e.msg);
}
