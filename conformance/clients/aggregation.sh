#!/usr/bin/env bash
# The upstream sample-apiserver behind a binary: `aggregation.sh BINARY FOLDER [server|pair]`. Its storage is a real etcd (ETCD, or the one of the path).
#   server  behind `coracle server`
#   pair    behind the drop-in kube-apiserver
# Asked with kubectl: discovery, explain, create, list, watch, patch, delete, who may, and what is told when it is gone.
set -euo pipefail
binary=$(realpath "$1"); work=$(mkdir -p "$2" && cd "$2" && pwd); how=${3:-server}
here=$(cd "$(dirname "$0")" && pwd)
etcd=${ETCD:-$(command -v etcd || true)}
[ -n "$etcd" ] || { echo "skipped: the sample-apiserver needs etcd"; exit 0; }
command -v go >/dev/null || { echo "skipped: the sample-apiserver needs go"; exit 0; }
version=$(cd "$here/go" && go list -m -f '{{.Version}}' k8s.io/apimachinery)

if [ ! -x "$work/sample-apiserver" ]; then
  module=k8s.io/sample-apiserver@$version
  cp -r "$(cd "$work" && go mod download -json "$module" | sed -n 's/.*"Dir": "\(.*\)",/\1/p')" "$work/sample"
  chmod -R u+w "$work/sample"
  (cd "$work/sample" && go build -o "$work/sample-apiserver" .)
fi

lab=$(mktemp -d); pids=()
finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  [ -n "${KEEP:-}" ] && echo "kept: $lab" || rm -rf "$lab"
}
trap finish EXIT
free() { python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])'; }
fail() { echo "FAILED: $*"; tail -n 5 "$lab"/*.log; exit 1; }
until_ok() { for _ in $(seq 150); do if "$@" >/dev/null 2>&1; then return 0; fi; sleep 0.2; done; fail "never: $*"; }
expect() { local want=$1; shift; local got; got=$("$@" 2>&1) || true; case $got in *"$want"*) passed=$((passed + 1)) ;; *) fail "$* said: $got; wanted: $want" ;; esac; }
passed=0

# Authorities and certificates: of the front proxy, and of the sample.
cd "$lab"
authority() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout "$1.key" -out "$1.crt" -subj "/CN=$1" 2>/dev/null; }
sign() { # name subject authority extension
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2" 2>/dev/null
  openssl x509 -req -in "$1.csr" -CA "$3.crt" -CAkey "$3.key" -CAcreateserial -days 2 -out "$1.crt" -extfile <(echo "$4") 2>/dev/null
}
authority front-ca; authority sample-ca; authority client-ca
sign front /CN=front-proxy-client front-ca extendedKeyUsage=clientAuth
sign sample /CN=api.wardle.svc sample-ca 'subjectAltName=DNS:api.wardle.svc,DNS:localhost'
sign admin /O=system:masters/CN=admin client-ca extendedKeyUsage=clientAuth

port=$(free); store=$(free); peer=$(free); sample=$(free)
"$etcd" --data-dir "$lab/etcd" --listen-client-urls "http://127.0.0.1:$store" --advertise-client-urls "http://127.0.0.1:$store" \
  --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" --initial-cluster "default=http://127.0.0.1:$peer" \
  >etcd.log 2>&1 & pids+=($!)
proxy=(--proxy-client-cert-file "$lab/front.crt" --proxy-client-key-file "$lab/front.key")
if [ "$how" = pair ]; then
  openssl ecparam -name prime256v1 -genkey -noout -out sa.key
  ln -s "$binary" kube-apiserver
  CORACLE_TEST=1 ./kube-apiserver --etcd-servers memory --bind-address 127.0.0.1 --secure-port "$port" --cert-dir "$lab/certs" --client-ca-file client-ca.crt \
    --authorization-mode RBAC --service-account-issuer https://kubernetes.default.svc --service-account-key-file sa.key \
    --service-account-signing-key-file sa.key --service-cluster-ip-range 10.0.0.0/24 "${proxy[@]}" ${MORE:-} >server.log 2>&1 & pids+=($!)
  export KUBECONFIG=$lab/admin.kubeconfig
  kubectl config set-cluster c --server "https://127.0.0.1:$port" --insecure-skip-tls-verify >/dev/null
  kubectl config set-credentials a --client-certificate admin.crt --client-key admin.key >/dev/null
  kubectl config set-context c --cluster c --user a >/dev/null; kubectl config use-context c >/dev/null
else
  "$binary" server --data-dir "$lab/data" --listen "127.0.0.1:$port" --agent off --hollow-nodes 0 "${proxy[@]}" ${MORE:-} >server.log 2>&1 & pids+=($!)
  export KUBECONFIG=$lab/data/admin.kubeconfig
fi
server=${pids[-1]}
until_ok kubectl get --raw /readyz

# Who the front proxy is: extension servers read it in kube-system.
if ! kubectl -n kube-system get configmap extension-apiserver-authentication -o yaml 2>/dev/null | grep -q "$(sed -n 2p front-ca.crt)"; then
  kubectl create namespace kube-system >/dev/null 2>&1 || true
  kubectl -n kube-system create configmap extension-apiserver-authentication --from-file requestheader-client-ca-file=front-ca.crt \
    --from-literal 'requestheader-allowed-names=["front-proxy-client"]' --from-literal 'requestheader-username-headers=["X-Remote-User"]' \
    --from-literal 'requestheader-uid-headers=["X-Remote-Uid"]' --from-literal 'requestheader-group-headers=["X-Remote-Group"]' \
    --from-literal 'requestheader-extra-headers-prefix=["X-Remote-Extra-"]' --dry-run=client -o yaml | kubectl apply -f - >/dev/null 2>&1
fi

# The sample asks back as an account of its own: who a token is, and who may.
kubectl create namespace wardle >/dev/null
kubectl -n wardle create serviceaccount apiserver >/dev/null
kubectl create clusterrolebinding wardle:delegator --clusterrole system:auth-delegator --serviceaccount wardle:apiserver >/dev/null
kubectl -n kube-system create rolebinding wardle-reader --role extension-apiserver-authentication-reader --serviceaccount wardle:apiserver >/dev/null
kubectl create clusterrole wardle:server --verb get,list,watch --resource namespaces,mutatingwebhookconfigurations,validatingwebhookconfigurations,validatingadmissionpolicies,validatingadmissionpolicybindings,mutatingadmissionpolicies,mutatingadmissionpolicybindings,flowschemas,prioritylevelconfigurations >/dev/null
kubectl create clusterrolebinding wardle:server --clusterrole wardle:server --serviceaccount wardle:apiserver >/dev/null
token=$(kubectl -n wardle create token apiserver)
kubectl config view --raw --minify | sed '/client-certificate/d; /client-key/d' >sample.kubeconfig
KUBECONFIG=sample.kubeconfig kubectl config set-credentials wardle --token "$token" >/dev/null
KUBECONFIG=sample.kubeconfig kubectl config set-context --current --user wardle >/dev/null
start_sample() {
  "$work/sample-apiserver" --etcd-servers "http://127.0.0.1:$store" --bind-address 127.0.0.1 --secure-port "$sample" --tls-cert-file sample.crt --tls-private-key-file sample.key \
    --kubeconfig sample.kubeconfig --authentication-kubeconfig sample.kubeconfig --authorization-kubeconfig sample.kubeconfig >>sample.log 2>&1 & pids+=($!)
  sample_pid=$!
}
start_sample

# Reached by name: nothing on this machine leads to the addresses of services, nor may endpoints be loopback ones.
service() {
  kubectl apply -f - >/dev/null <<YAML
apiVersion: v1
kind: Service
metadata: {name: api, namespace: wardle}
spec: {type: ExternalName, externalName: localhost}
YAML
}
apiservice() { # how it is recognised
  kubectl apply -f - >/dev/null <<YAML
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1alpha1.wardle.example.com}
spec:
  group: wardle.example.com
  version: v1alpha1
  service: {namespace: wardle, name: api, port: $sample}
  groupPriorityMinimum: 1000
  versionPriority: 15
  $1
YAML
}
available() { kubectl get apiservice v1alpha1.wardle.example.com -o 'jsonpath={.status.conditions[?(@.type=="Available")].status} {.status.conditions[?(@.type=="Available")].reason}'; }
is() { [ "$(available)" = "$1" ]; }

# As kubectl's proxy passes it on: what is answered, word for word.
kubectl proxy --port 0 >proxy.out 2>&1 & pids+=($!)
until_ok grep -q "Starting to serve" proxy.out
at=http://$(sed -n 's/.* on //p' proxy.out)
plain() { curl -s "$at$1"; }
shown() { # the sample's group in aggregated discovery
  curl -s -H 'Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList' "$at/apis" | tr -d ' \n' | grep -o '"name":"wardle.example.com".*'
}

apiservice "caBundle: $(base64 -w0 sample-ca.crt)"
until_ok is "False ServiceNotFound"
expect "service unavailable" plain /apis/wardle.example.com/v1alpha1
expect '"freshness":"Stale"' shown
service
until_ok is "True Passed"
until_ok kubectl get flunders
expect "wardle.example.com/v1alpha1" kubectl api-versions
expect "flunders" kubectl api-resources --api-group wardle.example.com
expect '"freshness":"Current"' shown
expect "wardle.example.com/v1alpha1" kubectl get --raw /apis/wardle.example.com

cat >one.yaml <<YAML
apiVersion: wardle.example.com/v1alpha1
kind: Flunder
metadata: {name: one, namespace: wardle, labels: {a: b}}
spec: {reference: two}
YAML
expect "created" kubectl create -f one.yaml
expect "two" kubectl -n wardle get flunder one -o 'jsonpath={.spec.reference}'
expect "AlreadyExists" kubectl create -f one.yaml
kubectl -n wardle get flunders --watch -o name >watch.out 2>&1 & pids+=($!); watcher=$!
until_ok grep -q flunder.*one watch.out
expect "patched" kubectl -n wardle patch flunder one --type merge -p '{"spec":{"reference":"three"}}'
sed 's/name: one/name: later/' one.yaml | kubectl create -f - >/dev/null
until_ok grep -q later watch.out
kill "$watcher"
expect "KIND:       Flunder" kubectl explain flunder
expect "reference" kubectl explain flunder.spec
expect "serverside-applied" kubectl apply --server-side -f one.yaml --force-conflicts
expect "flunders" sh -c 'kubectl get --raw /openapi/v2 | grep -o "/apis/wardle.example.com/v1alpha1/namespaces/{namespace}/flunders" | head -1'
expect "apis/wardle.example.com/v1alpha1?hash=" kubectl get --raw /openapi/v3

# Who may is asked back here, as the user the front proxy names.
kubectl create clusterrole flunder-reader --verb get,list,watch --resource flunders.wardle.example.com >/dev/null
kubectl -n wardle create rolebinding reader --clusterrole flunder-reader --user jo >/dev/null
expect "wardle/one" sh -c 'kubectl -n wardle get flunders --as jo -o "jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name} {end}" | tr " " "\n" | sort | tr "\n" " "' 
expect "cannot delete resource" kubectl -n wardle delete flunder one --as jo
expect "yes" kubectl -n wardle auth can-i list flunders.wardle.example.com --as jo
expect "no" kubectl -n wardle auth can-i delete flunders.wardle.example.com --as jo
# Straight to the sample, without the front proxy: a token is reviewed here, and may nothing.
expect "forbidden" curl -sk -H "Authorization: Bearer $token" "https://localhost:$sample/apis/wardle.example.com/v1alpha1/flunders"
expect "Unauthorized" curl -sk -H "Authorization: Bearer nonsense" "https://localhost:$sample/apis/wardle.example.com/v1alpha1/flunders"
expect "forbidden" curl -sk -H "X-Remote-User: root" -H "X-Remote-Group: system:masters" "https://localhost:$sample/apis/wardle.example.com/v1alpha1/flunders"
expect "deleted" kubectl -n wardle delete flunder one
expect "NotFound" kubectl -n wardle get flunder one

# Gone, back, believed by nobody, believed blindly.
kill "$sample_pid"
kubectl label apiservice v1alpha1.wardle.example.com looked=again >/dev/null
until_ok is "False FailedDiscoveryCheck"
expect "service unavailable" plain /apis/wardle.example.com/v1alpha1
expect "wardle.example.com/v1alpha1" plain /apis
expect '"freshness":"Stale"' shown
kubectl get namespaces >/dev/null || fail "others are served"
start_sample
until_ok is "True Passed"
apiservice "caBundle: $(base64 -w0 front-ca.crt)"
until_ok is "False FailedDiscoveryCheck"
expect "certificate signed by unknown authority" kubectl get apiservice v1alpha1.wardle.example.com -o yaml
kubectl delete apiservice v1alpha1.wardle.example.com >/dev/null
expect "404 page not found" plain /apis/wardle.example.com/v1alpha1
apiservice "insecureSkipTLSVerify: true"
until_ok is "True Passed"
until_ok kubectl -n wardle get flunder later
expect "later" kubectl -n wardle get flunders
kill -0 "$server" || fail "the server has ended"
echo "sample-apiserver $version behind $how: $passed answers as they should be"
