#!/usr/bin/env bash
# Other people's clients against a binary: `run.sh BINARY quick|all [FOLDER]`.
#   quick  an operator under controller-runtime's test environment, and client-go
#   all    also the Python client, Helm, the sample-apiserver behind it (needs etcd), both kubectls over the kubectl scenarios, and controller-runtime's own tests, counted against expected.txt
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

echo "== controller-runtime's own tests"
module=sigs.k8s.io/controller-runtime@$(cd "$here/go" && go list -m -f '{{.Version}}' sigs.k8s.io/controller-runtime)
source=$work/${module//\//-}
if [ ! -d "$source" ]; then
  cp -r "$(cd "$here/go" && go mod download -json "$module" | sed -n 's/.*"Dir": "\(.*\)",/\1/p')" "$source"
  chmod -R u+w "$source"
  # Modules carry no execute bits.
  find "$source" -name '*.sh' -exec chmod +x {} +
fi
[ -z "${ASSETS:-}" ] || "$here/flags.sh" "$assets" "$ASSETS"
export KUBEBUILDER_ASSETS=${ASSETS:-$assets}
failed=0
while read -r package expected skip; do
  case $package in ''|\#*) continue ;; esac
  log=$work/$(echo "$package" | tr / -).log
  started=$(date +%s)
  (cd "$source" && go test -count=1 -timeout 15m ${skip:+-skip "$skip"} -v "./pkg/$package" -args -ginkgo.no-color) >"$log" 2>&1 || true
  # Ginkgo tells its sum in one line; plain tests are counted one by one.
  passed=$(sed -n 's/.* \([0-9]*\) Passed | .*/\1/p' "$log" | tail -1)
  broken=$(sed -n 's/.* Passed | \([0-9]*\) Failed.*/\1/p' "$log" | tail -1)
  plain=$(grep -c '^ *--- PASS' "$log" || true); bad=$(grep -c '^ *--- FAIL' "$log" || true)
  [ "${passed:-0}" -gt 0 ] || { passed=$plain; broken=$bad; }
  verdict=ok
  if [ "${passed:-0}" -lt "$expected" ]; then verdict="EXPECTED $expected, see $log"; failed=1; fi
  printf '%-32s %4s passed %3s failed %4ss  %s\n' "$package" "${passed:-0}" "${broken:-0}" $(($(date +%s) - started)) "$verdict"
done < "$here/expected.txt"
exit $failed
