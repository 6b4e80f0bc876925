#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# sporectl pool: clones of a guest of a few instructions, out of shells that wait. POOL_CLONES says how many the large
# test makes; 1000 take half a minute on two quiet processors.

setup() {
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	load vm.bash
	load snapshot.bash
	CTL=$TOP/build/sporectl
	export SPORE_STATE=$SNAP/s SPORE=$TOP/build/spore
	POOL_PID=
}

teardown() {
	vm_kill
	pool_end
	"$CTL" rm --all --force >/dev/null 2>&1 || true
	# Behind the processes, which have sockets there.
	rm -rf "$SNAP"
}

# make_warm [USER]: $SNAP/warm, of a guest that prints its generation id when it is a new one.
make_warm() {
	mkdir "$SNAP/warm"
	boot_all genid . ".is_read_only = true"
	ok PATCH /vm '{"state": "Paused"}'
	ok PUT /snapshot/create "{\"snapshot_path\": \"$SNAP/warm/state\", \"mem_file_path\": \"$SNAP/warm/memory\"}"
	vm_kill
	HASH=$(sha256sum "$SNAP/warm/state" "$SNAP/warm/memory")
}

# What each clone differs in.
TEMPLATE='{id: "web-{n}", metadata: {name: "web-{n}"}, vsock_override: {uds_path: "{dir}/vsock.sock"},
	serial_override: {serial_out_path: "{dir}/serial"},
	network_overrides: [{iface_id: "eth0", rewrite: {host_mac: "06:00:00:00:00:77"}}]}'

pool() {
	"$CTL" pool "$@" "$SNAP/warm" >"$SNAP/pool.out" 2>&1 3>&- 7>&- &
	POOL_PID=$!
	pool_is_there
	pool_until .ready "${SIZE:-4}"
}

pool_is_there() {
	for _ in $(seq 1500); do
		[ -S "$SPORE_STATE/pool.sock" ] && return
		kill -0 "$POOL_PID" || break
		sleep 0.02
	done
	fail "no pool: $(cat "$SNAP/pool.out")"
}

pool_end() {
	[ -n "$POOL_PID" ] || return 0
	kill -TERM "$POOL_PID" 2>/dev/null || true
	wait "$POOL_PID" || true
	POOL_PID=
}

ask_pool() {
	API_SOCK=$SPORE_STATE/pool.sock api "$@"
}

# pool_until FIELD NUMBER: until GET / of the pool says so.
pool_until() {
	for _ in $(seq 1500); do
		ask_pool GET /
		[ "$(jq "$1" <<<"$BODY")" = "$2" ] && return
		sleep 0.02
	done
	fail "$1 is not $2: $BODY $(cat "$SNAP/pool.out")"
}

# clones REQUEST-JQ: what came of it is in $BODY.
clones() {
	ask_pool PUT /clones "$(jq -nc "$1")"
	[ "$STATUS" = 200 ] || fail "clones: $STATUS $BODY"
}

# is_itself NAME: it runs, and has the identity that the template gave it.
is_itself() {
	API_SOCK=$SPORE_STATE/$1/api.sock
	api GET /
	[ "$(jq -r '.id + .state' <<<"$BODY")" = "$1Running" ] || fail "$1: $BODY"
	api GET /mmds
	[ "$(jq -r .name <<<"$BODY")" = "$1" ] || fail "$1: $BODY"
	[ -S "$SPORE_STATE/$1/vsock.sock" ] || fail "$1: no vsock socket"
}

# genid NAME: what its guest has found, four words.
genid() {
	for _ in $(seq 1500); do
		[ "$(wc -l <"$SPORE_STATE/$1/serial")" -ge 4 ] && break
		sleep 0.02
	done
	[ "$(wc -l <"$SPORE_STATE/$1/serial")" = 4 ] || fail "$1 said $(cat "$SPORE_STATE/$1/serial")"
	tr '\n' ' ' <"$SPORE_STATE/$1/serial"
}

# nothing_but NAMES: the directories of the pool's state, but for those of waiting shells.
nothing_but() {
	local have
	for _ in $(seq 500); do
		have=$(find "$SPORE_STATE" -mindepth 1 -maxdepth 1 -type d ! -name '.shell-*' -printf '%f ' | tr ' ' '\n' | sort | xargs)
		[ "$have" = "$1" ] && return
		sleep 0.02
	done
	fail "directories: $have"
}

@test "clones of one request, each somebody else; they outlive the pool" {
	make_warm
	pool --size 4
	clones "{n: 3, template: $TEMPLATE}"
	[ "$(jq -r '[.[].id] | join(" ")' <<<"$BODY")" = "web-1 web-2 web-3" ]
	[ "$(jq '[.[] | select(.error)] | length' <<<"$BODY")" = 0 ]
	[ "$(jq -r '.[0].socket' <<<"$BODY")" = "$SPORE_STATE/web-1/api.sock" ]
	for i in 1 2 3; do
		is_itself "web-$i"
		genid "web-$i" >>"$SNAP/ids"
		echo >>"$SNAP/ids"
	done
	[ "$(sort -u "$SNAP/ids" | wc -l)" = 3 ]
	[ "$("$CTL" ps --json | jq -c '[.[] | [.name, .state, .rss > 0, .pss > 0, .shared > 0]]')" = \
		'[["web-1","running",true,true,true],["web-2","running",true,true,true],["web-3","running",true,true,true]]' ]
	clones "{clones: [{id: \"one\", vsock_override: {uds_path: \"{dir}/v\"}, resume_vm: false}], snapshot: \"$SNAP/warm\"}"
	[ "$(API_SOCK=$SPORE_STATE/one/api.sock; api GET /; jq -r .state <<<"$BODY")" = Paused ]
	pool_until .ready 4
	pool_until .clones 4
	pool_end
	nothing_but "one web-1 web-2 web-3"
	[ "$(find "$SPORE_STATE" -name '.shell-*' | wc -l)" = 0 ]
	is_itself web-2
	"$CTL" stop --now web-2
	[ "$HASH" = "$(sha256sum "$SNAP/warm/state" "$SNAP/warm/memory")" ]
}

@test "docs/pool.md: as it is printed" {
	load ../lib/docs.bash
	make_warm
	cd "$SNAP"
	PATH=$TOP/build:$PATH
	block "$TOP/docs/pool.md" 'sporectl pool' >"$SNAP/pool.sh"
	block "$TOP/docs/pool.md" 'curl' | sed "s#/run/spore#$SPORE_STATE#" >"$SNAP/curl.sh"
	. "$SNAP/pool.sh" >"$SNAP/pool.out" 2>&1 3>&- 7>&-
	POOL_PID=$!
	pool_is_there
	pool_until .ready 16
	run bash "$SNAP/curl.sh"
	for i in 1 2 3; do is_itself "web-$i"; done
}

@test "one that cannot be says why and leaves nothing; its siblings live" {
	make_warm
	pool --size 4
	clones "[$TEMPLATE] | {clones: [
		(.[0] | .id = \"good\"), (.[0] | .id = \"good\"), (.[0] | .id = \"a/b\"), {}, 7,
		(.[0] | .id = \"disk\" | .drive_overrides = [{drive_id: \"d\", path_on_host: \"/no/such\"}]),
		(.[0] | .id = \"net\" | .network_overrides = [{iface_id: \"eth9\", host_dev_name: \"x\"}]),
		(.[0] | .id = \"what\" | .snapshot_path = \"/x\"), (.[0] | .id = \"fine\")], wait_ms: 30000}"
	jq -e '.[0].pid and .[8].pid' <<<"$BODY" || fail "$BODY"
	for want in '1:in use' '2:only letters' '3:no object with an id' '4:no object' '5:/no/such' "6:no interface 'eth9'" "7:pool's"; do
		jq -e --arg text "${want#*:}" ".[${want%%:*}].error | contains(\$text)" <<<"$BODY" || fail "$want: $BODY"
	done
	nothing_but "fine good"
	is_itself_as() { export API_SOCK=$SPORE_STATE/$1/api.sock; api GET /; [ "$(jq -r .id <<<"$BODY")" = "$1" ]; }
	is_itself_as good
	is_itself_as fine
	for wrong in '{}|either clones' '{n: 1}|either clones' '{n: 0, template: {}}|need 1' '{n: 1001, template: {}}|1000' \
		'{clones: [], n: 3}|belong' '{clones: 3}|array' '{x: 1}|unknown field' '[]|no JSON object' \
		'{clones: [{}], snapshot: "/other"}|only' '{clones: [{}], wait_ms: -1}|wait_ms'; do
		ask_pool PUT /clones "$(jq -nc "${wrong%|*}")"
		[[ $STATUS == 400 && $BODY == *"${wrong##*|}"* ]] || fail "$wrong: $STATUS $BODY"
	done
	ask_pool GET /nothing
	[ "$STATUS" = 404 ]
	pool_until .ready 4
}

@test "an exhausted pool says so, or is waited for" {
	make_warm
	SIZE=2 pool --size 2
	clones "{n: 6, wait_ms: 0, template: $TEMPLATE}"
	[ "$(jq '[.[] | select(.pid)] | length' <<<"$BODY")" = 2 ] || fail "$BODY"
	[ "$(jq '[.[] | select(.error == "no shell was ready within 0 ms (the pool keeps 2)")] | length' <<<"$BODY")" = 4 ] || fail "$BODY"
	clones "{n: 6, first: 101, wait_ms: 60000, template: $TEMPLATE}"
	[ "$(jq '[.[] | select(.pid)] | length' <<<"$BODY")" = 6 ] || fail "$BODY"
	is_itself web-106
}

# shells: the processes that wait, by their directories.
shells() {
	cat "$SPORE_STATE"/.shell-*/pid
}

@test "a shell that dies: while it waits, and in the middle of a claim" {
	make_warm
	SIZE=2 pool --size 2
	first=$(shells | head -n 1)
	kill -KILL "$first"
	for _ in $(seq 500); do
		shells | grep -qx "$first" || break
		sleep 0.02
	done
	pool_until .ready 2
	mapfile -t all < <(shells)
	[ "${#all[@]}" = 2 ]
	kill -STOP "${all[@]}"
	curl -sS --unix-socket "$SPORE_STATE/pool.sock" -X PUT http://x/clones \
		-d "$(jq -nc "{n: 2, template: $TEMPLATE}")" >"$SNAP/answer" 3>&- 7>&- &
	asked=$!
	# Their directories have names when they have been taken.
	appears "$SPORE_STATE/web-2"
	kill -KILL "$(cat "$SPORE_STATE/web-1/pid")"
	kill -CONT "$(cat "$SPORE_STATE/web-2/pid")"
	wait "$asked"
	jq -e '.[0].error | contains("ended before it answered")' "$SNAP/answer" || fail "$(cat "$SNAP/answer")"
	jq -e '.[1].pid' "$SNAP/answer" || fail "$(cat "$SNAP/answer")"
	is_itself web-2
	nothing_but web-2
	pool_until .ready 2
}

@test "any of them may be killed at any time" {
	make_warm
	pool --size 4
	clones "{n: 4, template: $TEMPLATE}"
	kill -KILL "$(jq '.[1].pid' <<<"$BODY")"
	nothing_but "web-1 web-3 web-4"
	for i in 1 3 4; do is_itself "web-$i"; done
	clones "{n: 1, first: 2, wait_ms: 30000, template: $TEMPLATE}"
	is_itself web-2
	pool_until .clones 4
}

@test "what a pool that was killed has left is ended by the next one" {
	make_warm
	pool --size 4
	clones "{n: 1, template: $TEMPLATE}"
	pool_until .ready 4
	mapfile -t all < <(shells)
	kill -KILL "$POOL_PID"
	wait "$POOL_PID" || true
	rm "$SPORE_STATE/pool.sock"
	SIZE=1 pool --size 1
	for pid in "${all[@]}"; do
		# Nobody may be there to collect it.
		[ ! -d "/proc/$pid" ] || grep -q '^State:.Z' "/proc/$pid/status" || fail "$pid runs still"
	done
	[ "$(find "$SPORE_STATE" -name '.shell-*' | wc -l)" = 1 ]
	is_itself web-1
}

@test "a pool that can never be ready says why" {
	make_warm
	head -c 5000 "$SNAP/warm/memory" >"$SNAP/short"
	mv "$SNAP/short" "$SNAP/warm/memory"
	run "$CTL" pool "$SNAP/warm"
	[ "$status" = 1 ]
	[[ $output == *"memory file"* ]] || fail "$output"
	nothing_but ""
	SPORE=/no/such run "$CTL" pool --shell vcpus=1,mem_mib=32
	[ "$status" = 1 ]
	[[ $output == *"/no/such"* ]] || fail "$output"
}

@test "without a snapshot of its own, claims name one" {
	make_warm
	"$CTL" pool --size 1 --shell vcpus=1,mem_mib=32 >"$SNAP/pool.out" 2>&1 3>&- 7>&- &
	POOL_PID=$!
	pool_is_there
	ask_pool PUT /clones '{"clones": [{"id": "x"}]}'
	[[ $STATUS == 400 && $BODY == *snapshot* ]]
	clones "{n: 2, snapshot: \"$SNAP/warm\", wait_ms: 30000, template: $TEMPLATE}"
	is_itself web-1
	is_itself web-2
}

@test "in jails, one each" {
	[ "$(id -u)" = 0 ] || skip "needs root"
	make_warm
	chmod 755 "$SNAP"
	chmod 644 "$SNAP/warm/state" "$SNAP/warm/memory" "$SNAP/disk"
	SIZE=2 pool --size 2 --jail --uid 4001 --gid 4001 --jail-base "$SNAP/jails" --bind "$SNAP/disk:$SNAP/disk"
	clones "{n: 3, wait_ms: 30000, template: $TEMPLATE}"
	for i in 1 2 3; do
		is_itself "web-$i"
		genid "web-$i"
		[ "$(stat -c %u "/proc/$(cat "$SPORE_STATE/web-$i/pid")")" = 4001 ]
	done
	# It may not say that it is another process.
	[ "$(stat -c '%U %a' "$SPORE_STATE/web-1")" = "root 1770" ]
	pid=$(cat "$SPORE_STATE/web-1/pid")
	[ "$(find "$SNAP/jails" -name spore.pid -exec grep -lx "$pid" {} + | wc -l)" = 1 ]
	kill -KILL "$pid"
	nothing_but "web-2 web-3"
	for _ in $(seq 500); do
		find "$SNAP/jails" -name spore.pid -exec grep -lx "$pid" {} + | grep -q . || break
		sleep 0.02
	done
	! find "$SNAP/jails" -name spore.pid -exec grep -lx "$pid" {} + | grep . || fail "its jail is there still"
}

@test "many clones of one snapshot, from one request" {
	make_warm
	n=${POOL_CLONES:-100}
	SIZE=16 pool --size 16 --fill 4
	clones "{n: $n, wait_ms: 60000, template: $TEMPLATE}"
	[ "$(jq '[.[] | select(.pid)] | length' <<<"$BODY")" = "$n" ] || fail "$BODY"
	[ "$(jq '[.[].pid] | unique | length' <<<"$BODY")" = "$n" ]
	for i in $(seq "$n"); do
		is_itself "web-$i"
		genid "web-$i" >>"$SNAP/ids"
		echo >>"$SNAP/ids"
	done
	[ "$(sort -u "$SNAP/ids" | wc -l)" = "$n" ] || fail "generation ids are the same"
	[ "$HASH" = "$(sha256sum "$SNAP/warm/state" "$SNAP/warm/memory")" ]
}
