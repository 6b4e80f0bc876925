#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# What of spore-jailer needs the test host: cgroup version 2 with controllers, and the devices of Linux guests in a jail.
# The rest is in tiny-jail.bats.

load host
HOST_WITH=(jail)
HOST_LIMIT=120

# What boots Linux here is other suites.
setup_file() {
	cd "$TOP"
	tests/testhost/setup >&2
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
		rm "$API_SOCK"
		jail a "${values[@]}" --daemonize --new-pid-ns -- --config-file /config.json
		pid=$(cat "$dir/spore.pid")
		appears "$API_SOCK"
		grep -qx "0::/spore/${J}a" /proc/$pid/cgroup || fail "$(cat /proc/$pid/cgroup)"
		kill -KILL $pid
		while [ -d /proc/$pid ]; do sleep 0.05; done
		jail_gone a
		[ ! -e /sys/fs/cgroup/spore ] || fail "cgroup left"
		[ "$before" = "$(traces)" ] || diff <(echo "$before") <(traces)'
}

# in_jail SUITE REGEX: those tests of it, each spore in a jail; at least one, and all pass.
in_jail() {
	run env -i PATH="${PATH//*bats-core:/}" HOME="$HOME" SPORE_JAIL=1 ${SPORE_CACHE:+SPORE_CACHE="$SPORE_CACHE"} \
		bats --tap --filter-tags '!outside' "$TOP/tests/e2e/$1.bats" -f "$2"
	echo "$output"
	[ "$status" = 0 ]
	[ "$(grep -c "^ok" <<<"$output")" -ge 1 ]
}

# A cheap one for each device; SPORE_JAIL=1 tests/run-all --all runs everything so.

@test "Linux in a jail: kernel, console, root disk, entropy" {
	in_jail linux "Debian 6.1 vmlinux|pause and resume while|flushes|entropy|typed into"
}

@test "Linux in a jail: a disk and an interface come and go" {
	in_jail linux-block "placeholders"
}

@test "Linux in a jail: traffic through a tap" {
	in_jail linux-net "tap: ping"
}

@test "Linux in a jail: vsock" {
	in_jail vsock "nobody at the other end"
}

@test "Linux in a jail: balloon" {
	in_jail balloon "memory in a memfd"
}

@test "Linux in a jail: a file in memory" {
	in_jail pmem "flushes under a limit"
}

@test "Linux in a jail: memory hotplug" {
	in_jail hotplug "plugged, used"
}

@test "Linux in a jail: metadata service" {
	in_jail mmds "version 1"
}
