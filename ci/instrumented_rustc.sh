#!/usr/bin/env bash
# RUSTC_WORKSPACE_WRAPPER of ci/fuzz.sh: compiles our crates with the counters that libFuzzer reads, as cargo-fuzz sets
# them, and with every check; at level 0, so that a minute of fuzzing is not a matter of minutes of compiling. Crates of
# others are those of the ordinary build.
set -euo pipefail

# Build scripts run by themselves, without libFuzzer.
if [[ " $* " == *" --crate-name build_script_"* ]]; then
  exec "$@"
fi
exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares -Copt-level=0 -Cdebug-assertions=yes -Coverflow-checks=yes
