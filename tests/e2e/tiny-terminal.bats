#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# The terminal: raw while the guest runs, given back on every way out.

setup() {
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	load vm.bash
}

# ends STEP STATUS: spore on a terminal, where Ctrl-C is a key for the guest, ended by this step.
ends() {
	run "$TOP/tests/lib/attach.py" wait:ready raw 'keys:\x03k' wait:k "$1" -- \
		"$SPORE" --no-api --config-file "$(config "$GUEST/echo.elf")"
	echo "$output"
	[ "$status" = 0 ]
	[ "${lines[-1]}" = "status $2" ]
}

@test "the terminal is given back when the guest resets" {
	ends keys:q 0
}

@test "the terminal is given back on SIGINT, SIGTERM, SIGQUIT and SIGHUP" {
	ends signal:SIGINT -2
	ends signal:SIGTERM -15
	ends signal:SIGQUIT -3
	ends signal:SIGHUP 156
}

@test "the terminal is given back when spore itself crashes" {
	ends signal:SIGSEGV 150
	ends signal:SIGBUS 149
	ends signal:SIGABRT -6
	ends signal:SIGILL 157
	ends signal:SIGXCPU 154
}
