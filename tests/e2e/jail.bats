#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# What of spore-jailer needs the test host: cgroup version 2 with controllers, and the devices of Linux guests in a jail.
# The rest is in tiny-jail.bats.

setup_file() {
	cd "$BATS_TEST_DIRNAME/../.."
	tests/testhost/setup >&2
}

setup() {
	TOP=$BATS_TEST_DIRNAME/../..
}

in_host() {
	local script
	script=$(cat)
	SPORE_TESTHOST_TIMEOUT=${LIMIT:-120} "$TOP/tests/testhost/run" -- bash -euo pipefail -c "
		source '$BATS_TEST_DIRNAME/vm.bash'
		source '$BATS_TEST_DIRNAME/jail.bash'
		trap vm_kill EXIT
		$script"
}

@test "cgroup version 2: values, the monitor is born in it, nothing is left" {
	in_host <<<'
		group=/sys/fs/cgroup/spore/${J}a
		values=(--cgroup-version 2 --cgroup memory.max=200000000 --cgroup pids.max=50)
		dir=$(KERNEL=idle jail_dir a)
		before=$(traces)
		jail_start a "${values[@]}"
		grep -qx "0::/spore/${J}a" /proc/$VM_PID/cgroup || fail "$(cat /proc/$VM_PID/cgroup)"
		[ "$(cat $group/memory.max)" = 199999488 ] || fail "memory.max"
		[ "$(cat $group/pids.max)" = 50 ] || fail "pids.max"
		vm_kill
		jail a "${values[@]}" --daemonize --new-pid-ns -- --config-file /config.json
		pid=$(cat "$dir/spore.pid")
		grep -qx "0::/spore/${J}a" /proc/$pid/cgroup || fail "$(cat /proc/$pid/cgroup)"
		kill -KILL $pid
		while [ -d /proc/$pid ]; do sleep 0.05; done
		jail_gone a
		[ ! -e /sys/fs/cgroup/spore ] || fail "cgroup left"
		[ "$before" = "$(traces)" ] || diff <(echo "$before") <(traces)'
}

@test "tests of Linux guests and their devices, run in a jail (SPORE_JAIL=1 tests/run-all linux runs all)" {
	run env -i PATH="${PATH//*bats-core:/}" HOME="$HOME" SPORE_JAIL=1 bats --tap "$TOP/tests/e2e/linux.bats" \
		-f "Debian 6.1 vmlinux|pause and resume while|flushes|entropy|typed into"
	echo "$output"
	[ "$status" = 0 ]
	[ "$(grep -c "^ok" <<<"$output")" -ge 5 ]
}
