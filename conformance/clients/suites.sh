#!/usr/bin/env bash
# Other projects' own tests through the pair that KUBEBUILDER_ASSETS names: `suites.sh FOLDER LIST...`. FOLDER keeps what is downloaded.
# A list names a Go module (`module PATH[@VERSION]`, without version the one our own client tests use), then its packages: how many of their
# tests pass at least, and what is left out (a pattern for go test -skip). Exits non-zero when fewer pass.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); work=$(mkdir -p "$1" && cd "$1" && pwd); shift
export KUBEBUILDER_CONTROLPLANE_START_TIMEOUT=60s KUBEBUILDER_CONTROLPLANE_STOP_TIMEOUT=60s GOTOOLCHAIN=auto

# The module's source, to be written to: tests write beside themselves.
source_of() {
  local module=$1 folder
  case $module in *@*) ;; *) module=$module@$(cd "$here/go" && go list -m -f '{{.Version}}' "$module") ;; esac
  folder=$work/${module//\//-}
  if [ ! -d "$folder" ]; then
    cp -r "$(cd "$work" && go mod download -json "$module" | sed -n 's/.*"Dir": "\(.*\)",/\1/p')" "$folder.new"
    chmod -R u+w "$folder.new"
    # Modules carry no execute bits.
    find "$folder.new" -name '*.sh' -exec chmod +x {} +
    mv "$folder.new" "$folder"
  fi
  echo "$folder"
}

# Ginkgo tells its sum in one line; plain tests are counted one by one.
count() {
  passed=$(sed -n 's/.* \([0-9]*\) Passed | .*/\1/p' "$1" | tail -1)
  broken=$(sed -n 's/.* Passed | \([0-9]*\) Failed.*/\1/p' "$1" | tail -1)
  if [ "${passed:-0}" -eq 0 ]; then
    passed=$(grep -c '^ *--- PASS' "$1" || true); broken=$(grep -c '^ *--- FAIL' "$1" || true)
  fi
}

failed=0
for list in "$@"; do
  while read -r package expected skip; do
    case $package in
      ''|\#*) continue ;;
      module) echo "== $expected"; source=$(source_of "$expected"); continue ;;
    esac
    log=$work/$(basename "$source")-${package//\//-}.log
    started=$(date +%s)
    ginkgo=$(grep -qs ginkgo "$source/$package"/*_test.go && echo -ginkgo.no-color || true)
    (cd "$source" && go test -count=1 -timeout 30m ${skip:+-skip "$skip"} -v "./$package" ${ginkgo:+-args "$ginkgo"}) >"$log" 2>&1 || true
    count "$log"
    verdict=ok
    if [ "${passed:-0}" -lt "$expected" ]; then verdict="EXPECTED $expected, see $log"; failed=1; fi
    printf '%-44s %4s passed %3s failed %4ss  %s\n' "$package" "${passed:-0}" "${broken:-0}" $(($(date +%s) - started)) "$verdict"
  done < "$list"
done
exit $failed
