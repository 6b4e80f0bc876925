/* SPDX-License-Identifier: Apache-2.0 */
#include "snapshot/describe.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "snapshot/file.h"
#include "snapshot/state.h"
#include "vmm/base/fd.h"

static json_t *print_sections(const struct snapfile *f)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < f->count; i++) {
		const struct snapfile_section *s = &f->section[i];
		char tag[5] = "";

		for (unsigned n = 0; n < 4; n++) {
			unsigned char c = (unsigned char)(s->tag >> (8 * n));

			tag[n] = c >= ' ' && c <= '~' ? (char)c : '?';
		}
		json_array_append_new(list, json_pack("{s:s, s:I, s:i, s:b, s:I}", "tag", tag,
						      "instance", (json_int_t)s->instance,
						      "version", (int)s->version, "optional",
						      s->optional, "bytes", (json_int_t)s->len));
	}
	return list;
}

/* A text of the file is whatever somebody wrote there. */
static json_t *print_text(const char *text, size_t size)
{
	char clean[33] = "";

	for (size_t i = 0; i < size && i < sizeof(clean) - 1 && text[i]; i++)
		clean[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
	return json_string(clean);
}

static json_t *print_meta(const struct state_meta *m)
{
	char id[SNAPSHOT_ID_TEXT], parent[SNAPSHOT_ID_TEXT], origin[SNAPSHOT_ID_TEXT];

	snapshot_id_text(&m->id, id);
	snapshot_id_text(&m->parent, parent);
	snapshot_id_text(&m->origin, origin);
	return json_pack("{s:s, s:s, s:s?, s:s?, s:I, s:o, s:I, s:I, s:I}", "id", id, "type",
			 state_is_diff(m) ? "Diff" : "Full", "parent",
			 snapshot_id_none(&m->parent) ? NULL : parent, "origin",
			 snapshot_id_none(&m->origin) ? NULL : origin, "created_ms",
			 (json_int_t)(m->created_ns / 1000000), "made_by",
			 print_text(m->made_by, sizeof(m->made_by)), "vcpus", (json_int_t)m->vcpus,
			 "mem_size_bytes", (json_int_t)m->mem_size, "mem_written_pages",
			 (json_int_t)m->mem_written);
}

int describe_json(int state_fd, int out_fd, struct err *e)
{
	struct state_meta meta = {0};
	struct snapfile f;
	struct err unread; /* a META of another version: the sections can be told all the same */
	cleanup_free char *text = NULL;
	char version[16];
	json_t *root;
	int r = snapfile_read(&f, state_fd, e);

	if (r < 0)
		return r;
	snprintf(version, sizeof(version), "v%u.0.0", SNAPFILE_FORMAT);
	root = json_pack("{s:s, s:o, s:o}", "version", version, "snapshot",
			 state_read_meta(&meta, &f, &unread) == 0 ? print_meta(&meta) : json_null(),
			 "sections", print_sections(&f));
	snapfile_finish(&f);
	text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
	json_decref(root);
	if (!text)
		return err_set(e, ENOMEM, "out of memory");
	r = fd_write_full(out_fd, text, strlen(text));
	if (r == 0)
		r = fd_write_full(out_fd, "\n", 1);
	return r < 0 ? err_set(e, -r, "write: %s", strerror(-r)) : 0;
}
