/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is in a state file: the sections of a whole VM, and their order and meaning.
 *
 *	META	what the snapshot is and which memory belongs to it
 *	CONF	the configuration, as GET /vm/config prints it (JSON)
 *	KVM	interrupt controllers and clock			vmm/kvm_state.h
 *	VCPU	one for each vCPU				vmm/x86_state.h
 *	UART	serial line					vmm/serial.h
 *	KBD	keyboard controller				vmm/i8042.h
 *	VIRT	one for each virtio slot: registers, queues	virtio/mmio_state.h
 *	VDEV	what its device has beyond that			the device's file
 *	MTAB	optional: which pages were written, hashes	snapshot/memory.h
 *	LAYR	of a fork, one for each layer: its pages	snapshot/layers.h
 *
 * The configuration is text that this layer does not look into: the code that prints it for the
 * API reads it again, so that no field of a device can be forgotten here, and a device that is
 * restored has been judged and opened like one that is configured. docs/snapshot-format.md has
 * the rules by which versions change. Main thread.
 */
#pragma once

#include "snapshot/file.h"
#include "snapshot/layers.h"
#include "snapshot/memory.h"
#include "virtio/mmio_state.h"
#include "vmm/kvm_state.h"
#include "vmm/machine.h"
#include "vmm/x86_state.h"

/* What --snapshot-version tells. The first number changes when older ones cannot be read. */
#define SNAPSHOT_VERSION "1.0.0"

enum {
	STATE_TAG_META = SNAPFILE_TAG('M', 'E', 'T', 'A'),
	STATE_TAG_CONF = SNAPFILE_TAG('C', 'O', 'N', 'F'),
	STATE_TAG_KVM = SNAPFILE_TAG('K', 'V', 'M', ' '),
	STATE_TAG_VCPU = SNAPFILE_TAG('V', 'C', 'P', 'U'),
	STATE_TAG_UART = SNAPFILE_TAG('U', 'A', 'R', 'T'),
	STATE_TAG_KBD = SNAPFILE_TAG('K', 'B', 'D', ' '),
	STATE_TAG_VIRT = SNAPFILE_TAG('V', 'I', 'R', 'T'),
	STATE_TAG_VDEV = SNAPFILE_TAG('V', 'D', 'E', 'V'),
	STATE_TAG_MTAB = SNAPFILE_TAG('M', 'T', 'A', 'B'),
	STATE_TAG_LAYR = SNAPFILE_TAG('L', 'A', 'Y', 'R'),
};

#define SNAPSHOT_ID_LEN	   16u
#define STATE_CONFIG_MAX   MIB(4)
#define STATE_META_VERSION 1u
#define STATE_CONF_VERSION 1u

struct snapshot_id {
	uint8_t byte[SNAPSHOT_ID_LEN]; /* random; all zero: none */
};

static inline bool snapshot_id_equal(const struct snapshot_id *a, const struct snapshot_id *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}
bool snapshot_id_none(const struct snapshot_id *id);
/* 32 hexadecimal digits and a zero. */
#define SNAPSHOT_ID_TEXT (2 * SNAPSHOT_ID_LEN + 1)
void snapshot_id_text(const struct snapshot_id *id, char text[SNAPSHOT_ID_TEXT]);

struct state_meta {
	struct snapshot_id id;
	/*
	 * Of a diff: what it can be merged onto, and the one that the VM was loaded from, onto
	 * which it can be merged too (zero: it cannot). Zero both: the memory is complete.
	 */
	struct snapshot_id parent, origin;
	uint64_t created_ns; /* CLOCK_REALTIME */
	char made_by[32];    /* version of spore */
	uint64_t host;	     /* x86_host_fingerprint() */
	uint32_t vcpus;
	uint64_t mem_size;    /* bytes of guest memory, and of its file */
	uint64_t mem_inode;   /* of the file as it was written (snapshot/output.h) */
	uint64_t mem_written; /* pages in it */
	uint32_t probes;
	struct memory_probe probe[MEMORY_PROBES_MAX];
};

static inline bool state_is_diff(const struct state_meta *m)
{
	return !snapshot_id_none(&m->parent);
}

struct state {
	struct snapfile file; /* of one that was read: the bytes that VDEV and MTAB are read from */
	struct state_meta meta;
	const char *config; /* in `file` when read, borrowed when written; not terminated */
	size_t config_len;
	struct kvm_state kvm;
	struct serial_state serial;
	struct i8042_state i8042;
	struct virtio_mmio_state virtio[LAYOUT_VIRTIO_MAX];
	unsigned virtio_count;
	const struct layer
		*layer; /* to be written, `layers` of them; borrowed (snapshot/layers.h) */
	unsigned layers;
	struct x86_state *vcpu; /* owned, unless they are those of a room; meta.vcpus of them */
	bool borrowed_vcpu;
};

/* Memory to read a state into, made and touched before it is needed. A state that does not fit has its own. */
struct state_room {
	uint8_t *buf;
	size_t len;
	struct x86_state *vcpu;
	unsigned vcpus;
};

/*
 * Reads a state file and vets everything in it that can be judged without a machine. The messages do
 * not name the file. On failure `s` needs no finish. `room` is borrowed as long as `s` is used; may be
 * NULL.
 */
int state_read(struct state *s, int fd, const struct state_room *room, struct err *e);
/* The same from memory; takes `buf` (from malloc). */
int state_parse(struct state *s, uint8_t *buf, size_t len, struct err *e);
void state_finish(struct state *s);

/* Reads the state of a paused machine; drains its devices. `s` is zeroed; meta.vcpus is set. */
int state_save(struct state *s, struct vm_machine *m, struct err *e);
/* Writes all of it. `table` may be NULL. The caller drops `out`, also when it fails. */
int state_write(struct state *s, struct vm_machine *m, struct memory_table *table,
		struct snapfile_writer *out, struct err *e);

/* All sections of a file as they are, but for META and MTAB. The caller drops `out`. */
int state_rewrite(const struct snapfile *f, struct state_meta *meta, struct memory_table *table,
		  struct snapfile_writer *out, struct err *e);

/* META of a file that may be of any version, for --describe-snapshot. */
int state_read_meta(struct state_meta *meta, const struct snapfile *f, struct err *e);
/* MTAB. 0 with an empty table when the file has none. The caller finishes `t`. */
int state_read_table(struct memory_table *t, const struct snapfile *f, uint64_t pages,
		     struct err *e);
/* How many LAYR it has; and one of them. The caller finishes `t`. */
unsigned state_count_layers(const struct state *s);
int state_read_layer(const struct state *s, unsigned i, struct memory_table *t, struct err *e);
/* VDEV of a slot, into its device. */
int state_read_device(const struct state *s, unsigned slot, struct virtio_device *d, struct err *e);

/* Prints what a state file is, for a person; also one whose sections are not known. */
int state_describe(int state_fd, int out_fd, struct err *e);
