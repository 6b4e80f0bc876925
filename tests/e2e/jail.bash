# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034
#
# Jails for a test, beside vm.bash: everything below $BASE, user and group 4000.

JAILER=${JAILER:-$TOP/build/spore-jailer}
INMATE=$TOP/build/attack/inmate
BASE=/tmp/jails
WHO=(--uid 4000 --gid 4000 --chroot-base-dir "$BASE")

# jail_dir ID [NAME]: the root of that jail; made, with a guest and a config file in it.
jail_dir() {
	local dir=$BASE/${2:-spore}/$1/root
	mkdir -p "$dir"
	cp "$GUEST/${KERNEL:-hello}.elf" "$dir/kernel.elf"
	cat "$(config /kernel.elf '."machine-config".mem_size_mib = 16')" >"$dir/config.json"
	chmod 644 "$dir/config.json"
	echo "$dir"
}

# jail ID ARGS...: runs spore in it in the foreground.
jail() {
	local id=$1
	shift
	"$JAILER" --id "$id" --exec-file "$SPORE" "${WHO[@]}" "$@"
}

# jail_start ID ARGS...: in the background; sets VM_PID, VM_DIR and, once it is there, API_SOCK.
jail_start() {
	local id=$1
	shift
	VM_DIR=$(mktemp -d)
	"$JAILER" --id "$id" --exec-file "$SPORE" "${WHO[@]}" "$@" >"$VM_DIR/out" 2>"$VM_DIR/err" </dev/null &
	VM_PID=$!
	API_SOCK=$BASE/spore/$id/root/run/firecracker.socket
	jail_wait "$API_SOCK"
}

# inmate ID ARGS... -- KEY=VALUE...: runs the attacker in it; nothing may have worked.
inmate() {
	local id=$1 out
	shift
	out=$("$JAILER" --id "$id" --exec-file "$INMATE" "${WHO[@]}" "$@") || true
	# With a PID namespace the jailer is gone first.
	[[ $out == *" broken" ]] || sleep 0.5
	grep -v '^held' <<<"$out" || true
	[[ $out == *$'\n0 broken' ]] || fail "the inmate got something: $out"
}

# jail_gone ID [NAME] [ARGS]: cleans up; nothing is left.
jail_gone() {
	"$JAILER" --id "$1" --exec-file "${2:-$SPORE}" --chroot-base-dir "$BASE" --cleanup || fail "cleanup of $1"
	[ ! -e "$BASE/$(basename "${2:-$SPORE}")/$1" ] || fail "$1 is still there"
}

# What a jail could leave on the host.
traces() {
	cat /proc/mounts
	find /sys/fs/cgroup -type d | sort
	find /proc/[0-9]*/ns -lname '*:*' -printf '%l\n' 2>/dev/null | sort -u | wc -l
}

# jail_wait PATH: until it exists.
jail_wait() {
	for _ in $(seq 200); do [ -e "$1" ] && return; sleep 0.02; done
	fail "no $1"
}
