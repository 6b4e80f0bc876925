#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# Forks of a Linux guest at work: all of them go on, with disks that are clean.

load host
HOST_WITH=(snapshot)
HOST_LIMIT=500

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
