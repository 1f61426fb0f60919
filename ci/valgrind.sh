#!/usr/bin/env bash
# Runs the C example and the misuse tests under valgrind. Fails on any invalid access, use of uninitialised memory or
# definite leak that tests/valgrind.supp does not attribute to libtorch or a runtime. Takes a few minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

ci/setup.sh
cargo build --release --locked --workspace
tests=$(cargo test --release --locked --workspace --test contract --no-run --message-format=json |
  sed -n 's/.*"name":"contract".*"executable":"\([^"]*\)".*/\1/p')
target=${CARGO_TARGET_DIR:-target}
"${CC:-cc}" -std=c11 -g -I plugin/include plugin/examples/train_toy.c -o "$target/train_toy" -ldl

checked() {
  # One thread: valgrind runs one at a time anyway, and the threads of OpenMP's pool spin while they wait.
  OMP_NUM_THREADS=1 RAYON_NUM_THREADS=1 valgrind --error-exitcode=1 --leak-check=full --errors-for-leak-kinds=definite \
    --show-leak-kinds=definite --num-callers=40 --suppressions=tests/valgrind.supp "$@"
}

checked "$target/train_toy" "$target/release/liblambda_dpo.so" fixtures/words
# The tests that pass invalid arguments. Property tests, with thousands of calls each, are left out.
checked "$tests" --test-threads=1 misuse:: nulls:: sizes:: handles:: tensors:: versions:: arrow:: losses::a_context_ \
  threads::contexts_ --skip streams_of --skip files_to_streams
