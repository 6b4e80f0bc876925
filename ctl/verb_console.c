/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "ctl/console.h"
#include "ctl/verbs.h"

int verb_console(struct ctl *c, int argc, char **argv)
{
	static const struct ctl_usage usage = {
		.arguments = "NAME",
		.min = 1,
		.max = 1,
		.examples = "sporectl console web\n"
			    "# Ctrl-] detaches; keys from a program:\n"
			    "printf 'poweroff -f\\n' | sporectl console web\n",
	};
	struct console_end end;
	struct vms_vm vm;
	struct err e;

	if (!ctl_parse(c, &usage, &argc, &argv, NULL))
		return c->exit_code;
	if (vms_find_alive(c, argv[0], &vm, &e) < 0 || console_attach(c, &vm, -1, &end, &e) < 0)
		return ctl_fail(c, &e);
	if (end.how == CONSOLE_DETACHED)
		ctl_note(c, "\n%s goes on", vm.name);
	else
		ctl_note(c, "\n%s has ended with status %d", vm.name, end.status);
	return end.status;
}
