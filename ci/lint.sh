#!/usr/bin/env bash
# Checks format, clippy and rustdoc (no warnings), the walls of ARCHITECTURE.md, and that generated files are up to
# date. Uses the release profile throughout, so that the tests that run next find build scripts and macros already
# built.
set -euo pipefail
cd "$(dirname "$0")/.."

ci/setup.sh
cargo fmt --all --check
cargo clippy --release --workspace --all-targets --features lambda-dpo-fuzz/targets -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --release --quiet --workspace --no-deps
cargo run --release --quiet -p lambda-dpo-ci -- walls
cargo run --release --quiet -p lambda-dpo-ci -- header --check
cargo run --release --quiet -p lambda-dpo-ci -- layout --check
.venv/bin/python fixtures/demo/make_records.py --check
.venv/bin/python fixtures/words/make_tokenizer.py --check
.venv/bin/python fuzz/make_seeds.py --check
