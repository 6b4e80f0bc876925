#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# The agent as process 1 of a Linux guest, of an image that sporectl has built: commands whose exit code is that of
# `sporectl run`, exec, files both ways, identity, shutting down. What needs no guest is in agent.bats and image.bats.

setup_file() {
	cd "$BATS_TEST_DIRNAME/../.."
	tests/guest/kernels minimal >&2
	tests/testhost/setup >&2
	mkdir -p "$BATS_FILE_TMPDIR"/t/{bin,etc}
	cp "$(command -v busybox)" "$BATS_FILE_TMPDIR/t/bin/busybox"
	for name in sh cat dmesg; do ln -s busybox "$BATS_FILE_TMPDIR/t/bin/$name"; done
	echo image >"$BATS_FILE_TMPDIR/t/etc/hostname"
	SPORE_CACHE=$BATS_FILE_TMPDIR/cache build/sporectl image build "$BATS_FILE_TMPDIR/t" --default >&2
	ln -s "$PWD/build/guest/minimal.vmlinux" "$BATS_FILE_TMPDIR/cache/default/kernel"
}

# in_host <<SCRIPT: run where a KVM is, with `sporectl` and the image as the default.
in_host() {
	cd "$BATS_TEST_DIRNAME/../.."
	{
		echo "PATH=$PWD/build:\$PATH; export SPORE_STATE=/tmp/s"
		declare -f gives is
		cat
		echo "echo all-is-well"
	} >"$BATS_TEST_TMPDIR/script"
	run env SPORE_CACHE="$BATS_FILE_TMPDIR/cache" tests/testhost/run -- bash -u "$BATS_TEST_TMPDIR/script" </dev/null
	echo "$output"
	[ "$status" = 0 ] && [ "${lines[-1]}" = all-is-well ]
}

# gives STATUS COMMAND...: its standard output is in /tmp/out, its errors are in /tmp/err.
gives() {
	local want=$1 status=0
	shift
	"$@" >/tmp/out 2>/tmp/err || status=$?
	[ "$status" = "$want" ] && return
	echo "$*: status $status, expected $want"
	cat /tmp/out /tmp/err /tmp/s/*/*.log
	exit 1
}

is() {
	[ "$(cat /tmp/out)" = "$1" ] && return
	echo "not '$1':"
	cat -A /tmp/out /tmp/err
	exit 1
}

@test "run: the guest's command ends with its exit code, and its output is what it wrote" {
	in_host <<'END'
gives 7 sporectl run --rm -- sh -c "echo one; echo it\'s '\"two\"' %41; exit 7"
is $'one\nit\'s "two" %41'
gives 137 sporectl run --rm -- 'echo on disk >/file && cat /file && kill -9 $$'
is "on disk"
gives 125 sporectl run -n lost --append "spore.run=busybox%20reboot%20-f" -- true
grep -q "without a word" /tmp/err && grep -q "try: sporectl logs lost" /tmp/err || { cat /tmp/err; exit 1; }
END
}

@test "exec, cp, identity, and a shutdown that the guest hears without a keyboard" {
	in_host <<'END'
gives 0 sporectl run -d -n w --append "init=/sbin/spore-agent spore.run="
gives 3 sporectl exec --wait 60 w -- sh -c "cat /proc/1/comm; exit 3"
is "spore-agent"
gives 0 sporectl exec w -- busybox hostname
is image
head -c 300000 /dev/urandom >/tmp/data
mkdir /tmp/dir && ln -s data /tmp/dir/link && cp /tmp/data /tmp/dir
gives 0 sporectl cp /tmp/dir w:/copy
gives 0 sporectl cp w:/copy /tmp/back
diff -r --no-dereference /tmp/dir /tmp/back || exit 1
[ "$(sporectl exec -i w cat </tmp/data | cksum)" = "$(cksum </tmp/data)" ] || exit 1
gives 0 sporectl identity w --hostname other
gives 0 sporectl exec w -- busybox hostname
is other
gives 0 sporectl --json stop --time 60 w
grep -q "shut down" /tmp/out || { cat /tmp/out; exit 1; }
END
}

@test "Debian's kernel as sporectl gets it: the agent loads modules and goes on in the root" {
	cd "$BATS_TEST_DIRNAME/../.."
	run env SPORE_CACHE="$BATS_FILE_TMPDIR/cache" build/sporectl kernel get --default
	echo "$output"
	[ "$status" = 0 ]
	in_host <<'END'
gives 4 sporectl run --rm --append cryptomgr.notests -- 'cat /etc/hostname /proc/1/comm; exit 4'
is $'image\nspore-agent'
END
}
