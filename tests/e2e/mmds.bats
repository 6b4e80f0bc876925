#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# The metadata service as a Linux guest sees it. Each test is a script that tests/testhost/run runs
# as root where a real KVM is.

load host
HOST_KERNELS=(minimal)
HOST_IMAGES=(initrd-minimal.cpio)
HOST_WITH=(net)
HOST_LIMIT=300
HOST_END=net_finish

# metadata VERSION: configures it on eth0.
HOST_BEGIN=$(cat <<'END'
metadata() {
	ok PUT /mmds/config "{\"version\": \"$1\", \"network_interfaces\": [\"eth0\"]}"
	ok PUT /mmds '{"latest": {"meta-data": {"ami-id": "ami-1", "tags": {"a": "b"}}}}'
}

# A route in the guest and a client that can do more than wget: m METHOD PATH [HEADER].
client() {
	guest_up 10.0.0.2/24
	guest 'ip route add 169.254.169.254 dev eth0'
	guest 'm() { printf "%s %s HTTP/1.1\r\nConnection: close\r\n%s\r\n\r\n" "$1" "$2" "${3:-X-None: 1}" | nc 169.254.169.254 80; }'
	guest 'status() { m "$@" | head -n 1 | cut -d " " -f 2; }'
	guest 'token() { m PUT /latest/api/token "X-metadata-token-ttl-seconds: $1" | tail -n 1; }'
}
END
)

@test "version 1: wget, listings, JSON; other traffic passes; an interface without it has none" {
	in_host <<'END'
		net_tap tap0 10.0.0.1/24
		net_tap tap1 10.0.1.1/24
		more() {
			ok PUT /network-interfaces/eth1 "$(interface tap1 '.iface_id = "eth1" | .guest_mac = "06:00:00:00:00:0b"')"
			metadata V1
		}
		BEFORE_START=more guest_start minimal "$(interface tap0 '.policy = {addresses: ["10.0.0.2"], egress: [{action: "Allow", address: "10.0.0.1/32"}], ingress: [{action: "Allow"}]}')"
		client
		guest '[ "$(wget -qO- http://169.254.169.254/latest/meta-data/ami-id)" = ami-1 ]'
		guest '[ "$(wget -qO- http://169.254.169.254/latest/meta-data/ | tr "\n" ,)" = ami-id,tags/ ]'
		guest '[ "$(wget -qO- --header "Accept: application/json" http://169.254.169.254/latest/meta-data/tags)" = "{\"a\":\"b\"}" ]'
		guest '[ $(status GET /nope) = 404 ]'
		guest '[ $(status POST /latest) = 405 ]'
		guest 'ping -c 1 -W 5 10.0.0.1'
		[ "$(metric mmds.rx_no_token)" -gt 3 ]
		[ "$(metric mmds.connections_created)" = "$(metric mmds.connections_destroyed)" ]
		taken=$(metric mmds.rx_accepted)
		guest 'ip addr add 10.0.1.2/24 dev eth1; ip link set eth1 up; ip route del 169.254.169.254; ip route add 169.254.169.254 dev eth1'
		guest '! timeout 4 wget -qO- http://169.254.169.254/latest'
		[ "$(metric mmds.rx_accepted)" = "$taken" ] || fail "an interface that was not configured"
		[ "$(metric net_eth1.tx_packets_count)" -gt 0 ]
END
}

@test "version 2: tokens missing, wrong, expired; the host changes the data; idle again afterwards" {
	in_host <<'END'
		net_tap tap0 10.0.0.1/24
		sysctl -qw net.ipv6.conf.all.disable_ipv6=1
		in_net sysctl -qw net.ipv6.conf.all.disable_ipv6=1
		v2() { metadata V2; }
		BEFORE_START=v2 guest_start minimal "$(interface tap0)"
		client
		guest '[ $(status GET /latest/meta-data/ami-id) = 401 ]'
		guest '[ $(status GET /latest/meta-data/ami-id "X-metadata-token: abc") = 401 ]'
		guest '[ $(status PUT /latest/api/token "X-metadata-token-ttl-seconds: 21601") = 400 ]'
		guest 't=$(token 600); [ ${#t} = 64 ]'
		guest '[ "$(wget -qO- --header "X-metadata-token: $t" http://169.254.169.254/latest/meta-data/ami-id)" = ami-1 ]'
		guest 's=$(token 1); sleep 2; [ $(status GET /latest "X-metadata-token: $s") = 401 ]'
		guest '[ $(status GET /latest "X-metadata-token: $t") = 200 ]'
		ok PATCH /mmds '{"latest": {"meta-data": {"ami-id": "ami-2", "tags": null}}}'
		guest '[ "$(m GET /latest/meta-data "X-metadata-token: $t" | tail -n 1)" = ami-id ]'
		guest '[ "$(m GET /latest/meta-data/ami-id "X-metadata-token: $t" | tail -n 1)" = ami-2 ]'
		big=$(head -c 30000 /dev/urandom | base64 -w 0)
		ok PUT /mmds "{\"big\": \"$big\"}"
		sum=$(printf %s "$big" | md5sum | cut -d" " -f1)
		guest 'for i in 1 2 3; do m GET /big "X-metadata-token: $t" | tail -n 1 | tee /big | md5sum; done | tee /sum'
		guest "[ \$(grep -c $sum /sum) = 3 ]"
		guest "[ \$(wc -c </big) = 40000 ]"
		[ "$(metric mmds.rx_no_token)" = 1 ]
		[ "$(metric mmds.rx_invalid_token)" = 2 ]
		[ "$(metric net_eth0.tap_write_fails)" = 0 ]
		sleep 10 # the last connection comes to rest
		switches() { sed -n "s/^voluntary_ctxt_switches:[^0-9]*//p" "/proc/$VM_PID/task/$VM_PID/status"; }
		before=$(switches)
		sleep 5
		[ "$before" = "$(switches)" ] || fail "$(($(switches) - before)) wake-ups"
END
}

@test "a clone has the configuration, no data, and takes no token of its source" {
	in_host <<'END'
		net_tap tap0 10.0.0.1/24
		v2() { metadata V2; }
		BEFORE_START=v2 guest_start minimal "$(interface tap0)"
		client
		guest 't=$(token 600); [ $(status GET /latest "X-metadata-token: $t") = 200 ]'
		ok PATCH /vm '{"state": "Paused"}'
		ok PUT /snapshot/create '{"snapshot_path": "/tmp/state", "mem_file_path": "/tmp/mem"}'
		vm_kill
		vm_api_in_net
		ok PUT /snapshot/load '{"snapshot_path": "/tmp/state", "mem_backend": {"backend_type": "File", "backend_path": "/tmp/mem"}, "resume_vm": true}'
		ok GET /vm/config
		jq -e '.["mmds-config"] == {version: "V2", network_interfaces: ["eth0"], ipv4_address: "169.254.169.254", imds_compat: false}' <<<"$BODY"
		ok GET /mmds
		[ "$BODY" = "{}" ]
		refused PATCH /mmds '{}' "not initialized"
		ok PUT /mmds '{"latest": "of the clone"}'
		guest '[ $(status GET /latest "X-metadata-token: $t") = 401 ]'
		guest 't=$(token 600); [ "$(m GET /latest "X-metadata-token: $t" | tail -n 1)" = "of the clone" ]'
END
}
