#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# Guests of a few instructions (tests/guest/*.S) in the real spore on whatever /dev/kvm there is.

setup() {
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	load vm.bash
}

teardown() {
	vm_kill
}

tiny() { # tiny GUEST [JQ]
	vm_spawn --no-api --config-file "$(config "$GUEST/$1.elf" "${2:-.}")" ${3:+"$3"}
}

@test "a guest prints to the serial console and resets: exit code 0" {
	tiny hello
	ends_with 0
	said "hello from the guest"
}

@test "power-off through ACPI: exit code 3" {
	tiny poweroff
	ends_with 3
	said "powering off"
}

@test "triple fault: exit code 1 and a line in the log" {
	tiny triple
	ends_with 1
	said "triple fault"
}

@test "ports and windows that a kernel polls answer as they should" {
	tiny ports '.entropy = {}'
	ends_with 0
	# RTC; keyboard status: unlocked, self-test passed, nothing to read; an unclaimed port;
	# a virtio window (magic, version 2, entropy); an unclaimed address.
	run grep -xE '[0-9a-f]{8}' "$VM_DIR/out"
	[ "$output" = "$(printf '%s\n' 00000000 00000014 000000ff 74726976 00000002 00000004 ffffffff)" ]
}

@test "a file in memory is written, one that is read-only is not" {
	local rw ro
	rw=$(mktemp) ro=$(mktemp)
	printf 'old!' | tee "$rw" >"$ro"
	truncate -s 8192 "$rw" "$ro"
	tiny pmem ".pmem = [{id: \"a\", path_on_host: \"$rw\"}, {id: \"b\", path_on_host: \"$ro\", read_only: true}]"
	ends_with 0
	run grep -xE '[0-9a-f]{8}' "$VM_DIR/out"
	# Whatever the instruction: nothing is written, and the guest goes on.
	[ "$output" = "$(printf '%s\n' 21646c6f 21646c6f 64636261 21646c6f 64636261
		for _ in {1..14}; do echo 21646c6f; done)" ]
	[ "$(head -c 4 "$rw")$(head -c 4 "$ro")" = "abcdold!" ]
	[ "$(stat -c %s "$rw")" = 8192 ]
	rm "$rw" "$ro"
}

@test "the boot timer logs the time since the start" {
	tiny timer . --boot-timer
	ends_with 0
	grep -qE 'Guest-boot-time = +[0-9]+ us [0-9]+ ms, +[0-9]+ CPU us [0-9]+ CPU ms' "$VM_DIR/out"
}

@test "an idle process has a VM ahead of its start, and its guest's boot begins with that" {
	local begin us
	vm_api --boot-timer
	for _ in $(seq 500); do ls -l "/proc/$VM_PID/fd" | grep -q kvm-vm && break; sleep 0.01; done
	ls -l "/proc/$VM_PID/fd" | grep -q kvm-vm
	sleep 1
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/timer.elf\"}"
	begin=$(date +%s%6N)
	ok PUT /actions '{"action_type": "InstanceStart"}'
	ends_with 0
	us=$(sed -n 's/.*Guest-boot-time = *\([0-9]*\) us.*/\1/p' "$VM_DIR/out")
	[ "$us" -le $(($(date +%s%6N) - begin)) ] || fail "$us us"
}

@test "four processors come up" {
	tiny smp '."machine-config".vcpu_count = 4'
	ends_with 0
	said "three more processors"
}

@test "1 MiB of memory is enough for a guest that fits" {
	tiny low '."machine-config".mem_size_mib = 1'
	ends_with 0
	said "hello from the guest"
}

@test "memory in a memfd, transparent huge pages, a PIT, dirty logging" {
	for edit in '.memory_backend = "Memfd"' '.huge_pages = "Transparent"' '.pit = true' \
		'.track_dirty_pages = true'; do
		tiny hello ".\"machine-config\" |= ($edit)"
		ends_with 0
		said "hello from the guest"
	done
}

@test "the guest reads what comes on standard input" {
	tiny echo
	wait_for ready
	printf 'abc' >&7
	wait_for abc
	printf 'q' >&7
	ends_with 0
}

@test "a paused guest does nothing, a resumed one goes on where it was" {
	vm_api
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/echo.elf\"}"
	ok PUT /actions '{"action_type": "InstanceStart"}'
	wait_for ready
	for i in 1 2 3 4 5; do
		ok PATCH /vm '{"state": "Paused"}'
		ok PATCH /vm '{"state": "Paused"}'
		api GET /
		[ "$(jq -r .state <<<"$BODY")" = Paused ]
		printf '<%s>' "$i" >&7
		sleep 0.2
		! grep -qF "<$i>" "$VM_DIR/out" || fail "$i came"
		ok PATCH /vm '{"state": "Resumed"}'
		wait_for "<$i>"
	done
	said "<1><2><3><4><5>"
	printf q >&7
	ends_with 0
}

@test "a guest that floods a console nobody reads stops neither itself nor the API" {
	VM_DIR=$(mktemp -d)
	API_SOCK=$VM_DIR/api.sock
	: >"$VM_DIR/err"
	: >"$VM_DIR/out"
	# A pipe whose reader sleeps: full after 64 KiB.
	"$SPORE" --api-sock "$API_SOCK" 2>"$VM_DIR/err" > >(sleep 30) </dev/null &
	VM_PID=$!
	appears "$API_SOCK"
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/flood.elf\"}"
	ok PUT /actions '{"action_type": "InstanceStart"}'
	sleep 2
	for _ in 1 2 3 4 5; do ok GET /; done
	ok PATCH /vm '{"state": "Paused"}'
	ok PATCH /vm '{"state": "Resumed"}'
}

@test "a start that fails leaves the process usable: nothing is half-applied" {
	vm_api
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/hello.elf\"}"
	cp "$GUEST/hello.elf" "$VM_DIR/kernel"
	ok PUT /boot-source "{\"kernel_image_path\": \"$VM_DIR/kernel\"}"
	echo "no kernel any more" >"$VM_DIR/kernel"
	refused PUT /actions '{"action_type": "InstanceStart"}' "$VM_DIR/kernel"
	api GET /
	[ "$(jq -r .state <<<"$BODY")" = "Not started" ]
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/echo.elf\"}"
	ok PUT /actions '{"action_type": "InstanceStart"}'
	wait_for ready
	refused PUT /actions '{"action_type": "InstanceStart"}' "not supported after starting"
	printf q >&7
	ends_with 0
}

@test "spore is one thread before the start, one more for each vCPU after it" {
	vm_api
	[ "$(ls "/proc/$VM_PID/task" | wc -l)" = 1 ]
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/idle.elf\"}"
	ok PUT /machine-config '{"vcpu_count": 2, "mem_size_mib": 128}'
	ok PUT /actions '{"action_type": "InstanceStart"}'
	wait_for idle
	# Newer kernels add a thread of their own to the process (kvm-nx-lpage-recovery).
	[ "$(cat "/proc/$VM_PID"/task/*/comm | grep -v '^kvm-' | sort | tr '\n' ,)" = "spore,vcpu 0,vcpu 1," ]
}

@test "an idle microVM has under 1 MiB of private memory of its own" {
	# The program's pages are shared by all microVMs of a host: a second one makes that visible.
	vm_api
	other=$VM_PID
	vm_api
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/idle.elf\"}"
	ok PUT /entropy '{}'
	ok PUT /actions '{"action_type": "InstanceStart"}'
	wait_for idle
	# Guest memory is a mapping of its own: 128 MiB in size.
	private=$(awk '/^[0-9a-f]+-/ { size = 0 } /^Size:/ { size = $2 }
		/^Private_(Clean|Dirty):/ { if (size < 130000) sum += $2 } END { print sum }' \
		"/proc/$VM_PID/smaps")
	echo "private: $private KiB"
	kill "$other"
	[ "$private" -lt 1024 ]
}

@test "an idle microVM never wakes the main thread" {
	vm_api
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/idle.elf\"}"
	ok PUT /actions '{"action_type": "InstanceStart"}'
	wait_for idle
	sleep 0.5
	before=$(awk '/ctxt_switches/ { sum += $2 } END { print sum }' "/proc/$VM_PID/task/$VM_PID/status")
	sleep 5
	after=$(awk '/ctxt_switches/ { sum += $2 } END { print sum }' "/proc/$VM_PID/task/$VM_PID/status")
	[ "$before" = "$after" ]
}
