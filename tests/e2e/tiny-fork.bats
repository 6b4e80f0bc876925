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
	wait_for "${READY:-ready}"
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
	appears "$SNAP/$name.sock"
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

@test "memory is that of one moment, of the child too, and the parent's is its own" {
	parent dirty
	for i in $(seq 6); do
		child "a$i"
		# Also of a parent that runs: what it says later is not the child's.
		EACH='.resume_vm = false' fork_to "a$i"
		ok PATCH /vm '{"state": "Paused"}'
		child "b$i"
		child "c$i"
		EACH='.resume_vm = false' fork_to "b$i" "c$i"
		memory_of parent
		memory_of "b$i"
		memory_of "c$i"
		cmp "$SNAP/parent.mem" "$SNAP/b$i.mem"
		cmp "$SNAP/parent.mem" "$SNAP/c$i.mem"
		# A child that runs changes neither.
		memory_of "a$i"
		of "a$i" PATCH /vm '{"state": "Resumed"}'
		of "b$i" PATCH /vm '{"state": "Resumed"}'
		mv "$SNAP/parent.mem" "$SNAP/was.mem"
		mv "$SNAP/c$i.mem" "$SNAP/was_c.mem"
		mv "$SNAP/b$i.mem" "$SNAP/was_b.mem"
		for _ in $(seq 500); do
			memory_of "b$i"
			cmp -s "$SNAP/b$i.mem" "$SNAP/was_b.mem" || break
			of "b$i" PATCH /vm '{"state": "Resumed"}'
			sleep 0.02
		done
		! cmp -s "$SNAP/b$i.mem" "$SNAP/was_b.mem" || fail "the child does not run"
		memory_of parent
		memory_of "c$i"
		cmp "$SNAP/parent.mem" "$SNAP/was.mem"
		cmp "$SNAP/c$i.mem" "$SNAP/was_c.mem"
		[ "$i" = 1 ] || ! cmp -s "$SNAP/parent.mem" "$SNAP/before.mem" || fail "the parent does not run"
		mv "$SNAP/parent.mem" "$SNAP/before.mem"
		ok PATCH /vm '{"state": "Resumed"}'
		printf x >"$SNAP/a$i.in"
		kill -KILL "$(eval echo "\$PID_b$i")" "$(eval echo "\$PID_c$i")"
		rm -f "$SNAP"/[abc]*.mem
		sleep 0.05
	done
	# No more of them than that, whatever the number of forks.
	[ "$(find "/proc/$VM_PID/fd" -lname '*memfd:fork*' | wc -l)" -le 8 ]
	printf x >&7
	ends_with 0
}

@test "of a guest that runs, the memory is that of the moment of its state" {
	parent sweep
	local last=0 number
	for i in 1 2 3 4; do
		child "a$i"
		EACH='.resume_vm = false' fork_to "a$i"
		memory_of "a$i"
		number=$(one_moment "$SNAP/a$i.mem")
		[ "$number" -ge "$last" ] || fail "$number after $last"
		last=$number
	done
	api GET /
	[ "$(jq -r .state <<<"$BODY")" = Running ]
}

@test "sixteen in one request, each with an identity of its own, also without a shell" {
	parent echo
	local names=() i
	for i in $(seq 15); do
		child "a$i"
		names+=("a$i")
	done
	child plain --id plain
	names+=(plain)
	fork_to "${names[@]}"
	[ "$(jq '.children | length' <<<"$BODY")" = 16 ]
	for i in "${names[@]}"; do
		printf '%s' "I-am-$i." >"$SNAP/$i.in"
	done
	for i in "${names[@]}"; do
		says "$i" "I-am-$i."
		of "$i" PATCH /vm '{"state": "Paused"}'
		of "$i" PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/s\", \"mem_file_path\": \"$SNAP/m\"}"
		dd if="$SNAP/m" bs=4096 skip=254 count=1 status=none | head -c 16 | xxd -p >>"$SNAP/ids"
	done
	[ "$(sort -u "$SNAP/ids" | wc -l)" = 16 ] || fail "$(cat "$SNAP/ids")"
	printf q >&7
	ends_with 0
}

@test "a child that cannot be completed says why, its siblings and the parent live" {
	parent echo
	listen
	child good
	child small --shell vcpus=1,mem_mib=63
	child strange
	local request
	request=$(jq -nc --arg d "$SNAP" '{children: [
		{socket: "\($d)/small.sock"}, {socket: "\($d)/good.sock"}, {socket: "\($d)/nobody"},
		{socket: "\($d)/strange.sock", drive_overrides: [{drive_id: "x", path_on_host: "/y"}]}]}')
	ok PUT /vm/fork "$request"
	[ "$(jq -c '.children | map(has("fault_message"))' <<<"$BODY")" = "[true,false,true,true]" ] || fail "$BODY"
	jq -e '.children[0].fault_message | contains("this shell has 1 vCPUs and 63 MiB")' <<<"$BODY"
	jq -e '.children[2].fault_message | contains("No such file")' <<<"$BODY"
	jq -e '.children[3].fault_message | contains("no drive \u0027x\u0027")' <<<"$BODY"
	printf yes >"$SNAP/good.in"
	says good yes
	printf on >&7
	wait_for on
	# None at all is an error.
	refused PUT /vm/fork "{\"children\": [{\"socket\": \"$SNAP/nobody\"}]}" "no child could be completed"
	# What was refused before it was used up is a shell as before.
	parent_state=$(api GET / && jq -r .state <<<"$BODY")
	[ "$parent_state" = Running ]
	grep -q '"event":"forked".*"children":1,"failed":3' "$EVENTS" || fail "$(cat "$EVENTS")"
}

@test "what makes no sense is refused by name" {
	parent echo
	refused PUT /vm/fork '{}' children
	refused PUT /vm/fork '{"children": []}' "need 1 to 64"
	refused PUT /vm/fork '{"children": [{}]}' "children[0]: needs 'socket'"
	refused PUT /vm/fork '{"children": [{"socket": "/a"}, 7]}' "children[1]: needs 'socket'"
	refused PUT /vm/fork "{\"children\": [{\"socket\": \"/$(printf 'a%.0s' $(seq 120))\"}]}" "path too long"
	refused PUT /vm/fork '{"children": [{"socket": "/a", "snapshot_path": "/b"}]}' "'snapshot_path' has no meaning"
	refused PUT /vm/fork '{"childs": []}' childs
	vm_kill
	vm_api --log-path "$SNAP/log"
	refused PUT /vm/fork '{"children": [{"socket": "/a"}]}' "not supported before starting"
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/echo.elf\"}"
	ok PUT /actions '{"action_type": "InstanceStart"}'
	wait_for ready
	refused PUT /vm/fork '{"children": [{"socket": "/a"}]}' '"memory_backend": "Memfd"'
	vm_kill
	# Without the descriptors it is not what a fork sends.
	vm_api --log-path "$SNAP/log"
	refused PUT /snapshot/load '{"snapshot_path": "x", "mem_backend": {"backend_type": "Passed", "backend_path": "x"}}' "have not come with the request"
}

@test "descriptors that are not what a fork sends" {
	parent echo
	for i in a b c d e f; do
		child $i
	done
	python3 - "$API_SOCK" "$SNAP" 3>&- <<-'EOF' || fail "it takes anything"
		import json, os, socket, sys, threading
		api, snap = sys.argv[1:]
		def connect(path):
		    s = socket.socket(socket.AF_UNIX)
		    s.settimeout(60)
		    s.connect(path)
		    return s
		def put(s, path, body, fds=()):
		    text = json.dumps(body)
		    socket.send_fds(s, [f"PUT {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
		                        f"Content-Length: {len(text)}\r\n\r\n{text}".encode()], list(fds))
		    answer = b""
		    while part := s.recv(65536):
		        answer += part
		    return int(answer.split()[1]), answer
		# What a child is sent.
		listener = socket.socket(socket.AF_UNIX)
		listener.bind(snap + "/thief")
		listener.listen()
		answer = []
		asking = threading.Thread(target=lambda: answer.append(
		    put(connect(api), "/vm/fork", {"children": [{"socket": snap + "/thief"}]})))
		asking.start()
		c = listener.accept()[0]
		_, (state, memory), _, _ = socket.recv_fds(c, 65536, 16)
		c.sendall(b"HTTP/1.1 204 \r\n\r\n")
		asking.join()
		assert answer[0][0] == 200, answer
		load = {"snapshot_path": "x", "resume_vm": True,
		        "mem_backend": {"backend_type": "Passed", "backend_path": "x"}}
		def tell(name, *fds):
		    return put(connect(f"{snap}/{name}.sock"), "/snapshot/load", load, fds)
		path = os.open(f"/proc/self/fd/{state}", os.O_PATH)
		directory = os.open("/", os.O_RDONLY)
		pipe = os.pipe()
		short, empty = os.memfd_create("short"), os.memfd_create("empty")
		os.ftruncate(short, os.fstat(memory).st_size - 4096)
		device = os.open("/dev/zero", os.O_RDWR)
		# A state that is none leaves the shell as it is; nobody waits for a pipe.
		for lie in path, directory, pipe[0], pipe[1], short, empty, device, memory:
		    status, text = tell("a", lie, memory)
		    assert status == 400, (os.readlink(f"/proc/self/fd/{lie}"), text)
		status, text = tell("a", state)
		assert status == 400, text
		# Memory that is none ends it, and so do layers that the state does not have.
		for name, *lie in (("b", short), ("c", pipe[0]), ("d", path), ("e", memory, memory),
		                   ("f", *[memory] * 30)):
		    status, text = tell(name, state, *lie)
		    assert status == 400, (name, text)
		status, text = tell("a", state, memory)
		assert status == 204, text
	EOF
	printf fine >"$SNAP/a.in"
	says a fine
	for i in b c d e f; do
		local pid=PID_$i
		for _ in $(seq 500); do
			kill -0 "${!pid}" 2>/dev/null || continue 2
			sleep 0.02
		done
		fail "$i is still there"
	done
}

# fork_later NAME: in the background; the answer goes to $SNAP/answer.
fork_later() {
	curl -sS --max-time 60 --unix-socket "$API_SOCK" -X PUT -d "$(fork_request "$@")" \
		http://localhost/vm/fork >"$SNAP/answer" 2>/dev/null 3>&- 7>&- &
	CURL=$!
}

# asked NAME: until a request waits at its socket.
asked() {
	for _ in $(seq 1000); do
		[ "$(ss -xlH src "$SNAP/$1.sock" | awk '{ print $3 }')" = 0 ] || return 0
		sleep 0.02
	done
	fail "nobody has asked $1"
}

@test "a shell that dies during the hand-over, and one that hangs" {
	parent echo
	listen
	child dies
	child good
	# shellcheck disable=SC2154
	kill -STOP "$PID_dies"
	fork_later dies good
	asked dies
	# The parent runs and answers meanwhile, and its child does too.
	printf while >&7
	wait_for while
	printf lives >"$SNAP/good.in"
	says good lives
	refused PUT /vm/fork "$(fork_request good)" "another fork is on its way"
	kill -KILL "$PID_dies"
	wait "$CURL"
	jq -e '.children[0].fault_message | contains("before it answered")' "$SNAP/answer" || fail "$(cat "$SNAP/answer")"
	jq -e '.children[1] | has("fault_message") | not' "$SNAP/answer"
	# A client that goes away changes nothing.
	child late
	# shellcheck disable=SC2154
	kill -STOP "$PID_late"
	fork_later late
	asked late
	kill "$CURL"
	wait "$CURL" || true
	kill -CONT "$PID_late"
	printf lives >"$SNAP/late.in"
	says late lives
	for _ in $(seq 500); do
		[ "$(grep -c '"event":"forked"' "$EVENTS")" = 2 ] && break
		sleep 0.02
	done
	[ "$(grep -c '"event":"forked"' "$EVENTS")" = 2 ] || fail "$(cat "$EVENTS")"
	printf end >&7
	wait_for end
}

# goes_on NAME: a child that was completed echoes what it is told.
goes_on() {
	local word=$RANDOM
	printf '%s.' "$word" >"$SNAP/$1.in"
	says "$1" "$word."
}

# The parent, a child of this fork or one of the fork before: what lives goes on, what was not completed is
# told or is a shell still.
@test "any of them is killed at any time" {
	local i name victim before="" pid rounds=${SPORE_ROUNDS:-12}
	parent echo
	for i in $(seq "$rounds"); do
		child "a$i"
		child "b$i"
		mapfile -t victims < <(printf '%s\n' parent "a$i" ${before:+"$before"})
		victim=${victims[$((i % ${#victims[@]}))]}
		if [ "$victim" = parent ]; then pid=$VM_PID; else pid=$(eval echo "\$PID_$victim"); fi
		fork_later "a$i" "b$i"
		sleep "$(printf '0.%03d' $((RANDOM % 60)))"
		kill -KILL "$pid"
		wait "$pid" 2>/dev/null || true
		wait "$CURL" || [ "$victim" = parent ] || fail "the parent gave no answer"
		for name in "a$i" "b$i"; do
			if [ "$victim" = parent ]; then
				# It had it, or never will.
				of "$name" GET /
				[ "$(jq -r .state <<<"$BODY")" = "Not started" ] || goes_on "$name"
			elif [ "$victim" != "$name" ]; then
				jq -e --arg s "$SNAP/$name.sock" '.children | any(.socket == $s and (has("fault_message") | not))' \
					"$SNAP/answer" || fail "$victim killed: $(cat "$SNAP/answer")"
				goes_on "$name"
			fi
		done
		[ -z "$before" ] || [ "$victim" = "$before" ] || goes_on "$before"
		before=""
		if [ "$victim" = parent ]; then
			parent echo
		else
			printf 'on%s' "$i" >&7
			wait_for "on$i"
			before=b$i
		fi
	done
	printf q >&7
	ends_with 0
}

@test "in jails" {
	[ "$(id -u)" = 0 ] || skip "needs root"
	# shellcheck disable=SC2034
	SPORE=$TOP/tests/e2e/jailed-spore
	parent echo
	for i in 1 2 3; do
		child "a$i"
		fork_to "a$i"
		printf hello >"$SNAP/a$i.in"
		says "a$i" hello
	done
	printf q >&7
	ends_with 0
}

@test "a child has children too, and a microVM of a snapshot has some" {
	parent dirty
	child a
	fork_to a
	local mine=$API_SOCK
	API_SOCK=$SNAP/a.sock
	for i in 1 2; do
		ok PATCH /vm '{"state": "Paused"}'
		child "b$i"
		EACH='.resume_vm = false' fork_to "b$i"
		memory_of parent
		memory_of "b$i"
		cmp "$SNAP/parent.mem" "$SNAP/b$i.mem"
		ok PATCH /vm '{"state": "Resumed"}'
		sleep 0.05
	done
	API_SOCK=$mine
	snap s
	vm_kill
	restore s
	sleep 0.05
	for i in 1 2; do
		ok PATCH /vm '{"state": "Paused"}'
		child "c$i"
		EACH='.resume_vm = false' fork_to "c$i"
		memory_of parent
		memory_of "c$i"
		cmp "$SNAP/parent.mem" "$SNAP/c$i.mem"
		ok PATCH /vm '{"state": "Resumed"}'
		sleep 0.05
	done
}

@test "diff snapshots and forks do not take each other's dirty pages" {
	parent dirty '.track_dirty_pages = true'
	snap merged
	listen
	for i in 1 2 3; do
		ok PATCH /vm '{"state": "Resumed"}'
		sleep 0.03
		child "a$i"
		EACH='.resume_vm = false' fork_to "a$i"
		sleep 0.03
		live "d$i" '.snapshot_type = "Diff"'
		merge merged "d$i"
		sleep 0.03
		child "b$i"
		ok PATCH /vm '{"state": "Paused"}'
		EACH='.resume_vm = false' fork_to "b$i"
		ok PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/e.state\", \"mem_file_path\": \"$SNAP/e.mem\", \"snapshot_type\": \"Diff\"}"
		merge merged e
		cp "$SNAP/merged.mem" "$SNAP/now.mem"
		dd if=/dev/zero of="$SNAP/now.mem" bs=4096 seek=254 count=2 conv=notrunc status=none
		memory_of "b$i"
		cmp "$SNAP/now.mem" "$SNAP/b$i.mem"
		rm -f "$SNAP"/[abd]*.mem
	done
	ok PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/full.state\", \"mem_file_path\": \"$SNAP/full.mem\"}"
	cmp "$SNAP/merged.mem" "$SNAP/full.mem"
}

@test "nobody can write to what they share" {
	parent echo
	child a
	child b
	fork_to a
	fork_to b
	# shellcheck disable=SC2154
	for fd in $(find "/proc/$VM_PID/fd" "/proc/$PID_a/fd" "/proc/$PID_b/fd" -lname '*memfd:*'); do
		! dd if=/dev/zero of="$fd" bs=4096 count=1 conv=notrunc 2>/dev/null || fail "$(readlink "$fd") can be written to"
		! truncate -s 4096 "$fd" 2>/dev/null || fail "$(readlink "$fd") can be cut"
	done
	for i in a b; do
		printf fine >"$SNAP/$i.in"
		says "$i" fine
	done
}

# a_disk: for slot.elf, which says what is in the first sector whenever it is asked.
a_disk() {
	printf 'AAAA' >"$SNAP/disk"
	truncate -s 1M "$SNAP/disk"
	ok PUT /drives/d "{\"drive_id\": \"d\", \"path_on_host\": \"$SNAP/disk\", \"is_root_device\": false, \"placeholder\": true ${OVERLAY:+, \"overlay\": \"$OVERLAY\"}}"
	ok PUT /network-interfaces/n '{"iface_id": "n", "placeholder": true}'
}

@test "children have disks of their own: copies of that moment, or what they are told" {
	DEVICES=a_disk parent slot
	local here=".drive_overrides = [{drive_id: \"d\", path_on_host: (.socket + \".disk\"), copy: true}]"
	for i in a b c; do
		child $i
	done
	printf 1 >&7
	wait_for 41414141
	EACH=$here fork_to a b
	cmp "$SNAP/a.sock.disk" "$SNAP/disk"
	cmp "$SNAP/b.sock.disk" "$SNAP/disk"
	[ "$(du -k "$SNAP/b.sock.disk" | cut -f1)" -le 8 ]
	for i in a b; do
		printf 1 >"$SNAP/$i.in"
		says $i 41414141
	done
	# What its parent writes to is locked, and what was made for a child that fails goes away.
	api PUT /vm/fork "$(EACH="$here | .vsock_override = {uds_path: \"/v\"}" fork_request c)"
	[ "$STATUS" = 400 ]
	[[ $BODY == *"no vsock device"* ]] || fail "$BODY"
	[ ! -e "$SNAP/c.sock.disk" ]
	[ ! -e "$SNAP/c.sock.disk.tmp" ]
	child d
	api PUT /vm/fork "$(fork_request d)"
	[[ $BODY == *"in use"* || $BODY == *lock* ]] || fail "$BODY"
	refused PUT /vm/fork "$(EACH='.drive_overrides = [{drive_id: "x", path_on_host: "/x", copy: true}]' fork_request c)" "no drive 'x'"
	refused PUT /vm/fork "$(EACH='.drive_overrides = [{drive_id: "d", copy: true}]' fork_request c)" "needs path_on_host"
	printf 1 >&7
	for _ in $(seq 1000); do
		[ "$(grep -c 41414141 "$VM_DIR/out")" = 2 ] && return
		sleep 0.02
	done
	fail "the parent does not go on"
}

a_busy_disk() {
	head -c 1M /dev/urandom >"$SNAP/disk"
	ok PUT /drives/d "{\"drive_id\": \"d\", \"path_on_host\": \"$SNAP/disk\", \"is_root_device\": false, \"is_read_only\": true, \"io_engine\": \"$ENGINE\"}"
}

# reads SOCKET: until the guest has read more from its disk, as often as it was asked.
reads() {
	local before now i
	before=$(curl -sS --unix-socket "$1" http://localhost/metrics | awk '/^spore_block_read_bytes_total.*"d"/ { print $2 }')
	[ -n "$before" ] || fail "no such metric"
	for i in $(seq 1000); do
		now=$(curl -sS --unix-socket "$1" http://localhost/metrics | awk '/^spore_block_read_bytes_total.*"d"/ { print $2 }')
		[ "$now" = "$before" ] || return 0
		sleep 0.02
	done
	fail "it does not read from its disk any more"
}

@test "a disk that is being read from all the time, by both engines" {
	for ENGINE in Sync Async; do
		READY=r DEVICES=a_busy_disk parent diskflood
		for i in 1 2 3; do
			child "$ENGINE$i"
			fork_to "$ENGINE$i"
			reads "$API_SOCK"
			reads "$SNAP/$ENGINE$i.sock"
			# What was read is in the memory of the child, whole: the last of the disk's first 256 KiB.
			memory_of "$ENGINE$i"
			python3 - "$SNAP/$ENGINE$i.mem" "$SNAP/disk" <<-'EOF' || fail "what was read is not there"
				import sys
				memory, disk = (open(name, "rb").read() for name in sys.argv[1:])
				at = memory.find(disk[:4096])
				assert at >= 0 and memory[at:at + 0x40000] == disk[:0x40000]
			EOF
		done
		vm_kill
	done
}

a_hotplug() {
	ok PUT /hotplug/memory '{"total_size_mib": 1024}'
}

@test "memory that comes and goes, in children without a shell" {
	DEVICES=a_hotplug parent plug
	ok PATCH /hotplug/memory '{"requested_size_mib": 4}'
	wait_for 64636261
	for i in a b; do
		child $i --id $i
		fork_to $i
		of $i GET /hotplug/memory
		[ "$(jq .plugged_size_mib <<<"$BODY")" = 2 ] || fail "$BODY"
		printf x >"$SNAP/$i.in"
		says $i ffffffff
		grep -qF 64636261 "$SNAP/$i.out" || fail "what it has written is gone: $(cat "$SNAP/$i.out")"
		of $i GET /hotplug/memory
		[ "$(jq .plugged_size_mib <<<"$BODY")" = 0 ] || fail "$BODY"
		ok GET /hotplug/memory
		[ "$(jq .plugged_size_mib <<<"$BODY")" = 2 ] || fail "$BODY"
	done
	child shell
	refused PUT /vm/fork "$(fork_request shell)" "no memory that can be hotplugged"
	printf x >&7
	wait_for ffffffff
	printf x >&7
	ends_with 0
}
