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

# archive NAME <<ENTRIES: a tar of what no tar would write: lines of TYPE NAME TARGET, type f(ile), d(irectory), s(ymbolic),
# h(ard link), c(haracter device), p(ipe). A file contains its target.
archive() {
	python3 -c '
import io, sys, tarfile
kinds = {"f": tarfile.REGTYPE, "d": tarfile.DIRTYPE, "s": tarfile.SYMTYPE, "h": tarfile.LNKTYPE, "c": tarfile.CHRTYPE, "p": tarfile.FIFOTYPE}
with tarfile.open(sys.argv[1], "w", format=tarfile.PAX_FORMAT) as tar:
    for line in sys.stdin:
        kind, name, target = (line.rstrip("\n").split(" ") + [""])[:3]
        name = name.replace("LONG", "n" * 200).replace("LINE", "\n")
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.mode = kinds[kind], target, 0 if "secret" in name else 0o755
        entry.devmajor, entry.devminor = 1, 3
        data = target.encode() if kind == "f" else b""
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
' "$1"
}

# refuses WORDS ARGUMENT...: it fails, says so, and has put nothing into the directory `outside`.
refuses() {
	local words=$1
	shift
	advises "" "$@"
	grep -qF "$words" out || fail "$*: $(cat out)"
	[ "$(ls outside)" = victim ] && [ "$(cat outside/victim)" = whole ] || fail "$*: $(ls outside)"
}

@test "a stranger's tar: what leads outside is refused, what is only odd comes out" {
	mkdir outside
	echo whole >outside/victim
	up=../../../../../../../../..$PWD/outside
	archive up.tar <<<"f $up/new x"
	refuses "contains '..'" build up.tar
	archive link.tar <<<"s l $PWD/outside"$'\n'"f l/new x"
	refuses "l/new: Cannot open" build link.tar
	archive uplink.tar <<<"s l $up"$'\n'"f l/victim x"
	refuses "l/victim: Cannot open" build uplink.tar
	archive hard.tar <<<"h h $PWD/outside/victim"$'\n'"f h x"
	refuses "Cannot hard link" build hard.tar
	archive long.tar <<<"f LONGLONG"
	refuses "File name too long" build long.tar
	archive top.tar <<<"s . $PWD/outside"$'\n'"f new"
	refuses "Cannot open" build top.tar
	archive a.tar <<<"f one 12345678901234567890"
	truncate -s 700 a.tar
	refuses "Unexpected EOF" build a.tar
	# Where a host may stand in tar's eyes: this is a file.
	archive odd:1.tar <<-END
		f -rf x
		f twoLINElines x
		f $PWD/absolute x
		f LONG/LONG/LONG/LONG/LONG x
		c null
		p pipe
		f same 1
		f same 2
		s dangling ${PWD}/outside/new
	END
	built ./odd:1.tar
	sees "cat /same" '^2$'
	sees "stat /null" 'Type: character special'
	sees "stat $PWD/absolute" 'Type: regular'
	[ ! -e absolute ] && [ "$(ls outside)" = victim ]
}

@test "what unpacks without an end is ended; holes cost nothing" {
	# 300 MiB of zeros in 10 KiB.
	{
		python3 -c 'import sys, tarfile
bomb = tarfile.TarInfo("bomb")
bomb.size = 300 << 20
sys.stdout.buffer.write(bomb.tobuf())'
		head -c 300M /dev/zero
	} | zstd -q >bomb.tar.zst
	advises "df -h; then --limit with more than 20M" build bomb.tar.zst --limit 20M
	grep -q "more than 20 MiB unpacked" out
	# Many of nothing.
	seq -f "f file%g" 6000 | archive many.tar
	advises "df -h" build many.tar --limit 20M
	advises "df -h" build ./t --limit 8K
	truncate -s 1T t/hole
	tar -C t -cSf hole.tar .
	built hole.tar
	[ "$(stat -c %s "$image")" -lt 100000000 ]
	sees "stat /hole" 'Size: 1099511627776'
	advises "--type ext4" build hole.tar --type squashfs
}

# layout DIRECTORY COMPRESSION LAYER.tar...: an OCI layout of these layers, with the configuration in $config.
layout() {
	python3 - "$@" <<-'END'
		import gzip, hashlib, json, os, subprocess, sys
		top, how, *layers = sys.argv[1:]
		os.makedirs(f"{top}/blobs/sha256")
		def blob(data, kind):
		    digest = hashlib.sha256(data).hexdigest()
		    with open(f"{top}/blobs/sha256/{digest}", "wb") as f:
		        f.write(data)
		    return {"digest": f"sha256:{digest}", "size": len(data), "mediaType": f"application/vnd.oci.image.{kind}"}
		pack = {"gzip": gzip.compress, "none": lambda data: data,
		        "zstd": lambda data: subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout}
		raw = [open(name, "rb").read() for name in layers]
		tars = [blob(pack[how](data), "layer.v1.tar" + ("" if how == "none" else "+" + how)) for data in raw]
		ids = ["sha256:" + hashlib.sha256(data).hexdigest() for data in raw]
		config = blob(json.dumps({"architecture": "amd64", "os": "linux", "config": json.loads(os.environ.get("config", "{}")),
		                          "rootfs": {"type": "layers", "diff_ids": ids}}).encode(), "config.v1+json")
		manifest = blob(json.dumps({"schemaVersion": 2, "config": config, "layers": tars}).encode(), "manifest.v1+json")
		for name, value in ("index.json", {"schemaVersion": 2, "manifests": [manifest]}), ("oci-layout", {"imageLayoutVersion": "1.0.0"}):
		    with open(f"{top}/{name}", "w") as f:
		        json.dump(value, f)
	END
}

@test "containers: layers of each compression, whiteouts, links between layers" {
	archive base.tar <<-END
		d d
		f d/gone 1
		f d/keep 2
		d o
		f o/lower 3
		f file 4
	END
	archive top.tar <<-END
		f d/.wh.gone
		f o/.wh..wh..opq
		f o/upper 5
		h hard file
	END
	for how in gzip zstd none; do
		layout $how:x $how base.tar top.tar
		built ./$how:x
		debugfs -R "ls -p /d" "$image" 2>/dev/null | grep -q /keep/
		sees "stat /hard" 'Links: 2'
		for gone in d/gone o/lower d/.wh.gone; do
			debugfs -R "stat /$gone" "$image" 2>&1 | grep -q "not found" || fail "$how: $gone"
		done
		sees "cat /o/upper" '^5$'
	done
	# As one packs it by hand.
	tar --force-local -C gzip:x -cf ./by:hand.tar .
	built ./by:hand.tar
	sees "cat /o/upper" '^5$'
}

@test "containers of a stranger: nothing outside, and a command that is no program" {
	mkdir outside
	echo whole >outside/victim
	archive link.tar <<<"s l $PWD/outside"$'\n'"f l/new x"
	archive white.tar <<<"f l/.wh.victim"
	layout climbs gzip link.tar white.tar
	built ./climbs
	[ "$(ls outside)" = victim ]
	archive hard.tar <<<"h h $PWD/outside/victim"
	layout hard gzip hard.tar
	refuses "link" build ./hard
	archive top.tar <<<"s . $PWD/outside"
	layout top gzip top.tar
	refuses "root directory" build ./top
	# Names that no shell has, words that it would run, and more of them than a page.
	archive plain.tar <<<"f file"
	config=$(jq -n '{Env: (["1A=b", "my.var=c", "none", "X=$(touch ran)`touch ran`'"'"'\ntouch ran", "A=$B"] + [range(200) | "V\(.)=\("x" * 500)"]),
		Cmd: ["/bin/echo", "$A", "'"'"'"]}') layout words gzip plain.tar
	built ./words
	debugfs -R "cat /sbin/spore-run" "$image" 2>/dev/null >run
	[ "$(sh run)" = "\$A '" ] && [ ! -e ran ] || fail "$(head -c 2000 run)"
	config='{"Env": [1]}' layout wrong gzip plain.tar
	refuses "configuration" build ./wrong
}

@test "without root, owners are root's all the same" {
	# Where nobody may be: not in the directories of this test.
	dir=$(mktemp -d /tmp/spore-image.XXXXXX)
	archive secret.tar <<<"d secret"$'\n'"f secret/file 1"
	mkdir t/more
	tar -C t/more -xf secret.tar
	tar -C t -cf "$dir/t.tar" .
	cp "$CTL" "${CTL%/*}/spore-agent" "$dir"
	chmod 755 "$dir"
	mkdir "$dir/cache"
	chown nobody "$dir/cache"
	image=$(cd "$dir" && setpriv --reuid=65534 --regid=65534 --clear-groups env SPORE_CACHE="$dir/cache" ./sporectl image build t.tar)
	sees "stat /srv/file" 'User: +12 +Group: +34'
	sees "stat /sbin/spore-agent" 'User: +0 +Group: +0'
	# Not even its owner may read it.
	sees "stat /more/secret" 'Mode: +0000'
	sees "cat /more/secret/file" '^1$'
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
