#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# sporectl with guests of a few instructions: start, attach and detach, stop, what errors advise.

setup() {
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	load vm.bash
	CTL=$TOP/build/sporectl
	export SPORE_STATE=$BATS_TEST_TMPDIR/s SPORE=$TOP/build/spore SPORE_CACHE=$BATS_TEST_TMPDIR/cache
}

teardown() {
	"$CTL" rm --all --force >/dev/null 2>&1 || true
}

@test "run: the guest's console, its exit status, nothing left with --rm" {
	run "$CTL" run --rm -k "$GUEST/hello.elf" </dev/null
	[ "$status" = 0 ]
	[ "$output" = "hello from the guest" ]
	run "$CTL" run --rm -k "$GUEST/poweroff.elf" </dev/null
	[ "$status" = 3 ]
	[ "$(printf 'abcq' | "$CTL" run -k "$GUEST/echo.elf" --name e)" = $'ready\nabc' ]
	[ "$("$CTL" ps --json | jq -c '[.[] | [.name, .state, .status]]')" = '[["e","ended",0]]' ]
	[ "$("$CTL" logs e)" = $'ready\nabc' ]
}

@test "a terminal: detached and attached again, given back on every way out" {
	"$TOP/tests/lib/attach.py" wait:ready raw 'keys:ab\x03' 'wait:ab\x03' 'keys:\x1d' -- \
		"$CTL" run -n web -k "$GUEST/echo.elf" | grep -qx "status 0"
	[ "$("$CTL" ps --json | jq -r '.[0].state')" = running ]
	"$TOP/tests/lib/attach.py" wait:ready raw 'keys:de' wait:de keys:q -- "$CTL" console web |
		grep -qx "status 0"
	for how in SIGTERM:143 SIGHUP:0 SIGSEGV:-11; do
		"$TOP/tests/lib/attach.py" wait:ready raw "signal:${how%:*}" -- \
			"$CTL" run -k "$GUEST/echo.elf" | grep -qx "status ${how#*:}"
	done
}

@test "pause, resume, stop, rm" {
	[ "$("$CTL" run -d --rm -k "$GUEST/echo.elf")" = vm1 ]
	"$CTL" pause vm1
	[ "$("$CTL" ps --json | jq -r '.[0].state')" = paused ]
	"$CTL" resume vm1
	[ "$("$CTL" ps --json | jq -r '.[0].state')" = running ]
	run "$CTL" rm vm1
	[ "$status" = 1 ]
	[ "$("$CTL" stop --now vm1 --json | jq -r '.[0].how')" = terminated ]
	[ "$("$CTL" ps -q)" = "" ]
}

# advises ADVICE ARGUMENT...: it fails, and the last line says what to type.
advises() {
	local advice=$1
	shift
	run "$CTL" "$@"
	[ "$status" != 0 ] || fail "$* did not fail"
	[[ ${lines[-1]} == *"try: "*"$advice"* ]] || fail "$*: $output"
}

@test "errors end with what to type next" {
	"$CTL" run -d -n web -k "$GUEST/echo.elf"
	advises "sporectl ps" pss
	advises "--json" ps --jsn
	advises "sporectl console web" run -n web -k "$GUEST/echo.elf"
	advises "sporectl kernel" run
	advises "sporectl kernel" run -k /nonexistent
	advises "vmlinux" run -k /etc/passwd
	advises "ls -l" run -k "$GUEST/echo.elf" -r /nonexistent
	advises "sporectl console web" console wbe
	advises "sporectl stop" stop
	advises "sporectl stop web" rm web
	"$CTL" stop --now web
	advises "sporectl rm web" run -n web -k "$GUEST/echo.elf"
	advises "sporectl logs web" pause web
	SPORE=/nonexistent advises "SPORE" run -k "$GUEST/echo.elf"
}
