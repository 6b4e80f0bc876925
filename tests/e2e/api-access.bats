#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# Who may use the API, sockets of a parent, readiness, and the stream of events of the real spore.
#
# shellcheck disable=SC2030,SC2031

setup() {
	load vm.bash
	TMP=$(mktemp -d)
	chmod 755 "$TMP"
	umask 022
}

teardown() {
	vm_kill
	rm -rf "$TMP"
}

# as UID GID METHOD PATH: a request of somebody else; prints status and body.
as() {
	setpriv --reuid="$1" --regid="$2" --clear-groups curl -sS --max-time 10 \
		--unix-socket "$API_SOCK" -X "$3" -w '\n%{http_code}' "http://localhost$4"
}

# with_fd FD COMMAND...: runs it with a listening socket $TMP/fd.sock as its descriptor FD.
with_fd() {
	exec python3 -c '
import os, socket, sys
fd, path = int(sys.argv[1]), sys.argv[2]
s = socket.socket(socket.AF_UNIX)
s.bind(path)
s.listen(16)
os.dup2(s.fileno(), fd, inheritable=True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[3], sys.argv[3:])' "$1" "$TMP/fd.sock" "${@:2}"
}

# bats test_tags=outside
@test "mode and owner of the socket, and a list of who may use it" {
	[ "$(id -u)" = 0 ] || skip "needs root to become somebody else"
	API_SOCK=$TMP/s
	vm_spawn --api-sock "$API_SOCK" --api-sock-mode 666 --api-sock-owner 1234:5678 \
		--api-allow uid=1001,gid=100
	appears "$API_SOCK"
	[ "$(stat -c %a:%u:%g "$API_SOCK")" = 666:1234:5678 ]
	run as 1001 1001 GET /
	[[ $output == *app_name*200 ]]
	run as 1002 100 GET /
	[[ $output == *app_name*200 ]]
	run as 1002 1002 GET /
	# The answer is 403, but who is still sending when the connection ends may not see it.
	[[ $output != *app_name* ]]
	run curl -sS --unix-socket "$API_SOCK" http://localhost/
	[[ $output != *app_name* ]]
	grep -q "user 1002, group 1002 .* is not allowed to connect" "$VM_DIR/out"
}

@test "without them only the owner gets in" {
	[ "$(id -u)" = 0 ] || skip "needs root to become somebody else"
	vm_api
	run as 1001 1001 GET /
	[[ $output == *000 ]]
	ok GET /
}

# bats test_tags=outside
@test "a listening socket of the parent: --api-fd, and systemd's LISTEN_FDS" {
	API_SOCK=$TMP/fd.sock
	VM_DIR=$TMP
	with_fd 7 "$SPORE" --api-fd 7 >"$TMP/out" 2>"$TMP/err" &
	VM_PID=$!
	appears "$API_SOCK"
	ok GET /
	kill -TERM "$VM_PID"
	ends_with 143 5
	[ -S "$API_SOCK" ]
	rm "$API_SOCK"
	LISTEN_FDS=1 with_fd 3 "$SPORE" >"$TMP/out" 2>"$TMP/err" &
	VM_PID=$!
	appears "$API_SOCK"
	ok GET /
	vm_kill
	rm "$API_SOCK"
	LISTEN_FDS=2 run with_fd 3 "$SPORE"
	[ "$status" = 1 ]
	[[ $output == *"LISTEN_FDS is '2'"* ]]
	run "$SPORE" --api-fd 77
	[ "$status" = 1 ]
	[[ $output == *"API descriptor 77: Bad file descriptor"* ]]
	run "$SPORE" --api-fd 0 </dev/null
	[ "$status" = 1 ]
	[[ $output == *"not a listening Unix stream socket"* ]]
}

@test "--ready-fd gets a line feed when the API listens, and is closed" {
	mkfifo "$TMP/ready"
	API_SOCK=$TMP/s
	VM_DIR=$TMP
	"$SPORE" --api-sock "$API_SOCK" --ready-fd 9 9>"$TMP/ready" >"$TMP/out" 2>"$TMP/err" &
	VM_PID=$!
	# Its end comes when nobody holds the descriptor any more.
	[ "$(timeout 10 od -An -tx1 "$TMP/ready" | tr -d ' ')" = 0a ]
	ok GET /
	run "$SPORE" --api-sock "$TMP/t" --ready-fd 99
	[ "$status" = 1 ]
	[[ $output == *"--ready-fd: descriptor 99: Bad file descriptor"* ]]
	[ ! -e "$TMP/t" ]
}

@test "GET /events: a stream that others do not notice, and that ends with the process" {
	vm_api
	curl -sS --no-buffer --unix-socket "$API_SOCK" http://localhost/events >"$TMP/events" &
	local reader=$!
	for _ in $(seq 20); do ok GET /; done
	kill -TERM "$VM_PID"
	ends_with 143 5
	wait "$reader"
	jq -es 'length == 1 and .[0].event == "exit" and .[0].reason == "signal" and .[0].signal == 15' \
		"$TMP/events"
}
