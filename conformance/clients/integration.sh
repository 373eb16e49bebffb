#!/usr/bin/env bash
# Upstream's own integration tests against a binary and a real etcd: `integration.sh BINARY FOLDER [LIST]`. FOLDER keeps what is downloaded
# and built; compiling takes most of an hour on two cores. LIST (default: suites/integration.txt) names packages below
# k8s.io/kubernetes/test/integration, or `apiextensions` for those of k8s.io/apiextensions-apiserver, how many of their tests pass at least
# (subtests not counted), and what is left out. Exits non-zero when fewer pass.
#   KAS=FILE   another kube-apiserver, to see what upstream's makes of being in a process of its own
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); work=$(mkdir -p "$2" && cd "$2" && pwd); list=${3:-$here/suites/integration.txt}
version=v1.37.1; staged=v0.37.1
ln -sf "$(realpath "$1")" "$work/kube-apiserver"
export KAS=${KAS:-$work/kube-apiserver} CORACLE_TEST=1 CGO_ENABLED=0 GOFLAGS="-mod=mod -trimpath" GOTOOLCHAIN=auto GOWORK=off

source_of() {
  local folder=$work/${1//\//-}
  cp -r "$(cd "$work" && go mod download -json "$1@$2" | sed -n 's/.*"Dir": "\(.*\)",/\1/p')" "$folder"
  chmod -R u+w "$folder"
}
kubernetes=$work/k8s.io-kubernetes extensions=$work/k8s.io-apiextensions-apiserver
if [ ! -e "$work/laid" ]; then
  rm -rf "$kubernetes" "$extensions"
  source_of k8s.io/kubernetes $version; source_of k8s.io/apiextensions-apiserver $staged
  rm -rf "$kubernetes"/vendor "$kubernetes"/go.work*
  python3 "$here/upstream/lay.py" "$kubernetes" "$extensions"
  # The module's go.mod means folders that modules do not carry.
  sed -i -E "s#(k8s.io/[a-z-]+) => ./staging/src/k8s.io/[a-z-]+#\1 => \1 $staged#" "$kubernetes/go.mod"
  (cd "$kubernetes" && go mod edit -replace k8s.io/apiextensions-apiserver="$extensions")
  touch "$work/laid"
fi

etcd=$(mktemp -d "$work/etcd.XXXX"); port=$((20000 + RANDOM % 10000))
etcd --data-dir "$etcd" --listen-client-urls http://127.0.0.1:$port --advertise-client-urls http://127.0.0.1:$port \
  --listen-peer-urls http://127.0.0.1:$((port + 1)) --initial-advertise-peer-urls http://127.0.0.1:$((port + 1)) \
  --initial-cluster default=http://127.0.0.1:$((port + 1)) --log-level error >"$work/etcd.log" 2>&1 &
server=$!
trap 'kill $server; wait $server 2>/dev/null || true; rm -rf "$etcd"' EXIT

failed=0
while read -r package expected skip; do
  case $package in ''|\#*) continue ;; esac
  path=k8s.io/kubernetes/test/integration/$package
  if [ "$package" = apiextensions ]; then path=k8s.io/apiextensions-apiserver/test/integration; fi
  log=$work/${package//\//-}.log
  started=$(date +%s)
  (cd "$kubernetes" && KUBE_INTEGRATION_ETCD_URL=http://127.0.0.1:$port \
    go test -count=1 -timeout 30m -vet=off ${skip:+-skip "$skip"} -v "$path") >"$log" 2>&1 || true
  passed=$(grep -c '^--- PASS' "$log" || true); broken=$(grep -c '^--- FAIL' "$log" || true)
  verdict=ok
  if [ "$passed" -lt "$expected" ]; then verdict="EXPECTED $expected, see $log"; failed=1; fi
  printf '%-44s %4s passed %3s failed %4ss  %s\n' "$package" "$passed" "$broken" $(($(date +%s) - started)) "$verdict"
done < "$list"
exit $failed
