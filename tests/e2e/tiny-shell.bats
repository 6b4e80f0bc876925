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

# make_snapshot NAME GUEST [MACHINE-JQ [DRIVE-JQ]]: of a guest that was booted in the ordinary way.
make_snapshot() {
	boot_all "${@:2}"
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
	shell vcpus=1,mem_mib=32
	claim t '.mem_backend.backend_type = "Pager"'
	echoes z
	vm_kill
	rm -f "$SNAP/vsock"
	shell vcpus=1,mem_mib=32,devices=17
	claim t
	printf q >&7
	ends_with 0
}

@test "a guest with another CPUID than the shell's" {
	local CPU='{"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0x0", "flags": 0, "modifiers":
		[{"register": "ecx", "bitmap": "0bx_0"}]}]}'
	make_snapshot s echo
	shell vcpus=1,mem_mib=32
	claim s
	echoes warm
	vm_kill
	rm -f "$SNAP/vsock"
	shell vcpus=1,mem_mib=32
	ok PUT /snapshot/prime "$(prime s)"
	claim s
	echoes primed
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

# prime NAME: what PUT /snapshot/prime takes.
prime() {
	jq -nc --arg s "$SNAP/$1.state" --arg m "$SNAP/$1.mem" \
		'{snapshot_path: $s, mem_backend: {backend_type: "File", backend_path: $m}}'
}

IDENTITY='.id = "web-7" | .metadata = {name: "web-7"} | .serial_override = {serial_out_path: "SERIAL"} |
	.network_overrides = [{iface_id: "eth0", rewrite: {host_mac: "06:00:00:00:00:77",
		addresses: [{guest: "10.0.0.2", host: "10.0.0.77"}]}}]'

# has_identity: what IDENTITY says, before and after the guest runs.
has_identity() {
	api GET /
	[ "$(jq -r .id <<<"$BODY")" = web-7 ]
	api GET /mmds
	[ "$(jq -c . <<<"$BODY")" = '{"name":"web-7"}' ]
	api GET /vm/config
	jq -e '."network-interfaces"[0] | .rewrite.host_mac == "06:00:00:00:00:77" and
		.guest_mac == "06:00:00:00:00:01"' <<<"$BODY"
}

# bats test_tags=outside
@test "a shell is primed with a snapshot, and a load gives it who it is" {
	make_snapshot s echo
	cp "$SNAP/s.state" "$SNAP/other.state"
	hash=$(sha256sum "$SNAP/s.mem" "$SNAP/s.state")
	: >"$SNAP/serial"
	identity=${IDENTITY/SERIAL/$SNAP/serial}
	shell vcpus=1,mem_mib=32
	refused PUT /snapshot/prime "$(prime nothing)" "nothing.state"
	refused PUT /snapshot/prime "$(prime s | jq '.mem_backend.backend_type = "Uffd"')" "backend File"
	ok PUT /snapshot/prime "$(prime s)"
	refused PUT /snapshot/prime "$(prime s)" "primed already"
	refused PUT /snapshot/load "$(load_request s ".snapshot_path = \"$SNAP/other.state\"")" "primed with state file '$SNAP/s.state'"
	refused PUT /snapshot/load "$(load_request s '.mem_backend.backend_type = "Uffd"')" "primed with"
	refused PUT /snapshot/load "$(load_request s ".mem_backend.backend_path = \"$SNAP/other.state\"")" "memory file '$SNAP/s.mem'"
	for wrong in '.drive_overrides = [{drive_id: "x", path_on_host: "/x"}]|no drive' \
		'.id = "a/b"|id: only letters' '.serial_override = {serial_out_path: "/no/such"}|serial_out_path' \
		'.metadata = [1]|expected an object' '.metadata = {a: ("x" * 60000)}|' \
		'.network_overrides = [{iface_id: "eth0", rewrite: {addresses: [{guest: "1", host: "2"}]}}]|rewrite'; do
		api PUT /snapshot/load "$(load_request s ".metadata = {left: true} | ${wrong%|*}")"
		[[ $STATUS == 4?? && $BODY == *"${wrong##*|}"* ]] || fail "$wrong: $STATUS $BODY"
	done
	api GET /
	[ "$(jq -r '.id + .state' <<<"$BODY")" = "anonymous-instanceNot started" ]
	api GET /mmds
	[ "$BODY" = '{}' ]
	claim s "$identity | .resume_vm = false"
	has_identity
	ok PATCH /vm '{"state": "Resumed"}'
	printf 'works' >&7
	for _ in $(seq 500); do
		grep -qF works "$SNAP/serial" && break
		sleep 0.02
	done
	grep -qF works "$SNAP/serial" || fail "its console is elsewhere"
	has_identity
	# VMGenID, and VMClock's generation, which is behind its page's 104th byte.
	snap clone
	for at in 0xfe000:16 0xff068:8; do
		! cmp -s -i $((${at%:*})) -n "${at#*:}" "$SNAP/s.mem" "$SNAP/clone.mem" ||
			fail "the guest cannot tell that it is another one ($at)"
	done
	[ "$hash" = "$(sha256sum "$SNAP/s.mem" "$SNAP/s.state")" ]
	vm_kill
	# A process of its own takes the same; and a snapshot without the service has no metadata.
	rm -f "$SNAP/vsock"
	vm_api --log-path "$SNAP/log"
	refused PUT /snapshot/prime "$(prime s)" "no shell"
	claim s "$identity"
	has_identity
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
	for primed in "" yes; do
		rm -f "$SNAP/vsock"
		shell vcpus=4,mem_mib=3500,pit
		[ -z "$primed" ] || ok PUT /snapshot/prime "$(prime s)"
		claim s
		printf x >&7
		ends_with 0
	done
}

@test "dirty pages are tracked, whether the shell was told or not" {
	make_snapshot base dirty
	for option in "" ,track_dirty_pages ,devices=4; do
		cp "$SNAP/base.mem" "$SNAP/merged.mem"
		cp "$SNAP/base.state" "$SNAP/merged.state"
		rm -f "$SNAP/vsock"
		shell "vcpus=1,mem_mib=32$option"
		[ "$option" != ,devices=4 ] || ok PUT /snapshot/prime "$(prime base)"
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

# calls_of_claim [REQUEST]: what a claim does before the guest runs, into $SNAP/calls; after REQUEST, if there is one.
calls_of_claim() {
	strace -o /dev/null true || skip "strace does not work here"
	make_snapshot s echo
	shell vcpus=1,mem_mib=32
	[ -z "${1:-}" ] || ok PUT /snapshot/prime "$1"
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
}

@test "a claim makes at most 16 KVM ioctls, and creates no file descriptor of KVM's" {
	calls_of_claim
	[ "$(grep -c 'ioctl([0-9]*, KVM_' "$SNAP/calls")" -le 16 ]
	[ "$(wc -l <"$SNAP/calls")" -le 130 ]
	! grep -E 'KVM_(CREATE|IRQFD|IOEVENTFD|SET_USER|SET_CPUID2|GET)' "$SNAP/calls" || fail "what a shell has"
}

@test "a claim of a primed shell sets what time changes, and neither reads the state nor maps memory" {
	calls_of_claim "$(prime s)"
	[ "$(grep -c 'ioctl([0-9]*, KVM_' "$SNAP/calls")" -le 8 ]
	for call in MSRS CLOCK; do
		grep -q "KVM_SET_$call" "$SNAP/calls" || fail "KVM_SET_$call is missing"
	done
	! grep -E 'KVM_SET_(SREGS|REGS|XSAVE|XCRS|LAPIC|MP_STATE|VCPU_EVENTS)|s\.(state|mem)' "$SNAP/calls" | grep -v recv || fail "what prime has done"
}
