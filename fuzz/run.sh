#!/bin/bash
# run.sh SECONDS [TARGET...]: runs the fuzz targets, each for so many seconds, and stops at the first that breaks. Needs a nightly
# toolchain and cargo-fuzz (installed here if missing). Seeds are in fuzz/seeds, what was found in fuzz/found.
set -eu
cd "$(dirname "$0")"
seconds=${1:?seconds for each target}
shift
targets=${*:-path json yaml protobuf selectors patches apply structural jsonpath cel}
command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
cargo +nightly fuzz build --fuzz-dir libfuzzer --sanitizer none --debug-assertions any
binary=$(find libfuzzer/target -path '*/release/any' -type f | head -1)
for target in $targets; do
    mkdir -p "libfuzzer/corpus/$target" "libfuzzer/artifacts/$target" "seeds/$target" "found/$target"
    echo "== $target, $seconds s"
    TARGET=$target "$binary" "libfuzzer/corpus/$target" "seeds/$target" "found/$target" -artifact_prefix="libfuzzer/artifacts/$target/" \
        -max_total_time="$seconds" -max_len=8192 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0
done
