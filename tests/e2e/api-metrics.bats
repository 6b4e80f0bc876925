#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# GET /metrics, rotation of log and metrics, and what the command line says about the rest.
#
# Backquotes in messages are meant as they are.
# shellcheck disable=SC2016

setup() {
	load vm.bash
	TMP=$(mktemp -d)
}

teardown() {
	vm_kill
	rm -rf "$TMP"
}

# metrics_page: GET /metrics into $TMP/page.
metrics_page() {
	curl -sS -D "$TMP/head" -o "$TMP/page" --unix-socket "$API_SOCK" http://localhost/metrics
	grep -qi '^content-type: text/plain; version=0.0.4' "$TMP/head"
}

# bats test_tags=outside
@test "GET /metrics: what Prometheus reads, with memory, faults and latencies" {
	truncate -s 1M "$TMP/disk"
	vm_api --id vm-7
	ok PUT /drives/a "{\"drive_id\": \"a\", \"path_on_host\": \"$TMP/disk\", \"is_root_device\": true}"
	api PUT /drives/b '{}'
	metrics_page
	grep -qx 'spore_info{id="vm-7",version=".*"} 1' "$TMP/page"
	grep -qx 'spore_put_api_requests_drive_total 2' "$TMP/page"
	grep -qx 'spore_put_api_requests_drive_fails_total 1' "$TMP/page"
	grep -qx 'spore_api_request_duration_seconds_count 2' "$TMP/page"
	for name in resident proportional; do
		[ "$(sed -n "s/^spore_process_${name}_memory_bytes //p" "$TMP/page")" -gt 100000 ]
	done
	[ "$(sed -n 's/^spore_process_page_faults_total{kind="minor"} //p' "$TMP/page")" -gt 10 ]
	metrics_page
	grep -qx 'spore_put_api_requests_drive_total 2' "$TMP/page"
}

@test "GET /metrics satisfies promtool" {
	vm_api
	metrics_page
	"$BATS_TEST_DIRNAME/../lib/promtool" --version >/dev/null 2>&1 # unpacks it
	run "$BATS_TEST_DIRNAME/../lib/promtool" check metrics <"$TMP/page"
	echo "$output"
	[ "$status" = 0 ]
	[ -z "$output" ]
}

@test "SIGUSR2: log and metrics go on in new files after the old ones were moved away" {
	vm_api --log-path "$TMP/log" --level Debug
	ok PUT /metrics "{\"metrics_path\": \"$TMP/metrics\"}"
	ok GET /version
	mv "$TMP/log" "$TMP/log.1"
	mv "$TMP/metrics" "$TMP/metrics.1"
	kill -USR2 "$VM_PID"
	ok GET /machine-config
	ok GET /machine-config
	grep -q "GET /version" "$TMP/log.1"
	grep -q "GET /machine-config" "$TMP/log"
	[ -e "$TMP/metrics" ]
	rm "$TMP/log"
	mkdir "$TMP/log"
	kill -USR2 "$VM_PID"
	ok GET /
	ok GET /
}

# bats test_tags=outside
@test "properties and id are in every line of the metrics" {
	vm_api --id vm-7
	refused PUT /metrics "{\"metrics_path\": \"$TMP/m\", \"properties\": {\"a\": 1}}" 'field `properties`'
	ok PUT /metrics "{\"metrics_path\": \"$TMP/m\", \"emit_id\": true, \"properties\": {\"a\": \"b\"}}"
	ok GET /vm/config
	jq -e '.metrics.properties == {a: "b"}' <<<"$BODY"
}

@test "a deprecated field is answered with a Deprecation header and counted" {
	vm_api
	run curl -sS -i --unix-socket "$API_SOCK" -X PUT http://localhost/machine-config \
		-d '{"vcpu_count": 1, "mem_size_mib": 128, "cpu_template": "None"}'
	[[ $output == "HTTP/1.1 204"*"Deprecation: true"* ]]
	run curl -sS -i --unix-socket "$API_SOCK" -X PUT http://localhost/machine-config \
		-d '{"vcpu_count": 1, "mem_size_mib": 128}'
	[[ $output != *Deprecation* ]]
	metrics_page
	grep -qx 'spore_deprecated_api_deprecated_http_api_calls_total 1' "$TMP/page"
}
