#!/usr/bin/env bash
# Prints the version that Go gives this checkout, nothing where there is no git
# repository to ask. A module below the root asks for it: Go would take that module's
# from tags such as cmd/kubectl-kms/v1.2.3, and a release sets v1.2.3 alone.
set -euo pipefail
cd "$(dirname "$0")/.."

git rev-parse --git-dir >/dev/null 2>&1 || exit 0
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
# For this machine, whatever is built with the answer.
GOOS='' GOARCH='' GOFIPS140=off CGO_ENABLED=0 go build -trimpath -buildvcs=true -o "$dir/version" ./hack/version
"$dir/version"
