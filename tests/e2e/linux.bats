#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# Linux guests, in the test host where this machine has no hardware virtualization: stock Debian
# kernels in both image formats, and the minimal kernel where only "a Linux" is needed. Each test is
# a script that tests/testhost/run runs as root where a real KVM is.

load host
HOST_LIMIT=120

# boot KERNEL INITRD JQ WORDS: a config with these words behind the usual ones, no API.
HOST_BEGIN='boot() {
	vm_spawn --no-api --config-file "$(config "$GUEST/$1" "
		.\"machine-config\".huge_pages = \"Transparent\"
		| .\"boot-source\".boot_args += \" cryptomgr.notests $4\"
		| if \"$2\" != \"\" then .\"boot-source\".initrd_path = \"$GUEST/$2\" else . end
		| $3")"
}
disk() {
	cp --sparse=always "$GUEST/root.ext4" /tmp/root.ext4
}
ROOT=".drives += [{drive_id: \"root\", path_on_host: \"/tmp/root.ext4\", is_root_device: true, is_read_only: false}]"
'

@test "Debian 6.1 vmlinux, 1 vCPU, 128 MiB, initrd, poweroff" {
	in_host <<<'
		boot debian-6.1.vmlinux initrd-debian-6.1.cpio . "spore.run=nproc spore.end=poweroff"
		ends_with 3
		said "SPORE-GUEST init"
		printed 1'
}

@test "Debian 6.1 bzImage, 4 vCPUs, 5 GiB, ext4 root on virtio-block, reboot" {
	in_host <<<'
		disk
		boot debian-6.1.bzImage initrd-debian-6.1.cpio "$ROOT | .\"machine-config\" += {vcpu_count: 4, mem_size_mib: 5120}" \
			"spore.root=/dev/vda spore.run=nproc;grep%20MemTotal%20/proc/meminfo;echo%20root=\$(stat%20-f%20-c%20%25T%20/) spore.end=reboot"
		ends_with 0
		said "SPORE-GUEST root"
		printed 4
		said "root=ext2/ext3"
		total=$(sed -n "s/^MemTotal: *\([0-9]*\) kB.*/\1/p" "$VM_DIR/out")
		[ "$total" -gt 5000000 ] || fail "MemTotal $total"'
}

@test "Debian 6.12 vmlinux, 4 vCPUs, 5 GiB, ext4 root on virtio-block, poweroff" {
	in_host <<<'
		disk
		boot debian-6.12.vmlinux initrd-debian-6.12.cpio "$ROOT | .\"machine-config\" += {vcpu_count: 4, mem_size_mib: 5120}" \
			"spore.root=/dev/vda spore.run=nproc spore.end=poweroff"
		ends_with 3
		said "SPORE-GUEST root"
		printed 4'
}

@test "Debian 6.12 bzImage, 1 vCPU, 192 MiB, initrd, reboot" {
	in_host <<<'
		boot debian-6.12.bzImage initrd-debian-6.12.cpio ".\"machine-config\".mem_size_mib = 192" "spore.run=nproc spore.end=reboot"
		ends_with 0
		printed 1'
}

@test "minimal kernel: a panic reboots (exit 0), or with reboot=t triple-faults (exit 1)" {
	in_host <<<'
		boot minimal.vmlinux initrd-minimal.cpio . "spore.end=panic"
		ends_with 0
		said "Kernel panic"
		boot minimal.vmlinux initrd-minimal.cpio . "spore.end=panic reboot=t"
		ends_with 1
		said "triple fault"'
}

@test "minimal kernel as bzImage, root on virtio-block without an initrd" {
	in_host <<<'
		disk
		boot minimal.bzImage "" "$ROOT" "spore.run=cat%20/proc/mounts spore.end=poweroff"
		ends_with 3
		said "/dev/root / ext4 rw"'
}

@test "without ACPI: four processors by the MP table, devices by the command line" {
	in_host <<<'
		disk
		boot minimal.vmlinux "" "$ROOT | .\"machine-config\".vcpu_count = 4" "acpi=off spore.run=nproc;cat%20/proc/interrupts spore.end=reboot"
		ends_with 0
		printed 4
		said "virtio0"'
}

@test "a kernel whose 64-bit entry is unusable is started by its PVH note" {
	in_host <<<'
		cp "$GUEST/minimal.vmlinux" /tmp/pvh
		printf "\0\0\0\0\0\0\0\0" | dd of=/tmp/pvh bs=1 seek=24 conv=notrunc status=none
		disk
		vm_spawn --no-api --config-file "$(config /tmp/pvh "$ROOT | .\"boot-source\".boot_args += \" spore.run=nproc spore.end=poweroff\"")"
		ends_with 3
		said "SPORE-GUEST root"'
}

@test "Ctrl-Alt-Del reaches init through the keyboard drivers of Debian 6.1 and 6.12" {
	in_host <<<'
		for k in debian-6.1 debian-6.12; do
			vm_api
			ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/$k.vmlinux\", \"initrd_path\": \"$GUEST/initrd-$k.cpio\",
				\"boot_args\": \"console=ttyS0 reboot=k panic=-1 quiet pci=off cryptomgr.notests spore.run=true spore.end=sleep\"}"
			ok PUT /machine-config "{\"vcpu_count\": 1, \"mem_size_mib\": 256, \"huge_pages\": \"Transparent\"}"
			refused PUT /actions "{\"action_type\": \"SendCtrlAltDel\"}" "not supported before starting"
			ok PUT /actions "{\"action_type\": \"InstanceStart\"}"
			wait_for "SPORE-GUEST end rc=0"
			sleep 1
			ok PUT /actions "{\"action_type\": \"SendCtrlAltDel\"}"
			ends_with 0
			said "SPORE-GUEST ctrl-alt-del"
		done'
}

@test "pause and resume while the guest writes to its disk: nothing lost" {
	in_host <<<'
		cp --sparse=always "$GUEST/root.ext4" /tmp/root.ext4
		vm_api
		ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/minimal.vmlinux\",
			\"boot_args\": \"console=ttyS0 reboot=k panic=-1 quiet pci=off spore.run=for%20i%20in%20\$(seq%20150);do%20dd%20if=/dev/urandom%20of=/f\$i%20bs=16k%20count=4%202>/dev/null;sync;echo%20tick%20\$i;done;cat%20/f*|md5sum;echo%203>/proc/sys/vm/drop_caches;cat%20/f*|md5sum spore.end=poweroff\"}"
		ok PUT /drives/root "{\"drive_id\": \"root\", \"path_on_host\": \"/tmp/root.ext4\", \"is_root_device\": true, \"cache_type\": \"Writeback\"}"
		ok PUT /machine-config "{\"vcpu_count\": 2, \"mem_size_mib\": 128, \"huge_pages\": \"Transparent\"}"
		ok PUT /actions "{\"action_type\": \"InstanceStart\"}"
		wait_for "tick 1"
		for i in 1 2 3 4 5 6; do
			ok PATCH /vm "{\"state\": \"Paused\"}"
			before=$(md5sum <"$VM_DIR/out")
			sleep 0.3
			[ "$before" = "$(md5sum <"$VM_DIR/out")" ] || fail "output while paused"
			ok PATCH /vm "{\"state\": \"Resumed\"}"
			sleep 0.1
		done
		ends_with 3
		said "tick 150"
		[ "$(grep -oE "^[0-9a-f]{32}" "$VM_DIR/out" | sort | uniq -c | awk "{ print \$1 }")" = 2 ] || fail "the disk changed what was written"
		e2fsck -fn /tmp/root.ext4'
}

@test "what the guest writes and flushes is in the file; a read-only drive refuses writes" {
	in_host <<<'
		disk
		truncate -s 1M /tmp/data
		truncate -s 1M /tmp/ro
		boot minimal.vmlinux "" "$ROOT | .drives += [
			{drive_id: \"data\", path_on_host: \"/tmp/data\", is_root_device: false, cache_type: \"Writeback\"},
			{drive_id: \"ro\", path_on_host: \"/tmp/ro\", is_root_device: false, is_read_only: true}]" \
			"spore.run=echo%20hello%20disk|dd%20of=/dev/vdb%20bs=512%20seek=3%20conv=sync,fsync%202>/dev/null;cat%20/sys/block/vdb/serial;echo;cat%20/sys/block/vdc/ro;echo%20x|dd%20of=/dev/vdc%20conv=fsync%20||echo%20refused spore.end=poweroff"
		ends_with 3
		[ "$(dd if=/tmp/data bs=512 skip=3 count=1 status=none | tr -d "\0")" = "hello disk" ] || fail "not written"
		said data
		said refused
		cmp /tmp/ro <(head -c 1M /dev/zero)'
}

@test "the entropy device feeds the guest" {
	in_host <<<'
		boot minimal.vmlinux initrd-minimal.cpio ".entropy = {}" "spore.run=cat%20/sys/class/misc/hw_random/rng_current;dd%20if=/dev/hwrng%20bs=4096%20count=4|md5sum spore.end=poweroff"
		ends_with 3
		said virtio_rng
		said "4+0 records in"'
}

@test "a shell on the console, typed into through standard input" {
	in_host <<<'
		boot minimal.vmlinux initrd-minimal.cpio . "spore.end=shell"
		wait_for "SPORE-GUEST init"
		sleep 1
		printf "echo typed-\$((40 + 2))\n" >&7
		wait_for typed-42
		printf "poweroff -f\n" >&7
		ends_with 3'
}

@test "memory in a memfd and in 2 MiB huge pages" {
	in_host <<<'
		boot minimal.vmlinux initrd-minimal.cpio ".\"machine-config\" |= (.memory_backend = \"Memfd\" | .huge_pages = \"None\")" "spore.run=nproc spore.end=poweroff"
		ends_with 3
		vm_spawn --no-api --config-file "$(config "$GUEST/hello.elf" ".\"machine-config\" += {huge_pages: \"2M\", mem_size_mib: 256}")"
		ends_with 152
		grep -q "huge" "$VM_DIR/err" || fail "no message about huge pages"
		echo 80 >/proc/sys/vm/nr_hugepages
		boot minimal.vmlinux initrd-minimal.cpio ".\"machine-config\".huge_pages = \"2M\"" "spore.run=nproc spore.end=poweroff"
		ends_with 3'
}

@test "a command line of 2047 bytes arrives whole, one of 2048 is refused" {
	in_host <<<'
		base="console=ttyS0 reboot=k panic=-1 quiet pci=off spore.run=wc%20-c%20</proc/cmdline spore.end=poweroff pad="
		pad=$(head -c $((2047 - ${#base})) /dev/zero | tr "\0" x)
		vm_spawn --no-api --config-file "$(config "$GUEST/minimal.vmlinux" ".\"boot-source\" |= (.boot_args = \"$base$pad\" | .initrd_path = \"$GUEST/initrd-minimal.cpio\")")"
		ends_with 3
		said 2048 # with the newline that /proc/cmdline adds
		vm_spawn --no-api --config-file "$(config "$GUEST/minimal.vmlinux" ".\"boot-source\".boot_args = \"$base${pad}x\"")"
		ends_with 152
		grep -q 2047 "$VM_DIR/err" || fail "no message"'
}
