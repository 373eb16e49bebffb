#!/usr/bin/env bash
# Installs Debian packages that are missing: `needs.sh package[:command] …`. Without root it only says what is missing.
set -euo pipefail
missing=()
for need in "$@"; do
  package=${need%%:*}; command=${need##*:}
  if [ "$package" = "$command" ]; then dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
  else PATH=$PATH:/usr/sbin:/sbin command -v "$command" >/dev/null 2>&1 || missing+=("$package"); fi
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" != 0 ]; then echo "not installed, tests that need them are skipped: ${missing[*]}"; exit 0; fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# Services of packages are not started: the tests start their own.
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
trap 'rm -f /usr/sbin/policy-rc.d' EXIT
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
echo "installed: ${missing[*]}"
