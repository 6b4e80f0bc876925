#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# An attacker with code execution in a thread of a real spore (build/attack/spore: the release's code
# and filters, and a call that the environment chooses): whatever is not on the list is the end.

setup() {
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	load vm.bash
	RELEASE=$SPORE
	SPORE=$TOP/build/attack/spore
	CONFIG=$(config "$GUEST/idle.elf" '."machine-config".mem_size_mib = 16')
}

teardown() {
	vm_kill
}

# attack THREAD NR ARGS...: prints what spore said, and its exit status.
attack() {
	local IFS=: status=0
	rm -f "$BATS_TEST_TMPDIR/vsock" # of the last one
	SPORE_ATTACK="$*" timeout 20 "$SPORE" --no-api --config-file "$CONFIG" </dev/null 2>&1 || status=$?
	echo "exit $status"
}

# dies NAME THREAD NR ARGS...: of this call, which the log names.
dies() {
	local name=$1 out
	shift
	out=$(attack "$@")
	[[ $out == *"system call '$name'"*"exit 148" ]] || fail "$*: $out"
	[[ $out != *attack:* ]] || fail "$*: it came back: $out"
}

lives() { # lives THREAD NR ARGS...
	local out
	out=$(attack "$@")
	[[ $out == *"exit 77" ]] || fail "$*: $out"
}

@test "the release has no attacker inside" {
	! grep -q SPORE_ATTACK "$RELEASE" || fail "SPORE_ATTACK is in it"
	grep -q SPORE_ATTACK "$SPORE"
}

@test "what an attacker would want first, in each thread" {
	for thread in boot main vcpu; do
		dies execve $thread 59
		dies ptrace $thread 101 16
		dies kill $thread 62 1 0
		dies vfork $thread 58
		dies socket $thread 41 2 1 0
		dies bpf $thread 321
		dies unshare $thread 272 0x10000000
		dies mount $thread 165
		dies process_vm_writev $thread 311
		dies rt_sigaction $thread 13 31 0 0 8
		dies mprotect $thread 10 0x1000 0x1000 4
		dies ioctl $thread 16 0 0x5412
	done
	dies mmap boot 9 0 4096 7 0x22 -1
	dies mmap main 9 0 4096 5 0x22 -1
	dies mmap vcpu 9 0 4096 3 0x22 -1
	dies openat vcpu 257 -100 0 0
	dies openat main 257 -100 0 0
	dies read main 0
	dies write vcpu 1
	dies openat2 vcpu 437
	dies clone boot 56 17
	dies fork main 57
	dies fork vcpu 57
	dies clone main 56 0x3d0f00
	dies clone main 56 0x1200011
	dies seccomp main 317 1 0 0
	dies sendto main 44 5
	dies fstat main 5
	dies fcntl main 72 0 6
	dies fcntl main 72 0 38
	dies tgkill main 234 1 1 9
	dies tkill main 200 1 9
	dies tkill vcpu 200 1 6
	dies futex vcpu 202 0 6
	dies ioctl vcpu 16 0 0x4020ae46
}

@test "what the lists allow comes back" {
	lives boot 99 0
	lives main 99 0
	lives main 228 0 0
	lives vcpu 228 0 0
	lives vcpu 16 -1 0xae80
}

# all THREAD CALLS ARGUMENTS: tries everything; at least so many have to be refused, and nothing else happens.
all() {
	local out
	out=$(SPORE_ATTACK=all:$1 timeout 500 "$SPORE" --no-api --config-file "$CONFIG" </dev/null 2>&1) || fail "$out"
	echo "$out"
	[[ $out =~ ^"$1: "([0-9]+)" calls refused, "([0-9]+)" arguments, 0 survived"$ ]] || fail "$out"
	[ "${BASH_REMATCH[1]}" -ge "$2" ] || fail "$out"
	[ "${BASH_REMATCH[2]}" -ge "$3" ] || fail "$out"
}

@test "every system call that the list of a thread does not name ends the process, and every argument that is wrong" {
	# Of 600 numbers and 10 that are none: all but those on the list.
	all boot 545 100
	all main 565 40
	all vcpu 590 5
}

@test "what only some microVMs need is on the list of those" {
	dies recvmsg main 47 -1
	dies memfd_create main 319 0 3
	dies getrandom main 318
	CONFIG=$(config "$GUEST/idle.elf" '."machine-config" += {mem_size_mib: 16, memory_backend: "Memfd"}
		| .vsock = {guest_cid: 3, uds_path: "'"$BATS_TEST_TMPDIR"'/vsock"}')
	lives main 47 -1
	lives main 319 0 3
	dies getrandom main 318
	# Without /dev/urandom; and what is there in its place is not believed.
	export -f attack
	export SPORE CONFIG
	for make in : "mknod /dev/urandom c 1 3" "touch /dev/urandom"; do
		# shellcheck disable=SC2016 # by the shell in there
		out=$(unshare -m bash -c 'mount -t tmpfs none /dev && mknod /dev/kvm c 10 232 && mknod -m 666 /dev/null c 1 3 && '"$make"' && attack main 318')
		[[ $out == *"exit 77" ]] || fail "$make: $out"
	done
}

@test "--no-seccomp lets everything through, and says so loudly" {
	CONFIG2=$CONFIG
	out=$(SPORE_ATTACK=main:102 "$SPORE" --no-api --config-file "$CONFIG2" --no-seccomp </dev/null 2>&1) || status=$?
	[ "$status" = 77 ]
	[[ $out == *"NO SECCOMP FILTERS"* ]]
	run "$RELEASE" --no-seccomp --seccomp-filter x
	[ "$status" = 153 ]
}

@test "--seccomp-filter: a file of Firecracker's form instead of the built-in filters" {
	filter=$(mktemp)
	# Everything that the guest needs, by name, and nothing for getppid.
	names='preadv2 pwritev2 futex epoll_ctl epoll_pwait poll clock_gettime rt_sigreturn rt_sigprocmask exit_group exit
		ioctl madvise accept4 close fdatasync getrandom newfstatat unlinkat brk mmap munmap tkill
		rt_sigaction prctl mprotect membarrier clone openat openat2 eventfd2 fcntl getpgid uname'
	rules=$(for n in $names; do echo "{\"syscall\": \"$n\"}"; done | jq -s .)
	jq -n --argjson r "$rules" '{default_action: "trap", filter_action: "allow", filter: $r} as $t | {vmm: $t, api: $t, vcpu: $t}' >"$filter"
	SPORE_ATTACK=none "$SPORE" --no-api --config-file "$(config "$GUEST/hello.elf")" --seccomp-filter "$filter" | grep -q "hello from the guest"
	out=$(SPORE_ATTACK=main:110 "$SPORE" --no-api --config-file "$CONFIG" --seccomp-filter "$filter" 2>&1 </dev/null) || status=$?
	[ "$status" = 148 ]
	[[ $out == *"'getppid'"* ]]
	echo '{"vmm": 1}' >"$filter"
	run "$RELEASE" --no-api --config-file "$CONFIG" --seccomp-filter "$filter"
	[ "$status" = 1 ]
	[[ $output == *"--seccomp-filter"* ]]
}
