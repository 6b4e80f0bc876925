#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# What somebody meets in the first ten minutes: each error names what is wrong in its first line and ends
# with one that says what to type next. A row of the tables is
#
#	words of the error | words of the advice | command
#
# Nothing here needs a guest that runs.

setup() {
	load vm.bash
	D=$BATS_TEST_TMPDIR
	CTL="$TOP/build/sporectl"
	JAIL="$TOP/build/spore-jailer --id x --exec-file $SPORE"
	NOBODY="setpriv --reuid 65534 --regid 65534 --clear-groups"
	export SPORE_STATE=$D/s SPORE_CACHE=$D/cache SPORE
	chmod 755 "$BATS_RUN_TMPDIR" "$BATS_FILE_TMPDIR" "$BATS_TEST_TMPDIR" 2>/dev/null || true
	cd "$D"
	touch taken
	file good '{}'
	file comma '{"boot-source": {},}'
	file field '{"boot-source": {"kernel_image_pth": "/x"}}'
	file member '{"machine-config": {"vcpus": 2, "mem_size_mib": 128}}'
	file group '{"boot-sorce": {"kernel_image_path": "/x"}}'
	file type '{"machine-config": {"vcpu_count": "2", "mem_size_mib": 128}}'
	file cpus '{"machine-config": {"vcpu_count": 64, "mem_size_mib": 128}}'
	file nokernel '{"boot-source": {"kernel_image_path": "/nonexistent"}}'
	file text '{"boot-source": {"kernel_image_path": "/etc/passwd"}}'
	file disk '{"drives": [{"drive_id": "d", "is_root_device": true, "path_on_host": "/nonexistent"}]}'
	file tap '{"network-interfaces": [{"iface_id": "e", "host_dev_name": "nosuchtap"}]}'
	file vsock '{"vsock": {"guest_cid": 3, "uds_path": "'"$D"'/taken"}}'
	file secret '{}'
	chmod 600 secret
}

# file NAME JSON: NAME, with a kernel unless the JSON says something about it.
file() {
	jq -c --arg kernel "$GUEST/hello.elf" \
		'{"boot-source": {kernel_image_path: $kernel}} * .' <<<"$2" >"$1" 2>/dev/null || echo "$2" >"$1"
	[[ $2 != *boot-so* ]] || echo "$2" >"$1"
	chmod 644 "$1"
}

# rows PREFIX: of the table on standard input each command fails as it says.
rows() {
	local error advice command count=0 status
	while IFS='|' read -r error advice command; do
		[ -n "$command" ] || continue
		error=$(xargs <<<"$error") advice=$(xargs <<<"$advice")
		count=$((count + 1)) status=0
		eval "timeout 20 $command" >out 2>err </dev/null || status=$?
		[ "$status" != 0 ] && [ "$status" != 124 ] || fail "$command: status $status"
		head -n 1 err | grep -qF -- "$error" || fail "$command: no '$error' in: $(cat err)"
		tail -n 1 err | grep -qE "^ +try: .*" || fail "$command: no advice: $(cat err)"
		tail -n 1 err | grep -qF -- "$advice" || fail "$command: no '$advice' in: $(cat err)"
	done
	[ "$count" -ge "$1" ] || fail "only $count rows were run"
}

@test "newcomer: spore's command line, sockets and config files" {
	rows 19 <<-'END'
		--api-scok          | spore --help              | $SPORE --api-scok x
		unexpected argument | spore --help              | $SPORE vm.json
		--config-file       | spore --help              | $SPORE --no-api
		nobody listens      | rm SOCKET                 | $SPORE --api-sock $D/taken
		No such file        | spore --api-sock /tmp/    | $SPORE --api-sock /nonexistent/s
		ermission denied    | spore --api-sock /tmp/    | $NOBODY $SPORE --api-sock /run/s
		No such file        | ls -l FILE                | $SPORE --no-api --config-file /nonexistent
		ermission denied    | ls -l FILE                | $NOBODY $SPORE --no-api --config-file $D/secret
		line 1              | jq . FILE                 | $SPORE --no-api --config-file comma
		kernel_image_pth    | docs/api-reference.md     | $SPORE --no-api --config-file field
		without kernel      | FILE: it needs       | $SPORE --no-api --config-file group
		vcpu_count          | docs/api-reference.md     | $SPORE --no-api --config-file type
		1..32               | nproc                     | $SPORE --no-api --config-file cpus
		/nonexistent        | make demo                 | $SPORE --no-api --config-file nokernel
		not an ELF          | file KERNEL               | $SPORE --no-api --config-file text
		/nonexistent        | ls -l DISK                | $SPORE --no-api --config-file disk
		nosuchtap           | ip tuntap add             | $SPORE --no-api --config-file tap
		in use              | rm SOCKET                 | $SPORE --no-api --config-file vsock
		no-dir              | ls -ld                    | $SPORE --api-sock $D/n --log-path /no-dir/l
	END
}

@test "newcomer: a socket that another spore has" {
	vm_api
	rows 1 <<-'END'
		in use by a running | spore --api-sock /tmp/ | $SPORE --api-sock $API_SOCK
	END
	vm_kill
}

@test "newcomer: no KVM, and none for this user" {
	[ "$(id -u)" = 0 ] || skip "needs root to take it away"
	# Without /dev/kvm, and with one that only root may open.
	printf '#!/bin/sh\nexec unshare -m sh -c "%s" "$@"\n' \
		'mount -t tmpfs tmpfs /dev && exec \"\$0\" \"\$@\"' >hide
	printf '#!/bin/sh\nexec unshare -m sh -c "%s" "$@"\n' 'mount -t tmpfs -o dev tmpfs /dev &&
		mknod -m 600 /dev/kvm c 10 232 && exec \"\$0\" \"\$@\"' >close
	chmod 755 hide close
	rows 3 <<-'END'
		/dev/kvm | modprobe        | ./hide $SPORE --no-api --config-file good
		/dev/kvm | usermod -aG kvm | ./close $NOBODY $SPORE --no-api --config-file good
		/dev/kvm | sporectl doctor | ./hide $CTL run -k $GUEST/hello.elf
	END
}

@test "newcomer: the jailer" {
	rows 7 <<-'END'
		needs root   | --user-ns     | $NOBODY $JAIL --uid 1 --gid 1
		--frobnicate | --help        | $JAIL --frobnicate
		--uid        | id -u USER    | $JAIL --gid 1
		not a number | id -u USER    | $JAIL --uid root --gid 1
		--id         | --help        | $TOP/build/spore-jailer --id a_b --exec-file $SPORE --uid 1 --gid 1
		/nonexistent | command -v    | $TOP/build/spore-jailer --id x --exec-file /nonexistent --uid 1 --gid 1
		nosuchns     | ip netns add  | $JAIL --uid 1 --gid 1 --netns /run/netns/nosuchns
	END
}

@test "newcomer: sporectl" {
	rows 22 <<-'END'
		no such verb     | sporectl run            | $CTL rnu
		no such verb     | sporectl ps             | $CTL list
		no such verb     | sporectl stop --now     | $CTL kill web
		no such verb     | sporectl exec -it       | $CTL ssh web
		no such option   | sporectl run --kernel   | $CTL run --kernl x
		no kernel        | sporectl run --kernel   | $CTL run
		/nonexistent     | ls -l KERNEL            | $CTL run -k /nonexistent
		not an ELF       | vmlinux                 | $CTL run -k /etc/passwd
		/nonexistent     | ls -l                   | $CTL run -k $GUEST/hello.elf -r /nonexistent
		nosuchtap        | ip tuntap add           | $CTL run -k $GUEST/hello.elf --tap nosuchtap
		in use           | --vsock                 | $CTL run -k $GUEST/hello.elf --vsock $D/taken
		1..32            | --cpus                  | $CTL run -k $GUEST/hello.elf --cpus 64
		not a size       | sporectl run --help     | $CTL run -k $GUEST/hello.elf --memory lots
		vcpus            | docs/api-reference.md   | $CTL run -k $GUEST/hello.elf --config member
		comma            | jq . comma              | $CTL run --config comma
		/nonexistent     | ls -l /nonexistent      | $CTL run --config /nonexistent
		only letters     | sporectl run --help     | $CTL run -k $GUEST/hello.elf --name a_b
		no microVM       | sporectl ps             | $CTL console web
		needs a NAME     | sporectl stop --all     | $CTL stop
		/nonexistent     | sporectl snapshot       | $CTL restore /nonexistent
		no microVM       | sporectl ps             | $CTL exec web -- uname
		ermission denied | SPORE_STATE             | $NOBODY env SPORE_STATE= XDG_RUNTIME_DIR= $CTL run -k $GUEST/hello.elf
	END
}

@test "newcomer: help VERB is VERB --help" {
	diff <($TOP/build/sporectl help clone) <($TOP/build/sporectl clone --help)
}

# An answer of the API is JSON, so that there is no last line: it says what is wrong and what would be right.
@test "newcomer: what curl is answered names the field and what is expected" {
	vm_api
	refused PUT /machine-config '{"vcpu_count": 1, "mem_size_mb": 128}' "expected one of \`vcpu_count\`"
	refused PUT /machine-config '{"vcpu_count": "1", "mem_size_mib": 128}' "expected an integer"
	refused PUT /machine-config '{"vcpu_count": 1, "mem_size_mib": 128' "line 1"
	refused PUT /boot-source '{"kernel_image_path": "/nonexistent"}' "open '/nonexistent': No such file"
	refused PUT /actions '{"action_type": "Start"}' "InstanceStart"
	refused PUT /machine-confg '{}' "path: PUT /machine-confg"
	refused PUT /actions '{"action_type": "InstanceStart"}' "without kernel"
	vm_kill
}
