#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# Memory hotplug of a guest of a few instructions (tests/guest/plug.S), on whatever /dev/kvm there is: what is
# plugged can be used, what is unplugged is gone, and both are so after a snapshot.

setup() {
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	load vm.bash
	load snapshot.bash
	vm_api --log-path "$SNAP/log"
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/plug.elf\"}"
	ok PUT /hotplug/memory '{"total_size_mib": 1024}'
	ok PUT /machine-config '{"vcpu_count": 1, "mem_size_mib": 32, "track_dirty_pages": true}'
	ok PUT /actions '{"action_type": "InstanceStart"}'
	wait_for ready
}

teardown() {
	vm_kill
	rm -rf "$SNAP"
}

plugged() {
	ok GET /hotplug/memory
	[ "$(jq .plugged_size_mib <<<"$BODY")" = "$1" ] || fail "plugged: $BODY, expected $1"
}

# lines N EXPECTED...: the last N lines with a number.
lines() {
	[ "$(grep -xE '[0-9a-f]{8}' "$VM_DIR/out" | tail -n "$1")" = "$(printf '%s\n' "${@:2}")" ] ||
		fail "expected ${*:2}"
}

@test "plugged, written, unplugged; only what was asked for" {
	plugged 0
	ok PATCH /hotplug/memory '{"requested_size_mib": 4}'
	wait_for 64636261
	lines 3 00000000 00000000 64636261
	plugged 2
	echo >&7
	wait_for ffffffff
	lines 4 64636261 00200000 00000000 ffffffff
	plugged 0
	echo >&7
	ends_with 0
}

mmio_reads() {
	ok GET /metrics
	sed -n 's/^spore_vcpu_exit_mmio_read_total //p' <<<"$BODY"
}

@test "a guest that reads a register of its device without end soon does so without an exit" {
	for _ in $(seq 200); do
		before=$(mmio_reads)
		sleep 0.05
		after=$(mmio_reads)
		[ "$before" != "$after" ] || break
	done
	[ "$before" -gt 0 ]
	[ "$before" = "$after" ] || fail "$before, then $after exits"
	# It does read: what it waits for is seen.
	ok PATCH /hotplug/memory '{"requested_size_mib": 4}'
	wait_for 64636261
}

@test "asked for less than it wants, it gets nothing" {
	ok PATCH /hotplug/memory '{"requested_size_mib": 2}'
	# NACK; ERROR for what was not plugged; and nobody answers there.
	wait_for ffffffff
	lines 3 00000001 00000003 ffffffff
	plugged 0
}

@test "snapshots: memory that was plugged since, and that is gone since" {
	snap base
	ok PATCH /vm '{"state": "Resumed"}'
	ok PATCH /hotplug/memory '{"requested_size_mib": 4}'
	wait_for 64636261
	snap diff '.snapshot_type = "Diff"'
	merge base diff
	verify base
	leave
	restore base '.track_dirty_pages = true'
	plugged 2
	echo >&7
	wait_for ffffffff
	lines 4 64636261 00200000 00000000 ffffffff
	snap after '.snapshot_type = "Diff"'
	merge base after
	verify base
	leave
	restore base
	plugged 0
	echo >&7
	ends_with 0
}

@test "a live snapshot has what is plugged" {
	ok PATCH /hotplug/memory '{"requested_size_mib": 4}'
	wait_for 64636261
	listen
	live s
	leave
	restore s
	plugged 2
	echo >&7
	wait_for ffffffff
	lines 4 64636261 00200000 00000000 ffffffff
}
