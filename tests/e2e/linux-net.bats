#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# The network of Linux guests: taps and bridges in network namespaces that the tests make, and
# passt. Each test is a script that tests/testhost/run runs as root where a real KVM is. Booting is
# what takes the time there: one guest serves for many things.

load host
HOST_WITH=(net)
HOST_LIMIT=240
HOST_END=net_finish

# The same on this machine, for what needs no guest. Nothing of it is left behind.
here() {
	[ -w /dev/net/tun ] || skip "no /dev/net/tun on this machine"
	unshare -nm bash -euo pipefail -c "
		mount -t tmpfs tmpfs /run
		source '$BATS_TEST_DIRNAME/vm.bash'
		source '$BATS_TEST_DIRNAME/net.bash'
		trap net_finish EXIT
		$(cat)"
}

@test "tap: ping, TCP and UDP both ways, large frames, MAC and MTU; idle; a spoofed MAC (minimal kernel)" {
	in_host <<<'
		sysctl -qw net.ipv6.conf.all.disable_ipv6=1
		in_net sysctl -qw net.ipv6.conf.all.disable_ipv6=1
		net_tap tap0 10.0.0.1/24
		guest_start minimal "$(interface tap0 ".mtu = 1400")"
		guest "[ \$(cat /sys/class/net/eth0/address) = 06:00:00:00:00:0a ] && [ \$(cat /sys/class/net/eth0/mtu) = 1400 ]"
		guest_up 10.0.0.2/24
		guest "ping -c 2 -W 5 10.0.0.1"
		in_net ping -c 2 -W 5 10.0.0.2
		head -c 20000000 /dev/urandom >/tmp/data
		sum=$(md5sum </tmp/data | cut -d" " -f1)
		give 5001 /tmp/data
		guest "nc 10.0.0.1 5001 </dev/null | md5sum | tee /sum; grep -q $sum /sum" 100
		take 5002 /tmp/back
		guest "dd if=/dev/zero bs=1M count=20 2>/dev/null | nc 10.0.0.1 5002" 100
		wait_until "[ \$(stat -c %s /tmp/back) = 20971520 ]"
		in_net timeout 100 socat -u UDP4-RECV:53 CREATE:/tmp/udp &
		listening 53
		guest "timeout 3 nslookup hello-by-udp 10.0.0.1 || true"
		wait_until "grep -q hello-by-udp /tmp/udp"
		# To the guest: nobody listens there, which is counted.
		echo from-the-host | in_net socat -u - UDP4-SENDTO:10.0.0.2:7
		guest "sleep 1; grep -E \"^Udp: [0-9]+ [1-9]\" /proc/net/snmp"
		large=$(metric "net_eth0.tx_bytes_count") frames=$(metric "net_eth0.tx_packets_count")
		[ $((large / frames)) -gt 2000 ] || fail "frames of $((large / frames)) bytes"
		large=$(metric "net_eth0.rx_bytes_count") frames=$(metric "net_eth0.rx_packets_count")
		[ $((large / frames)) -gt 2000 ] || fail "frames of $((large / frames)) bytes received"
		[ "$(metric net_eth0.rx_fails)" = 0 ]
		[ "$(metric net_eth0.tx_malformed_frames)" = 0 ]

		# Idle: 12 s without one wake-up. ARP settles first, and once a minute metrics are written.
		switches() { sed -n "s/^voluntary_ctxt_switches:[^0-9]*//p" "/proc/$VM_PID/task/$VM_PID/status"; }
		before=none
		wait_until "[ \$before = \$(switches) ] || { before=\$(switches); sleep 12; false; }" 1

		guest "ip link set eth0 down; ip link set eth0 address 06:00:00:00:00:66; ip link set eth0 up; ! ping -c 1 -W 2 10.0.0.1"
		[ "$(metric net_eth0.tx_spoofed_mac_count)" -gt 0 ]
		in_net ip neigh | grep 06:00:00:00:00:66 && fail "it arrived" || true'
}

@test "tap: Debian 6.1 with two vCPUs and three queue pairs" {
	in_host <<<'
		net_tap tap0 10.0.0.1/24 multi_queue
		guest_start debian-6.1 "$(interface tap0 ".queue_pairs = 3")" 2
		guest_up 10.0.0.2/24
		guest "ls -d /sys/class/net/eth0/queues/tx-1"
		guest "ping -c 3 -W 5 10.0.0.1"
		head -c 3000000 /dev/urandom >/tmp/data
		sum=$(md5sum </tmp/data | cut -d" " -f1)
		for i in 1 2 3 4; do
			give $((5000 + i)) /tmp/data
		done
		guest "for i in 1 2 3 4; do nc 10.0.0.1 500\$i </dev/null >/f\$i & done; wait; md5sum /f?; [ \$(md5sum /f? | grep -c $sum) = 4 ]" 100'
}

@test "what cannot be an interface is refused by the request that names it" {
	here <<<'
		net_tap tap0 10.0.0.1/24
		in_net ip tuntap add dev tun0 mode tun
		in_net ip tuntap add dev many0 mode tap multi_queue
		vm_api_in_net
		put() { refused PUT /network-interfaces/eth0 "$1" "$2"; }
		put "$(interface nosuch)" "nosuch"
		put "$(interface lo)" "host_dev_name"
		put "$(interface tun0)" "tun0"
		put "$(interface tap0 ".queue_pairs = 2")" "multi_queue"
		put "$(interface tap0 ".queue_pairs = 9")" "queue_pairs"
		put "$(interface tap0 ".mtu = 60")" "mtu"
		put "$(interface tap0 ".guest_mac = \"06:00:00:00:00\"")" "guest_mac"
		put "$(interface tap0 ".guest_mac = \"07:00:00:00:00:01\"")" "guest_mac"
		put "$(interface tap0 ".passt_socket = \"/tmp/x\"")" "passt_socket"
		put "$(interface tap0 "del(.host_dev_name)")" "host_dev_name"
		put "$(interface tap0 "del(.host_dev_name) | .passt_socket = \"/tmp/none\"")" "passt_socket"
		put "$(interface tap0 "del(.host_dev_name) | .tap_fd = 1")" "tap_fd"
		put "$(interface tap0 ".policy = {egress: [{action: \"Allow\", address: \"10.0.0.1/24\"}]}")" "10.0.0.1/24"
		put "$(interface tap0 ".policy = {egress: [{action: \"Allow\", ports: \"80\"}]}")" "ports"
		put "$(interface tap0 ".policy = {egress: [{action: \"Maybe\"}]}")" "action"
		put "$(interface tap0 ".rewrite = {addresses: [{guest: \"10.0.0.2\", host: \"fd00::1\"}]}")" "IPv4"
		put "$(interface tap0 ".rx_rate_limiter = {bandwidth: {size: 5}}")" "refill_time"
		ok PUT /network-interfaces/eth0 "$(interface many0)"
		ok PUT /network-interfaces/eth0 "$(interface tap0)"
		ok PUT /network-interfaces/eth0 "$(interface tap0)"
		refused PUT /network-interfaces/eth1 "$(interface tap0 ".iface_id = \"eth1\" | .guest_mac = \"06:00:00:00:00:0b\"")" "busy"
		refused PUT /network-interfaces/eth1 "$(interface tap0 ".iface_id = \"eth1\"")" "MAC address is already in use"
		refused PUT /network-interfaces/eth1 "$(interface tap0)" "does not match"
		refused PATCH /network-interfaces/eth0 "{\"iface_id\": \"eth0\"}" "not supported before starting"
		ok GET /vm/config
		[ "$(jq -r ".\"network-interfaces\"[0].host_dev_name" <<<"$BODY")" = tap0 ] || fail "$BODY"'
}

@test "policy: what may pass does, what may not does not; PATCH of rules and limits under traffic; an inherited tap" {
	in_host <<<'
		net_tap tap0 10.0.0.1/24
		in_net ip addr add 10.0.0.9/24 dev tap0
		policy="{addresses: [\"10.0.0.2\"], egress: [
			{action: \"Deny\", address: \"10.0.0.9\"},
			{action: \"Allow\", protocol: \"Tcp\", address: \"10.0.0.0/24\", ports: \"5000-5010\"}]}"
		patch() { $1 PATCH /network-interfaces/eth0 "$(jq -nc "{iface_id: \"eth0\", $2}")" "${3:-}"; }
		allow="policy: {addresses: [\"10.0.0.2\"], egress_default: \"Allow\", ingress: [{action: \"Allow\", protocol: \"Icmp\"}]}"
		SPORE="$TOP/tests/e2e/with-tap tap0 $SPORE"
		guest_start minimal "$(interface tap0 "del(.host_dev_name) | .tap_fd = 9 | .policy = $policy
			| .tx_rate_limiter = {bandwidth: {size: 100000, refill_time: 1000}}")"
		guest_up 10.0.0.2/24
		echo served >/tmp/served
		MANY=,fork
		give 5005 /tmp/served
		give 5011 /tmp/served
		guest "nc -w 5 10.0.0.1 5005 </dev/null | grep served"
		guest "! nc -w 3 10.0.0.1 5011 </dev/null"
		guest "! nc -w 3 10.0.0.9 5005 </dev/null"
		guest "! ping -c 1 -W 2 10.0.0.1"
		in_net ping -c 1 -W 2 10.0.0.2 && fail "the host reached the guest"
		guest "ip addr add 10.0.0.3/24 dev eth0; ! ping -I 10.0.0.3 -c 1 -W 2 10.0.0.1"
		[ "$(metric "net_eth0.policy.egress_rules[0]")" -gt 0 ]
		[ "$(metric "net_eth0.policy.egress_rules[1]")" -gt 0 ]
		[ "$(metric net_eth0.policy.egress_default)" -gt 0 ]
		[ "$(metric net_eth0.policy.egress_not_own)" -gt 0 ]
		[ "$(metric net_eth0.policy.ingress_answers)" -gt 0 ]
		patch ok "$allow"
		guest "nc -w 5 10.0.0.1 5011 </dev/null | grep served"
		guest "ping -c 1 -W 5 10.0.0.1"
		in_net ping -c 1 -W 5 10.0.0.2
		patch refused "policy: {egress: [{action: \"Allow\", address: \"x\"}]}" "egress"
		refused PATCH /network-interfaces/eth7 "{\"iface_id\": \"eth7\"}" "eth7"
		guest "ping -c 1 -W 5 10.0.0.1"

		take 5020 /tmp/slow
		start=$(date +%s%N)
		guest "head -c 600000 /dev/zero | nc 10.0.0.1 5020" 60
		wait_until "[ \$(stat -c %s /tmp/slow) = 600000 ]"
		took=$((($(date +%s%N) - start) / 1000000))
		# A full bucket and five seconds of refill.
		[ $took -gt 4500 ] || fail "600 KB at 100 KB/s took $took ms"
		[ "$(metric net_eth0.tx_rate_limiter_throttled)" -gt 0 ]

		# While a stream flows: a rule stops it, another lets it go on, then the limit goes.
		take 5021 /tmp/stream
		guest_begin "head -c 6000000 /dev/zero | nc 10.0.0.1 5021"
		wait_until "[ \$(stat -c %s /tmp/stream) -gt 100000 ]"
		patch ok "policy: {addresses: [\"10.0.0.2\"], egress: [{action: \"Deny\", protocol: \"Tcp\"}]}"
		sleep 1
		stopped=$(stat -c %s /tmp/stream)
		sleep 2
		[ "$stopped" = "$(stat -c %s /tmp/stream)" ] || fail "denied, and still it arrives"
		[ "$stopped" -lt 6000000 ]
		patch ok "$allow"
		wait_until "[ \$(stat -c %s /tmp/stream) -gt $stopped ]"
		patch ok "tx_rate_limiter: {bandwidth: {size: 0, refill_time: 0}}"
		guest_end 60
		wait_until "[ \$(stat -c %s /tmp/stream) = 6000000 ]"'
}

@test "rewriting: two guests with the same MAC and address share a bridge and talk to one server" {
	in_host <<<'
		in_net ip link add br0 type bridge
		in_net ip addr add 172.16.5.1/24 dev br0
		in_net ip link set br0 up
		map="{addresses: [{guest: \"10.0.0.2\", host: HOST}, {guest: \"10.0.0.1\", host: \"172.16.5.1\"}], host_mac: MAC}"
		for i in 1 2; do
			net_tap tap$i
			in_net ip link set tap$i master br0
			guest_start minimal "$(interface tap$i ".rewrite = $(sed "s/HOST/\"172.16.5.1$i\"/; s/MAC/\"06:00:00:00:01:0$i\"/" <<<"$map")")"
			guest_up 10.0.0.2/24
			guest_keep $i
		done
		in_net timeout 200 socat -d -d -u TCP4-LISTEN:5000,reuseaddr,fork "SYSTEM:grep -a from >>/tmp/server" 2>/tmp/peers &
		listening 5000
		for round in 1 2; do
			for i in 1 2; do
				guest_use $i
				guest "ping -c 2 -W 5 10.0.0.1"
				guest "echo from guest $i | nc -w 5 10.0.0.1 5000"
				guest "head -c 300000 /dev/zero | nc -w 5 10.0.0.1 5000"
			done
		done
		in_net ping -c 1 -W 5 172.16.5.11
		in_net ping -c 1 -W 5 172.16.5.12
		wait_until "grep -q \"from guest 1\" /tmp/server && grep -q \"from guest 2\" /tmp/server"
		grep -q "172.16.5.11" /tmp/peers
		grep -q "172.16.5.12" /tmp/peers
		! grep -q "10.0.0.2" /tmp/peers || { cat /tmp/peers; exit 1; }
		in_net ip neigh show dev br0 | grep "172.16.5.11" | grep -q 06:00:00:00:01:01'
}

# A jail needs root, or another user.
# bats test_tags=outside
@test "passt: a network for a user who is nobody, without a tap" {
	in_host <<<'
		command -v passt >/dev/null || { echo "no passt"; exit 1; }
		# The outside world: a server behind a veth pair.
		ip netns add world
		in_net ip link add out type veth peer name in netns world
		in_net ip addr add 192.0.2.2/24 dev out
		in_net ip link set out up
		in_net ip route add default via 192.0.2.1
		ip -n world addr add 192.0.2.1/24 dev in
		# To passt its gateway is the host itself: another address.
		ip -n world addr add 192.0.2.9/24 dev in
		ip -n world link set in up
		ip -n world link set lo up
		head -c 3000000 /dev/urandom >/tmp/data
		sum=$(md5sum </tmp/data | cut -d" " -f1)
		NS=world
		give 5000 /tmp/data
		take 5001 /tmp/back
		chmod 666 /dev/kvm
		mkdir -m 777 /tmp/nobody
		AS="setpriv --reuid=65534 --regid=65534 --clear-groups"
		in_net $AS passt -f -1 -s /tmp/nobody/passt.sock >/tmp/passt.log 2>&1 &
		wait_until "[ -S /tmp/nobody/passt.sock ]"
		SPORE="$AS $SPORE"
		guest_start minimal "$(interface x "del(.host_dev_name) | .passt_socket = \"/tmp/nobody/passt.sock\"")"
		[ "$(stat -c %u "/proc/$VM_PID")" = 65534 ] || fail "spore is not nobody"
		guest_up 192.0.2.2/24 192.0.2.1
		# passt of Debian 12 does not go on sending to who has closed its own direction.
		guest "mkfifo /open; nc 192.0.2.9 5000 <>/open | md5sum | tee /sum; grep -q $sum /sum" 100
		guest "head -c 2000000 /dev/zero | nc 192.0.2.9 5001" 100
		wait_until "[ \$(stat -c %s /tmp/back) = 2000000 ]"
		[ "$(metric net_eth0.tx_fails)" = 0 ]'
}
