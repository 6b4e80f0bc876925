#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# The man pages have the options and verbs that the programs have. `make man` writes the pages; what
# is compared is what a reader sees.

setup() {
	TOP=$BATS_TEST_DIRNAME/../..
	cd "$TOP"
}

# page NAME: the page as text, without the overstriking of bold and underline.
page() {
	mandoc -T ascii -O width=300 "build/man/$1.1" | sed 's/.\x08//g'
}

# options: the left and right halves of the options in a text of --help, one a line.
help_options() {
	sed -n '/^options:/,/^$/p' | sed -n 'H; ${ x; s/\n \{20,\}/ /g; p }' | sed -n 's/^ *\(-.*\)$/\1/p' | sed 's/   */ /; s/  */ /g'
}

# page_options HEADING: the same of that section of a page: an option's line and the one below it.
page_options() {
	awk -v heading="$1" '/^[^ ]/ { here = $0 == heading } !here { next }
		/^       -/ { sub(/^ +/, ""); option = $0; next }
		option { sub(/^ +/, ""); print option " " $0; option = "" }' | sed 's/  */ /g'
}

# same PROGRAM HELP PAGE: both lists are there and equal.
same() {
	[ "$(wc -l <<<"$2")" -ge "$4" ] || { echo "$1: --help has no options: $2"; return 1; }
	diff <(echo "$2") <(echo "$3") || { echo "$1: --help and the page differ"; return 1; }
}

@test "man: spore and spore-jailer, each option as --help has it" {
	for program in spore spore-jailer; do
		same "$program" "$("build/$program" --help | help_options)" \
			"$(page "$program" | page_options OPTIONS)" 15
	done
}

@test "man: sporectl, each verb with its own options and examples" {
	common=$(build/sporectl completion --help | help_options)
	same sporectl "$common" "$(page sporectl | page_options "OPTIONS OF ALL VERBS")" 4
	verbs=$(build/sporectl --help | sed -n '/^verbs:/,/^$/s/^  \([a-z]*\) .*/\1/p')
	[ "$(wc -l <<<"$verbs")" -ge 19 ]
	for verb in $verbs; do
		help=$(build/sporectl "$verb" --help)
		same "sporectl $verb" "$(help_options <<<"$help")" \
			"$(page sporectl | page_options "SPORECTL ${verb^^}"; echo "$common")" 4
		example=$(sed -n '/^examples:/,$s/^  //p' <<<"$help" | tail -n 1)
		[ -n "$example" ] || { echo "$verb: no example"; return 1; }
		page sporectl | grep -F -- "$example" >/dev/null || { echo "$verb: $example"; return 1; }
	done
}

@test "help: 80 columns are enough for every line" {
	for program in spore spore-jailer sporectl spore-overlay spore-snapshot; do "build/$program" --help || true; done >"$BATS_TEST_TMPDIR/help" 2>&1
	for verb in $(build/sporectl --help | sed -n '/^verbs:/,/^$/s/^  \([a-z]*\) .*/\1/p'); do
		build/sporectl "$verb" --help
	done >>"$BATS_TEST_TMPDIR/help"
	[ "$(wc -l <"$BATS_TEST_TMPDIR/help")" -gt 400 ]
	run awk 'length > 80' "$BATS_TEST_TMPDIR/help"
	echo "$output"
	[ -z "$output" ]
}

@test "man: 80 columns are enough for every page" {
	scdoc <debian/spore-unit.8.scd >"$BATS_TEST_TMPDIR/spore-unit.8"
	for page in build/man/*.1 "$BATS_TEST_TMPDIR/spore-unit.8"; do
		mandoc -T ascii -O width=80 "$page" | sed 's/.\x08//g' | awk -v page="$page" 'length > 80 { print page ": " $0 }'
	done >"$BATS_TEST_TMPDIR/wide"
	cat "$BATS_TEST_TMPDIR/wide"
	[ ! -s "$BATS_TEST_TMPDIR/wide" ]
}

@test "man: mandoc has nothing worse than style to say; every page is installed" {
	for page in build/man/*.1; do
		run mandoc -T lint -W warning "$page"
		grep -E "(ERROR|UNSUPP|BADARG):" <<<"$output" && return 1
		[ "$(wc -l <"$page")" -gt 20 ]
	done
	make -s SKIP_DEPS=1 install DESTDIR="$BATS_TEST_TMPDIR" PREFIX=/opt/x
	for program in "$BATS_TEST_TMPDIR/opt/x/bin/"*; do
		[ -s "$BATS_TEST_TMPDIR/opt/x/share/man/man1/${program##*/}.1" ] ||
			{ echo "no page for $program"; return 1; }
	done
}
