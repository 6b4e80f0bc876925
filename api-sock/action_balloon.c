/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "api-sock/action.h"
#include "api-sock/schema.h"
#include "vmm/vm_balloon.h"

#define PAGES_PER_MIB 256u

static int read_body(const struct body *schema, struct api_call *call, void *out, struct err *e)
{
	int r = call->body ? body_read(schema, call->body, false, out, e) : 0;

	call->bad_body = r < 0;
	return r;
}

static int wrap(int r, struct err *e)
{
	return r < 0 ? err_wrap(e, "Balloon error") : 0;
}

int action_get_balloon(struct api *api, struct api_call *call, struct err *e)
{
	const struct balloon_config *b = &api->vm->config.balloon;

	if (!b->configured)
		return err_set(e, EINVAL, "Balloon error: No balloon device found.");
	call->reply = body_print(&schema_balloon, b);
	return 0;
}

int action_put_balloon(struct api *api, struct api_call *call, struct err *e)
{
	struct balloon_config piece = {0};
	int r = read_body(&schema_balloon, call, &piece, e);

	return r < 0 ? r : wrap(config_set_balloon(&api->vm->config, &piece, e), e);
}

int action_patch_balloon(struct api *api, struct api_call *call, struct err *e)
{
	struct balloon_update req = {0};
	int r = read_body(&schema_balloon_update, call, &req, e);

	return r < 0 ? r : wrap(vm_balloon_set(api->vm, req.amount_mib, e), e);
}

int action_get_balloon_stats(struct api *api, struct api_call *call, struct err *e)
{
	const struct body *b = &schema_balloon_stats;
	struct balloon_stats reply = {0};
	struct balloon_state s;
	int r = vm_balloon_get(api->vm, &s, e);

	if (r == 0 && !s.stats_interval_s)
		r = err_set(e, EINVAL, "statistics are off");
	if (r < 0)
		return wrap(r, e);
	reply.target_pages = s.target_pages;
	reply.actual_pages = s.actual_pages;
	reply.target_mib = s.target_pages / PAGES_PER_MIB;
	reply.actual_mib = s.actual_pages / PAGES_PER_MIB;
	for (unsigned i = 0; i < BALLOON_STATS; i++)
		reply.stat[i] = s.stats[i] & INT64_MAX;
	call->reply = body_print(b, &reply);
	/* What the guest has not told is absent; the last fields of the table are by tag. */
	for (unsigned i = 0; call->reply && i < BALLOON_STATS; i++)
		if (!(s.stats_known & 1u << i))
			json_object_del(call->reply, b->field[b->count - BALLOON_STATS + i].name);
	return 0;
}

int action_patch_balloon_stats(struct api *api, struct api_call *call, struct err *e)
{
	struct balloon_stats_update req = {0};
	int r = read_body(&schema_balloon_stats_update, call, &req, e);

	return r < 0 ? r
		     : wrap(vm_balloon_set_interval(api->vm, req.stats_polling_interval_s, e), e);
}

int action_start_hinting(struct api *api, struct api_call *call, struct err *e)
{
	struct balloon_start req = {.acknowledge_on_stop = true};
	int r = read_body(&schema_balloon_start, call, &req, e);

	return r < 0 ? r : wrap(vm_balloon_hint(api->vm, true, req.acknowledge_on_stop, e), e);
}

int action_stop_hinting(struct api *api, struct api_call *call, struct err *e)
{
	(void)call;
	return wrap(vm_balloon_hint(api->vm, false, false, e), e);
}

int action_get_hinting(struct api *api, struct api_call *call, struct err *e)
{
	struct balloon_state s;
	int r = vm_balloon_get(api->vm, &s, e);

	if (r == 0 && !api->vm->config.balloon.free_page_hinting)
		r = err_set(e, EINVAL, "free_page_hinting is off");
	if (r < 0)
		return wrap(r, e);
	call->reply = body_print(&schema_balloon_hinting,
				 &(struct balloon_hinting){s.hint_host, s.hint_guest});
	return 0;
}
