#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# Guests of a few instructions that move from one process into another, on whatever /dev/kvm there is.
# The guest is tests/guest/tally.S: it notices itself when its memory is not what it left there.

setup() {
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	load vm.bash
	load snapshot.bash
	M=$SNAP/m.sock
}

teardown() {
	[ -z "${RELAY:-}" ] || kill "$RELAY" 2>/dev/null || true
	for name in "${!PID_OF[@]}"; do
		VM_PID=${PID_OF[$name]}
		vm_kill
	done
	vm_kill
	rm -rf "$SNAP"
}

# Several processes: keep NAME remembers the one that vm.bash has in its hands, use NAME takes it up.
declare -gA PID_OF DIR_OF SOCK_OF IN_OF

keep() {
	PID_OF[$1]=$VM_PID DIR_OF[$1]=$VM_DIR SOCK_OF[$1]=$API_SOCK
	exec {fd}>&7
	IN_OF[$1]=$fd
	VM_PID=
}

use() {
	VM_PID=${PID_OF[$1]} VM_DIR=${DIR_OF[$1]} API_SOCK=${SOCK_OF[$1]}
	exec 7>&"${IN_OF[$1]}"
}

# drop NAME: kills it, if it still runs.
drop() {
	use "$1"
	vm_kill
	fd=${IN_OF[$1]}
	exec {fd}>&-
	unset "PID_OF[$1]"
}

# boot [MACHINE-JQ]: a process "a" with the guest, which has counted once.
boot() {
	vm_api --log-path "$SNAP/log"
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/${KERNEL:-tally}.elf\"}"
	ok PUT /machine-config "$(jq -nc "{vcpu_count: 1, mem_size_mib: 48} ${1:+| $1}")"
	ok PUT /entropy '{}'
	[ -z "${DISK:-}" ] || ok PUT /drives/d "{\"drive_id\": \"d\", \"path_on_host\": \"$DISK\", \"is_root_device\": false}"
	ok PUT /actions '{"action_type": "InstanceStart"}'
	wait_for ready
	keep a
}

# receiver [JQ] [OPTIONS...]: a process "b" that waits at $M.
receiver() {
	vm_api --log-path "$SNAP/log" "${@:2}"
	ok PUT /vm/receive "$(jq -nc --arg s "$M" "{socket_path: \$s} ${1:+| $1}")"
	keep b
}

# migrate [JQ]: begins at "a".
migrate() {
	use a
	ok PUT /vm/migrate "$(jq -nc --arg s "${VIA:-$M}" "{socket_path: \$s} ${1:+| $1}")"
}

# alive NAME
alive() {
	kill -0 "${PID_OF[$1]}" 2>/dev/null
}

# Answers with nothing when the process is gone.
ask() {
	curl -sS --max-time 20 --unix-socket "${SOCK_OF[$1]}" "http://localhost$2" 2>/dev/null || true
}

# state NAME: Running, Paused, "Not started", or gone.
state() {
	local answer
	answer=$(ask "$1" / | jq -r .state)
	echo "${answer:-gone}"
}

# until_status NAME STATUS...: waits until the migration has come to one of these; it is in $STATUS.
until_status() {
	local deadline=$((SECONDS + 60)) name=$1
	shift
	while [ "$SECONDS" -le "$deadline" ]; do
		MIGRATION=$(ask "$name" /vm/migrate)
		STATUS=$(jq -r .status <<<"$MIGRATION")
		STATUS=${STATUS:-gone}
		[[ " $* " != *" $STATUS "* ]] || return 0
		sleep 0.02
	done
	use "$name"
	fail "the migration is $STATUS: $MIGRATION"
}

# counts NAME: its guest goes on, with all of its memory.
counts() {
	local mark=$RANDOM
	use "$1"
	printf '%s;' "$mark" >&7
	wait_for "$mark;"
	! grep -q broken "$VM_DIR/out" || fail "the guest's memory is broken"
	[ "$(state "$1")" = Running ]
}

# ends NAME: the guest ends when it is told to, and nothing was wrong until then.
ends() {
	counts "$1"
	printf q >&7
	ends_with 0
	! grep -q broken "$VM_DIR/out" || fail "the guest's memory is broken"
	unset "PID_OF[$1]"
}

# The source has gone, by itself and with its own status.
gone_away() {
	use a
	ends_with 4
	unset "PID_OF[a]"
}

relay() {
	VIA=$SNAP/via.sock
	"$TOP/tests/lib/migrate-relay" "$VIA" "$M" "$1" >"$SNAP/relay" 3>&- &
	RELAY=$!
	appears "$VIA"
}

@test "a guest that writes all the time goes on in another process" {
	boot
	receiver
	use a
	listen
	migrate
	gone_away
	until_status b completed
	[ "$(state b)" = Running ]
	jq -e '.normal > 4000 and .dirty_sync_count >= 1 and .total == 48 * 1048576' <<<"$MIGRATION"
	[ ! -e "$M" ] || fail "the socket is still there"
	for event in migration_begun migration_round paused migrated exit; do
		grep -q "\"event\":\"$event\"" "$EVENTS" || fail "no $event: $(cat "$EVENTS")"
	done
	jq -se 'any(.event == "migrated" and .downtime_us > 0)' "$EVENTS"
	jq -se 'any(.event == "exit" and .reason == "migrated" and .code == 4)' "$EVENTS"
	counts b
	! grep -q ready "${DIR_OF[b]}/out" || fail "it began anew"
	ends b
}

@test "pages that became zero behind the copying are zero at the target" {
	KERNEL=fill boot
	receiver
	migrate '.max_bandwidth = 8000000 | .downtime_limit_ms = 20000'
	for _ in $(seq 3000); do
		[ "$(ask a /vm/migrate | jq '.normal // 9999')" -lt 2000 ] || break
		sleep 0.02
	done
	use a
	printf z >&7
	gone_away
	until_status b completed
	use b
	# Which of the two has said it, or half of it, is open.
	for _ in $(seq 3000); do
		[[ $(cat "${DIR_OF[a]}/out" "$VM_DIR/out") != *'done'* ]] || break
		sleep 0.02
	done
	snap s
	python3 - "$SNAP/s.mem" <<-'EOF' || fail "they are not"
		import sys
		memory = open(sys.argv[1], "rb").read()
		values = memory[16 << 20::4096]
		wrong = [i for i, v in enumerate(values) if v != (i % 3 != 0)]
		assert not wrong, (len(wrong), wrong[:9])
	EOF
}

@test "there and back again, into a shell, paused, and with a snapshot in between" {
	boot '.vcpu_count = 2 | .pit = true'
	for i in 1 2 3; do
		receiver
		migrate
		gone_away
		until_status b completed
		counts b
		use b
		keep a
	done
	use a
	ok PATCH /vm '{"state": "Paused"}'
	receiver
	migrate
	gone_away
	until_status b completed
	[ "$(state b)" = Paused ]
	use b
	ok PATCH /vm '{"state": "Resumed"}'
	counts b
	use b
	snap s
	vm_kill
	restore s
	keep a
	counts a
	drop a
	boot
	receiver '' --shell vcpus=1,mem_mib=48
	migrate
	gone_away
	until_status b completed
	ends b
}

@test "what the target cannot take it refuses, and the guest goes on" {
	DISK=$SNAP/disk
	truncate -s 1M "$DISK"
	boot
	# Nobody is there.
	use a
	refused PUT /vm/migrate "{\"socket_path\": \"$M\"}" "socket_path: connect to"
	# A disk that cannot be opened: before any memory was sent.
	receiver '.drive_overrides = [{drive_id: "d", path_on_host: "/nonexistent"}]'
	migrate
	until_status a failed
	jq -e '.error_desc | contains("/nonexistent")' <<<"$MIGRATION"
	jq -e '.normal == 0' <<<"$MIGRATION"
	counts a
	use b
	ends_with 1
	# What is refused before anything was configured leaves the target waiting.
	receiver '.drive_overrides = [{drive_id: "e", path_on_host: "/x"}]'
	migrate
	until_status a failed
	jq -e ".error_desc | contains(\"no drive 'e'\")" <<<"$MIGRATION"
	until_status b setup
	drop b
	rm -f "$M"
	receiver '' --shell vcpus=2,mem_mib=48
	migrate
	until_status a failed
	jq -e '.error_desc | contains("this shell has 2 vCPUs")' <<<"$MIGRATION"
	until_status b setup
	drop b
	rm -f "$M"
	# The disk is the source's until it is handed over, and the target's then.
	receiver
	migrate
	gone_away
	until_status b completed
	use b
	vm_api --log-path "$SNAP/log"
	refused PUT /drives/x "{\"drive_id\": \"x\", \"path_on_host\": \"$DISK\", \"is_root_device\": false}" "in use by another microVM"
	vm_kill
	ends b
}

@test "strangers at either end are shown out, and nothing has changed" {
	boot
	receiver
	# One who says nonsense is told so; one who comes while another is heard is not listened to.
	python3 - "$M" <<-'EOF' || fail "the target lets them in"
		import socket, struct, sys
		def connect():
		    s = socket.socket(socket.AF_UNIX)
		    s.settimeout(60)
		    s.connect(sys.argv[1])
		    return s
		def heard(s, what=b""):
		    data = b""
		    try:
		        s.sendall(what)
		        while part := s.recv(4096):
		            data += part
		    except (BrokenPipeError, ConnectionResetError):  # not all of it was read
		        pass
		    return data
		magic = 0x674d7073
		lies = [b"GET / HTTP/1.1\r\n" + b"x" * 100, b"\0" * 40,
		        struct.pack("<IIIIQQQ", magic, 1, 32, 0, 0, 0, 0) + b"h" * 32,
		        struct.pack("<IIIIQQQ", magic, 1, 0xffffffff, 0, 0, 0, 0),
		        struct.pack("<IIIIQQQ", magic, 4, 4096, 1, 0, 0, 0),
		        struct.pack("<IIIIQQQ", magic, 8, 0, 0, 1, 0, 0)]
		for lie in lies:
		    answer = heard(connect(), lie)
		    assert struct.unpack("<II", answer[:8]) == (magic, 19) and len(answer) > 40, answer
		silent = connect()
		assert heard(connect()) == b""
		silent.sendall(struct.pack("<IIIIQQ", magic, 1, 32, 0, 0, 0))
		silent.close()
		while not heard(connect(), lies[0]):  # until its end was seen
		    pass
	EOF
	[ "$(state b)" = "Not started" ]
	# A target that is none: the guest stays where it is.
	VIA=$SNAP/liar.sock
	for lie in '' nonsense spMg; do
		rm -f "$VIA"
		python3 - "$VIA" "$lie" 3>&- <<-'EOF' &
			import os, socket, sys
			s = socket.socket(socket.AF_UNIX)
			s.bind(sys.argv[1] + ".new")
			s.listen()
			os.rename(sys.argv[1] + ".new", sys.argv[1])
			c = s.accept()[0]
			c.sendall((sys.argv[2] * 10).encode())
			c.shutdown(socket.SHUT_WR)
			while c.recv(65536):
			    pass
		EOF
		for _ in $(seq 500); do
			[ ! -S "$VIA" ] || break
			sleep 0.02
		done
		migrate
		until_status a failed
		jq -e '.normal == 0' <<<"$MIGRATION"
		counts a
	done
	VIA=
	migrate
	gone_away
	until_status b completed
	ends b
}

@test "while it moves nothing else is changed" {
	boot
	receiver
	use b
	refused PUT /machine-config '{"vcpu_count": 1, "mem_size_mib": 48}' "A migration is under way"
	refused PUT /snapshot/load "$(load_request s)" "A migration is under way"
	refused PUT /vm/receive "{\"socket_path\": \"$M.2\"}" "A migration is under way"
	# Slow enough to be met.
	migrate '.max_bandwidth = 1000000'
	until_status a active
	refused PUT /vm/migrate "{\"socket_path\": \"$M\"}" "A migration is under way"
	refused PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/s\", \"mem_file_path\": \"$SNAP/m\"}" "A migration is under way"
	refused PATCH /mmds '{}' "A migration is under way"
	ok PATCH /vm '{"state": "Paused"}'
	ok PATCH /vm '{"state": "Resumed"}'
	# A second source is not let in.
	ok DELETE /vm/migrate
	until_status a cancelled
	counts a
	use b
	ends_with 1
	use a
	refused DELETE /vm/migrate "" "no migration is under way"
	# At the target, which has only waited, and is as fresh as before.
	receiver
	use b
	ok DELETE /vm/migrate
	[ ! -e "$M" ] || fail "the socket is still there"
	ok PUT /vm/receive "{\"socket_path\": \"$M\"}"
	migrate '.max_bandwidth = 1000000'
	until_status a active
	use b
	ok DELETE /vm/migrate
	ends_with 1
	until_status a failed
	jq -e '.error_desc | contains("aborted at the target")' <<<"$MIGRATION"
	ends a
}

@test "a guest that writes too fast for the limit stays where it is" {
	boot
	receiver
	migrate '.max_bandwidth = 20000000 | .downtime_limit_ms = 1 | .max_rounds = 2'
	until_status a failed
	jq -e '.error_desc | contains("after 2 rounds") and contains("downtime_limit_ms")' <<<"$MIGRATION"
	ends a
}

@test "the metadata and the identity go with it" {
	vm_api --log-path "$SNAP/log"
	ok PUT /boot-source "{\"kernel_image_path\": \"$GUEST/tally.elf\"}"
	ok PUT /machine-config '{"vcpu_count": 1, "mem_size_mib": 48, "memory_backend": "Memfd", "track_dirty_pages": true}'
	ok PUT /network-interfaces/eth0 '{"iface_id": "eth0", "placeholder": true}'
	ok PUT /mmds/config '{"network_interfaces": ["eth0"]}'
	ok PUT /mmds '{"who": {"am": "I"}}'
	ok PUT /actions '{"action_type": "InstanceStart"}'
	wait_for ready
	snap before
	genid=$(dd if="$SNAP/before.mem" bs=1 skip=$((0xfe000)) count=16 2>/dev/null | xxd -p)
	ok PATCH /vm '{"state": "Resumed"}'
	keep a
	receiver
	migrate
	gone_away
	until_status b completed
	use b
	api GET /mmds
	[ "$(jq -c . <<<"$BODY")" = '{"who":{"am":"I"}}' ] || fail "metadata: $BODY"
	api GET /machine-config
	jq -e '.track_dirty_pages and .memory_backend == "Memfd"' <<<"$BODY"
	snap after
	[ "$genid" = "$(dd if="$SNAP/after.mem" bs=1 skip=$((0xfe000)) count=16 2>/dev/null | xxd -p)" ]
	[ -n "$genid" ]
	ok PATCH /vm '{"state": "Resumed"}'
	ends b
}

@test "a parent of a fork moves, and its child after it" {
	boot '.memory_backend = "Memfd"'
	vm_api --shell vcpus=1,mem_mib=48 --log-path "$SNAP/log"
	keep c
	use a
	ok PUT /vm/fork "$(jq -nc --arg s "${SOCK_OF[c]}" '{children: [{socket: $s}]}')"
	jq -e '.children | all(has("fault_message") | not)' <<<"$BODY" || fail "$BODY"
	counts a
	counts c
	receiver
	migrate
	gone_away
	until_status b completed
	ends b
	use c
	keep a
	unset "PID_OF[c]"
	receiver
	migrate
	gone_away
	until_status b completed
	ends b
}

@test "wherever the line breaks before the hand-over, the guest goes on at the source" {
	boot
	for what in before=HELLO before=SETUP before=PAGES after=PAGES before=ROUND after=ROUND before=STATE after=STATE flip=PAGES flip=STATE flip=ROUND; do
		receiver
		relay "$what"
		migrate
		until_status a failed
		jq -e '.error_desc != null' <<<"$MIGRATION"
		counts a
		wait "$RELAY"
		[ "$(tail -n 1 "$SNAP/relay")" = end ]
		! grep -q COMMIT "$SNAP/relay" || fail "it was handed over"
		[[ $(state b) == "Not started" || $(state b) == gone ]] || fail "both run: $what"
		drop b
		rm -f "$M"
	done
	ends a
}

@test "a target that falls silent is given up" {
	boot
	receiver
	relay stall=STATE
	migrate
	until_status a device
	# Stopped for the hand-over, it is not let go by anybody else.
	use a
	refused PATCH /vm '{"state": "Resumed"}' "being handed over"
	until_status a failed
	jq -e '.error_desc | contains("silent")' <<<"$MIGRATION"
	ends a
}

@test "a hand-over that is lost on the way there stops the guest until it is taken back" {
	DISK=$SNAP/disk
	truncate -s 1M "$DISK"
	boot
	receiver
	relay before=COMMIT
	migrate
	until_status a handover-lost
	[ "$(state a)" = Paused ]
	# The target has not read it and gives up.
	use b
	ends_with 1
	use a
	refused PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/s\", \"mem_file_path\": \"$SNAP/m\"}" "A migration is under way"
	ok PATCH /vm '{"state": "Resumed"}'
	ends a
}

@test "a hand-over whose answer is lost is not taken back while the target has the disk" {
	DISK=$SNAP/disk
	truncate -s 1M "$DISK"
	boot
	receiver
	relay after=COMMIT
	migrate
	until_status a handover-lost
	[ "$(state a)" = Paused ]
	[ "$(state b)" = Running ]
	counts b
	use a
	refused PATCH /vm '{"state": "Resumed"}' "in use by another microVM"
	[ "$(state a)" = Paused ]
	drop a
	ends b
}

# A line too slow for what is written meanwhile.
SPLIT='.post_copy = true | .max_rounds = 1 | .downtime_limit_ms = 1 | .max_bandwidth = 200000000'

@test "post-copy: a guest that writes too fast goes over, and what is left of its memory follows" {
	boot
	for i in 1 2 3; do
		receiver
		relay pass
		use a
		listen
		migrate "$SPLIT"
		gone_away
		until_status b completed
		jq -e '.remaining == 0 and .dirty_sync_count == 1' <<<"$MIGRATION"
		jq -se 'any(.event == "migrated" and .downtime_us > 0)' "$EVENTS"
		wait "$RELAY"
		[ "$(grep -E 'ROUND|LEFT|STATE|COMMIT' "$SNAP/relay" | paste -sd ' ')" = "ROUND LEFT STATE COMMIT" ]
		[ "$(grep -c PUSH "$SNAP/relay")" -ge 8 ] || fail "$(sort "$SNAP/relay" | uniq -c)"
		counts b
		use b
		keep a
	done
	# What comes by rounds alone does so with it, too.
	receiver
	VIA= migrate '.post_copy = true | .downtime_limit_ms = 60000'
	gone_away
	until_status b completed
	counts b
	ends b
}

@test "post-copy: a guest that is paused arrives so, and sees nothing of what is missing" {
	boot
	receiver
	relay slow=PUSH
	migrate "$SPLIT"
	until_status a postcopy-active
	until_status b postcopy-active
	use b
	ok PATCH /vm '{"state": "Paused"}'
	refused PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/s\", \"mem_file_path\": \"$SNAP/m\"}" "A migration is under way"
	gone_away
	until_status b completed
	[ "$(state b)" = Paused ]
	use b
	ok PATCH /vm '{"state": "Resumed"}'
	ends b
}

@test "post-copy: wherever the line breaks before the hand-over, the guest goes on at the source" {
	boot
	for what in before=LEFT after=LEFT flip=LEFT before=STATE after=STATE flip=STATE; do
		receiver
		relay "$what"
		migrate "$SPLIT"
		until_status a failed
		counts a
		wait "$RELAY"
		! grep -q COMMIT "$SNAP/relay" || fail "it was handed over"
		[ "$(state b)" = gone ] || fail "both run: $what"
		use b
		ends_with 1
		unset "PID_OF[b]"
		rm -f "$M"
	done
	ends a
}

@test "post-copy: when the line breaks behind the hand-over, both end and say so" {
	for what in before=PUSH after=PUSH flip=PUSH; do
		boot
		receiver
		relay "$what"
		migrate "$SPLIT"
		for name in a b; do
			use "$name"
			ends_with 5
			unset "PID_OF[$name]"
		done
		! grep -q broken "${DIR_OF[b]}/out" || fail "it ran without its memory"
		grep -q "pages of the guest's memory are lost" "$SNAP/log" || fail "$(cat "$SNAP/log")"
		rm -f "$M" "$SNAP/log"
	done
}

@test "post-copy: nobody can give it up, or take it back, when the guest runs there" {
	boot
	receiver
	relay crawl=PUSH
	migrate "$SPLIT"
	until_status a postcopy-active
	until_status b postcopy-active
	use b
	refused DELETE /vm/migrate "" "runs here already"
	use a
	refused DELETE /vm/migrate "" "needs what is still here"
	refused PATCH /vm '{"state": "Resumed"}' "being handed over"
	kill "$RELAY"
	for name in a b; do
		use "$name"
		ends_with 5
		unset "PID_OF[$name]"
	done
}

@test "post-copy: memory that cannot be fetched page by page is refused" {
	boot '.memory_backend = "Memfd"'
	use a
	refused PUT /vm/migrate "$(jq -nc --arg s "$M" '{socket_path: $s, post_copy: true}')" "post_copy: only memory of ordinary pages"
	ends a
}

# One of the two is killed at any time: never do both run, and it is lost only with the one that had it.
# SPORE_ROUNDS=50: so many times.
# killed_at_random MS [JQ]: up to so late.
killed_at_random() {
	local kept=0 moved=0 died=0 lost=0 victim rounds=${SPORE_ROUNDS:-20}
	boot
	for i in $(seq "$rounds"); do
		receiver
		[ -n "${PID_OF[a]:-}" ] || fail "no source"
		victim=$([ $((RANDOM % 2)) = 0 ] && echo a || echo b)
		[ -z "${SLOW:-}" ] || relay "$SLOW"
		migrate "${2:-}"
		sleep "$(printf '0.%03d' $((RANDOM % $1)))"
		kill -KILL "${PID_OF[$victim]}" 2>/dev/null || true # it may have gone by itself
		if [ "$victim" = a ]; then
			# It went on there, or was not handed over and died.
			until_status b completed gone setup
			# Killed before it had said anything: the target waits for another one. What it has said lies
			# in the socket, and the target's loop reads it before it answers again.
			for _ in 1 2 3; do
				[ "$STATUS" != setup ] || until_status b completed gone setup active device
			done
			case $STATUS in
			active | device) until_status b completed gone ;;
			setup) STATUS=gone ;;
			esac
			if [ "$STATUS" = completed ]; then
				moved=$((moved + 1))
			else
				died=$((died + 1))
			fi
		else
			until_status a failed gone handover-lost
			# Post-copy, and the guest had run there: the source is about to end.
			! jq -e '.status == "handover-lost" and .downtime_us > 0' <<<"$MIGRATION" >/dev/null ||
				until_status a gone
			case $STATUS in
			failed) kept=$((kept + 1)) ;;
			gone) died=$((died + 1)) ;; # with the target, which had it
			handover-lost)
				[ "$(state a)" = Paused ]
				use a
				ok PATCH /vm '{"state": "Resumed"}'
				lost=$((lost + 1))
				;;
			esac
		fi
		echo "$i: $victim killed, $STATUS"
		! grep -q broken "${DIR_OF[b]}/out" || fail "it ran without its memory"
		if [ "$victim$STATUS" = acompleted ]; then
			counts b
			drop a
			use b
			keep a
		elif [ "$STATUS" = gone ]; then
			drop a
			drop b
			boot
		else
			counts a
			drop b
		fi
		rm -f "$M"
		[ -z "${SLOW:-}" ] || wait "$RELAY"
	done
	echo "# went on at the source $kept, at the target $moved, died with the one that had it $died, handed over to a dead one $lost" >&3
	[ $((kept + moved + died + lost)) = "$rounds" ]
	ends a
}

@test "killed at random" {
	killed_at_random 110
}

@test "post-copy: killed at random, and while memory follows the guest" {
	local rounds=${SPORE_ROUNDS:-10}
	SPORE_ROUNDS=$rounds killed_at_random 200 "$SPLIT"
	SPORE_ROUNDS=$rounds SLOW=slow=PUSH killed_at_random 900 "$SPLIT"
}
