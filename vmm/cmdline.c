/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cmdline.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct text {
	char *buf;
	size_t len; /* may exceed the room: what would have been written */
};

static void put(struct text *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void put(struct text *t, const char *fmt, ...)
{
	size_t at = MIN(t->len, (size_t)LAYOUT_CMDLINE_MAX);
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->buf + at, LAYOUT_CMDLINE_MAX - at, fmt, ap);
	va_end(ap);
	t->len += n > 0 ? (size_t)n : 0;
}

/* The token "--", found as the kernel does: quotes may hide blanks. NULL: there is none. */
static const char *find_init(const char *args)
{
	const char *token = args;
	bool quoted = false;

	for (const char *p = args;; p++) {
		quoted ^= *p == '"';
		if (*p && (quoted || !isspace((unsigned char)*p)))
			continue;
		if (p - token == 2 && strncmp(token, "--", 2) == 0)
			return token;
		if (!*p)
			return NULL;
		token = p + 1;
	}
}

static void put_root(struct text *t, const struct config *c)
{
	const struct drive *d = &c->drive[0];

	/* rootflags=dax is the user's to say: not every file system knows it. */
	if (c->pmem_count && c->pmem[0].root_device)
		put(t, " root=/dev/pmem0 %s", c->pmem[0].read_only ? "ro" : "rw");
	if (c->drive_count == 0 || !d->is_root_device)
		return;
	if (d->partuuid)
		put(t, " root=PARTUUID=%s", d->partuuid);
	else
		put(t, " root=/dev/vda"); /* the root device is in the first window */
	put(t, " %s", d->is_read_only ? "ro" : "rw");
}

int cmdline_build(const struct config *c, unsigned virtio_count, char buf[LAYOUT_CMDLINE_MAX],
		  struct err *e)
{
	const char *args = c->boot.boot_args ? c->boot.boot_args : BOOT_ARGS_DEFAULT;
	const char *init = find_init(args), *end = init ? init : args + strlen(args);
	struct text t = {.buf = buf};

	while (init && end > args && isspace((unsigned char)end[-1]))
		end--;
	put(&t, "%.*s", (int)(end - args), args);
	put_root(&t, c);
	for (unsigned i = 0; i < virtio_count; i++) {
		struct layout_virtio w = layout_virtio_slot(i);

		put(&t, " virtio_mmio.device=4K@0x%llx:%u", (unsigned long long)w.base, w.gsi);
	}
	if (init)
		put(&t, " %s", init);
	if (t.len >= LAYOUT_CMDLINE_MAX)
		return err_set(e, E2BIG,
			       "kernel command line of %zu bytes (boot_args and what the devices "
			       "need) is longer than %u",
			       t.len, LAYOUT_CMDLINE_MAX - 1);
	return 0;
}
