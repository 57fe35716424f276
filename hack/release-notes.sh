#!/usr/bin/env bash
# Prints what CHANGELOG.md says of a version, and fails where it says nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${1:?say a version: make release-notes VERSION=v1.2.3}
notes=$(awk -v version="$version" '/^## / { on = ($2 == version); next } on' CHANGELOG.md)
if [ -z "$notes" ]; then
	echo "CHANGELOG.md has no heading \"## $version\" with text below it: write it in a commit, and tag that one" >&2
	exit 1
fi
echo "$notes"
