#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# Snapshots of guests of a few instructions, on whatever /dev/kvm there is.

setup() {
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	load vm.bash
	load snapshot.bash
}

teardown() {
	vm_kill
	[ -z "${HANDLER:-}" ] || kill "$HANDLER" 2>/dev/null || true
	[ -z "${SOURCE_PID:-}" ] || kill -KILL "$SOURCE_PID" 2>/dev/null || true
	for tap in ${SOURCE_TAP:-} ${CLONE_TAP:-}; do
		ip link del "$tap" 2>/dev/null || true
	done
	[ -z "${HUGE_PAGES:-}" ] || echo "$HUGE_PAGES" >/proc/sys/vm/nr_hugepages
	rm -rf "$SNAP"
}

# boot GUEST [MACHINE-JQ]: starts it through the API.
boot() {
	vm_api
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/$1.elf\"}"
	ok PUT /machine-config "$(jq -nc "{vcpu_count: 1, mem_size_mib: 32} ${2:+| $2}")"
	ok PUT /entropy '{}'
	ok PUT /actions '{"action_type": "InstanceStart"}'
}

@test "a guest goes on in another process, and in the first one too" {
	boot echo
	wait_for ready
	echoes one
	refused PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/a\", \"mem_file_path\": \"$SNAP/b\"}" \
		"has to be paused"
	snap s
	ok PATCH /vm '{"state": "Resumed"}'
	echoes two
	vm_kill
	for i in 1 2 3; do
		restore s
		api GET /
		[ "$(jq -r .state <<<"$BODY")" = Running ]
		echoes "again-$i"
		! grep -qF ready "$VM_DIR/out" || fail "it began anew"
		vm_kill
	done
	restore s '.resume_vm = false'
	api GET /
	[ "$(jq -r .state <<<"$BODY")" = Paused ]
	printf 'x' >&7
	ok PATCH /vm '{"state": "Resumed"}'
	echoes y
	printf q >&7
	ends_with 0
}

@test "input that the guest has not read is in the snapshot" {
	boot echo
	wait_for ready
	ok PATCH /vm '{"state": "Paused"}'
	printf 'kept' >&7
	sleep 0.2
	ok PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/s.state\", \"mem_file_path\": \"$SNAP/s.mem\"}"
	vm_kill
	restore s
	wait_for kept
}

@test "four processors, a PIT, a disk and an entropy device" {
	truncate -s 1M "$SNAP/disk"
	vm_api
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/dirty.elf\"}"
	ok PUT /machine-config '{"vcpu_count": 4, "mem_size_mib": 32, "pit": true}'
	ok PUT /drives/d "{\"drive_id\": \"d\", \"path_on_host\": \"$SNAP/disk\", \"is_root_device\": false}"
	ok PUT /entropy '{}'
	ok PUT /actions '{"action_type": "InstanceStart"}'
	wait_for ready
	snap s
	api GET /vm/config
	before=$(jq -cS 'del(."boot-source", .logger)' <<<"$BODY")
	vm_kill
	restore s
	api GET /vm/config
	[ "$before" = "$(jq -cS 'del(."boot-source", .logger)' <<<"$BODY")" ]
	[ "$(jq '."boot-source"' <<<"$BODY")" = null ]
	printf x >&7
	ends_with 0
}

@test "of a guest with a memfd, transparent huge pages, more than 3 GiB" {
	for edit in '.memory_backend = "Memfd"' '.huge_pages = "Transparent"' '.mem_size_mib = 5000'; do
		boot echo "$edit"
		wait_for ready
		snap s
		verify s
		vm_kill
		restore s
		echoes works
		vm_kill
	done
}

# bats test_tags=outside
@test "in a jail, where paths are opened without following links" {
	cd /
	vm_api --jailed
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/echo.elf\"}"
	ok PUT /actions '{"action_type": "InstanceStart"}'
	wait_for ready
	snap s
	ln -s "$SNAP" "$SNAP.link"
	refused PUT /snapshot/create "{\"snapshot_path\": \"$SNAP.link/x\", \"mem_file_path\": \"$SNAP/y\"}" "ymbolic link"
	rm "$SNAP.link"
	vm_kill
	vm_api --jailed
	ok PUT /snapshot/load "$(load_request s ".working_set = \"$SNAP/s.set\"")"
	echoes works
	listen
	live r
	verify r
	! grep snapshot_failed "$EVENTS" || fail "$(cat "$EVENTS")"
	echoes lives
}

@test "a snapshot is as small as what the guest has touched" {
	boot echo '.mem_size_mib = 1024'
	wait_for ready
	snap s
	[ "$(stat -c %s "$SNAP/s.mem")" = $((1024 << 20)) ]
	[ "$(du -k "$SNAP/s.mem" | cut -f1)" -lt 1024 ]
	rss=$(awk '/^VmRSS/ { print $2 }' "/proc/$VM_PID/status")
	[ "$rss" -lt 8192 ] || fail "RSS $rss KiB after a snapshot"
}

@test "a diff chain merged is what a full snapshot is, byte for byte" {
	boot dirty '.track_dirty_pages = true'
	wait_for ready
	snap base
	cp "$SNAP/base.mem" "$SNAP/merged.mem"
	cp "$SNAP/base.state" "$SNAP/merged.state"
	for i in 1 2 3 4 5 6 7 8 9 10; do
		ok PATCH /vm '{"state": "Resumed"}'
		sleep 0.0$((RANDOM % 10))
		snap "d$i" '.snapshot_type = "Diff"'
		"$SPORE" --describe-snapshot "$SNAP/d$i.state" | grep -qx "type Diff"
		merge merged "d$i"
	done
	ok PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/full.state\", \"mem_file_path\": \"$SNAP/full.mem\"}"
	cmp "$SNAP/merged.mem" "$SNAP/full.mem"
	# Nothing has run since: a diff of nothing.
	snap d11 '.snapshot_type = "Diff"'
	[ "$(du -k "$SNAP/d11.mem" | cut -f1)" -lt "$(du -k "$SNAP/full.mem" | cut -f1)" ] || fail "diffs are not small"
	vm_kill
	verify merged
	restore merged
	printf x >&7
	ends_with 0
}

@test "diffs of a restored VM, tracked and not, and onto the file that was loaded" {
	boot dirty
	wait_for ready
	snap base
	vm_kill
	for track in true false; do
		cp "$SNAP/base.mem" "$SNAP/merged.mem"
		cp "$SNAP/base.state" "$SNAP/merged.state"
		restore base ".track_dirty_pages = $track"
		for i in 1 2 3; do
			sleep 0.05
			snap "d$i" '.snapshot_type = "Diff"'
			merge merged "d$i"
			[ "$i" = 3 ] || ok PATCH /vm '{"state": "Resumed"}'
		done
		ok PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/full.state\", \"mem_file_path\": \"$SNAP/full.mem\"}"
		cmp "$SNAP/merged.mem" "$SNAP/full.mem"
		ok PATCH /vm '{"state": "Resumed"}'
		sleep 0.05
		ok PATCH /vm '{"state": "Paused"}'
		# Onto the file of the snapshot before: it becomes complete, and a new file.
		ino=$(stat -c %i "$SNAP/full.mem")
		ok PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/full.state\", \"mem_file_path\": \"$SNAP/full.mem\", \"snapshot_type\": \"Diff\"}"
		[ "$ino" != "$(stat -c %i "$SNAP/full.mem")" ]
		"$SPORE" --describe-snapshot "$SNAP/full.state" | grep -qx "type Full"
		ok PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/check.state\", \"mem_file_path\": \"$SNAP/check.mem\"}"
		cmp "$SNAP/check.mem" "$SNAP/full.mem"
		verify full
		vm_kill
		restore full
		printf x >&7
		ends_with 0
	done
}

@test "merging what does not belong together is refused" {
	boot dirty '.track_dirty_pages = true'
	wait_for ready
	snap a
	ok PATCH /vm '{"state": "Resumed"}'
	sleep 0.05
	snap b '.snapshot_type = "Diff"'
	ok PATCH /vm '{"state": "Resumed"}'
	sleep 0.05
	snap c '.snapshot_type = "Diff"'
	run merge a c
	[ "$status" != 0 ]
	[[ $output == *"is not of"* ]]
	vm_kill
	# A diff cannot be loaded before it was merged.
	vm_api
	refused PUT /snapshot/load "$(load_request b)" "has it been merged"
	ends_with 1
	vm_api
	refused PUT /snapshot/load "$(load_request c ".mem_backend.backend_path = \"$SNAP/a.mem\"")" "not the memory of this"
	ends_with 1
}

@test "packed into one file, and unpacked somewhere else" {
	boot dirty '.track_dirty_pages = true'
	wait_for ready
	snap s
	ok PATCH /vm '{"state": "Resumed"}'
	sleep 0.05
	snap d '.snapshot_type = "Diff"'
	vm_kill
	local tool=$TOP/build/spore-snapshot
	mkdir "$SNAP/there"
	for name in s d; do
		"$tool" pack "$SNAP/$name.state" "$SNAP/$name.mem" "$SNAP/$name.pack"
		"$tool" unpack "$SNAP/$name.pack" "$SNAP/there/$name.state" "$SNAP/there/$name.mem"
		cmp "$SNAP/$name.mem" "$SNAP/there/$name.mem"
		[ "$("$tool" info "$SNAP/$name.state")" = "$("$tool" info "$SNAP/there/$name.state")" ]
	done
	[ "$(stat -c %s "$SNAP/s.pack")" -lt "$(($(du -k "$SNAP/s.mem" | cut -f1) * 1024))" ]
	"$tool" verify "$SNAP/there/s.state" "$SNAP/there/s.mem"
	"$tool" merge "$SNAP/there/s.state" "$SNAP/there/s.mem" "$SNAP/there/d.state" "$SNAP/there/d.mem" \
		"$SNAP/there/m.state" "$SNAP/there/m.mem"
	# What is cut off or changed is refused, and what is there stays.
	before=$(md5sum "$SNAP"/there/s.*)
	size=$(stat -c %s "$SNAP/s.pack")
	for n in 0 5 12 13 100 $((size / 2)) $((size - 5)) $((size - 1)); do
		head -c "$n" "$SNAP/s.pack" >"$SNAP/bad.pack"
		run "$tool" unpack "$SNAP/bad.pack" "$SNAP/there/s.state" "$SNAP/there/s.mem"
		[ "$status" = 1 ] || fail "cut at $n: $status $output"
	done
	for n in 0 8 12 20 200 $((size / 2)) $((size - 1)); do
		cp "$SNAP/s.pack" "$SNAP/bad.pack"
		printf '\xa5' | dd of="$SNAP/bad.pack" bs=1 seek="$n" conv=notrunc status=none
		! cmp -s "$SNAP/s.pack" "$SNAP/bad.pack" || continue
		run "$tool" unpack "$SNAP/bad.pack" "$SNAP/there/s.state" "$SNAP/there/s.mem"
		[ "$status" = 1 ] || fail "changed at $n: $status $output"
	done
	run "$tool" pack "$SNAP/s.state" "$SNAP/d.mem" "$SNAP/x.pack"
	[ "$status" = 1 ]
	[ ! -e "$SNAP/x.pack" ]
	[ "$before" = "$(md5sum "$SNAP"/there/s.*)" ]
	[ -z "$(find "$SNAP" -name '*.tmp')" ]
	cp "$SNAP/there/m.state" "$SNAP/m.state"
	cp --sparse=always "$SNAP/there/m.mem" "$SNAP/m.mem"
	restore m
	printf x >&7
	ends_with 0
}

@test "a load that fails says why and ends the process" {
	boot echo
	wait_for ready
	snap s
	vm_kill
	head -c 5000 "$SNAP/s.state" >"$SNAP/short.state"
	cp "$SNAP/s.mem" "$SNAP/short.mem"
	vm_api
	refused PUT /snapshot/load "$(load_request short)" "state file '$SNAP/short.state': the file has 5000 bytes"
	ends_with 1
	vm_api
	refused PUT /snapshot/load "$(load_request s '.snapshot_path = "/nonexistent"')" "/nonexistent"
	ends_with 1
	vm_api
	refused PUT /snapshot/load "$(load_request s '.mem_backend.backend_path = "/nonexistent"')" "/nonexistent"
	ends_with 1
	truncate -s 1M "$SNAP/short.mem"
	vm_api
	refused PUT /snapshot/load "$(load_request s ".mem_backend.backend_path = \"$SNAP/short.mem\"")" "it has 1048576 bytes"
	ends_with 1
}

@test "only a process that was told nothing of a microVM loads a snapshot" {
	boot echo
	wait_for ready
	snap s
	refused PUT /snapshot/load "$(load_request s)" "not supported after starting"
	vm_kill
	vm_api
	refused PUT /snapshot/load '{"snapshot_path": "x"}' "either \`mem_backend\` or \`mem_file_path\`"
	refused PUT /snapshot/load "$(load_request s '.mem_file_path = "x"')" "exclusively"
	ok PUT /metrics "{\"metrics_path\": \"$SNAP/metrics\"}"
	ok PUT /serial '{}'
	ok PUT /snapshot/load "$(load_request s)"
	echoes works
	[ "$(jq .latencies_us.load_snapshot "$SNAP/metrics")" -gt 0 ]
	vm_kill
	vm_api
	refused PUT /machine-config '{"vcpu_count": 99}' ""
	refused PUT /snapshot/load "$(load_request s)" "not allowed after configuring boot-specific resources"
	api GET /
	[ "$(jq -r .state <<<"$BODY")" = "Not started" ]
}

# bats test_tags=outside
@test "a create that fails leaves the VM paused, resumable, and the old snapshot" {
	boot dirty '.track_dirty_pages = true'
	wait_for ready
	snap s
	before=$(md5sum "$SNAP"/s.*)
	ok PATCH /vm '{"state": "Resumed"}'
	sleep 0.05
	ok PATCH /vm '{"state": "Paused"}'
	refused PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/no/such\", \"mem_file_path\": \"$SNAP/s.mem\"}" "no/such"
	refused PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/s.state\", \"mem_file_path\": \"$SNAP/s.state\"}" "at once"
	refused PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/s.state\", \"mem_file_path\": \"/dev/null\"}" "regular"
	[ "$before" = "$(md5sum "$SNAP"/s.*)" ]
	[ "$(ls "$SNAP" | grep -c tmp)" = 0 ]
	# What those would have had is in the next diff.
	snap d '.snapshot_type = "Diff"'
	ok PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/full.state\", \"mem_file_path\": \"$SNAP/full.mem\"}"
	merge s d
	cmp "$SNAP/s.mem" "$SNAP/full.mem"
	ok PATCH /vm '{"state": "Resumed"}'
	printf x >&7
	ends_with 0
}

# source: a microVM with a disk, a tap and a vsock device, and a snapshot of it. It goes on living, as
# SOURCE_PID. The tap is SOURCE_TAP, or there is none.
source_vm() {
	truncate -s 1M "$SNAP/disk"
	vm_api
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/echo.elf\"}"
	ok PUT /machine-config '{"vcpu_count": 1, "mem_size_mib": 32}'
	ok PUT /drives/d "{\"drive_id\": \"d\", \"path_on_host\": \"$SNAP/disk\", \"is_root_device\": false}"
	ok PUT /vsock "{\"guest_cid\": 3, \"uds_path\": \"$SNAP/vsock\"}"
	if [ -n "${SOURCE_TAP:-}" ]; then
		ip tuntap add dev "$SOURCE_TAP" mode tap
		ok PUT /network-interfaces/eth0 "{\"iface_id\": \"eth0\", \"host_dev_name\": \"$SOURCE_TAP\"}"
	fi
	ok PUT /actions '{"action_type": "InstanceStart"}'
	wait_for ready
	snap s
	ok PATCH /vm '{"state": "Resumed"}'
	SOURCE_PID=$VM_PID
	VM_PID=
}

@test "clones of a microVM that lives on: other disks, overlays, sockets" {
	source_vm
	local vsock=".vsock_override = {uds_path: \"$SNAP/vsock2\"}"
	# The socket of the source is not taken over.
	vm_api
	refused PUT /snapshot/load "$(load_request s)" "uds_path"
	ends_with 1
	# Its disk may be shared, which is worth a warning.
	restore s "$vsock"
	grep -q "in use by another microVM" "$SNAP/log" || fail "no warning"
	api GET /vm/config
	[ "$(jq -r .vsock.uds_path <<<"$BODY")" = "$SNAP/vsock2" ]
	[ -S "$SNAP/vsock2" ]
	echoes shared
	vm_kill
	rm "$SNAP/vsock2"
	rm "$SNAP/log"
	# Another file, and what is written to neither: an overlay.
	cp "$SNAP/disk" "$SNAP/copy"
	for edit in "path_on_host: \"$SNAP/copy\"" "path_on_host: \"$SNAP/copy\", overlay: \"$SNAP/over\""; do
		restore s "$vsock | .drive_overrides = [{drive_id: \"d\", $edit}]"
		api GET /vm/config
		[ "$(jq -r '.drives[0].path_on_host' <<<"$BODY")" = "$SNAP/copy" ]
		! grep -q "in use" "$SNAP/log" || fail "$(cat "$SNAP/log")"
		echoes works
		vm_kill
		rm "$SNAP/vsock2"
	done
	[ -f "$SNAP/over" ]
	restore s "$vsock | .drive_overrides = [{drive_id: \"d\", overlay: \"$SNAP/over2\"}]"
	[ -f "$SNAP/over2" ]
	vm_kill
	rm "$SNAP/vsock2"
	for wrong in '.drive_overrides = [{drive_id: "x", path_on_host: "/x"}]|no drive' \
		'.drive_overrides = [{drive_id: "d"}]|needs path_on_host' \
		'.network_overrides = [{iface_id: "eth0", host_dev_name: "x"}]|no interface' \
		'.drive_overrides = [{drive_id: "d", path_on_host: "/nonexistent"}]|/nonexistent'; do
		vm_api
		refused PUT /snapshot/load "$(load_request s "${wrong%|*}")" "${wrong##*|}"
		ends_with 1
	done
}

@test "clones of a microVM that lives on: another tap" {
	[ -w /dev/net/tun ] || skip "no taps on this machine"
	SOURCE_TAP=spsource$$ CLONE_TAP=spclone$$
	source_vm
	ip tuntap add dev "$CLONE_TAP" mode tap
	local vsock=".vsock_override = {uds_path: \"$SNAP/vsock2\"}"
	vm_api
	refused PUT /snapshot/load "$(load_request s "$vsock")" "host_dev_name"
	ends_with 1
	vm_api
	refused PUT /snapshot/load "$(load_request s "$vsock | .network_overrides = [{iface_id: \"eth0\"}]")" "needs one of"
	ends_with 1
	rm -f "$SNAP/vsock2"
	restore s "$vsock | .network_overrides = [{iface_id: \"eth0\", host_dev_name: \"$CLONE_TAP\"}]"
	api GET /vm/config
	[ "$(jq -r '."network-interfaces"[0].host_dev_name' <<<"$BODY")" = "$CLONE_TAP" ]
	echoes works
}

@test "clones of a microVM that lives on: an inherited tap, passt" {
	[ -w /dev/net/tun ] || skip "no taps on this machine"
	SOURCE_TAP=spsource$$ CLONE_TAP=spclone$$
	source_vm
	ip tuntap add dev "$CLONE_TAP" mode tap
	local vsock=".vsock_override = {uds_path: \"$SNAP/vsock2\"}" spore=$SPORE
	SPORE=$SNAP/spore
	printf '#!/bin/sh\nexec "%s" "%s" "%s" "$@"\n' "$TOP/tests/e2e/with-tap" "$CLONE_TAP" "$spore" >"$SPORE"
	chmod +x "$SPORE"
	restore s "$vsock | .network_overrides = [{iface_id: \"eth0\", tap_fd: 9}]"
	api GET /vm/config
	[ "$(jq '."network-interfaces"[0].host_dev_name' <<<"$BODY")" = null ] || fail "$BODY"
	ip link set "$CLONE_TAP" up
	[ "$(cat "/sys/class/net/$CLONE_TAP/carrier")" = 1 ] || fail "nobody is at the tap"
	echoes works
	vm_kill
	rm "$SNAP/vsock2"
	SPORE=$spore
	vm_api
	refused PUT /snapshot/load "$(load_request s "$vsock | .network_overrides = [{iface_id: \"eth0\", tap_fd: 9}]")" "tap_fd"
	ends_with 1
	rm -f "$SNAP/vsock2"
	python3 -c 'import socket, sys, time
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()
c = s.accept(); print("somebody has come", flush=True); time.sleep(60)' "$SNAP/passt" >"$SNAP/passt.log" 3>&- 7>&- &
	HANDLER=$!
	appears "$SNAP/passt"
	restore s "$vsock | .network_overrides = [{iface_id: \"eth0\", passt_socket: \"$SNAP/passt\"}]"
	for _ in $(seq 500); do [ -s "$SNAP/passt.log" ] && break; sleep 0.02; done
	[ -s "$SNAP/passt.log" ] || fail "nobody has come to passt's socket"
	echoes works
}

@test "everything by inherited descriptors, whose files have no names any more" {
	source_vm
	kill -KILL "$SOURCE_PID"
	rm "$SNAP/vsock"
	cp "$SNAP/disk" "$SNAP/copy"
	exec 40<"$SNAP/s.state" 41<"$SNAP/s.mem" 42<>"$SNAP/copy"
	rm "$SNAP"/s.* "$SNAP/disk" "$SNAP/copy"
	vm_api
	refused PUT /snapshot/load '{"snapshot_path": "/dev/fd/99", "mem_backend": {"backend_type": "File", "backend_path": "/dev/fd/41"}}' "not a descriptor that was inherited"
	ends_with 1
	vm_api
	ok PUT /snapshot/load '{"snapshot_path": "/dev/fd/40", "resume_vm": true,
		"mem_backend": {"backend_type": "File", "backend_path": "/dev/fd/41"},
		"drive_overrides": [{"drive_id": "d", "path_on_host": "/dev/fd/42"}]}'
	echoes works
	snap again
	vm_kill
	rm -f "$SNAP/vsock"
	# Under the rules of a jail they are the same.
	cd /
	vm_api --jailed
	ok PUT /snapshot/load '{"snapshot_path": "/dev/fd/40", "resume_vm": true,
		"mem_backend": {"backend_type": "Pager", "backend_path": "/dev/fd/41"},
		"drive_overrides": [{"drive_id": "d", "path_on_host": "/dev/fd/42"}]}'
	echoes jailed
	vm_kill
	exec 40<&- 41<&- 42<&-
	# Where the number means nothing, the state file's drive is refused and not something else.
	rm -f "$SNAP/vsock"
	vm_api
	refused PUT /snapshot/load "$(load_request again)" "'/dev/fd/42' is not a descriptor that was inherited"
	ends_with 1
}

# bats test_tags=outside
@test "a full disk: the old snapshot stays whole" {
	[ "$(id -u)" = 0 ] || skip "needs root for a small file system"
	mkdir "$SNAP/small"
	mount -t tmpfs -o size=6M small "$SNAP/small" 2>/dev/null || skip "cannot mount"
	boot dirty
	wait_for ready
	sleep 0.3
	ok PATCH /vm '{"state": "Paused"}'
	echo old | tee "$SNAP/small/state" >"$SNAP/small/mem"
	refused PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/small/state\", \"mem_file_path\": \"$SNAP/small/mem\"}" "No space left"
	[ "$(cat "$SNAP/small/state" "$SNAP/small/mem")" = "$(printf 'old\nold')" ]
	[ "$(ls "$SNAP/small" | wc -l)" = 2 ]
	umount "$SNAP/small"
	ok PATCH /vm '{"state": "Resumed"}'
	printf x >&7
	ends_with 0
}

@test "killed while it writes: there is always a snapshot that can be loaded" {
	boot dirty
	wait_for ready
	snap s
	vm_kill
	for i in $(seq 200); do
		# Every other one live, where a thread of its own writes.
		live=$((i % 2))
		restore s ".resume_vm = ($live == 1)"
		curl -sS --unix-socket "$API_SOCK" -X PUT http://localhost/snapshot/create -d \
			"$(jq -nc "{snapshot_path: \"$SNAP/s.state\", mem_file_path: \"$SNAP/s.mem\"} | if $live == 1 then .live = true else . end")" >/dev/null 2>&1 3>&- 7>&- &
		sleep 0.0$((RANDOM % 4))$((RANDOM % 10))
		vm_kill
		wait $! || true
		[ $((i % 20)) != 0 ] || verify s
	done
	rm -f "$SNAP"/s.mem.[0-9]*
	restore s
	printf x >&7
	ends_with 0
}

# steady ENGINE ROUNDS: steady.S is stopped and restored ROUNDS times; its letters go on without a gap.
steady() {
	truncate -s 32K "$SNAP/disk"
	vm_api --log-path "$SNAP/log"
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/steady.elf\"}"
	ok PUT /machine-config '{"vcpu_count": 1, "mem_size_mib": 16}'
	ok PUT /drives/d "{\"drive_id\": \"d\", \"path_on_host\": \"$SNAP/disk\", \"is_root_device\": false, \"io_engine\": \"$1\"}"
	ok PUT /entropy '{}'
	ok PUT /vsock "{\"guest_cid\": 3, \"uds_path\": \"$SNAP/vsock\"}"
	ok PUT /actions '{"action_type": "InstanceStart"}'
	for _ in $(seq "$2"); do
		sleep 0.0$((RANDOM % 10))
		snap s
		leave
		rm "$SNAP/vsock"
		restore s
	done
	for _ in $(seq 3000); do
		[ "$(cat "$ALL" "$VM_DIR/out" | wc -c)" -lt 110 ] || break
		sleep 0.02
	done
	printf x >&7
	ends_with 0
	cat "$VM_DIR/out" >>"$ALL"
	python3 - "$ALL" <<-'EOF'
		import string, sys
		letters, number = open(sys.argv[1], encoding="ascii").read().split("\n")[:2]
		count = int(number, 16)
		expected = ("bcdefghijklmnopqrstuvwxyza" * (count // 26 + 1))[:count]
		assert letters == expected, f"{len(letters)} letters, {count} counted"
		assert count > 100, count
	EOF
}

# SPORE_ROUNDS=200: so many times.
@test "stopped and restored at random moments, nothing is lost or repeated: disk, registers, clocks, console" {
	steady Sync "$((${SPORE_ROUNDS:-24} / 2))"
	: >"$ALL"
	steady Async "$((${SPORE_ROUNDS:-24} / 2))"
}

@test "memory from a page fault handler" {
	boot dirty
	wait_for ready
	snap s
	vm_kill
	"$TOP/tests/e2e/uffd-handler" "$SNAP/handler.sock" "$SNAP/s.mem" 7>&- 3>&- &
	HANDLER=$!
	appears "$SNAP/handler.sock"
	restore s ".mem_backend = {backend_type: \"Uffd\", backend_path: \"$SNAP/handler.sock\"}"
	sleep 0.2
	ok PATCH /vm '{"state": "Paused"}'
	ok PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/u.state\", \"mem_file_path\": \"$SNAP/u.mem\"}"
	vm_kill
	kill "$HANDLER" 2>/dev/null || true # unless it has seen that it is not needed any more
	restore u
	printf x >&7
	ends_with 0
}

@test "a hundred restores of one snapshot at once" {
	boot idle
	wait_for idle
	snap s
	vm_kill
	pids=() sockets=()
	for i in $(seq 100); do
		restore s
		pids+=("$VM_PID")
		sockets+=("$API_SOCK")
		VM_PID=
	done
	for i in $(seq 0 99); do
		API_SOCK=${sockets[$i]}
		api GET /
		[ "$(jq -r .state <<<"$BODY")" = Running ] || fail "number $i: $BODY"
		kill -KILL "${pids[$i]}"
		wait "${pids[$i]}" || true
	done
}

# faults: page faults that the vCPU's thread has met so far.
faults() {
	grep -l "^vcpu 0$" /proc/"$VM_PID"/task/*/comm | sed 's/comm$/stat/' | xargs sed 's/.*) //' | cut -d' ' -f8
}

# bats test_tags=outside
@test "a working set is recorded by one restore and brought in by the next ones" {
	boot sweep '.mem_size_mib = 64'
	wait_for ready
	snap s
	vm_kill
	local with written
	# A busy machine needs more than 1.5 s to write to all of it once.
	for ms in 1500 6000 24000; do
		with=".working_set = \"$SNAP/s.set\" | .working_set_ms = $ms"
		restore s "$with"
		listen
		for _ in $(seq 3000); do
			grep -q '"event":"working_set"' "$EVENTS" && break
			sleep 0.02
		done
		written=$(sed -n 's/.*"event":"working_set".*"written":\([0-9]*\).*/\1/p' "$EVENTS")
		[ "$written" -lt 12000 ] || break
		vm_kill
		rm "$SNAP/s.set"
	done
	[ "$written" -ge 12000 ] || fail "$(cat "$EVENTS")"
	[ -s "$SNAP/s.set" ]
	[ ! -e "$SNAP/s.set.tmp" ]
	before=$(faults)
	[ "$before" -ge 10000 ] || fail "$before faults"
	vm_kill
	# Paused until the thread that brings them has ended.
	restore s "$with | .resume_vm = false"
	for _ in $(seq 500); do
		[ "$(ls /proc/"$VM_PID"/task | wc -l)" -gt 2 ] || break
		sleep 0.02
	done
	ok PATCH /vm '{"state": "Resumed"}'
	sleep 1.5
	after=$(faults)
	[ "$((after * 5))" -lt "$before" ] || fail "$after faults instead of $before"
	printf x >&7
	ends_with 0
	# While it runs; of another snapshot; a file that is none: never more than a hint.
	restore s "$with"
	printf x >&7
	ends_with 0
	restore s
	snap t
	vm_kill
	restore t "$with"
	grep -q "s.set': it is that of another snapshot" "$SNAP/log"
	printf x >&7
	ends_with 0
	echo nonsense >"$SNAP/bad.set"
	restore s ".working_set = \"$SNAP/bad.set\""
	grep -q "bad.set'" "$SNAP/log"
	printf x >&7
	ends_with 0
	vm_api
	refused PUT /snapshot/load "$(load_request s "$with | .mem_backend.backend_type = \"Uffd\"")" "needs the memory backend File or Pager"
}

# pager NAME [JQ]: a restore whose memory a thread brings from the file.
pager() {
	restore "$1" ".mem_backend.backend_type = \"Pager\" ${2:+| $2}"
}

@test "memory that a thread brings from the file, with a working set, in a jail, onto another snapshot" {
	boot sweep '.mem_size_mib = 64'
	wait_for ready
	snap s
	vm_kill
	pager s '.resume_vm = false'
	[ "$(awk '/^VmRSS/ { print $2 }' "/proc/$VM_PID/status")" -lt 8192 ] || fail "memory is there before it is needed"
	# All of it is brought by writing it; only what is renewed differs, in the first MiB.
	ok PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/t.state\", \"mem_file_path\": \"$SNAP/t.mem\"}"
	cmp <(tail -c +$((0x100001)) "$SNAP/s.mem") <(tail -c +$((0x100001)) "$SNAP/t.mem")
	vm_kill
	pager t '.track_dirty_pages = true'
	listen
	sleep 0.2
	snap t '.snapshot_type = "Diff"'
	verify t
	ok PATCH /vm '{"state": "Resumed"}'
	printf x >&7
	ends_with 0
	# The number that was written last, and the one before: nothing of what the file had elsewhere.
	pager s ".working_set = \"$SNAP/p.set\" | .working_set_ms = 1000"
	listen
	for _ in $(seq 300); do
		grep -q '"event":"working_set"' "$EVENTS" && break
		sleep 0.02
	done
	snap u
	one_moment "$SNAP/u.mem"
	vm_kill
	pager s ".working_set = \"$SNAP/p.set\" | .resume_vm = false"
	# Its own threads: main, vCPU, pager.
	for _ in $(seq 500); do
		[ "$(ls /proc/"$VM_PID"/task | wc -l)" -gt 3 ] || break
		sleep 0.02
	done
	[ "$(awk '/^RssAnon/ { print $2 }' "/proc/$VM_PID/status")" -gt 45000 ] || fail "the working set was not brought"
	ok PATCH /vm '{"state": "Resumed"}'
	printf x >&7
	ends_with 0
	cd /
	vm_api --jailed
	ok PUT /snapshot/load "$(load_request s '.mem_backend.backend_type = "Pager"')"
	printf x >&7
	ends_with 0
	truncate -s 32M "$SNAP/s.mem"
	vm_api
	refused PUT /snapshot/load "$(load_request s '.mem_backend.backend_type = "Pager"')" "guest's memory 67108864"
	ends_with 1
}

@test "the same in pages of 2 MiB" {
	[ -w /proc/sys/vm/nr_hugepages ] || skip "needs root for huge pages"
	HUGE_PAGES=$(cat /proc/sys/vm/nr_hugepages)
	echo $((HUGE_PAGES + 32)) >/proc/sys/vm/nr_hugepages
	boot sweep '.mem_size_mib = 64'
	wait_for ready
	snap s
	vm_kill
	pager s '.huge_pages = "2M"'
	for _ in $(seq 500); do
		[ "$(awk '/^Private_Hugetlb/ { print $2 }' "/proc/$VM_PID/smaps_rollup")" -lt 49152 ] || break
		sleep 0.02
	done
	[ "$(awk '/^Private_Hugetlb/ { print $2 }' "/proc/$VM_PID/smaps_rollup")" -ge 49152 ] || fail "not in huge pages"
	snap u
	one_moment "$SNAP/u.mem"
	verify u
	ok PATCH /vm '{"state": "Resumed"}'
	printf x >&7
	ends_with 0
}

@test "live: memory and state are of one moment, and the guest goes on meanwhile" {
	boot sweep '.mem_size_mib = 64 | .huge_pages = "Transparent"'
	wait_for ready
	listen
	for i in 1 2 3; do
		live s
		number=$(one_moment "$SNAP/s.mem")
		verify s
		api GET /
		[ "$(jq -r .state <<<"$BODY")" = Running ]
		[ "$number" -gt "${last:-0}" ] || fail "the guest stood still at $number"
		last=$number
	done
	[ "$(grep -c '"event":"snapshot_begun"' "$EVENTS")" = 3 ]
	[ "$(grep '"event":"snapshot"' "$EVENTS" | grep -o '"paused_us":[0-9]' | wc -l)" = 3 ]
	[ "$(ls "/proc/$VM_PID/task" | wc -l)" -le 3 ] || fail "a thread is left"
	# Of a paused one: the same as one that is not live, and it stays paused.
	ok PATCH /vm '{"state": "Paused"}'
	live p
	api GET /
	[ "$(jq -r .state <<<"$BODY")" = Paused ]
	snap q
	cmp "$SNAP/p.mem" "$SNAP/q.mem"
	vm_kill
	# The restored one has its memory over a file, and is snapshotted live as well.
	for track in false true; do
		restore s ".track_dirty_pages = $track"
		listen
		live r
		[ "$(one_moment "$SNAP/r.mem")" -ge "$last" ]
		verify r
		vm_kill
	done
	restore r
	printf x >&7
	ends_with 0
}

# bats test_tags=outside
@test "live: diffs, one at a time, failures" {
	boot sweep '.mem_size_mib = 64 | .track_dirty_pages = true'
	wait_for ready
	listen
	snap base
	for i in 1 2 3; do
		ok PATCH /vm '{"state": "Resumed"}'
		live "d$i" '.snapshot_type = "Diff"'
		"$SPORE" --describe-snapshot "$SNAP/d$i.state" | grep -qx "type Diff"
		merge base "d$i"
		verify base
		one_moment "$SNAP/base.mem"
	done
	# One that fails while the guest runs: the next diff has what it would have had.
	mkdir "$SNAP/small"
	if mount -t tmpfs -o size=6M small "$SNAP/small" 2>/dev/null; then
		echo old | tee "$SNAP/small/s.state" >"$SNAP/small/s.mem"
		live small/s '.snapshot_type = "Diff"'
		grep -q '"event":"snapshot_failed".*No space left' "$EVENTS" || fail "$(cat "$EVENTS")"
		[ "$(cat "$SNAP"/small/s.*)" = "$(printf 'old\nold')" ]
		[ "$(ls "$SNAP/small" | wc -l)" = 2 ]
		umount "$SNAP/small"
	fi
	# Another one meanwhile: asked for on the same connection, as soon as the first has begun.
	request() { # request NAME
		echo "http://localhost/snapshot/create -sS -X PUT -w %{http_code}\n -d {\"snapshot_path\":\"$SNAP/$1.state\",\"mem_file_path\":\"$SNAP/$1.mem\",\"live\":true}"
	}
	before=$(grep -c '"event":"snapshot"' "$EVENTS" || true)
	# shellcheck disable=SC2046
	run curl --unix-socket "$API_SOCK" $(request k) --next --unix-socket "$API_SOCK" $(request l)
	[[ $output == *204*"still being written"*400* ]] || fail "$output"
	for _ in $(seq 600); do
		[ "$(grep -c '"event":"snapshot"' "$EVENTS" || true)" -gt "$before" ] && break
		sleep 0.02
	done
	verify k
	[ ! -e "$SNAP/l.state" ]
	[ "$(ls "$SNAP" | grep -c tmp)" = 0 ]
	ok PATCH /vm '{"state": "Paused"}'
	snap d4a '.snapshot_type = "Diff"'
	merge k d4a
	ok PATCH /vm '{"state": "Resumed"}'
	snap base
	snap d4 '.snapshot_type = "Diff"'
	ok PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/full.state\", \"mem_file_path\": \"$SNAP/full.mem\"}"
	merge base d4
	cmp "$SNAP/base.mem" "$SNAP/full.mem"
	ok PATCH /vm '{"state": "Resumed"}'
	printf x >&7
	ends_with 0
}

@test "live: it ends with the microVM; shared memory; what cannot be live is refused" {
	boot sweep '.mem_size_mib = 64'
	wait_for ready
	ok PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/k.state\", \"mem_file_path\": \"$SNAP/k.mem\", \"live\": true}"
	printf x >&7
	ends_with 0
	boot sweep '.mem_size_mib = 64 | .memory_backend = "Memfd"'
	wait_for ready
	listen
	live m
	one_moment "$SNAP/m.mem"
	verify m
	vm_kill
	restore m
	refused PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/l.state\", \"mem_file_path\": \"$SNAP/l.mem\", \"live\": true, \"snapshot_type\": \"Diff\"}" "needs track_dirty_pages"
	printf x >&7
	ends_with 0
}

# bats test_tags=outside
@test "versions, and what a state file holds" {
	[ "$("$SPORE" --snapshot-version)" = v1.0.0 ]
	boot echo
	wait_for ready
	snap s
	run "$SPORE" --describe-snapshot "$SNAP/s.state"
	[ "$status" = 0 ]
	[ "${lines[0]}" = v1.0.0 ]
	[[ $output == *"type Full"*"vcpus 1"*"section 'VCPU' 0"* ]]
	"$SPORE" --describe-snapshot "$SNAP/s.state" --json | jq -e '.version == "v1.0.0" and
		.snapshot.type == "Full" and .snapshot.vcpus == 1 and .snapshot.parent == null and
		any(.sections[]; .tag == "VCPU" and .bytes > 0)'
	run "$SPORE" --describe-snapshot /etc/passwd
	[ "$status" = 1 ]
	[[ $output == *"not a snapshot of spore"* ]]
}
