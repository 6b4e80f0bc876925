# shellcheck shell=bash
# Shared by the scripts of tests/testhost and tests/guest: where things live, how to say that
# something went wrong, and how to get files out of Debian packages without changing the machine.
#
# The caller sets $me (its name in messages) before sourcing this file.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${SPORE_CACHE:-$top/build/cache}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
export LC_ALL=C.UTF-8

say() { echo "${me:?}: $*" >&2; }
die() { say "$*"; exit 1; }

# need PROGRAM PACKAGE ...: complains about all missing programs at once, by Debian package.
need() {
	local missing=()
	while (($# > 1)); do
		command -v "$1" >/dev/null || missing+=("$2")
		shift 2
	done
	((${#missing[@]} == 0)) || die "programs are missing: apt-get install ${missing[*]}"
}

# with_lock FILE COMMAND...: one at a time; the lock dies with its holder. Not to be called where
# bash ignores `set -e` (behind if, ! or before ||): COMMAND would go on after its own errors.
with_lock() {
	local fd
	exec {fd}>"$1"
	flock "$fd"
	"${@:2}"
	exec {fd}>&-
}

# mirror NAME: base URL of the archive NAME (debian or debian-security) in the machine's own apt
# sources, so that a local mirror is used where there is one. Reads both formats of sources.
mirror() {
	local url
	url=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
		grep -E '^(deb |URIs:)' | grep -oE "[a-z+]+://[^ ]*/$1/?( |\$)" | head -n 1 || true)
	url=${url%% *}
	echo "${url:-http://deb.debian.org/$1}"
}

# private_apt PROGRAM ARGS...: apt with sources and lists of its own, below the cache. Everything
# else (proxies, keys, the list of installed packages) is the machine's.
private_apt() {
	local program=$1
	shift
	"$program" -o "Dir::Etc::SourceList=$cache/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o "Dir::State::Lists=$cache/apt/lists" -o "Dir::Cache=$cache/apt/cache" \
		-o APT::Sandbox::User=root "$@"
}

# Package lists are fetched once per cache: which versions there are is decided then, and a cache
# that has all packages needs no network. Delete the cache to take newer versions.
private_apt_lists() {
	local deb='deb' key=/usr/share/keyrings/debian-archive-keyring.gpg debian security
	[[ ! -e $cache/apt/complete ]] || return 0
	mkdir -p "$cache"/apt/{lists,cache/archives}/partial
	[[ ! -e $key ]] || deb="deb [signed-by=$key]"
	debian=$(mirror debian)
	security=$(mirror debian-security)
	cat >"$cache/apt/sources.list" <<-END
		$deb $debian bookworm main
		$deb $debian bookworm-updates main
		$deb $debian bookworm-backports main
		$deb $security bookworm-security main
	END
	say "reading the package lists of $debian"
	private_apt apt-get -qq update >&2
	touch "$cache/apt/complete"
}

download_deb() (
	cd "$1" && private_apt apt-get -qq download "$2" >&2
)

fetch_deb_locked() {
	local suite=$1 package=$2 dir=$3
	private_apt_lists
	download_deb "$dir" "$package${suite:+/$suite}" && return
	# The archive may have dropped a version that our lists still name: read them again.
	rm "$cache/apt/complete"
	private_apt_lists
	download_deb "$dir" "$package${suite:+/$suite}" ||
		die "cannot download the package $package${suite:+ of $suite}"
}

# fetch_deb SUITE PACKAGE: prints the path of the package's .deb in the cache, downloading it when
# it is not there yet. SUITE may be empty: then it is whatever apt prefers on Debian 12.
fetch_deb() {
	local dir=$cache/debs/${1:-bookworm} found
	mkdir -p "$dir"
	found=$(find "$dir" -name "$2_*.deb" | sort -V | tail -n 1)
	if [[ -z $found ]]; then
		with_lock "$cache/apt.lock" fetch_deb_locked "$1" "$2" "$dir"
		found=$(find "$dir" -name "$2_*.deb" | sort -V | tail -n 1)
	fi
	[[ -n $found ]] || die "the package $2 is not in $dir"
	echo "$found"
}

# source_is FILE SUM: it is there, and what it should be.
source_is() {
	[[ -e $1 ]] && echo "$2  $1" | sha256sum --check --status
}

# unpack_source PLACE SUM DIR: the archive of a Debian source package, at PLACE in the pool and with
# that SHA-256, into DIR. It is kept in the cache. Old versions leave the archive one day; they
# stay in the archive of its snapshots.
unpack_source() {
	local place=$1 sum=$2 dir=$3 file=$cache/${1##*/} url
	if ! source_is "$file" "$sum"; then
		for url in "$(mirror debian)" https://snapshot.debian.org/archive/debian/20230701T000000Z; do
			say "downloading ${url%/}/$place"
			rm -f "$file.partial"
			/usr/lib/apt/apt-helper -qq -o APT::Sandbox::User=root \
				download-file "${url%/}/$place" "$file.partial" "SHA256:$sum" >&2 || continue
			! source_is "$file.partial" "$sum" || break
		done
		source_is "$file.partial" "$sum" || die "cannot download ${place##*/}; put it into $cache"
		mv "$file.partial" "$file"
	fi
	rm -rf "$dir"
	mkdir -p "$dir"
	tar -xf "$file" -C "$dir" --strip-components=1
}

# dependency DEB PATTERN: the first dependency of a .deb that matches, as for a metapackage.
dependency() {
	dpkg-deb --field "$1" Depends | tr ',' '\n' | awk '{ print $1 }' | grep -m 1 -E "$2"
}
