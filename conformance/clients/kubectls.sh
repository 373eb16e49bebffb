#!/usr/bin/env bash
# The kubectl scenarios with every kubectl at hand: the machine's own and Debian sid's, which is unpacked into a folder and never installed.
# `kubectls.sh BINARY FOLDER`
set -euo pipefail
binary=$(realpath "$1"); work=$(realpath "$2")
root=$(cd "$(dirname "$0")/../.." && pwd)

sid=$work/kubectl-sid
if [ ! -x "$sid/usr/bin/kubectl" ] && command -v apt-get >/dev/null; then
  mkdir -p "$sid/lists/partial" "$sid/cache/archives/partial"
  keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  echo "deb [signed-by=$keyring] http://deb.debian.org/debian sid main" > "$sid/sources.list"
  apt=(-o "Dir::Etc::sourcelist=$sid/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$sid/lists"
    -o "Dir::Cache=$sid/cache" -o Dir::State::status=/dev/null -o APT::Sandbox::User=root)
  if apt-get "${apt[@]}" -qq update && (cd "$sid" && apt-get "${apt[@]}" -qq download kubectl); then
    dpkg-deb -x "$sid"/kubectl_*.deb "$sid"
  else
    echo "skipped: Debian sid's kubectl cannot be had"
  fi
fi

cd "$root"
cargo build --quiet --package coracle-conformance
for kubectl in "$(command -v kubectl)" "$sid/usr/bin/kubectl"; do
  [ -x "$kubectl" ] || continue
  echo "== kubectl scenarios with $("$kubectl" version --client 2>/dev/null | head -1)"
  bin=$(mktemp -d "$work/bin.XXXX")
  ln -s "$(realpath "$kubectl")" "$bin/kubectl"
  PATH=$bin:$PATH target/debug/coracle-conformance run --binary "$binary" --only kubectl
done
