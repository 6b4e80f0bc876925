/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "ctl/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/cache.h"
#include "ctl/image.h"
#include "vmm/base/fd.h"

/* --- the ELF in a bzImage: Documentation/arch/x86/boot.rst --- */

#define SETUP_SECTS    0x1f1
#define MAGIC	       0x202
#define PAYLOAD_OFFSET 0x248
#define PAYLOAD_LENGTH 0x24c
#define HEADER	       0x250

struct payload {
	uint64_t at, length;
	const char *program, *package;
};

static uint32_t number(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static int find_payload(int fd, const char *name, struct payload *p, struct err *e)
{
	static const struct {
		const char *magic, *program, *package;
		uint8_t len, tail; /* the size behind the payload that is not the compressor's */
	} kinds[] = {
		{"\x1f\x8b", "gzip", "gzip", 2, 0},
		{"\xfd\x37zXZ", "xz", "xz-utils", 5, 4},
		{"\x28\xb5\x2f\xfd", "zstd", "zstd", 4, 4},
		{"\x02\x21\x4c\x18", "lz4", "lz4", 4, 4},
	};
	uint8_t h[HEADER], magic[8];
	int64_t size = fd_size(fd);

	if (fd_pread_full(fd, h, sizeof(h), 0) < 0 || memcmp(h + MAGIC, "HdrS", 4) != 0)
		return err_set(e, EINVAL, "'%s' is no bzImage", name);
	p->at = (h[SETUP_SECTS] ? h[SETUP_SECTS] + 1u : 5u) * 512u +
		(uint64_t)number(h + PAYLOAD_OFFSET);
	p->length = number(h + PAYLOAD_LENGTH);
	if (p->length < sizeof(magic) || !range_within(p->at, p->length, (uint64_t)size) ||
	    fd_pread_full(fd, magic, sizeof(magic), p->at) < 0)
		return err_set(e, EINVAL, "'%s' ends before its kernel does", name);
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (memcmp(magic, kinds[i].magic, kinds[i].len) != 0)
			continue;
		p->length -= kinds[i].tail;
		p->program = kinds[i].program;
		p->package = kinds[i].package;
		return 0;
	}
	return err_set(e, EINVAL, "'%s' is compressed in a way that is not known here", name);
}

static int copy_range(int from, uint64_t at, uint64_t length, int to)
{
	static char buf[65536];

	for (uint64_t done = 0; done < length;) {
		uint64_t n = MIN((uint64_t)sizeof(buf), length - done);
		int r = fd_pread_full(from, buf, n, at + done);

		if (r == 0)
			r = fd_write_full(to, buf, n);
		if (r < 0)
			return r;
		done += n;
	}
	return lseek(to, 0, SEEK_SET) == 0 ? 0 : -errno;
}

int kernel_unpack(struct ctl *c, const char *from, const char *to, struct err *e)
{
	cleanup_fd int in = open(from, O_RDONLY | O_CLOEXEC), out = -1, part = -1;
	struct payload p = {0};
	struct tool t = {
		.title = "unpacking the kernel", .done = tool_blocks, .arg = (char *)(uintptr_t)to};
	char magic[4];
	int r = in < 0 ? err_sys(e, "open '%s'", from) : find_payload(in, from, &p, e);

	if (r < 0)
		return r;
	part = memfd_create("payload", MFD_CLOEXEC);
	out = open(to, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (part < 0 || out < 0)
		return err_sys(e, "create '%s'", to);
	r = copy_range(in, p.at, p.length, part);
	if (r < 0)
		return err_set(e, -r, "read '%s': %s", from, strerror(-r));
	t.package = p.package;
	t.in = part;
	t.out = out;
	r = tool_run(c, &t, (const char *[]){p.program, "-dc", NULL}, e);
	if (r == 0 && (fd_pread_full(out, magic, 4, 0) < 0 || memcmp(magic,
								     "\x7f"
								     "ELF",
								     4) != 0))
		r = err_set(e, EINVAL, "what is in '%s' is no ELF file", from);
	return r;
}

/* --- the initial RAM disk --- */

/* What a microVM's devices and its root file system need; those that a kernel has built in cost nothing. */
static const char *const modules[] = {
	"virtio_mmio",	  "virtio_blk", "virtio_net", "vmw_vsock_virtio_transport",
	"virtio-rng",	  "ext4",	"squashfs",   "erofs",
	"virtio_balloon", "atkbd",	"i8042",      "virtio_console",
};

/* Lines "insmod PATH": into /modules, in this order, each once. */
static int add_module(struct ctl *c, char *lines, const char *tree, FILE *order, struct err *e)
{
	char to[PATH_MAX], *rest = lines, *line;
	int r = 0;

	while (r == 0 && (line = strsep(&rest, "\n"))) {
		struct tool t = {.package = "xz-utils"};
		char *path = strncmp(line, "insmod ", 7) == 0 ? line + 7 : NULL, *name, *dot;
		const char *copy[] = {"cp", path, to, NULL};
		const char *unpack[] = {"xz", "-dc", path, NULL};

		if (!path)
			continue;
		path[strcspn(path, " ")] = '\0';
		name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
		dot = strstr(name, ".ko");
		if (snprintf(to, sizeof(to), "%s/modules/%.*s.ko", tree,
			     dot ? (int)(dot - name) : 0, name) >= (int)sizeof(to) ||
		    access(to, F_OK) == 0)
			continue;
		if (dot && strcmp(dot, ".ko") == 0) {
			r = tool_run(c, &t, copy, e);
		} else {
			cleanup_fd int out = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

			t.out = out;
			r = out < 0 ? err_sys(e, "create '%s'", to) : tool_run(c, &t, unpack, e);
		}
		fprintf(order, "%.*s.ko\n", dot ? (int)(dot - name) : 0, name);
	}
	return r;
}

static int add_modules(struct ctl *c, const char *root, const char *version, const char *tree,
		       struct err *e)
{
	char lines[16384], path[PATH_MAX];
	struct tool depend = {.package = "kmod"};
	struct tool show = {.package = "kmod", .output = lines, .size = sizeof(lines)};
	int r = tool_run(c, &depend, (const char *[]){"depmod", "-b", root, version, NULL}, e);
	struct err none;
	FILE *order;

	if (r < 0)
		return r;
	cache_print(path, "%s/modules/order", tree);
	order = fopen(path, "we");
	if (!order)
		return err_sys(e, "create '%s'", path);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(modules); i++) {
		const char *argv[] = {"modprobe",	"-d",	    root, "-S", version,
				      "--show-depends", modules[i], NULL};

		/* A kernel may not have it at all. */
		r = tool_run(c, &show, argv, &none);
		r = r == -EINTR ? err_set(e, EINTR, "interrupted")
		    : r == 0	? add_module(c, lines, tree, order, e)
				: 0;
	}
	c->hint[0] = '\0';
	if (fclose(order) != 0 && r == 0)
		r = err_sys(e, "write '%s'", path);
	return r;
}

int kernel_initrd(struct ctl *c, const char *root, const char *version, const char *work,
		  const char *to, struct err *e)
{
	static const char script[] =
		"cd \"$0\" && mkdir -p dev proc sys root run tmp && find . | sort | "
		"cpio -o -H newc --quiet -R 0:0 >\"$1\"";
	char agent[PATH_MAX], tree[PATH_MAX], init[PATH_MAX], list[PATH_MAX];
	struct tool copy = {0}, pack = {.package = "cpio", .title = "packing modules"};
	int r = image_find_agent(c, agent, e);

	if (r < 0)
		return r;
	cache_print(tree, "%s/initrd", work);
	cache_print(init, "%s/init", tree);
	cache_print(list, "%s/modules", tree);
	if (mkdir(tree, 0755) < 0 || mkdir(list, 0755) < 0)
		return err_sys(e, "mkdir '%s'", tree);
	r = tool_run(c, &copy, (const char *[]){"cp", agent, init, NULL}, e);
	if (r == 0)
		r = add_modules(c, root, version, tree, e);
	if (r == 0)
		r = tool_run(c, &pack, (const char *[]){"sh", "-c", script, tree, to, NULL}, e);
	return r;
}
