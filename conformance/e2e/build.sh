#!/bin/sh
# Builds upstream's end-to-end tests (e2e.test) and ginkgo, which runs them side by side, at the version go.mod names.
# usage: conformance/e2e/build.sh [FOLDER]     default: target/e2e. Needs Go 1.26 or later, 3 GB of memory; takes about 15 minutes on two cores.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/../../target/e2e}
command -v go >/dev/null || { echo "build.sh: go is not in PATH; see https://go.dev/dl" >&2; exit 1; }
mkdir -p "$out"
out=$(cd "$out" && pwd)
# Go completes go.mod and go.sum while it builds: in a copy, so that this folder stays as it is.
mkdir -p "$out/module"
cp "$here/go.mod" "$out/module/"
cd "$out/module"
version=$(sed -n 's/^\tk8s.io\/kubernetes \(v.*\)/\1/p' go.mod)
minor=${version#v1.}
stamp="-X k8s.io/component-base/version.gitVersion=$version -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=${minor%%.*}"
export GOFLAGS="-mod=mod -buildvcs=false"
nice -n 5 go build -ldflags "-s -w" -o "$out/ginkgo" github.com/onsi/ginkgo/v2/ginkgo
nice -n 5 go test -c -ldflags "-s -w $stamp" -o "$out/e2e.test" k8s.io/kubernetes/test/e2e
echo "built $out/e2e.test and $out/ginkgo"
