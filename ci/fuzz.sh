#!/usr/bin/env bash
# Runs each fuzz target for FUZZ_SECONDS (60), starting from the seeds in fuzz/seeds and the corpus of earlier runs.
#
# Runs without a sanitizer, because libtorch is built without one. RUSTC_BOOTSTRAP lets a stable compiler instrument for
# coverage.
set -euo pipefail
cd "$(dirname "$0")/.."

ci/setup.sh
if ! cargo fuzz --version >/dev/null 2>&1; then
  echo "cargo-fuzz is missing: cargo install cargo-fuzz" >&2
  exit 1
fi
export RUSTC_BOOTSTRAP=1
# cargo-fuzz sets its own compiler flags, which replace those that give programs their rpath.
export LD_LIBRARY_PATH=$PWD/.libtorch/lib
for target in ${FUZZ_TARGETS:-records chat_template tokenizer table}; do
  mkdir -p "fuzz/corpus/$target"
  # -detect_leaks=0: there is no LeakSanitizer. -rss_limit_mb: libtorch takes 1 GB before the first input.
  cargo fuzz run --fuzz-dir fuzz --sanitizer none "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
    -max_total_time="${FUZZ_SECONDS:-60}" -timeout=20 -rss_limit_mb=6144 -detect_leaks=0 -print_final_stats=1
done
