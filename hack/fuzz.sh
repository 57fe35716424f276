#!/usr/bin/env bash
# Runs each fuzz target of the module for FUZZTIME. A target that finds nothing
# to run is a failure: it would pass for ever.
set -euo pipefail
cd "$(dirname "$0")/.."

targets=$(go test -list '^Fuzz' ./... | awk '
	/^Fuzz/ { names[++n] = $1 }
	/^ok/ { for (i = 1; i <= n; i++) print $2, names[i]; n = 0 }')
if [ -z "$targets" ]; then
	echo "no fuzz target found" >&2
	exit 1
fi
total=$(wc -l <<<"$targets")
n=0
while read -r package name; do
	n=$((n + 1))
	echo "== $n of $total: $name in $package"
	go test -run '^$' -fuzz "^$name\$" -fuzztime "${FUZZTIME:-10s}" "$package" </dev/null
done <<<"$targets"
