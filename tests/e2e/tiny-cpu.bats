#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# Backquotes in messages are meant as they are.
# shellcheck disable=SC2016
#
# Custom CPU templates, as the guest's processor shows them.

setup() {
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	load vm.bash
}

teardown() {
	vm_kill
}

# sees TEMPLATE: boots with it; ECX of CPUID leaf 1 goes to $ecx, the low half of the PAT to $pat.
sees() {
	vm_api
	[ -z "$1" ] || ok PUT /cpu-config "$1"
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/cpuid.elf\"}"
	ok PUT /actions '{"action_type": "InstanceStart"}'
	ends_with 0
	{ read -r ecx; read -r pat; } < <(grep -xE '[0-9a-f]{8}' <(tr -d '\r' <"$VM_DIR/out"))
}

@test "a template changes the bits of a MSR that it names, and no others" {
	sees ""
	old_pat=$pat
	sees '{"msr_modifiers": [{"addr": "0x277", "bitmap": "0b1xxxxxxxxxxxxxxxxxxxxxxxx"}],
		"kvm_capabilities": ["7", "!9999"]}'
	[ $((0x$pat)) = $((0x$old_pat | 1 << 24)) ]
}

@test "a template changes the CPUID bits that it names, and no others" {
	grep -qwE 'vmx|svm' /proc/cpuinfo || skip "guests here see the processor's own CPUID"
	sees ""
	old_ecx=$ecx
	[ $((0x$ecx & 1)) = 1 ] || skip "this host's processor has no SSE3 to hide"
	sees '{"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0x0", "flags": 0, "modifiers":
		[{"register": "ecx", "bitmap": "0bx_0"}]}]}'
	[ $((0x$ecx)) = $((0x$old_ecx & ~1)) ]
}

@test "what KVM cannot do is refused at the start, named, and can be corrected" {
	vm_api
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/cpuid.elf\"}"
	local start='{"action_type": "InstanceStart"}'
	ok PUT /cpu-config '{"cpuid_modifiers": [{"leaf": "0x12345678", "subleaf": "0x0", "flags": 0, "modifiers": []}]}'
	refused PUT /actions "$start" "CPUID leaf 0x12345678, subleaf 0x0"
	ok PUT /cpu-config '{"msr_modifiers": [{"addr": "0xdeadbeef", "bitmap": "0b1"}]}'
	refused PUT /actions "$start" "MSR 0xdeadbeef"
	ok PUT /cpu-config '{"kvm_capabilities": ["99999"]}'
	refused PUT /actions "$start" "capability 99999"
	refused PUT /cpu-config '{"cpuid_modifiers": [{}]}' 'CPU config error: field `cpuid_modifiers`, item 1'
	ok PUT /cpu-config '{}'
	ok PUT /actions "$start"
	ends_with 0
}

@test "memory that the guest's processors cannot address is refused at the start, by its name" {
	vm_api
	local start='{"action_type": "InstanceStart"}' file
	file=$(mktemp)
	truncate -s 1M "$file"
	# 36 bits: 64 GiB.
	ok PUT /cpu-config '{"cpuid_modifiers": [{"leaf": "0x80000008", "subleaf": "0x0", "flags": 0, "modifiers":
		[{"register": "eax", "bitmap": "0b00100100"}]}]}'
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/cpuid.elf\"}"
	ok PUT /hotplug/memory '{"total_size_mib": 61568}'
	refused PUT /actions "$start" "memory hotplug: total_size_mib: it would lie up to 65664 MiB, and the guest's processors address 65536 MiB"
	ok PUT /hotplug/memory '{"total_size_mib": 61440}'
	ok PUT /pmem/p "{\"id\": \"p\", \"path_on_host\": \"$file\"}"
	refused PUT /actions "$start" "pmem 'p': it would lie up to"
	ok PUT /hotplug/memory '{"total_size_mib": 61312}'
	ok PUT /actions "$start"
	ends_with 0
	rm "$file"
}
