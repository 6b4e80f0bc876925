/* SPDX-License-Identifier: Apache-2.0 */
#include "snapshot/state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* --- ids --- */

bool snapshot_id_none(const struct snapshot_id *id)
{
	static const struct snapshot_id none;

	return snapshot_id_equal(id, &none);
}

void snapshot_id_text(const struct snapshot_id *id, char text[SNAPSHOT_ID_TEXT])
{
	for (unsigned i = 0; i < SNAPSHOT_ID_LEN; i++)
		snprintf(text + 2 * i, 3, "%02x", id->byte[i]);
}

/* --- META --- */

static void meta_wire(struct state_meta *m, struct wire *w)
{
	wire_bytes(w, &m->id, sizeof(m->id));
	wire_bytes(w, &m->parent, sizeof(m->parent));
	wire_bytes(w, &m->origin, sizeof(m->origin));
	wire_u64(w, &m->created_ns);
	wire_name(w, m->made_by, sizeof(m->made_by));
	wire_u64(w, &m->host);
	wire_u32(w, &m->vcpus);
	wire_u64(w, &m->mem_size);
	wire_u64(w, &m->mem_inode);
	wire_u64(w, &m->mem_written);
	wire_u32(w, &m->probes);
	if (m->probes > MEMORY_PROBES_MAX) {
		wire_fail(w, -EBADMSG);
		m->probes = 0;
	}
	for (unsigned i = 0; i < m->probes; i++) {
		wire_u64(w, &m->probe[i].page);
		wire_u64(w, &m->probe[i].hash);
	}
}

static int meta_check(const struct state_meta *m, struct err *e)
{
	if (m->vcpus < 1 || m->vcpus > LAYOUT_VCPU_MAX)
		return err_set(e, EINVAL, "%u vCPUs", m->vcpus);
	if (m->mem_size < LAYOUT_RAM_MIN || m->mem_size > LAYOUT_RAM_MAX ||
	    m->mem_size % LAYOUT_PAGE_SIZE)
		return err_set(e, EINVAL, "%" PRIu64 " bytes of memory", m->mem_size);
	for (unsigned i = 0; i < m->probes; i++)
		if (m->probe[i].page >= m->mem_size / GMEM_PAGE)
			return err_set(e, EINVAL, "a page behind the end of memory");
	for (const char *c = m->made_by; *c; c++)
		if (*c < ' ' || *c > '~')
			return err_set(e, EINVAL, "a version that is no text");
	return 0;
}

/* --- read --- */

static const struct {
	uint32_t tag;
	const char *name;
	uint16_t version; /* the newest that is known; 0: the device knows */
} known[] = {
	{STATE_TAG_META, "snapshot", STATE_META_VERSION},
	{STATE_TAG_CONF, "configuration", STATE_CONF_VERSION},
	{STATE_TAG_KVM, "interrupt controllers and clock", KVM_STATE_VERSION},
	{STATE_TAG_VCPU, "vCPU", X86_STATE_VERSION},
	{STATE_TAG_UART, "serial", SERIAL_STATE_VERSION},
	{STATE_TAG_KBD, "keyboard controller", I8042_STATE_VERSION},
	{STATE_TAG_VIRT, "virtio device", VIRTIO_MMIO_STATE_VERSION},
	{STATE_TAG_VDEV, "virtio device's own", 0},
	{STATE_TAG_MTAB, "memory table", MEMORY_TABLE_VERSION},
	{STATE_TAG_LAYR, "layer of memory", MEMORY_TABLE_VERSION},
};

static const char *name_of(uint32_t tag)
{
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (known[i].tag == tag)
			return known[i].name;
	return NULL;
}

/* "VCPU", with what is no letter as '?'. */
static void tag_text(uint32_t tag, char text[5])
{
	for (unsigned i = 0; i < 4; i++) {
		char c = (char)(tag >> (8 * i));

		text[i] = c >= ' ' && c <= '~' ? c : '?';
	}
	text[4] = '\0';
}

static int check_section(const struct snapfile_section *s, struct err *e)
{
	char tag[5];

	tag_text(s->tag, tag);
	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		if (known[i].tag != s->tag)
			continue;
		if (s->version == 0 || (known[i].version && s->version > known[i].version))
			return err_set(e, ENOTSUP, "version %u, this spore knows up to %u",
				       s->version, known[i].version);
		return 0;
	}
	if (s->optional)
		return 0;
	return err_set(e, ENOTSUP, "'%s' is not known to this spore", tag);
}

/* "section 7 (vCPU 3)" before the message. */
static int wrap(const struct snapfile *f, const struct snapfile_section *s, struct err *e)
{
	const char *name = name_of(s->tag);

	return err_wrap(e, "section %u (%s %u)", (unsigned)(s - f->section) + 1,
			name ? name : "unknown", s->instance);
}

static int check_sections(const struct snapfile *f, struct err *e)
{
	for (unsigned i = 0; i < f->count; i++)
		if (check_section(&f->section[i], e) < 0)
			return wrap(f, &f->section[i], e);
	return 0;
}

/* A reader over a section's bytes; NULL with `e` filled when it is not there. */
static const struct snapfile_section *open_section(const struct snapfile *f, uint32_t tag,
						   uint32_t instance, struct wire *w, struct err *e)
{
	const struct snapfile_section *s = snapfile_find(f, tag, instance);

	if (!s) {
		err_set(e, EBADMSG, "there is no section '%s %u'", name_of(tag), instance);
		return NULL;
	}
	wire_reader(w, s->data, s->len, s->version);
	return s;
}

static int end_section(const struct wire *w, struct err *e)
{
	int r = wire_end(w);

	switch (r) {
	case 0:
		return 0;
	case -ENODATA:
		return err_set(e, EBADMSG, "ends too early");
	case -EMSGSIZE:
		return err_set(e, EBADMSG, "%zu bytes too many", w->len - w->pos);
	case -ENOMEM:
		return err_set(e, ENOMEM, "out of memory");
	default:
		return err_set(e, EBADMSG, "malformed");
	}
}

/* Reads one section by its list of fields and vets it: X is its state's name. */
#define READ_SECTION(f, tag, instance, e, wire_call, check_call)                                 \
	({                                                                                       \
		struct wire w;                                                                   \
		const struct snapfile_section *section_ = open_section(f, tag, instance, &w, e); \
		int r_ = section_ ? 0 : -(e)->code;                                              \
		if (section_) {                                                                  \
			wire_call;                                                               \
			r_ = end_section(&w, e);                                                 \
			if (r_ == 0)                                                             \
				r_ = check_call;                                                 \
			if (r_ < 0)                                                              \
				r_ = wrap(f, section_, e);                                       \
		}                                                                                \
		r_;                                                                              \
	})

int state_read_meta(struct state_meta *meta, const struct snapfile *f, struct err *e)
{
	return READ_SECTION(f, STATE_TAG_META, 0, e, meta_wire(meta, &w), meta_check(meta, e));
}

int state_read_table(struct memory_table *t, const struct snapfile *f, uint64_t pages,
		     struct err *e)
{
	*t = (struct memory_table){0};
	if (!snapfile_find(f, STATE_TAG_MTAB, 0))
		return 0;
	return READ_SECTION(f, STATE_TAG_MTAB, 0, e, memory_table_wire(t, &w),
			    memory_table_check(t, pages, e));
}

static int read_config(struct state *s, struct err *e)
{
	const struct snapfile_section *c = snapfile_find(&s->file, STATE_TAG_CONF, 0);

	if (!c)
		return err_set(e, EBADMSG, "there is no section 'configuration 0'");
	if (c->len > STATE_CONFIG_MAX) {
		err_set(e, EFBIG, "%zu bytes", c->len);
		return wrap(&s->file, c, e);
	}
	s->config = (const char *)c->data;
	s->config_len = c->len;
	return 0;
}

static int read_machine(struct state *s, struct err *e)
{
	const struct snapfile *f = &s->file;
	int r = READ_SECTION(f, STATE_TAG_KVM, 0, e, kvm_state_wire(&s->kvm, &w),
			     kvm_state_check(&s->kvm, s->kvm.pit, e));

	if (r == 0)
		r = READ_SECTION(f, STATE_TAG_UART, 0, e, serial_state_wire(&s->serial, &w),
				 serial_state_check(&s->serial, e));
	if (r == 0)
		r = READ_SECTION(f, STATE_TAG_KBD, 0, e, i8042_state_wire(&s->i8042, &w),
				 i8042_state_check(&s->i8042, e));
	for (; r == 0 && snapfile_find(f, STATE_TAG_VIRT, s->virtio_count); s->virtio_count++) {
		if (s->virtio_count == LAYOUT_VIRTIO_MAX)
			return err_set(e, EBADMSG, "more than %u virtio devices",
				       LAYOUT_VIRTIO_MAX);
		r = READ_SECTION(f, STATE_TAG_VIRT, s->virtio_count, e,
				 virtio_mmio_state_wire(&s->virtio[s->virtio_count], &w), 0);
	}
	return r;
}

static int read_vcpus(struct state *s, const struct state_room *room, struct err *e)
{
	/* What depends on the host is looked at when there is a VM: see snapshot/load.c. */
	const struct x86_topology none = {.vcpus = s->meta.vcpus};
	int r = 0;

	/* Not cleared: a few KiB of each are used. Beyond what is read nothing is looked at. */
	s->borrowed_vcpu = room && s->meta.vcpus <= room->vcpus;
	s->vcpu = s->borrowed_vcpu ? room->vcpu : calloc(s->meta.vcpus, sizeof(*s->vcpu));
	if (!s->vcpu)
		return err_set(e, ENOMEM, "out of memory");
	for (unsigned i = 0; r == 0 && i < s->meta.vcpus; i++)
		r = READ_SECTION(&s->file, STATE_TAG_VCPU, i, e, x86_state_wire(&s->vcpu[i], &w),
				 x86_state_check(&s->vcpu[i], NULL, &none, false, i, e));
	return r;
}

static int read_sections(struct state *s, const struct state_room *room, struct err *e)
{
	int r = check_sections(&s->file, e);

	if (r == 0)
		r = state_read_meta(&s->meta, &s->file, e);
	if (r == 0)
		r = read_config(s, e);
	if (r == 0)
		r = read_machine(s, e);
	return r == 0 ? read_vcpus(s, room, e) : r;
}

int state_parse(struct state *s, uint8_t *buf, size_t len, struct err *e)
{
	int r;

	*s = (struct state){0};
	r = snapfile_parse(&s->file, buf, len, e);
	if (r == 0)
		r = read_sections(s, NULL, e);
	if (r < 0)
		state_finish(s);
	return r;
}

int state_read(struct state *s, int fd, const struct state_room *room, struct err *e)
{
	int r;

	*s = (struct state){0};
	r = snapfile_read_to(&s->file, fd, room ? room->buf : NULL, room ? room->len : 0, e);
	if (r == 0)
		r = read_sections(s, room, e);
	if (r < 0)
		state_finish(s);
	return r;
}

void state_finish(struct state *s)
{
	snapfile_finish(&s->file);
	if (!s->borrowed_vcpu)
		free(s->vcpu);
	*s = (struct state){0};
}

unsigned state_count_layers(const struct state *s)
{
	unsigned n = 0;

	while (snapfile_find(&s->file, STATE_TAG_LAYR, n))
		n++;
	return n;
}

int state_read_layer(const struct state *s, unsigned i, struct memory_table *t, struct err *e)
{
	int r;

	*t = (struct memory_table){0};
	r = READ_SECTION(&s->file, STATE_TAG_LAYR, i, e, memory_table_wire(t, &w),
			 memory_table_check(t, s->meta.mem_size / GMEM_PAGE, e));
	if (r < 0)
		memory_table_finish(t);
	return r;
}

static uint16_t device_version(const struct virtio_device *d)
{
	return d->ops->wire_version ? d->ops->wire_version : 1;
}

int state_read_device(const struct state *s, unsigned slot, struct virtio_device *d, struct err *e)
{
	const struct snapfile_section *v = snapfile_find(&s->file, STATE_TAG_VDEV, slot);
	struct wire w;
	int r;

	if (!v && !d->ops->wire)
		return 0;
	if (!v || !d->ops->wire)
		return err_set(e, EBADMSG, "%s: the snapshot has %s state of its own", d->name,
			       v ? "unexpected" : "no");
	if (v->version > device_version(d)) {
		err_set(e, ENOTSUP, "version %u, this spore knows up to %u", v->version,
			device_version(d));
		return wrap(&s->file, v, e);
	}
	wire_reader(&w, v->data, v->len, v->version);
	d->ops->wire(d, &w);
	r = end_section(&w, e);
	return r < 0 ? wrap(&s->file, v, e) : 0;
}

/* --- save --- */

int state_save(struct state *s, struct vm_machine *m, struct err *e)
{
	int r = 0;

	/* Devices first: what they finish may still raise an interrupt and change memory. */
	for (unsigned i = 0; r == 0 && i < m->virtio_count; i++)
		r = virtio_mmio_save(&s->virtio[i], &m->virtio[i], e);
	if (r < 0)
		return r;
	s->virtio_count = m->virtio_count;
	serial_flush(&m->serial);
	s->serial = m->serial.state;
	s->i8042 = m->i8042.state;
	s->meta.vcpus = m->vcpus.count;
	s->vcpu = calloc(s->meta.vcpus, sizeof(*s->vcpu));
	if (!s->vcpu)
		return err_set(e, ENOMEM, "out of memory");
	for (unsigned i = 0; r == 0 && i < s->meta.vcpus; i++)
		r = x86_state_save(&s->vcpu[i], &m->vcpu[i], &m->kvm, e);
	/* Behind the vCPUs, whose INITs and start-up IPIs have been delivered by now. */
	if (r == 0)
		r = kvm_state_save(&s->kvm, &m->kvm, m->vm->config.machine.pit, e);
	return r;
}

static void write_device(struct vm_machine *m, unsigned slot, struct snapfile_writer *out)
{
	struct virtio_device *d = m->virtio[slot].dev;

	if (!d->ops->wire)
		return;
	d->ops->wire(d, snapfile_begin(out, STATE_TAG_VDEV, slot, device_version(d), false));
	snapfile_end(out);
}

#define WRITE_SECTION(out, tag, instance, version, optional, wire_call)                 \
	do {                                                                            \
		struct wire *w = snapfile_begin(out, tag, instance, version, optional); \
		wire_call;                                                              \
		snapfile_end(out);                                                      \
	} while (0)

int state_write(struct state *s, struct vm_machine *m, struct memory_table *table,
		struct snapfile_writer *out, struct err *e)
{
	int r;

	snapfile_start(out);
	WRITE_SECTION(out, STATE_TAG_META, 0, STATE_META_VERSION, false, meta_wire(&s->meta, w));
	WRITE_SECTION(out, STATE_TAG_CONF, 0, STATE_CONF_VERSION, false,
		      wire_bytes(w, (void *)(uintptr_t)s->config, s->config_len));
	WRITE_SECTION(out, STATE_TAG_KVM, 0, KVM_STATE_VERSION, false, kvm_state_wire(&s->kvm, w));
	for (unsigned i = 0; i < s->meta.vcpus; i++)
		WRITE_SECTION(out, STATE_TAG_VCPU, i, X86_STATE_VERSION, false,
			      x86_state_wire(&s->vcpu[i], w));
	WRITE_SECTION(out, STATE_TAG_UART, 0, SERIAL_STATE_VERSION, false,
		      serial_state_wire(&s->serial, w));
	WRITE_SECTION(out, STATE_TAG_KBD, 0, I8042_STATE_VERSION, false,
		      i8042_state_wire(&s->i8042, w));
	for (unsigned i = 0; i < s->virtio_count; i++) {
		WRITE_SECTION(out, STATE_TAG_VIRT, i, VIRTIO_MMIO_STATE_VERSION, false,
			      virtio_mmio_state_wire(&s->virtio[i], w));
		if (m)
			write_device(m, i, out);
	}
	if (table)
		WRITE_SECTION(out, STATE_TAG_MTAB, 0, MEMORY_TABLE_VERSION, true,
			      memory_table_wire(table, w));
	for (unsigned i = 0; i < s->layers; i++) {
		struct memory_table t = s->layer[i].table;

		WRITE_SECTION(out, STATE_TAG_LAYR, i, MEMORY_TABLE_VERSION, false,
			      memory_table_wire(&t, w));
	}
	r = snapfile_close(out);
	return r < 0 ? err_set(e, -r, "put the state together: %s", strerror(-r)) : 0;
}

int state_rewrite(const struct snapfile *f, struct state_meta *meta, struct memory_table *table,
		  struct snapfile_writer *out, struct err *e)
{
	int r;

	snapfile_start(out);
	WRITE_SECTION(out, STATE_TAG_META, 0, STATE_META_VERSION, false, meta_wire(meta, w));
	for (unsigned i = 0; i < f->count; i++) {
		const struct snapfile_section *s = &f->section[i];

		if (s->tag != STATE_TAG_META && s->tag != STATE_TAG_MTAB)
			WRITE_SECTION(out, s->tag, s->instance, s->version, s->optional,
				      wire_bytes(w, (void *)(uintptr_t)s->data, s->len));
	}
	WRITE_SECTION(out, STATE_TAG_MTAB, 0, MEMORY_TABLE_VERSION, true,
		      memory_table_wire(table, w));
	r = snapfile_close(out);
	return r < 0 ? err_set(e, -r, "put the state together: %s", strerror(-r)) : 0;
}

/* --- describe --- */

static void describe_meta(const struct state_meta *m, int out)
{
	char id[SNAPSHOT_ID_TEXT], parent[SNAPSHOT_ID_TEXT];
	time_t seconds = (time_t)(m->created_ns / 1000000000u);
	char when[32] = "?";
	struct tm tm;

	snapshot_id_text(&m->id, id);
	snapshot_id_text(&m->parent, parent);
	if (gmtime_r(&seconds, &tm))
		strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm);
	dprintf(out, "id %s\n", id);
	if (state_is_diff(m))
		dprintf(out, "type Diff\nparent %s\n", parent);
	else
		dprintf(out, "type Full\n");
	dprintf(out, "created %s by spore %s\n", when, m->made_by);
	dprintf(out, "vcpus %u\nmemory %" PRIu64 " bytes, of which %" PRIu64 " are written\n",
		m->vcpus, m->mem_size, m->mem_written * GMEM_PAGE);
}

int state_describe(int state_fd, int out_fd, struct err *e)
{
	struct state_meta meta = {0};
	struct snapfile f;
	struct err unread; /* a META of another version: the sections can be told all the same */
	int r = snapfile_read(&f, state_fd, e);

	if (r < 0)
		return r;
	dprintf(out_fd, "v%u.0.0\n", SNAPFILE_FORMAT);
	if (state_read_meta(&meta, &f, &unread) == 0)
		describe_meta(&meta, out_fd);
	for (unsigned i = 0; i < f.count; i++) {
		const struct snapfile_section *s = &f.section[i];
		const char *name = name_of(s->tag);
		char tag[5];

		tag_text(s->tag, tag);
		dprintf(out_fd, "section '%s' %u version %u%s: %zu bytes (%s)\n", tag, s->instance,
			s->version, s->optional ? ", optional" : "", s->len,
			name ? name : "not known to this spore");
	}
	snapfile_finish(&f);
	return 0;
}
