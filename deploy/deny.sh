#!/usr/bin/env bash
# Licences, bans and sources of all crates, by cargo-deny; built once when it is not there.
set -euo pipefail
if ! command -v cargo-deny >/dev/null 2>&1; then
  cargo install --locked --quiet --debug cargo-deny@0.20.2
fi
cargo deny --log-level error check bans licenses sources
echo "licences, bans and sources are in order"
