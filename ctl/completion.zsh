#compdef sporectl
# SPDX-License-Identifier: Apache-2.0
# The words are bash's: sporectl knows them, and zsh has a bridge.
autoload -U +X bashcompinit && bashcompinit
eval "$(sporectl completion bash)"
_bash_complete -o default -F _sporectl
