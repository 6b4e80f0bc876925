/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/agentio.h"
#include "ctl/verbs.h"

int verb_identity(struct ctl *c, int argc, char **argv)
{
	struct args {
		const char *host;
		uint64_t wait;
	} args = {.wait = AGENTIO_WAIT};
	static const struct ctl_option options[] = {
		{"hostname", 0, CTL_TEXT, offsetof(struct args, host), "NAME",
		 "the guest's host name from now on"},
		{"wait", 0, CTL_NUMBER, offsetof(struct args, wait), "SECONDS",
		 "how long the guest may take until its agent answers [10]"},
		{0},
	};
	static const struct ctl_usage usage = {
		.arguments = "NAME",
		.options = options,
		.examples = "sporectl identity clone7 --hostname clone7\n",
		.min = 1,
		.max = 1,
	};
	struct err e;

	if (!ctl_parse(c, &usage, &argc, &argv, &args))
		return c->exit_code;
	return agentio_identify(c, argv[0], args.host, args.wait, &e) < 0 ? ctl_fail(c, &e) : 0;
}
