#!/usr/bin/env bash
# Prints the paths of an rpm and of a statically linked busybox, a line each: those of
# $RPM and $BUSYBOX, else those of Debian's packages rpm and busybox-static, unpacked
# with what they need in the cache and never installed. The tests of the rpm package
# install it with the one in a directory whose only shell is the other.
set -euo pipefail

if [ -n "${RPM:-}" ] && [ -n "${BUSYBOX:-}" ]; then printf '%s\n' "$RPM" "$BUSYBOX" && exit; fi
cache=${XDG_CACHE_HOME:-$HOME/.cache}/aws-encryption-provider/rpm
if [ ! -x "$cache/rpm" ]; then
	if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
		echo "no rpm: set RPM to one and BUSYBOX to a static busybox, or install Debian's apt and dpkg to fetch them" >&2
		exit 1
	fi
	mkdir -p "$(dirname "$cache")"
	work=$(mktemp -d "$cache.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	cd "$work"
	# Lists of our own where the system's are missing or old: that needs no root.
	own=(-o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache")
	mkdir -p lists/partial cache/archives/partial x
	# What an installation would bring says which libraries are not here yet.
	fetch() {
		local names
		names=$(apt-get -q -s "$@" install --reinstall --no-install-recommends rpm busybox-static | sed -n 's/^Inst \([^ ]*\) .*/\1/p') &&
			[ -n "$names" ] && apt-get -q "$@" download $names
	}
	if ! fetch >&2 && ! { apt-get -q "${own[@]}" update >&2 && fetch "${own[@]}" >&2; }; then
		echo "no rpm: apt-get download of rpm and busybox-static failed, see above; or set RPM and BUSYBOX" >&2
		exit 1
	fi
	for package in "$work"/*.deb; do dpkg-deb -x "$package" x; done
	# What it needs is found beside it, wherever the cache lies.
	cat >x/rpm <<'SCRIPT'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
LD_LIBRARY_PATH=$(echo "$here"/usr/lib/*-linux-gnu* "$here"/lib/*-linux-gnu* | tr ' ' :) RPM_CONFIGDIR=$here/usr/lib/rpm exec "$here/usr/bin/rpm" "$@"
SCRIPT
	chmod +x x/rpm
	# Some releases have it in /usr/bin.
	[ -x x/bin/busybox ] || ln -s usr/bin/busybox x/busybox
	[ -e x/busybox ] || ln -s bin/busybox x/busybox
	mv -T x "$cache" 2>/dev/null || test -x "$cache/rpm"
fi
printf '%s\n' "$cache/rpm" "$cache/busybox"
