/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "api-sock/action.h"
#include "api-sock/schema.h"

static int read_body(const struct body *schema, struct api_call *call, void *out, struct err *e)
{
	int r = body_read(schema, call->body, false, out, e);

	call->bad_body = r < 0;
	return r;
}

static int wrap(int r, struct err *e)
{
	return r < 0 ? err_wrap(e, "Memory hotplug error") : 0;
}

int action_put_hotplug(struct api *api, struct api_call *call, struct err *e)
{
	struct hotplug_config piece;
	int r;

	hotplug_config_init(&piece);
	r = read_body(&schema_hotplug, call, &piece, e);
	return r < 0 ? r : wrap(config_set_hotplug(&api->vm->config, &piece, e), e);
}

int action_patch_hotplug(struct api *api, struct api_call *call, struct err *e)
{
	struct hotplug_update req = {0};
	int r = read_body(&schema_hotplug_update, call, &req, e);

	return r < 0 ? r : wrap(vm_hotplug_set(api->vm, req.requested_size_mib, e), e);
}

int action_get_hotplug(struct api *api, struct api_call *call, struct err *e)
{
	struct hotplug_status s;
	int r = vm_hotplug_get(api->vm, &s, e);

	if (r < 0)
		return wrap(r, e);
	call->reply = body_print(&schema_hotplug_status, &s);
	return 0;
}
