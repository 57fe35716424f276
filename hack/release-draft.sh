#!/usr/bin/env bash
# Makes a draft of a release of what lies in bin/release, with the changelog's part
# about it. gh is the platform's own client. A person looks at a draft and publishes it.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${1:?say a version: make release-draft VERSION=v1.2.3}
notes=$(hack/release-notes.sh "$version")
if ! [ -s bin/release/SHA256SUMS ]; then
	echo "bin/release has no SHA256SUMS: make release-snapshot writes what a release has" >&2
	exit 1
fi
for file in bin/release/*; do
	case $file in
	*SHA256SUMS | *image-digest.txt | *_"$version"_*) ;;
	*)
		echo "$file is not of $version: is the tag at this commit, and nothing changed since?" >&2
		exit 1
		;;
	esac
done
prerelease=()
case $version in *-*) prerelease=(--prerelease) ;; esac
gh release create "$version" --draft --verify-tag "${prerelease[@]}" --title "$version" --notes-file - bin/release/* <<<"$notes"
