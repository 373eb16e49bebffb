#!/usr/bin/env bash
# Installs Coracle on this machine as a systemd service: deploy/install.sh [path to the binary]. Run again to upgrade; containers keep running.
# Undo: deploy/install.sh --remove (keeps the data), deploy/install.sh --purge (removes it).
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "install.sh: must run as root" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)
root=${DESTDIR:-}
service() { [ -z "$root" ] && [ -d /run/systemd/system ]; }
case "${1:-}" in
--remove | --purge)
  if service; then systemctl disable --now coracle.service || true; fi
  if [ -x "$root/usr/local/bin/coracle" ]; then "$root/usr/local/bin/coracle" stop --all || true; fi
  rm -f "$root/usr/local/bin/coracle" "$root/etc/systemd/system/coracle.service"
  [ "$1" = --purge ] && rm -rf "$root/var/lib/coracle" "$root/etc/coracle"
  if service; then systemctl daemon-reload; fi
  echo "coracle is removed"
  exit 0
  ;;
esac
binary=${1:-$here/../target/release/coracle}
[ -x "$binary" ] || { echo "install.sh: no binary at $binary; run \`make build\` or name it" >&2; exit 1; }
"$binary" version >/dev/null || { echo "install.sh: $binary does not run on this machine" >&2; exit 1; }
install -D -m 0755 "$binary" "$root/usr/local/bin/coracle.new"
mv "$root/usr/local/bin/coracle.new" "$root/usr/local/bin/coracle"
install -D -m 0644 "$here/coracle.service" "$root/etc/systemd/system/coracle.service"
[ -e "$root/etc/coracle/config.yaml" ] || install -D -m 0600 "$here/config.yaml" "$root/etc/coracle/config.yaml"
if service; then
  systemctl daemon-reload
  systemctl enable coracle.service
  systemctl restart coracle.service
  for _ in $(seq 100); do [ -s /var/lib/coracle/admin.kubeconfig ] && break; sleep 0.1; done
fi
echo "export KUBECONFIG=/var/lib/coracle/admin.kubeconfig"
