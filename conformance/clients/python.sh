#!/usr/bin/env bash
# The official Python client against a server of its own: `python.sh BINARY FOLDER`. FOLDER/venv keeps what pip installs.
# As root and with busybox the server has a node that runs containers, in a network of its own, and commands are run in them, too.
set -euo pipefail
binary=$(realpath "$1"); work=$(realpath "$2"); inside=${3:-}
here=$(cd "$(dirname "$0")" && pwd)

if [ "$inside" != inside ]; then
  [ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q -r "$here/python/requirements.txt"
  if [ "$(id -u)" = 0 ] && command -v busybox >/dev/null && unshare --net --mount true 2>/dev/null; then
    exec unshare --net --mount "$0" "$binary" "$work" inside
  fi
  echo "skipped: commands in containers need root, busybox and a network namespace"
fi

data=$(mktemp -d "$work/server.XXXX")
nodes=(--agent=off --hollow-nodes=0)
if [ "$inside" = inside ]; then
  ip link set lo up
  # An address to be reached at; nothing is there but this server.
  ip address add 192.0.2.9/32 dev lo
  nodes=(--agent=on --agent-port=0 --node-name=here)
fi
port=$(python3 -c 'import socket;s=socket.socket();s.bind(("127.0.0.1",0));print(s.getsockname()[1])')
"$binary" server "${nodes[@]}" --listen=127.0.0.1:"$port" --data-dir="$data" --kubeconfig="$data/kubeconfig" >"$data/log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null; wait $server || true; rm -rf "$data"' EXIT
export KUBECONFIG=$data/kubeconfig
for _ in $(seq 100); do kubectl get --raw=/readyz >/dev/null 2>&1 && break; sleep 0.1; done
if [ "$inside" = inside ]; then
  export IMAGE=docker.io/library/busybox:1.37
  "$here/../../examples/busybox-image.sh" "$data/busybox.tar" "$IMAGE"
  "$binary" image import "$data/busybox.tar" --data-dir "$data"
  kubectl wait --for=condition=Ready node/here --timeout=30s
fi
"$work/venv/bin/python" -W ignore::ResourceWarning "$here/python/test_client.py"
