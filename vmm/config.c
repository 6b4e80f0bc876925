/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/base/fd.h"
#include "vmm/drive.h"

void machine_config_init(struct machine_config *m)
{
	*m = (struct machine_config){.vcpu_count = 1, .mem_size_mib = 128};
}

void boot_source_init(struct boot_source *b)
{
	*b = (struct boot_source){.kernel_fd = -1, .initrd_fd = -1};
}

void boot_source_finish(struct boot_source *b)
{
	free(b->kernel_image_path);
	free(b->initrd_path);
	free(b->boot_args);
	fd_close(&b->kernel_fd);
	fd_close(&b->initrd_fd);
	boot_source_init(b);
}

void drive_init(struct drive *d)
{
	*d = (struct drive){.fd = -1, .overlay_fd = -1};
}

void drive_finish(struct drive *d)
{
	free(d->path_on_host);
	free(d->partuuid);
	free(d->overlay);
	fd_close(&d->fd);
	fd_close(&d->overlay_fd);
	drive_init(d);
}

void serial_config_init(struct serial_config *s)
{
	*s = (struct serial_config){.fd = -1};
}

void serial_config_finish(struct serial_config *s)
{
	free(s->serial_out_path);
	fd_close(&s->fd);
	serial_config_init(s);
}

void vsock_config_init(struct vsock_config *v)
{
	*v = (struct vsock_config){.listener.fd = -1};
}

void vsock_config_finish(struct vsock_config *v)
{
	vsock_listener_close(&v->listener, v->uds_path);
	free(v->uds_path);
	free(v->vsock_id);
	vsock_config_init(v);
}

void logger_config_init(struct logger_config *l)
{
	*l = (struct logger_config){.level = LOG_INFO};
}

void logger_config_finish(struct logger_config *l)
{
	free(l->log_path);
	free(l->module);
	logger_config_init(l);
}

void metrics_config_init(struct metrics_config *m)
{
	*m = (struct metrics_config){.fd = -1};
}

void metrics_config_finish(struct metrics_config *m)
{
	free(m->metrics_path);
	free(m->properties);
	fd_close(&m->fd);
	metrics_config_init(m);
}

void config_init(struct config *c)
{
	*c = (struct config){0};
	machine_config_init(&c->machine);
	boot_source_init(&c->boot);
	mmds_config_init(&c->mmds);
	serial_config_init(&c->serial);
	vsock_config_init(&c->vsock);
	logger_config_init(&c->logger);
	metrics_config_init(&c->metrics);
}

void config_finish(struct config *c)
{
	boot_source_finish(&c->boot);
	for (unsigned i = 0; i < c->drive_count; i++)
		drive_finish(&c->drive[i]);
	for (unsigned i = 0; i < c->net_count; i++)
		net_interface_finish(&c->net[i]);
	for (unsigned i = 0; i < c->pmem_count; i++)
		pmem_config_finish(&c->pmem[i]);
	mmds_config_finish(&c->mmds);
	serial_config_finish(&c->serial);
	vsock_config_finish(&c->vsock);
	logger_config_finish(&c->logger);
	metrics_config_finish(&c->metrics);
	free(c->cpu);
	config_init(c);
}

int config_set_machine(struct config *c, const struct machine_config *piece, struct err *e)
{
	unsigned n = piece->vcpu_count;

	if (n < 1 || n > LAYOUT_VCPU_MAX)
		return err_set(e, EINVAL, "vcpu_count: %u is not within 1..%u", n, LAYOUT_VCPU_MAX);
	if (piece->smt && n != 1 && n % 2 != 0)
		return err_set(e, EINVAL, "vcpu_count: %u is neither 1 nor even, as smt needs", n);
	if (piece->mem_size_mib < 1 || piece->mem_size_mib > CONFIG_MEM_MIB_MAX)
		return err_set(e, EINVAL, "mem_size_mib: %llu is not within 1..%llu",
			       (unsigned long long)piece->mem_size_mib,
			       (unsigned long long)CONFIG_MEM_MIB_MAX);
	if (piece->huge_pages != HUGE_PAGES_NONE && piece->mem_size_mib % 2 != 0)
		return err_set(e, EINVAL, "mem_size_mib: %llu is odd, huge_pages needs whole 2 MiB",
			       (unsigned long long)piece->mem_size_mib);
	c->machine = *piece;
	return 0;
}

/* What goes onto the kernel command line: one line of printable ASCII that has room there. */
static int check_boot_args(const char *args, struct err *e)
{
	size_t len = args ? strlen(args) : 0;

	if (len >= LAYOUT_CMDLINE_MAX)
		return err_set(e, EINVAL, "boot_args: %zu characters, at most %u fit", len,
			       LAYOUT_CMDLINE_MAX - 1);
	for (size_t i = 0; i < len; i++)
		if (args[i] < ' ' || args[i] > '~')
			return err_set(e, EINVAL, "boot_args: character %zu is not printable ASCII",
				       i + 1);
	return 0;
}

static int open_image(const char *field, const char *path, int *fd, struct err *e)
{
	int r = fd_open_file(path, O_RDONLY, false, e);

	if (r < 0)
		return err_wrap(e, "%s", field);
	fd_close(fd);
	*fd = r;
	return 0;
}

int config_set_boot_source(struct config *c, struct boot_source *piece, struct err *e)
{
	int r;

	if (!piece->kernel_image_path)
		return err_set(e, EINVAL, "kernel_image_path: missing");
	r = check_boot_args(piece->boot_args, e);
	if (r < 0)
		return r;
	r = open_image("kernel_image_path", piece->kernel_image_path, &piece->kernel_fd, e);
	if (r < 0)
		return r;
	if (boot_probe(piece->kernel_fd, &piece->plan, e) < 0)
		return err_wrap(e, "kernel_image_path: '%s'", piece->kernel_image_path);
	if (piece->initrd_path) {
		r = open_image("initrd_path", piece->initrd_path, &piece->initrd_fd, e);
		if (r < 0)
			return r;
	}
	boot_source_finish(&c->boot);
	c->boot = *piece;
	boot_source_init(piece);
	return 0;
}

struct drive *config_find_drive(struct config *c, const char *id)
{
	for (unsigned i = 0; i < c->drive_count; i++)
		if (strcmp(c->drive[i].id, id) == 0)
			return &c->drive[i];
	return NULL;
}

static bool is_id_char(char ch)
{
	return (ch >= '0' && ch <= '9') || (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') ||
	       ch == '_';
}

/* The id names the drive in messages and metrics; the PARTUUID goes onto the command line. */
static int check_drive_names(const struct drive *d, struct err *e)
{
	const char *uuid = d->partuuid;

	if (d->id[0] == '\0')
		return err_set(e, EINVAL, "drive_id: must not be empty");
	for (const char *p = d->id; *p; p++)
		if (!is_id_char(*p))
			return err_set(e, EINVAL, "drive_id: only letters, digits and '_'");
	if (uuid && (uuid[0] == '\0' || strlen(uuid) > CONFIG_PARTUUID_MAX))
		return err_set(e, EINVAL, "partuuid: 1..%d characters", CONFIG_PARTUUID_MAX);
	for (const char *p = uuid; p && *p; p++)
		if (!is_id_char(*p) && *p != '-')
			return err_set(e, EINVAL, "partuuid: only letters, digits, '_' and '-'");
	return 0;
}

static int check_drive_fits(const struct config *c, const struct drive *d, const struct drive *old,
			    struct err *e)
{
	if (!old && c->drive_count == CONFIG_DRIVES_MAX)
		return err_set(e, ENOSPC, "drive_id: there are %d drives already",
			       CONFIG_DRIVES_MAX);
	for (unsigned i = 0; d->is_root_device && i < c->drive_count; i++)
		if (c->drive[i].is_root_device && &c->drive[i] != old)
			return err_set(e, EINVAL, "is_root_device: drive '%s' is the root device",
				       c->drive[i].id);
	if (d->is_root_device && c->pmem_count && c->pmem[0].root_device)
		return err_set(e, EINVAL, "is_root_device: pmem '%s' is the root device",
			       c->pmem[0].id);
	return 0;
}

/* Moves drive[i] to the front and keeps the order of the others. */
static void move_first(struct config *c, unsigned i)
{
	struct drive d = c->drive[i];

	memmove(&c->drive[1], &c->drive[0], i * sizeof(d));
	c->drive[0] = d;
}

int config_set_drive(struct config *c, struct drive *piece, struct err *e)
{
	struct drive *old = config_find_drive(c, piece->id);
	unsigned at = old ? (unsigned)(old - c->drive) : c->drive_count;
	int r = check_drive_names(piece, e);

	if (r == 0)
		r = check_drive_fits(c, piece, old, e);
	if (r < 0)
		return r;
	r = drive_open(piece, c, e);
	if (r < 0)
		return r;
	if (old)
		drive_finish(old);
	else
		c->drive_count++;
	c->drive[at] = *piece;
	drive_init(piece);
	drive_lock_again(&c->drive[at]);
	if (c->drive[at].is_root_device)
		move_first(c, at);
	return 0;
}

/* A file or FIFO that lines are written to. */
static int open_sink(const char *field, const char *path, int *fd, struct err *e)
{
	int r = fd_open_sink(path, e);

	if (r < 0)
		return err_wrap(e, "%s", field);
	fd_close(fd);
	*fd = r;
	return 0;
}

int config_set_serial(struct config *c, struct serial_config *piece, struct err *e)
{
	if (piece->serial_out_path) {
		int r = open_sink("serial_out_path", piece->serial_out_path, &piece->fd, e);

		if (r < 0)
			return r;
	}
	serial_config_finish(&c->serial);
	c->serial = *piece;
	serial_config_init(piece);
	return 0;
}

int config_set_balloon(struct config *c, const struct balloon_config *piece, struct err *e)
{
	if (piece->amount_mib > c->machine.mem_size_mib)
		return err_set(e, EINVAL, "amount_mib: %u is more than mem_size_mib, %llu",
			       piece->amount_mib, (unsigned long long)c->machine.mem_size_mib);
	c->balloon = *piece;
	c->balloon.configured = true;
	return 0;
}

int config_set_vsock(struct config *c, struct vsock_config *piece, struct err *e)
{
	struct vsock_config *old = &c->vsock;
	int r = 0;

	if (piece->guest_cid < VSOCK_CID_MIN || piece->guest_cid > VSOCK_CID_MAX)
		return err_set(e, EINVAL, "guest_cid: %u is not within %u..%u", piece->guest_cid,
			       VSOCK_CID_MIN, VSOCK_CID_MAX);
	if (!piece->uds_path)
		return err_set(e, EINVAL, "uds_path: missing");
	if (old->uds_path && strcmp(old->uds_path, piece->uds_path) == 0)
		piece->listener = TAKE_AS(old->listener, (struct vsock_listener){.fd = -1});
	else
		r = vsock_listener_open(&piece->listener, piece->uds_path, e);
	if (r < 0)
		return err_wrap(e, "uds_path");
	vsock_config_finish(old);
	c->vsock = *piece;
	vsock_config_init(piece);
	return 0;
}

int config_set_logger(struct config *c, struct logger_config *piece, struct err *e)
{
	struct logger_config *l = &c->logger;

	if (piece->log_path) {
		if (log_open(piece->log_path, e) < 0)
			return err_wrap(e, "log_path");
		free(l->log_path);
		l->log_path = TAKE(piece->log_path);
	}
	if (piece->module) {
		free(l->module);
		l->module = TAKE(piece->module);
		log_set_module(l->module);
	}
	l->configured = true;
	l->level = piece->level;
	l->show_level = piece->show_level;
	l->show_log_origin = piece->show_log_origin;
	log_set_level(l->level);
	log_set_show(l->show_level, l->show_log_origin);
	logger_config_finish(piece);
	return 0;
}

int config_set_metrics(struct config *c, struct metrics_config *piece, struct err *e)
{
	int r;

	if (c->metrics.metrics_path)
		return err_set(e, EEXIST, "metrics_path: set already, to '%s'",
			       c->metrics.metrics_path);
	if (!piece->metrics_path)
		return err_set(e, EINVAL, "metrics_path: missing");
	r = open_sink("metrics_path", piece->metrics_path, &piece->fd, e);
	if (r < 0)
		return r;
	c->metrics = *piece;
	metrics_config_init(piece);
	return 0;
}
