#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# Snapshots that go into a machine which was made ahead (--shell), guests of a few instructions.

setup() {
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	load vm.bash
	load snapshot.bash
}

teardown() {
	vm_kill
	rm -rf "$SNAP"
}

# make_snapshot NAME GUEST [MACHINE-JQ] [DEVICES...]: of a guest that was booted in the ordinary way.
make_snapshot() {
	vm_api
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/$2.elf\"}"
	ok PUT /machine-config "$(jq -nc "{vcpu_count: 1, mem_size_mib: 32} ${3:+| $3}")"
	truncate -s 1M "$SNAP/disk"
	ok PUT /drives/d "{\"drive_id\": \"d\", \"path_on_host\": \"$SNAP/disk\", \"is_root_device\": false}"
	ok PUT /entropy '{}'
	ok PUT /vsock "{\"guest_cid\": 3, \"uds_path\": \"$SNAP/vsock\"}"
	ok PUT /actions '{"action_type": "InstanceStart"}'
	wait_for ready
	snap "$1"
	vm_kill
	rm -f "$SNAP/vsock"
}

shell() {
	vm_api --shell "$1" --log-path "$SNAP/log" "${@:2}"
}

claim() {
	ok PUT /snapshot/load "$(load_request "$@")"
}

echoes() {
	printf '%s' "$1" >&7
	wait_for "$1"
}

@test "a guest goes on in a shell, as often as one likes" {
	make_snapshot s echo
	for i in 1 2 3; do
		shell vcpus=1,mem_mib=32
		claim s
		echoes "again-$i"
		! grep -qF ready "$VM_DIR/out" || fail "it began anew"
		api GET /
		[ "$(jq -r .state <<<"$BODY")" = Running ]
		[ "$(awk '/^Seccomp_filters/ { print $2 }' "/proc/$VM_PID/status")" = 2 ]
		vm_kill
		rm -f "$SNAP/vsock"
	done
	shell vcpus=1,mem_mib=32,devices=0
	claim s '.resume_vm = false'
	printf x >&7
	api GET /
	[ "$(jq -r .state <<<"$BODY")" = Paused ]
	ok PATCH /vm '{"state": "Resumed"}'
	echoes y
	# It is like any other from here on.
	snap t
	vm_kill
	rm -f "$SNAP/vsock"
	shell vcpus=1,mem_mib=32,devices=17
	claim t
	printf q >&7
	ends_with 0
}

@test "what does not fit is refused, and the shell stays one" {
	make_snapshot s echo
	shell vcpus=2,mem_mib=32
	refused PUT /snapshot/load "$(load_request s)" "this shell has 2 vCPUs and 32 MiB, the snapshot needs 1 and 32"
	vm_kill
	shell vcpus=1,mem_mib=33
	refused PUT /snapshot/load "$(load_request s)" "needs 1 and 32"
	vm_kill
	shell vcpus=1,mem_mib=32,pit
	refused PUT /snapshot/load "$(load_request s)" "an i8254"
	vm_kill
	shell vcpus=1,mem_mib=32
	refused PUT /snapshot/load "$(load_request s '.snapshot_path = "/nothing"')" "/nothing"
	head -c 1000 "$SNAP/s.state" >"$SNAP/cut.state"
	refused PUT /snapshot/load "$(load_request s ".snapshot_path = \"$SNAP/cut.state\"")" "cut.state"
	refused PUT /boot-source "{\"kernel_image_path\": \"$GUEST/echo.elf\"}" "is a shell"
	refused PUT /machine-config '{"vcpu_count": 1, "mem_size_mib": 32}' "is a shell"
	refused PUT /actions '{"action_type": "InstanceStart"}' "is a shell"
	claim s
	echoes works
	vm_kill
	# What fails later has used it up: the process ends, as any other.
	rm -f "$SNAP/vsock"
	shell vcpus=1,mem_mib=32
	truncate -s 31M "$SNAP/short.mem"
	refused PUT /snapshot/load "$(load_request s ".mem_backend.backend_path = \"$SNAP/short.mem\"")" "32"
	ends_with 1
}

@test "a shell that nobody wants ends by SIGTERM and leaves no socket" {
	shell vcpus=4,mem_mib=4096
	[ "$(awk '/^Threads/ { print $2 }' "/proc/$VM_PID/status")" -ge 5 ]
	kill -TERM "$VM_PID"
	ends_with 143
	[ ! -e "$API_SOCK" ]
}

@test "four processors, a PIT, more than 3 GiB" {
	make_snapshot s dirty '.vcpu_count = 4 | .pit = true | .mem_size_mib = 3500'
	shell vcpus=4,mem_mib=3500,pit
	claim s
	printf x >&7
	ends_with 0
}

@test "dirty pages are tracked, whether the shell was told or not" {
	make_snapshot base dirty
	for option in "" ,track_dirty_pages; do
		cp "$SNAP/base.mem" "$SNAP/merged.mem"
		cp "$SNAP/base.state" "$SNAP/merged.state"
		rm -f "$SNAP/vsock"
		shell "vcpus=1,mem_mib=32$option"
		claim base '.track_dirty_pages = true'
		for i in 1 2; do
			sleep 0.05
			snap "d$i" '.snapshot_type = "Diff"'
			merge merged "d$i"
			[ "$i" = 2 ] || ok PATCH /vm '{"state": "Resumed"}'
		done
		ok PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/full.state\", \"mem_file_path\": \"$SNAP/full.mem\"}"
		cmp "$SNAP/merged.mem" "$SNAP/full.mem"
		vm_kill
	done
}

@test "in a jail" {
	[ "$(id -u)" = 0 ] || skip "needs root"
	make_snapshot s echo
	# shellcheck disable=SC2034
	SPORE=$TOP/tests/e2e/jailed-spore
	shell vcpus=1,mem_mib=32
	claim s
	echoes works
}

@test "a claim makes at most 15 KVM ioctls, and creates no file descriptor of KVM's" {
	strace -o /dev/null true || skip "strace does not work here"
	make_snapshot s echo
	shell vcpus=1,mem_mib=32
	strace -f -qq -e signal=none -o "$SNAP/trace" -p "$VM_PID" 3>&- 7>&- &
	local tracer=$!
	for _ in $(seq 500); do
		[ "$(awk '/^TracerPid/ { print $2 }' "/proc/$VM_PID/status")" != 0 ] && break
		sleep 0.02
	done
	claim s
	echoes works
	kill "$tracer"
	wait "$tracer" || true
	sed '/KVM_RUN/,$d' "$SNAP/trace" >"$SNAP/calls"
	grep -o 'KVM_[A-Z0-9_]*' "$SNAP/calls" | sort | uniq -c
	wc -l <"$SNAP/calls"
	[ "$(grep -c 'ioctl([0-9]*, KVM_' "$SNAP/calls")" -le 15 ]
	[ "$(wc -l <"$SNAP/calls")" -le 130 ]
	! grep -E 'KVM_(CREATE|IRQFD|IOEVENTFD|SET_USER|SET_CPUID2|GET)' "$SNAP/calls" || fail "what a shell has"
}
