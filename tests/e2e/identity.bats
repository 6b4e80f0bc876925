#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# VMGenID and pvpanic with Linux guests: the interrupt, the event device and its AML.

load host
HOST_WITH=(snapshot)
HOST_LIMIT=120

# boot KERNEL INITRD WORDS
HOST_BEGIN='cd /tmp
boot() {
	vm_api
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/$1\", \"initrd_path\": \"$GUEST/$2\",
		\"boot_args\": \"console=ttyS0 reboot=k panic=-1 quiet pci=off cryptomgr.notests spore.modules=all $3\"}"
	ok PUT /machine-config "{\"vcpu_count\": 1, \"mem_size_mib\": 256, \"huge_pages\": \"Transparent\"}"
	ok PUT /actions "{\"action_type\": \"InstanceStart\"}"
}
'

for_kernel() {
	in_host <<<'
		boot '"$1 $2"' "spore.run=grep%20-i%20ged%20/proc/interrupts;echo%20ready;for%20i%20in%20\$(seq%20100);do%20dmesg|grep%20re[s]eeded&&break;sleep%200.2;done spore.end=poweroff"
		wait_for ready
		said "ACPI:Ged"
		snap s
		leave
		restore s
		wait_for "reseeded due to virtual machine fork"
		ends_with 3'
}

@test "a change of VMGenID reseeds the random numbers of the minimal 6.1" {
	for_kernel minimal.vmlinux initrd-minimal.cpio
}

@test "a change of VMGenID reseeds the random numbers of Debian 6.12" {
	for_kernel debian-6.12.vmlinux initrd-debian-6.12.cpio
}

@test "a panic of the guest is an event, before the reset that follows it" {
	in_host <<<'
		boot debian-6.12.vmlinux initrd-debian-6.12.cpio "spore.run=sleep%202 spore.end=panic"
		curl -sSN --max-time 100 --unix-socket "$API_SOCK" http://localhost/events >/tmp/events || true
		ends_with 0
		jq -r .event /tmp/events | grep -A 1 guest_panicked | grep -q reset || fail "$(cat /tmp/events)"
		grep -q "the guest.s kernel panicked" "$VM_DIR/out" || fail "not in the log"'
}

@test "no event without a panic; the minimal kernel" {
	in_host <<<'
		boot minimal.vmlinux initrd-minimal.cpio "spore.run=grep%20-c%20pvpanic%20/proc/ioports spore.end=poweroff"
		curl -sSN --max-time 100 --unix-socket "$API_SOCK" http://localhost/events >/tmp/events || true
		ends_with 3
		! grep -q panic /tmp/events || fail "$(cat /tmp/events)"'
}
