#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# Command line and API of the real spore, as far as no guest has to run: whatever the machine's
# /dev/kvm is.
#
# Backquotes in messages are meant as they are.
# shellcheck disable=SC2016,SC2030,SC2031,SC2153

setup() {
	load vm.bash
	TMP=$(mktemp -d)
	umask 022
}

teardown() {
	vm_kill
	rm -rf "$TMP"
}

# exits STATUS ARGS...: spore ends at once with STATUS and says one line on standard error ($line), but for
# what to type next (tiny-newcomer.bats).
exits() {
	local want=$1 status=0
	shift
	timeout 10 "$SPORE" "$@" >"$TMP/out" 2>"$TMP/err" </dev/null || status=$?
	[ "$status" = "$want" ] || fail "spore $*: exit status $status, expected $want: $(cat "$TMP/err")"
	[ "$(grep -vc "^  try: " "$TMP/err")" = 1 ] || fail "spore $*: not one line: $(cat "$TMP/err")"
	line=$(head -n 1 "$TMP/err")
}

says() {
	[[ $line == *"$1"* ]] || fail "'$1' is not in '$line'"
}

# raw TEXT: sends bytes (printf escapes) on the socket and prints all that comes until the end.
raw() {
	printf '%b' "$1" | timeout 10 python3 -c '
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(sys.stdin.buffer.read())
s.shutdown(socket.SHUT_WR)
while data := s.recv(65536):
    sys.stdout.buffer.write(data)' "$API_SOCK"
}

# --- command line ---

@test "--version and --help" {
	run "$SPORE" --version
	[ "$status" = 0 ]
	[[ $output =~ ^spore\ v[0-9]+\.[0-9]+\.[0-9]+$ ]]
	run "$SPORE" --help
	[ "$status" = 0 ]
	[[ $output == *"--api-sock PATH"* ]]
}

@test "the reference page is what is made of openapi.yaml" {
	"$TOP/tools/api-reference" --check
}

@test "wrong options: exit code 153 and one line that names the option" {
	exits 153 --nope; says --nope
	exits 153 --api x; says --api
	exits 153 word; says word
	exits 153 --id; says --id
	exits 153 --id a_b; says --id
	exits 153 --id a --id b; says --id
	exits 153 --no-api; says --no-api
	exits 153 --level loud; says --level
	exits 153 --http-api-max-payload-size -5; says --http-api-max-payload-size
	exits 153 --boot-timer=1; says --boot-timer
	exits 153 $'--a\nb'; says '--a?b'
}

@test "paths that do not work: exit code 1 and one line that names them" {
	exits 1 --api-sock /no/such/dir/s; says "/no/such/dir/s': No such file or directory"
	exits 1 --api-sock "$(printf '/tmp/%0200d' 0)"; says 107
	exits 1 --api-sock "$TMP/s" --log-path /no/dir/log; says "/no/dir/log"; says --log-path
	exits 1 --api-sock "$TMP/s" --metrics-path /no/dir/m; says "/no/dir/m"; says --metrics-path
	[ ! -e "$TMP/s" ]
}

@test "a socket path in use: exit code 1, and the first process goes on" {
	vm_api
	exits 1 --api-sock "$API_SOCK"; says "in use by a running process"; says "$API_SOCK"
	ok GET /
	kill -KILL "$VM_PID"
	wait "$VM_PID" || true
	exits 1 --api-sock "$API_SOCK"; says "nobody listens"; says "$API_SOCK"
	[ -S "$API_SOCK" ]
	rm "$API_SOCK"
}

@test "the socket is for its owner alone, and goes away with the process" {
	# Not INT: a shell without job control makes its children ignore that.
	for signal in TERM:143 HUP:156; do
		vm_api
		[ "$(stat -c %a "$API_SOCK")" = 600 ]
		kill "-${signal%:*}" "$VM_PID"
		ends_with "${signal#*:}" 5
		[ ! -e "$API_SOCK" ]
		[ ! -s "$VM_DIR/err" ]
	done
}

@test "closed standard descriptors are not reused for files" {
	"$SPORE" --api-sock "$TMP/s" --log-path "$TMP/log" <&- >&- 2>&- &
	VM_PID=$!
	appears "$TMP/s"
	for fd in 0 1 2; do
		[ "$(readlink "/proc/$VM_PID/fd/$fd")" = /dev/null ]
	done
}

# bats test_tags=outside
@test "a file size limit ends the process with Firecracker's exit code" {
	mkfifo "$TMP/pipe" # standard error in a file would meet the limit as well
	(ulimit -f 0; exec "$SPORE" --api-sock "$TMP/s" --log-path "$TMP/log") 2>"$TMP/pipe" &
	VM_PID=$!
	exec 8<"$TMP/pipe"
	appears "$TMP/s"
	curl -s --unix-socket "$TMP/s" http://localhost/nope || true
	VM_DIR=$TMP
	touch "$TMP/out" "$TMP/err"
	ends_with 151 5
	grep -q SIGXFSZ <&8
	exec 8<&-
}

# --- requests ---

# bats test_tags=outside
@test "GET: instance, version, machine, configuration" {
	vm_api --id my-vm-1
	ok GET /
	jq -e '. == {app_name: "Firecracker", id: "my-vm-1", state: "Not started",
		vmm_version: .vmm_version}' <<<"$BODY"
	ok GET /version
	jq -e '.firecracker_version | test("^[0-9]+\\.[0-9]+\\.[0-9]+$")' <<<"$BODY"
	ok GET /machine-config
	jq -e '.vcpu_count == 1 and .mem_size_mib == 128 and .smt == false' <<<"$BODY"
	ok GET /vm/config
	jq -e '.drives == [] and ."boot-source" == null' <<<"$BODY"
}

@test "headers are Firecracker's" {
	vm_api
	run curl -sS -i --unix-socket "$API_SOCK" http://localhost/version
	[[ $output == "HTTP/1.1 200 OK"* ]]
	[[ $output == *"Server: Firecracker API"* ]]
	[[ $output == *"Content-Type: application/json"* ]]
	run curl -sS -i --unix-socket "$API_SOCK" -X PUT -d '{}' http://localhost/entropy
	[[ $output == "HTTP/1.1 204 No Content"* ]]
	[[ $output != *Content-Length* ]]
}

@test "a whole configuration, and the same again from its own output" {
	truncate -s 1M "$TMP/disk" "$TMP/data"
	vm_api
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/hello.elf\", \"boot_args\": \"a=1\"}"
	ok PUT /machine-config '{"vcpu_count": 2, "mem_size_mib": 256, "smt": true}'
	ok PATCH /machine-config '{"track_dirty_pages": true}'
	ok PUT /drives/data "{\"drive_id\": \"data\", \"path_on_host\": \"$TMP/data\",
		\"is_root_device\": false, \"is_read_only\": true}"
	ok PUT /drives/root "{\"drive_id\": \"root\", \"path_on_host\": \"$TMP/disk\",
		\"is_root_device\": true, \"partuuid\": null, \"cache_type\": \"Writeback\"}"
	ok PUT /entropy '{}'
	ok PUT /serial "{\"serial_out_path\": \"$TMP/console\"}"
	ok PUT /logger "{\"log_path\": \"$TMP/log\", \"level\": \"Debug\", \"show_level\": true}"
	ok PUT /metrics "{\"metrics_path\": \"$TMP/metrics\"}"
	ok GET /vm/config
	jq -e '.drives[0].drive_id == "root" and ."machine-config".track_dirty_pages' <<<"$BODY"
	echo "$BODY" >"$TMP/config.json"
	vm_kill
	# With a kernel that is gone, spore ends before it needs /dev/kvm: with the file understood.
	jq ".\"boot-source\".kernel_image_path = \"$TMP/gone\"" "$TMP/config.json" >"$TMP/gone.json"
	exits 152 --no-api --config-file "$TMP/gone.json"
	says "$TMP/gone': No such file or directory"
	[ -s "$TMP/log" ]
}

@test "bad fields: 400, the message names them, and the process stays usable" {
	vm_api
	refused PUT /machine-config '{"vcpu_count": 1, "mem_size_mib": 1, "x": 1}' 'unknown field `x`'
	refused PUT /machine-config '{"vcpu_count": "1", "mem_size_mib": 1}' 'field `vcpu_count`'
	refused PUT /machine-config '{"vcpu_count": 0, "mem_size_mib": 1}' 'field `vcpu_count`'
	refused PUT /machine-config '{"vcpu_count": 33, "mem_size_mib": 1}' 'not within 1..32'
	refused PUT /machine-config '{"vcpu_count": 1, "mem_size_mib": 0}' 'field `mem_size_mib`'
	refused PUT /machine-config '{"vcpu_count": 1, "mem_size_mib": 1.5}' 'field `mem_size_mib`'
	refused PUT /machine-config '{"vcpu_count": 1}' 'missing field `mem_size_mib`'
	refused PUT /machine-config '{"vcpu_count": 3, "mem_size_mib": 1, "smt": true}' 'vcpu_count'
	refused PUT /machine-config '{"vcpu_count": 1, "vcpu_count": 2}' 'duplicate'
	refused PUT /machine-config '{' 'line 1'
	refused PUT /machine-config '' 'Empty PUT request.'
	refused PATCH /machine-config '{}' 'Empty PATCH request.'
	refused PUT /boot-source '{"kernel_image_path": "/a\u0000b"}' 'u0000'
	refused PUT /logger '{"level": "loud"}' 'field `level`'
	refused PUT /entropy '{"rate_limiter": []}' 'rate_limiter'
	refused PUT /actions '{"action_type": "Explode"}' 'field `action_type`'
	refused PUT /nope '{}' 'Invalid request method and/or path: PUT /nope.'
	refused POST / '{}' 'Invalid request method and/or path: POST /.'
	refused GET / '{}' 'GET request cannot have a body.'
	ok GET /machine-config
	jq -e '.vcpu_count == 1 and .mem_size_mib == 128' <<<"$BODY"
}

# bats test_tags=outside
@test "bad files: 400, the message names field, file and reason" {
	mkfifo "$TMP/fifo"
	echo "not a kernel" >"$TMP/text"
	vm_api
	refused PUT /boot-source "{\"kernel_image_path\": \"$TMP/gone\"}" \
		"kernel_image_path: open '$TMP/gone': No such file or directory"
	refused PUT /boot-source "{\"kernel_image_path\": \"$TMP\"}" "'$TMP' is a directory"
	refused PUT /boot-source "{\"kernel_image_path\": \"$TMP/fifo\"}" "is a FIFO"
	refused PUT /boot-source "{\"kernel_image_path\": \"$TMP/text\"}" "kernel_image_path: '$TMP/text'"
	refused PUT /boot-source "{\"kernel_image_path\": \"$GUEST/hello.elf\", \"initrd_path\": \"$TMP\"}" \
		"initrd_path: '$TMP' is a directory"
	local drive='"drive_id": "a", "is_root_device": false'
	refused PUT /drives/a "{$drive, \"path_on_host\": \"$TMP/fifo\"}" "path_on_host: '$TMP/fifo' is a FIFO"
	refused PUT /drives/a "{$drive, \"path_on_host\": \"$TMP\"}" "$TMP"
	refused PUT /drives/a "{$drive, \"path_on_host\": \"/dev/zero\"}" "a character device"
	refused PUT /drives/a "{$drive, \"path_on_host\": \"$TMP/gone\"}" "No such file"
	refused PUT /drives/b "{$drive, \"path_on_host\": \"$TMP/text\"}" "does not match the id"
	refused PUT /drives/a-b "{$drive, \"path_on_host\": \"$TMP/text\"}" "alphanumeric"
	refused PUT /drives/ "{$drive, \"path_on_host\": \"$TMP/text\"}" "The ID cannot be empty."
	refused PUT /serial "{\"serial_out_path\": \"$TMP\"}" "serial_out_path"
	refused PUT /logger '{"log_path": "/no/dir/log"}' "/no/dir/log"
	refused PUT /metrics '{"metrics_path": "/no/dir/m"}' "/no/dir/m"
	ok GET /vm/config
	jq -e '.drives == [] and ."boot-source" == null and .logger == null and .metrics == null' <<<"$BODY"
}

@test "requests in the wrong phase" {
	vm_api
	refused PATCH /vm '{"state": "Paused"}' "not supported before starting the microVM."
	refused PUT /actions '{"action_type": "FlushMetrics"}' "not supported before starting"
	refused PUT /actions '{"action_type": "SendCtrlAltDel"}' "not supported before starting"
	refused PUT /actions '{"action_type": "InstanceStart"}' \
		"Start microvm error: Cannot start microvm without kernel configuration."
	ok GET /
	jq -e '.state == "Not started"' <<<"$BODY"
}

@test "metrics can be set once" {
	vm_api
	ok PUT /metrics "{\"metrics_path\": \"$TMP/m\"}"
	refused PUT /metrics "{\"metrics_path\": \"$TMP/n\"}" "set already"
	[ ! -e "$TMP/n" ]
}

# bats test_tags=outside
@test "a start without /dev/kvm: 400 that names it, and the process stays usable" {
	local run=()
	if [ -w /dev/kvm ]; then
		unshare -m true 2>/dev/null || skip "/dev/kvm works and cannot be hidden from a test"
		# As on a machine whose /dev/kvm is another thing.
		run=(unshare -m sh -c 'mount --bind /dev/null /dev/kvm && exec "$0" "$@"')
	fi
	VM_DIR=$TMP
	API_SOCK=$TMP/s
	"${run[@]}" "$SPORE" --api-sock "$API_SOCK" >"$TMP/out" 2>"$TMP/err" </dev/null &
	VM_PID=$!
	appears "$API_SOCK"
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/hello.elf\"}"
	for _ in 1 2 3; do
		refused PUT /actions '{"action_type": "InstanceStart"}' "/dev/kvm"
	done
	ok GET /
	jq -e '.state == "Not started"' <<<"$BODY"
	ok PUT /machine-config '{"vcpu_count": 2, "mem_size_mib": 256}'
}

# bats test_tags=outside
@test "a /dev/kvm that is forbidden: exit code 152 and one line" {
	[ "$(id -u)" = 0 ] || skip "needs root to become somebody else"
	[ -e /dev/kvm ] || skip "no /dev/kvm on this machine"
	setpriv --reuid=65534 --regid=65534 --clear-groups test -w /dev/kvm && skip "it is open to all"
	chmod 755 "$TMP"
	cp "$SPORE" "$GUEST/hello.elf" "$TMP"
	jq -n --arg kernel "$TMP/hello.elf" '{"boot-source": {kernel_image_path: $kernel}}' >"$TMP/c"
	SPORE_REAL=$SPORE
	printf '#!/bin/sh\nexec setpriv --reuid=65534 --regid=65534 --clear-groups %s "$@"\n' \
		"$TMP/$(basename "$SPORE_REAL")" >"$TMP/run"
	chmod 755 "$TMP/run"
	SPORE=$TMP/run
	exits 152 --no-api --config-file "$TMP/c"
	says "/dev/kvm"
	says "ermission"
}

@test "bodies over the limit: 413" {
	vm_api --http-api-max-payload-size 100
	api PUT /machine-config "{\"vcpu_count\": 1, \"mem_size_mib\": $(printf '%080d' 1)}"
	[ "$STATUS" = 413 ]
	jq -e '.fault_message | contains("100 bytes")' <<<"$BODY"
	ok PUT /machine-config '{"vcpu_count": 1, "mem_size_mib": 64}'
	vm_kill
	vm_api
	head -c 300000 /dev/zero | tr '\0' ' ' >"$TMP/big"
	run curl -sS -o /dev/null -w '%{http_code}' --unix-socket "$API_SOCK" -X PUT \
		-T "$TMP/big" http://localhost/entropy
	[ "$output" = 413 ]
	run curl -sS -o /dev/null -w '%{http_code}' --unix-socket "$API_SOCK" -X PUT \
		-H 'Transfer-Encoding: chunked' -H 'Expect:' -T "$TMP/big" http://localhost/entropy
	[ "$output" = 413 ]
	ok GET /
}

@test "what is not HTTP: 400 in JSON, and the connection ends" {
	vm_api
	run raw 'nonsense\r\n\r\n'
	[[ $output == "HTTP/1.1 400 Bad Request"*'{"fault_message":"Malformed'* ]]
	run raw 'GET / HTTP/3.0\r\n\r\n'
	[[ $output == "HTTP/1.1 400"* ]]
	run raw "GET /$(printf '%02000d' 0) HTTP/1.1\r\n\r\n"
	[[ $output == "HTTP/1.1 400"* ]]
	run raw "GET / HTTP/1.1\r\nx: $(printf '%02000d' 0)\r\n\r\n"
	[[ $output == "HTTP/1.1 400"* ]]
	ok GET /
}

@test "pipelined requests are answered in order" {
	vm_api
	run raw 'GET /version HTTP/1.1\r\n\r\nPUT /entropy HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}GET / HTTP/1.1\r\n\r\n'
	[ "$(grep -oE 'HTTP/1.1 [0-9]+|\{"[a-z_]*' <<<"$output" | paste -sd' ')" = \
		'HTTP/1.1 200 {"firecracker_version HTTP/1.1 204 HTTP/1.1 200 {"app_name' ]
}

@test "sixteen connections, and a seventeenth is told" {
	vm_api
	run timeout 20 python3 -c '
import socket, sys
def connect():
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    return s
def get(s):
    s.sendall(b"GET / HTTP/1.1\r\n\r\n")
    return s.recv(4096)
held = [connect() for _ in range(16)]
assert all(get(s).startswith(b"HTTP/1.1 200") for s in held)
assert connect().recv(4096).startswith(b"HTTP/1.1 503")
assert all(get(s).startswith(b"HTTP/1.1 200") for s in held)
' "$API_SOCK"
	[ "$status" = 0 ]
	ok GET /
}

# bats test_tags=outside
@test "a log on a full disk loses lines and nothing else" {
	vm_api --log-path /dev/full --level Debug
	for _ in 1 2 3; do
		refused GET /nope '' Invalid
		ok GET /
	done
}

# bats test_tags=outside
@test "the log tells of refused requests, on one line whatever the client sent" {
	vm_api --log-path "$TMP/log" --show-level --id log-test
	raw 'GET /a\x01b\xff HTTP/1.1\r\n\r\n' >/dev/null
	refused PUT /boot-source '{"kernel_image_path": "/no\nsuch\nfile"}' kernel_image_path
	grep -qE '^[-0-9T:.]+ \[log-test:main:WARN\] API: PUT /boot-source: .*/no\?such\?file' "$TMP/log"
	[ "$(grep -vc '^20' "$TMP/log")" = 0 ]
}

# --- config file ---

@test "bad config files: exit code 152, one line that names file, group and field; no socket left" {
	bad() { # bad JSON TEXT
		echo "$1" >"$TMP/config"
		exits 152 --api-sock "$TMP/s" --config-file "$TMP/config"
		says "$TMP/config"
		says "$2"
		[ ! -e "$TMP/s" ]
	}
	bad '{' "line 2"
	bad '[]' "expected a JSON object"
	bad '{"machine-config": {"vcpu_count": 0, "mem_size_mib": 1}}' "'machine-config': field \`vcpu_count\`"
	bad '{"drives": [{"drive_id": "a"}]}' "'drives': missing field \`is_root_device\`"
	bad '{"drives": [{"drive_id": "a", "is_root_device": false}]}' "'drives': Drive config error: path_on_host: missing"
	bad '{"boot-source": {"kernel_image_path": "/no\nkernel"}}' "/no?kernel"
	bad '{"pmem": [{"id": "p", "path_on_host": "/x"}]}' "'pmem': Pmem config error: path_on_host: open '/x': No such file"
	exits 152 --no-api --config-file "$TMP/gone"; says "$TMP/gone': No such file"
	exits 152 --no-api --config-file "$TMP"; says "$TMP"
	echo '{}' >"$TMP/config"
	exits 152 --no-api --config-file "$TMP/config"; says "Cannot start microvm without kernel"
}
