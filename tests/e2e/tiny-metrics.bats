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

# bats test_tags=outside
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

@test "what ends the process at once is in a last line: a fatal signal, SIGHUP, a refused system call" {
	local sig
	for sig in BUS ILL SEGV XCPU XFSZ; do
		vm_spawn --no-api --config-file "$(config "$GUEST/echo.elf")" --metrics-path "$TMP/$sig"
		wait_for ready
		kill -"$sig" "$VM_PID"
		wait "$VM_PID" || true
		tail -n 1 "$TMP/$sig" | jq -e ".signals == {sig${sig,,}: 1}"
	done
	vm_spawn --no-api --config-file "$(config "$GUEST/echo.elf")" --metrics-path "$TMP/hup"
	wait_for ready
	kill -HUP "$VM_PID"
	wait "$VM_PID" || true
	tail -n 1 "$TMP/hup" | jq -e '.signals.sighup == 1'
	SPORE_ATTACK=vcpu:59 timeout 20 "$TOP/build/attack/spore" --no-api \
		--config-file "$(config "$GUEST/hello.elf")" --metrics-path "$TMP/attack" || [ $? = 148 ]
	tail -n 1 "$TMP/attack" | jq -e '.seccomp == {num_faults: 1}'
}

@test "latencies are there" {
	vm_api
	ok PUT /metrics "{\"metrics_path\": \"$TMP/m\"}"
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/echo.elf\"}"
	ok PUT /actions '{"action_type": "InstanceStart"}'
	wait_for ready
	ok PATCH /vm '{"state": "Paused"}'
	ok PUT /snapshot/create "{\"snapshot_path\": \"$TMP/s\", \"mem_file_path\": \"$TMP/mem\"}"
	ok PATCH /vm '{"state": "Resumed"}'
	ok PUT /actions '{"action_type": "FlushMetrics"}'
	tail -n 1 "$TMP/m" | jq -e '.latencies_us | .pause_vm > 0 and .resume_vm > 0 and
		.full_create_snapshot > 0 and .vmm_full_create_snapshot > 0 and .load_snapshot == 0'
}
