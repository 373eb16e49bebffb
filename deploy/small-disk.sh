#!/usr/bin/env bash
# Runs a command beside a file system of 32 MB, one that is read-only, and one for the images of loop devices, named by STORE_SMALL_FS,
# STORE_READ_ONLY_FS and STORE_LOOP_DIR. They are mounted in a mount namespace of their own, so nothing is left behind; who may not mount is told that the tests are skipped.
set -euo pipefail
if ! unshare --mount true 2>/dev/null; then
  echo "skipped: the tests of full and read-only disks (mounting needs root)"
  exit 0
fi
folder=$(mktemp -d)
trap 'rmdir "$folder/small" "$folder/read-only" "$folder/loop" "$folder"' EXIT
mkdir "$folder/small" "$folder/read-only" "$folder/loop"
export STORE_SMALL_FS=$folder/small STORE_READ_ONLY_FS=$folder/read-only STORE_LOOP_DIR=$folder/loop
# shellcheck disable=SC2016 # The inner shell's variables.
unshare --mount bash -ec '
  mount -t tmpfs -o size=32m tmpfs "$STORE_SMALL_FS"
  mount -t tmpfs -o size=1m,ro tmpfs "$STORE_READ_ONLY_FS"
  mount -t tmpfs -o size=200m tmpfs "$STORE_LOOP_DIR"
  exec "$@"
' small-disk "$@"
