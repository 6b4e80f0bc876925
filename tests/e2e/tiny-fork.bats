#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# Fork of a microVM that goes on running (PUT /vm/fork), guests of a few instructions.

setup() {
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	load vm.bash
	load snapshot.bash
	CHILDREN=
}

teardown() {
	vm_kill
	local pid
	for pid in $CHILDREN; do
		kill -KILL "$pid" 2>/dev/null || true
	done
	rm -rf "$SNAP"
}

# parent GUEST [MACHINE-JQ]: boots one that can be forked.
parent() {
	vm_api --log-path "$SNAP/log"
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/$1.elf\"}"
	ok PUT /machine-config "$(jq -nc "{vcpu_count: 1, mem_size_mib: 64, memory_backend: \"Memfd\"} ${2:+| $2}")"
	[ -z "${DEVICES:-}" ] || "$DEVICES"
	ok PUT /actions '{"action_type": "InstanceStart"}'
	wait_for ready
}

# child NAME [ARGS...]: a process that waits to become one, a shell unless ARGS say otherwise. Its
# console is $SNAP/NAME.out; its input is written to $SNAP/NAME.in.
child() {
	local name=$1
	shift
	[ $# -gt 0 ] || set -- --shell vcpus=1,mem_mib=64
	mkfifo "$SNAP/$name.in"
	"$SPORE" --api-sock "$SNAP/$name.sock" --log-path "$SNAP/log" "$@" \
		<>"$SNAP/$name.in" >"$SNAP/$name.out" 2>&1 3>&- 7>&- &
	CHILDREN+=" $!"
	printf -v "PID_$name" %s "$!"
	for _ in $(seq 500); do
		[ -S "$SNAP/$name.sock" ] && return
		sleep 0.02
	done
	fail "no API socket of $name"
}

# fork_request NAME...: the body of PUT /vm/fork; [JQ] in $EACH edits each child.
fork_request() {
	for name in "$@"; do
		jq -nc --arg s "$SNAP/$name.sock" "{socket: \$s} ${EACH:+| $EACH}"
	done | jq -sc '{children: .}'
}

fork_to() {
	ok PUT /vm/fork "$(fork_request "$@")"
	jq -e '.children | all(has("fault_message") | not)' <<<"$BODY" >/dev/null || fail "$BODY"
}

# of NAME METHOD PATH [JSON]: a request to a child that has to succeed.
of() {
	local mine=$API_SOCK
	API_SOCK=$SNAP/$1.sock
	ok "${@:2}"
	API_SOCK=$mine
}

says() {
	for _ in $(seq 3000); do
		grep -qF -- "$2" "$SNAP/$1.out" && return
		sleep 0.02
	done
	fail "$1 never said '$2': $(cat "$SNAP/$1.out")"
}

# memory_of NAME|parent: pauses it and writes its memory to $SNAP/NAME.mem, but for the pages of
# VMGenID and VMClock, which are to differ.
memory_of() {
	local body
	body=$(jq -nc --arg s "$SNAP/$1.state" --arg m "$SNAP/$1.mem" '{snapshot_path: $s, mem_file_path: $m}')
	if [ "$1" = parent ]; then
		ok PATCH /vm '{"state": "Paused"}'
		ok PUT /snapshot/create "$body"
	else
		of "$1" PATCH /vm '{"state": "Paused"}'
		of "$1" PUT /snapshot/create "$body"
	fi
	dd if=/dev/zero of="$SNAP/$1.mem" bs=4096 seek=254 count=2 conv=notrunc status=none
}

@test "parent and child go on, each by itself" {
	parent echo
	child a
	fork_to a
	[ "$(jq .paused_us <<<"$BODY")" -gt 0 ]
	printf hello >"$SNAP/a.in"
	says a hello
	printf parent >&7
	wait_for parent
	! grep -qF ready "$SNAP/a.out" || fail "it began anew"
	! grep -qF parent "$SNAP/a.out" || fail "it says what its parent says"
	! grep -qF hello "$VM_DIR/out" || fail "the parent says what its child says"
	of a GET /
	[ "$(jq -r .state <<<"$BODY")" = Running ]
	api GET /
	[ "$(jq -r .state <<<"$BODY")" = Running ]
	printf q >"$SNAP/a.in"
	# shellcheck disable=SC2154
	wait "$PID_a"
	printf q >&7
	ends_with 0
}
