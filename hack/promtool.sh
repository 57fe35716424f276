#!/usr/bin/env bash
# Prints the path of a promtool: that of $PROMTOOL or of $PATH, else that of
# Debian's package prometheus, unpacked in the cache and never installed, since
# an installation starts a service.
set -euo pipefail

if [ -n "${PROMTOOL:-}" ]; then echo "$PROMTOOL" && exit; fi
if command -v promtool; then exit; fi
cache=${XDG_CACHE_HOME:-$HOME/.cache}/aws-encryption-provider/prometheus
if [ ! -x "$cache/usr/bin/promtool" ]; then
	if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
		echo "no promtool: set PROMTOOL to one, or install Debian's apt and dpkg to fetch it" >&2
		exit 1
	fi
	mkdir -p "$(dirname "$cache")"
	work=$(mktemp -d "$cache.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	cd "$work"
	# Where the system's lists are missing or old, lists of our own: that needs no root.
	own=(-o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache")
	mkdir -p lists/partial cache/archives/partial
	if ! apt-get -q download prometheus >&2 &&
		! { apt-get -q "${own[@]}" update >&2 && apt-get -q "${own[@]}" download prometheus >&2; }; then
		echo "no promtool: apt-get download prometheus failed, see above; or set PROMTOOL to one" >&2
		exit 1
	fi
	dpkg-deb -x "$work"/*.deb "$work/x"
	mv -T "$work/x" "$cache" 2>/dev/null || test -x "$cache/usr/bin/promtool"
fi
echo "$cache/usr/bin/promtool"
