# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Networks and guests for linux-net.bats, on top of vm.bash: one network namespace "net" with taps
# in it, guests that are typed into through their console.

ip netns add net
ip -n net link set lo up
declare -A KEPT

in_net() {
	ip netns exec net "$@"
}

# net_tap NAME [ADDRESS [FLAG...]]: a tap that is up.
net_tap() {
	in_net ip tuntap add dev "$1" mode tap "${@:3}"
	[ -z "${2:-}" ] || in_net ip addr add "$2" dev "$1"
	in_net ip link set "$1" up
}

# interface TAP [JQ]: the JSON of an interface; JQ edits it.
interface() {
	jq -n --arg tap "$1" '{iface_id: "eth0", host_dev_name: $tap, guest_mac: "06:00:00:00:00:0a"}' |
		jq -c "${2:-.}"
}

# A shell whose spore is started within the namespace.
vm_api_in_net() {
	local spore=$SPORE
	SPORE=$(mktemp)
	printf '#!/bin/sh\nexec ip netns exec net %s "$@"\n' "$spore" >"$SPORE"
	chmod 755 "$SPORE"
	vm_api "$@"
	SPORE=$spore
}

# guest_start KERNEL INTERFACE [VCPUS]: boots to a shell on the console. $BEFORE_START: a function that
# configures more.
guest_start() {
	vm_api_in_net --metrics-path /tmp/metrics.$((++GUESTS))
	METRICS=/tmp/metrics.$GUESTS
	ok PUT /boot-source "$(jq -nc --arg k "$GUEST/$1.vmlinux" --arg i "$GUEST/initrd-$1.cpio" '{
		kernel_image_path: $k, initrd_path: $i,
		boot_args: "console=ttyS0 reboot=k panic=-1 quiet pci=off cryptomgr.notests spore.end=shell"}')"
	ok PUT /machine-config "{\"vcpu_count\": ${3:-1}, \"mem_size_mib\": 192, \"huge_pages\": \"Transparent\"}"
	ok PUT /network-interfaces/eth0 "$2"
	"${BEFORE_START:-:}"
	ok PUT /actions '{"action_type": "InstanceStart"}'
	wait_for "SPORE-GUEST init"
	sleep 1
}
GUESTS=0
SAID=0

# guest_begin COMMAND / guest_end [SECONDS]: runs a shell command in the guest; it has to succeed.
guest_begin() {
	printf '{ %s\n} 2>&1; echo done-%d-$?\n' "$1" $((++SAID)) >&7
}
guest_end() {
	for _ in $(seq $((${1:-60} * 20))); do
		grep -qE "done-$SAID-[0-9]" "$VM_DIR/out" && break
		sleep 0.05
	done
	grep -qF "done-$SAID-0" "$VM_DIR/out" || fail "in the guest: command $SAID"
}
guest() {
	guest_begin "$1"
	guest_end "${2:-60}"
}

# guest_up ADDRESS [GATEWAY]
guest_up() {
	guest "ip addr add $1 dev eth0; ip link set eth0 up ${2:+; ip route add default via $2}"
}

# guest_keep NAME / guest_use NAME: several guests side by side.
guest_keep() {
	exec {fd}>&7
	KEPT[$1]="VM_DIR=$VM_DIR VM_PID=$VM_PID API_SOCK=$API_SOCK METRICS=$METRICS FD=$fd"
	VM_PID=
}
guest_use() {
	local FD
	eval "${KEPT[$1]}"
	exec 7>&"$FD"
}

# listening PORT [NAMESPACE]: waits until somebody does.
listening() {
	wait_until "ip netns exec ${2:-net} ss -Hltun | grep -q ':$1 '"
}

# In namespace $NS: "give PORT FILE" is a TCP server that sends the file to the first who connects,
# or to everybody with MANY=,fork; "take PORT FILE" writes what the first sends into the file.
NS=net
MANY=
give() {
	ip netns exec "$NS" timeout 200 socat -U "TCP4-LISTEN:$1,reuseaddr$MANY" "OPEN:$2" &
	listening "$1" "$NS"
}
take() {
	ip netns exec "$NS" timeout 200 socat -u "TCP4-LISTEN:$1,reuseaddr" "CREATE:$2" &
	listening "$1" "$NS"
}

# metric PATH: the sum of a counter over all lines written so far.
metric() {
	ok PUT /actions '{"action_type": "FlushMetrics"}'
	jq -s "[.[].$1 // 0] | add" "$METRICS"
}

# wait_until COMMAND [SECONDS]
wait_until() {
	for _ in $(seq $((${2:-30} * 10))); do
		eval "$1" && return
		sleep 0.1
	done
	fail "never: $1"
}

net_finish() {
	local name
	for name in "${!KEPT[@]}"; do
		guest_use "$name"
		vm_kill
	done
	vm_kill
}
