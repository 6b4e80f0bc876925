#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# The guest's agent and what sporectl does with it, without a guest: the agent listens on a Unix
# socket behind the same handshake as the monitor's.

setup() {
	TOP=$BATS_TEST_DIRNAME/../..
	PATH=$TOP/build:$PATH
	cd "$BATS_TEST_TMPDIR"
	AGENT_PID=
}

teardown() {
	[ -z "$AGENT_PID" ] || kill "$AGENT_PID" 2>/dev/null || true
}

fail() {
	echo "FAILED: $*" >&2
	return 1
}

listens() {
	for _ in $(seq 500); do
		[ ! -S ./v.sock ] || return 0
		sleep 0.02
	done
	fail "nobody listens"
}

agent() {
	spore-agent --unix v.sock 3>&- &
	AGENT_PID=$!
	listens
}

# lies HOW: a hostile agent.
lies() {
	"$TOP/tests/lib/lying-agent" v.sock "$1" 3>&- &
	AGENT_PID=$!
	listens
}

# gives STATUS COMMAND...: runs it; its standard output is in out, its errors in err.
gives() {
	local want=$1 status=0
	shift
	timeout 60 "$@" >out 2>err || status=$?
	[ "$status" = "$want" ] || fail "$*: status $status, expected $want: $(cat out err)"
}

said() {
	grep -qF -- "$1" err || fail "'$1' is not in: $(cat err)"
}

# soon COMMAND...: until it succeeds.
soon() {
	for _ in $(seq 500); do
		! "$@" || return 0
		sleep 0.02
	done
	fail "never: $*"
}

# --- commands ---

@test "a command's output, errors and exit code come back" {
	agent
	gives 7 sporectl exec ./v.sock -- sh -c 'echo out; echo err >&2; exit 7'
	[ "$(cat out)" = out ]
	[ "$(cat err)" = err ]
	gives 0 sporectl exec ./v.sock true
}

@test "a command that a signal ends is 128 and its number" {
	agent
	gives 137 sporectl exec ./v.sock sh -c 'kill -KILL $$'
	gives 143 sporectl exec ./v.sock sh -c 'kill $$'
}

@test "commands that cannot be run: 127, 126; without an agent 125" {
	agent
	gives 127 sporectl exec ./v.sock no-such-command
	said "in the guest: no-such-command: No such file or directory"
	gives 126 sporectl exec ./v.sock /
	gives 127 sporectl exec -w /no/such/directory ./v.sock true
	said "/no/such/directory"
	gives 125 sporectl exec ./other.sock true
	said "try: "
	gives 125 sporectl exec -u joe ./v.sock true
	said "as numbers"
}

@test "environment, directory and user are what was asked for" {
	agent
	gives 0 sporectl exec -e A='b c' -e TERM=x -w /tmp -u 4711:815 ./v.sock \
		sh -c 'echo "$A|$TERM|$PWD|$(id -u):$(id -g):$(id -G)|$HOME"'
	[ "$(cat out)" = "b c|x|/tmp|4711:815:815|/root" ] || fail "$(cat out)"
}

@test "bytes pass both ways as they are, more than any buffer holds" {
	agent
	head -c 20000000 /dev/urandom >data
	timeout 60 sporectl exec -i ./v.sock cat <data | cmp - data
	timeout 60 sporectl exec -i ./v.sock sh -c 'cat >&2' <data 2>back
	cmp back data
	[ "$(sporectl exec ./v.sock head -c 20000000 /dev/zero | wc -c)" = 20000000 ]
}

@test "standard input is empty unless it is asked for" {
	agent
	[ "$(echo x | timeout 60 sporectl exec ./v.sock wc -c)" = 0 ]
	[ "$(echo x | timeout 60 sporectl exec -i ./v.sock wc -c)" = 2 ]
}

@test "a command that does not read its input does not stop anything" {
	agent
	gives 3 sh -c 'head -c 10000000 /dev/zero | sporectl exec -i ./v.sock sh -c "sleep 0.3; exit 3"'
	gives 0 sh -c 'head -c 10000000 /dev/zero | sporectl exec -i ./v.sock sh -c "exec <&-; echo done; sleep 0.3"'
	[ "$(cat out)" = done ]
}

@test "whoever reads the output may stop" {
	agent
	[ "$(timeout 60 sporectl exec ./v.sock yes | head -n 1)" = y ]
}

@test "what a command leaves behind does not keep it, and a detached one goes on" {
	agent
	gives 0 sporectl exec -w "$PWD" ./v.sock sh -c 'sleep 1000 & echo $! >left; echo done'
	[ "$(cat out)" = done ]
	kill "$(cat left)"
	gives 0 sporectl exec -d -w "$PWD" ./v.sock sh -c 'echo $$ >pid; while [ ! -e go ]; do sleep 0.1; done; touch went'
	[ ! -s out ]
	touch go
	soon test -e went
}

@test "signals reach the command, and a second one ends sporectl" {
	agent
	sporectl exec -w "$PWD" ./v.sock sh -c 'trap "echo caught; exit 9" TERM; touch ready; while :; do sleep 0.05; done' >out 3>&- &
	soon test -e ready
	kill $!
	status=0
	wait $! || status=$?
	[ "$status" = 9 ] || fail "status $status"
	[ "$(cat out)" = caught ]
	rm ready
	sporectl exec -w "$PWD" ./v.sock sh -c 'trap "touch first" TERM; touch ready; while :; do sleep 0.05; done' 3>&- &
	soon test -e ready
	kill $!
	soon test -e first
	kill $!
	status=0
	wait $! || status=$?
	[ "$status" = 143 ] || fail "status $status"
}

@test "a command ends when sporectl is killed" {
	agent
	sporectl exec -w "$PWD" ./v.sock sh -c 'exec 2>/dev/null; echo $$ >pid; trap "touch hung-up; exit" HUP; while :; do sleep 0.05; done' 3>&- &
	soon test -s pid
	kill -KILL $!
	soon test -e hung-up
}

@test "sporectl ends when the agent is killed" {
	agent
	sporectl exec -w "$PWD" ./v.sock sh -c 'echo $PPID >agent; exec sleep 20' 2>err 3>&- &
	soon test -s agent
	kill -KILL "$(cat agent)"
	status=0
	wait $! || status=$?
	[ "$status" = 125 ] || fail "status $status"
	said "the connection to the guest's agent is lost"
}

@test "many commands at once, each with its own output" {
	agent
	for i in $(seq 40); do
		sporectl exec ./v.sock sh -c "echo $i; sleep 0.2; echo $i >&2; exit $i" >out.$i 2>err.$i 3>&- &
		pids[i]=$!
	done
	for i in $(seq 40); do
		status=0
		wait "${pids[i]}" || status=$?
		[ "$status" = "$i" ] || fail "$i: status $status $(cat err.$i)"
		[ "$(cat out.$i err.$i)" = "$i"$'\n'"$i" ] || fail "$i: $(cat out.$i err.$i)"
	done
	# None of them is left.
	soon sh -c "[ -z \"\$(pgrep -P $AGENT_PID)\" ]"
}

# --- terminals ---

@test "with -t the command has a terminal of our size, raw on our side" {
	agent
	cat >script <<-'END'
		set timeout 30
		stty rows 33 columns 99 <$argv
		spawn -noecho sh -c "stty rows 33 cols 99; sporectl exec -it ./v.sock sh -c 'stty size; stty -a | grep -o isig; read x; echo got=\$x; trap \"stty size\" WINCH; while :; do sleep 0.05; done'; echo rc=$?; stty -a"
		expect "33 99" {} timeout {exit 1}
		expect "isig" {} timeout {exit 2}
		send "word\r"
		expect "got=word" {} timeout {exit 3}
		exec stty rows 40 columns 120 <$spawn_out(slave,name)
		expect "40 120" {} timeout {exit 4}
		send "\003"
		expect "rc=130" {} timeout {exit 5}
		expect " icanon" {} timeout {exit 6}
		expect eof
	END
	sed -i '/stty rows 33 columns 99 <\$argv/d' script
	timeout 60 expect script || fail "expect: $?"
}

@test "Ctrl-] three times leaves a command that does not listen" {
	agent
	cat >script <<-'END'
		set timeout 30
		spawn -noecho sh -c "sporectl exec -it ./v.sock sh -c 'trap \"\" INT HUP; echo ready; exec sleep 5'; echo rc=$?"
		expect "ready" {} timeout {exit 1}
		send "\003\035\035x"
		send "\035\035\035"
		expect "rc=125" {} timeout {exit 2}
	END
	timeout 60 expect script || fail "expect: $?"
}

@test "-t without a terminal here, and an end of input" {
	agent
	gives 0 sporectl exec -it ./v.sock sh -c 'tty; cat' </dev/null
	grep -q /dev/pts out
}

@test "on a terminal, output without -t cannot steer it" {
	lies escapes
	script -qec 'sporectl exec ./v.sock true' /dev/null >out </dev/null
	grep -qF 'a?[2Jb' out || fail "$(od -c out)"
	! grep -qF $'\x1b[2J' out || fail "an escape sequence came through"
	# To a file it is what it is.
	sporectl exec ./v.sock true >out
	grep -qF $'a\x1b[2Jb' out
}

# --- files ---

tree() {
	mkdir -p t/a/b "t/with blank"
	head -c 3000000 /dev/urandom >t/a/big
	echo x >"t/with blank/x"
	: >t/empty
	ln -s a/big t/link
	ln -s /etc t/out
	chmod 750 t/a
	chmod 4711 t/a/big
	touch -d 2001-02-03 t/empty
}

# like A B: the same names, kinds, modes and contents.
like() {
	diff -r --no-dereference "$1" "$2" || fail "$1 and $2 differ"
	diff <(cd "$1" && find . -printf '%p %y %l\n' | sort) <(cd "$2" && find . -printf '%p %y %l\n' | sort)
}

@test "files and directories are copied into the guest and back" {
	agent
	tree
	mkdir guest
	gives 0 sporectl cp t ./v.sock:"$PWD/guest/new"
	like t guest/new
	[ "$(stat -c %a guest/new/a/big)" = 4711 ]
	[ "$(stat -c %Y guest/new/empty)" = "$(stat -c %Y t/empty)" ]
	gives 0 sporectl cp t ./v.sock:"$PWD/guest"
	like t guest/t
	gives 0 sporectl cp ./v.sock:"$PWD/guest/new" .
	like t new
	[ "$(stat -c %a new/a/big)" = 711 ]
	# Again, over what is there.
	gives 0 sporectl cp ./v.sock:"$PWD/guest/new/" new2
	gives 0 sporectl cp ./v.sock:"$PWD/guest/new" new2/
	like t new2/new
	gives 0 sporectl cp t/a/big ./v.sock:"$PWD/guest"
	cmp t/a/big guest/big
	gives 0 sporectl cp ./v.sock:/proc/self/status .
	grep -q '^Name:.*spore-agent' status
	gives 0 sporectl cp ./v.sock:/etc/hostname /dev/null
	[ -c /dev/null ]
}

@test "copies that cannot be made say why, and which side" {
	agent
	gives 1 sporectl cp ./v.sock:/no/such/file .
	said "in the guest: open '/no/such/file': No such file or directory"
	gives 1 sporectl cp no-such-file ./v.sock:/tmp
	said "open 'no-such-file': No such file or directory"
	gives 1 sporectl cp "$TOP/build/spore" ./v.sock:/no/such/directory/x
	said "in the guest: create '/no/such/directory/x'"
	gives 1 sporectl cp ./v.sock:/dev/null .
	said "neither a file nor a directory"
	gives 1 sporectl cp a b
	said "one of the two"
	gives 1 sporectl cp ./v.sock:/a ./v.sock:/b
	mkfifo fifo
	gives 1 sporectl cp fifo ./v.sock:/tmp
}

@test "special files are left out and counted" {
	agent
	mkdir t
	mkfifo t/p
	gives 0 sporectl cp ./v.sock:"$PWD/t" new
	said "1 special files were left out"
	[ ! -e new/p ]
}

# --- an agent that lies ---

@test "an agent that breaks the protocol is left, and nothing hangs" {
	for how in closes http version half huge early-output early-end twice taken file status vanishes; do
		rm -f v.sock
		lies $how
		gives 125 sporectl exec --wait 1 ./v.sock true
		grep -q '^sporectl: ' err || fail "$how: $(cat err)"
		echo "$how: $(cat err)"
		kill "$AGENT_PID"
	done
	rm -f v.sock
	lies refuses
	gives 127 sporectl exec ./v.sock true
	said "x?]0;owned?"
}

@test "an agent that says nothing is not waited for for ever; a stuck one can be left" {
	lies silent
	gives 1 sporectl cp --wait 1 ./v.sock:/x .
	said "does not answer"
	kill "$AGENT_PID"
	rm v.sock
	lies stuck
	head -c 1000000 /dev/zero | sporectl exec -i ./v.sock cat 3>&- &
	sleep 0.2
	soon sh -c "kill -INT $! && kill -INT $! && ! kill -0 $! 2>/dev/null || ! kill -0 $! 2>/dev/null"
}

@test "a copy out of a hostile guest touches nothing but itself" {
	echo secret >secret
	mkdir in
	for how in copy-up copy-root copy-link copy-short; do
		rm -f v.sock
		lies $how
		gives 1 sporectl cp ./v.sock:/x in/copy-$how
		echo "$how: $(cat err)"
		[ "$(cat secret)" = secret ] || fail "$how"
		kill "$AGENT_PID"
	done
	[ ! -e /tmp/owned ]
	[ "$(cd in && find . -type f)" = ./copy-copy-short ]
	rm v.sock
	lies copy-setuid
	gives 0 sporectl cp ./v.sock:/x plain
	[ "$(stat -c %a plain)" = 755 ]
}
