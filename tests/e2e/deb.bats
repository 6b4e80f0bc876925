#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# The Debian package on a clean Debian 12, which mmdebstrap makes from the archive
# (a month old at most): apt installs it with
# what it depends on, spore@.service's commands run a guest with no more capabilities than the unit
# gives them, and nothing is left when it is purged. `make deb-check` builds the package first.

setup_file() {
	cd "$BATS_TEST_DIRNAME/../.."
	export ROOT=$BATS_FILE_TMPDIR/root
	[ "$(id -u)" = 0 ] || { echo "needs root, for a chroot"; return 1; }
	[ -w /dev/kvm ] || { echo "needs /dev/kvm"; return 1; }
	ls build/deb/spore_*_amd64.deb >/dev/null || { echo "there is no package: make deb"; return 1; }
	local clean=${SPORE_CACHE:-build/cache}/debian-12.tar
	find "$clean" -mtime -30 2>/dev/null | grep -q . || {
		mmdebstrap --quiet --variant=minbase bookworm "${clean%.tar}.$$.tar" 2>&1
		mv "${clean%.tar}.$$.tar" "$clean"
	}
	mkdir "$ROOT"
	tar -xf "$clean" -C "$ROOT"
	cp build/deb/spore_*_amd64.deb "$ROOT/root/spore.deb"
	cp build/guest/{hello,echo,poweroff}.elf "$ROOT/root/"
	cp /etc/resolv.conf "$ROOT/etc/resolv.conf"
	inside 'export DEBIAN_FRONTEND=noninteractive
		apt-get update -qq
		apt-get install -y -qq --no-install-recommends /root/spore.deb' >"$BATS_FILE_TMPDIR/apt" 2>&1 ||
		{ cat "$BATS_FILE_TMPDIR/apt"; return 1; }
}

# inside SCRIPT: runs it in the clean Debian as a machine would: its own processes, /proc, /run in
# memory, and of the devices what is in its /dev and /dev/kvm. When it ends, so do all that it started.
inside() {
	touch "$ROOT/dev/kvm"
	unshare --mount --pid --fork --kill-child bash -euc '
		mount --make-rprivate /
		mount --bind "$0" "$0"
		mount -t proc proc "$0/proc"
		mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs "$0/run"
		mount --bind /dev/kvm "$0/dev/kvm"
		exec chroot "$0" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root bash -euc "$1"' \
		"$ROOT" "$1"
}

@test "deb: apt installs it; its files are whole, its user and directories are there" {
	grep -i "warning\|error" "$BATS_FILE_TMPDIR/apt" | grep -v debconf && return 1
	run inside 'dpkg --verify spore
		spore --version; spore-jailer --version; sporectl --version
		getent passwd spore >/dev/null && echo user
		systemd-tmpfiles --create spore.conf
		stat -c "%n %a" /etc/spore /var/lib/spore /var/lib/spore/images /run/spore-jail
		systemd-analyze verify --man=no spore@web.service && echo verified'
	echo "$output"
	[ "$status" = 0 ]
	[[ $output == *user*"/etc/spore 755"*"/run/spore-jail 711"*verified ]]
	[[ $output != *nit*:* ]]
}

@test "deb: sporectl runs a guest; completion of bash and zsh" {
	run inside 'sporectl run --rm -k /root/hello.elf </dev/null
		sporectl run --rm -k /root/poweroff.elf </dev/null || echo "status $?"
		. /usr/share/bash-completion/completions/sporectl
		COMP_WORDS=(sporectl sn) COMP_CWORD=1; _sporectl; echo "${COMPREPLY[*]}"
		head -n 1 /usr/share/zsh/vendor-completions/_sporectl'
	echo "$output"
	[ "$status" = 0 ]
	[ "$output" = $'hello from the guest\npowering off\nstatus 3\nsnapshot\n#compdef sporectl' ]
}

@test "deb: the unit's commands: a guest in a jail, a user of its own, the API, stop, nothing left" {
	caps=$(sed -n 's/^CapabilityBoundingSet=//p' "$ROOT/lib/systemd/system/spore@.service")
	[ -n "$caps" ]
	caps=$(tr ' ' '\n' <<<"${caps,,}" | sed 's/^cap_/+/' | paste -sd, -)
	run inside '
		unit() { setpriv --bounding-set="-all,'"$caps"'" /usr/lib/spore/spore-unit "$@"; }
		systemd-tmpfiles --create spore.conf
		unit start web 2>&1 || echo refused
		cp /root/echo.elf /var/lib/spore/images/kernel; chmod 644 /var/lib/spore/images/kernel
		echo "{\"boot-source\": {\"kernel_image_path\": \"/var/lib/spore/images/kernel\"},
			\"machine-config\": {\"vcpu_count\": 1, \"mem_size_mib\": 16},
			\"logger\": {\"log_path\": \"/var/lib/spore/web/log\"}}" >/etc/spore/web.json
		chmod 600 /etc/spore/web.json
		unit start web >/root/console
		jail=/run/spore-jail/spore/web/root pid=$(cat /run/spore-jail/spore/web/root/spore.pid)
		until grep -q ready /root/console; do sleep 0.1; done
		echo "user $(stat -c %U /proc/$pid) $(grep CapBnd /proc/$pid/status)"
		curl -sS --unix-socket $jail/run/firecracker.socket http://localhost/ | grep -o Running
		grep -c "microVM started" /var/lib/spore/web/log
		{ sleep 1; kill -TERM $pid; } &
		unit stop web
		while kill -0 $pid 2>/dev/null; do sleep 0.1; done
		unit cleanup web
		ls /run/spore-jail /run/spore-jail/spore'
	echo "$output"
	[ "$status" = 0 ]
	[[ $output == *"there is no /etc/spore/web.json"*"try: "*refused* ]]
	[[ $output == *"user spore-web CapBnd:"*0000000000000000*Running*1* ]]
	[[ $output == *$'/run/spore-jail:\nspore\n\n/run/spore-jail/spore:' ]]
}

@test "deb: purged, nothing of it is left but what was the user's" {
	run inside 'apt-get purge -y -qq spore >/dev/null 2>&1
		find / -xdev \( -name "*spore*" -o -path "/etc/spore/*" \) -not -path "/proc/*" \
			-not -path "/root/*" -not -path "/var/lib/spore*" -not -path "/etc/spore*" -not -path "/var/log/*"'
	echo "$output"
	[ "$status" = 0 ]
	[ -z "$output" ]
}
