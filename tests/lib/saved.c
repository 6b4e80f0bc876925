/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/saved.h"

#include <stdio.h>
#include <stdlib.h>

static const char config[] =
	"{\"machine-config\":{\"vcpu_count\":2,\"mem_size_mib\":4},\"drives\":[],\"entropy\":{}}";

/* Bytes that count up from `from`. */
static void count_up(void *p, size_t len, uint8_t from)
{
	for (size_t i = 0; i < len; i++)
		((uint8_t *)p)[i] = (uint8_t)(from + i);
}

static void fill_meta(struct state_meta *m)
{
	*m = (struct state_meta){
		.created_ns = 1700000000123456789,
		.made_by = "0.1.0",
		.host = 0x1122334455667788,
		.vcpus = 2,
		.mem_size = MIB(4),
		.mem_inode = 4711,
		.mem_written = 3,
		.probes = 1,
		.probe = {{.page = 5, .hash = 0xfedcba9876543210}},
	};
	count_up(&m->id, sizeof(m->id), 0x10);
	count_up(&m->parent, sizeof(m->parent), 0x40);
	count_up(&m->origin, sizeof(m->origin), 0x70);
}

static void fill_vcpu(struct x86_state *v, uint8_t index)
{
	count_up(&v->regs, sizeof(v->regs), index);
	v->sregs.cr0 = 0x80000011;
	v->sregs.cr3 = 0x9000 + index;
	v->sregs.efer = 0x500;
	v->mp_state.mp_state = index ? KVM_MP_STATE_HALTED : KVM_MP_STATE_RUNNABLE;
	v->events.flags = 5;
	v->debugregs.dr6 = 0xffff0ff0;
	v->xcrs.nr_xcrs = 1;
	v->xcrs.xcrs[0].value = 7;
	count_up(&v->lapic, sizeof(v->lapic), (uint8_t)(index + 1));
	v->tsc_khz = 2400000;
	v->cpuid.nent = 3;
	v->cpuid.entry[0] = (struct kvm_cpuid_entry2){
		.eax = 1, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69};
	v->cpuid.entry[1] = (struct kvm_cpuid_entry2){.function = 1, .ecx = 1, .edx = 2};
	v->cpuid.entry[2] = (struct kvm_cpuid_entry2){.function = 0x40000001, .eax = 3};
	v->msr_count = 2;
	v->msr[0] = (struct kvm_msr_entry){.index = 0x10, .data = 123456789 + index};
	v->msr[1] = (struct kvm_msr_entry){.index = 0x6e0, .data = 42};
	v->xsave_size = sizeof(struct kvm_xsave) + 64;
	count_up(v->xsave, v->xsave_size, index);
}

static void fill_virtio(struct virtio_mmio_state *v)
{
	*v = (struct virtio_mmio_state){
		.type = VIRTIO_ID_ENTROPY,
		.features = VIRTIO_FEATURES_COMMON,
		.device = {.driver_features = VIRTIO_F_VERSION_1,
			   .device_features_sel = 1,
			   .driver_features_sel = 1,
			   .queue_sel = 0,
			   .status = VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_FEATURES_OK |
				     VIRTIO_S_DRIVER_OK,
			   .interrupt_status = 1,
			   .config_generation = 9},
		.num_queues = 1,
		.queue = {{.desc = 0x1000,
			   .driver = 0x2000,
			   .device = 0x3000,
			   .size = 16,
			   .next_avail = 17,
			   .next_used = 17,
			   .ready = 1}},
	};
}

void saved_fill(struct state *s, struct memory_table *t)
{
	*s = (struct state){.config = config, .config_len = sizeof(config) - 1, .virtio_count = 1};
	fill_meta(&s->meta);
	for (uint32_t i = 0; i < KVM_STATE_CHIPS; i++) {
		count_up(&s->kvm.chip[i], sizeof(s->kvm.chip[i]), (uint8_t)(i * 3));
		s->kvm.chip[i].chip_id = i;
	}
	s->kvm.clock_ns = 987654321;
	s->kvm.realtime_ns = 1700000000000000000;
	s->serial = (struct serial_state){.ier = 5,
					  .lcr = 3,
					  .mcr = 11,
					  .scr = 77,
					  .dll = 12,
					  .fifo_enabled = 1,
					  .thr_pending = 1,
					  .rx = "typed",
					  .rx_head = 1,
					  .rx_len = 4};
	s->i8042 = (struct i8042_state){
		.control = 0x45, .output_port = 3, .out = {0xfa, 0xaa}, .out_len = 2};
	fill_virtio(&s->virtio[0]);
	s->vcpu = calloc(2, sizeof(*s->vcpu));
	for (uint8_t i = 0; i < 2; i++)
		fill_vcpu(&s->vcpu[i], i);
	if (!t)
		return;
	*t = (struct memory_table){.chunk = calloc(1, sizeof(*t->chunk)), .count = 1};
	t->chunk[0] = (struct memory_chunk){.number = 1, .hash = 99, .pages = {7}};
}

uint8_t *saved_file(size_t *len)
{
	struct snapfile_writer out;
	struct memory_table table;
	struct state s;
	uint8_t *copy = NULL;

	saved_fill(&s, &table);
	if (state_write(&s, NULL, &table, &out, NULL) == 0) {
		*len = out.wire.pos;
		copy = malloc(*len);
		memcpy(copy, out.wire.buf, *len);
	}
	snapfile_drop(&out);
	memory_table_finish(&table);
	state_finish(&s);
	return copy;
}
