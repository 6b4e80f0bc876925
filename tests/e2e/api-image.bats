#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# sporectl image: what goes in comes out, the cache knows it again, what a stranger's archive does stays inside, and
# errors say what to type next. No guest is run here: that is in linux-agent.bats.

setup() {
	cd "$BATS_TEST_TMPDIR"
	CTL=$BATS_TEST_DIRNAME/../../build/sporectl
	export SPORE_CACHE=$PWD/cache
	mkdir -p t/bin t/srv
	echo 'content of a file' >t/srv/file
	ln -s /bin/x t/bin/sh
	chown 12:34 t/srv/file
	chmod 4711 t/srv/file
}

fail() {
	echo "FAILED: $*" >&2
	return 1
}

# built ARGUMENT...: makes an image without a word on standard output but its path, which is in $image.
built() {
	image=$("$CTL" image build "$@" 2>err) || fail "$*: $(cat err)"
	[ -s "$image" ] || fail "$*: no file '$image'"
	[ -z "$(ls -d cache/images/work-* 2>/dev/null)" ] || fail "left behind: $(ls cache/images)"
}

# sees COMMAND PATTERN: what debugfs says of the image.
sees() {
	debugfs -R "$1" "$image" 2>/dev/null | grep -Eq "$2" || fail "$1: $(debugfs -R "$1" "$image" 2>&1)"
}

# advises ADVICE ARGUMENT...: it fails, and the last line says what to type.
advises() {
	local advice=$1
	shift
	! "$CTL" image "$@" >out 2>&1 || fail "$* did not fail"
	tail -n 1 out | grep -qF "try: $advice" || fail "$*: $(cat out)"
	[ -z "$(ls -d cache/images/work-* 2>/dev/null)" ] || fail "left behind: $(ls cache/images)"
}

@test "a directory becomes an ext4 with the agent, an init and what the agent mounts upon" {
	built ./t
	e2fsck -fn "$image"
	sees "cat /srv/file" '^content of a file$'
	sees "stat /srv/file" 'Mode: +04711'
	sees "stat /srv/file" 'User: +12 +Group: +34'
	sees "stat /sbin/init" 'Fast link dest: "spore-agent"'
	sees "stat /sbin/spore-agent" 'Mode: +0755'
	for dir in proc sys dev run tmp; do sees "stat /$dir" 'Type: directory'; done
	[ ! -e t/sbin ]
	# An init of its own stays.
	mkdir t/sbin
	ln -s ../bin/busybox t/sbin/init
	echo '#!' >t/bin/busybox
	built ./t
	sees "stat /sbin/init" 'busybox'
	built --no-agent ./t
	debugfs -R "stat /sbin/spore-agent" "$image" 2>&1 | grep -q "not found"
}

@test "the cache: the same content is the same image, other content is another" {
	built ./t
	first=$image
	cp -a t other
	[ "$("$CTL" image build --json ./other | jq -r '.cached, .path')" = "true"$'\n'"$first" ]
	[ "$("$CTL" image build --json --rebuild ./t | jq -r .cached)" = false ]
	cp "$first" before
	built --rebuild ./t -o copy
	[ "$image" = copy ] && [ -w copy ]
	cmp copy "$first"
	built ./t --size 40M
	[ "$(stat -c %s "$image")" = $((40 << 20)) ] && [ "$image" != "$first" ]
	echo more >>t/srv/file
	built ./t --default
	[ "$image" != "$first" ]
	[ "$(readlink cache/default/rootfs)" = "$image" ]
	[ "$("$CTL" image ls --json | jq length)" = 3 ]
	"$CTL" image rm "$(basename "$first" .ext4)"
	[ ! -e "$first" ] && [ "$("$CTL" image ls --json | jq length)" = 2 ]
}

@test "tars of each compression, squashfs and erofs" {
	for how in "" z J; do
		tar -C t -c${how}f t.tar .
		built t.tar
		sees "cat /srv/file" '^content of a file$'
		rm -r cache
	done
	tar -C t --zstd -cf t.tar .
	built t.tar --type squashfs
	unsquashfs -lln "$image" | grep -q -- '-rws--x--x 12/34 .*squashfs-root/srv/file'
	built t.tar --type erofs
	[ "$(od -A n -t x4 -j 1024 -N 4 "$image")" = " e0f5e1e2" ]
}

@test "containers: OCI layout, archive, docker's, with their command" {
	umoci init --layout oci
	umoci new --image oci:v1
	umoci insert --image oci:v1 t /
	umoci config --image oci:v1 --config.entrypoint /bin/echo --config.cmd "it's" --config.env 'A=$B c' --config.workingdir /srv
	skopeo copy -q --insecure-policy oci:oci:v1 oci-archive:a.tar
	skopeo copy -q --insecure-policy oci:oci:v1 docker-archive:d.tar:name:v1
	for source in ./oci a.tar d.tar; do
		built $source
		sees "cat /srv/file" '^content of a file$'
		debugfs -R "cat /sbin/spore-run" "$image" 2>/dev/null >run
		mkdir -p srv
		sed "s|cd '/srv'|cd '$PWD/srv'|" run >run2
		[ "$(sh run2 more)" = "it's more" ] || fail "$source: $(cat run)"
		grep -qF "export 'A=\$B c'" run
	done
	advises "sporectl image --help" build ./oci --tag nothing
}

@test "links of a stranger's archive lead nowhere outside" {
	mkdir -p evil outside
	ln -s "$PWD/outside" evil/sbin
	advises "" build ./evil
	[ -z "$(ls outside)" ] || fail "written: $(ls outside)"
	rm evil/sbin
	mkdir evil/outside
	ln -s ../../../../../../outside evil/sbin
	tar -C evil -cf evil.tar .
	built evil.tar
	sees "stat /outside/spore-agent" 'Type: regular'
	[ -z "$(ls outside)" ] || fail "written: $(ls outside)"
	# The agent replaces a link, and does not write through it.
	rm evil/sbin
	mkdir evil/sbin
	echo keep >outside/file
	ln -s "$PWD/outside/file" evil/sbin/spore-agent
	built ./evil
	[ "$(cat outside/file)" = keep ]
}

@test "without root, owners are root's all the same" {
	# Where nobody may be: not in the directories of this test.
	dir=$(mktemp -d /tmp/spore-image.XXXXXX)
	tar -C t -cf "$dir/t.tar" .
	cp "$CTL" "${CTL%/*}/spore-agent" "$dir"
	chmod 755 "$dir"
	mkdir "$dir/cache"
	chown nobody "$dir/cache"
	image=$(cd "$dir" && setpriv --reuid=65534 --regid=65534 --clear-groups env SPORE_CACHE="$dir/cache" ./sporectl image build t.tar)
	sees "stat /srv/file" 'User: +12 +Group: +34'
	sees "stat /sbin/spore-agent" 'User: +0 +Group: +0'
	rm -r "$dir"
}

@test "errors end with what to type next, and leave nothing" {
	advises "ls -l ./none" build ./none
	advises "sporectl image build debian:bookworm" build debian:Book/worm
	advises "sporectl image build SOURCE" bild x
	advises "sporectl image build SOURCE" build
	advises "sporectl image ls" rm 0123
	advises "--type ext4" build ./t --type xfs
	advises "the same without --size" build ./t --type erofs --size 1G
	head -c 100000 /dev/urandom >noise
	advises "file noise" build noise
	head -c 5000000 /dev/urandom >t/big
	advises "--size with more than 4M" build ./t --size 4M
	mkfifo fifo
	advises "file fifo" build fifo
}

@test "a signal ends it, and what was begun is gone" {
	mkdir bin
	printf '#!/bin/sh\ntouch %s/started\nexec sleep 1000\n' "$PWD" >bin/sha256sum
	chmod 755 bin/sha256sum
	tar -C t -cf t.tar .
	PATH=$PWD/bin:$PATH "$CTL" image build t.tar >out 2>&1 3>&- &
	pid=$!
	for _ in $(seq 600); do
		[ ! -e started ] || break
		sleep 0.05
	done
	kill -TERM $pid
	status=0
	wait $pid || status=$?
	[ $status = 1 ] || fail "status $status: $(cat out)"
	grep -q interrupted out
	[ -z "$(ls -d cache/images/work-* 2>/dev/null)" ]
}

@test "kernel: what is no kernel is refused with advice" {
	mkdir -p pack/DEBIAN pack/boot
	printf 'Package: linux-image-1-x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n' >pack/DEBIAN/control
	# apt-get of this test: "downloads" what is there.
	mkdir bin
	printf '#!/bin/sh\ncp %s/linux-image-1-x_1_all.deb . 2>/dev/null || { echo "E: nothing" >&2; exit 100; }\n' "$PWD" >bin/apt-get
	chmod 755 bin/apt-get
	for what in "is no bzImage" "ends before" "not known here"; do
		head -c 100000 /dev/zero >pack/boot/vmlinuz-1-x
		[ "$what" = "is no bzImage" ] || printf HdrS | dd of=pack/boot/vmlinuz-1-x bs=1 seek=514 conv=notrunc 2>dd
		case $what in
		"ends before") printf '\xff\xff\xff\xff\xff\xff\xff\xff' | dd of=pack/boot/vmlinuz-1-x bs=1 seek=584 conv=notrunc 2>dd ;;
		"not known here") printf '\x00\x00\x00\x00\x00\x01\x00\x00' | dd of=pack/boot/vmlinuz-1-x bs=1 seek=584 conv=notrunc 2>dd ;;
		esac
		dpkg-deb -b pack linux-image-1-x_1_all.deb >/dev/null
		! PATH=$PWD/bin:$PATH "$CTL" kernel get -p linux-image-1-x >out 2>&1 || fail "$what: $(cat out)"
		grep -q "$what" out && tail -n 1 out | grep -q "try: " || fail "$what: $(cat out)"
		[ -z "$(ls cache/kernels)" ] || fail "left behind: $(ls cache/kernels)"
	done
	rm linux-image-1-x_1_all.deb
	! PATH=$PWD/bin:$PATH "$CTL" kernel get -p linux-image-1-x >out 2>&1 || fail "$(cat out)"
	tail -n 1 out | grep -q "try: sudo apt-get update"
	! "$CTL" kernel fetch >out 2>&1 || fail "$(cat out)"
	tail -n 1 out | grep -q "try: sporectl kernel get"
}
