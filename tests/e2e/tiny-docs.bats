#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
#
# The examples of docs/*.md as they are printed, with guests of a few instructions in the place of
# Linux. What needs Linux is in linux-docs.bats and linux-readme.bats.

setup() {
	load ../lib/docs.bash
	TOP=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
	cd "$TOP"
	D=$BATS_TEST_TMPDIR
}

@test "docs: every shell example is run by a test, or says why not" {
	# Whose comment is missing, which test does not exist, and which text is in no block of shell.
	run awk '
		FNR == 1 { note = ""; inside = 0; said = 0 }
		/^```/ && inside { inside = 0; next }
		/^```/ {
			inside = 1
			if ($0 == "```sh" && note !~ /^<!-- (run: tests\/e2e\/[a-z-]+\.bats|not run: .+) -->$/)
				print FILENAME ":" FNR ": an example without a comment that says who runs it"
			next
		}
		!inside && /^    (api|build\/|curl|ip|make|passt|socat|spore|sporectl|sudo|tests\/)[ a-z\/-]/ {
			print FILENAME ":" FNR ": an example that is not in a block of sh"
		}
		/./ { note = $0 }' README.md docs/*.md
	echo "$output"
	[ -z "$output" ]
	[ "$(grep -c '^<!-- run: ' README.md docs/*.md | awk -F: '{ n += $2 } END { print n }')" -ge 12 ]
	for test in $(sed -n 's/^<!-- run: \(.*\) -->/\1/p' README.md docs/*.md | sort -u); do
		grep -q "docs.bash" "$test" || { echo "$test runs no examples"; return 1; }
	done
}

@test "the web page of the API: all of openapi.yaml, no broken link, nothing from elsewhere" {
	run python3 - <<-'END'
		import html.parser, re, yaml
		text = open("build/web/api.html", encoding="utf-8").read()
		api = yaml.safe_load(open("api-sock/openapi.yaml", encoding="utf-8"))
		ids, links, depth = [], [], []
		class Reader(html.parser.HTMLParser):
		    def handle_starttag(self, tag, attributes):
		        known = dict(attributes)
		        ids.append(known.get("id"))
		        links.append(known.get("href", known.get("src")))
		        if tag not in ("meta", "input"):
		            depth.append(tag)
		    def handle_endtag(self, tag):
		        assert depth.pop() == tag, tag
		Reader().feed(text)
		assert not depth, depth
		ids = [i for i in ids if i]
		assert len(ids) == len(set(ids))
		for link in filter(None, links):
		    assert link[0] == "#" and link[1:] in ids, link
		requests = [r for verbs in api["paths"].values() for r in verbs.values()]
		assert len(requests) > 40 and all(r["operationId"] in ids for r in requests)
		for name, schema in api["components"]["schemas"].items():
		    assert name in ids, name
		    section = text[text.index(f'<section id="{name}">'):].split("</section>")[0]
		    for field in schema.get("properties") or {}:
		        assert f"<code>{field}</code>" in section, (name, field)
		print("whole")
	END
	echo "$output"
	[ "$output" = whole ]
}

@test "the report of make bench: a picture of what was measured, nothing of what was not" {
	printf '%s\n' who,round,figure,ns spore,0,clone,2000000 spore,1,clone,3000000 spore,2,clone,2500000 \
		'"<b>",0,clone,9000000' '"<b>",1,clone,9500000' '"<b>",2,clone,9100000' spore,0,pss,204800 >"$D/fresh.csv"
	printf '%s\n' who,round,figure,ns spore,0,memory,20000 spore,0,kvm,400000 spore,0,run,90000 >"$D/start.csv"
	printf '%s\n' who,round,figure,ns spore,0,accept,not-a-number >"$D/ready.csv"
	tests/bench/report.py "$D" | grep -qx "$D/report.html"
	[ "$(grep -o 'class="plot"' "$D/report.html" | wc -l)" = 3 ]
	for words in 'p50 2.5 ms' '<title>kvm: 400 us</title>' '>200 KiB<' 'name="viewport"' '&lt;b&gt;: p50 9.1 ms' \
		'Start-up</h2><p class="note">Not measured'; do
		grep -qF -- "$words" "$D/report.html" || { echo "no '$words'"; return 1; }
	done
	run grep -c '<b>' "$D/report.html"
	[ "$output" = 0 ]
}

# play SCRIPT: runs it as root with /run, /tmp and a network of its own, in a directory where `vmlinux` is a
# guest that waits, and root.ext4 and data.ext4 are disks. In it, `began` waits for spore's socket, and
# `asks` defines what the examples call api and starts a spore with this kernel.
play() {
	[ "$(id -u)" = 0 ] || skip "needs root, for a network of its own"
	[ -w /dev/kvm ] || skip "no /dev/kvm on this machine"
	{
		cat <<-'END'
			set -eu
			mount --make-rprivate /
			mount -t tmpfs tmpfs /run
			mkdir /run/top /run/vm
			mount --bind "$TOP" /run/top
			mount -t tmpfs tmpfs /tmp
			cd /tmp
			export PATH=/run/top/build:$PATH
			cp /run/top/build/guest/idle.elf vmlinux
			truncate -s 1M root.ext4 data.ext4
			ip link set lo up
			trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
			began() { for _ in $(seq 500); do [ ! -S "$1" ] || return 0; sleep 0.02; done; echo "no $1"; return 1; }
			api() { curl -sS --fail-with-body --unix-socket /tmp/vm.sock -X "$1" "http://localhost$2" ${3:+-d "$3"}; }
			asks() {
				spore --api-sock /tmp/vm.sock &
				began /tmp/vm.sock
				api PUT /boot-source '{"kernel_image_path": "vmlinux"}'
			}
		END
		echo "$1"
	} >"$D/play"
	run timeout 60 env TOP="$TOP" unshare --mount --net --pid --fork --kill-child bash "$D/play" 3>&- </dev/null
	cat "$D/play"
	echo "$output"
	[ "$status" = 0 ]
}

@test "docs/api.md: by hand, and the events" {
	play "$(block docs/api.md 'spore --api-sock' | sed '2,$s/^api PUT \/boot/began \/tmp\/vm.sock; &/')
		{ $(block docs/api.md 'curl -sS --no-buffer')
		} >events &
		events=\$!
		until grep -q started events; do sleep 0.02; done
		kill %1; wait \$events
		grep -o '\"event\":\"[a-z]*\"' events"
	[[ $output == *'"state"'*'"Running"'*'"event":"started"'*'"event":"paused"'*'"event":"resumed"'*'"event":"exit"'* ]]
}

@test "docs/api.md: drives and interfaces that come and go" {
	play "ip tuntap add dev tap1 mode tap
		asks
		api PUT /drives/data '{\"drive_id\": \"data\", \"is_root_device\": false, \"placeholder\": true}'
		api PUT /network-interfaces/eth1 '{\"iface_id\": \"eth1\", \"placeholder\": true}'
		api PUT /actions '{\"action_type\": \"InstanceStart\"}'
		$(block docs/api.md 'api PUT /drives/data')
		api GET /vm/config"
	[[ $output == *'data.ext4'*tap1* || $output == *tap1*data.ext4* ]]
}

@test "docs/migration.md: from one process into another" {
	play "spore --api-sock /run/source.sock &
		began /run/source.sock
		to() { curl -sS --fail-with-body --unix-socket /run/\$1.sock -X \"\$2\" \"http://localhost\$3\" \${4:+-d \"\$4\"}; }
		to source PUT /boot-source '{\"kernel_image_path\": \"vmlinux\"}'
		to source PUT /actions '{\"action_type\": \"InstanceStart\"}'
		$(block docs/migration.md 'spore --api-sock' | sed 's/^curl/began \/run\/target.sock; &/')
		$(block docs/migration.md 'curl -sS --unix-socket /run/source.sock')
		wait %1 || echo \"source: \$?\"
		to target GET /"
	[[ $output == *"source: 4"*'"state":"Running"'* ]]
}

@test "docs/mmds.md: the host's side" {
	play "ip tuntap add dev tap0 mode tap
		asks
		$(block docs/mmds.md 'api PUT /network')
		api GET /mmds"
	[[ $output == *ami-2* ]]
}

@test "docs/network.md: a tap" {
	play "asks
		$(block docs/network.md 'ip tuntap')
		api PUT /actions '{\"action_type\": \"InstanceStart\"}'"
}

@test "docs/vsock.md: from the host, and to it" {
	play "asks
		$(block docs/vsock.md 'api PUT /vsock')
		api PUT /actions '{\"action_type\": \"InstanceStart\"}'
		echo CONNECT 9 | $(block docs/vsock.md 'socat -')
		$(block docs/vsock.md 'socat UNIX-LISTEN' | sed 's/  *#.*/ \&/')
		began /run/vm/v.sock_7
		socat - UNIX-CONNECT:/run/vm/v.sock_7"
	[[ $output == *$'\n'*:*:*20[0-9][0-9]* ]]
}

@test "docs/agent.md: commands and files, with an agent on this machine" {
	play "spore-agent --unix ./web & began ./web
		mkdir -p site /run/log; echo page >site/index.html; echo line >/run/log/app.log
		mount --bind /run/log /var/log; mount -t tmpfs tmpfs /srv
		$(block docs/agent.md 'sporectl exec web' | sed 's/\bweb\b/.\/web/')
		cat app.log /srv/site/index.html"
	[[ $output == *Linux*line*page ]]
}
