#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# README.md's microVM by hand, as it is printed there, in the test host where that is needed.

setup_file() {
	cd "$BATS_TEST_DIRNAME/../.."
	tests/guest/kernels debian-6.1 >&2
	tests/guest/images initrd-debian-6.1.cpio root.ext4 >&2
	tests/testhost/setup >&2
	mkdir -p build/demo
	cp --sparse=always build/guest/root.ext4 build/demo/root.ext4
}

# block N: the N-th block of shell commands below the heading.
block() {
	awk -v n="$1" '/^## / { here = /by hand/ } !here { next }
		/^```sh/ { i++; inside = 1; next } /^```/ { inside = 0 }
		inside && i == n' README.md
}

@test "README: the microVM by hand works as printed" {
	cd "$BATS_TEST_DIRNAME/../.."
	{
		# The first terminal, the second one, and what a person types into the guest.
		echo 'mkfifo /tmp/in; exec 7<>/tmp/in'
		printf '{ %s\n} </tmp/in >/tmp/out & first=$!\n' "$(block 1)"
		echo 'until [ -S /tmp/spore.sock ]; do sleep 0.1; done; set -e'
		block 2
		echo 'said() { for _ in $(seq 600); do grep -q "$1" /tmp/out && return; sleep 0.1; done; cat /tmp/out; exit 1; }'
		echo 'said "/ # "'
		block 3
		echo 'echo "echo typed-\$((40 + 2)); poweroff -f" >&7; said typed-42; set +e'
		echo 'wait $first; echo "status $?"'
	} >build/readme.sh
	cat build/readme.sh
	run tests/testhost/run -- bash build/readme.sh
	echo "$output"
	[[ $output == *'"state"'*'status 3' ]]
}
