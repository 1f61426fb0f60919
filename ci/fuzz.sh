#!/usr/bin/env bash
# Runs each fuzz target for FUZZ_SECONDS (60), as many at a time as there are cores (FUZZ_JOBS), from the seeds in
# fuzz/seeds and the corpus that earlier runs have found (fuzz/corpora, unpacked to fuzz/corpus). Fails on a finding, whose
# input is kept in fuzz/artifacts.
#
#   ci/fuzz.sh [target …]           these targets: records chat_template tokenizer table safetensors config http
#   ci/fuzz.sh --pack [target …]    fuzzes nothing; packs what fuzz/corpus has that reaches more code into fuzz/corpora
#
# Needs no nightly compiler, and runs without a sanitizer, because libtorch is built without one. The crates of others are
# not instrumented: they are those of the ordinary build, so that this one takes minutes less.
set -euo pipefail
cd "$(dirname "$0")/.."

job=fuzz
if [ "${1:-}" = --pack ]; then
  job=pack
  shift
fi
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
  targets=(records chat_template tokenizer table safetensors config http)
fi
# The host's targets load the library as every host does.
ci/build.sh
RUSTC_WORKSPACE_WRAPPER=$PWD/ci/instrumented_rustc.sh \
  cargo build --release --locked --workspace --features lambda-dpo-fuzz/targets "${targets[@]/#/--bin=fuzz_}"

release=${CARGO_TARGET_DIR:-target}/release
export LAMBDA_DPO_PLUGIN=$(realpath "$release")/liblambda_dpo.so HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
seconds=${FUZZ_SECONDS:-60}

unpack() {
  mkdir -p "fuzz/corpus/$1" "fuzz/artifacts/$1"
  if [ -f "fuzz/corpora/$1.tar.gz" ]; then
    tar -xzf "fuzz/corpora/$1.tar.gz" -C "fuzz/corpus/$1"
  fi
}

# Fuzzes one target; prints a line of what was tried, or the end of its log.
fuzz() {
  local target=$1 log
  unpack "$target"
  log=fuzz/artifacts/$target/log.txt
  # -detect_leaks=0: there is no LeakSanitizer. -rss_limit_mb: libtorch takes memory before the first input.
  if "$release/fuzz_$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -max_total_time="$seconds" -timeout=20 \
    -rss_limit_mb=2048 -detect_leaks=0 -print_final_stats=1 -artifact_prefix="fuzz/artifacts/$target/" >"$log" 2>&1; then
    local tried covered
    tried=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
    echo "$target: $tried inputs in $seconds s, $covered places of the code reached, no finding"
  else
    tail -40 "$log"
    echo "$target: a finding; its input is in fuzz/artifacts/$target" >&2
    return 1
  fi
}

# Packs the smallest part of a corpus that reaches as much code; equal inputs give an equal file.
pack() {
  local target=$1 kept
  unpack "$target"
  kept=$(mktemp -d)
  "$release/fuzz_$target" -merge=1 -rss_limit_mb=2048 "$kept" "fuzz/corpus/$target" "fuzz/seeds/$target" \
    >"fuzz/artifacts/$target/log.txt" 2>&1
  mkdir -p fuzz/corpora
  (cd "$kept" && tar --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=644 -cf - -- *) |
    gzip -9n >"fuzz/corpora/$target.tar.gz"
  echo "$target: $(find "$kept" -type f | wc -l) inputs"
  rm -rf "$kept"
}
export -f unpack fuzz pack
export release seconds
printf '%s\n' "${targets[@]}" | xargs -P "${FUZZ_JOBS:-$(nproc)}" -I{} bash -c "set -euo pipefail; $job {}"
