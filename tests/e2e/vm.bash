# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Drives one build/spore for a test: start it, talk to its API, wait for what its console says,
# fetch its exit status. Sourced by the bats files and by the scripts that they run in the test
# host. Everything of a VM is in $VM_DIR: api.sock, out (stdout: console and log), err.

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[ -z "${SPORE_JAIL:-}" ] || SPORE=$TOP/tests/e2e/jailed-spore
SPORE=${SPORE:-$TOP/build/spore}
GUEST=$TOP/build/guest
VM_PID=

fail() {
	echo "FAILED: $*" >&2
	vm_state >&2
	[ -z "${VM_DIR:-}" ] || { echo "--- console:"; cat "$VM_DIR/out" "$VM_DIR/err"; } >&2
	[ ! -s "${SNAP:-}/log" ] || { echo "--- log:"; tail -n 60 "$SNAP/log"; } >&2
	vm_kill
	exit 1
}

# What a VM that still runs is doing: where each thread waits, and what it has used.
vm_state() {
	local task
	[ -n "$VM_PID" ] && [ -d "/proc/$VM_PID" ] || return 0
	for task in "/proc/$VM_PID/task/"*; do
		echo "--- $(cat "$task/comm"): $(cat "$task/wchan"), call $(cat "$task/syscall"), $(cut -d " " -f 3,14,15 "$task/stat")"
	done
	uptime
	[ ! -s /tmp/metrics ] || tail -n 1 /tmp/metrics
}

# vm_spawn ARGS...: runs spore in the background in a new $VM_DIR. What is written to descriptor 7
# is its standard input.
vm_spawn() {
	VM_DIR=$(mktemp -d)
	mkfifo "$VM_DIR/in"
	exec 7<>"$VM_DIR/in"
	"$SPORE" "$@" <"$VM_DIR/in" >"$VM_DIR/out" 2>"$VM_DIR/err" 7>&- &
	VM_PID=$!
}

# vm_api: spawns it with an API socket and waits until the socket accepts.
vm_api() {
	local socket
	socket=$(mktemp -u)
	vm_spawn --api-sock "$socket" "$@"
	API_SOCK=$socket
	appears "$socket"
}

# appears PATH: waits until it is there.
appears() {
	local deadline=$((SECONDS + 60))
	while [ "$SECONDS" -le "$deadline" ]; do
		[ ! -e "$1" ] || return 0
		sleep 0.02
	done
	fail "no $1"
}

# api METHOD PATH [JSON]: one request. Prints the body; the status code is in $STATUS.
api() {
	local answer
	answer=$(curl -sS --max-time 20 --unix-socket "$API_SOCK" -X "$1" -w '\n%{http_code}' \
		${3:+-H 'Content-Type: application/json' -d "$3"} "http://localhost$2") ||
		fail "curl $1 $2"
	STATUS=${answer##*$'\n'}
	BODY=${answer%$'\n'*}
}

# ok METHOD PATH [JSON]: a request that has to succeed.
ok() {
	api "$@"
	[[ $STATUS == 20[04] ]] || fail "$1 $2: status $STATUS $BODY"
}

# refused METHOD PATH JSON TEXT: a request that has to be answered 400 with TEXT in the message.
refused() {
	api "$1" "$2" "$3"
	[ "$STATUS" = 400 ] || fail "$1 $2 $3: status $STATUS, expected 400: $BODY"
	jq -e --arg text "$4" '.fault_message | contains($text)' <<<"$BODY" >/dev/null ||
		fail "$1 $2 $3: '$4' is not in $BODY"
}

# wait_for TEXT [SECONDS]: until the console has said it. A limit is what a quiet machine needs; a
# busy one is given twice that.
wait_for() {
	local deadline=$((SECONDS + 2 * ${2:-60}))
	while [ "$SECONDS" -le "$deadline" ]; do
		grep -qF -- "$1" "$VM_DIR/out" && return
		kill -0 "$VM_PID" 2>/dev/null || { grep -qF -- "$1" "$VM_DIR/out" && return; break; }
		sleep 0.05
	done
	fail "the console never said '$1'"
}

# echoes TEXT: the guest, which is echo.S, says what it is told.
echoes() {
	printf '%s' "$1" >&7
	wait_for "$1"
}

# ends_with STATUS [SECONDS]: waits for spore's end and checks its exit status.
ends_with() {
	local status=0 deadline=$((SECONDS + 2 * ${2:-60}))
	while [ "$SECONDS" -le "$deadline" ]; do
		kill -0 "$VM_PID" 2>/dev/null || break
		sleep 0.05
	done
	kill -0 "$VM_PID" 2>/dev/null && fail "still running"
	wait "$VM_PID" || status=$?
	VM_PID=
	[ "$status" = "$1" ] || fail "exit status $status, expected $1"
}

vm_kill() {
	[ -n "$VM_PID" ] || return 0
	kill -KILL "$VM_PID" 2>/dev/null || true
	wait "$VM_PID" 2>/dev/null || true
	VM_PID=
}

said() {
	grep -qF -- "$1" "$VM_DIR/out" || fail "the console has not said '$1'"
}

# printed LINE: the console has exactly this line (a terminal ends its lines with CR LF). Not grep
# -q, which ends at once, and then tr by SIGPIPE.
printed() {
	tr -d '\r' <"$VM_DIR/out" | grep -xF -- "$1" >/dev/null || fail "the console has no line '$1'"
}

# config KERNEL [JQ]: a config file for --config-file; JQ edits it. Prints its path.
config() {
	local file
	file=$(mktemp)
	jq -n --arg kernel "$1" '{
		"boot-source": {kernel_image_path: $kernel, boot_args: "console=ttyS0 reboot=k panic=-1 quiet pci=off"},
		"machine-config": {vcpu_count: 1, mem_size_mib: 128},
		drives: []
	}' | jq "${2:-.}" >"$file"
	echo "$file"
}
