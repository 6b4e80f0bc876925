/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "api-sock/action.h"
#include "api-sock/schema.h"

/* A running guest that has no way to the service will never have one. */
static int check_reachable(const struct api *api, struct err *e)
{
	if (api->vm->phase == VM_NOT_STARTED || mmds_configured(&api->vm->config.mmds))
		return 0;
	return err_set(e, EINVAL,
		       "The MMDS data store is not initialized: no network interface was "
		       "configured for it before the start.");
}

int action_get_mmds(struct api *api, struct api_call *call, struct err *e)
{
	int r = check_reachable(api, e);

	if (r == 0)
		call->reply = mmds_get(&api->vm->mmds);
	return r;
}

int action_put_mmds(struct api *api, struct api_call *call, struct err *e)
{
	int r = check_reachable(api, e);

	if (r == 0)
		r = mmds_put(&api->vm->mmds, (json_t *)call->body, e);
	call->too_large = r == -EFBIG;
	return r;
}

int action_patch_mmds(struct api *api, struct api_call *call, struct err *e)
{
	int r = check_reachable(api, e);

	if (r == 0)
		r = mmds_patch(&api->vm->mmds, call->body, e);
	call->too_large = r == -EFBIG;
	return r;
}

int action_put_mmds_config(struct api *api, struct api_call *call, struct err *e)
{
	struct mmds_config piece;
	int r;

	mmds_config_init(&piece);
	r = body_read(&schema_mmds_config, call->body, false, &piece, e);
	call->bad_body = r < 0;
	if (r == 0 && !piece.v2) {
		call->deprecated = true;
		metric_inc(&api->metrics->deprecated);
	}
	if (r == 0 && config_set_mmds(&api->vm->config, &piece, e) < 0)
		r = err_wrap(e, "MMDS config error");
	mmds_config_finish(&piece);
	return r;
}
