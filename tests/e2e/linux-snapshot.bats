#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# Snapshots of Linux guests under load, taken at random moments: nothing is lost or repeated, nothing
# gets stuck, clocks go forward, file systems are clean. SPORE_ROUNDS=200 makes 200 restores of the
# guest that is under all loads at once, which takes more than an hour in the emulated host.

load host
HOST_WITH=(snapshot)
HOST_LIMIT=300

setup_file() {
	host_setup
	gcc -std=gnu17 -Os -static tests/guest/peer.c -o build/guest/peer
}

# boot KERNEL INITRD VCPUS MACHINE-JQ WORDS: started through the API, with a disk (unless $ROOT is empty),
# entropy, and what $DEVICES says: lines of PATH=JSON.
HOST_BEGIN='ROOT=/tmp/root.ext4
boot() {
	local device
	[ -z "$ROOT" ] || cp --sparse=always "$GUEST/root.ext4" "$ROOT"
	vm_api --log-path "$SNAP/log"
	ok PUT /boot-source "$(jq -nc --arg k "$GUEST/$1" --arg i "$GUEST/$2" --arg a "console=ttyS0 reboot=k panic=-1 quiet pci=off cryptomgr.notests $5" "
		{kernel_image_path: \$k, boot_args: \$a} | if \"$2\" != \"\" then .initrd_path = \$i else . end")"
	[ -z "$ROOT" ] || ok PUT /drives/root "{\"drive_id\": \"root\", \"path_on_host\": \"$ROOT\", \"is_root_device\": true, \"cache_type\": \"Writeback\"}"
	for device in ${DEVICES:-}; do ok PUT "${device%%=*}" "${device#*=}"; done
	ok PUT /machine-config "$(jq -nc "{vcpu_count: $3, mem_size_mib: 128, huge_pages: \"Transparent\"} $4")"
	ok PUT /entropy "{}"
	ok PUT /actions "{\"action_type\": \"InstanceStart\"}"
}
# word COMMAND: as it stands on the command line of the kernel.
word() { printf "spore.run=%s" "$(sed "s/%/%25/g; s/ /%20/g; s/\"/%22/g" <<<"$1")"; }
quiet() { ! grep COMPLAINT <(grep -v ommand "$ALL") || fail "the kernel complained"; }
# What it complains about, but not the command line, where this stands.
WATCH="dmesg|grep -v ommand|grep -E \"lockup|stall|BUG:|Call Trace|I/O error|hung\"|sed s/^/COMPLAINT/"
WRITER="for i in \$(seq 120);do dd if=/dev/urandom of=/f\$i bs=16k count=4 2>/dev/null;sync;echo tick \$i;done;cat /f*|md5sum;echo 3 >/proc/sys/vm/drop_caches;cat /f*|md5sum;$WATCH"
# finished STATUS: collects the last console, and what the writer has said.
finished() {
	ends_with "$1" 120
	cat "$VM_DIR/out" >>"$ALL"
	[ "$(grep -oE "tick [0-9]+" "$ALL" | awk "\$2 == NR" | wc -l)" = 120 ] || fail "lost or repeated: $(grep -oE "tick [0-9]+" "$ALL" | tr "\n" " ")"
	[ "$(grep -oE "^[0-9a-f]{32}" "$ALL" | sort | uniq -c | awk "{ print \$1 }")" = 2 ] || fail "the disk changed what was written"
	quiet
	e2fsck -fy /tmp/root.ext4 >/tmp/fsck || [ $? = 1 ] || fail "$(cat /tmp/fsck)"
	! grep -vE "journal|^Pass|^spore-root|^e2fsck|wrong \(|Fix\?|^$|FILE SYSTEM WAS MODIFIED" /tmp/fsck || fail "$(cat /tmp/fsck)"
}
'

@test "writing to a disk, restored again and again at random moments" {
	in_host <<<'
		boot minimal.vmlinux "" 2 "" "$(word "$WRITER") spore.end=poweroff"
		wait_for "tick 1"
		for i in $(seq 8); do
			sleep 0.$((RANDOM % 10))
			snap s
			leave
			restore s
		done
		finished 3'
}

@test "moved into other processes while it writes to its disk" {
	in_host <<<'
		boot minimal.vmlinux "" 2 "" "$(word "$WRITER") spore.end=poweroff"
		wait_for "tick 1"
		for i in 1 2; do
			sleep 0.$((RANDOM % 10))
			move ".downtime_limit_ms = 3000"
		done
		grep -o "migration completed.*" "$SNAP/log"
		finished 3'
}

@test "the same with diffs that are merged, on Debian 6.12 with four processors" {
	in_host <<<'
		boot debian-6.12.vmlinux initrd-debian-6.12.cpio 4 "+ {track_dirty_pages: true, mem_size_mib: 192}" \
			"spore.root=/dev/vda $(word "$WRITER") spore.end=reboot"
		wait_for "tick 1" 120
		snap base
		for i in $(seq 4); do
			ok PATCH /vm "{\"state\": \"Resumed\"}"
			sleep 0.$((RANDOM % 10))
			snap "d$i" ".snapshot_type = \"Diff\""
			merge base "d$i"
			leave
			vm_api --log-path "$SNAP/log"
			ok PUT /snapshot/load "$(load_request base ".track_dirty_pages = true | .resume_vm = false")"
		done
		ok PATCH /vm "{\"state\": \"Resumed\"}"
		verify base
		finished 0'
}

@test "computing in floating point on four processors while clocks are watched" {
	in_host <<<'
		run="for j in 1 2 3 4;do awk '"'"'BEGIN{for(r=0;r<12;r++){s=0;for(i=1;i<=15000;i++)s+=1/(i*i+s);printf \"fp %.12f\\n\",s}}'"'"' & done;for i in \$(seq 60);do echo up \$(cut -d\" \" -f1 /proc/uptime) \$(date +%s);sleep 0.1;done;wait;$WATCH"
		boot minimal.vmlinux "" 4 "" "$(word "$run") spore.end=poweroff"
		wait_for "up "
		for i in 1 2 3 4 5; do
			sleep 0.$((RANDOM % 10))
			snap s
			leave
			restore s
		done
		ends_with 3 200
		cat "$VM_DIR/out" >>"$ALL"
		[ "$(grep -c "^fp " "$ALL")" = 48 ] || fail "$(grep -c "^fp " "$ALL") results"
		[ "$(tr -d "\r" <"$ALL" | grep "^fp " | sort -u | wc -l)" = 1 ] || fail "results differ"
		tr -d "\r" <"$ALL" | grep "^up " | awk "{ if (\$2 < u || \$3 < d || \$2 > u + 20 && NR > 1) exit 1; u = \$2; d = \$3 } END { exit NR != 60 }" ||
			fail "clocks: $(grep "^up " "$ALL" | tr "\n" " ")"
		quiet'
}

@test "the wall clock goes on from the snapshot, or is right when asked" {
	in_host <<<'
		boot minimal.vmlinux "" 1 "" "$(word "while sleep 0.2;do echo now \$(date +%s) end;done")"
		wait_for "now "
		ok PATCH /vm "{\"state\": \"Paused\"}"
		ok PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/s.state\", \"mem_file_path\": \"$SNAP/s.mem\"}"
		before=$(date +%s)
		leave
		sleep 12
		restore s
		wait_for "now "
		guest=$(grep -oE "now [0-9]+ end" "$VM_DIR/out" | head -1 | cut -d" " -f2)
		[ $((guest - before)) -lt 8 ] || fail "guest $guest, snapshot at $before"
		vm_kill
		restore s ".clock_realtime = true"
		wait_for "now "
		guest=$(grep -oE "now [0-9]+ end" "$VM_DIR/out" | head -1 | cut -d" " -f2)
		[ $((guest - before)) -gt 9 ] || fail "guest $guest, snapshot at $before, now $(date +%s)"'
}

@test "memory from a page fault handler" {
	in_host <<<'
		boot minimal.vmlinux "" 2 "" "$(word "$WRITER") spore.end=poweroff"
		wait_for "tick 5"
		snap s
		leave
		"$TOP/tests/e2e/uffd-handler" /tmp/handler.sock "$SNAP/s.mem" 7>&- &
		appears /tmp/handler.sock
		restore s ".mem_backend = {backend_type: \"Uffd\", backend_path: \"/tmp/handler.sock\"}"
		finished 3'
}

# loaded CONSOLE: ends the work of tests/guest/load, and judges it.
LOADED='loaded() {
	echo stop >&7
	wait_for "load: done" 120
	cat "$VM_DIR/out" >>"$ALL"
	tr -d "\r" <"$VM_DIR/out" >/tmp/said
	quiet
	awk "/^load: (memory|disk) / { if (\$3 != \$4 || \$3 < 3) exit 1 }" /tmp/said || fail "lost or repeated"
	grep -qE "^load: fp [1-9][0-9]* 1$" /tmp/said || fail "floating point"
	grep -qE "^load: clock [1-9][0-9]*$" /tmp/said || fail "clock"
}
mkdir /tmp/work
cp "$GUEST/peer" "$TOP/tests/guest/load" /tmp/work
tar -C /tmp/work -cf /tmp/work.tar .
WORK="/drives/work={\"drive_id\":\"work\",\"path_on_host\":\"/tmp/work.tar\",\"is_root_device\":false,\"is_read_only\":true}"
'

@test "disk, TCP, vsock, memory, timers and floating point at once, on four processors" {
	local rounds=${SPORE_ROUNDS:-6}
	HOST_LIMIT=$((400 + rounds * 20)) in_host <<<"ROUNDS=$rounds
$LOADED"'
		ip tuntap add dev tap0 mode tap
		ip addr add 10.0.0.1/24 dev tap0
		ip link set tap0 up
		"$GUEST/peer" tcp:10.0.0.1:5001 echo 7>&- &
		PEERS=$!
		"$GUEST/peer" unix:/tmp/v.sock_7 echo 7>&- &
		PEERS="$PEERS $!"
		trap "vm_kill; kill $PEERS" EXIT
		DEVICES="$WORK /vsock={\"guest_cid\":52,\"uds_path\":\"/tmp/v.sock\"}
			/network-interfaces/eth0={\"iface_id\":\"eth0\",\"host_dev_name\":\"tap0\"}"
		boot minimal.vmlinux "" 4 "+ {mem_size_mib: 192}" "$(word "tar xf /dev/vdb -C /tmp;sh /tmp/load all vsock") spore.end=poweroff"
		wait_for "load: working"
		for i in $(seq "$ROUNDS"); do
			sleep $((RANDOM % 2)).$((RANDOM % 10))
			snap s
			leave
			rm /tmp/v.sock
			restore s
		done
		loaded
		grep -E "^load: disk [1-9]" /tmp/said
		grep -E "^load: tcp [1-9]" /tmp/said || fail "no TCP"
		grep -E "^load: vsock [1-9]" /tmp/said || fail "no vsock"
		ends_with 3
		e2fsck -fy "$ROOT" >/tmp/fsck || [ $? = 1 ] || fail "$(cat /tmp/fsck)"'
}

@test "live: the guest goes on, and so does its snapshot, on four processors" {
	in_host <<<"$LOADED"'
		ROOT=
		DEVICES=$WORK
		boot minimal.vmlinux initrd-minimal.cpio 4 "+ {mem_size_mib: 192}" "$(word "tar xf /dev/vda -C /tmp;sh /tmp/load all") spore.end=poweroff"
		wait_for "load: working"
		listen
		for i in 1 2 3; do
			sleep 0.$((RANDOM % 10))
			live s
			! grep snapshot_failed "$EVENTS" || fail "$(cat "$EVENTS")"
		done
		sed -n "s/.*paused_us\":\([0-9]*\).*/paused for \1 us/p" "$EVENTS"
		verify s
		loaded
		ends_with 3
		restore s
		loaded
		ends_with 3'
}

@test "a host that lacks a feature of the guest's processor refuses its snapshot and names it" {
	[[ $("$TOP/tests/testhost/run" --info) == "mode: emulated"* ]] || skip "the test host is this machine"
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	make -C "$TOP" -s SKIP_DEPS=1 build/guest/echo.elf >&2
	# A snapshot of this machine's processor, which emulation has not all of.
	(
		source "$BATS_TEST_DIRNAME/vm.bash"
		source "$BATS_TEST_DIRNAME/snapshot.bash"
		trap 'vm_kill; rm -rf "$SNAP"' EXIT
		vm_api
		ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/echo.elf\"}"
		ok PUT /actions '{"action_type": "InstanceStart"}'
		wait_for ready
		snap other
		cp "$SNAP"/other.* "$BATS_TEST_TMPDIR"
	)
	in_host <<<"cp '$BATS_TEST_TMPDIR'/other.* \"\$SNAP\""'
		vm_api --log-path "$SNAP/log"
		refused PUT /snapshot/load "$(load_request other)" "which this host lacks"
		echo "$BODY"
		ends_with 1'
}
