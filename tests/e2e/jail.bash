# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034
#
# Jails for a test, beside vm.bash: everything below $BASE, user and group 4000. An ID gets $J in front, so that
# nobody else's cgroups have its name.

JAILER=${JAILER:-$TOP/build/spore-jailer}
INMATE=$TOP/build/attack/inmate
T=${T:-/tmp}
BASE=$T/jails
J=${J:-j}
# A cgroup that exists in both versions, and one that every version 2 has without a controller.
PIDS=(--cgroup pids.max=50)
! grep -qw pids /sys/fs/cgroup/cgroup.controllers 2>/dev/null || PIDS+=(--cgroup-version 2)
IN_GROUP=(--cgroup-version 2 --cgroup cgroup.max.depth=5)
WHO=(--uid 4000 --gid 4000 --chroot-base-dir "$BASE")

# jail_dir ID [NAME]: the root of that jail; made, with a guest and a config file in it.
jail_dir() {
	local dir=$BASE/${2:-spore}/$J$1/root
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
	"$JAILER" --id "$J$id" --exec-file "$SPORE" "${WHO[@]}" "$@"
}

# jail_start ID ARGS...: in the background; sets VM_PID, VM_DIR and, once it is there, API_SOCK.
jail_start() {
	local id=$1
	shift
	VM_DIR=$(mktemp -d)
	"$JAILER" --id "$J$id" --exec-file "$SPORE" "${WHO[@]}" "$@" >"$VM_DIR/out" 2>"$VM_DIR/err" </dev/null &
	VM_PID=$!
	API_SOCK=$BASE/spore/$J$id/root/run/firecracker.socket
	appears "$API_SOCK"
}

# inmate ID ARGS... -- KEY=VALUE...: runs the attacker in it; nothing may have worked.
inmate() {
	local id=$1 out
	shift
	out=$("$JAILER" --id "$J$id" --exec-file "$INMATE" "${WHO[@]}" "$@") || true
	# With a PID namespace the jailer is gone first.
	[[ $out == *" broken" ]] || sleep 0.5
	grep -v '^held' <<<"$out" || true
	[[ $out == *$'\n0 broken' ]] || fail "the inmate got something: $out"
}

# jail_gone ID [NAME] [ARGS]: cleans up; nothing is left.
jail_gone() {
	"$JAILER" --id "$J$1" --exec-file "${2:-$SPORE}" --chroot-base-dir "$BASE" --cleanup || fail "cleanup of $1"
	[ ! -e "$BASE/$(basename "${2:-$SPORE}")/$J$1" ] || fail "$1 is still there"
}

# groups_of ID: its cgroups' directories.
groups_of() {
	find /sys/fs/cgroup -type d -path "*/spore/$J$1" | sort
}

# in_group ID FILE: what is in that file of its cgroup.
in_group() {
	cat "$(groups_of "$1" | while read -r dir; do [ ! -e "$dir/$2" ] || echo "$dir/$2"; done | head -n 1)"
}

# What a jail could leave on the host.
traces() {
	cat /proc/mounts
	groups_of "*"
	find /proc/[0-9]*/ns -lname '*:*' -printf '%l\n' 2>/dev/null | sort -u | wc -l
}
