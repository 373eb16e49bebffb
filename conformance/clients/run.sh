#!/usr/bin/env bash
# Other people's clients against a binary: `run.sh BINARY quick|all|operators [FOLDER]`.
#   quick  an operator under controller-runtime's test environment, and client-go
#   all    also the Python client, Helm, the sample-apiserver behind it (needs etcd), both kubectls over the kubectl scenarios, and controller-runtime's own tests, counted against suites/controller-runtime.txt
#   operators  the tests of operators, counted against the lists in suites/operators; compiling them takes hours on two cores
# FOLDER keeps what was downloaded and built (default: a temporary one that goes away). ASSETS names a folder with another kube-apiserver
# and etcd to run controller-runtime's tests with, to see what upstream's pair makes of them; our flags are then compared with theirs.
set -euo pipefail
binary=$(realpath "$1"); what=${2:-quick}
here=$(cd "$(dirname "$0")" && pwd); root=$(cd "$here/../.." && pwd)
command -v go >/dev/null || { echo "skipped: the client tests need go"; exit 0; }
if [ $# -ge 3 ]; then work=$(mkdir -p "$3" && cd "$3" && pwd); else work=$(mktemp -d); trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT; fi

# The folder of two links that KUBEBUILDER_ASSETS names.
assets=$work/assets
mkdir -p "$assets"
ln -sf "$binary" "$assets/kube-apiserver"
ln -sf "$binary" "$assets/etcd"
ln -sf "$(command -v kubectl)" "$assets/kubectl"
export KUBEBUILDER_ASSETS=$assets CORACLE_TEST=1

if [ "$what" = operators ]; then
  KUBEBUILDER_ASSETS=${ASSETS:-$assets} "$here/suites.sh" "$work" "$here"/suites/operators/*.txt
  exit
fi

echo "== an operator under envtest, and client-go"
(cd "$here/go" && go vet ./... && go test -count=1 ./...)
[ "$what" = quick ] && exit 0

echo "== the Python client"
"$here/python.sh" "$binary" "$work"

"$here/kubectls.sh" "$binary" "$work"

echo "== Helm"
"$here/helm.sh" "$binary" "$work"

echo "== the sample-apiserver"
for how in server pair; do "$here/aggregation.sh" "$binary" "$work/sample" "$how"; done

[ -z "${ASSETS:-}" ] || "$here/flags.sh" "$assets" "$ASSETS"
KUBEBUILDER_ASSETS=${ASSETS:-$assets} "$here/suites.sh" "$work" "$here/suites/controller-runtime.txt"
