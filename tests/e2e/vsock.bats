#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# vsock with Linux guests: tests/guest/peer.c is at both ends. It comes to the guest as a disk.

load host
HOST_END='vm_kill; kill $(jobs -p) 2>/dev/null || true'

setup_file() {
	host_setup
	# Padded to whole sectors; what is behind an ELF file is ignored.
	gcc -std=gnu17 -Os -static tests/guest/peer.c -o build/guest/peer
	truncate -s %512 build/guest/peer
}

# boot KERNEL INITRD COMMAND: a guest with 2 vCPUs that runs COMMAND (blanks as %20) with the peer
# program as /tmp/peer.
HOST_BEGIN='cd /tmp
PEER=$TOP/build/guest/peer
boot() {
	vm_api
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/$1\", \"initrd_path\": \"$GUEST/$2\",
		\"boot_args\": \"console=ttyS0 reboot=k panic=-1 quiet pci=off cryptomgr.notests spore.run=cat%20/dev/vda>/tmp/peer;chmod%20+x%20/tmp/peer;$3 spore.end=poweroff\"}"
	ok PUT /machine-config "{\"vcpu_count\": 2, \"mem_size_mib\": 256, \"huge_pages\": \"Transparent\"}"
	ok PUT /drives/peer "{\"drive_id\": \"peer\", \"path_on_host\": \"$PEER\", \"is_root_device\": false, \"is_read_only\": true}"
	ok PUT /metrics "{\"metrics_path\": \"/tmp/metrics\"}"
	ok PUT /vsock "{\"guest_cid\": 52, \"uds_path\": \"/tmp/v.sock\"}"
	ok PUT /actions "{\"action_type\": \"InstanceStart\"}"
}
# vsock_metric NAME: the sum over all lines.
vsock_metric() {
	api PUT /actions "{\"action_type\": \"FlushMetrics\"}"
	jq -s "map(.vsock.$1) | add" /tmp/metrics
}
fds() {
	ls "/proc/$VM_PID/fd" | wc -l
}
# own_kib: memory that is written to, but for guest memory.
own_kib() {
	awk "/^Size:/ { size = \$2 } /^Private_Dirty:/ && size < 200000 { n += \$2 } END { print n }" /proc/$VM_PID/smaps
}
'

@test "200 streams from the host to Debian 6.12 and 200 back, slow readers and killed peers among them" {
	in_host <<<'
		"$PEER" unix:/tmp/v.sock_7 echo &
		boot debian-6.12.vmlinux initrd-debian-6.12.cpio "(/tmp/peer%20vsock:9%20echo&);/tmp/peer%20vsock:2:7%20streams%20200%20100000;sleep%20100"
		wait_for "peer: listening"
		"$PEER" unix:/tmp/v.sock:9 streams 200 100000
		wait_for "200 streams of 100000 bytes, 20 killed, 0 bad" 150
		[ "$(vsock_metric tx_queue_event_fails)" = 0 ]
		[ "$(vsock_metric rx_queue_event_fails)" = 0 ]
		for _ in $(seq 100); do
			[ "$(vsock_metric conns_added)" != "$(vsock_metric conns_removed)" ] || break
			sleep 0.1
		done
		[ "$(vsock_metric conns_added)" = "$(vsock_metric conns_removed)" ] || fail "connections are left"
		echo "added $(vsock_metric conns_added)"'
}

@test "the same with Debian 6.1, whose buffers are cut differently" {
	in_host <<<'
		"$PEER" unix:/tmp/v.sock_7 echo &
		boot debian-6.1.vmlinux initrd-debian-6.1.cpio "(/tmp/peer%20vsock:9%20echo&);/tmp/peer%20vsock:2:7%20streams%2050%20100000;sleep%20100"
		wait_for "peer: listening"
		"$PEER" unix:/tmp/v.sock:9 streams 50 100000
		wait_for "50 streams of 100000 bytes, 5 killed, 0 bad" 150'
}

@test "10,000 short connections leave nothing behind" {
	HOST_LIMIT=500 in_host <<<'
		"$PEER" unix:/tmp/v.sock_7 echo &
		boot minimal.vmlinux initrd-minimal.cpio "(/tmp/peer%20vsock:9%20echo&);/tmp/peer%20vsock:2:7%20short%205000%204;sleep%20400"
		wait_for "peer: listening"
		"$PEER" unix:/tmp/v.sock:9 short 100 4
		wait_for "5000 short connections, 0 bad" 300
		before=$(fds) own=$(own_kib)
		"$PEER" unix:/tmp/v.sock:9 short 5000 4
		for _ in $(seq 600); do
			[ "$(vsock_metric conns_added)" != "$(vsock_metric conns_removed)" ] || break
			sleep 0.1
		done
		[ "$(fds)" -le "$before" ] || fail "file descriptors: $before, then $(fds)"
		[ "$(own_kib)" -le $((own + 64)) ] || fail "$own KiB, then $(own_kib)"
		[ "$(vsock_metric conns_added)" = "$(vsock_metric conns_removed)" ] || fail "connections are left"
		[ "$(vsock_metric conns_added)" -ge 10100 ] || fail "$(vsock_metric conns_added) connections"'
}

@test "nobody at the other end: refused at once, both ways; the path goes with the process" {
	in_host <<<'
		boot minimal.vmlinux initrd-minimal.cpio "(/tmp/peer%20vsock:9%20echo&);sleep%202;timeout%201%20/tmp/peer%20vsock:2:7%20short%201%201||echo%20refused%20\$?;echo%20ready;sleep%20100"
		wait_for "peer: listening"
		[ -S /tmp/v.sock ]
		wait_for ready
		printf "CONNECT 10\n" | timeout 5 socat -t 2 - UNIX-CONNECT:/tmp/v.sock | { ! grep OK; } || true
		[ "$(printf "CONNECT 9\nhello\n" | timeout 20 socat -t 10 - UNIX-CONNECT:/tmp/v.sock)" = "OK 1073741825
hello" ]
		kill -TERM $VM_PID
		wait $VM_PID || true
		VM_PID=
		[ ! -e /tmp/v.sock ] || fail "the socket is still there"'
}

@test "an idle connection costs no wake-up" {
	in_host <<<'
		boot minimal.vmlinux initrd-minimal.cpio "(/tmp/peer%20vsock:9%20echo&);sleep%20100"
		wait_for "peer: listening"
		(printf "CONNECT 9\nx"; sleep 30) | socat - UNIX-CONNECT:/tmp/v.sock >/tmp/answer &
		for _ in $(seq 100); do [ "$(tail -c 1 /tmp/answer)" != x ] || break; sleep 0.1; done
		sleep 3
		switches() { sed -n "s/^voluntary_ctxt_switches:\t//p" /proc/$VM_PID/task/$VM_PID/status; }
		before=$(switches)
		sleep 5
		[ "$(switches)" -le $((before + 1)) ] || fail "woken $(($(switches) - before)) times"'
}
