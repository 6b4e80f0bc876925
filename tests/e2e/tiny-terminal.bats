#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# The terminal: raw while the guest runs, given back on every way out.

setup() {
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	load vm.bash
}

ends() { # ends HOW STATUS
	run "$TOP/tests/lib/terminal.py" "$1" "$SPORE" "$(config "$GUEST/echo.elf")"
	echo "$output"
	[ "$output" = "status $2" ]
}

@test "the terminal is given back when the guest resets" {
	ends guest 0
}

@test "the terminal is given back on SIGINT, SIGTERM, SIGQUIT and SIGHUP" {
	ends SIGINT -2
	ends SIGTERM -15
	ends SIGQUIT -3
	ends SIGHUP 156
}

@test "the terminal is given back when spore itself crashes" {
	ends SIGSEGV 150
	ends SIGBUS 149
	ends SIGABRT -6
	ends SIGILL 157
	ends SIGXCPU 154
}
