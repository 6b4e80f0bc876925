#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# Placeholder slots of a guest of a few instructions (tests/guest/slot.S), on whatever /dev/kvm there
# is: a drive and an interface that come and go while it runs, under the release filters.

setup() {
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	load vm.bash
	load snapshot.bash
	TAP=spslot$$
	head -c 1M /dev/zero | tr '\0' a >"$SNAP/a"
	head -c 2M /dev/zero | tr '\0' b >"$SNAP/b"
}

teardown() {
	vm_kill
	ip link del "$TAP" 2>/dev/null || true
	rm -rf "$SNAP"
}

# start DRIVE NET [MACHINE]: fields, as JSON, of the two placeholders and the machine.
start() {
	vm_api --log-path "$SNAP/log"
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/slot.elf\"}"
	ok PUT /drives/d "$(jq -n "{drive_id: \"d\", is_root_device: false, placeholder: true} + $1")"
	ok PUT /network-interfaces/n "$(jq -n "{iface_id: \"n\", placeholder: true} + $2")"
	ok PUT /machine-config "$(jq -n "{vcpu_count: 1, mem_size_mib: 32} + ${3:-{\}}")"
	ok PUT /actions '{"action_type": "InstanceStart"}'
	wait_for ready
	SEEN=0
}

# sees DRIVE CAPACITY ANSWER DATA NET LINK: what the guest reports when it is asked.
sees() {
	echo -n x >&7
	SEEN=$((SEEN + 6))
	for _ in $(seq 1000); do
		[ "$(grep -cxE '[0-9a-f]{8}' "$VM_DIR/out")" -lt "$SEEN" ] || break
		sleep 0.02
	done
	[ "$(grep -xE '[0-9a-f]{8}' "$VM_DIR/out" | tail -n 6)" = "$(printf '%08x\n' "$@")" ] ||
		fail "expected $*"
}

configured() { # configured JQ VALUE
	ok GET /vm/config
	[ "$(jq -c "$1" <<<"$BODY")" = "$2" ] || fail "$1 is not $2: $BODY"
}

@test "a drive comes, is replaced, goes and comes again; nothing half-applied" {
	for engine in Sync Async; do
		start "{io_engine: \"$engine\"}" '{}'
		sees 0 0 1 0 0 0
		configured '.drives[0] | [.placeholder, .path_on_host]' '[true,null]'
		refused PATCH /drives/d '{"drive_id": "d", "path_on_host": "/nonexistent"}' "path_on_host: open '/nonexistent'"
		refused PUT /drives/d "{\"drive_id\": \"d\", \"is_root_device\": false, \"is_read_only\": true, \"path_on_host\": \"$SNAP/a\"}" "is_read_only: not as the placeholder was declared"
		refused PUT /drives/d '{"drive_id": "d", "is_root_device": false}' "path_on_host: missing"
		refused PUT /drives/e "{\"drive_id\": \"e\", \"is_root_device\": false, \"path_on_host\": \"$SNAP/a\"}" "not supported after starting the microVM. There is no placeholder drive 'e'"
		refused DELETE /drives/e "" "there is no drive 'e'"
		sees 0 0 1 0 0 0
		ok PUT /drives/d "{\"drive_id\": \"d\", \"is_root_device\": false, \"path_on_host\": \"$SNAP/a\"}"
		configured '.drives[0] | [.placeholder, .path_on_host, .io_engine]' "[true,\"$SNAP/a\",\"$engine\"]"
		sees 2 2048 0 0x61616161 0 0
		refused PUT /drives/d "{\"drive_id\": \"d\", \"is_root_device\": false, \"path_on_host\": \"$SNAP/b\"}" "is in use, by '$SNAP/a'"
		ok PATCH /drives/d "{\"drive_id\": \"d\", \"path_on_host\": \"$SNAP/b\"}"
		sees 2 4096 0 0x62626262 0 0
		ok PATCH /drives/d '{"drive_id": "d", "path_on_host": null}'
		sees 2 0 1 0 0 0
		[ -z "$(ls -l "/proc/$VM_PID/fd" | grep "$SNAP/[ab]$")" ] || fail "a file is still open"
		ok DELETE /drives/d
		sees 0 0 1 0 0 0
		ok PATCH /drives/d "{\"drive_id\": \"d\", \"path_on_host\": \"$SNAP/a\"}"
		sees 2 2048 0 0x61616161 0 0
		ok DELETE /drives/d
		sees 2 0 1 0 0 0
		echo -n q >&7
		ends_with 0
	done
}

@test "an interface gets a tap, loses it and gets it again; its limits and policy with it" {
	[ -w /dev/net/tun ] || skip "no taps on this machine"
	ip tuntap add dev "$TAP" mode tap
	start '{}' '{guest_mac: "06:00:00:00:00:01"}'
	sees 0 0 1 0 0 0
	refused PATCH /network-interfaces/n '{"iface_id": "n", "host_dev_name": "no_such_tap"}' "host_dev_name: interface 'no_such_tap'"
	refused PATCH /network-interfaces/n '{"iface_id": "n", "host_dev_name": "lo"}' "host_dev_name: "
	refused PUT /network-interfaces/n "{\"iface_id\": \"n\", \"host_dev_name\": \"$TAP\", \"guest_mac\": \"06:00:00:00:00:02\"}" "guest_mac: not as"
	refused PUT /network-interfaces/n "{\"iface_id\": \"n\", \"host_dev_name\": \"$TAP\", \"policy\": {\"addresses\": [\"x\"]}}" "policy: addresses: 'x'"
	refused PUT /network-interfaces/m "{\"iface_id\": \"m\", \"host_dev_name\": \"$TAP\"}" "There is no placeholder network interface 'm'"
	sees 0 0 1 0 0 0
	ok PUT /network-interfaces/n "{\"iface_id\": \"n\", \"host_dev_name\": \"$TAP\", \"policy\": {\"egress_default\": \"Allow\"}}"
	sees 0 0 1 0 2 1
	configured '."network-interfaces"[0] | [.host_dev_name, .policy.egress_default]' "[\"$TAP\",\"Allow\"]"
	refused PATCH /network-interfaces/n "{\"iface_id\": \"n\", \"host_dev_name\": \"$TAP\"}" "busy"
	ok PATCH /network-interfaces/n '{"iface_id": "n", "host_dev_name": null}'
	sees 0 0 1 0 2 0
	configured '."network-interfaces"[0].host_dev_name' null
	ok PATCH /network-interfaces/n "{\"iface_id\": \"n\", \"host_dev_name\": \"$TAP\"}"
	sees 0 0 1 0 2 1
	ok DELETE /network-interfaces/n
	ok DELETE /network-interfaces/n
	sees 0 0 1 0 2 0
	ok GET /metrics
	echo -n q >&7
	ends_with 0
}

@test "snapshots: of empty slots, which are filled afterwards, and of filled ones" {
	start '{}' '{}' '{}'
	sees 0 0 1 0 0 0
	snap empty
	leave
	restore empty
	SEEN=0
	sees 0 0 1 0 0 0
	ok PUT /drives/d "{\"drive_id\": \"d\", \"is_root_device\": false, \"path_on_host\": \"$SNAP/a\"}"
	sees 2 2048 0 0x61616161 0 0
	snap full
	leave
	restore full
	SEEN=0
	sees 0 2048 0 0x61616161 0 0
	configured '.drives[0] | [.placeholder, .path_on_host]' "[true,\"$SNAP/a\"]"
	ok DELETE /drives/d
	sees 2 0 1 0 0 0
	echo -n q >&7
	ends_with 0
}

@test "what a placeholder cannot be is refused; before the start nothing comes or goes" {
	vm_api
	refused PUT /drives/d '{"drive_id": "d", "is_root_device": false}' "path_on_host: missing"
	refused PUT /drives/d '{"drive_id": "d", "is_root_device": true, "placeholder": true}' "placeholder: not for the root device"
	refused PUT /drives/d '{"drive_id": "d", "is_root_device": false, "placeholder": true, "overlay": "/tmp/o"}' "placeholder: not with an overlay"
	refused PUT /network-interfaces/n '{"iface_id": "n", "placeholder": true, "passt_socket": "/tmp/p"}' "placeholder: for taps only"
	refused PUT /network-interfaces/n '{"iface_id": "n", "placeholder": false}' "host_dev_name: missing"
	ok PUT /drives/d '{"drive_id": "d", "is_root_device": false, "placeholder": true}'
	refused DELETE /drives/d "" "not supported before starting the microVM"
	refused DELETE /network-interfaces/d "" "not supported before starting the microVM"
	refused PATCH /drives/d "{\"drive_id\": \"d\", \"path_on_host\": \"$SNAP/a\"}" "not supported before starting the microVM"
}
