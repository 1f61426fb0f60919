#!/usr/bin/env bash
# What must hold before any test is worth running: format, clippy without a warning, the walls, generated files.
set -euo pipefail
cd "$(dirname "$0")/.."

ci/setup.sh
cargo fmt --all --check
cargo clippy --workspace --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps
cargo run --quiet -p lambda-dpo-ci -- walls
cargo run --quiet -p lambda-dpo-ci -- header --check
cargo run --quiet -p lambda-dpo-ci -- layout --check
.venv/bin/python fixtures/demo/make_records.py --check
.venv/bin/python fixtures/words/make_tokenizer.py --check
