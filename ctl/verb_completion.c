/* SPDX-License-Identifier: Apache-2.0 */
/*
 * completion: what bash and zsh need to complete sporectl's words. The script asks sporectl itself for its
 * verbs, their options and the names of microVMs, so that it cannot be out of date.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "ctl/verbs.h"

static const char script[] =
	"_sporectl() {\n"
	"	local ctl=${COMP_WORDS[0]} word=${COMP_WORDS[COMP_CWORD]} verb= i words\n"
	"	for ((i = 1; i < COMP_CWORD; i++)); do\n"
	"		[[ ${COMP_WORDS[i]} == -* ]] || { verb=${COMP_WORDS[i]}; break; }\n"
	"	done\n"
	"	if [[ -z $verb && $word != -* ]]; then\n"
	"		words=$($ctl --help 2>/dev/null | sed -n '/^verbs:/,/^$/s/^  \\([a-z]*\\) "
	".*/\\1/p')\n"
	"	elif [[ $word == -* ]]; then\n"
	"		words=$($ctl $verb --help 2>/dev/null | sed -nE 's/^ {2,6}(-., "
	")?(--[a-z-]+).*/\\2/p')\n"
	"	else\n"
	"		case $verb in image | kernel | completion) words=$($ctl $verb "
	"--help 2>/dev/null |\n"
	"			sed -n '1s/.*OPTION...\\]//p' | tr '|' '\\n' | sed -nE 's/^ "
	"*([a-z]+).*/\\1/p') ;;\n"
	"		esac\n"
	"		((i == COMP_CWORD - 1)) || words=\n"
	"		case $verb in\n"
	"		run | restore | clone | image | kernel | pool | receive)\n"
	"			[[ $words ]] || { COMPREPLY=($(compgen -f -- \"$word\")); return; "
	"} ;;\n"
	"		completion) ;;\n"
	"		*) words=$($ctl ps -q 2>/dev/null) ;;\n"
	"		esac\n"
	"	fi\n"
	"	COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
	"}\n"
	"complete -o default -F _sporectl sporectl\n";

/* zsh runs the same. */
static const char bridge[] = "autoload -U +X compinit && compinit\n"
			     "autoload -U +X bashcompinit && bashcompinit\n";

int verb_completion(struct ctl *c, int argc, char **argv)
{
	static const struct ctl_usage usage = {
		.arguments = "bash|zsh",
		.min = 1,
		.max = 1,
		.examples = "source <(sporectl completion bash)\n"
			    "sporectl completion zsh >~/.sporectl.zsh; source ~/.sporectl.zsh\n",
	};
	bool zsh;
	struct err e;

	if (!ctl_parse(c, &usage, &argc, &argv, NULL))
		return c->exit_code;
	zsh = strcmp(argv[0], "zsh") == 0;
	if (!zsh && strcmp(argv[0], "bash") != 0) {
		err_set(&e, EINVAL, "'%.32s': completes for bash and zsh only", argv[0]);
		ctl_hint(c, "sporectl completion bash");
		return ctl_fail(c, &e);
	}
	if (c->json)
		return ctl_print_json(c, json_sprintf("%s%s", zsh ? bridge : "", script));
	printf("%s%s", zsh ? bridge : "", script);
	return 0;
}
