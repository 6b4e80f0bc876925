# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# For suites with Linux guests. A test is a script on the standard input of in_host, which runs it as root where a real
# KVM is (tests/testhost/run), behind vm.bash.

TOP=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
# What a suite may set: kernels and images that its guests need (none named: all of them), what scripts source beside vm.bash,
# their time limit in seconds, shell code in front of them, and the command that ends them.
HOST_KERNELS=(all)
HOST_IMAGES=()
HOST_WITH=()
HOST_LIMIT=200
HOST_BEGIN=
HOST_END=vm_kill

setup_file() {
	host_setup
}

host_setup() {
	local kernel
	cd "$TOP" || return
	for kernel in "${HOST_KERNELS[@]}"; do
		tests/guest/kernels "$kernel" >&2
	done
	tests/guest/images "${HOST_IMAGES[@]}" >&2
	tests/testhost/setup >&2
}

in_host() {
	local script file with=
	script=$(cat)
	for file in vm "${HOST_WITH[@]}"; do
		with+="source '$TOP/tests/e2e/$file.bash'"$'\n'
	done
	SPORE_TESTHOST_TIMEOUT=$HOST_LIMIT "$TOP/tests/testhost/run" -- bash -euo pipefail -c "
		${SPORE:+SPORE=$SPORE}
		$with
		trap '$HOST_END' EXIT
		$HOST_BEGIN
		$script"
}
