#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# The balloon with Linux guests: what the guest does without is seen as less memory of the process.

load host

# boot MEMORY BALLOON [KERNEL INITRD]: a guest of 512 MiB that fills 150 MiB, frees them, and waits.
HOST_BEGIN='cd /tmp
boot() {
	vm_api
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/${3:-minimal.vmlinux}\", \"initrd_path\": \"$GUEST/${4:-initrd-minimal.cpio}\",
		\"boot_args\": \"console=ttyS0 reboot=k panic=-1 quiet pci=off cryptomgr.notests spore.run=dd%20if=/dev/zero%20of=/tmp/f%20bs=1M%20count=150%202>/dev/null;echo%20filled;sleep%203;rm%20/tmp/f;echo%20freed;sleep%2060 spore.end=poweroff\"}"
	ok PUT /machine-config "{\"vcpu_count\": 1, \"mem_size_mib\": 512, \"huge_pages\": \"Transparent\"}"
	ok PATCH /machine-config "$1"
	ok PUT /balloon "$2"
	ok PUT /metrics "{\"metrics_path\": \"/tmp/metrics\"}"
	ok PUT /actions "{\"action_type\": \"InstanceStart\"}"
}
rss() {
	awk "/^Rss(Anon|Shmem)/ { n += \$2 } END { print int(n / 1024) }" /proc/$VM_PID/status
}
# shrinks_below MIB: waits until the process has less.
shrinks_below() {
	for _ in $(seq 200); do
		[ "$(rss)" -ge "$1" ] || return 0
		sleep 0.1
	done
	fail "still $(rss) MiB, expected less than $1"
}
balloon_metric() {
	api PUT /actions "{\"action_type\": \"FlushMetrics\"}"
	jq -s "map(.balloon.$1) | add" /tmp/metrics
}
'

@test "inflate and deflate, statistics; the process shrinks by what the guest gives" {
	in_host <<<'
		boot "{\"huge_pages\": \"Transparent\"}" "{\"amount_mib\": 0, \"deflate_on_oom\": true, \"stats_polling_interval_s\": 1}"
		wait_for freed
		full=$(rss)
		[ "$full" -gt 150 ] || fail "only $full MiB"
		ok PATCH /balloon "{\"amount_mib\": 450}"
		# What is freed is taken first, so all that was filled goes, but for what was never touched.
		shrinks_below $((full - 120))
		for _ in $(seq 100); do
			api GET /balloon/statistics
			[ "$(jq .actual_mib <<<"$BODY")" -lt 400 ] || break
			sleep 0.1
		done
		jq -e ".actual_mib >= 400 and .target_mib == 450 and .total_memory > 0 and .free_memory > 0" <<<"$BODY" >/dev/null || fail "$BODY"
		[ "$(jq .amount_mib <<<"$(api GET /balloon; echo "$BODY")")" = 450 ]
		[ "$(balloon_metric event_fails)" = 0 ]
		ok PATCH /balloon "{\"amount_mib\": 0}"
		for _ in $(seq 100); do
			api GET /balloon/statistics
			[ "$(jq .actual_mib <<<"$BODY")" != 0 ] || break
			sleep 0.1
		done
		[ "$(jq .actual_mib <<<"$BODY")" = 0 ] || fail "$BODY"
		[ "$(balloon_metric deflate_count)" -gt 0 ]
		refused PATCH /balloon "{\"amount_mib\": 513}" "more than the guest has"
		refused PATCH /balloon/statistics "{\"stats_polling_interval_s\": 0}" "on or off"
		ok PATCH /balloon/statistics "{\"stats_polling_interval_s\": 2}"'
}

@test "free page reporting: what the guest frees goes back by itself" {
	in_host <<<'
		boot "{\"huge_pages\": \"Transparent\"}" "{\"amount_mib\": 0, \"deflate_on_oom\": false, \"free_page_reporting\": true}"
		wait_for filled
		full=$(rss)
		wait_for freed
		shrinks_below $((full - 120))
		[ "$(balloon_metric free_page_report_freed)" -gt 120000000 ]
		[ "$(balloon_metric free_page_report_fails)" = 0 ]'
}

@test "free page hinting, with Debian 6.12: one sweep when asked" {
	in_host <<<'
		boot "{\"huge_pages\": \"Transparent\"}" "{\"amount_mib\": 0, \"deflate_on_oom\": false, \"free_page_hinting\": true}" debian-6.12.vmlinux initrd-debian-6.12.cpio
		wait_for freed
		full=$(rss)
		ok PATCH /balloon/hinting/start
		shrinks_below $((full - 100))
		for _ in $(seq 100); do
			api GET /balloon/hinting/status
			[ "$(jq -c . <<<"$BODY")" != "{\"host_cmd\":1,\"guest_cmd\":0}" ] || break
			sleep 0.1
		done
		[ "$(jq -c . <<<"$BODY")" = "{\"host_cmd\":1,\"guest_cmd\":0}" ] || fail "$BODY"
		[ "$(balloon_metric free_page_hint_fails)" = 0 ]
		ok PATCH /balloon/hinting/stop'
}

@test "memory in a memfd shrinks too" {
	in_host <<<'
		boot "{\"huge_pages\": \"None\", \"memory_backend\": \"Memfd\"}" "{\"amount_mib\": 0, \"deflate_on_oom\": false, \"free_page_reporting\": true}"
		wait_for filled
		full=$(rss)
		wait_for freed
		shrinks_below $((full - 120))
		[ "$(balloon_metric free_page_report_fails)" = 0 ]'
}

@test "a guest short of memory takes the balloon back before it kills" {
	in_host <<<'
		boot "{\"mem_size_mib\": 300}" "{\"amount_mib\": 200, \"deflate_on_oom\": true}"
		wait_for freed
		! grep -q "Out of memory" "$VM_DIR/out" || fail "a process was killed"'
}
