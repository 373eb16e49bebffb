#!/usr/bin/env bash
# Helm's life of a release against a binary: `helm.sh BINARY FOLDER`. FOLDER keeps the built helm.
set -euo pipefail
binary=$(realpath "$1"); work=$2
version=v3.22.0
mkdir -p "$work/bin"
[ -x "$work/bin/helm" ] || GOBIN=$work/bin GOFLAGS=-mod=mod go install "helm.sh/helm/v3/cmd/helm@$version"
data=$(mktemp -d)
"$binary" server --data-dir "$data" --listen 127.0.0.1:0 --kubeconfig "$data/kubeconfig" --store memory --agent off --hollow-nodes 2 >"$data/log" 2>&1 &
server=$!
trap 'kill "$server"; wait "$server" || true; rm -rf "$data"' EXIT
for _ in $(seq 100); do grep -q '^ready' "$data/log" && break; sleep 0.1; done
export KUBECONFIG=$data/kubeconfig HELM_CACHE_HOME=$data/cache HELM_CONFIG_HOME=$data/config HELM_DATA_HOME=$data/data
helm() { "$work/bin/helm" "$@"; }
is() { [ "$1" = "$2" ] || { echo "expected \"$1\", found \"$2\""; exit 1; }; }
phase() { helm status web --output json | sed 's/.*"status":"\([a-z-]*\)".*/\1/'; }
replicas() { kubectl get deployment web -o 'jsonpath={.status.readyReplicas}'; }

helm create "$data/web" >/dev/null
helm install web "$data/web" --wait --timeout 2m --set ingress.enabled=true --set autoscaling.enabled=true >/dev/null
is deployed "$(phase)"
helm upgrade web "$data/web" --wait --timeout 2m --set replicaCount=3 >/dev/null
is 3 "$(replicas)"
helm rollback web 1 --wait --timeout 2m >/dev/null
helm upgrade --install web "$data/web" --dry-run=server --set replicaCount=2 | grep -q 'replicas: 2'
is 3 "$(helm history web --output json | grep -o '"revision":' | wc -l)"
is "Service" "$(helm get manifest web | sed -n 's/^kind: \(Service\)$/\1/p')"
helm uninstall web --wait --timeout 2m >/dev/null
is "" "$(kubectl get deployments,services,ingresses,horizontalpodautoscalers -l app.kubernetes.io/instance=web -o name)"
echo "install, upgrade, rollback, dry run, history and uninstall work ($(helm version --short))"
