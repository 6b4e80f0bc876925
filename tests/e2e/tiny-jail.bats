#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# spore-jailer, attacked from inside and outside, with tiny guests. As root, in namespaces of each test's own
# that take what it does to mounts, devices, network and processes with them.

setup() {
	[ "$(id -u)" = 0 ] || skip "needs root"
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	unset SPORE_JAIL
	TOP=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
	T=$(mktemp -d)
	J=j$(date +%N)-
	chmod 755 "$T"
}

teardown() {
	[ -z "${T:-}" ] || rmdir "$T"
	[ -z "${J:-}" ] || find /sys/fs/cgroup -depth -path "*/spore/$J*" -type d -exec rmdir {} +
}

# Runs the script on standard input alone in its namespaces, with a file system $T of its own. /dev/kvm is another node of the same
# device, so that it can have another mode.
alone() {
	local script
	script=$(cat)
	T=$T J=$J timeout --kill-after=5 "${LIMIT:-120}" \
		unshare --mount --net --ipc --uts --pid --fork --kill-child --mount-proc --propagation private bash -euo pipefail -c "
		mount -t tmpfs -o mode=755 jails '$T'
		export TMPDIR=$T/tmp
		mkdir -m 1777 $T/tmp
		mknod -m 600 $T/kvm c 10 232
		mount --bind $T/kvm /dev/kvm
		ip link set lo up
		source '$BATS_TEST_DIRNAME/vm.bash'
		source '$BATS_TEST_DIRNAME/jail.bash'
		trap vm_kill EXIT
		$script"
}

@test "a guest runs in a jail with the release filters; what the jail is made of" {
	alone <<<'
		dir=$(jail_dir a)
		before=$(traces)
		jail a "${PIDS[@]}" \
			--resource-limit fsize=1000000 --resource-limit no-file=600 -- \
			--no-api --config-file /config.json --log-path /log --metrics-path /metrics >$T/out
		grep -q "hello from the guest" $T/out || fail "no guest"
		[ "$(stat -c "%u:%g %a" "$dir")" = "4000:4000 700" ] || fail "owner of the root"
		for f in log metrics dev/kvm dev/net/tun dev/urandom; do
			[ "$(stat -c "%u:%g %a" "$dir/$f")" = "4000:4000 600" ] || fail "$f: $(ls -l "$dir/$f")"
		done
		[ "$(in_group a pids.max)" = 50 ] || fail "pids.max"
		jail_gone a
		[ "$before" = "$(traces)" ] || diff <(echo "$before") <(traces)'
}

@test "API in a jail: socket 0600 of the jailed user, limits, no privileges, own namespaces" {
	alone <<<'
		dir=$(KERNEL=idle jail_dir b)
		jail_start b "${IN_GROUP[@]}" --resource-limit no-file=600
		[ "$(stat -c "%u:%g %a" "$dir/run/firecracker.socket")" = "4000:4000 600" ] || fail "socket"
		ok PUT /boot-source "{\"kernel_image_path\": \"/kernel.elf\"}"
		ok PUT /actions "{\"action_type\": \"InstanceStart\"}"
		[ "$(cat "$dir/spore.pid")" = $VM_PID ] || fail "pid file"
		s=/proc/$VM_PID
		grep -q "^Uid:.4000.4000.4000.4000" $s/status || fail uid
		[ "$(awk "/^Groups:/ { print NF }" $s/status)" = 1 ] || fail groups
		for set in Inh Prm Eff Bnd Amb; do grep -q "^Cap$set:.0*$" $s/status || fail "Cap$set"; done
		grep -q "^NoNewPrivs:.1" $s/status || fail no_new_privs
		for t in $s/task/*; do grep -q "^Seccomp_filters:.2" $t/status || fail "filters of $t"; done
		[ "$(cat $s/comm)" = spore ] || fail "name $(cat $s/comm)"
		[ "$(tr -d "\0" <$s/environ | wc -c)" = 0 ] || fail environment
		grep -q "Max open files *600 *600" $s/limits || fail limits
		grep -q "^0::.*/spore/${J}b$" $s/cgroup || fail cgroup
		for ns in mnt ipc uts cgroup; do
			[ "$(readlink $s/ns/$ns)" != "$(readlink /proc/self/ns/$ns)" ] || fail "namespace $ns"
		done
		[ "$(wc -l <$s/mountinfo)" = 1 ] || fail "mounts: $(cat $s/mountinfo)"
		kill -KILL $VM_PID; wait $VM_PID || true; VM_PID=
		jail_gone b'
}

@test "the inmate breaks nothing: plain, PID and network namespace, tmpfs root, without Landlock" {
	alone <<<'
		mkdir -p $T/jails; echo secret >$T/secret
		socat ABSTRACT-LISTEN:outside,fork /dev/null & socat TCP-LISTEN:7777,fork /dev/null &
		setpriv --reuid 4000 --regid 4000 --clear-groups sleep 100 & pid=$!
		shm=$(ipcmk -M 4096 | grep -o "[0-9]*$"); key=$(ipcs -m | awk -v id="$shm" "\$2 == id { print strtonum(\$1) }" || true)
		key=$((${key:-0})); sleep 0.5
		words="path=$T/secret pid=$pid abstract=outside port=7777 shm=$key"
		inmate a --new-pid-ns --new-net-ns -- name=${J}a $words
		inmate b --new-pid-ns --new-net-ns --tmpfs-root -- name=${J}b $words
		inmate c --new-pid-ns --new-net-ns --no-landlock -- name=${J}c landlock=0 $words
		touch $T/empty; unshare --net=$T/empty true
		inmate d --new-pid-ns --netns $T/empty -- name=${J}d $words
		for id in a b c d; do jail_gone $id "$INMATE"; done'
}

@test "without root: a user namespace, the guest runs, the inmate breaks nothing" {
	alone <<<'
		chmod 666 /dev/kvm
		cp "$JAILER" "$INMATE" "$SPORE" $T; JAILER=$T/spore-jailer INMATE=$T/inmate SPORE=$T/spore
		mkdir -p $T/jails; chown 5000:5000 $T/jails
		user="setpriv --reuid 5000 --regid 5000 --clear-groups"
		$user "$JAILER" --id ${J}u --exec-file "$INMATE" --uid 1 --gid 1 --chroot-base-dir $T/jails --user-ns --new-net-ns --new-pid-ns -- \
			name=${J}u path=/etc/passwd pid=2 >$T/out
		for _ in $(seq 50); do grep -q " broken" $T/out && break; sleep 0.1; done
		grep -qx "0 broken" $T/out || { grep -v ^held $T/out; fail inmate; }
		dir=$T/jails/spore/${J}u/root
		$user mkdir -p $dir
		cp "$GUEST/hello.elf" $dir/kernel.elf
		install -m 644 "$(config /kernel.elf)" $dir/config.json
		for more in "" "--tmpfs-root --bind $dir/kernel.elf:/kernel.elf --bind $dir/config.json:config.json" "--new-pid-ns"; do
			$user "$JAILER" --id ${J}u --exec-file "$SPORE" --uid 1 --gid 1 --chroot-base-dir $T/jails --user-ns $more -- \
				--no-api --config-file /config.json >$T/out 2>&1 || fail "$more: $(cat $T/out)"
			for _ in $(seq 100); do grep -q "hello from the guest" $T/out && break; sleep 0.1; done
			grep -q "hello from the guest" $T/out || fail "no guest with $more: $(cat $T/out)"
		done
		$user "$JAILER" --id ${J}u --exec-file "$SPORE" --chroot-base-dir $T/jails --cleanup
		! "$JAILER" --id ${J}u --exec-file "$SPORE" "${WHO[@]}" --user-ns 2>$T/err; grep -q "without root" $T/err
		! $user "$JAILER" --id ${J}u --exec-file "$SPORE" "${WHO[@]}" 2>$T/err; grep -q "needs root" $T/err'
}

@test "daemonize, PID namespace, pidfd; errors before the exec still arrive" {
	alone <<<'
		dir=$(KERNEL=idle jail_dir d)
		jail d --daemonize --new-pid-ns "${IN_GROUP[@]}" -- --config-file /config.json
		pid=$(cat "$dir/spore.pid")
		appears "$dir/run/firecracker.socket"
		[ "$(cat /proc/$pid/sessionid)" ] && [ "$(awk "{print \$6}" /proc/$pid/stat)" = $pid ] || fail session
		for fd in 0 1 2; do [ "$(readlink /proc/$pid/fd/$fd)" = /dev/null ] || fail "fd $fd"; done
		grep -q "NSpid:.*	1$" /proc/$pid/status || fail "$(grep NSpid /proc/$pid/status)"
		grep -q "^0::.*/spore/${J}d$" /proc/$pid/cgroup || fail cgroup
		kill -KILL $pid
		while [ -d /proc/$pid ]; do sleep 0.05; done
		jail_gone d
		# An error of the last step: no interpreter in the jail for a dynamic program.
		! "$JAILER" --id ${J}e --exec-file /bin/true "${WHO[@]}" --daemonize 2>$T/err || fail "no error"
		grep -q "statically" $T/err || fail "$(cat $T/err)"
		python3 - "$JAILER" "$INMATE" "$BASE" <<-"END"
			import array, os, select, socket, subprocess, sys
			for more in [], ["--new-pid-ns"]:
			    ours, theirs = socket.socketpair()
			    p = subprocess.Popen([sys.argv[1], "--id", "j", "--exec-file", sys.argv[2], "--uid", "4000", "--gid", "4000",
			        "--chroot-base-dir", sys.argv[3], "--pidfd-socket", str(theirs.fileno()), *more],
			        pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL)
			    theirs.close()
			    _, fds, _, _ = socket.recv_fds(ours, 1, 1)
			    # Readable when the process is over.
			    assert select.select(fds, [], [], 20)[0], "no end of the monitor"
			    p.wait()
		END
		'
}

@test "paths that the API names: .., links, devices, FIFOs, directories" {
	LIMIT=280 alone <<<'
		dir=$(KERNEL=idle jail_dir p)
		truncate -s 1M $T/secret "$dir/disk"; chown 4000 $T/secret "$dir/disk"
		ln -s disk "$dir/link"; ln -s $T/secret "$dir/out"; mkfifo "$dir/fifo"; ln -s . "$dir/dir"; ln -s sock "$dir/socklink"
		echo old >"$dir/victim"; chown 4000 "$dir/victim"; ln "$dir/victim" "$dir/hard"
		chown 4000 "$dir/fifo"
		jail_start p
		drive() { echo "{\"drive_id\": \"d\", \"path_on_host\": \"$1\", \"is_root_device\": false}"; }
		refused PUT /drives/d "$(drive /link)" "ymbolic link"
		refused PUT /drives/d "$(drive /out)" "ymbolic link"
		refused PUT /drives/d "$(drive /dir/disk)" "ymbolic link"
		refused PUT /drives/d "$(drive /../../../../../../../$T/secret)" "No such file"
		refused PUT /drives/d "$(drive ../../../../../../../../$T/secret)" "No such file"
		refused PUT /drives/d "$(drive /proc/self/root)" "No such file"
		refused PUT /drives/d "$(drive /fifo)" "a FIFO"
		refused PUT /drives/d "$(drive /dev/kvm)" "a character device"
		refused PUT /drives/d "$(drive /dev)" "directory"
		refused PUT /boot-source "{\"kernel_image_path\": \"/link\"}" "ymbolic link"
		refused PUT /boot-source "{\"kernel_image_path\": \"/dev/urandom\"}" "a character device"
		refused PUT /logger "{\"log_path\": \"/link\"}" "ymbolic link"
		refused PUT /logger "{\"log_path\": \"/dev/urandom\"}" "a character device"
		refused PUT /logger "{\"log_path\": \"/hard\"}" "more than one name"
		refused PUT /metrics "{\"metrics_path\": \"/hard\"}" "more than one name"
		refused PUT /serial "{\"serial_out_path\": \"/hard\"}" "more than one name"
		socat UNIX-LISTEN:"$dir/sock",fork,user=4000 /dev/null &
		appears "$dir/sock"
		passt() { echo "{\"iface_id\": \"n\", \"passt_socket\": \"$1\"}"; }
		refused PUT /network-interfaces/n "$(passt /socklink)" "ymbolic link"
		refused PUT /network-interfaces/n "$(passt /dir/sock)" "ymbolic link"
		ok PUT /network-interfaces/n "$(passt /sock)"
		refused PUT /vsock "{\"guest_cid\": 3, \"uds_path\": \"/dir/v.sock\"}" "ymbolic link"
		[ "$(cat "$dir/victim")" = old ] || fail "written to"
		ok PUT /drives/d "$(drive /disk)"
		ok PUT /logger "{\"log_path\": \"/run/../log\"}"
		[ "$(stat -c %a "$dir/log")" = 600 ] || fail "mode of the log"'
}

@test "names of files and sockets that change all the time: no link is ever followed" {
	alone <<<'
		dir=$(KERNEL=idle jail_dir p)
		jail_start p
		"$TOP/tests/e2e/race" "$dir" $VM_PID 4000'
}

@test "a jail directory prepared by an attacker: links, hard links, files in the place of everything" {
	alone <<<'
		mkdir -p $T/host; echo host >$T/host/file; cp -a $T/host $T/host.before
		evil() { # evil NAME COMMAND...: a start in a directory where the attacker has done that
			dir=$(jail_dir v); chown -R 4000:4000 "$dir"
			name=$1; shift
			(cd "$dir"; "$@")
			timeout 20 "$JAILER" --id ${J}v --exec-file "$SPORE" "${WHO[@]}" -- --no-api --config-file /config.json >$T/out 2>&1 </dev/null || true
			diff -r $T/host $T/host.before || fail "$name: the host was changed"
			[ "$(stat -c "%u %a" $T/host $T/host/file | xargs)" = "0 755 0 644" ] || fail "$name: owner or mode"
			[ ! -e $T/host/kvm ] && [ ! -e $T/host/net ] || fail "$name: devices outside"
			echo "$name: $(tail -n 1 $T/out)"
			jail_gone v
		}
		evil dev ln -s $T/host dev
		evil run ln -s $T/host run
		evil pid ln -s $T/host/file spore.pid
		evil pid-dangling ln -s $T/host/new spore.pid
		evil pid-dir mkdir spore.pid
		evil pid-fifo mkfifo spore.pid
		evil net sh -c "mkdir dev; ln -s $T/host dev/net"
		evil kvm sh -c "mkdir dev; ln -s $T/host/file dev/kvm"
		evil kvm-hard sh -c "mkdir dev; ln $T/host/file dev/kvm"
		evil kvm-dir sh -c "mkdir -p dev/kvm/x"
		evil dotdot sh -c "ln -s ../../../../host dev"
		evil config ln -sf $T/host/file config.json
		[ ! -e $T/host/new ] || fail "the pid file was written outside"'
}

@test "64 jails at once, then all torn down: nothing is left" {
	LIMIT=280 alone <<<'
		mkdir -p "$BASE"
		before=$(traces | sort | md5sum)
		pids=
		for i in $(seq 64); do
			"$JAILER" --id "${J}n$i" --exec-file "$SPORE" "${WHO[@]}" "${PIDS[@]}" >/dev/null 2>"$T/err.$i" </dev/null &
			pids="$pids $!"
		done
		for i in $(seq 64); do
			appears "$BASE/spore/${J}n$i/root/run/firecracker.socket"
			[ -S "$BASE/spore/${J}n$i/root/run/firecracker.socket" ] || fail "n$i: $(cat $T/err.$i)"
		done
		[ "$(groups_of "n*" | wc -l)" = 64 ] || fail cgroups
		kill -KILL $pids; wait 2>/dev/null || true
		for i in $(seq 64); do jail_gone "n$i"; done
		[ "$(find "$BASE" -mindepth 2)" = "" ] || fail "files left: $(find "$BASE")"
		[ "$before" = "$(traces | sort | md5sum)" ] || fail "left: $(traces)"'
}

@test "SIGKILL at each step of the jailer leaves nothing that a second start trips over" {
	LIMIT=290 alone <<<'
		calls="close_range unshare mount open_tree mount_setattr move_mount mkdirat mknodat fchownat fchown fchmod pivot_root umount2
			landlock_restrict_self unlinkat write setgroups setresgid setresuid execveat"
		dir=$(jail_dir k); killed=0
		args=(--id ${J}k --exec-file "$SPORE" "${WHO[@]}" "${PIDS[@]}")
		for call in $calls; do
			for n in $(seq 20); do
				status=0
				( exec strace -qq -o $T/trace -e trace=$call -e inject=$call:signal=KILL:when=$n \
					"$JAILER" "${args[@]}" -- --version ) >$T/out 2>&1 || status=$?
				# Each start is also the one after the last kill; not killed, it has to succeed.
				[ $status = 137 ] || { grep -q "^spore v" $T/out || fail "$call $n: $(cat $T/out)"; break; }
				killed=$((killed + 1))
				# And now and then with nothing left of earlier starts.
				[ $((killed % 8)) != 0 ] || jail_gone k
			done
			[ $n -gt 1 ] || fail "$call was never made"
		done
		[ $killed -gt 30 ] || fail "only $killed steps"
		echo "$killed steps"
		jail_gone k'
}

@test "tmpfs root: read-only but for /run; binds are read-only unless said otherwise" {
	alone <<<'
		dir=$(jail_dir t); mkdir -p $T/data; cp "$GUEST/hello.elf" $T/data/k.elf; truncate -s 1M $T/data/disk; chown 4000 $T/data/disk $T/data
		install -m 644 "$(config /data/k.elf ".drives += [{drive_id: \"d\", path_on_host: \"/data/disk\", is_root_device: false, is_read_only: false}]")" $T/data/c.json
		! jail t --tmpfs-root --bind $T/data:/data -- --no-api --config-file /data/c.json >$T/out 2>&1 || fail "a writable drive on a read-only bind"
		grep -q "Read-only" $T/out || fail "$(cat $T/out)"
		jail t --tmpfs-root --bind $T/data:/data:rw -- --no-api --config-file /data/c.json --log-path /run/log >$T/out 2>&1 || fail "$(cat $T/out)"
		[ -s "$dir/run/log" ] || fail "no log in /run"
		! jail t --tmpfs-root --bind $T/data:/data:rw -- --no-api --config-file /data/c.json --log-path /log >$T/out 2>&1 || fail "wrote to the root"
		[ ! -e "$dir/dev" ] || fail "devices on the host"
		jail_gone t
		! "$JAILER" --id ${J}t --exec-file "$SPORE" "${WHO[@]}" --bind nonsense 2>$T/err || fail bind
		grep -q HOST:JAIL $T/err'
}

@test "cleanup never crosses into what is mounted in the jail directory" {
	alone <<<'
		dir=$(jail_dir m); mkdir -p $T/precious "$dir/mnt"; echo gold >$T/precious/file
		mount --bind $T/precious "$dir/mnt"
		! "$JAILER" --id ${J}m --exec-file "$SPORE" --chroot-base-dir "$BASE" --cleanup 2>$T/err || fail "cleanup of a mount"
		grep -q mounted $T/err
		[ "$(cat $T/precious/file)" = gold ] || fail gone
		umount "$dir/mnt"
		jail_gone m'
}

@test "options that are refused, each with one line" {
	alone <<<'
		no() { # no TEXT ARGS...
			local text=$1; shift
			! "$JAILER" "$@" 2>$T/err >$T/out || fail "accepted: $*"
			grep -qF -- "$text" $T/err || fail "$*: $(cat $T/err)"
			[ "$(grep -vc "^  try: " $T/err)" = 1 ] || fail "$(cat $T/err)"
		}
		all="--id x --exec-file $SPORE --uid 1 --gid 1"
		no "--id: missing" --exec-file "$SPORE" --uid 1 --gid 1
		no "--uid: missing" --id x --exec-file "$SPORE" --gid 1
		no "letters" --id ../x --exec-file "$SPORE" --uid 1 --gid 1
		no "characters" --id "" --exec-file "$SPORE" --uid 1 --gid 1
		no "not a number" --id x --exec-file "$SPORE" --uid -1 --gid 1
		no "4294967295" --id x --exec-file "$SPORE" --uid 4294967295 --gid 1
		no "No such file" --id x --exec-file /nowhere --uid 1 --gid 1
		no "no executable" --id x --exec-file /etc/passwd --uid 1 --gid 1 --chroot-base-dir "$BASE"
		no "unknown option" $all --frobnicate
		no "given twice" $all --id y
		no "needs a value" $all --netns
		no "takes no value" $all --daemonize=1
		no "relative path" $all --parent-cgroup ../x
		no "relative path" $all --parent-cgroup /x
		no "relative path" $all --parent-cgroup a//b
		no "CONTROLLER.FILE" $all --cgroup ../memory.max=1
		no "CONTROLLER.FILE" $all --cgroup memory.max
		no "neither 1 nor 2" $all --cgroup-version 3
		no "neither fsize" $all --resource-limit stack=1
		no "nosuchthing" $all --cgroup-version 2 --cgroup nosuchthing.max=1
		no "join network" $all --netns /etc/passwd
		"$JAILER" --version | grep -q "^spore-jailer v"
		"$JAILER" --help | grep -q -- --cgroup-version'
}

@test "cgroup version 1, where this machine has it: values, inherited cpuset, cleanup" {
	grep -q "^cgroup .*[,/]cpuset" /proc/mounts && [ -w /sys/fs/cgroup/cpuset ] || skip "no cgroup v1 here"
	BASE=$(mktemp -d)
	JAILER=$TOP/build/spore-jailer
	id=test$$
	"$JAILER" --id $id --exec-file "$TOP/build/spore" --uid 4000 --gid 4000 --chroot-base-dir "$BASE" --parent-cgroup spore-test \
		--cgroup cpuset.cpus=0 --cgroup memory.limit_in_bytes=100000000 -- --version | grep -q "^spore v"
	[ "$(cat /sys/fs/cgroup/cpuset/spore-test/$id/cpuset.cpus)" = 0 ]
	[ -n "$(cat /sys/fs/cgroup/cpuset/spore-test/$id/cpuset.mems)" ]
	[ "$(cat /sys/fs/cgroup/memory/spore-test/$id/memory.limit_in_bytes)" -le 100000000 ]
	"$JAILER" --id $id --exec-file "$TOP/build/spore" --chroot-base-dir "$BASE" --parent-cgroup spore-test --cleanup
	[ -z "$(find /sys/fs/cgroup -name $id)" ]
	find /sys/fs/cgroup -depth -name spore-test -exec rmdir {} +
	rm -r "$BASE"
}

@test "descriptors that the parent hands in: API socket, drive, tap; no directory, and nothing unasked" {
	alone <<<'
		dir=$(KERNEL=idle jail_dir h)
		ip tuntap add dev tap0 mode tap
		truncate -s 1M $T/disk
		# parent ARGS...: starts a jail with its listening socket as 7, a disk without a name as 8, a tap as 9.
		parent() {
			exec 8<>$T/disk
			exec python3 -c "
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(16)
os.dup2(s.fileno(), 7)
os.execv(sys.argv[2], sys.argv[2:])" "$API_SOCK" "$TOP/tests/e2e/with-tap" tap0 "$JAILER" --id ${J}h --exec-file "$SPORE" "${WHO[@]}" "$@"
		}
		VM_DIR=$T API_SOCK=$T/api.sock
		( parent --keep-fd 9 --keep-fd 7 --keep-fd 8 -- --api-fd 7 ) >$T/out 2>$T/err </dev/null & VM_PID=$!
		appears "$API_SOCK"
		rm $T/disk
		ok PUT /boot-source "{\"kernel_image_path\": \"/kernel.elf\"}"
		ok PUT /drives/d "{\"drive_id\": \"d\", \"path_on_host\": \"/dev/fd/8\", \"is_root_device\": false}"
		ok PUT /network-interfaces/n "{\"iface_id\": \"n\", \"tap_fd\": 9}"
		ok PUT /actions "{\"action_type\": \"InstanceStart\"}"
		ok GET /
		[ ! -e "$dir/run/firecracker.socket" ] || fail "another socket"
		vm_kill; rm "$API_SOCK"
		status=0
		( parent --keep-fd 8 --keep-fd 9 -- --api-fd 7 ) >$T/out 2>&1 </dev/null || status=$?
		grep -q "API descriptor 7: Bad file descriptor" $T/out || fail "status $status: $(cat $T/out)"
		! jail h --keep-fd 5 5</ 2>$T/err || fail "took a directory"
		grep -q "a directory is a way out" $T/err || fail "$(cat $T/err)"
		! jail h --keep-fd 50 2>$T/err || fail "took nothing"
		grep -q -- "--keep-fd 50: Bad file" $T/err || fail "$(cat $T/err)"
		jail_gone h'
}

@test "placeholders are filled in a jail: a drive, a tap with one and with two queue pairs" {
	alone <<<'
		dir=$(KERNEL=slot jail_dir s)
		truncate -s 1M "$dir/disk"; chown 4000 "$dir/disk"
		ip tuntap add dev tap1 mode tap user 4000
		ip tuntap add dev tap2 mode tap user 4000 multi_queue
		ip tuntap add dev tap3 mode tap user 4001
		for pairs in 1 2; do
			jail_start s
			ok PUT /boot-source "{\"kernel_image_path\": \"/kernel.elf\"}"
			ok PUT /machine-config "{\"vcpu_count\": 2, \"mem_size_mib\": 32}"
			ok PUT /drives/d "{\"drive_id\": \"d\", \"is_root_device\": false, \"placeholder\": true}"
			ok PUT /network-interfaces/n "{\"iface_id\": \"n\", \"placeholder\": true, \"queue_pairs\": $pairs}"
			ok PUT /actions "{\"action_type\": \"InstanceStart\"}"
			ok PATCH /drives/d "{\"drive_id\": \"d\", \"path_on_host\": \"/disk\"}"
			refused PATCH /network-interfaces/n "{\"iface_id\": \"n\", \"host_dev_name\": \"tap3\"}" "tap3"
			ok PATCH /network-interfaces/n "{\"iface_id\": \"n\", \"host_dev_name\": \"tap$pairs\"}"
			ok GET /vm/config
			jq -e ".\"network-interfaces\"[0].host_dev_name == \"tap$pairs\" and .drives[0].path_on_host == \"/disk\"" <<<"$BODY" >/dev/null || fail "$BODY"
			ok DELETE /network-interfaces/n
			ok PATCH /network-interfaces/n "{\"iface_id\": \"n\", \"host_dev_name\": \"tap$pairs\"}"
			ok DELETE /drives/d
			vm_kill
			rm "$API_SOCK"
		done
		jail_gone s'
}
