# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Snapshots in tests: sourced behind vm.bash. $SNAP is a directory of this test; every process that
# a microVM goes through writes to its own console, and $ALL collects them in order.

SNAP=$(mktemp -d)
ALL=$SNAP/all
: >"$ALL"

# boot_all KERNEL [MACHINE-JQ [DRIVE-JQ]]: a tiny guest with a drive, an entropy device, vsock, a place for an interface
# and metadata; until it says "ready". $CPU: its cpu-config.
boot_all() {
	vm_api
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/$1.elf\"}"
	[ -z "${CPU:-}" ] || ok PUT /cpu-config "$CPU"
	ok PUT /machine-config "$(jq -nc "{vcpu_count: 1, mem_size_mib: 32} | ${2:-.}")"
	truncate -s 1M "$SNAP/disk"
	ok PUT /drives/d "$(jq -nc --arg p "$SNAP/disk" "{drive_id: \"d\", path_on_host: \$p, is_root_device: false} | ${3:-.}")"
	ok PUT /entropy '{}'
	ok PUT /vsock "{\"guest_cid\": 3, \"uds_path\": \"$SNAP/vsock\"}"
	ok PUT /network-interfaces/eth0 '{"iface_id": "eth0", "guest_mac": "06:00:00:00:00:01", "placeholder": true}'
	ok PUT /mmds/config '{"version": "V2", "network_interfaces": ["eth0"]}'
	ok PUT /actions '{"action_type": "InstanceStart"}'
	wait_for ready
}

# snap NAME [JQ]: pauses the VM and takes a snapshot; it stays paused.
snap() {
	ok PATCH /vm '{"state": "Paused"}'
	ok PUT /snapshot/create "$(jq -nc --arg s "$SNAP/$1.state" --arg m "$SNAP/$1.mem" \
		"{snapshot_path: \$s, mem_file_path: \$m} ${2:+| $2}")"
}

# leave: what the VM has said so far is kept, and its process killed.
leave() {
	vm_kill
	cat "$VM_DIR/out" >>"$ALL"
}

# load_request NAME [JQ]: the body of PUT /snapshot/load.
load_request() {
	jq -nc --arg s "$SNAP/$1.state" --arg m "$SNAP/$1.mem" \
		"{snapshot_path: \$s, mem_backend: {backend_type: \"File\", backend_path: \$m},
			resume_vm: true} ${2:+| $2}"
}

# restore NAME [JQ]: a new process goes on with the snapshot. Its log is apart from the console, so that
# a line that one process begins and the next one ends stays whole.
restore() {
	vm_api --log-path "$SNAP/log"
	ok PUT /snapshot/load "$(load_request "$@")"
}

# merge BASE DIFF: puts the diff onto the base, in place.
merge() {
	"$TOP/build/spore-snapshot" merge "$SNAP/$1.state" "$SNAP/$1.mem" \
		"$SNAP/$2.state" "$SNAP/$2.mem" "$SNAP/$1.state" "$SNAP/$1.mem"
}

# verify NAME: the memory file is what the state file says.
verify() {
	"$TOP/build/spore-snapshot" verify "$SNAP/$1.state" "$SNAP/$1.mem"
}

# one_moment FILE: the memory of sweep.S is that of one moment. Prints the number that it begins with.
one_moment() {
	python3 - "$1" <<-'EOF'
		import struct, sys
		with open(sys.argv[1], "rb") as f:
		    memory = f.read()
		numbers = [struct.unpack_from("<Q", memory, at)[0] for at in range(0x200000, 0x3200000, 4096)]
		steps = sum(a != b for a, b in zip(numbers, numbers[1:]))
		assert numbers[0] - numbers[-1] == steps and steps in (0, 1), (numbers[0], numbers[-1], steps)
		print(numbers[0])
	EOF
}

# live NAME [JQ]: a live snapshot, until it is there. $EVENTS has what happened.
live() {
	local before
	before=$(grep -cE '"event":"snapshot(_failed)?"' "$EVENTS" || true)
	ok PUT /snapshot/create "$(jq -nc --arg s "$SNAP/$1.state" --arg m "$SNAP/$1.mem" \
		"{snapshot_path: \$s, mem_file_path: \$m, live: true} ${2:+| $2}")"
	for _ in $(seq 600); do
		[ "$(grep -cE '"event":"snapshot(_failed)?"' "$EVENTS" || true)" -gt "$before" ] && return
		sleep 0.02
	done
	fail "the live snapshot never ended: $(cat "$EVENTS")"
}

# move [JQ]: the VM goes on in a new process, which is the VM from then on.
move() {
	local pid=$VM_PID dir=$VM_DIR from=$API_SOCK to status=0 deadline
	rm -f "$SNAP/move"
	vm_api --log-path "$SNAP/log"
	ok PUT /vm/receive "{\"socket_path\": \"$SNAP/move\"}"
	to=$API_SOCK
	API_SOCK=$from
	ok PUT /vm/migrate "$(jq -nc --arg s "$SNAP/move" "{socket_path: \$s} ${1:+| $1}")"
	deadline=$((SECONDS + 240))
	while kill -0 "$pid" 2>/dev/null; do
		# It may be gone by now.
		BODY=$(curl -sS --max-time 20 --unix-socket "$from" http://localhost/vm/migrate 2>/dev/null) || true
		[[ $SECONDS -le $deadline && $BODY != *failed* ]] || fail "$BODY"
		sleep 0.1
	done
	wait "$pid" || status=$?
	[ "$status" = 4 ] || fail "the source ended with status $status"
	cat "$dir/out" >>"$ALL"
	API_SOCK=$to
}

# listen: what happens goes to $EVENTS from now on.
listen() {
	EVENTS=$SNAP/events.$((++STREAMS))
	: >"$EVENTS"
	curl -sS --no-buffer --unix-socket "$API_SOCK" http://localhost/events >"$EVENTS" 2>/dev/null 3>&- 7>&- &
}
STREAMS=0
