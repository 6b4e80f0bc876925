#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# Forks of a Linux guest at work: all of them go on, with disks that are clean.

load host
HOST_WITH=(snapshot)
HOST_LIMIT=900

setup_file() {
	host_setup
	gcc -std=gnu17 -Os -static tests/guest/peer.c -o build/guest/peer
}

@test "a guest that writes to its disk and reads its entropy device is forked twice; three go on to the end" {
	in_host <<'EOF'
	WATCH="dmesg|grep -v ommand|grep -E \"lockup|stall|BUG:|Call Trace|I/O error|hung\"|sed s/^/COMPLAINT/"
	RUN="cat /dev/hwrng >/dev/null 2>&1 & for i in \$(seq 90);do dd if=/dev/urandom of=/f\$i bs=16k count=4 2>/dev/null;sync;echo tick \$i;done;cat /f*|md5sum;echo 3 >/proc/sys/vm/drop_caches;cat /f*|md5sum;$WATCH"
	CHILDREN=
	trap 'vm_kill; [ -z "$CHILDREN" ] || kill -KILL $CHILDREN 2>/dev/null' EXIT
	cp --sparse=always "$GUEST/root.ext4" /tmp/parent.ext4
	vm_api --log-path "$SNAP/log"
	ok PUT /boot-source "$(jq -nc --arg k "$GUEST/minimal.vmlinux" --arg r "$(sed "s/%/%25/g; s/ /%20/g; s/\"/%22/g" <<<"$RUN")" \
		'{kernel_image_path: $k, boot_args: "console=ttyS0 reboot=k panic=-1 quiet pci=off cryptomgr.notests spore.run=\($r) spore.end=poweroff"}')"
	ok PUT /drives/root '{"drive_id": "root", "path_on_host": "/tmp/parent.ext4", "is_root_device": true, "cache_type": "Writeback", "io_engine": "Async"}'
	ok PUT /machine-config '{"vcpu_count": 2, "mem_size_mib": 128, "memory_backend": "Memfd"}'
	ok PUT /vsock '{"guest_cid": 3, "uds_path": "/tmp/parent.vsock"}'
	ok PUT /entropy '{}'
	ok PUT /actions '{"action_type": "InstanceStart"}'
	wait_for "tick 1"
	for i in 1 2; do
		"$SPORE" --api-sock "/tmp/child$i.sock" --log-path "$SNAP/log" --shell vcpus=2,mem_mib=128 \
			</dev/null >"/tmp/child$i.out" 2>&1 &
		CHILDREN+=" $!"
		appears "/tmp/child$i.sock"
		wait_for "tick $((i * 8))"
		ok PUT /vm/fork "$(jq -nc --arg i "$i" '{children: [{socket: "/tmp/child\($i).sock",
			vsock_override: {uds_path: "/tmp/child\($i).vsock"},
			drive_overrides: [{drive_id: "root", path_on_host: "/tmp/child\($i).ext4", copy: true}]}]}')"
		echo "$BODY" >&2
	done
	# judge NAME FIRST: what it has said since tick FIRST at the latest, and its disk.
	judge() {
		local first
		grep -q "COMPLAINT" <(grep -v ommand "/tmp/$1.out") && fail "$1: the kernel complained: $(cat "/tmp/$1.out")"
		first=$(tr -d "\r" <"/tmp/$1.out" | awk '/^tick [0-9]+$/ && !n++ { print $2 }')
		[ "${first:-99}" -le "$2" ] || fail "$1 begins with tick $first"
		[ "$(tr -d "\r" <"/tmp/$1.out" | awk '/^tick [0-9]+$/ { printf "%s ", $2 }')" = "$(seq -s " " "$first" 90) " ] ||
			fail "$1: lost or repeated: $(cat "/tmp/$1.out")"
		[ "$(grep -oE "^[0-9a-f]{32}" "/tmp/$1.out" | sort | uniq -c | awk '{ print $1 }')" = 2 ] ||
			fail "$1: the disk changed what was written"
		e2fsck -fy "/tmp/$1.ext4" >/tmp/fsck || [ $? = 1 ] || fail "$1: $(cat /tmp/fsck)"
		! grep -vE "journal|^Pass|^spore-root|^e2fsck|wrong \(|Fix\?|^$|FILE SYSTEM WAS MODIFIED" /tmp/fsck || fail "$1: $(cat /tmp/fsck)"
	}
	ends_with 3 150
	for pid in $CHILDREN; do
		for _ in $(seq 3000); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
		code=0
		wait "$pid" || code=$?
		[ "$code" = 3 ] || fail "a child ended with $code: $(cat /tmp/child*.out)"
	done
	CHILDREN=
	cp "$VM_DIR/out" /tmp/parent.out
	judge parent 1
	judge child1 90
	judge child2 90
	[ "$(grep -ohE "^[0-9a-f]{32}" /tmp/*.out | sort -u | wc -l)" = 3 ] || fail "they have written the same"
	[ "$(grep -c "SPORE-GUEST begin" /tmp/child1.out /tmp/child2.out | grep -c ":0")" = 2 ] || fail "one began anew"
EOF
}

# Each on a network of its own with the same addresses. What a child had open there ends, and what it opens
# then goes to its own peers.
@test "a guest whose disk, TCP, vsock and memory are busy is forked, running and paused; the parent's memory is as before" {
	in_host <<'EOF'
	OTHERS=
	trap 'vm_kill; kill -KILL $OTHERS 2>/dev/null || true' EXIT
	mkdir /tmp/work
	cp "$GUEST/peer" "$TOP/tests/guest/load" /tmp/work
	tar -C /tmp/work -cf /tmp/work.tar .
	# network NAME: a namespace with a tap and the guest's peer in it, and one for its vsock.
	network() {
		ip netns add "$1"
		ip -n "$1" link set lo up
		ip -n "$1" tuntap add dev tap0 mode tap
		ip -n "$1" addr add 10.0.0.1/24 dev tap0
		ip -n "$1" link set tap0 address 02:00:00:00:00:01 up # whom the guest knows
		ip netns exec "$1" "$GUEST/peer" tcp:10.0.0.1:5001 echo 7>&- &
		OTHERS+=" $!"
		"$GUEST/peer" "unix:/tmp/$1.vsock_7" echo 7>&- &
		OTHERS+=" $!"
	}
	# received NAME: bytes that its guest has sent to its own peer.
	received() { ip netns exec "$1" cat /sys/class/net/tap0/statistics/rx_bytes; }
	# sends NAME: until its guest has sent some more to it.
	sends() {
		local before deadline=$((SECONDS + 150))
		before=$(received "$1")
		while [ "$SECONDS" -le "$deadline" ]; do
			[ "$(received "$1")" -lt $((before + 300000)) ] || return 0
			sleep 0.5
		done
		fail "nothing comes from $1: $before, then $(received "$1"); $(cat "/tmp/$1.out")"
	}
	# hash: of the parent's memory, but for the pages that tell a microVM who it is.
	hash() {
		ok PUT /snapshot/create '{"snapshot_path": "/tmp/p.state", "mem_file_path": "/tmp/p.mem"}'
		dd if=/dev/zero of=/tmp/p.mem bs=4096 seek=254 count=2 conv=notrunc status=none
		md5sum </tmp/p.mem
		rm /tmp/p.mem
	}
	cp --sparse=always "$GUEST/root.ext4" /tmp/parent.ext4
	for name in parent child1 child2; do network $name; done
	printf '#!/bin/sh\nexec ip netns exec "${NETWORK:-parent}" "%s" "$@"\n' "$SPORE" >/tmp/spore
	chmod 755 /tmp/spore
	SPORE=/tmp/spore
	vm_api --log-path "$SNAP/log"
	ok PUT /boot-source "$(jq -nc --arg k "$GUEST/minimal.vmlinux" '{kernel_image_path: $k,
		boot_args: "console=ttyS0 reboot=k panic=-1 quiet pci=off cryptomgr.notests spore.run=tar%20xf%20/dev/vdb%20-C%20/tmp;sh%20/tmp/load%20all%20vsock spore.end=poweroff"}')"
	ok PUT /machine-config '{"vcpu_count": 1, "mem_size_mib": 160, "memory_backend": "Memfd"}'
	ok PUT /drives/root '{"drive_id": "root", "path_on_host": "/tmp/parent.ext4", "is_root_device": true, "cache_type": "Writeback"}'
	ok PUT /drives/work '{"drive_id": "work", "path_on_host": "/tmp/work.tar", "is_root_device": false, "is_read_only": true}'
	ok PUT /network-interfaces/eth0 '{"iface_id": "eth0", "host_dev_name": "tap0"}'
	ok PUT /vsock '{"guest_cid": 52, "uds_path": "/tmp/parent.vsock"}'
	ok PUT /actions '{"action_type": "InstanceStart"}'
	wait_for "load: working" 100
	at() { echo "$SECONDS s: $*" >&2; }
	at working
	ln -s "$VM_DIR/out" /tmp/parent.out
	sends parent
	for i in 1 2; do
		mkfifo "/tmp/child$i.in"
		NETWORK=child$i "$SPORE" --api-sock "/tmp/child$i.sock" --log-path "$SNAP/log" --shell vcpus=1,mem_mib=160 \
			<>"/tmp/child$i.in" >"/tmp/child$i.out" 2>&1 7>&- &
		OTHERS+=" $!"
		appears "/tmp/child$i.sock"
		if [ "$i" = 2 ]; then
			ok PATCH /vm '{"state": "Paused"}'
			# What its peers still send comes into its memory also now.
			ip -n parent link set tap0 down
			sleep 2
			before=$(hash)
		fi
		ok PUT /vm/fork "$(jq -nc --arg i "$i" '{children: [{socket: "/tmp/child\($i).sock",
			vsock_override: {uds_path: "/tmp/child\($i).vsock"},
			drive_overrides: [{drive_id: "root", path_on_host: "/tmp/child\($i).ext4", copy: true}]}]}')"
		jq -e '.children | all(has("fault_message") | not)' <<<"$BODY" >/dev/null || fail "$BODY"
		at "forked: $BODY"
		sends "child$i"
	done
	[ "$before" = "$(hash)" ] || fail "the parent's memory has changed while it was paused"
	ip -n parent link set tap0 up
	ok PATCH /vm '{"state": "Resumed"}'
	for name in parent child1 child2; do sends $name; done
	at "all send"
	# ended NAME TCP: its work is done, and nothing was lost, repeated or changed. So many times streams
	# have ended in the middle: those that were open when it became somebody else.
	ended() {
		for _ in $(seq 1200); do grep -q "load: done" "/tmp/$1.out" && break; sleep 0.1; done
		tr -d "\r" <"/tmp/$1.out" >"/tmp/$1.said"
		grep -q "load: done" "/tmp/$1.said" || fail "$1: $(cat "/tmp/$1.said")"
		! grep COMPLAINT "/tmp/$1.said" | grep -v "COMPLAINT: TCP" || fail "$1 complained"
		[ "$(grep -c "COMPLAINT: TCP" "/tmp/$1.said")" -le "$2" ] || fail "$1: TCP: $(cat "/tmp/$1.said")"
		awk '/^load: (memory|disk) / { if ($3 != $4 || $3 < 3) exit 1 }' "/tmp/$1.said" || fail "$1: lost or repeated: $(cat "/tmp/$1.said")"
		grep -qE "^load: vsock [1-9]" "/tmp/$1.said" || fail "$1: no vsock"
		grep -E "^load: " "/tmp/$1.said" | sed "s/^/$1: /" >&2
	}
	echo stop >&7
	echo stop >/tmp/child1.in
	echo stop >/tmp/child2.in
	ended parent 0
	ended child1 1
	ended child2 1
	ends_with 3 100
	e2fsck -fy /tmp/parent.ext4 >/tmp/fsck || [ $? = 1 ] || fail "$(cat /tmp/fsck)"
EOF
}
