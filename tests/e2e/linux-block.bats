#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# Disks under Linux guests, in the test host where this machine has no hardware virtualization:
# both engines and overlays with real file systems and a verifying load (tests/guest/blkload.c),
# the end of the monitor at any moment, discard, and changes while it runs.

load host
HOST_KERNELS=(minimal)
HOST_IMAGES=(root.ext4)
HOST_LIMIT=600

setup_file() {
	host_setup
	gcc -O2 -static tests/guest/blkload.c -o build/guest/blkload
}

# disk FILE: the root image with blkload in it.
# drive ID PATH [JQ]: a drive in the config; JQ adds fields.
# boot DRIVES RUN [VCPUS]: boots the minimal kernel; the first drive is the root device.
# show FILE...: the file systems are sound.
HOST_BEGIN='OVERLAY=$TOP/build/spore-overlay
disk() {
	cp --sparse=always "$GUEST/root.ext4" "$1"
	debugfs -w -R "write $GUEST/blkload /bin/blkload" "$1" 2>/dev/null >&2
	debugfs -w -R "sif /bin/blkload mode 0100755" "$1" 2>/dev/null >&2
}
drive() {
	echo "{drive_id: \"$1\", path_on_host: \"$2\", is_root_device: ($3 == 1), cache_type: \"Writeback\"} + ({${4:-}})"
}
words() {
	local text=${1//%/%25}
	echo "${text// /%20}"
}
boot() {
	vm_spawn ${API:---no-api} --config-file "$(config "$GUEST/minimal.vmlinux" "
		.\"machine-config\" += {huge_pages: \"Transparent\", vcpu_count: ${3:-1}}
		| .\"boot-source\".boot_args += \" cryptomgr.notests spore.run=$(words "$2") spore.end=poweroff\"
		| .metrics = {metrics_path: \"/tmp/metrics\"}
		| .drives = [$1]")"
}
metric() { jq -s "map($1) | add" /tmp/metrics; }
'

@test "root on ext4, and a verifying load, on each engine with two vCPUs" {
	in_host <<<'
		for engine in Sync Async; do
			disk /tmp/root; truncate -s 32M /tmp/data
			boot "$(drive root /tmp/root 1 "io_engine: \"$engine\""), $(drive data /tmp/data 0 "io_engine: \"$engine\"")" \
				"cat /sys/block/vda/queue/discard_max_bytes;ls /sys/block/vdb/mq|wc -l;blkload verify /dev/vdb 8 1;find / -xdev -type f|xargs cat|wc -c" 2
			ends_with 3 240
			said "verified"; printed 134217728; printed 2
			said "SPORE-GUEST end rc=0"
			e2fsck -fn /tmp/root
			[ "$(metric .block_data.write_zeroes_count)" -gt 0 ] || fail "no WRITE_ZEROES"
			[ "$(metric .block.execute_fails)" = 0 ] || fail "I/O errors"
			rm /tmp/metrics
		done'
}

@test "root and data on overlays: the bases stay as they were, commit and flatten" {
	in_host <<<'
		disk /tmp/root; head -c 32M /dev/urandom >/tmp/data
		before=$(cat /tmp/root /tmp/data | md5sum)
		for engine in Sync Async; do
			rm -f /tmp/*.ovl
			boot "$(drive root /tmp/root 1 "overlay: \"/tmp/root.ovl\", io_engine: \"$engine\""), $(drive data /tmp/data 0 "overlay: \"/tmp/data.ovl\", io_engine: \"$engine\"")" \
				"blkload verify /dev/vdb 6 7;echo $engine>/written;sync;md5sum</dev/vdb" 2
			ends_with 3 240
			said verified
			[ "$before" = "$(cat /tmp/root /tmp/data | md5sum)" ] || fail "a base changed"
			"$OVERLAY" check /tmp/root.ovl /tmp/root
			"$OVERLAY" info /tmp/data.ovl
		done
		[ "$(metric .block_data.overlay_base_bytes)" -gt 0 ] || fail "nothing read from the base"
		[ "$(metric .block_data.overlay_own_bytes)" -gt 0 ] || fail "nothing in the overlay"
		"$OVERLAY" flatten /tmp/data.ovl /tmp/data /tmp/flat
		printed "$(md5sum </tmp/flat)"
		"$OVERLAY" commit /tmp/root.ovl /tmp/root
		e2fsck -fn /tmp/root
		[ "$(debugfs -R "cat /written" /tmp/root 2>/dev/null)" = Async ] || fail "not committed"
		"$OVERLAY" check /tmp/root.ovl /tmp/root'
}

@test "kill -9 of the monitor under load: what was synced is there, on a file and on an overlay" {
	in_host <<<'
		disk /tmp/root
		crash() { # crash FIELDS DELAY: of the data drive; seconds under load
			rm -f /tmp/data.ovl; truncate -s 0 /tmp/data; truncate -s 32M /tmp/data
			boot "$(drive root /tmp/root 1 "overlay: \"/tmp/root.ovl\""), $(drive data /tmp/data 0 "$1")" \
				"while :;do cp /bin/busybox /b;rm /b;done & blkload stamp /dev/vdb 1000000 5"
			wait_for "synced 32" 60
			sleep "$2"
			vm_kill
			n=$(sed -n "s/^synced \([0-9]*\)\r*$/\1/p" "$VM_DIR/out" | tail -n 1)
			echo "killed at $n: $1"
			[ ! -e /tmp/data.ovl ] || "$OVERLAY" check /tmp/data.ovl /tmp/data
			"$OVERLAY" check /tmp/root.ovl /tmp/root
			"$OVERLAY" flatten /tmp/root.ovl /tmp/root /tmp/flat
			e2fsck -fy /tmp/flat >/dev/null || [ $? -le 1 ] || fail "e2fsck"
			e2fsck -fn /tmp/flat
			rm /tmp/flat
			boot "$(drive root /tmp/root 1 "overlay: \"/tmp/root.ovl\""), $(drive data /tmp/data 0 "$1")" \
				"blkload stamped /dev/vdb $n 5"
			ends_with 3 180
			said "found $n"
			rm /tmp/root.ovl
		}
		crash "io_engine: \"Async\"" 1.9
		crash "overlay: \"/tmp/data.ovl\"" 0.7
		crash "overlay: \"/tmp/data.ovl\", io_engine: \"Async\"" 1.3'
}

@test "discard is seen by du, a full host and a size of no whole sectors by the guest" {
	in_host <<<'
		disk /tmp/root
		mkdir /tmp/small
		mount -t tmpfs -o size=4M small /tmp/small
		truncate -s 1000100 /tmp/odd
		for kind in "" "overlay: \"/tmp/data.ovl\""; do
			rm -f /tmp/data /tmp/data.ovl /tmp/small/*
			truncate -s 32M /tmp/data /tmp/small/disk
			file=/tmp/data; [ -z "$kind" ] || file=/tmp/data.ovl
			boot "$(drive root /tmp/root 1 "overlay: \"/tmp/root.ovl\""), $(drive data /tmp/data 0 "$kind"),
				$(drive small /tmp/small/disk 0 "${kind/data/small\/disk}"), $(drive odd /tmp/odd 0)" \
				"dd if=/dev/urandom of=/dev/vdb bs=1M count=16 conv=fsync;echo full;read go </dev/console;blkdiscard /dev/vdb;dd if=/dev/vdb bs=1M|tr -d \\\\\\\\000|wc -c;dd if=/dev/zero of=/dev/vdc bs=1M count=16 conv=fsync||echo refused;cat /sys/block/vdd/size"
			wait_for full
			full=$(du -k "$file" | cut -f1)
			echo >&7
			ends_with 3 180
			after=$(du -k "$file" | cut -f1)
			echo "$full KiB, then $after KiB"
			[ "$full" -ge 16384 ] || fail "not written"
			[ "$after" -le 64 ] || fail "not discarded"
			printed 0
			printed refused
			printed 1953
			said "does not see the last 164 of 1000100 bytes"
			[ "$(metric .block_small.execute_fails)" -gt 0 ] || fail "no failure counted"
			[ "$(metric .block_data.execute_fails)" = 0 ] || fail "failures of another drive"
			rm -f /tmp/root.ovl /tmp/metrics
		done'
}

@test "PATCH of file and limits under load; what is wrong changes nothing" {
	in_host <<<'
		disk /tmp/root; truncate -s 8M /tmp/a; truncate -s 16M /tmp/b
		socket=$(mktemp -u); API="--api-sock $socket" API_SOCK=$socket
		boot "$(drive root /tmp/root 1 "overlay: \"/tmp/root.ovl\""), $(drive data /tmp/a 0 "io_engine: \"Async\"")" \
			"blkload verify /dev/vdb 60 3& while [ \$(cat /sys/block/vdb/size) != 32768 ];do sleep 0.1;done;kill \$!;echo grown;dd if=/dev/urandom of=/dev/vdb bs=1M count=2 seek=12 conv=fsync;echo written;sleep 1000" 2
		wait_for "SPORE-GUEST begin"
		sleep 2
		refused PATCH /drives/data "{\"drive_id\": \"data\", \"path_on_host\": \"/no\"}" "path_on_host"
		refused PATCH /drives/data "{\"drive_id\": \"data\", \"path_on_host\": \"/tmp\"}" "directory"
		refused PATCH /drives/data "{\"drive_id\": \"data\"}" "neither"
		refused PATCH /drives/none "{\"drive_id\": \"none\", \"path_on_host\": \"/tmp/b\"}" "there is no drive"
		refused PATCH /drives/root "{\"drive_id\": \"root\", \"path_on_host\": \"/tmp/b\"}" "overlay"
		api GET /vm/config; jq -e ".drives[1].path_on_host == \"/tmp/a\"" <<<"$BODY"
		ok PATCH /drives/data "{\"drive_id\": \"data\", \"rate_limiter\": {\"ops\": {\"size\": 20, \"refill_time\": 1000}}}"
		sleep 1
		ok PATCH /drives/data "{\"drive_id\": \"data\", \"rate_limiter\": {\"ops\": {\"size\": 0, \"refill_time\": 0}}}"
		ok PATCH /drives/data "{\"drive_id\": \"data\", \"path_on_host\": \"/tmp/b\"}"
		wait_for grown
		wait_for written
		ok PUT /actions "{\"action_type\": \"FlushMetrics\"}"
		[ "$(metric .block_data.rate_limiter_throttled_events)" -gt 0 ] || fail "not limited"
		[ "$(metric .block_data.update_count)" = 3 ] || fail "updates"
		[ "$(metric .patch_api_requests.drive_fails)" = 5 ] || fail "fails"
		[ "$(du -k /tmp/b | cut -f1)" -ge 2048 ] || fail "nothing written to the new file"'
}

@test "placeholders: a disk comes and is mounted, an interface gets carrier, and both go" {
	in_host <<<'
		disk /tmp/root
		mkdir /tmp/content; echo from-the-host >/tmp/content/file
		mke2fs -q -t ext4 -d /tmp/content /tmp/late 16M
		ip tuntap add dev late mode tap; ip link set late up
		socket=$(mktemp -u); API="--api-sock $socket" API_SOCK=$socket
		size=/sys/block/vdb/size carrier=/sys/class/net/eth0/carrier
		boot "$(drive root /tmp/root 1 "overlay: \"/tmp/root.ovl\""), {drive_id: \"late\", is_root_device: false, placeholder: true, cache_type: \"Writeback\"}]
			| .\"network-interfaces\" = [{iface_id: \"net\", placeholder: true}" \
			"ip link set eth0 up;echo slots \$(cat $size $carrier);while [ \$(cat $size) = 0 ];do sleep 0.1;done;mkdir /m;mount /dev/vdb /m&&cat /m/file;umount /m;while [ \$(cat $carrier) = 0 ];do sleep 0.1;done;echo carried;while [ \$(cat $size) != 0 ];do sleep 0.1;done;echo gone;while [ \$(cat $carrier) != 0 ];do sleep 0.1;done;echo dropped"
		wait_for "slots 0 0" 240
		ok PUT /drives/late "{\"drive_id\": \"late\", \"is_root_device\": false, \"path_on_host\": \"/tmp/late\"}"
		wait_for from-the-host
		ok PUT /network-interfaces/net "{\"iface_id\": \"net\", \"host_dev_name\": \"late\"}"
		wait_for carried
		ok DELETE /drives/late
		wait_for gone
		ok PATCH /network-interfaces/net "{\"iface_id\": \"net\", \"host_dev_name\": null}"
		wait_for dropped
		ends_with 3 120
		e2fsck -fn /tmp/late'
}

@test "two VMs on one base; a file in use is refused" {
	in_host <<<'
		disk /tmp/root
		for i in 1 2; do
			boot "$(drive root /tmp/root 1 "overlay: \"/tmp/root$i.ovl\"")" "echo vm$i >/who;sync;sleep 15;cat /who"
			eval "pid$i=$VM_PID dir$i=$VM_DIR"
		done
		vm_spawn --no-api --config-file "$(config "$GUEST/minimal.vmlinux" ".drives = [$(drive root /tmp/root 1 "overlay: \"/tmp/root1.ovl\"")]")"
		ends_with 152
		grep -q "overlay: .*in use" "$VM_DIR/err" || fail "$(cat "$VM_DIR/err")"
		vm_spawn --no-api --config-file "$(config "$GUEST/minimal.vmlinux" ".drives = [$(drive root /tmp/root 1)]")"
		ends_with 152
		grep -q "path_on_host: .*in use" "$VM_DIR/err" || fail "$(cat "$VM_DIR/err")"
		! "$OVERLAY" commit /tmp/root1.ovl /tmp/root || fail "commit while in use"
		for i in 1 2; do
			eval "VM_PID=\$pid$i VM_DIR=\$dir$i"
			ends_with 3 180
			printed vm$i
		done'
}
