# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# The shell examples of README.md and docs/*.md. Each is a block ```sh below a comment of its own,
#
#	<!-- run: FILE -->	it is run by this test
#	<!-- not run: REASON -->
#
# and nothing that a shell should run stands in a block of another kind.

# block FILE TEXT: the block with TEXT in its first line, as it is printed. Fails when there is none.
block() {
	awk -v text="$2" '/^```/ { if (inside) exit; first = $0 == "```sh"; next }
		first { first = 0; inside = index($0, text); if (inside) found = 1 }
		inside { print }
		END { exit !found }' "$1" || { echo "$1 has no example that begins '$2'" >&2; return 1; }
}
