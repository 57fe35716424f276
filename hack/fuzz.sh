#!/usr/bin/env bash
# Runs each fuzz target of the daemon's module and of kubectl kms' for FUZZTIME. A
# target that finds nothing to run is a failure: it would always pass.
set -euo pipefail
cd "$(dirname "$0")/.."

list() { # directory of a module
	go -C "$1" test -list '^Fuzz' ./... | awk -v dir="$1" '
		/^Fuzz/ { names[++n] = $1 }
		/^ok/ { for (i = 1; i <= n; i++) print dir, $2, names[i]; n = 0 }'
}
targets=$(list . && list cmd/kubectl-kms)
if [ -z "$targets" ]; then
	echo "no fuzz target found" >&2
	exit 1
fi
total=$(wc -l <<<"$targets")
n=0
while read -r dir package name; do
	n=$((n + 1))
	# Without its limit, making one new input smaller may take all of the time.
	echo "== $n of $total: $name in $package"
	go -C "$dir" test -run '^$' -fuzz "^$name\$" -fuzztime "${FUZZTIME:-10s}" -fuzzminimizetime 1s "$package" </dev/null
done <<<"$targets"
