#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# sporectl with guests of a few instructions: start, attach and detach, stop, what errors advise.

setup() {
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	load vm.bash
	CTL=$TOP/build/sporectl
	export SPORE_STATE=$BATS_TEST_TMPDIR/s SPORE=$TOP/build/spore SPORE_CACHE=$BATS_TEST_TMPDIR/cache
}

teardown() {
	"$CTL" rm --all --force >/dev/null 2>&1 || true
}

@test "run: the guest's console, its exit status, nothing left with --rm" {
	run "$CTL" run --rm -k "$GUEST/hello.elf" </dev/null
	[ "$status" = 0 ]
	[ "$output" = "hello from the guest" ]
	run "$CTL" run --rm -k "$GUEST/poweroff.elf" </dev/null
	[ "$status" = 3 ]
	[ "$(printf 'abcq' | "$CTL" run -k "$GUEST/echo.elf" --name e)" = $'ready\nabc' ]
	[ "$("$CTL" ps --json | jq -c '[.[] | [.name, .state, .status]]')" = '[["e","ended",0]]' ]
	[ "$("$CTL" logs e)" = $'ready\nabc' ]
}

@test "a terminal: detached and attached again, given back on every way out" {
	"$TOP/tests/lib/attach.py" wait:ready raw 'keys:ab\x03' 'wait:ab\x03' 'keys:\x1d' -- \
		"$CTL" run -n web -k "$GUEST/echo.elf" | grep -qx "status 0"
	[ "$("$CTL" ps --json | jq -r '.[0].state')" = running ]
	"$TOP/tests/lib/attach.py" wait:ready raw 'keys:de' wait:de keys:q -- "$CTL" console web |
		grep -qx "status 0"
	for how in SIGTERM:143 SIGHUP:0 SIGSEGV:-11; do
		"$TOP/tests/lib/attach.py" wait:ready raw "signal:${how%:*}" -- \
			"$CTL" run -k "$GUEST/echo.elf" | grep -qx "status ${how#*:}"
	done
}

@test "pause, resume, stop, rm" {
	[ "$("$CTL" run -d --rm -k "$GUEST/echo.elf")" = vm1 ]
	"$CTL" pause vm1
	[ "$("$CTL" ps --json | jq -r '.[0].state')" = paused ]
	"$CTL" resume vm1
	[ "$("$CTL" ps --json | jq -r '.[0].state')" = running ]
	run "$CTL" rm vm1
	[ "$status" = 1 ]
	[ "$("$CTL" stop --now vm1 --json | jq -r '.[0].how')" = terminated ]
	[ "$("$CTL" ps -q)" = "" ]
}

# advises ADVICE ARGUMENT...: it fails, and the last line says what to type.
advises() {
	local advice=$1
	shift
	run "$CTL" "$@"
	[ "$status" != 0 ] || fail "$* did not fail"
	[[ ${lines[-1]} == *"try: "*"$advice"* ]] || fail "$*: $output"
}

@test "errors end with what to type next" {
	"$CTL" run -d -n web -k "$GUEST/echo.elf"
	advises "sporectl ps" pss
	advises "--json" ps --jsn
	advises "sporectl console web" run -n web -k "$GUEST/echo.elf"
	advises "sporectl run --kernel" run
	advises "ls -l KERNEL" run -k /nonexistent
	advises "vmlinux" run -k /etc/passwd
	advises "ls -l" run -k "$GUEST/echo.elf" -r /nonexistent
	advises "sporectl console web" console wbe
	advises "sporectl stop" stop
	advises "sporectl stop web" rm web
	"$CTL" stop --now web
	advises "sporectl rm web" run -n web -k "$GUEST/echo.elf"
	advises "sporectl logs web" pause web
	SPORE=/nonexistent advises "SPORE" run -k "$GUEST/echo.elf"
}

# told TEXT: the console of e says it (the guest echoes what it is told).
told() {
	for _ in $(seq 200); do
		"$CTL" logs "$1" | grep -qF -- "$2" && return
		sleep 0.05
	done
	fail "$1 never said $2: $("$CTL" logs "$1")"
}

@test "snapshot, restore, clone: paused and live" {
	"$CTL" run -d -n e -k "$GUEST/echo.elf" --track-dirty
	told e ready
	"$CTL" snapshot e "$BATS_TEST_TMPDIR/full"
	"$CTL" snapshot --live e "$BATS_TEST_TMPDIR/live"
	[ "$("$CTL" snapshot --json --diff e "$BATS_TEST_TMPDIR/diff" | jq -r '.state')" = "$BATS_TEST_TMPDIR/diff/state" ]
	[ "$("$CTL" ps --json | jq -r '.[0].state')" = running ]
	"$SPORE" --describe-snapshot "$BATS_TEST_TMPDIR/diff/state" | grep -qx "type Diff"
	for which in full live; do
		[ "$(printf 'xyq' | "$CTL" restore --rm "$BATS_TEST_TMPDIR/$which")" = xy ]
	done
	[ "$("$CTL" restore -d -n p --paused "$BATS_TEST_TMPDIR/full")" = p ]
	[ "$("$CTL" ps --json | jq -r '.[] | select(.name == "p") | .state')" = paused ]
	[ "$("$CTL" clone --json --rm -c 4 -n c "$BATS_TEST_TMPDIR/live" |
		jq 'map(.name) == ["c-1", "c-2", "c-3", "c-4"] and all(.state == "running")')" = true ]
	# The second of a name that is in use is reported; its siblings live.
	run "$CTL" clone -c 5 -n c "$BATS_TEST_TMPDIR/live"
	[ "$status" = 1 ]
	[ "$("$CTL" ps -q | grep -c "^c-")" = 5 ]
	advises "sporectl snapshot" restore /nonexistent
	advises "sporectl snapshot" clone "$BATS_TEST_TMPDIR"
	"$CTL" stop --now $("$CTL" ps -q)
}

@test "docs/fork.md and docs/migration.md: sporectl, as they are printed" {
	load ../lib/docs.bash
	"$CTL" run -d -n web -k "$GUEST/echo.elf" --forkable
	sporectl() { "$CTL" "$@"; }
	eval "$(block "$TOP/docs/fork.md" 'sporectl fork')"
	eval "$(block "$TOP/docs/migration.md" 'sporectl migrate')"
	[ "$("$CTL" ps --json | jq -c 'map([.name, .state])')" = \
		'[["web","ended"],["web-1","running"],["web-2","running"],["web-3","running"],["web2","running"]]' ]
}

@test "fork: children with disks of their own, of a parent that goes on" {
	"$CTL" run -d -n plain -k "$GUEST/echo.elf"
	advises "sporectl run --forkable" fork plain
	[ "$("$CTL" ps -q)" = plain ]
	"$CTL" stop --now plain
	head -c 1M /dev/urandom >"$BATS_TEST_TMPDIR/disk"
	mkdir "$BATS_TEST_TMPDIR/disks"
	"$CTL" run -d -n e -k "$GUEST/echo.elf" --forkable --drive "$BATS_TEST_TMPDIR/disk"
	told e ready
	[ "$("$CTL" fork --json -c 3 e | jq 'map(.name) == ["e-1", "e-2", "e-3"] and all(.state == "running")')" = true ]
	cmp "$BATS_TEST_TMPDIR/disk" "$SPORE_STATE/e-3/disk1.disk"
	[ "$(printf 'xyq' | "$CTL" console e-2 | tr -d '\r')" = xy ]
	"$CTL" fork --rm --paused -n p --disks "$BATS_TEST_TMPDIR/disks" e >/dev/null
	[ "$("$CTL" ps --json | jq -r '.[] | select(.name == "p-1") | .state')" = paused ]
	cmp "$BATS_TEST_TMPDIR/disk" "$BATS_TEST_TMPDIR/disks/p-1-disk1"
	# One whose name is in use is reported, and one that cannot be leaves nothing; their siblings live.
	run "$CTL" fork -c 4 e
	[ "$status" = 1 ]
	[[ $output == *"e-1"*"in use"*"e-4"* ]] || fail "$output"
	advises "--count" fork -c 65 e
	advises "mkdir" fork --disks /nonexistent e
	advises "sporectl ps" fork nobody
	"$CTL" stop --now e-1
	"$CTL" rm e-1
	[ ! -e "$SPORE_STATE/e-1" ] || fail "something is left of it"
	[ "$("$CTL" ps --json | jq -r '.[] | select(.name == "e") | .state')" = running ]
	"$CTL" rm --all --force >/dev/null
}

# waits NAME: until it waits for one that moves.
waits() {
	for _ in $(seq 500); do
		[ "$(curl -sS --unix-socket "$SPORE_STATE/$1/api.sock" http://localhost/vm/migrate 2>/dev/null | jq -r .status)" = setup ] && return
		sleep 0.02
	done
	fail "$1 does not wait"
}

@test "migrate and receive: here, and over a socket" {
	local move=$BATS_TEST_TMPDIR/move pid
	truncate -s 1M "$BATS_TEST_TMPDIR/disk"
	"$CTL" run -d -n a -k "$GUEST/echo.elf" --drive "$BATS_TEST_TMPDIR/disk"
	told a ready
	[ "$("$CTL" migrate -n b a)" = b ]
	[ "$("$CTL" ps --json | jq -c 'map([.name, .state, .status])')" = '[["a","ended",4],["b","running",null]]' ]
	advises "another --name" migrate -n b b
	[ "$("$CTL" ps --json | jq -r '.[] | select(.name == "b") | .state')" = running ]
	# The target has another path for the disk, which is the same.
	ln "$BATS_TEST_TMPDIR/disk" "$BATS_TEST_TMPDIR/same"
	"$CTL" receive -n c --drive "disk1=$BATS_TEST_TMPDIR/same" "$move" >"$BATS_TEST_TMPDIR/said" 3>&- &
	pid=$!
	waits c
	"$CTL" migrate --to "$move" --downtime 1000 --post-copy b
	wait "$pid"
	[ "$(cat "$BATS_TEST_TMPDIR/said")" = c ]
	[ "$(printf 'xyq' | "$CTL" console c | tr -d '\r')" = xy ]
	# What the target refuses goes on here.
	"$CTL" run -d -n d -k "$GUEST/echo.elf" --no-vsock
	"$CTL" receive -n x "$move" >"$BATS_TEST_TMPDIR/said" 2>&1 3>&- &
	pid=$!
	waits x
	run "$CTL" migrate --to "$move" d
	[ "$status" = 1 ]
	[[ $output == *"the target refused"*vsock* ]] || fail "$output"
	[ "$("$CTL" ps --json | jq -r '.[] | select(.name == "d") | .state')" = running ]
	# Who waits in vain may be told so, and leaves nothing.
	waits x
	kill -TERM "$pid"
	! wait "$pid" || fail "it did not fail: $(cat "$BATS_TEST_TMPDIR/said")"
	grep -q "waiting for another one" "$BATS_TEST_TMPDIR/said" || fail "$(cat "$BATS_TEST_TMPDIR/said")"
	[ ! -e "$SPORE_STATE/x" ] || fail "something is left of it"
	[ ! -e "$move" ] || fail "the socket is still there"
	advises "migrate --help" migrate --to "$move" d
	advises "receive --help" receive --tap eth0 "$move"
	"$CTL" stop --now d
}

@test "events, metrics, doctor" {
	"$CTL" run -d -n e -k "$GUEST/echo.elf"
	[ "$("$CTL" events --until started e | jq -r .event)" = started ]
	"$CTL" metrics e | grep -q "^spore_"
	advises "sporectl ps" metrics nobody
	[ "$("$CTL" top --json --seconds 1 | jq 'length == 1 and .[0].name == "e" and .[0].cpu >= 0')" = true ]
	"$CTL" top --seconds 1 | head -1 | grep -q "^NAME .* CPU"
	[ "$("$CTL" doctor --json | jq 'length == 8 and (.[0] | .check == "/dev/kvm" and .state == "ok") and
		all(.[]; .state == "ok" or (.cost and .fix))')" = true ]
	"$CTL" stop --now e
}

@test "completion: verbs, options, names of microVMs" {
	"$CTL" run -d -n only -k "$GUEST/echo.elf"
	complete_words() { # complete_words WORD...: what bash would offer
		PATH=$TOP/build:$PATH bash -c 'source <(sporectl completion bash)
			COMP_WORDS=(sporectl "$@") COMP_CWORD=$#
			_sporectl
			echo "${COMPREPLY[*]}"' bash "$@"
	}
	[ "$(complete_words sn)" = snapshot ]
	[ "$(complete_words snapshot --li)" = --live ]
	[ "$(complete_words pause o)" = only ]
	[ "$(complete_words snapshot --tr)" = "" ] # only in the words of another option
	[ "$(complete_words image b)" = build ]
	[ "$(complete_words completion '')" = "bash zsh" ]
	"$CTL" completion zsh | grep -q bashcompinit
	advises "sporectl completion bash" completion fish
	"$CTL" stop --now only
}

@test "completion: in a bash and a zsh on a terminal" {
	cd "$BATS_TEST_TMPDIR"
	touch vmlinux
	export PATH=$TOP/build:$PATH PS1='> ' TERM=xterm
	mkdir site
	cp "$TOP/ctl/completion.zsh" site/_sporectl
	for shell in "bash --norc -i" "zsh -f -i" "zsh -f -i: as a package has it"; do
		load='source <(sporectl completion '${shell%% *}')'
		[[ $shell != *package* ]] || load='fpath=(site $fpath); autoload -U compinit && compinit -u'
		"$TOP/tests/lib/attach.py" 'wait:> ' "keys:$load; echo loa\"\"ded\\n" wait:loaded 'wait:> ' \
			'keys:sporectl snaps\t' 'wait:snapshot' 'keys:\x15sporectl run --ker\t' 'wait:--kernel' 'keys:vml\t' 'wait:vmlinux' \
			'keys:\x15sporectl kernel ge\t' 'wait:get' 'keys:\x15exit\n' -- ${shell%%:*} >out 2>&1 || fail "$shell: $(cat out)"
	done
}

@test "json: what each verb prints is JSON, and nothing but" {
	cd "$BATS_TEST_TMPDIR"
	"$CTL" run --json -d -n web -k "$GUEST/echo.elf" >out
	for words in "ps" "top" "logs web" "pause web" "resume web" "snapshot web $BATS_TEST_TMPDIR/warm" "restore -d -n again $BATS_TEST_TMPDIR/warm" \
		"clone --count 2 -n c $BATS_TEST_TMPDIR/warm" "metrics web" "events --until resumed web" "image ls" "doctor" \
		"completion bash" "stop --now web" "rm web" "exec again true --wait 1" "cp again:/x y --wait 1" "identity again --wait 1" \
		"console nobody" "run --frobnicate" "image build nothing" "image rm 0" "kernel"; do
		"$CTL" --json $words >out 2>err </dev/null || true
		cat out err | jq -es 'length > 0' >/dev/null || fail "$words: $(cat out err)"
	done
	# A number for each line of the text.
	"$CTL" metrics again | grep -vc '^#' >lines
	"$CTL" metrics --json again >out
	[ "$(jq length out)" = "$(cat lines)" ] && [ "$(jq '[.[] | numbers] | length' out)" = "$(cat lines)" ]
}

@test "colours are for terminals, and for who wants them" {
	cd "$BATS_TEST_TMPDIR"
	"$CTL" run -d -n web -k "$GUEST/echo.elf"
	colours() { # colours COMMAND...: whether there are any in what it prints
		"$@" | grep -q $'\e\[1m'
	}
	on_terminal() {
		"$TOP/tests/lib/attach.py" -- env TERM=xterm "$@"
	}
	on_terminal "$CTL" ps >out
	grep -q $'\e\[32mrunning' out
	colours "$CTL" ps --color always
	! colours "$CTL" ps || fail "in a pipe"
	! colours on_terminal "$CTL" ps --color never || fail "--color never"
	! colours on_terminal env NO_COLOR=1 "$CTL" ps || fail NO_COLOR
	! colours on_terminal env TERM=dumb "$CTL" ps || fail "TERM=dumb"
	! colours on_terminal "$CTL" ps --json || fail "--json"
}
