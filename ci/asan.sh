#!/usr/bin/env bash
# Runs the tests of the plugin's contract, those of misuse among them, with AddressSanitizer in our crates, and replays what
# the fuzz target of the table has found worth keeping. A build of its own, in target/<host>: minutes the first time, and a
# gigabyte. libtorch is not instrumented, but what it allocates is watched.
#
# RUSTC_BOOTSTRAP lets a stable compiler instrument.
set -euo pipefail
cd "$(dirname "$0")/.."

ci/setup.sh
host=$(rustc -vV | sed -n 's/^host: //p')
# For the tests' own cargo, too. The library finds the sanitizer's run time in the program that loads it, which must
# therefore export it.
export CARGO_BUILD_TARGET=$host RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address -Clink-arg=-Wl,--export-dynamic"
# These flags replace those that give programs their rpath.
export LD_LIBRARY_PATH=$PWD/.libtorch/lib
# Leaks are counted by the tests of memory, and by valgrind. A tensor that is too large for memory must be an error of
# libtorch's, not of the sanitizer.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1

cargo build --release --locked --workspace
# Not the tests that measure memory, which is the sanitizer's here, nor programs in C, which have no sanitizer.
cargo test --release --locked --workspace --test contract -- --skip memory:: --skip consumer::
cargo build --release --locked --workspace --features lambda-dpo-fuzz/targets --bin fuzz_table
find fuzz/seeds/table fuzz/corpus/table -type f -print0 2>/dev/null |
  xargs -0 -n 2000 "${CARGO_TARGET_DIR:-target}/$host/release/fuzz_table" -timeout=60 -rss_limit_mb=8192
