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
	"	local word=${COMP_WORDS[COMP_CWORD]} verb= i words\n"
	"	for ((i = 1; i < COMP_CWORD; i++)); do\n"
	"		[[ ${COMP_WORDS[i]} == -* ]] || { verb=${COMP_WORDS[i]}; break; }\n"
	"	done\n"
	"	if [[ -z $verb && $word != -* ]]; then\n"
	"		words=$(sporectl --help | sed -n '/^verbs:/,/^$/s/^  \\([a-z]*\\) "
	".*/\\1/p')\n"
	"	elif [[ $word == -* ]]; then\n"
	"		words=$(sporectl $verb --help | grep -oE -- '--[a-z-]+' | sort -u)\n"
	"	elif [[ \" run restore clone pool receive \" == *\" $verb \"* ]]; then\n"
	"		COMPREPLY=($(compgen -f -- \"$word\"))\n"
	"		return\n"
	"	else\n"
	"		words=$(sporectl ps -q 2>/dev/null)\n"
	"	fi\n"
	"	COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
	"}\n"
	"complete -o default -F _sporectl sporectl\n";

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
	if (zsh)
		printf("autoload -U +X compinit && compinit\n"
		       "autoload -U +X bashcompinit && bashcompinit\n");
	fputs(script, stdout);
	return 0;
}
