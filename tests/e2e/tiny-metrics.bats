#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# Metrics and log of microVMs that run.

setup() {
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	load vm.bash
	TMP=$(mktemp -d)
}

teardown() {
	vm_kill
	rm -rf "$TMP"
}

@test "lines at the start, on FlushMetrics and at the end; SIGUSR2 and GET /metrics under the filters" {
	vm_api --log-path "$TMP/log"
	ok PUT /metrics "{\"metrics_path\": \"$TMP/m\", \"properties\": {\"a\": \"b\"}}"
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/echo.elf\"}"
	ok PUT /actions '{"action_type": "InstanceStart"}'
	wait_for ready
	ok PUT /actions '{"action_type": "FlushMetrics"}'
	[ "$(wc -l <"$TMP/m")" = 2 ]
	jq -es 'all(.properties == {a: "b"}) and .[0].start_us.total > 0' "$TMP/m"
	mv "$TMP/m" "$TMP/m.1"
	mv "$TMP/log" "$TMP/log.1"
	kill -USR2 "$VM_PID"
	run curl -sS --unix-socket "$API_SOCK" http://localhost/metrics
	[[ $output == *"spore_vcpu_exit_io_out_total "[1-9]* ]]
	[[ $output == *"spore_process_page_faults_total"* ]]
	[[ $output == *"spore_process_resident_memory_bytes"* ]]
	printf q >&7
	ends_with 0
	[ "$(wc -l <"$TMP/m")" = 1 ]
	# What the page showed is in the lines all the same.
	jq -es '.[0].vcpu.exit_io_out > 0' "$TMP/m"
	grep -q "microVM ended" "$TMP/log"
}
