#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# docs/examples/faas as its README says it: a warm Python in a snapshot, each request in a clone of its own.

setup_file() {
	cd "$BATS_TEST_DIRNAME/../.."
	tests/guest/kernels minimal >&2
	tests/testhost/setup >&2
	# The image stays in the cache of who runs this; what is the default there is his.
	image=$(build/sporectl image build debian:bookworm --variant extract --include python3-minimal --type squashfs)
	export SPORE_CACHE=$BATS_FILE_TMPDIR/cache
	mkdir -p "$SPORE_CACHE/default"
	ln -s "$image" "$SPORE_CACHE/default/rootfs"
	ln -s "$PWD/build/guest/minimal.vmlinux" "$SPORE_CACHE/default/kernel"
	gcc -O2 -Wall -Wextra -Werror -o "$BATS_FILE_TMPDIR/faas" docs/examples/faas/faas.c
}

@test "each request is answered by a clone that has seen none before, and latencies are told" {
	cd "$BATS_TEST_DIRNAME/../.."
	cat >"$BATS_TEST_TMPDIR/script" <<-END
		PATH=$PWD/build:\$PATH
		export SPORE_STATE=/tmp/s
		docs/examples/faas/warm /tmp/warm || { cat /tmp/s/*/*.log; exit 1; }
		$BATS_FILE_TMPDIR/faas $PWD/build/spore /tmp/warm 8080 5 >/tmp/out &
		for _ in \$(seq 600); do grep -q try: /tmp/out && break; sleep 0.1; done
		for text in a bb ccc dddd eeeee; do curl -sS --max-time 60 http://127.0.0.1:8080/\$text; done
		wait \$!
		echo "status \$?"
		cat /tmp/out
		ls -d /tmp/faas-*
	END
	run tests/testhost/run -- bash "$BATS_TEST_TMPDIR/script" </dev/null
	echo "$output"
	[ "$status" != 0 ] # ls: nothing is left
	[[ $output == *"a: prime number 1 is 2, call 2 of this clone"*"bb: prime number 2 is 3, call 2 of this clone"* ]]
	[[ $output == *"eeeee: prime number 5 is 11, call 2 of this clone"*"status 0"*"5 requests"*"the answer is there"* ]]
}
