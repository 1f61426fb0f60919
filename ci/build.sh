#!/usr/bin/env bash
# Sets up and builds the program and the plugin into target/release: nothing else of the workspace, so that a first run is
# short. What can go on at the same time does: crates that do not need libtorch are built while torch is installed, the
# others while pip installs the packages that only running needs.
set -euo pipefail
cd "$(dirname "$0")/.."

build=(cargo build --release --locked -p lambda-dpo -p lambda-dpo-cdylib)
# Some third-party crates have more features beside the tests. Where those were built, the whole workspace needs no second
# build of them, and of all that depends on them, which would take minutes.
if compgen -G "${CARGO_TARGET_DIR:-target}/release/deps/liblambda_dpo_tests-*.rlib" >/dev/null; then
  build=(cargo build --release --locked --workspace)
fi
if ci/setup.sh --done; then
  exec "${build[@]}"
fi
ci/setup.sh --check

# --keep-going passes over the crates that fail without libtorch; the build below makes them, with their messages. A process
# group of its own, so that cargo's compilers end with it.
set -m
"${build[@]}" --keep-going >/dev/null 2>&1 &
early=$!
set +m
stop_early() { kill -TERM -- "-$early" 2>/dev/null || true; }
trap stop_early EXIT
ci/setup.sh --torch
stop_early
wait "$early" 2>/dev/null || true
trap - EXIT
ci/setup.sh &
rest=$!
"${build[@]}" || { status=$?; wait "$rest" || true; exit "$status"; }
wait "$rest"
