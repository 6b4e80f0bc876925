#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# Files in the memory of Linux guests (virtio-pmem): a root file system without a block layer, written
# through DAX or shared read-only; what a guest has synced is in the host's file; snapshots.

load host
HOST_KERNELS=(minimal)
HOST_IMAGES=(root.ext4)
HOST_WITH=(snapshot)
HOST_LIMIT=400

# pmem ID PATH [JQ]: a device in the config; JQ adds fields.
# boot PMEMS RUN [JQ]: boots the minimal kernel; JQ changes the config.
HOST_BEGIN='pmem() { echo "{id: \"$1\", path_on_host: \"$2\"} + ({${3:-}})"; }
words() {
	local text=${1//%/%25}
	echo "${text// /%20}"
}
boot() {
	vm_spawn ${API:---no-api} ${LOG:+--log-path "$LOG"} --config-file "$(config "$GUEST/minimal.vmlinux" "
		.\"boot-source\".boot_args += \" cryptomgr.notests ${ARGS:-rootflags=dax} spore.run=$(words "$2") spore.end=poweroff\"
		| .metrics = {metrics_path: \"/tmp/metrics\"}
		| .pmem = [$1] ${3:+| $3}")"
}
metric() { jq -s "map($1) | add" /tmp/metrics; }
'

@test "a root written through DAX: what was synced is in the host's file" {
	in_host <<<'
		cp "$GUEST/root.ext4" /tmp/root; truncate -s 5000k /tmp/data
		boot "$(pmem data /tmp/data), $(pmem root /tmp/root "root_device: true")" \
			"grep ext4 /proc/mounts;cat /proc/cmdline;echo written>/new;dd if=/dev/urandom of=/big bs=64k count=64;sync;md5sum</big;cat /sys/block/pmem1/size;echo hello>/dev/pmem1;sync;echo synced 1;sleep 2"
		wait_for "synced 1" 120
		# Before its end, and without its doing.
		[ "$(debugfs -R "cat /new" /tmp/root 2>/dev/null)" = written ] || fail "not in the file"
		[ "$(head -c 5 /tmp/data)" = hello ] || fail "not in the second file"
		ends_with 3 120
		grep -aqE "^/dev/(root|pmem0) / ext4 rw,.*dax=always" "$VM_DIR/out" || fail "no DAX"
		said "root=/dev/pmem0 rw"
		printed 12288
		debugfs -R "dump /big /tmp/big" /tmp/root 2>/dev/null
		printed "$(md5sum </tmp/big)"
		[ "$(stat -c %s /tmp/data)" = 5120000 ] || fail "the file has grown"
		e2fsck -fn /tmp/root
		[ "$(metric .pmem_root.flush_count)" -gt 0 ] || fail "no flush"
		[ "$(metric .pmem.execute_fails)" = 0 ] || fail "a flush failed"'
}

@test "a read-only root of two microVMs; nothing of it can be written" {
	in_host <<<'
		cp "$GUEST/root.ext4" /tmp/root
		before=$(md5sum </tmp/root)
		for i in 1 2; do
			boot "$(pmem root /tmp/root "root_device: true, read_only: true")" \
				"cat /proc/cmdline;echo x>/new||echo cannot 1;echo x>/dev/pmem0;sync;echo alive 1;sleep 8"
			eval "pid$i=$VM_PID dir$i=$VM_DIR"
		done
		vm_spawn --no-api --config-file "$(config "$GUEST/minimal.vmlinux" ".pmem = [$(pmem root /tmp/root)]")"
		ends_with 152
		grep -q "path_on_host: .*in use" "$VM_DIR/err" || fail "$(cat "$VM_DIR/err")"
		for i in 1 2; do
			eval "VM_PID=\$pid$i VM_DIR=\$dir$i"
			wait_for "alive 1" 120
			said "root=/dev/pmem0 ro"
			said "cannot 1"
			ends_with 3 180
		done
		[ "$before" = "$(md5sum </tmp/root)" ] || fail "it was written"'
}

@test "flushes under a limit, which the API changes" {
	in_host <<<'
		cp "$GUEST/root.ext4" /tmp/root
		socket=$(mktemp -u); API="--api-sock $socket" API_SOCK=$socket
		boot "$(pmem root /tmp/root "root_device: true, rate_limiter: {ops: {size: 5, refill_time: 100000}}")" \
			"for i in \$(seq 30);do echo \$i>/f;sync;done;echo through 1"
		wait_for "SPORE-GUEST begin" 120
		sleep 3
		! grep -q "through 1" "$VM_DIR/out" || fail "no limit"
		refused PATCH /pmem/none "{\"id\": \"none\"}" "there is no pmem device"
		ok PATCH /pmem/root "{\"id\": \"root\", \"rate_limiter\": {\"ops\": {\"size\": 0, \"refill_time\": 0}}}"
		wait_for "through 1" 60
		ends_with 3 60
		[ "$(metric .pmem_root.rate_limiter_throttled_events)" -gt 0 ] || fail "not limited"
		[ "$(metric .patch_api_requests.pmem_fails)" = 1 ] || fail "fails"'
}

@test "a snapshot while it is written: the file and memory go on together" {
	in_host <<<'
		cp "$GUEST/root.ext4" /tmp/root
		API="--api-sock $SNAP/sock" API_SOCK=$SNAP/sock LOG=$SNAP/log
		boot "$(pmem root /tmp/root "root_device: true")" \
			"(read go </dev/console;echo>/tmp/go)& i=0;until [ -e /tmp/go ];do i=\$((i+1));dd if=/dev/urandom of=/f\$((i%60)) bs=16k count=4 2>/dev/null;sync;echo tick \$i;done;cat /f*|md5sum;echo 3 >/proc/sys/vm/drop_caches;cat /f*|md5sum" \
			"del(.metrics)"
		wait_for "tick 3" 120
		for i in 1 2 3; do
			sleep 0.$((RANDOM % 10))
			snap s
			leave
			restore s
		done
		wait_for tick 60
		echo >&7
		ends_with 3 180
		cat "$VM_DIR/out" >>"$ALL"
		grep -oE "tick [0-9]+" "$ALL" | awk "\$2 != NR { exit 1 }" || fail "lost or repeated"
		[ "$(grep -oE "^[0-9a-f]{32}" "$ALL" | sort | uniq -c | awk "{ print \$1 }")" = 2 ] || fail "what was written has changed"
		e2fsck -fn /tmp/root
		# A copy is as good; another file in its place is none of this guest.
		cp --sparse=always /tmp/root /tmp/copy
		mv /tmp/root /tmp/gone
		restore s ".pmem_overrides = [{id: \"root\", path_on_host: \"/tmp/copy\"}]"
		vm_kill
		truncate -s 20M /tmp/root
		vm_api --log-path "$SNAP/log"
		refused PUT /snapshot/load "$(load_request s)" "its file has 20971520 bytes, and had 50331648"'
}
