#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# README.md's microVM by hand, as it is printed there, in the test host where that is needed.

setup() {
	load ../lib/docs.bash
	cd "$BATS_TEST_DIRNAME/../.."
}

setup_file() {
	cd "$BATS_TEST_DIRNAME/../.."
	tests/guest/kernels debian-6.1 >&2
	tests/guest/images initrd-debian-6.1.cpio root.ext4 >&2
	tests/testhost/setup >&2
	mkdir -p build/demo
	cp --sparse=always build/guest/root.ext4 build/demo/root.ext4
}

@test "README: the microVM by hand works as printed" {
	{
		# The first terminal, the second one, and what a person types into the guest.
		echo 'mkfifo /tmp/in; exec 7<>/tmp/in'
		printf '{ %s\n} </tmp/in >/tmp/out & first=$!\n' "$(block README.md 'rm -f')"
		echo 'until [ -S /tmp/spore.sock ]; do sleep 0.1; done; set -e'
		block README.md 'api() {'
		echo 'said() { for _ in $(seq 600); do grep -q "$1" /tmp/out && return; sleep 0.1; done; cat /tmp/out; exit 1; }'
		echo 'said "/ # "'
		block README.md 'api GET /'
		echo 'echo "echo typed-\$((40 + 2)); poweroff -f" >&7; said typed-42; set +e'
		echo 'wait $first; echo "status $?"'
	} >build/readme.sh
	cat build/readme.sh
	run tests/testhost/run -- bash build/readme.sh
	echo "$output"
	[[ $output == *'"state"'*'status 3' ]]
}

@test "README: the same with sporectl" {
	# Up to the detaching a person is at a terminal: attach.py, once the guest's prompt is there.
	block README.md 'build/sporectl run' >build/readme.part
	{
		echo 'set -e; export SPORE_STATE=/tmp/s ATTACH_SECONDS=150; cd "$1"; cp -r build/demo/. /tmp/; mount --bind /tmp build/demo'
		echo "cat >/tmp/first <<'END'"
		sed '/sporectl ps/,$d' build/readme.part
		echo 'END'
		echo 'tests/lib/attach.py "wait:/ # " "keys:\x1d" -- bash /tmp/first'
		sed -n '/sporectl ps/,$p' build/readme.part
		echo 'build/sporectl ps; build/sporectl stop --all --now'
	} >build/readme.sh
	cat build/readme.sh
	run tests/testhost/run -- bash build/readme.sh "$PWD"
	echo "$output"
	[ "$status" = 0 ]
	[[ $output == *first*running*copy-1*running*copy-4*running* ]]
}
