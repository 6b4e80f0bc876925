#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# Examples of docs/*.md that need the test host, as they are printed. The others are in tiny-docs.bats.

setup() {
	load ../lib/docs.bash
	cd "$BATS_TEST_DIRNAME/../.."
}

@test "docs/security.md: the jail" {
	{
		cat <<-'END'
			set -e
			mount -t tmpfs tmpfs /srv
			mkdir -p /srv/jailer/spore/vm1/root /tmp/bin
			cp build/spore /tmp/bin/spore; mount --bind /tmp/bin /usr/local/bin
			cp build/guest/hello.elf /srv/jailer/spore/vm1/root/vmlinux
			echo '{"boot-source": {"kernel_image_path": "/vmlinux"}, "machine-config": {"vcpu_count": 1,
				"mem_size_mib": 16}}' >/srv/jailer/spore/vm1/root/vm.json
			chmod 644 /srv/jailer/spore/vm1/root/*
			ip netns add vm1
			PATH=$PWD/build:$PATH
			mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
		END
		block docs/security.md 'spore-jailer' | sed 's|/usr/bin/spore|/usr/local/bin/spore|'
		echo 'sleep 1; until ! pgrep -x spore >/dev/null; do sleep 0.1; done'
	} >build/docs.sh
	cat build/docs.sh
	run tests/testhost/run -- bash build/docs.sh
	echo "$output"
	[[ $output == *"hello from the guest"* ]]
}

@test "docs/testhost.md: a guest under QEMU" {
	tests/guest/kernels minimal >&2
	tests/guest/images initrd-minimal.cpio >&2
	block docs/testhost.md 'tests/testhost/run' >build/docs.sh
	run bash build/docs.sh
	echo "$output"
	[[ $output == *Linux*x86_64* ]]
}
