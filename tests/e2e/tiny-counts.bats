#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# What a start is made of: numbers, never times. A limit that a change has to raise is a change that
# has to be explained: docs/performance.md says what each one buys.

setup() {
	TOP=$BATS_TEST_DIRNAME/../..
	load vm.bash
	strace -o /dev/null true || skip "strace does not work here"
}

teardown() {
	vm_kill
}

# count WHAT...: sets $syscalls and $kvm.
count() {
	local words
	words=$("$TOP/tests/bench/count-calls" "$@")
	echo "$words"
	syscalls=$(sed -n 's/^syscalls //p' <<<"$words")
	kvm=$(sed -n 's/^kvm //p' <<<"$words")
}

@test "build/spore is static and under 1.5 MiB" {
	[ -z "$(readelf -ldW "$SPORE" | grep -E "INTERP|NEEDED")" ]
	[ "$(stat -c %s "$SPORE")" -lt 1572864 ]
}

# bats test_tags=outside
@test "exec to an accepting API: at most 50 system calls, none of them to KVM" {
	count ready "$SPORE"
	[ "$syscalls" -le 50 ]
	[ "$kvm" = 0 ]
}

# bats test_tags=outside
@test "a start without devices: at most 20 KVM ioctls before KVM_RUN, 120 system calls since exec" {
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	count start "$SPORE" "$(config "$GUEST/bench.elf")"
	[ "$kvm" -le 20 ]
	[ "$syscalls" -le 120 ]
}

@test "a device with one queue costs two KVM ioctls, a vCPU at most four" {
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	count start "$SPORE" "$(config "$GUEST/bench.elf")"
	without=$kvm
	count start "$SPORE" "$(config "$GUEST/bench.elf" '.entropy = {}')"
	[ $((kvm - without)) = 2 ]
	count start "$SPORE" "$(config "$GUEST/bench.elf" '."machine-config".vcpu_count = 2')"
	[ $((kvm - without)) -le 4 ]
}

@test "the metrics tell when the guest first ran: after all steps of the start" {
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	metrics=$(mktemp)
	vm_spawn --no-api --config-file "$(config "$GUEST/bench.elf")" --metrics-path "$metrics"
	ends_with 0
	said b
	tail -n 1 "$metrics" | jq -e '.start_us | .begin > 0 and
		.first_exit >= .memory + .kvm + .devices + .kernel + .vcpus'
}

@test "an idle microVM with every device: the main thread is not woken once in 10 s" {
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	local disk limits
	disk=$(mktemp)
	truncate -s 1M "$disk" "$disk.base"
	limits='{bandwidth: {size: 1000, refill_time: 100}}'
	# A network namespace of its own: tap0 is nobody else's.
	SPORE=$(mktemp)
	printf '#!/bin/sh\nexec unshare -n sh -c "ip tuntap add dev tap0 mode tap && ip link set tap0 up && exec %s \\"\\$@\\"" sh "$@"\n' \
		"$TOP/build/spore" >"$SPORE"
	chmod 755 "$SPORE"
	vm_api --config-file "$(config "$GUEST/idle.elf" ".entropy = {} | .vsock = {guest_cid: 3, uds_path: \"$disk.vsock\"}
		| .balloon = {amount_mib: 0, deflate_on_oom: false, stats_polling_interval_s: 0}
		| .drives = [{drive_id: \"a\", path_on_host: \"$disk\", is_root_device: false, io_engine: \"Async\", rate_limiter: $limits},
			{drive_id: \"b\", path_on_host: \"$disk.base\", is_root_device: false, overlay: \"$disk.ovl\"}]
		| .\"network-interfaces\" = [{iface_id: \"eth0\", host_dev_name: \"tap0\", rx_rate_limiter: $limits, tx_rate_limiter: $limits}]")"
	wait_for idle
	switches() { sed -n 's/^voluntary_ctxt_switches:[^0-9]*//p' "/proc/$VM_PID/task/$VM_PID/status"; }
	ok GET /
	sleep 1
	before=$(switches)
	sleep 10
	after=$(switches)
	echo "from $before to $after"
	[ "$before" -gt 0 ]
	[ "$before" = "$after" ]
	# It does count: a request wakes it.
	ok GET /
	[ "$(switches)" -gt "$after" ]
	rm -f "$disk" "$disk".*
}
