#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# Memory that comes and goes (virtio-mem) with Linux guests: plugged, used, unplugged; what the guest gives
# back is seen as less memory of the process; snapshots with memory plugged.

load host
HOST_KERNELS=(minimal debian-6.12)
HOST_IMAGES=(initrd-minimal.cpio initrd-debian-6.12.cpio)
HOST_WITH=(snapshot)
HOST_LIMIT=400

# boot KERNEL INITRD RUN [MACHINE-JQ] [ARGS]: 128 MiB, and up to 1 GiB more. MemTotal is said all the time.
# plugged MIB: waits until the guest has so much; total LEAST MOST: until it says so, in KiB.
HOST_BEGIN='word() { printf "spore.run=%s" "$(sed "s/%/%25/g; s/ /%20/g; s/\"/%22/g" <<<"$1")"; }
boot() {
	vm_api --log-path "$SNAP/log"
	ok PUT /boot-source "$(jq -nc --arg k "$GUEST/$1" --arg i "$GUEST/$2" --arg a "console=ttyS0 reboot=k panic=-1 quiet pci=off cryptomgr.notests memhp_default_state=online_movable ${5:-} $(word "(while sleep 1;do grep MemTotal /proc/meminfo;done)& $3") spore.end=poweroff" "
		{kernel_image_path: \$k, initrd_path: \$i, boot_args: \$a}")"
	ok PUT /machine-config "$(jq -nc "{vcpu_count: 1, mem_size_mib: 128} ${4:-}")"
	ok PUT /hotplug/memory "{\"total_size_mib\": 1024}"
	ok PUT /metrics "{\"metrics_path\": \"/tmp/metrics\"}"
	ok PUT /actions "{\"action_type\": \"InstanceStart\"}"
}
ask() { ok PATCH /hotplug/memory "{\"requested_size_mib\": $1}"; }
now_plugged() { ok GET /hotplug/memory; jq .plugged_size_mib <<<"$BODY"; }
plugged() {
	for _ in $(seq 600); do
		[ "$(now_plugged)" != "$1" ] || return 0
		sleep 0.1
	done
	fail "$(now_plugged) MiB are plugged, expected $1"
}
total() {
	local now
	for _ in $(seq 300); do
		now=$(tr -d "\r" <"$VM_DIR/out" | sed -n "s/^MemTotal: *\([0-9]*\) kB$/\1/p" | tail -n 1)
		[ "${now:-0}" -lt "$1" ] || [ "$now" -gt "$2" ] || return 0
		sleep 0.1
	done
	fail "MemTotal is $now, expected $1 to $2"
}
rss() { awk "/^Rss(Anon|Shmem)/ { n += \$2 } END { print int(n / 1024) }" /proc/$VM_PID/status; }
metric() {
	api PUT /actions "{\"action_type\": \"FlushMetrics\"}"
	jq -s "map(.memory_hotplug.$1) | add" /tmp/metrics
}
# Fills and frees 300 MiB, as soon as there is room.
FILL="while [ \$(grep MemTotal /proc/meminfo|tr -dc 0-9) -lt 500000 ];do sleep 0.5;done;mount -o remount,size=500m /tmp;dd if=/dev/zero of=/tmp/f bs=1M count=300 2>/dev/null&&echo filled 1;sleep 4;rm /tmp/f;echo freed 1;sleep 1000"
grow_and_shrink() {
	wait_for MemTotal 120
	total 60000 131072
	ask 512
	plugged 512
	total 560000 660000
	wait_for "filled 1" 200
	[ "$(rss)" -gt 300 ] || fail "only $(rss) MiB"
	wait_for "freed 1"
	ask 0
	plugged 0
	total 60000 131072
	[ "$(rss)" -lt 250 ] || fail "still $(rss) MiB"
	[ "$(metric plug_bytes)" = 536870912 ] || fail "plugged $(metric plug_bytes)"
	[ "$(metric unplug_bytes)" = 536870912 ] || fail "unplugged $(metric unplug_bytes)"
	[ "$(metric unplug_discard_fails)" = 0 ] || fail "not given back"
}
'

@test "plugged, used, unplugged: the process grows and shrinks" {
	in_host <<<'
		boot minimal.vmlinux initrd-minimal.cpio "$FILL"
		refused PATCH /hotplug/memory "{\"requested_size_mib\": 3}" "requested_size_mib: 3"
		refused PATCH /hotplug/memory "{\"requested_size_mib\": 2048}" "requested_size_mib: 2048"
		grow_and_shrink
		# Again, as nothing was left behind.
		ask 128
		plugged 128'
}

@test "the same on Debian 6.12, with two processors and huge pages" {
	in_host <<<'
		boot debian-6.12.vmlinux initrd-debian-6.12.cpio "$FILL" "+ {vcpu_count: 2, mem_size_mib: 192, huge_pages: \"Transparent\"}" spore.modules=all
		wait_for MemTotal 200
		ask 512
		plugged 512
		wait_for "filled 1" 200
		wait_for "freed 1"
		ask 0
		plugged 0
		[ "$(rss)" -lt 330 ] || fail "still $(rss) MiB"'
}

@test "snapshots while memory is plugged: full, diff, and what came after" {
	in_host <<<'
		boot minimal.vmlinux initrd-minimal.cpio \
			"while [ \$(grep MemTotal /proc/meminfo|tr -dc 0-9) -lt 300000 ];do sleep 0.5;done;mount -o remount,size=200m /tmp;dd if=/dev/zero of=/tmp/z bs=1M count=60 2>/dev/null;dd if=/dev/urandom of=/tmp/f bs=1M count=8 2>/dev/null;rm /tmp/z;while md5sum /tmp/f;do sleep 0.3;done" \
			"+ {track_dirty_pages: true}"
		wait_for MemTotal 120
		ask 256
		plugged 256
		wait_for "/tmp/f" 120
		snap base
		ok PATCH /vm "{\"state\": \"Resumed\"}"
		ask 384
		plugged 384
		snap diff ".snapshot_type = \"Diff\""
		merge base diff
		leave
		restore base ".track_dirty_pages = true"
		[ "$(now_plugged)" = 384 ] || fail "$(now_plugged)"
		wait_for "/tmp/f" 60
		total 430000 600000
		ask 128
		plugged 128
		snap after
		verify after
		leave
		restore after
		plugged 128
		wait_for "/tmp/f" 60
		total 180000 270000
		ask 256
		plugged 256
		cat "$VM_DIR/out" >>"$ALL"
		[ "$(tr -d "\r" <"$ALL" | grep -E "^[0-9a-f]{32}  /tmp/f$" | sort -u | wc -l)" = 1 ] || fail "what was in memory has changed"'
}
