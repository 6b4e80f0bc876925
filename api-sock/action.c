/* SPDX-License-Identifier: Apache-2.0 */
#include "api-sock/action.h"

#include <errno.h>
#include <string.h>

#include "api-sock/cpuconfig.h"
#include "api-sock/schema.h"
#include "snapshot/migrate.h"

/* Reads the body, and remembers for the answer that it was the body that failed. */
static int read_body(const struct body *schema, struct api_call *call, bool partial, void *out,
		     struct err *e)
{
	int r = body_read(schema, call->body, partial, out, e);

	call->bad_body = r < 0;
	return r;
}

int action_check_phase(const struct api *api, enum api_phases allowed, struct err *e)
{
	if (allowed & (1u << api->vm->phase))
		return 0;
	return err_set(e, EINVAL, "The requested operation is not supported %s the microVM.",
		       allowed == PHASE_BEFORE ? "after starting" : "before starting");
}

int action_get_instance(struct api *api, struct api_call *call, struct err *e)
{
	static const char *const state[] = {
		[VM_NOT_STARTED] = "Not started",
		[VM_RUNNING] = "Running",
		[VM_PAUSED] = "Paused",
	};
	/* Clients written for Firecracker look at the name. */
	struct instance_info info = {
		.app_name = "Firecracker",
		.id = api->vm->id,
		.state = state[api->vm->phase],
		.vmm_version = SPORE_VERSION,
	};

	(void)e;
	call->reply = body_print(&schema_instance_info, &info);
	return 0;
}

int action_get_events(struct api *api, struct api_call *call, struct err *e)
{
	if (!api->events.read)
		return err_set(e, ENOTSUP, "There are no events.");
	call->stream = &api->events;
	call->type = "application/x-ndjson";
	return 0;
}

int action_get_metrics(struct api *api, struct api_call *call, struct err *e)
{
	(void)e;
	call->text = metrics_prometheus(api->metrics);
	call->type = "text/plain; version=0.0.4";
	return 0;
}

int action_get_version(struct api *api, struct api_call *call, struct err *e)
{
	struct version_info info = {.firecracker_version = FIRECRACKER_API_VERSION};

	(void)api;
	(void)e;
	call->reply = body_print(&schema_version, &info);
	return 0;
}

int action_get_machine(struct api *api, struct api_call *call, struct err *e)
{
	(void)e;
	call->reply = body_print(&schema_machine, &api->vm->config.machine);
	return 0;
}

static int set_machine(struct api *api, struct api_call *call, struct machine_config *piece,
		       bool partial, struct err *e)
{
	int r = read_body(&schema_machine, call, partial, piece, e);

	if (r < 0)
		return r;
	if (json_object_get(call->body, "cpu_template")) {
		call->deprecated = true;
		metric_inc(&api->metrics->deprecated);
	}
	r = config_set_machine(&api->vm->config, piece, e);
	return r < 0 ? err_wrap(e, "Machine config error") : 0;
}

int action_put_machine(struct api *api, struct api_call *call, struct err *e)
{
	struct machine_config piece;

	machine_config_init(&piece);
	return set_machine(api, call, &piece, false, e);
}

int action_patch_machine(struct api *api, struct api_call *call, struct err *e)
{
	struct machine_config piece = api->vm->config.machine;

	if (json_is_object(call->body) && json_object_size(call->body) == 0)
		return err_set(e, EINVAL, "Empty PATCH request.");
	return set_machine(api, call, &piece, true, e);
}

int action_put_cpu_config(struct api *api, struct api_call *call, struct err *e)
{
	cleanup_free struct cpu_template *piece = calloc(1, sizeof(*piece));
	int r = read_body(&schema_cpu_config, call, false, NULL, e);

	if (r < 0)
		return r;
	if (!piece)
		return err_set(e, ENOMEM, "CPU config error: out of memory");
	if (cpuconfig_read(call->body, piece, e) < 0)
		return err_wrap(e, "CPU config error");
	free(api->vm->config.cpu);
	api->vm->config.cpu = TAKE(piece);
	return 0;
}

int action_put_boot_source(struct api *api, struct api_call *call, struct err *e)
{
	struct boot_source piece;
	int r;

	boot_source_init(&piece);
	r = read_body(&schema_boot_source, call, false, &piece, e);
	if (r == 0 && config_set_boot_source(&api->vm->config, &piece, e) < 0)
		r = err_wrap(e, "Boot source error");
	boot_source_finish(&piece);
	return r;
}

static int check_path_id(const struct api_call *call, const char *id, struct err *e)
{
	if (!call->id || strcmp(call->id, id) == 0)
		return 0;
	return err_set(e, EINVAL, "The id from the path does not match the id from the body!");
}

/* After the start, PUT of a device is for placeholders only. */
static int check_placeholder(const char *what, const char *id, bool is_one, struct err *e)
{
	if (is_one)
		return 0;
	return err_set(e, EINVAL,
		       "The requested operation is not supported after starting the microVM. There "
		       "is no placeholder %s '%s'.",
		       what, id);
}

static int put_drive(struct api *api, struct api_call *call, struct drive *piece, struct err *e)
{
	int r = read_body(&schema_drive, call, false, piece, e);

	if (r == 0)
		r = check_path_id(call, piece->id, e);
	if (r < 0)
		return r;
	r = api->vm->phase == VM_NOT_STARTED ? config_set_drive(&api->vm->config, piece, e)
					     : drive_fill(api->vm, piece, e);
	return r < 0 ? err_wrap(e, "Drive config error") : 0;
}

int action_put_drive(struct api *api, struct api_call *call, struct err *e)
{
	const struct drive *now = call->id ? config_find_drive(&api->vm->config, call->id) : NULL;
	struct drive piece;
	int r = 0;

	drive_init(&piece);
	if (api->vm->phase != VM_NOT_STARTED) {
		r = check_placeholder("drive", call->id, now && now->placeholder, e);
		/* What the body does not say is as it was declared. */
		if (r == 0)
			drive_slot(now, &piece);
	}
	if (r == 0)
		r = put_drive(api, call, &piece, e);
	drive_finish(&piece);
	return r;
}

int action_delete_drive(struct api *api, struct api_call *call, struct err *e)
{
	struct drive_update u = {.empty = true};

	strcpy(u.id, call->id);
	return drive_update(api->vm, &u, e) < 0 ? err_wrap(e, "Drive config error") : 0;
}

/* The limits that the body does not name stay as they are. */
static void begin_update(const struct api *api, const struct api_call *call, struct drive_update *u)
{
	const struct drive *d = config_find_drive(&api->vm->config, call->id);

	*u = (struct drive_update){0};
	u->set_limiter = json_is_object(json_object_get(call->body, "rate_limiter"));
	/* For any other drive a null is what an absent path is. */
	u->empty = d && d->placeholder && json_is_null(json_object_get(call->body, "path_on_host"));
	if (d)
		u->limiter = d->limiter;
}

int action_patch_drive(struct api *api, struct api_call *call, struct err *e)
{
	struct drive_update u;
	int r;

	begin_update(api, call, &u);
	r = read_body(&schema_drive_update, call, false, &u, e);
	if (r == 0)
		r = check_path_id(call, u.id, e);
	if (r == 0 && drive_update(api->vm, &u, e) < 0)
		r = err_wrap(e, "Drive config error");
	drive_update_finish(&u);
	return r;
}

/* PUT after the start, of placeholder `n`. */
static int fill_net(struct api *api, const struct net_interface *n, struct net_interface *piece,
		    struct err *e)
{
	struct net_update u;
	int r;

	net_update_init(&u, n);
	r = net_interface_fill(n, piece, &u, e);
	if (r == 0)
		r = vm_update_net(api->vm, &u, e);
	net_update_finish(&u);
	return r;
}

int action_put_net(struct api *api, struct api_call *call, struct err *e)
{
	const struct net_interface *now =
		call->id ? config_find_net(&api->vm->config, call->id) : NULL;
	bool running = api->vm->phase != VM_NOT_STARTED;
	struct net_interface piece;
	int r = 0;

	net_interface_init(&piece);
	if (running)
		r = check_placeholder("network interface", call->id, now && now->placeholder, e);
	/* What the body does not say is as it was declared. */
	if (r == 0 && running)
		net_interface_slot(now, &piece);
	if (r == 0)
		r = read_body(&schema_net, call, false, &piece, e);
	if (r == 0)
		r = check_path_id(call, piece.id, e);
	if (r == 0 && (running ? fill_net(api, now, &piece, e)
			       : config_set_net(&api->vm->config, &piece, e)) < 0)
		r = err_wrap(e, "Network config error");
	net_interface_finish(&piece);
	return r;
}

int action_delete_net(struct api *api, struct api_call *call, struct err *e)
{
	struct net_update u;
	int r;

	net_update_init(&u, config_find_net(&api->vm->config, call->id));
	strcpy(u.id, call->id);
	u.empty = true;
	r = vm_update_net(api->vm, &u, e);
	net_update_finish(&u);
	return r < 0 ? err_wrap(e, "Network config error") : 0;
}

int action_patch_net(struct api *api, struct api_call *call, struct err *e)
{
	struct net_update piece;
	int r;

	/* Limits that the body does not mention stay as they are. */
	net_update_init(&piece, config_find_net(&api->vm->config, call->id));
	piece.empty = json_is_null(json_object_get(call->body, "host_dev_name"));
	r = read_body(&schema_net_update, call, false, &piece, e);
	if (r == 0)
		r = check_path_id(call, piece.id, e);
	if (r == 0 && vm_update_net(api->vm, &piece, e) < 0)
		r = err_wrap(e, "Network config error");
	net_update_finish(&piece);
	return r;
}

int action_put_pmem(struct api *api, struct api_call *call, struct err *e)
{
	struct pmem_config piece;
	int r;

	pmem_config_init(&piece);
	r = read_body(&schema_pmem, call, false, &piece, e);
	if (r == 0)
		r = check_path_id(call, piece.id, e);
	if (r == 0 && config_set_pmem(&api->vm->config, &piece, e) < 0)
		r = err_wrap(e, "Pmem config error");
	pmem_config_finish(&piece);
	return r;
}

int action_patch_pmem(struct api *api, struct api_call *call, struct err *e)
{
	const struct pmem_config *now = config_find_pmem(&api->vm->config, call->id);
	struct pmem_update u = {0};
	int r;

	/* Limits that the body does not mention stay as they are. */
	if (now)
		u.limiter = now->limiter;
	r = read_body(&schema_pmem_update, call, false, &u, e);
	if (r == 0)
		r = check_path_id(call, u.id, e);
	if (r == 0 && pmem_update(api->vm, &u, e) < 0)
		r = err_wrap(e, "Pmem config error");
	return r;
}

int action_put_entropy(struct api *api, struct api_call *call, struct err *e)
{
	struct entropy_request req = {0};
	int r = read_body(&schema_entropy, call, false, &req, e);

	if (r < 0)
		return r;
	api->vm->config.entropy = true;
	api->vm->config.entropy_limit = req.limiter;
	return 0;
}

int action_put_serial(struct api *api, struct api_call *call, struct err *e)
{
	struct serial_config piece;
	int r;

	serial_config_init(&piece);
	r = read_body(&schema_serial, call, false, &piece, e);
	if (r == 0 && config_set_serial(&api->vm->config, &piece, e) < 0)
		r = err_wrap(e, "Serial config error");
	serial_config_finish(&piece);
	return r;
}

int action_put_vsock(struct api *api, struct api_call *call, struct err *e)
{
	struct vsock_config piece;
	int r;

	vsock_config_init(&piece);
	r = read_body(&schema_vsock, call, false, &piece, e);
	call->deprecated = piece.vsock_id != NULL;
	if (r == 0 && config_set_vsock(&api->vm->config, &piece, e) < 0)
		r = err_wrap(e, "Vsock config error");
	vsock_config_finish(&piece);
	return r;
}

int action_put_logger(struct api *api, struct api_call *call, struct err *e)
{
	const struct logger_config *now = &api->vm->config.logger;
	struct logger_config piece = {
		.level = now->level,
		.show_level = now->show_level,
		.show_log_origin = now->show_log_origin,
	};
	int r = read_body(&schema_logger, call, false, &piece, e);

	if (r == 0 && config_set_logger(&api->vm->config, &piece, e) < 0)
		r = err_wrap(e, "Logger error");
	logger_config_finish(&piece);
	return r;
}

int action_put_metrics(struct api *api, struct api_call *call, struct err *e)
{
	struct metrics_config piece;
	int r;

	metrics_config_init(&piece);
	r = read_body(&schema_metrics, call, false, &piece, e);
	if (r == 0 && config_set_metrics(&api->vm->config, &piece, e) < 0)
		r = err_wrap(e, "Metrics error");
	metrics_config_finish(&piece);
	return r;
}

int action_start(struct api *api, struct err *e)
{
	if (vm_start(api->vm, e) < 0)
		return err_wrap(e, "Start microvm error");
	metrics_start(api->metrics);
	return 0;
}

static int send_ctrl_alt_del(struct api *api, struct err *e)
{
	return vm_send_ctrl_alt_del(api->vm, e) < 0 ? err_wrap(e, "SendCtrlAltDel error") : 0;
}

static int flush_metrics(struct api *api, struct err *e)
{
	return metrics_flush(api->metrics, e) < 0 ? err_wrap(e, "Metrics error") : 0;
}

int action_put_action(struct api *api, struct api_call *call, struct err *e)
{
	static const struct {
		int (*run)(struct api *api, struct err *e);
		enum api_phases phases;
	} actions[] = {
		[ACTION_INSTANCE_START] = {action_start, PHASE_BEFORE},
		[ACTION_SEND_CTRL_ALT_DEL] = {send_ctrl_alt_del, PHASE_AFTER},
		[ACTION_FLUSH_METRICS] = {flush_metrics, PHASE_AFTER},
	};
	struct action_request req = {0};
	int r = read_body(&schema_action, call, false, &req, e);

	if (r == 0)
		r = action_check_phase(api, actions[req.action_type].phases, e);
	return r < 0 ? r : actions[req.action_type].run(api, e);
}

int action_patch_vm(struct api *api, struct api_call *call, struct err *e)
{
	uint64_t start = now_ns(), *took;
	struct vm_request req = {0};
	int r = read_body(&schema_vm, call, false, &req, e);

	if (r < 0)
		return r;
	took = req.paused ? &api->metrics->pause_us : &api->metrics->resume_us;
	r = !req.paused && migrate_stopped(&api->snapshots)
		    ? migrate_take_back(api->vm, &api->snapshots, e)
		    : 0;
	if (r == 0)
		r = req.paused ? vm_pause(api->vm, e) : vm_resume(api->vm, e);
	if (r < 0)
		return err_wrap(e, req.paused ? "Pause error" : "Resume error");
	*took = (now_ns() - start) / 1000;
	return 0;
}
