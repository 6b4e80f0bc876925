#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# What GET /events says about guests of a few instructions.

setup() {
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	load vm.bash
	TMP=$(mktemp -d)
}

teardown() {
	vm_kill
	rm -rf "$TMP"
}

# events GUEST OPTIONS...: starts it with a reader of its events in $TMP/events, which has been answered
# before the guest runs: it may end at once.
events() {
	vm_api "${@:2}"
	rm -f "$TMP/head"
	curl -sS --no-buffer -D "$TMP/head" --unix-socket "$API_SOCK" http://localhost/events >"$TMP/events" &
	READER=$!
	for _ in $(seq 1000); do
		grep -qs "^HTTP/1.1 200" "$TMP/head" && break
		sleep 0.01
	done
	grep -q "^HTTP/1.1 200" "$TMP/head" || fail "no stream of events"
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/$1.elf\"}"
	ok PUT /actions '{"action_type": "InstanceStart"}'
}

@test "started, paused, resumed, reset, exit: in order, with numbers" {
	events echo
	wait_for ready
	ok PATCH /vm '{"state": "Paused"}'
	ok PATCH /vm '{"state": "Paused"}'
	ok PATCH /vm '{"state": "Resumed"}'
	printf q >&7
	ends_with 0
	wait "$READER"
	jq -es 'map(.event) == ["started", "paused", "resumed", "reset", "exit"]' "$TMP/events"
	jq -es 'map(.seq) == [1, 2, 3, 4, 5] and .[0].took_us > 0 and .[4].code == 0' "$TMP/events"
	jq -es '.[4].reason == "guest reset" and all(.time_ms > 1700000000000)' "$TMP/events"
}

@test "guest booted, by the boot timer" {
	events timer --boot-timer
	ends_with 0
	wait "$READER"
	jq -es 'map(.event) == ["started", "guest_booted", "reset", "exit"] and .[1].took_us > 0' \
		"$TMP/events"
}

@test "power-off and triple fault say so" {
	events poweroff
	ends_with 3
	wait "$READER"
	jq -es '.[-1].reason == "guest power-off" and .[-1].code == 3' "$TMP/events"
	events triple
	ends_with 1
	wait "$READER"
	jq -es '.[-1].reason == "triple fault" and .[-1].code == 1' "$TMP/events"
}
